"""What one process writes, the other reads: the same numbers, places and kinds, or nothing at all."""

import numpy as np
import pytest

from RegCore.io import messages
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

OBLIQUE = np.array([[1.1, 0.2, 0.0, -7.0], [-0.3, 0.9, 0.1, 4.0], [0.0, 0.1, -2.5, 11.0], [0, 0, 0, 1]])


@pytest.fixture
def things():
    rng = np.random.default_rng(3)
    grid = Geometry((7, 8, 9), OBLIQUE)
    affine = AffineTransform(OBLIQUE)
    return {
        "fixed": Volume(rng.normal(size=(9, 8, 7)).astype(np.int16).T, grid),
        "labels": Volume(rng.integers(0, 2, (7, 8, 9, 3)).astype(np.uint8), grid, "labels"),
        "affine": affine,
        "field": DisplacementField(grid, rng.normal(size=(7, 8, 9, 3)), affine),
        "bare": DisplacementField(grid, rng.normal(size=(7, 8, 9, 3))),
        "landmarks": rng.normal(size=(5, 6)),
        "metrics": {"dice": {1: np.float32(0.5)}, "seconds": 2, "text": "°"},
        "nothing": None,
    }


def test_everything_comes_back_as_it_was(things, tmp_path):
    messages.write(tmp_path / "a.npz", things)
    back = messages.read(tmp_path / "a.npz")
    assert list(back) == list(things)
    for name in ("fixed", "labels"):
        np.testing.assert_array_equal(back[name].array, things[name].array)
        assert back[name].array.dtype == things[name].array.dtype
        assert back[name].geometry == things[name].geometry
        assert back[name].kind == things[name].kind
    for name in ("field", "bare"):
        np.testing.assert_array_equal(back[name].mm, things[name].mm)
        assert back[name].geometry == things[name].geometry
    np.testing.assert_array_equal(back["affine"].matrix, OBLIQUE)
    np.testing.assert_array_equal(back["field"].affine.matrix, OBLIQUE)
    assert back["bare"].affine is None
    np.testing.assert_array_equal(back["landmarks"], things["landmarks"])
    assert back["metrics"] == {"dice": {"1": 0.5}, "seconds": 2, "text": "°"}
    assert back["nothing"] is None


def test_the_size_is_that_of_the_arrays(things, tmp_path):
    messages.write(tmp_path / "m.npz", things)
    with np.load(tmp_path / "m.npz") as arrays:
        written = sum(arrays[name].nbytes for name in arrays if name != messages.DESCRIPTION)
    assert messages.size(things) == written > 7 * 8 * 9 * 12


def test_a_failed_write_leaves_the_old_file(things, tmp_path):
    path = tmp_path / "a.npz"
    messages.write(path, {"value": 1})
    with pytest.raises(TypeError, match="set"):
        messages.write(path, {**things, "value": {1, 2}})
    with pytest.raises(TypeError, match="odd: an array of numbers"):
        messages.write(path, {"odd": np.array([object()])})
    assert messages.read(path) == {"value": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_that_holds_python_objects_is_not_unpacked(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code from the file ran",))

    with open(tmp_path / "a.npz", "wb") as file:
        np.savez(file, description=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        messages.read(tmp_path / "a.npz")
