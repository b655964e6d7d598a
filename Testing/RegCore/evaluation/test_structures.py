"""Figures of structures, against SciPy's distance transform, SimpleITK and closed forms."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, distance_transform_edt

from RegCore.evaluation.metrics import dice
from RegCore.evaluation.structures import centroid_distance, structure_figures, surface_distance
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

SPACING = np.array([1.5, 0.7, 2.2])


def ball(shape, centre, radius) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    return np.asarray(np.linalg.norm((index - centre) * SPACING, axis=-1) <= radius)


def geometry(shape) -> Geometry:
    """A turned, left-handed, anisotropic grid."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn[:, 0] *= -np.sign(np.linalg.det(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    affine[:3, 3] = (-20, 7, 31)
    return Geometry(shape, affine)


def by_distance_transform(a, b, percentile) -> float:
    ways = []
    for one, other in ((a, b), (b, a)):
        edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
        ways.append(np.percentile(distance_transform_edt(~edges[1], SPACING)[edges[0]], percentile))
    return max(ways)


@pytest.mark.parametrize("percentile", [50, 95, 100])
def test_the_distance_of_surfaces_is_that_of_distance_transforms(percentile):
    shape = (23, 40, 17)
    a, b = ball(shape, (10, 18, 8), 9), ball(shape, (12, 20, 8), 11)
    got = surface_distance(a, b, geometry(shape), percentile)
    assert got == pytest.approx(by_distance_transform(a, b, percentile), abs=1e-9)


def test_the_largest_distance_is_that_of_simpleitk():
    shape = (23, 40, 17)
    a, b = ball(shape, (10, 18, 8), 9), ball(shape, (10, 18, 8), 12)
    images = [sitk.GetImageFromArray(mask.transpose(2, 1, 0).astype(np.uint8)) for mask in (a, b)]
    for image in images:
        image.SetSpacing(SPACING.tolist())
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    # ITK measures from all voxels of one mask; the farthest ones of the outer ball are on its surface
    assert surface_distance(a, b, geometry(shape), 100) == pytest.approx(measure.GetHausdorffDistance())


def test_a_thinned_surface_gives_nearly_the_same(monkeypatch):
    shape = (23, 40, 17)
    a, b = ball(shape, (10, 18, 8), 9), ball(shape, (12, 20, 8), 11)
    full = surface_distance(a, b, geometry(shape))
    monkeypatch.setattr("RegCore.evaluation.structures.MOST_POINTS", 60)
    thinned = surface_distance(a, b, geometry(shape))
    assert thinned != full and thinned == pytest.approx(full, rel=0.15)


def test_a_shift_moves_the_centroid_by_itself():
    shape = (23, 40, 17)
    a, b = ball(shape, (10, 18, 8), 7), ball(shape, (13, 18, 7), 7)
    assert centroid_distance(a, b, geometry(shape)) == pytest.approx(np.hypot(3 * 1.5, 1 * 2.2))


def test_before_and_after_of_every_structure():
    shape = (23, 40, 17)
    grid = geometry(shape)
    fixed, moving = (np.zeros(shape, np.uint8) for _ in range(2))
    fixed[ball(shape, (10, 18, 8), 7)], moving[ball(shape, (13, 18, 8), 7)] = 3, 3
    fixed[14:18, 32:38, 4:9] = moving[14:18, 32:38, 4:9] = 5
    fixed[0, 0, 0] = 9  # the moving one lacks it
    volumes = [Volume(array, grid, "labels") for array in (fixed, moving)]
    shift = np.eye(4)
    shift[:3, 3] = grid.affine[:3, 0] * 3  # three voxels along the first axis
    warped = Volume(np.roll(moving, -3, 0), grid, "labels")
    found = structure_figures(*volumes, warped)
    assert set(found) == {3, 5}
    expected = dice(fixed, moving, [3])[3]
    assert found[3]["dice"] == {"before": expected, "after": 1.0} and 0.4 < expected < 0.7
    assert found[3]["centroid_mm"] == pytest.approx({"before": 4.5, "after": 0.0}, abs=1e-9)
    assert found[3]["hd95_mm"]["before"] == pytest.approx(by_distance_transform(fixed == 3, moving == 3, 95))
    assert found[3]["hd95_mm"]["after"] == 0
    assert found[5]["centroid_mm"] == pytest.approx({"before": 0.0, "after": 4.5}, abs=1e-9)
    started = structure_figures(*volumes, warped, AffineTransform(shift))
    assert started[3]["dice"] == {"before": 1.0, "after": 1.0}


def test_channels_that_overlap_and_structures_that_vanish():
    shape = (9, 8, 7)
    grid = geometry(shape)
    array = np.zeros((*shape, 2), np.uint8)
    array[1:5, 1:5, 1:5, 0] = array[3:7, 3:7, 3:6, 1] = 1
    gone = array.copy()
    gone[..., 1] = 0
    labels = Volume(array, grid, "labels")
    found = structure_figures(labels, labels, Volume(gone, grid, "labels"))
    assert found[0]["dice"] == {"before": 1.0, "after": 1.0}
    assert found[1]["dice"] == {"before": 1.0, "after": 0.0}
    assert math.isnan(found[1]["hd95_mm"]["after"]) and math.isnan(found[1]["centroid_mm"]["after"])


def test_segmentations_without_a_common_structure_are_refused():
    grid = geometry((7, 8, 9))
    one, two = (Volume(np.full((7, 8, 9), n, np.uint8), grid, "labels") for n in (1, 2))
    with pytest.raises(InputError, match="fixed"):
        structure_figures(one, two, one)
