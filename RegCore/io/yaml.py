"""YAML files as plain values, merged, with the file and line of each key for messages."""

import datetime
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml

from RegCore.io.files import check_regular
from RegCore.space.geometry import InputError

log = logging.getLogger(__name__)
Key = tuple  # of the names and list numbers that lead to a value
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
MOST_VALUES = 100_000  # of a file, counted with what its aliases repeat
TEXTS = ("dir", "name", "format", "type", "method")  # keys whose values are never numbers


def dotted(key: Key) -> str:
    """A key as users write it: ``train.loss.image[1].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def shown(value: object) -> str:
    """A value for a message, shortened."""
    words = {"None": "null", "True": "true", "False": "false"}
    text = words.get(repr(value), repr(value))
    return text if len(text) <= 60 else f"{text[:57]}…"


@dataclass
class Places:
    """Where each key was written.

    Args:
        default: the name of the whole, for what has no place of its own.
        lines: file and line (None if unknown) of each key.
        moved: the key under which an older file has what now stands under another.
    """

    default: str
    lines: dict[Key, tuple[str, int | None]] = field(default_factory=dict)
    moved: dict[Key, Key] = field(default_factory=dict)

    def of(self, key: Key) -> str:
        """File and line of a key, or of what it lies in."""
        for end in range(len(key), 0, -1):
            written = self.lines.get(key[:end]) or self._older(key[:end])
            if written:
                file, line = written
                return file if line is None else f"{file}, line {line}"
        return self.default

    def _older(self, key: Key) -> tuple[str, int | None] | None:
        for end in range(len(key), 0, -1):
            if key[:end] in self.moved:
                return self.lines.get(self.moved[key[:end]] + key[end:])
        return None

    def error(self, key: Key, sentence: str) -> InputError:
        """The error for a key: its place, its name, and the sentence that goes on from there."""
        return InputError(f"{self.of(key)}: {dotted(key)} {sentence}")


def read_yaml(path: str | PurePath) -> tuple[dict, Places]:
    """The keys of a YAML file, and where each stands. An empty file has none.

    Raises:
        InputError: the file can't be read or is not YAML; names file and line.
    """
    path = Path(path).expanduser()
    try:
        check_regular(path)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: the configuration can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: a configuration in YAML was expected, but this is not text") from None
    places = Places(str(path))
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and (size := _size(node, {})) > MOST_VALUES:
            text = f"its aliases stand for {size:,} values"
            raise InputError(f"{path}: this is not a configuration: {text}")
        _find_lines(node, (), places)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: this is not valid YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise InputError(f"{path}: this is not a configuration: it is nested without end") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: this is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}, places
    if not isinstance(data, dict):
        raise InputError(f"{path}: the sections dataset and train were expected, not {shown(data)}")
    return plain(data, places), places


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, with those that aliases repeat; each node is visited once."""
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]


def _find_lines(node: yaml.Node | None, key: Key, places: Places) -> None:
    if isinstance(node, yaml.MappingNode):
        inner = [(name.value, name, value) for name, value in node.value if name.value != "<<"]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(index, value, value) for index, value in enumerate(node.value)]
    else:
        return
    for name, where, value in inner:
        if not isinstance(name, str | int):
            continue
        below, line = (*key, name), where.start_mark.line + 1
        if below in places.lines:
            first = places.lines[below][1]
            text = "%s, line %d: %s was given before, in line %d; this later value is taken"
            log.warning(text, places.default, line, dotted(below), first)
        places.lines[below] = (places.default, line)
        _find_lines(value, below, places)


def plain(value: Any, places: Places, key: Key = (), above: tuple = ()) -> Any:
    """A deep copy of bare dicts, lists, texts, numbers, true, false and null.

    Texts such as 1e-5 become numbers, which YAML 1.1 takes for texts because there is no dot in them.

    Raises:
        InputError: a value that a YAML file could not hold.
    """
    if id(value) in above:
        raise places.error(key, "contains itself")
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        return {str(name): plain(inner, places, (*key, str(name)), inside) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, places, (*key, index), inside) for index, inner in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PurePath | datetime.date):
        return str(value)
    if isinstance(value, str) and EXPONENT.fullmatch(value) and not _is_text(key):
        return float(value)
    if value is None or isinstance(value, bool | str | int | float):
        return value
    raise places.error(key, f"is a {type(value).__name__}, which a configuration can't hold")


def _is_text(key: Key) -> bool:
    return any(name in TEXTS for name in key[-2:])


def merge(first: dict, second: Mapping) -> dict:
    """The first with the values of the second: dicts are merged, all else is replaced, also by null."""
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def read_files(
    paths: Iterable,
    overrides: Mapping | None,
    each: Callable[[dict], tuple[dict, dict[Key, Key]]] | None = None,
) -> tuple[dict, Places]:
    """Several YAML files and the overrides as one, later ones over earlier ones, with the places of all keys.

    Args:
        paths: of the files.
        overrides: plain values, merged last.
        each: brings the values of a file to the form in which they are merged; gives them and `Places.moved`.

    Raises:
        InputError: as `read_yaml`.
    """
    merged: dict = {}
    places = Places("")
    for path in paths:
        data, found = read_yaml(path)
        if each is not None:
            data, moved = each(data)
            places.moved |= moved
            for new, old in moved.items():
                at = {
                    new + key[len(old) :]: line for key, line in found.lines.items() if key[: len(old)] == old
                }
                found.lines |= at
        merged = merge(merged, data)
        places.lines |= found.lines
        places.default = f"{places.default} + {found.default}" if places.default else found.default
    if overrides:
        given = plain(overrides, Places("overrides"))
        given = given if each is None else each(given)[0]
        merged = merge(merged, given)
        _mark(given, (), places)
    return merged, places


def _mark(values: dict, key: Key, places: Places) -> None:
    """Note that these keys came from the caller and not from a file."""
    for name, value in values.items():
        below = (*key, name)
        places.lines[below] = ("overrides", None)
        if isinstance(value, dict):
            _mark(value, below, places)
