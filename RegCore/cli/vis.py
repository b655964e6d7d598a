"""``regcore vis`` and ``deepreg_vis``: arguments of the command; `RegCore.cli.pictures` does the work."""

import argparse

from RegCore.cli.arguments import add_choice, add_file, add_number, real
from RegCore.space.geometry import InputError

STYLES = ("blend", "checkerboard")
MODES = {
    "0": "an animation over the slices of each image",
    "1": "an animation of a slice of each image while it is warped (needs --ddf-path or --transform)",
    "2": "a picture with a column for each image and a row for each slice",
    "3": "an animation over the slices of several images side by side",
}
ABOUT = "Shows slices along the last axis: " + "; ".join(f"mode {n}: {what}" for n, what in MODES.items())


def add_vis(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    fill_vis(commands.add_parser("vis", help="show slices as pictures and animations", description=ABOUT))


def fill_vis(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    add_choice(parser, "--mode", "-m", choices=tuple(MODES), required=True, help="what to make, see above")
    what = "images, one after the other or as a list with commas"
    parser.add_argument("--image-paths", "-i", required=True, nargs="+", metavar="FILE", help=what)
    parser.add_argument(
        "--save-path", "-s", default="", metavar="DIR", help="folder to write to (default: here)"
    )
    add_number(parser, "--interval", default=50, help="milliseconds from picture to picture (50)")
    add_file(parser, "--ddf-path", help="mode 1: displacement field in voxels, (I, J, K, 3)")
    add_file(parser, "--transform", help="mode 1: a transform in space instead")
    add_number(parser, "--num-interval", default=100, help="mode 1: number of pictures (100)")
    what = "modes 1 and 2: slices, as 10,20,30 (default: the middle one)"
    parser.add_argument("--slice-inds", type=_numbers, metavar="LIST", help=what)
    what = "modes 2 and 3: name of the file (visualisation.png, visualisation.gif)"
    parser.add_argument("--fname", metavar="NAME", help=what)
    what = "mode 2: titles of the columns, as a,b,c (default: names of the files)"
    parser.add_argument("--col-titles", metavar="LIST", help=what)
    what = "mode 3: rows and columns (2,2)"
    parser.add_argument("--size", default="2,2", type=_numbers, metavar="ROWS,COLUMNS", help=what)
    what = "segmentations to outline, one for all images or one for each"
    parser.add_argument("--labels", default=[], nargs="+", metavar="FILE", help=what)
    what = "second images to show over the others, one for all or one for each"
    parser.add_argument("--overlay", default=[], nargs="+", metavar="FILE", help=what)
    add_choice(parser, "--overlay-style", choices=STYLES, default=STYLES[0], help="how to show them")
    parser.add_argument("--zoom", type=real, default=1.0, metavar="FACTOR", help="size of what is made (1)")
    what = "show slices with rows along i and columns along j, as DeepReg does; else as doctors see them"
    parser.add_argument("--deepreg", action="store_true", help=what)
    parser.set_defaults(run=_run_vis)


def _numbers(text: str) -> list[int]:
    """``1, 2`` as [1, 2]."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f"whole numbers with commas between them were expected, not {text!r}"
        )
    return [int(word) for word in words]


def _run_vis(arguments: argparse.Namespace) -> None:
    if not 0.1 <= arguments.zoom <= 10:
        raise InputError(f"argument --zoom: a number from 0.1 to 10 was expected, not {arguments.zoom:g}")
    from RegCore.cli.pictures import make_pictures

    make_pictures(arguments)
