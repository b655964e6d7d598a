"""Steps: a value is made once for the same inputs, settings and version, and read back as it was."""

import numpy as np
import pytest

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.studies.steps import STEPS, Steps, kept

GRID = Geometry((4, 3, 2), np.diag([2.0, 2.0, 3.0, 1.0]))


def steps_for(folder, **settings) -> Steps:
    for name in "ab":
        (folder / name).write_text(name)
    return Steps(folder / "out", {"a": folder / "a", "b": folder / "b"}, settings)


def made(steps, value, name="one", roles=("a", "method"), **settings):
    """The value of a step, and whether it was made now."""
    calls = []
    found = kept(steps.step(name, settings, roles), lambda: calls.append(1) or value)
    return found, bool(calls)


def test_a_value_is_made_once_and_comes_back_with_the_same_bits(tmp_path):
    values = np.random.default_rng(0).normal(size=(*GRID.shape, 3)).astype(np.float32)
    field = DisplacementField(GRID, values, AffineTransform(np.eye(4) + 1e-17))
    with steps_for(tmp_path).opened(print) as steps:
        first, now = made(steps, field)
        again, later = made(steps, None)
        assert (now, later) == (True, False)
        for found in (first, again):
            assert found.mm.tobytes() == values.tobytes() and found.mm.dtype == values.dtype
            assert np.array_equal(found.affine.matrix, field.affine.matrix) and found.geometry == GRID


@pytest.mark.parametrize(
    ("change", "anew"), [("nothing", False), ("a", True), ("b", False), ("settings", True), ("reading", True)]
)
def test_only_what_a_step_depends_on_makes_it_anew(tmp_path, change, anew):
    told = []
    with steps_for(tmp_path).opened(told.append) as steps:
        made(steps, AffineTransform.identity(), levels=1)
    later = steps_for(tmp_path)
    if change in "ab":
        (tmp_path / change).write_text("changed")
    reading = {"series": "1.2"} if change == "reading" else {}
    later = Steps(later.out, later.inputs, {}, reading)
    with later.opened(told.append) as steps:
        assert made(steps, AffineTransform.identity(), levels=2 if change == "settings" else 1)[1] is anew
    words = {"a": "an input has changed", "b": "an input has changed", "reading": "the settings have changed"}
    assert (
        len(told) == 1 and words.get(change, "an earlier run was stopped; 1 of its steps are kept") in told[0]
    )


def test_the_end_is_noted_when_the_results_are_there_and_nothing_stays_of_nothing(tmp_path):
    with pytest.raises(KeyError), steps_for(tmp_path).opened(print) as steps:
        raise KeyError
    assert not (steps.folder.exists() or steps.finished())

    def write():
        (steps.out / "result").write_text("1")
        return ["result"]

    with steps.opened(print):
        assert steps.finish(write) == ["result"]
    assert steps_for(tmp_path).finished() and not steps_for(tmp_path, more=1).finished()
    with pytest.raises(KeyError), steps_for(tmp_path, more=1).opened(print):
        raise KeyError  # before any step: the earlier results still count
    assert steps_for(tmp_path).finished() and [p.name for p in (steps.out / STEPS).iterdir()] == [
        "record.json"
    ]

    def fail():
        raise OSError

    with pytest.raises(OSError), steps_for(tmp_path, more=1).opened(print) as other:
        other.finish(fail)  # who knows which results are there now
    assert not steps_for(tmp_path).finished()
