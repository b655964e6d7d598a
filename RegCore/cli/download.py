"""``regcore download`` and ``deepreg_download``: examples and generated data, without a network."""

import argparse
import logging
from pathlib import Path

log = logging.getLogger(__name__)
ABOUT = (
    "Writes example configurations (config, demos) and small generated data sets (data) in DeepReg's layout, "
    "so that training can be tried at once; with --demo the generated data of demos instead of the others. "
    "Nothing is downloaded."
)


def add_download(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    fill_download(commands.add_parser("download", help="write examples to try", description=ABOUT))


def fill_download(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    folder = {"type": Path, "metavar": "DIR", "default": Path(".")}
    parser.add_argument("--output_dir", "-d", help="folder to write to (default: here)", **folder)
    what = "write the data of this demo, a folder name of demos; may be repeated, all means each"
    parser.add_argument("--demo", action="append", default=[], metavar="NAME", help=what)
    what = "accepted for DeepReg's sake and without effect: nothing is downloaded"
    parser.add_argument("--branch", "-b", metavar="NAME", help=what)
    parser.set_defaults(run=_run_download)


def _run_download(arguments: argparse.Namespace) -> None:
    from RegCore.samples.datasets import write_configurations, write_examples
    from RegCore.samples.demos import DEMOS, PAIRS, write_demo
    from RegCore.samples.torso import DATASET, write_torsos

    if arguments.branch is not None:
        log.info("--branch %s is ignored: the examples come with this program", arguments.branch)
    if not arguments.demo:
        write_examples(arguments.output_dir)
        return
    write_configurations(arguments.output_dir)
    for name in (*DEMOS, *PAIRS, DATASET) if "all" in arguments.demo else arguments.demo:
        if name == DATASET:
            write_torsos(arguments.output_dir)
        else:
            write_demo(name, arguments.output_dir)
