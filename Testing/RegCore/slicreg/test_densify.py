"""The thin-plate spline, held against SciPy's, and the fields made of it."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from RegCore.resampler import folding_fraction
from RegCore.slicreg.densify import dense_field, thin_plate
from RegCore.space.geometry import Geometry, InputError
from Testing.RegCore.grids import affine

GRID = Geometry((17, 20, 23), affine((0.2, 0.1, -0.3), (2.0, 3.0, 4.0)))


def scattered(count: int = 60, seed: int = 0):
    random = np.random.default_rng(seed)
    return (
        random.uniform(-1, 1, (count, 3)),
        random.normal(size=(count, 3)),
        random.uniform(-1.2, 1.2, (40, 3)),
    )


def tensors(*arrays):
    return tuple(torch.from_numpy(a) for a in arrays)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 1.0])
def test_the_spline_is_that_of_scipy(smoothing):
    points, values, at = scattered()
    expected = RBFInterpolator(points, values, kernel="linear", degree=1, smoothing=smoothing)(at)
    found = thin_plate(*tensors(points, values, at), smoothing)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_it_goes_through_the_values_without_smoothing_and_spares_affine_ones_with_any():
    points, values, at = scattered()
    np.testing.assert_allclose(thin_plate(*tensors(points, values, points), 0.0).numpy(), values, atol=1e-9)
    matrix, shift = np.random.default_rng(1).normal(size=(3, 3)), np.array([3.0, -1.0, 2.0])
    found = thin_plate(*tensors(points, points @ matrix.T + shift, at), 10.0)
    np.testing.assert_allclose(found.numpy(), at @ matrix.T + shift, atol=1e-9)


def test_points_far_from_the_origin_change_nothing():
    points, values, at = scattered()
    near = thin_plate(*tensors(points, values, at), 0.1)
    far = thin_plate(*tensors(points + 1e4, values, at + 1e4), 0.1)
    np.testing.assert_allclose(far.numpy(), near.numpy(), atol=1e-6)


def test_the_values_keep_their_type():
    points, values, at = tensors(*scattered())
    assert thin_plate(points, values.float(), at, 0.1).dtype == torch.float32


@pytest.mark.parametrize("degenerate", ["plane", "one place", "three points"])
def test_points_that_determine_no_field_are_refused(degenerate):
    points, values, at = scattered()
    if degenerate == "plane":
        points[:, 2] = 0
    elif degenerate == "one place":
        points[:] = points[0]
    else:
        points, values = points[:3], values[:3]
    with pytest.raises(InputError, match="lie in one plane or coincide"):
        thin_plate(*tensors(points, values, at), 0.0)


def dense(points, shifts, smoothing=1e-3, step=3):
    points, shifts = tensors(np.asarray(points, float), np.asarray(shifts, float))
    return dense_field(points, shifts, GRID, unit=35.0, smoothing=smoothing, step=step)[0].numpy()


def places(count: int = 300) -> np.ndarray:
    return np.random.default_rng(2).uniform(0, np.array(GRID.shape) - 1, (count, 3))


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_an_affine_displacement_becomes_an_affine_field(step):
    matrix, shift = np.array([[0.1, 0.05, 0], [-0.1, 0.2, 0.03], [0, 0.1, -0.1]]), np.array([4.0, -2.0, 1.0])
    found = dense(places(), places() @ matrix.T + shift, step=step)
    index = GRID.index_grid()
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), index @ matrix.T + shift, atol=1e-6)


def test_distances_are_millimetres_on_an_anisotropic_grid():
    shifts = np.random.default_rng(3).normal(size=(300, 3)) * 0.1
    at = GRID.index_grid().reshape(-1, 3) * GRID.spacing / 35.0
    expected = RBFInterpolator(
        places() * GRID.spacing / 35.0, shifts, kernel="linear", degree=1, smoothing=1e-3
    )(at)
    found = np.moveaxis(dense(places(), shifts, step=1), 0, -1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_wild_displacements_are_made_stiffer_until_they_fold_less():
    shifts = np.random.default_rng(4).normal(size=(300, 3)) * 3
    points, values = tensors(places(), shifts)
    at = torch.from_numpy(GRID.index_grid().reshape(-1, 3))
    scale = torch.from_numpy(GRID.spacing / 35.0)
    plain = thin_plate(points * scale, values, at * scale, 1e-3).T.reshape(1, 3, *GRID.shape)
    found = torch.from_numpy(dense(places(), shifts, step=1))[None]
    assert folding_fraction(plain) > 0.2 and folding_fraction(found) < 0.5 * folding_fraction(plain)


def test_gentle_displacements_do_not_fold():
    points = places()
    shifts = np.stack([np.sin(points[:, 1] / 4), np.cos(points[:, 2] / 5), np.sin(points[:, 0] / 3)], 1)
    assert folding_fraction(torch.from_numpy(dense(points, shifts))[None]) == 0
