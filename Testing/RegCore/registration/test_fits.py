"""Fits of matrices to pairs of points, against closed forms, SciPy and outliers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from RegCore.registration.fits import fit_affine, fit_rigid, sensible, trimmed_fit
from RegCore.space.transforms import AffineTransform
from Testing.RegCore.registration.blobs import motion


def cloud(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) * [30, 50, 20] + [100, -40, 7]


@pytest.mark.parametrize(("fit", "rigid"), [(fit_affine, False), (fit_rigid, True)])
def test_a_fit_of_exact_pairs_is_exact(fit, rigid):
    points, truth = cloud(), motion(rigid)
    matrix = fit(points, truth.map(points), np.random.default_rng(1).uniform(0.1, 5, len(points)))
    np.testing.assert_allclose(matrix, truth.matrix, atol=1e-9)


def test_an_affine_fit_solves_the_weighted_normal_equations():
    points, weights = cloud(), np.random.default_rng(1).uniform(0.1, 5, 60)
    targets = motion(False).map(points) + np.random.default_rng(2).normal(size=points.shape)
    x = np.c_[points, np.ones(60)]
    expected = np.linalg.solve((x.T * weights) @ x, (x.T * weights) @ targets).T
    np.testing.assert_allclose(fit_affine(points, targets, weights)[:3], expected, atol=1e-8)


def test_a_rigid_fit_is_that_of_scipy():
    points, weights = cloud(), np.random.default_rng(1).uniform(0.1, 5, 60)
    targets = motion(True).map(points) + np.random.default_rng(2).normal(size=points.shape)
    centres = [np.average(p, axis=0, weights=weights) for p in (points, targets)]
    rotation = Rotation.align_vectors(targets - centres[1], points - centres[0], weights)[0].as_matrix()
    matrix = fit_rigid(points, targets, weights)
    np.testing.assert_allclose(matrix[:3, :3], rotation, atol=1e-9)
    np.testing.assert_allclose(matrix[:3, 3], centres[1] - rotation @ centres[0], atol=1e-8)


@pytest.mark.parametrize("mirror", [(-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_a_rigid_fit_never_mirrors(mirror):
    points = cloud()
    matrix = fit_rigid(points, points * mirror, np.ones(60))
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize(("fit", "rigid"), [(fit_affine, False), (fit_rigid, True)])
def test_a_trimmed_fit_is_not_moved_by_a_third_of_outliers(fit, rigid):
    points, truth, random = cloud(200), motion(rigid), np.random.default_rng(3)
    targets = truth.map(points) + 0.01 * random.normal(size=points.shape)
    targets[:66] += random.uniform(20, 80, (66, 3))  # all to one side
    weights = np.ones(200)
    error = {
        name: np.abs(AffineTransform(matrix).map(points) - truth.map(points)).max()
        for name, matrix in (
            ("trimmed", trimmed_fit(points, targets, weights, fit)),
            ("plain", fit(points, targets, weights)),
        )
    }
    assert error["trimmed"] < 0.1 < 10 < error["plain"]


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    [
        ((1, 1, 1), True),
        ((2.9, 0.4, 1), True),
        ((-1, 1, 1), False),
        ((-1, -1, 1), True),
        ((3.1, 1, 1), False),
        ((1, 1, 0.3), False),
    ],
)
def test_reflections_and_threefold_stretches_are_not_sensible(diagonal, expected):
    assert sensible(np.diag([*diagonal, 1.0])) is expected
