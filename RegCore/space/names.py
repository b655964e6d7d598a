"""Choosing by name: tables of parts, the check of a name and its options, paths told from names; READABLE."""

import codecs
import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import Any, TypeVar

from RegCore.space.geometry import InputError

Entry = TypeVar("Entry")
KINDS_OF_FILES = {
    *("img", "image", "images", "scan", "scans", "ct", "mr", "mri", "vol", "volume"),
    *("label", "labels", "labelmap", "seg", "segs", "segmentation", "mask", "gt"),
}
DEVICES = ("auto", "cpu", "cuda", "mps")
"""What networks and optimisers can be told to compute on."""
INTERPOLATIONS = ("linear", "nearest", "cubic")
"""How `RegCore.warp` can find the values of an image between its voxels."""


@dataclass(frozen=True)
class Lazy:
    """An entry of a `LazyTable` that is imported when it is first asked for: module and name."""

    module: str
    name: str


class LazyTable(dict[str, Any]):
    """Names and what they stand for. A new entry is an assignment; a `Lazy` one is imported when it is used.

    So a table can name what a room above its own makes, or what needs torch, and import neither.
    """

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, Lazy):
            value = self[name] = getattr(import_module(value.module), value.name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of a name, fetched now; `default` where there is none."""
        return self[name] if name in self else default  # noqa: SIM401 - that would be this method

    def values(self) -> list[Any]:  # type: ignore[override]
        """All entries, fetched now."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Any]]:  # type: ignore[override]
        """All names with their entries, fetched now."""
        return [(name, self[name]) for name in self]


def nearest(name: object, known: Iterable) -> str:
    """The end of a sentence that proposes a known name in place of another; empty if none is near."""
    by_lower = {str(word).lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f", did you mean {by_lower[near[0]]}?" if near else ""


def not_among(value: object, known: Iterable) -> str:
    """What is wrong with a name that is not among the known ones: "is 'unit', expected one of …"."""
    known = [str(name) for name in known if name is not None]
    came = "is missing" if value is None else f"is {value!r}"
    return f"{came}, expected one of {', '.join(known)}{nearest(value, known)}"


def check_name(name: object, known: Collection, where: str) -> None:
    """Check that a name is a known one.

    Args:
        name: as the user gave it, of any type.
        known: the names, or a table of them; None among them stands for "none of these" and is not proposed.
        where: the subject of the sentence of the error, for example "the device".

    Raises:
        InputError: it is not known; the sentence lists those that are and proposes the nearest.
    """
    if not (name is None or isinstance(name, str)) or name not in known:
        raise InputError(f"{where} {not_among(name, known)}")


def select(
    table: Mapping[Any, Entry],
    name: object,
    options: Iterable[str],
    where: str,
    *,
    takes: Callable[[Entry], Collection[str] | None] | None = None,
) -> Entry:
    """The part that a name stands for, once its name and the names of its options are known to be right.

    Args:
        table: names and what they stand for.
        name: as the user gave it, of any type.
        options: names of the options that are given besides.
        where: what is chosen, for example "the backbone"; the errors begin with it.
        takes: gives the names of the options that a part takes, None for any; by default none is checked.

    Raises:
        InputError: the name is missing or unknown, or the part has no such option; the sentence lists what
            there is and proposes the nearest.
    """
    check_name(name, table, where)
    part = table[name]
    known = takes(part) if takes is not None else None
    if known is None:
        return part
    for key in options:
        if key not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{where} {name} has no argument {key!r}, it takes {there}{nearest(key, known)}")
    return part


def options_of(
    function: Callable, without: Collection[str] = (), *, by_name_only: bool = False
) -> dict[str, inspect.Parameter] | None:
    """The arguments of a function or class that can be given by name; None if it takes any name.

    Args:
        function: what is called.
        without: names that are no options.
        by_name_only: only those that can't be given by position.
    """
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    by_position = () if by_name_only else (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    kinds = (inspect.Parameter.KEYWORD_ONLY, *by_position)
    return {p.name: p for p in parameters if p.kind in kinds and p.name not in without}


def paired_by_name(images: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Which label map belongs to each image, by their names without endings.

    Names are compared by their words and numbers without those that say what a file is (img, scan, label, seg
    …): img0001 and label0001 belong together, so do case_7 and case_7_seg. An image may have further words:
    liver_2_0000 (a channel number) belongs to liver_2. One image and one label map belong together.

    Args:
        images: names.
        labels: names; some may belong to no image.

    Returns:
        For each image the number of its label map; None where no name is like any other.

    Raises:
        InputError: some names pair and one does not, or a name pairs with several.
    """
    if len(images) == len(labels) == 1:
        return [0]
    keys = [_words(name) for name in labels]
    found: list[int] = []
    lonely = []
    for name in images:
        own = _words(name)
        near = [n for n, key in enumerate(keys) if key == own]
        near = near or [n for n, key in enumerate(keys) if key and key == own[: len(key)]]
        if len(near) > 1 or near and near[0] in found:
            raise InputError(f"{name}: it can't be told by the names which segmentation is its own")
        found += near
        lonely += [] if near else [name]
    if lonely and found:
        raise InputError(f"{lonely[0]}: there is no segmentation of this name")
    return None if lonely else found


def _words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, lower case, without those of `KINDS_OF_FILES`."""
    parts = re.findall(r"[^\W\d_]+|\d+", name.lower())
    return tuple(part for part in parts if part not in KINDS_OF_FILES)


def is_path(name: object) -> bool:
    """Whether this is the path of a model file or a checkpoint, by a slash in it or by its ending."""
    return (
        isinstance(name, PurePath)
        or isinstance(name, str)
        and ("/" in name or "\\" in name or name.lower().endswith((".pt", ".index", ".ckpt")))
    )


def _written(error: UnicodeError) -> tuple[bytes, int]:
    """Letters that an encoding lacks, as UTF-8; bytes of names of files that are no UTF-8 as �."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    raw = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "replace").encode("utf-8"), error.end


READABLE = "readable"
"""How texts with names of files are written (errors=): such names may hold bytes that are no UTF-8."""
codecs.register_error(READABLE, _written)
