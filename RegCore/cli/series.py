"""``regcore register-series``: bring the frames of a 4-D scan together."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_choice, add_file, add_number, settings_of, shared
from RegCore.cli.kept import LEFT, at_work, steps_of
from RegCore.cli.pair_arguments import add_method, add_settings
from RegCore.cli.place import add_place, place_of

log = logging.getLogger(__name__)
TARGETS = ("frame", "mean", "neighbour")
ABOUT = (
    "Registers every frame of a 4-D scan (4-D NIfTI, .seq.nrrd of Slicer, DICOM, also Enhanced) to one "
    "frame, to the mean of all, or to its neighbour. Writes the frames brought together in the kind of the "
    "input (of DICOM: .seq.nrrd), their mean, a transform for each frame as files and as a sequence of "
    "Slicer, and the curves of the motion as a table and a picture."
)


def add_series(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "register-series",
        parents=[shared(seed=True)],
        help="bring the frames of a 4-D scan together",
        description=ABOUT,
    )
    add_file(parser, "--frames", required=True, help="the scan: a file, or a folder of DICOM")
    parser.add_argument("--series", metavar="UID", help="DICOM series to take from a folder of several")
    what = "what each frame is registered to, by default frame"
    add_choice(parser, "--to", choices=TARGETS, default="frame", help=what)
    what = "number of the frame whose place all others take, from 0; by default the middle one"
    add_number(parser, "--reference", least=0, help=what)
    add_file(parser, "--mask", help="where the reference frame counts")
    add_number(parser, "--rounds", default=1, help="registrations to the mean, by default 1")
    what = "leave transforms of linear methods as these find them, for frames that differ in contrast"
    parser.add_argument("--not-exact", action="store_true", help=what)
    add_common(parser, method="rigid")
    parser.set_defaults(run=_run_series, left=LEFT)


def add_common(parser: argparse.ArgumentParser, *, method: str) -> None:
    """Add the options that series and groups share.

    Args:
        parser: of the command.
        method: the default.
    """
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    add_method(parser, method)
    add_settings(parser)
    add_place(parser, "processes on this machine, by default 1", workers=1)


@contextmanager
def chosen_pool(arguments: argparse.Namespace, folder: Path) -> Iterator[Any]:
    """The workers that the arguments name; None for this process.

    Args:
        arguments: of a command with the options of `add_common`.
        folder: of the results.

    Raises:
        InputError: the cluster can't be used.
    """
    from RegCore.studies.many import optional_pool

    place = place_of(arguments)
    with optional_pool(arguments.workers or 1, place, folder) as pool:
        yield pool


def tell_doubts(names: Sequence[str], doubts: Sequence[Sequence[str]]) -> None:
    """Warn of registrations that have probably failed.

    Args:
        names: what each registration is called.
        doubts: sentences of each.
    """
    for name, sentences in zip(names, doubts, strict=True):
        for sentence in sentences:
            log.warning("%s: %s", name, sentence)


def _run_series(arguments: argparse.Namespace) -> None:
    keys = ("to", "reference", "rounds", "settings", "not_exact")
    settings = {key: getattr(arguments, key) for key in keys}
    inputs = {"frames": arguments.frames, "mask": arguments.mask}
    steps = steps_of(arguments, inputs, settings, {"series": arguments.series})
    if steps is not None:
        _register_series(arguments, steps)


def _register_series(arguments: argparse.Namespace, steps: Any) -> None:
    from RegCore.io import load
    from RegCore.io.series import load_series
    from RegCore.studies.outputs import FILES, series_ending, write_series_results
    from RegCore.studies.series import register_series

    options = {name: getattr(arguments, name) for name in ("reference", "rounds", "device", "seed")}
    options["settings"] = settings_of(arguments.settings, "argument --settings")
    with at_work(arguments, steps, FILES) as (folder, progress):
        series = load_series(arguments.frames, series=arguments.series)
        options["mask"] = None if arguments.mask is None else load(arguments.mask, "labels")
        options |= {"exact": not arguments.not_exact, "steps": steps, "progress": progress}
        with chosen_pool(arguments, folder) as pool:
            found = register_series(series, arguments.to, arguments.method, **options, pool=pool)
        about = {"frames": arguments.frames, "to": arguments.to, "method": arguments.method}
        ending = series_ending(arguments.frames)
        written = steps.finish(lambda: write_series_results(folder, found, series, ending, about))
        steps.keep_only()
    tell_doubts([f"frame {number}" for number in range(len(series))], found.doubts)
    if not arguments.quiet:
        displacement = found.motion["fd_mm"]
        alike = [found.motion[f"ncc_{when}"].mean() for when in ("before", "after")]
        print(f"frames                        {len(series)}, reference {found.reference}")
        print(f"framewise displacement, mean  {displacement.mean():.3f} mm")
        print(f"framewise displacement, most  {displacement.max():.3f} mm")
        print(f"correlation with the target   {alike[0]:.3f} → {alike[1]:.3f}")
        print(f"\n{arguments.out}: {', '.join(written)}")
