"""Whether a value fits what a Python annotation asks for, said in words that a user of YAML understands."""

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from RegCore.space.names import options_of

FREE = inspect.Parameter.empty  # the annotation of what may be anything
WORDS = {False: "off", True: "on"}  # YAML 1.1 reads these unquoted words as false and true
UNIONS = (Union, types.UnionType)
LISTS = (list, Sequence, Iterable)


@dataclass(frozen=True)
class Range:
    """Bounds of a number, as ``Annotated[int, Range(1)]``; `above`: the lower bound itself is too small."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low} to {self.high}"
        return f"above {self.low}" if self.above else f"from {self.low} on"


class Misfit(Exception):
    """A value does not fit its annotation."""


def fitted(value, hint):
    """The value as the annotation wants it: 16.0 as 16, False as "off" where it must be a word.

    Knows bool, int, float, str, None, unions, Literal, Annotated with `Range`, sequences and tuples of these,
    Mapping; whatever else an annotation may be, every value fits it. Raises Misfit.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = fitted(value, parts[0])
        if any(isinstance(bound, Range) and value not in bound for bound in parts[1:]):
            raise Misfit
        return value
    if origin in UNIONS:
        return _first_that_fits(value, parts)
    if origin is Literal:
        return _word(value, parts)
    if origin is tuple or hint is tuple:
        return _items(value, parts)
    if hint in LISTS or origin in LISTS:
        return _items(value, (parts[0], ...) if parts else ())
    return _simple(value, origin or hint)


def _first_that_fits(value, hints):
    for hint in hints:
        try:
            return fitted(value, hint)
        except Misfit:
            continue
    raise Misfit


def _word(value, words: tuple):
    if isinstance(value, bool) and value not in words:
        value = WORDS[value]
    if not any(value == word and type(value) is type(word) for word in words):
        raise Misfit
    return value


def _items(value, hints: tuple) -> list:
    if not isinstance(value, list | tuple):
        raise Misfit
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if not hints:
        return list(value)
    if len(hints) != len(value):
        raise Misfit
    return [fitted(item, hint) for item, hint in zip(value, hints, strict=True)]


def _simple(value, hint):
    truth = isinstance(value, bool)
    if hint is int:
        if truth or not (isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())):
            raise Misfit
        return int(value)
    if hint is float:
        if truth or not isinstance(value, Real) or not math.isfinite(value):
            raise Misfit
        return value
    known = {bool: truth, str: isinstance(value, str), types.NoneType: value is None, None: value is None}
    known[dict] = known[Mapping] = isinstance(value, Mapping)
    if not known.get(hint, True):
        raise Misfit
    return value


def described(hint) -> str:
    """What an annotation asks for, in words, null left aside: "a whole number from 1 on", "true or false"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{described(parts[0])} {parts[1]}" if isinstance(parts[1], Range) else str(parts[1])
    if origin in UNIONS:
        words = dict.fromkeys(described(part) for part in parts if part is not types.NoneType)
        return " or ".join(words)
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        each = described(parts[0]) if len(set(parts)) == 1 else ", ".join(described(part) for part in parts)
        return f"a list of {len(parts)}, each {each}" if len(set(parts)) == 1 else f"the list [{each}]"
    if origin in (*LISTS, tuple) or hint in (*LISTS, tuple):
        return f"a list, each {described(parts[0])}" if parts else "a list"
    simple: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    simple |= {dict: "keys with values", Mapping: "keys with values", types.NoneType: "null", None: "null"}
    return simple.get(origin or hint, "something else")


@dataclass(frozen=True)
class Argument:
    """What a function or class takes under one name."""

    hint: Any
    needed: bool


def arguments(
    function: Callable, without: Collection[str] = (), *, by_name_only: bool = False
) -> dict[str, Argument] | None:
    """What a function or class takes by name; None for any name. Arguments as in `options_of`."""
    parameters = options_of(function, without, by_name_only=by_name_only)
    if parameters is None:
        return None
    hints = _hints(function)
    return {name: Argument(hints.get(name, FREE), p.default is p.empty) for name, p in parameters.items()}


def _hints(function: Callable) -> dict:
    """Annotations of the arguments; none where they name what can't be found."""
    target = function.__init__ if inspect.isclass(function) else getattr(function, "func", function)
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}
