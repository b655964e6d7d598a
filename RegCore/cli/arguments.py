"""What the parsers of all commands share: complaints in one sentence, names with a proposal, numbers."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from RegCore.space.geometry import InputError
from RegCore.space.names import not_among

FILE = {"type": Path, "metavar": "FILE"}  # of an argument that names a file


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are `InputError`s, so that they look like all others."""

    def error(self, message: str):
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
