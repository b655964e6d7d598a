"""What the parsers of all commands share: errors in one sentence, kinds of arguments, common arguments."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from RegCore.space.geometry import InputError
from RegCore.space.names import DEVICES, not_among


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `InputError`s, so that they look like all others."""

    def error(self, message: str) -> NoReturn:
        """Report a wrong command line, in argparse's words.

        Raises:
            InputError: always; the sentence ends with where to find help.
        """
        raise InputError(f"{message} (see {self.prog} --help)")


def one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    """A reader of an argument that must be one of these names; it proposes the nearest."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"the {what} {not_among(text, names)}")
        return text

    return read


def whole_number(least: int = 0) -> Callable[[str], int]:
    """A reader of an argument that must be a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least} was expected, not {text!r}")
        return number

    return read


def real(text: str) -> float:
    """An argument that must be a finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"a number was expected, not {text!r}")
    return number


def add_file(
    parser: argparse._ActionsContainer, *names: str, help: str, required: bool = False, metavar: str = "FILE"
) -> None:
    """Add an option that names a file; its value is a `Path`."""
    parser.add_argument(*names, required=required, type=Path, metavar=metavar, help=help)


def add_transform(
    parser: argparse._ActionsContainer, name: str, *, help: str, required: bool = False
) -> None:
    """Add an option for a transform, or for several in the order of ANTs; its value is a list of paths."""
    what = f"{help}; several, as 1Warp.nii.gz 0GenericAffine.mat of ANTs, are applied from left to right"
    parser.add_argument(name, nargs="+", required=required, type=Path, metavar="FILE", help=what)


def add_number(
    parser: argparse._ActionsContainer, *names: str, help: str, least: int = 1, default: int | None = None
) -> None:
    """Add an option for a whole number of at least `least`."""
    parser.add_argument(*names, type=whole_number(least), default=default, metavar="N", help=help)


def add_choice(
    parser: argparse._ActionsContainer,
    *names: str,
    choices: Sequence[str],
    help: str,
    default: str | None = None,
    required: bool = False,
) -> None:
    """Add an option for one of several names, which is called like what it chooses."""
    read, metavar = one_of(names[0].strip("-"), choices), "|".join(choices)
    parser.add_argument(*names, type=read, default=default, required=required, metavar=metavar, help=help)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Add the option for the user's own parts."""
    what = "Python file that adds networks, losses, loaders … of your own; may be repeated"
    parser.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE", help=what)


def shared(*, plugin: bool = False, seed: bool = False) -> argparse.ArgumentParser:
    """The parent of the parsers of commands that compute: --device, --quiet and, if wanted, the other two."""
    parser = argparse.ArgumentParser(add_help=False)
    if plugin:
        add_plugin(parser)
    add_choice(parser, "--device", choices=DEVICES, default="auto", help="where to compute, by default auto")
    if seed:
        what = "number that fixes all randomness, by default 0"
        add_number(parser, "--seed", least=0, default=0, help=what)
    parser.add_argument("--quiet", action="store_true", help="print neither progress nor a summary")
    return parser


def settings_of(pairs: Sequence[str], where: str) -> dict[str, Any] | None:
    """KEY=VALUE as a dict; values are numbers, true, false or null where they read as such, else text.

    Args:
        pairs: such as ``["levels=3", "symmetric=false"]``.
        where: they were typed, which begins the sentence of an error.

    Returns:
        The values by their keys; None for none.

    Raises:
        InputError: one of them is not KEY=VALUE.
    """
    from RegCore.studies.manifest import settings_from

    try:
        return settings_from(pairs) or None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
