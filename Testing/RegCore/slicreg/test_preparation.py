"""Preparation: the centre of a body on any grid, what is cropped, what is refused."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from RegCore.samples.torso import make_torso
from RegCore.slicreg.preparation import (
    body_centre,
    body_mask,
    centred_grid,
    common_shape,
    downsample2,
    labels_on,
    network_units,
    prepare,
    resample_with_mask,
    soft_tissue,
    upright_grid,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.RegCore.grids import affine

CENTRE = np.array([12.0, -31.0, 54.0])
AXES = {
    "upright": np.diag([5.0, 5.0, 5.0, 1.0]),
    "oblique": affine((0.2, 0.3, -0.4), (4.0, 5.0, 6.5)),
    "left-handed": affine((0.1, -0.2, 0.3), (-4.0, 5.5, 5.0)),
    "permuted": affine((0.0, np.pi / 2, np.pi / 2), (5.0, 4.5, 6.0)),
}


def about(axes: np.ndarray, shape, centre=CENTRE) -> Geometry:
    """A grid of a shape with its centre at a point."""
    matrix = axes.copy()
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, matrix)


def ball(geometry: Geometry, tissue: float = 100.0, air: float = -1000.0) -> Volume:
    """A ball of 50 mm of tissue about `CENTRE`, with a soft edge."""
    depth = 50 - np.linalg.norm(geometry.world_grid() - CENTRE, axis=-1)
    return Volume((air + (tissue - air) * np.clip(0.5 + depth / 6, 0, 1)).astype(np.float32), geometry)


@cache
def torso(seed: int = 102):
    return make_torso(seed, (48, 48, 48))


def test_the_weight_is_that_of_the_publication():
    values = torch.tensor([-125.0, 0.0, 125.0, 250.0, 375.0])
    flat = [soft_tissue(torch.full((1, 1, 3, 3, 3), float(v)))[0, 0, 1, 1, 1].item() for v in values]
    np.testing.assert_allclose(flat, [4.54e-5, 0.5, 0.9999546, 0.5, 4.54e-5], rtol=2e-3)
    image = torch.from_numpy(np.random.default_rng(0).uniform(-300, 500, (1, 1, 7, 8, 9)).astype(np.float32))
    weight = 1 / (1 + np.exp(-(10 - 10 * np.abs(image.numpy()[0, 0] / 250 * 2 - 1))))
    eroded = ndimage.minimum_filter(weight, 3, mode="nearest")
    np.testing.assert_allclose(soft_tissue(image)[0, 0].numpy(), eroded, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_centre_of_the_body_is_found_in_millimetres_on_any_grid(axes, modality):
    grid = about(AXES[axes], (44, 40, 42), CENTRE + [25, 20, -15])
    np.testing.assert_allclose(body_centre(ball(grid), 4.0, modality), CENTRE, atol=1.0)


@pytest.mark.parametrize("axes", AXES)
def test_scans_on_all_grids_become_the_same_scan_on_the_common_grid(axes):
    found = prepare(ball(about(AXES[axes], (40, 40, 42))), (29, 31, 33), 4.0)
    grid = found.image.geometry
    np.testing.assert_allclose(grid.affine[:3, :3], np.diag([4.0] * 3))
    np.testing.assert_allclose(grid.centre, CENTRE, atol=1.0)
    assert grid.shape == (29, 31, 33) and found.known.mean() > 0.8
    difference = np.abs(found.image.array - ball(grid).array)
    assert difference.mean() < 15 and np.percentile(difference, 99) < 250


def test_voxels_of_the_common_grid_are_those_of_the_scan_at_the_same_place():
    volume = torso().image
    found = prepare(volume, (30, 48, 52), 8.0)
    index = volume.geometry.to_index(found.image.geometry.world_grid())
    inside = ((index > -0.5) & (index < 47.5)).all(-1)
    np.testing.assert_array_equal(found.known, inside)
    expected = ndimage.map_coordinates(volume.array, np.moveaxis(index, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(found.image.array, expected, atol=0.05)
    assert 0.5 < inside.mean() < 1
    assert found.source == volume.geometry


def test_finer_scans_are_reduced_without_aliasing():
    grid = Geometry((64, 64, 64), np.eye(4))
    stripes = Volume(np.tile([0.0, 200.0], (64, 64, 32)).astype(np.float32), grid)
    coarse = resample_with_mask(stripes, upright_grid(grid, 4.0))[0]
    assert coarse.shape == (16, 16, 16) and np.abs(coarse - 100).max() < 10


def test_an_upright_grid_covers_the_voxels_of_an_oblique_one():
    grid = about(AXES["oblique"], (17, 18, 19))
    cover = upright_grid(grid, 3.0)
    index = cover.to_index(grid.world_grid())
    assert index.min() > -1 and (index.max((0, 1, 2)) < np.array(cover.shape)).all()
    np.testing.assert_allclose(cover.centre, grid.centre, atol=1e-9)
    assert upright_grid(centred_grid(CENTRE, (7, 8, 9), 2.0), 2.0).is_close(
        centred_grid(CENTRE, (7, 8, 9), 2.0)
    )


def test_labels_follow_the_image_and_stay_labels():
    found = prepare(torso().image, (48, 48, 56), 8.0)
    labels = labels_on(torso().labels, found)
    index = torso().labels.geometry.to_index(found.image.geometry.world_grid())
    nearest = ndimage.map_coordinates(
        torso().labels.array, np.moveaxis(index, -1, 0), order=0, mode="nearest"
    )
    expected = np.where(found.known, nearest, 0)
    assert (labels.array != expected).mean() < 1e-3 and len(labels.labels()) == 7
    assert labels.array.dtype == torso().labels.array.dtype and not found.known.all()


def test_halving_takes_the_mean_of_eight_and_keeps_the_place():
    found = prepare(torso().image, (21, 30, 33), 8.0)
    half = downsample2(found)
    array = found.image.array[:20, :30, :32].reshape(10, 2, 15, 2, 16, 2).mean((1, 3, 5))
    np.testing.assert_allclose(half.image.array, array, rtol=1e-4, atol=0.01)
    expected = found.image.geometry.to_world([0.5, 0.5, 0.5])
    np.testing.assert_allclose(half.image.geometry.to_world([0, 0, 0]), expected, atol=1e-9)
    np.testing.assert_allclose(half.image.geometry.spacing, 16.0)


def test_the_body_is_what_is_not_air_with_its_lungs_and_without_what_is_not_known():
    found = prepare(torso().image, (48, 48, 56), 8.0)
    body, wider = body_mask(found), body_mask(found, 24.0)
    lungs = (found.image.array < -600) & body
    tissue = (found.image.array > -200) & found.known
    assert (body & tissue).sum() > 0.99 * tissue.sum() and lungs.sum() > 300
    assert ndimage.label(body)[1] == 1 and 0.15 < body.mean() < 0.5
    assert (wider & body).sum() == body.sum() and wider.sum() > 1.2 * body.sum()
    assert not wider[~found.known].any() and not found.known.all()
    distance = ndimage.distance_transform_edt(~body) * 8.0
    np.testing.assert_array_equal(wider, (distance <= 24.0) & found.known)


def test_the_network_sees_hounsfield_units_by_500_and_other_scans_in_their_own_range():
    found = prepare(torso().image, (24, 24, 24), 16.0)
    np.testing.assert_allclose(network_units(found)[0, 0].numpy(), found.image.array / 500, rtol=1e-6)
    scan = network_units(replace(found, modality="mr"))
    assert 0.9 < float(scan.quantile(0.99)) < 1.1 and abs(float(scan.quantile(0.01))) < 0.1


def test_the_common_shape_holds_the_middle_sized_scan():
    grids = [centred_grid((0, 0, 0), shape, 2.0) for shape in ((50, 60, 70), (100, 64, 90), (70, 33, 200))]
    assert common_shape(grids, 2.0) == (80, 64, 96)
    assert common_shape(grids, 4.0, multiple=8) == (40, 32, 48)
    with pytest.raises(InputError, match="at least one scan"):
        common_shape([], 2.0)


GRID = about(AXES["upright"], (30, 30, 30))
REFUSED = {
    "air only": (lambda: ball(GRID, tissue=-990.0), "ct", "no body was found; soft tissue of 0 to 250 HU"),
    "bone only": (lambda: ball(GRID, tissue=900.0), "ct", "no body was found"),
    "not HU": (
        lambda: ball(GRID, tissue=1.0, air=0.0),
        "ct",
        "Hounsfield units were expected.*choose the modality mr",
    ),
    "noise": (lambda: _noise(), "mr", "no body was found; a bright body"),
    "constant": (lambda: Volume(np.zeros(GRID.shape, np.float32), GRID), "ct", "is constant"),
    "unknown": (lambda: ball(GRID), "pet", "the modality is 'pet', expected ct or mr"),
}


def _noise() -> Volume:
    """Isolated bright voxels and nothing that hangs together."""
    values = (np.random.default_rng(0).random(GRID.shape) > 0.995) * 1000.0
    return Volume(values.astype(np.float32), GRID)


@pytest.mark.parametrize("case", REFUSED)
def test_what_holds_no_body_is_refused_in_one_sentence(case):
    volume, modality, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        prepare(volume(), (16, 16, 16), 5.0, modality=modality)


def test_a_mask_of_nothing_but_air_is_refused():
    found = prepare(ball(GRID), (30, 30, 30), 5.0)
    dark = replace(found, image=Volume(np.full(GRID.shape, -1000, np.float32), GRID))
    with pytest.raises(InputError, match="scan_07.nii.gz: no body was found; 0 ml"):
        body_mask(dark, name="scan_07.nii.gz")
