"""``regcore worker``: the child process that 3D Slicer talks to."""

import argparse


def add_worker(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser("worker", help="serve 3D Slicer over standard input and output")
    parser.set_defaults(run=_run_worker)


def _run_worker(arguments: argparse.Namespace) -> None:
    from RegCore import worker

    worker.main([])
