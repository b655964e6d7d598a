"""The channel of progress: fractions of a part, cancelling, exceptions of the caller."""

import pytest

from RegCore.progress import Cancelled, duration, part_of, silent


def test_the_fractions_of_a_part_become_fractions_of_the_whole():
    told = []
    report = part_of(lambda *event: told.append(event), 0.25, 0.75)
    for fraction in (0.0, 0.5, 1.0):
        report(fraction, "stage", {"iteration": 3})
    assert told == [(f, "stage", {"iteration": 3}) for f in (0.25, 0.5, 0.75)]


@pytest.mark.parametrize(("fraction", "expected"), [(-0.5, 0.2), (1.5, 0.6)])
def test_a_part_never_leaves_its_range(fraction, expected):
    told = []
    part_of(lambda f, *_: told.append(f), 0.2, 0.6)(fraction, "", {})
    assert told == pytest.approx([expected])


def test_parts_of_parts_lie_inside_each_other():
    told = []
    inner = part_of(part_of(lambda f, *_: told.append(f), 0.5, 1.0), 0.5, 1.0)
    inner(0.0, "", {})
    inner(1.0, "", {})
    assert told == [0.75, 1.0]


@pytest.mark.parametrize("error", [Cancelled, KeyError])
def test_what_the_caller_raises_goes_through(error):
    def stop(fraction, text, values):
        raise error

    with pytest.raises(error):
        part_of(stop, 0.0, 0.5)(0.1, "", {})


def test_silence_takes_what_progress_takes():
    assert silent(0.5, "stage", {"loss": 1.0}) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (605, "10:05"), (3661, "1:01:01"), (float("nan"), "?")],
)
def test_durations_as_people_write_them(seconds, text):
    assert duration(seconds) == text
