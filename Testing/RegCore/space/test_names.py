"""Proposals for mistyped names, and names that are paths."""

from functools import partial
from pathlib import Path

import pytest

from RegCore.space.geometry import InputError
from RegCore.space.names import READABLE, is_path, nearest, options_of, select

KNOWN = ("learning_rate", "RMSprop", "Adam", 3)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("learningrate", ", did you mean learning_rate?"),
        ("rmsProp", ", did you mean RMSprop?"),
        ("Adams", ", did you mean Adam?"),
        ("bending", ""),
        (None, ""),
        ([], ""),
    ],
)
def test_the_nearest_name_is_proposed_if_there_is_one(name, end):
    assert nearest(name, KNOWN) == end


def test_a_slash_or_an_ending_makes_a_path():
    for path in (Path("model"), "model.pt", "save/ckpt-2", "C:\\models\\a", "MODEL.PT", "weights.ckpt"):
        assert is_path(path)
    for name in ("deformable", "classical-affine", "", None, ["a/b"], 3):
        assert not is_path(name)


class Colours:
    """Takes two options, by name only or not."""

    def __init__(self, shape, red: int = 0, *, blue: int = 1):
        raise NotImplementedError


def anything(shape, **options):
    raise NotImplementedError


TABLE = {"colours": Colours, "anything": anything}
TAKES = partial(options_of, without=("shape",))


def test_what_is_selected_is_the_entry_itself():
    assert select(TABLE, "colours", ("red", "blue"), "the part", takes=TAKES) is Colours
    assert select(TABLE, "anything", ("green",), "the part", takes=TAKES) is anything
    assert select(TABLE, "colours", ("green",), "the part") is Colours, "without takes no option is checked"
    assert select({None: 0, "one": 1}, None, (), "the part") == 0


def test_options_are_those_that_can_be_given_by_name():
    assert list(options_of(Colours)) == ["shape", "red", "blue"]
    assert list(options_of(Colours, by_name_only=True)) == ["blue"]
    assert options_of(Colours)["blue"].default == 1
    assert options_of(lambda a, /, *rest, b: 0).keys() == {"b"}
    assert options_of(anything) is None


@pytest.mark.parametrize(
    ("table", "name", "options", "sentence"),
    [
        (
            TABLE,
            "colour",
            (),
            "the part is 'colour', expected one of colours, anything, did you",
        ),
        (TABLE, "Anything", (), "the part is 'Anything', expected .*, did you mean anything?"),
        (TABLE, None, (), "the part is missing, expected one of colours, anything$"),
        (TABLE, ["colours"], (), r"the part is \['colours'\], expected one of .*"),
        (TABLE, 3, (), "the part is 3, expected one of colours, anything$"),
        ({None: 0, "one": 1}, "xyz", (), "the part is 'xyz', expected one of one$"),
        (
            TABLE,
            "colours",
            ("blue", "rad"),
            "part colours has no argument 'rad', it takes red, .* mean red",
        ),
        ({"none": anything}, "none", ("a",), "the part none has no argument 'a', it takes none$"),
    ],
)
def test_what_cannot_be_selected_is_refused_with_all_that_can(table, name, options, sentence):
    takes = TAKES if table is TABLE else lambda part: []
    with pytest.raises(InputError, match=sentence):
        select(table, name, options, "the part", takes=takes)


def test_any_name_of_a_file_can_be_written():
    latin, utf8 = (
        b"M\xfcller".decode("ascii", "surrogateescape"),
        "Größe".encode().decode("ascii", "surrogateescape"),
    )
    assert latin.encode("utf-8", READABLE).decode() == "M\ufffdller"
    assert utf8.encode("utf-8", READABLE).decode() == "Größe"  # as names are in a locale without letters
    assert "3 × 4".encode("ascii", READABLE).decode() == "3 × 4"
    with pytest.raises(UnicodeDecodeError):
        b"\xfc".decode("utf-8", READABLE)
