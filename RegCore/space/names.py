"""Names that users choose from: tables of them, the nearest to a mistyped one, and paths told from names."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath

DEVICES = ("auto", "cpu", "cuda", "mps")
"""What networks and optimisers can be told to compute on."""


@dataclass(frozen=True)
class Lazy:
    """An entry of a `LazyTable` that is imported when it is first asked for: module and name."""

    module: str
    name: str


class LazyTable(dict):
    """Names and what they stand for. A new entry is an assignment; a `Lazy` one is fetched when it is used.

    So a table can name what a room above its own makes, or what needs torch, and import neither.
    """

    def __getitem__(self, name):
        value = super().__getitem__(name)
        if isinstance(value, Lazy):
            value = self[name] = getattr(import_module(value.module), value.name)
        return value

    def get(self, name, default=None):
        return self[name] if name in self else default  # noqa: SIM401 - that would be this method

    def values(self):
        return [self[name] for name in self]

    def items(self):
        return [(name, self[name]) for name in self]


def nearest(name, known: Iterable) -> str:
    """The end of a sentence that proposes a known name in place of another; empty if none is near."""
    by_lower = {str(word).lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]}?" if near else ""


def is_path(name) -> bool:
    """Whether this is the path of a model file or a checkpoint, by a slash in it or by its ending."""
    return (
        isinstance(name, PurePath)
        or isinstance(name, str)
        and ("/" in name or "\\" in name or name.lower().endswith((".pt", ".index", ".ckpt")))
    )
