"""The synthetic torsos keep their promises: an exact map between any two, no folds, the same for a seed."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from RegCore.evaluation.metrics import dice, folding
from RegCore.io import load
from RegCore.resampler import warp
from RegCore.samples.torso import HALF, LABELS, NOISE, ROUGHNESS, make_torso, true_transform, write_torsos
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform

SMALL = (40, 40, 40)


@cache
def torso(seed: int, shape=SMALL):
    return make_torso(seed, shape)


@cache
def truth(fixed: int, moving: int):
    return true_transform(torso(fixed), torso(moving))


def seen(volume, transform, onto: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """A volume pulled onto a grid by SciPy, and which voxels come from inside of it."""
    index = volume.geometry.to_index(transform.map(onto.world_grid()))
    inside = ((index >= 0) & (index <= np.array(volume.array.shape) - 1)).all(-1)
    return map_coordinates(volume.array, np.moveaxis(index, -1, 0), order=1, mode="nearest"), inside


def test_the_same_seed_is_the_same_scan_and_another_one_somebody_else():
    again = make_torso(101, SMALL)
    np.testing.assert_array_equal(torso(101).image.array, again.image.array)
    np.testing.assert_array_equal(torso(101).labels.array, again.labels.array)
    assert (torso(102).labels.array != again.labels.array).mean() > 0.03


def test_the_true_map_leads_to_the_same_place_of_the_anatomy():
    fixed, moving = torso(101), torso(104)
    points = fixed.image.geometry.world_grid()
    there = moving.anatomy.map(truth(101, 104).map(points))
    assert np.linalg.norm(there - fixed.anatomy.map(points), axis=-1).max() < 0.8
    back = true_transform(moving, fixed)
    inside = np.abs(truth(101, 104).map(points)).max(-1) < HALF - 5
    assert np.linalg.norm(back.map(truth(101, 104).map(points)) - points, axis=-1)[inside].max() < 2.0


def test_the_true_map_aligns_images_and_structures_which_no_affine_map_does():
    fixed, moving, exact = torso(101), torso(104), truth(101, 104)
    grid = fixed.image.geometry
    image, inside = seen(moving.image, exact, grid)
    body = inside & (fixed.image.array > -300)
    start = seen(moving.image, AffineTransform.identity(), grid)[0]
    assert np.corrcoef(fixed.image.array[body], start[body])[0, 1] < 0.6
    assert np.corrcoef(fixed.image.array[body], image[body])[0, 1] > 0.8
    means = []
    for transform in (AffineTransform.identity(), exact.affine_part(), exact):
        found = dice(fixed.labels.array, warp(moving.labels, transform, grid).array, list(LABELS))
        means.append(np.mean(list(found.values())))
    assert means[0] < 0.5 and means[0] + 0.1 < means[1] < 0.8 and means[2] > 0.85


def test_no_map_folds_and_each_scan_shows_every_structure():
    for seed in (0, 101, 102, 103):
        field = torso(seed).anatomy
        assert folding(field) == 0.0 and field.jacobian_determinant().min() > 0.1
        assert torso(seed).labels.labels() == list(LABELS)


def test_the_deformation_is_equally_strong_everywhere():
    """Filtered noise without periodicity has most of its variance at the border."""
    squares = []
    for seed in range(1, 9):
        field = torso(seed, (8, 8, 8)).anatomy
        straight = field.affine.map(field.geometry.world_grid()) - field.geometry.world_grid()
        squares.append(((field.mm - straight) ** 2).sum(-1))
    square = np.mean(squares, 0) / (ROUGHNESS * HALF) ** 2
    middle = square[24:-24, 24:-24, 24:-24].mean()
    assert square.mean() == pytest.approx(1, abs=0.15) and middle == pytest.approx(1, abs=0.4)


def test_seed_0_is_the_anatomy_itself_in_the_middle():
    assert np.abs(torso(0).anatomy.mm).max() < 1e-3
    labels = torso(0).labels
    place = {
        name: labels.geometry.to_world(np.argwhere(labels.array == n)).mean(0) for n, name in LABELS.items()
    }
    assert place["liver"][0] > 30 and place["spleen"][0] < -60  # right is +x, left is -x
    assert place["aorta"][1] < place["stomach"][1] and place["left kidney"][2] < place["spleen"][2]


def test_any_grid_shows_the_same_torso():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (0.2, -0.1, 0.3)).as_matrix() @ np.diag([-6.0, 7.5, 9.0])
    affine[:3, 3] = (140, -130, -150)
    other = make_torso(101, geometry=Geometry((44, 36, 30), affine))
    image, inside = seen(other.image, AffineTransform.identity(), torso(101).image.geometry)
    body = inside & (torso(101).image.array > -300)
    assert np.corrcoef(image[body], torso(101).image.array[body])[0, 1] > 0.85
    np.testing.assert_array_equal(other.anatomy.mm, torso(101).anatomy.mm)


def test_the_noise_is_of_the_stated_size_and_subjects_differ_in_brightness():
    means = []
    for seed in (0, 101, 102):
        array = torso(seed).image.array
        assert array[array < -950].std() == pytest.approx(NOISE["ct"], rel=0.1)
        means.append(array[torso(seed).labels.array == 1].mean())
    assert np.ptp(means) > 10 and all(0 < mean < 220 for mean in means)


def test_mr_shows_the_same_anatomy_in_other_intensities():
    scan = make_torso(101, SMALL, modality="mr")
    np.testing.assert_array_equal(scan.labels.array, torso(101).labels.array)
    assert np.corrcoef(scan.image.array.ravel(), torso(101).image.array.ravel())[0, 1] < 0.9
    with pytest.raises(InputError, match="as ct or mr, not as 'us'"):
        make_torso(1, SMALL, modality="us")


def test_the_data_set_of_the_example_has_images_labels_and_the_true_maps(tmp_path):
    shape = (24, 20, 22)
    files = write_torsos(tmp_path, trained=2, tested=1, shape=shape)
    folder = tmp_path / "demos" / "slicreg_torsos" / "dataset"
    assert sorted(str(path.relative_to(folder)) for path in files) == [
        *("template.nii.gz", "template_seg.nii.gz", "test/images/torso101.nii.gz"),
        *("test/labels/torso101.nii.gz", "test/truth/torso101.h5"),
        *("train/torso001.nii.gz", "train/torso002.nii.gz"),
    ]
    template, scan = make_torso(0, shape), make_torso(101, shape)
    np.testing.assert_allclose(load(folder / "template.nii.gz").array, template.image.array, atol=1e-3)
    assert np.array_equal(load(folder / "test/labels/torso101.nii.gz", "labels").array, scan.labels.array)
    points = template.image.geometry.centre + np.random.default_rng(0).uniform(-90, 90, (50, 3))
    expected = true_transform(template, scan).map(points)
    np.testing.assert_allclose(load(folder / "test/truth/torso101.h5").map(points), expected, atol=1e-2)
    (tmp_path / "full").touch()
    with pytest.raises(InputError, match="the data can't be written"):
        write_torsos(tmp_path / "full")
