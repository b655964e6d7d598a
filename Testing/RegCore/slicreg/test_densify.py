"""The fields of the thin-plate spline, held against a dense solution of its system."""

import numpy as np
import pytest
import torch

from RegCore.resampler import folding_fraction
from RegCore.slicreg.matching import dense_field
from RegCore.space.geometry import Geometry, InputError
from Testing.RegCore.grids import affine

GRID = Geometry((17, 20, 23), affine((0.2, 0.1, -0.3), (2.0, 3.0, 4.0)))


def tensors(*arrays):
    return tuple(torch.from_numpy(a) for a in arrays)


def thin_plate(points: np.ndarray, values: np.ndarray, at: np.ndarray, smoothing: float) -> np.ndarray:
    """The smoothing spline solved as one dense system, f(x) = Σ w φ(|x - x_n|) + a + Bx with φ(r) = -r."""

    def system(x: np.ndarray) -> np.ndarray:
        kernel = -np.linalg.norm(x[:, None] - points[None], axis=-1)
        return np.concatenate([kernel, np.ones((len(x), 1)), x], 1)

    n = len(points)
    whole = np.zeros((n + 4, n + 4))
    whole[:n] = system(points)
    whole[n:, :n] = whole[:n, n:].T
    whole[:n, :n] += smoothing * np.eye(n)
    weights = np.linalg.solve(whole, np.concatenate([values, np.zeros((4, 3))]))
    return system(at) @ weights


def test_the_values_keep_their_type():
    points, shifts = tensors(places(), np.zeros((300, 3), np.float32))
    assert dense_field(points, shifts, GRID, unit=35.0, smoothing=0.1).dtype == torch.float32


@pytest.mark.parametrize("degenerate", ["plane", "one place", "three points"])
def test_points_that_determine_no_field_are_refused(degenerate):
    points = places()
    if degenerate == "plane":
        points[:, 2] = 0
    elif degenerate == "one place":
        points[:] = points[0]
    else:
        points = points[:3]
    with pytest.raises(InputError, match="lie in one plane or coincide"):
        dense(points, np.ones_like(points), smoothing=0.0)


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


@pytest.mark.parametrize("smoothing", [1e-3, 0.05])
def test_distances_are_millimetres_on_an_anisotropic_grid(smoothing):
    shifts = np.random.default_rng(3).normal(size=(300, 3)) * 0.02
    at = GRID.index_grid().reshape(-1, 3) * GRID.spacing / 35.0
    expected = thin_plate(places() * GRID.spacing / 35.0, shifts, at, smoothing)
    found = np.moveaxis(dense(places(), shifts, smoothing, step=1), 0, -1).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_wild_displacements_are_made_stiffer_until_they_fold_less():
    shifts = np.random.default_rng(4).normal(size=(300, 3)) * 3
    scale = GRID.spacing / 35.0
    plain = thin_plate(places() * scale, shifts, GRID.index_grid().reshape(-1, 3) * scale, 1e-3)
    plain = torch.from_numpy(plain.T.reshape(1, 3, *GRID.shape))
    found = torch.from_numpy(dense(places(), shifts, step=1))[None]
    assert folding_fraction(plain) > 0.2 and folding_fraction(found) < 0.5 * folding_fraction(plain)


def test_gentle_displacements_do_not_fold():
    points = places()
    shifts = np.stack([np.sin(points[:, 1] / 4), np.cos(points[:, 2] / 5), np.sin(points[:, 0] / 3)], 1)
    assert folding_fraction(torch.from_numpy(dense(points, shifts))[None]) == 0
