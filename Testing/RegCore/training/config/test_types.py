"""Whether values fit annotations, and the words for what was wanted."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import pytest

from RegCore.training.config.types import FREE, Misfit, Range, arguments, described, fitted

SWITCH = Literal["auto", "off", "on"]
COUNT = Annotated[int, Range(1)]


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (3, int, 3),
        (1000.0, int, 1000),
        (2, float, 2),
        ([0, 0.5], Sequence[float], [0, 0.5]),
        (0.5, Annotated[float, Range(0, 1)], 0.5),
        (1, Annotated[float, Range(0, 1)], 1),
        (None, int | None, None),
        ("a", str | None, "a"),
        (True, bool, True),
        (False, SWITCH, "off"),
        (True, SWITCH, "on"),
        ([1, 2.0, 3], tuple[COUNT, COUNT, COUNT], [1, 2, 3]),
        ((1, 2), Sequence[int], [1, 2]),
        ([1, "a"], list, [1, "a"]),
        (4, int | Sequence[int], 4),
        ([4, 5], int | Sequence[int], [4, 5]),
        ({"a": 1}, Mapping, {"a": 1}),
        ("anything", Callable[..., int], "anything"),
        (object, FREE, object),
    ],
)
def test_what_fits_comes_back_as_it_is_wanted(value, hint, expected):
    found = fitted(value, hint)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (False, float),
        (1, bool),
        (1.5, int),
        (0, COUNT),
        (1.5, Annotated[float, Range(0, 1)]),
        (0, Annotated[float, Range(0, above=True)]),
        (float("nan"), float),
        (float("inf"), float),
        ("1", int),
        (1, str),
        (None, str),
        ("abc", Sequence[str]),
        ([1, 2], tuple[int, int, int]),
        ([1, "b"], Sequence[int]),
        ("never", SWITCH),
        (1, Literal[True]),
        ([1], Mapping),
    ],
)
def test_what_does_not_fit_is_refused(value, hint):
    with pytest.raises(Misfit):
        fitted(value, hint)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (COUNT, "a whole number from 1 on"),
        (Annotated[float, Range(0, 1)], "a number from 0 to 1"),
        (Annotated[float, Range(0, above=True)], "a number above 0"),
        (bool | None, "true or false"),
        (SWITCH, "auto or off or on"),
        (tuple[COUNT, COUNT, COUNT], "a list of 3, each a whole number from 1 on"),
        (int | Sequence[int], "a whole number or a list, each a whole number"),
        (Mapping, "keys with values"),
    ],
)
def test_wants_are_said_in_words(hint, words):
    assert described(hint) == words


def test_arguments_are_read_from_signatures():
    class Thing:
        def __init__(self, size, *, depth: int, name: "str" = "x"):
            raise NotImplementedError

    found = arguments(Thing, without=("size",))
    assert {name: (a.hint, a.needed) for name, a in found.items()} == {
        "depth": (int, True),
        "name": (str, False),
    }
    assert list(arguments(Thing, by_name_only=True)) == ["depth", "name"]

    def open_ended(**options):
        raise NotImplementedError

    def of_unknown_type(*, a: "NoSuchType"):  # noqa: F821
        raise NotImplementedError

    assert arguments(open_ended) is None
    assert arguments(of_unknown_type)["a"].hint is FREE
