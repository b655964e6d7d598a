"""The options that say where many registrations are done: on processes of this machine, or on a cluster."""

import argparse
from typing import Any

from RegCore.cli.arguments import add_file, add_number
from RegCore.space.geometry import InputError


def add_place(parser: argparse.ArgumentParser, workers_help: str, workers: int | None = None) -> None:
    """Add --workers, --scheduler and --scheduler-file.

    Args:
        parser: of the command.
        workers_help: what is said of --workers.
        workers: how many there are if none is given.
    """
    group = parser.add_argument_group("where the work is done")
    add_number(group, "--workers", default=workers, help=workers_help)
    what = "Dask cluster, e.g. tcp://host:8786"
    group.add_argument("--scheduler", default="", metavar="ADDRESS", help=what)
    add_file(group, "--scheduler-file", help="file that a Dask scheduler wrote, in place of its address")


def place_of(arguments: argparse.Namespace) -> Any:
    """The `RegCore.studies.pools.Place` that the arguments name.

    Raises:
        InputError: workers of this machine are asked for besides those of a cluster, or two clusters.
    """
    from RegCore.studies.pools import Place

    if arguments.scheduler and arguments.scheduler_file:
        raise InputError("argument --scheduler: --scheduler-file names one already; give one of the two")
    place = Place(arguments.scheduler, arguments.scheduler_file)
    if place.is_cluster and (arguments.workers or 1) > 1:
        raise InputError("argument --workers: a cluster has its own workers; give this or --scheduler")
    return place
