"""Curves lie where their numbers are; middle slices show the sides of the patient where they belong."""

import numpy as np
import pytest

from RegCore.evaluation.pictures.curves import COLOURS, HEIGHT, LEFT, TOP, WIDTH, Panel, curves_picture
from RegCore.evaluation.pictures.means import means_picture, middle_slices
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS


def places(picture, colour) -> np.ndarray:
    """(x, y) of the pixels of a colour inside the first panel."""
    array = np.asarray(picture)[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH]
    return np.argwhere((array == colour).all(-1))[:, ::-1]


def test_a_rising_line_rises_and_a_flat_one_does_not():
    picture = curves_picture(
        "t", [Panel("mm", {"rising": np.arange(20.0), "flat": np.full(20, 10.0)})], "frame"
    )
    rising, flat = (places(picture, colour) for colour in COLOURS[:2])
    assert np.corrcoef(rising.T)[0, 1] < -0.99  # y grows downwards
    assert np.ptp(flat[:, 1]) < 10 and abs(flat[:, 1].mean() - np.median(rising[:, 1])) < 10
    assert np.ptp(rising[:, 0]) > 0.95 * WIDTH


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 2.0, 2.0], [1.0, np.nan, 2.0], [np.nan, np.nan], [0.0, 1e-12]]
)
def test_odd_curves_can_be_drawn(values):
    picture = curves_picture(
        "t", [Panel("mm", {"one": values}), Panel("x", {"two": [1.0] * len(values)})], "n"
    )
    assert picture.size[1] > 2 * HEIGHT


@pytest.mark.parametrize("name", GRIDS)
def test_right_is_at_the_left_and_superior_at_the_top(name):
    grid = GRIDS[name]
    for axis in range(3):  # bright where R, A or S is
        ramp = Volume(grid.world_grid()[..., axis].astype(np.float32), grid)
        axial, coronal, sagittal = middle_slices(ramp, 0.5)
        expected = [((axial, 1), (coronal, 1)), ((axial, 0), (sagittal, 1)), ((coronal, 0), (sagittal, 0))]
        for part, along in expected[axis]:
            profile = part.mean(1 - along)
            assert profile[0] > profile[-1]


def test_rows_stand_under_each_other_with_the_sizes_of_the_volumes():
    volume = Volume(np.random.default_rng(0).normal(size=(7, 8, 9)), GRIDS["lps-like"])  # 7, 16 and 27 mm
    one, two = means_picture([("a", volume)]), means_picture([("a", volume), ("b", volume)])
    assert one.size[0] == two.size[0] and two.size[1] > 1.8 * one.size[1]
    axial, coronal, _ = middle_slices(volume, 1.0)
    assert axial.shape == (16, 7) and coronal.shape == (27, 7)
