"""Proposals for mistyped names."""

import pytest

from RegCore.names import nearest

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
