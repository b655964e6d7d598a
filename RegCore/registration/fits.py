"""Affine and rigid matrices fitted to pairs of points by least squares, with outliers or without."""

from collections.abc import Callable

import numpy as np

from RegCore.space.geometry import apply_affine

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Points ``(N, 3)``, targets ``(N, 3)`` and weights ``(N,)`` -> the 4x4 matrix with targets = A points."""


def fit_affine(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least-squares 4x4 affine with targets = A points; points, targets ``(N, 3)`` mm."""
    centre = np.average(points, axis=0, weights=weights)
    x = np.c_[points - centre, np.ones(len(points))]
    normal = np.einsum("n,ni,nj->ij", weights, x, x)  # einsum: small sums do not wake the threads of BLAS
    solution = np.linalg.lstsq(normal, np.einsum("n,ni,nj->ij", weights, x, targets), rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = solution[:3].T
    matrix[:3, 3] = solution[3] - matrix[:3, :3] @ centre
    return matrix


def fit_rigid(points: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least-squares rotation and translation (Kabsch, Acta Cryst. A 1976), never a reflection."""
    centre_p = np.average(points, axis=0, weights=weights)
    centre_t = np.average(targets, axis=0, weights=weights)
    u, _, vt = np.linalg.svd(np.einsum("n,ni,nj->ij", weights, points - centre_p, targets - centre_t))
    rotation = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre_t - rotation @ centre_p
    return matrix


def trimmed_fit(
    points: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    fit: Fit,
    *,
    keep: float = 0.5,
    iterations: int = 10,
) -> np.ndarray:
    """Least trimmed squares (Rousseeuw, JASA 1984): fit, keep the smallest residuals, fit again.

    Args:
        points: ``(N, 3)`` mm.
        targets: ``(N, 3)`` mm, where the points should come to lie.
        weights: ``(N,)``.
        fit: `fit_affine` or `fit_rigid`.
        keep: the fraction of the points that each fit but the first one takes.
        iterations: number of fits after the first one.

    Returns:
        The 4x4 matrix with targets = A points.
    """
    matrix = fit(points, targets, weights)
    for _ in range(iterations):
        residual = np.linalg.norm(apply_affine(matrix, points) - targets, axis=1)
        chosen = residual <= np.quantile(residual, keep)
        matrix = fit(points[chosen], targets[chosen], weights[chosen])
    return matrix


def sensible(matrix: np.ndarray) -> bool:
    """No reflection, and no axis stretched or shrunk more than threefold."""
    sizes = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    return bool(np.linalg.det(matrix[:3, :3]) > 0 and sizes.max() < 3 and sizes.min() > 1 / 3)
