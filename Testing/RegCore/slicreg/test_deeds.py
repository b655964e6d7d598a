"""Results of deeds: voxel equality with its own warp (recorded), and with files made by a formula."""

from pathlib import Path

import numpy as np
import pytest

from RegCore.slicreg.label_propagation import read_control_points, read_deeds, read_matrix
from RegCore.space.geometry import InputError
from Testing.paths import DATA

# What linearBCV and deedsBCV wrote, with their defaults, for two synthetic torsos of 50 × 42 × 57 voxels.
DEEDS = DATA / "deeds"
SHAPE = (50, 42, 57)


def nearest(labels: np.ndarray, ddf: np.ndarray) -> np.ndarray:
    """Labels at index + ddf, halves rounded away from zero, the edge repeated: the way of deeds."""
    place = np.indices(labels.shape) + ddf
    whole = np.sign(place) * np.floor(np.abs(place) + 0.5)
    return labels[tuple(np.clip(p, 0, n - 1).astype(int) for p, n in zip(whole, labels.shape, strict=True))]


def test_every_voxel_is_where_deeds_itself_put_it():
    with np.load(DEEDS / "pair_labels.npz") as archive:
        moving, deformed = archive["moving"], archive["deformed"]
    ddf = read_deeds(DEEDS / "pair_displacements.dat", DEEDS / "pair_matrix.txt", SHAPE)
    assert (moving != deformed).mean() > 0.03
    np.testing.assert_array_equal(nearest(moving, ddf), deformed)


SMALL = (11, 14, 19)
MATRIX = np.array([[1.1, 0.2, -0.1, 3.0], [0.05, 0.9, 0.15, -2.0], [-0.2, 0.1, 1.05, 0.5], [0, 0, 0, 1.0]])


def written(folder: Path, shape=SMALL, step: int = 3) -> tuple[Path, Path, np.ndarray]:
    """Files by a formula: along axis a, control point (p, q, r) is moved by 10 a + p + 2 q - 3 r / 10."""
    p, q, r = np.indices([n // step for n in shape])
    along = [10 * a + p + 2 * q - 0.3 * r for a in range(3)]
    blocks = [along[1], along[0], along[2]]
    raw = b"".join(block.astype("<f4").tobytes(order="F") for block in blocks)
    (folder / "x_displacements.dat").write_bytes(raw)
    rows = [" ".join(f"{value:.9g}" for value in row) for row in MATRIX.T]
    (folder / "x_matrix.txt").write_text("\n".join(rows) + "\n")
    return folder / "x_displacements.dat", folder / "x_matrix.txt", np.stack(along)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_files_made_by_a_formula_give_back_the_formula(tmp_path, step):
    data, matrix, control = written(tmp_path, step=step)
    np.testing.assert_allclose(read_control_points(data, SMALL), control, rtol=1e-6)
    found = read_deeds(data, matrix, SMALL)
    index = np.indices(SMALL)
    at = [np.minimum(i * (n // step) / n, n // step - 1) for i, n in zip(index, SMALL, strict=True)]
    for axis in range(3):
        smooth = 10 * axis + at[0] + 2 * at[1] - 0.3 * at[2]
        linear = sum(MATRIX[axis, b] * index[b] for b in range(3)) + MATRIX[axis, 3] - index[axis]
        np.testing.assert_allclose(found[axis], smooth + linear, atol=2e-4)


def test_the_matrix_is_the_transpose_of_the_file(tmp_path):
    np.testing.assert_allclose(read_matrix(written(tmp_path)[1]), MATRIX, rtol=1e-6)


REFUSED = {
    "missing field": (lambda d, m: d.unlink(), "x_displacements.dat: can't be read"),
    "cut field": (lambda d, m: d.write_bytes(d.read_bytes()[:-5]), "three blocks of 4-byte numbers"),
    "other shape": (lambda d, m: d.write_bytes(d.read_bytes()[:-120]), "fit no grid for the shape"),
    "empty field": (lambda d, m: d.write_bytes(b""), "three blocks of 4-byte numbers"),
    "not finite": (lambda d, m: d.write_bytes(np.full(216, np.nan, "<f4").tobytes()), "NaN or infinite"),
    "missing matrix": (lambda d, m: m.unlink(), "x_matrix.txt: can't be read"),
    "words": (lambda d, m: m.write_text("a b c d\n" * 4), "four lines of four numbers"),
    "three lines": (lambda d, m: m.write_text("1 0 0 0\n" * 3), "four lines of four finite numbers"),
    "not transposed": (
        lambda d, m: m.write_text("1 0 0 5\n0 1 0 6\n0 0 1 7\n0 0 0 1\n"),
        r"the last column of the matrix must be 0 0 0 1, not \[5.0, 6.0, 7.0, 1.0\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_files_are_named(tmp_path, case):
    data, matrix, _ = written(tmp_path)
    spoil, sentence = REFUSED[case]
    spoil(data, matrix)
    with pytest.raises(InputError, match=sentence):
        read_deeds(data, matrix, SMALL)
