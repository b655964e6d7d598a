"""``regcore register-all`` and ``regcore report``: many pairs at a time, and the page about them."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from RegCore.cli.arguments import add_file, settings_of, shared
from RegCore.cli.pair_arguments import DOUBTFUL, OPTIONAL, add_pair_options
from RegCore.cli.place import add_place, place_of
from RegCore.cli.signals import stopped_by_signals
from RegCore.progress import Cancelled, duration
from RegCore.registration import METHODS
from RegCore.space.geometry import InputError

SOME_FAILED = 4
"""Exit code where some pairs could not be registered."""
MOST_TOLD = 20  # failed and doubtful pairs that are named at the end
LINE_EVERY = 15.0  # seconds between two lines of progress where they are not written over


def add_studies(commands) -> None:
    """Add both commands to the subparsers of ``regcore``."""
    _add_register_all(commands)
    parser = commands.add_parser(
        "report",
        help="write a table and a page about all results in a folder",
        description="Writes results.csv and report.html about every result of regcore register and "
        "register-all below a folder: all figures, worst first, with a small picture of each pair.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with results, however deep")
    parser.set_defaults(run=_run_report)


def _add_register_all(commands) -> None:
    parser = commands.add_parser(
        "register-all",
        parents=[shared(plugin=True, seed=True)],
        help="register many pairs, on all processors or on a cluster",
        description="Registers the pairs of a manifest (CSV with the columns id, fixed, moving and, if "
        "wanted, fixed_seg, moving_seg, fixed_mask, moving_mask, landmarks, initial, method, settings), "
        "or of folders. Each pair gets a folder pairs/ID with the files of regcore register; results.csv and "
        "report.html are about all. Called again, it does what is missing or has changed. Exit code 4 means "
        "that some pairs failed.",
    )
    parser.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST", help="CSV, a row a pair")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    group = parser.add_argument_group("without a manifest")
    add_file(group, "--fixed", help="image that stays, for --moving-dir or --bids")
    add_file(group, "--moving-dir", metavar="DIR", help="folder of the images that are brought to --fixed")
    add_file(group, "--all-pairs", metavar="DIR", help="folder of images, every two of which are registered")
    what = "BIDS data set: each subject's images to its first one, or all to --fixed"
    add_file(group, "--bids", metavar="DIR", help=what)
    group.add_argument("--suffix", metavar="NAME", help="of the images of --bids, e.g. T1w")
    add_pair_options(parser.add_argument_group("for every pair", "unless the manifest says something else"))
    add_place(parser, "processes on this machine, by default one a processor, if there is memory for them")
    parser.add_argument("--retry", action="store_true", help="do again what failed before")
    parser.set_defaults(run=_run_register_all)


def _run_register_all(arguments: argparse.Namespace) -> int:
    from RegCore.studies.study import register_all

    place = place_of(arguments)
    rows = _rows(arguments)
    line = StudyLine(arguments.quiet)
    with stopped_by_signals() as stopping:

        def progress(fraction: float, text: str, values: dict) -> None:
            line(fraction, text, values)
            if stopping:
                raise Cancelled

        options = {name: getattr(arguments, name) for name in ("workers", "device", "retry")}
        try:
            found = register_all(
                rows, arguments.out, place=place, **options, progress=progress, tell=line.tell
            )
        except (Cancelled, KeyboardInterrupt):
            line.end()
            sentence = "stopped; what is done is kept, and the same command goes on from there"
            print(f"{arguments.out}: {sentence}", file=sys.stderr)
            return 130
        finally:
            line.end()
    return _closing_words(arguments, found, len(rows))


def _closing_words(arguments: argparse.Namespace, found: list[dict], total: int) -> int:
    """Tell what failed and what is doubtful; return the exit code."""
    bad = [summary for summary in found if summary["status"] != "done"]
    doubtful = [summary for summary in found if summary["verdict"] == "doubtful"]
    lines = [f"{summary['id']}: {summary['error']}" for summary in bad]
    lines += [f"{summary['id']}: {summary['notes']}" for summary in doubtful]
    for line in lines[:MOST_TOLD]:
        print(line, file=sys.stderr)
    if len(lines) > MOST_TOLD:
        print(f"… and {len(lines) - MOST_TOLD} more, see results.csv", file=sys.stderr)
    if not arguments.quiet:
        unsure = f", {len(doubtful)} of them doubtful" if doubtful else ""
        print(
            f"{arguments.out}: {len(found) - len(bad)} of {total} pairs registered{unsure}; see report.html"
        )
    return SOME_FAILED if bad else DOUBTFUL if doubtful and arguments.strict else 0


def _rows(arguments: argparse.Namespace) -> list:
    """The rows that the arguments name."""
    from RegCore.studies.manifest import all_pairs, all_to_one, bids_rows, read_manifest
    from RegCore.studies.rows import Row

    ways = {name: getattr(arguments, name) for name in ("manifest", "moving_dir", "all_pairs", "bids")}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise InputError(
            "what is to be registered? give one of manifest, --moving-dir, --all-pairs or --bids"
        )
    if (given[0] == "moving_dir") > (arguments.fixed is not None):
        raise InputError("argument --moving-dir: needs --fixed, the image that stays")
    if arguments.fixed is not None and given[0] in ("manifest", "all_pairs"):
        raise InputError("argument --fixed: goes with --moving-dir or --bids")
    if (given[0] == "bids") != (arguments.suffix is not None):
        raise InputError("argument --suffix: goes with --bids, which needs it, e.g. --suffix T1w")
    common = _common(arguments, Row)
    if arguments.manifest is not None:
        return read_manifest(arguments.manifest, common, METHODS)
    if arguments.moving_dir is not None:
        return all_to_one(arguments.fixed.absolute(), arguments.moving_dir.absolute(), common)
    if arguments.all_pairs is not None:
        return all_pairs(arguments.all_pairs.absolute(), common)
    fixed = arguments.fixed and arguments.fixed.absolute()
    return bids_rows(arguments.bids.absolute(), arguments.suffix, fixed, common)


def _common(arguments: argparse.Namespace, row: type):
    """A row with what holds for all of them."""
    from RegCore.space.names import is_path

    files: dict = {}
    for role in OPTIONAL:
        given = getattr(arguments, role)
        several = given if isinstance(given, list) else [] if given is None else [given]
        paths = [path if str(path) == "centres" else _there(path, role) for path in several]
        if role == "landmarks" and len(paths) > 2:
            raise InputError(f"argument --landmarks: one file or two were expected, not {len(paths)}")
        if paths:
            files[role] = paths if role == "landmarks" or len(paths) > 1 else paths[0]
    method = str(Path(arguments.method).absolute()) if is_path(arguments.method) else arguments.method
    settings = settings_of(arguments.settings, "argument --settings") or {}
    plugins = tuple(_there(path, "plugin") for path in arguments.plugin)
    common = row(id="", files=files, method=method, settings=settings, seed=arguments.seed)
    return replace(common, series=tuple(arguments.series or ()), plugins=plugins)


def _there(path: Path, option: str) -> Path:
    if not path.exists():
        raise InputError(f"argument --{option.replace('_', '-')}: there is no file {path}")
    return path.absolute()


def _run_report(arguments: argparse.Namespace) -> None:
    from RegCore.studies.report import PAGE, TABLE, report_on

    count = report_on(arguments.folder)
    print(f"{arguments.folder}: {TABLE} and {PAGE} are about {count} results")


class StudyLine:
    """Progress of many pairs: one line that is written over on a terminal, else a line now and then."""

    def __init__(self, quiet: bool):
        self.quiet, self.stream = quiet, sys.stderr
        self.terminal = self.stream.isatty()
        self._last = time.monotonic()

    def tell(self, sentence: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.end()
            self.stream.write(f"{sentence}\n")
            self.stream.flush()

    def __call__(self, fraction: float, text: str, values: dict) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        parts = [f"{fraction:4.0%}  {text}", f"{duration(values['seconds_left'])} left"]
        parts += [f"{values['failed']} failed"] if values["failed"] else []
        parts += ["waiting for workers"] if not values["workers"] else []
        if self.terminal:
            self.stream.write(f"\r\x1b[K{', '.join(parts)}"[:160])
        elif now - self._last >= LINE_EVERY:
            self._last = now
            self.stream.write(f"{', '.join(parts)}\n")
        self.stream.flush()

    def end(self) -> None:
        """Leave the line empty for what comes next."""
        if self.terminal and not self.quiet:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
