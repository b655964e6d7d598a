"""The options of registrations, declared once: for ``regcore register``, ``register-all`` and others."""

import argparse
from pathlib import Path

from RegCore.cli.arguments import add_file, add_transform, one_of
from RegCore.registration import METHODS, OPTIONAL
from RegCore.space.names import is_path

__all__ = ["DOUBTFUL", "OPTIONAL", "add_method", "add_pair_options", "add_settings"]
DOUBTFUL = 3
"""Exit code of --strict where a registration has probably failed."""


def _method(text: str) -> str:
    """A method by name, or the path of a model file or checkpoint."""
    return text if is_path(text) else one_of("method", list(METHODS))(text)


def add_method(parser: argparse._ActionsContainer, default: str = "auto") -> None:
    """Add --method, a name or the path of a model."""
    what = f"{', '.join(METHODS)}, or the path of a trained model; by default {default}"
    parser.add_argument("--method", default=default, type=_method, metavar="METHOD", help=what)


def add_settings(parser: argparse._ActionsContainer) -> None:
    """Add --settings, a list of texts."""
    what = "settings of the method, e.g. quality=fast"
    parser.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help=what)


def add_pair_options(parser: argparse._ActionsContainer) -> None:
    """Add how a registration is done, and what it may get besides its two images, `OPTIONAL`."""
    add_method(parser)
    add_settings(parser)
    add_file(parser, "--fixed-seg", help="segmentation of the fixed image; helps and measures")
    add_file(parser, "--moving-seg", help="segmentation of the moving image")
    add_file(parser, "--fixed-mask", help="where the fixed image counts")
    add_file(parser, "--moving-mask", help="where the moving image counts")
    what = "CSV with fx,fy,fz,mx,my,mz in RAS mm, or two files of points, fixed and moving; measures only"
    parser.add_argument("--landmarks", nargs="+", type=Path, metavar="FILE", help=what)
    add_transform(parser, "--initial", help="transform to start from, or the word centres")
    what = "UID of the DICOM series to take from a folder that holds several; may be repeated"
    parser.add_argument("--series", action="append", metavar="UID", help=what)
    what = "end with code 3 where a registration has probably failed; the results are written all the same"
    parser.add_argument("--strict", action="store_true", help=what)
