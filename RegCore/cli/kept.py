"""What the commands share that keep their steps, and go on from there when they are called again."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from RegCore.cli.progress import ProgressLine
from RegCore.space.names import is_path

LEFT = "what is done is kept, and the same command goes on from there"
"""What is said of a command that was stopped; it is the default of its parser for "left"."""


def steps_of(
    arguments: argparse.Namespace,
    inputs: Mapping[str, Path | None],
    settings: Mapping[str, Any],
    reading: Mapping[str, Any] | None = None,
) -> Any:
    """The steps of a command; None, and a word about it, where its results are there already.

    Args:
        arguments: with "out", "quiet", "method" and "seed".
        inputs: files and folders by role; None for those that were not given.
        settings: of the command, besides its method and seed.
        reading: how the inputs are read.
    """
    from RegCore.studies.steps import Steps

    given = {role: path for role, path in inputs.items() if path is not None}
    of_method = is_path(arguments.method)
    given |= {"method": Path(arguments.method)} if of_method else {}
    method = "model" if of_method else arguments.method
    steps = Steps(arguments.out, given, {**settings, "method": method, "seed": arguments.seed}, reading)
    if not steps.finished():
        return steps
    if not arguments.quiet:
        print(f"{arguments.out}: the results are there already, and nothing has changed since")
    return None


@contextmanager
def at_work(
    arguments: argparse.Namespace, steps: Any, names: tuple[str, ...]
) -> Iterator[tuple[Path, ProgressLine]]:
    """The folder of the results, which nobody else works in meanwhile, and the line of progress.

    Args:
        arguments: with "out" and "quiet".
        steps: of the command.
        names: of files that will be written.

    Raises:
        InputError: the folder can't be written, another run is in it, or a result would take the place of an
            input.
    """
    from RegCore.evaluation.results import check_apart, prepared_folder

    check_apart(arguments.out, (*names, "transforms", "inverses"), steps.inputs.values())
    progress = ProgressLine(sys.stderr, arguments.quiet)

    def tell(sentence: str) -> None:
        if not arguments.quiet:
            print(f"{arguments.out}: {sentence}", file=sys.stderr)

    with prepared_folder(arguments.out, names) as folder, steps.opened(tell):
        try:
            yield folder, progress
        finally:
            progress.end()
