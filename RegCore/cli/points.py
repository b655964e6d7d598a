"""``regcore transform-points``: take points through a transform."""

import argparse

from RegCore.cli.arguments import add_file

ABOUT = (
    "Takes the points of a file through a transform (x_moving = T(x_fixed)): points of the fixed image to "
    "their places in the moving one, or back with --inverse. Files: .mrk.json and .fcsv of Slicer, .txt of "
    "transformix, .csv with the first line label,r,a,s."
)


def add_points(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "transform-points", help="take points through a transform", description=ABOUT
    )
    add_file(parser, "--points", "-i", required=True, help="the points")
    add_file(parser, "--transform", required=True, help="e.g. transform.h5 of a registration")
    parser.add_argument("--inverse", action="store_true", help="from the moving image to the fixed one")
    add_file(parser, "--out", "-o", required=True, help="file to write; its ending names the format")
    parser.set_defaults(run=_run_points)


def _run_points(arguments: argparse.Namespace) -> None:
    from RegCore.io import load
    from RegCore.io.points import Points, load_points, save_points

    points, transform = load_points(arguments.points), load(arguments.transform, "transform")
    mapping = transform.inverse() if arguments.inverse else transform
    save_points(Points(mapping.map(points.places), points.labels), arguments.out)
