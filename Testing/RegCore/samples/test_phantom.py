"""The phantom keeps its promises: exact truth, invertible, differing oblique grids, the same for a seed."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from RegCore.samples.phantom import LABELS, NOISE, make_phantom
from RegCore.space.geometry import InputError

SMALL = {"fixed_shape": (44, 37, 32), "moving_shape": (40, 39, 35)}


@pytest.fixture(scope="module")
def case():
    return make_phantom(seed=3, fixed_shape=(72, 60, 52), moving_shape=(66, 63, 57))


def warped(case, volume, order):
    index = case.moving.geometry.to_index(case.truth.map(case.fixed.geometry.world_grid()))
    inside = ((index >= 1) & (index <= np.array(volume.array.shape) - 2)).all(-1)
    return map_coordinates(volume.array, np.moveaxis(index, -1, 0), order=order, mode="nearest"), inside


def test_the_grids_are_oblique_anisotropic_and_differ(case):
    fixed, moving = case.fixed.geometry, case.moving.geometry
    assert fixed.shape != moving.shape
    assert len({*np.round(fixed.spacing, 3), *np.round(moving.spacing, 3)}) == 6
    for grid in (fixed, moving):
        largest = np.abs(grid.direction).max(0)
        assert (largest < 0.9999).all() and (largest > 0.9).all()
    assert np.linalg.det(fixed.direction) * np.linalg.det(moving.direction) < 0  # one of them is left-handed


def test_the_truth_aligns_images_and_labels(case):
    image, inside = warped(case, case.moving, order=1)
    body = inside & (case.fixed.array > -300)
    index = np.moveaxis(case.moving.geometry.to_index(case.fixed.geometry.world_grid()), -1, 0)
    start = map_coordinates(case.moving.array, index, order=1, mode="nearest")
    assert np.corrcoef(case.fixed.array[body], start[body])[0, 1] < 0.7
    assert np.corrcoef(case.fixed.array[body], image[body])[0, 1] > 0.87
    labels, inside = warped(case, case.moving_labels, order=0)
    for label in LABELS:
        a, b = (case.fixed_labels.array == label) & inside, (labels == label) & inside
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.87, LABELS[label]


def test_what_the_truth_leaves_is_noise_of_the_stated_size():
    case = make_phantom(seed=1, fixed_shape=(100, 84, 72), moving_shape=(100, 92, 84))
    image, inside = warped(case, case.moving, order=1)
    liver = inside & (case.fixed_labels.array == 4)
    rest = (case.fixed.array - image)[liver]
    # Interpolation averages the moving noise; edges of vessels add a little.
    assert NOISE["ct"] * 0.9 < np.median(np.abs(rest)) / 0.6745 < NOISE["ct"] * 1.6


def test_the_deformation_is_smooth_invertible_and_of_the_size_asked_for(case):
    assert case.truth.jacobian_determinant().min() > 0.3
    length = np.linalg.norm(case.landmarks[:, 3:] - case.landmarks[:, :3], axis=1)
    assert 5 < length.mean() < 9
    twice = make_phantom(seed=3, displacement_mm=3.5, **SMALL).landmarks
    assert np.linalg.norm(twice[:, 3:] - twice[:, :3], axis=1).mean() == pytest.approx(3.6, abs=0.8)
    rigid = case.truth.affine_part().map(case.landmarks[:, :3])
    assert np.linalg.norm(rigid - case.landmarks[:, 3:], axis=1).mean() > 2  # no affine transform explains it


def test_landmarks_lie_inside_the_organs_and_follow_the_truth(case):
    assert case.landmarks.shape[0] >= 100 and case.landmarks.shape[1] == 6
    np.testing.assert_allclose(case.truth.map(case.landmarks[:, :3]), case.landmarks[:, 3:], atol=1e-4)
    index = np.rint(case.fixed.geometry.to_index(case.landmarks[:, :3])).astype(int)
    seen = case.fixed_labels.array[tuple(index.T)]
    assert set(seen.tolist()) == set(LABELS)
    moving = case.moving.geometry.to_index(case.landmarks[:, 3:])
    assert ((moving >= 0) & (moving <= np.array(case.moving.geometry.shape) - 1)).all()


def test_every_organ_is_in_both_scans_and_has_its_own_intensity(case):
    assert case.fixed_labels.labels() == case.moving_labels.labels() == sorted(LABELS)
    means = [np.median(case.moving.array[case.moving_labels.array == label]) for label in LABELS]
    lungs, others, kidneys = means[:2], [*means[2:6], means[8]], means[6:8]
    levels = sorted([np.mean(lungs), *others, np.mean(kidneys)])
    assert np.diff(levels).min() > 10
    assert abs(lungs[0] - lungs[1]) < 30 and abs(kidneys[0] - kidneys[1]) < 40  # pairs are of one tissue


def test_a_seed_gives_the_same_case_and_another_seed_another():
    first, second, other = (make_phantom(seed=seed, **SMALL) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.fixed.array, second.fixed.array)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    assert not np.array_equal(first.moving_labels.array, other.moving_labels.array)


def test_another_modality_shows_the_same_anatomy_in_other_intensities():
    ct = make_phantom(seed=2, **SMALL)
    mixed = make_phantom(seed=2, modalities=("ct", "mr"), **SMALL)
    np.testing.assert_array_equal(ct.moving_labels.array, mixed.moving_labels.array)
    assert np.corrcoef(ct.moving.array.ravel(), mixed.moving.array.ravel())[0, 1] < 0.9
    with pytest.raises(InputError, match="as ct or mr, not as 'us'"):
        make_phantom(modalities=("ct", "us"), **SMALL)


def test_a_deformation_that_could_fold_is_refused():
    with pytest.raises(InputError, match="40 mm on average could fold"):
        make_phantom(displacement_mm=40, **SMALL)
