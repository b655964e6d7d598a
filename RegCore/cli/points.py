"""``regcore transform-points``: take points through a transform."""

import argparse

from RegCore.cli.arguments import add_file, add_transform
from RegCore.space.geometry import InputError

ABOUT = (
    "Takes the points of a file through a transform (x_moving = T(x_fixed)): points of the fixed image to "
    "their places in the moving one, or back with --inverse. Files: .mrk.json and .fcsv of Slicer, .txt of "
    "transformix, .csv with the first line label,r,a,s; and models: .vtk, .vtp, .stl and .ply, whose points "
    "are moved while all else in the file stays."
)
MODELS = (".vtk", ".vtp", ".stl", ".ply")


def add_points(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "transform-points", help="take points through a transform", description=ABOUT
    )
    add_file(parser, "--points", "-i", required=True, help="the points, or a model")
    add_transform(parser, "--transform", required=True, help="e.g. transform.h5 of a registration")
    parser.add_argument("--inverse", action="store_true", help="from the moving image to the fixed one")
    add_file(parser, "--out", "-o", required=True, help="file to write; its ending names the format")
    parser.set_defaults(run=_run_points)


def _run_points(arguments: argparse.Namespace) -> None:
    from RegCore.io import load_chain
    from RegCore.io.models import transform_model
    from RegCore.io.points import Points, load_points, save_points

    if arguments.out.resolve() in [path.resolve() for path in (arguments.points, *arguments.transform)]:
        raise InputError(f"{arguments.out}: the result would take the place of what it is made of")
    points = None if arguments.points.suffix.lower() in MODELS else load_points(arguments.points)
    transform = load_chain(arguments.transform)
    mapping = transform.inverse() if arguments.inverse else transform
    if points is None:
        transform_model(arguments.points, mapping.map, arguments.out)
    else:
        save_points(Points(mapping.map(points.places), points.labels), arguments.out)
