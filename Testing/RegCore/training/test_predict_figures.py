"""Figures of a prediction in space by hand: overlap, centroids in millimetres, folds, and what has none."""

import numpy as np
import pytest
import torch

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from RegCore.training.predict_figures import in_space, on_network_grid
from Testing.RegCore.grids import GRIDS, SHAPE

IDENTITY = AffineTransform.identity()


def label(grid: Geometry, *corners: tuple[int, int, int], value: float = 1.0) -> Volume:
    """A box of 2 by 2 by 2 voxels at each corner."""
    array = np.zeros(grid.shape, np.float32)
    for i, j, k in corners:
        array[i : i + 2, j : j + 2, k : k + 2] = value
    return Volume(array, grid)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_boxes_that_share_a_layer(grid):
    """Eight voxels each, four in common; their centroids are one voxel apart along j."""
    found = in_space(IDENTITY, label(grid, (1, 2, 3)), label(grid, (1, 3, 3)))
    assert found["label_dice"] == 0.5 and found["fold_percent"] == 0
    assert found["label_tre_mm"] == pytest.approx(np.linalg.norm(grid.affine[:3, 1]))


def test_centroids_are_apart_along_all_axes():
    grid = GRIDS["oblique"]
    found = in_space(IDENTITY, label(grid, (0, 1, 2), (3, 1, 2)), label(grid, (2, 4, 6)))
    step = grid.to_world([2.5, 4.5, 6.5]) - grid.to_world([2.0, 1.5, 2.5])
    assert found["label_dice"] == 0 and found["label_tre_mm"] == pytest.approx(np.linalg.norm(step))


@pytest.mark.parametrize(("value", "inside"), [(0.49, False), (0.5, True), (0.51, True)])
def test_a_voxel_is_inside_from_one_half_on(value, inside):
    grid = GRIDS["oblique"]
    found = in_space(IDENTITY, label(grid, (1, 1, 1)), label(grid, (1, 1, 1), value=value))
    assert found["label_dice"] == (1.0 if inside else 0.0)
    assert found["label_tre_mm"] == 0 if inside else np.isnan(found["label_tre_mm"])


def test_what_can_not_be_measured_is_missing_or_nan():
    grid = GRIDS["oblique"]
    some, none = label(grid, (1, 1, 1)), label(grid)
    assert set(in_space(IDENTITY, some, None)) == set(in_space(IDENTITY, None, some)) == {"fold_percent"}
    empty = in_space(IDENTITY, none, none)
    assert np.isnan(empty["label_dice"]) and np.isnan(empty["label_tre_mm"])
    lost = in_space(IDENTITY, some, none)
    assert lost["label_dice"] == 0 and np.isnan(lost["label_tre_mm"])


def test_folds_are_a_share_in_percent():
    grid = Geometry(SHAPE, np.eye(4))
    mm = np.zeros((*SHAPE, 3))
    mm[..., 0] = -2 * np.arange(SHAPE[0])[:, None, None]  # every voxel is mirrored
    assert in_space(DisplacementField(grid, mm), None, None)["fold_percent"] == 100


def test_figures_on_the_grid_of_the_network():
    fixed, moved = torch.zeros(2, 1, 1, 4, 5, 6).unbind(0)
    fixed[..., 1:3, 1:3, 1:3] = 1
    moved[..., 1:3, 2:4, 1:3] = 0.75
    given = {"fixed_image": fixed, "fixed_label": fixed}
    found = on_network_grid(given, moved, moved, deepreg=False)
    squares = (4 * 1.0**2 + 4 * 0.75**2 + 4 * 0.25**2) / (4 * 5 * 6)
    assert found["image_ssd"] == pytest.approx(squares)
    assert found["label_binary_dice"] == pytest.approx(0.5, abs=1e-5)
    assert found["label_tre"] == pytest.approx(1, abs=1e-5)
    assert set(on_network_grid(given, None, moved, deepreg=False)) == {"label_binary_dice", "label_tre"}
    assert set(on_network_grid(given, moved, None, deepreg=False)) == {"image_ssd"}
