"""Proposals for mistyped names, and names that are paths."""

from pathlib import Path

import pytest

from RegCore.space.names import is_path, nearest

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
