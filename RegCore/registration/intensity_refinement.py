"""The last hundredths of a voxel of a linear registration of images of one kind: on the intensities."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from RegCore.registration.fits import sensible
from RegCore.registration.pair import PairSide, scaled_image
from RegCore.space.geometry import apply_affine
from RegCore.space.transforms import AffineTransform, sample
from RegCore.space.volume import Volume

SIGMA = 0.7  # voxels of the Gaussian before: what is finer is drawn to whole voxels by the interpolation
MOST_POINTS = 60_000  # about so many voxels are compared at most
MARGIN = 1.5  # voxels by which what is compared keeps away from the border of the moving image
LEAST_POINTS = 100
STEPS = 25
STILL = 5e-4  # voxels; a step that moves no corner further is the last one
ROBUST = 3.0  # deviations of the residual from which on a voxel counts for less
STIFFER, SOFTER = 8.0, 0.25  # how the damping changes after a step that failed or helped


@dataclass(frozen=True)
class _Comparison:
    """Points of the fixed image with their intensities, and the moving image to be sampled."""

    points: np.ndarray  # (N, 3) RAS mm
    values: np.ndarray  # (N,)
    spline: np.ndarray  # (I, J, K), coefficients of the moving image
    slopes: np.ndarray  # (I, J, K, 3), its gradient in RAS mm
    to_index: np.ndarray  # 4x4, RAS mm -> moving index

    @classmethod
    def of(cls, fixed: Volume, moving: Volume, mask: Volume | None) -> "_Comparison":
        values, inside = _smoothed(fixed)
        there, _ = _smoothed(moving)
        index = np.argwhere(inside)
        index = index[:: max(1, len(index) // MOST_POINTS)]
        points = fixed.geometry.to_world(index)
        if mask is not None:
            at = np.rint(mask.geometry.to_index(points)).astype(int)
            seen = np.asarray(((at >= 0) & (at < np.array(mask.geometry.shape))).all(1))
            marked = np.asarray(mask.array.reshape(*mask.geometry.shape, -1).any(-1))
            seen[seen] = marked[tuple(at[seen].T)]
            index, points = index[seen], points[seen]
        to_index = np.linalg.inv(moving.geometry.affine)
        slopes = np.stack([np.gradient(there, axis=a) for a in range(3)], -1) @ to_index[:3, :3]
        return cls(points, values[tuple(index.T)], spline_filter(there), slopes, to_index)

    def residuals(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the points that meet the moving image come to lie in mm, and fixed less moving there."""
        there = apply_affine(matrix, self.points)
        index = apply_affine(self.to_index, there)
        last = np.array(self.spline.shape) - 1 - MARGIN
        known = ((index >= MARGIN) & (index <= last)).all(1)
        found = map_coordinates(self.spline, index[known].T, prefilter=False, mode="nearest")
        return there[known], self.values[known] - found


def _smoothed(image: Volume) -> tuple[np.ndarray, np.ndarray]:
    """The image in units of its robust range, a little smoothed, and where it has data."""
    side = PairSide(image)
    scaled, known = scaled_image(side), side.measured.known
    inside = np.ones(scaled.shape, bool) if known is None else known
    return gaussian_filter(scaled.astype(np.float64), SIGMA, mode="nearest"), inside


def _weights(residuals: np.ndarray, scale: float) -> np.ndarray:
    """What each residual counts (Geman and McClure): little if it is far beyond the usual."""
    return 1 / (1 + (residuals / (ROBUST * scale)) ** 2) ** 2


def _cost(residuals: np.ndarray, scale: float) -> float:
    """The mean of the function of which the weights are the derivative, over the squared residual."""
    share = (residuals / (ROBUST * scale)) ** 2
    return float((share / (1 + share)).mean())


def _step(parameters: np.ndarray, centre: np.ndarray, rigid: bool) -> np.ndarray:
    """4x4 near the identity, about a centre, from (rotation vector, shift) or (3x3 row by row, shift)."""
    matrix = np.eye(4)
    if rigid:
        matrix[:3, :3] = Rotation.from_rotvec(parameters[:3]).as_matrix()
    else:
        matrix[:3, :3] += parameters[:9].reshape(3, 3)
    matrix[:3, 3] = centre + parameters[-3:] - matrix[:3, :3] @ centre
    return matrix


def _jacobian(slopes: np.ndarray, arms: np.ndarray, rigid: bool) -> np.ndarray:
    """d moving / d parameters, (N, 6) or (N, 12), at points with these gradients and arms from the centre."""
    if rigid:
        return np.hstack([np.cross(arms, slopes), slopes])
    return np.hstack([(slopes[:, :, None] * arms[:, None]).reshape(-1, 9), slopes])


def refined_on_intensities(
    fixed: Volume, moving: Volume, start: AffineTransform, *, rigid: bool, mask: Volume | None = None
) -> AffineTransform:
    """A linear transform of two images of one kind made exact on their intensities.

    Levenberg-Marquardt (SIAM J. 1963) on the difference of the intensities, the moving ones by cubic splines;
    what does not fit counts less. Both images are brought to units of their robust range before.

    Args:
        fixed, moving: images of one kind, such as two frames of a series.
        start: x_moving = T(x_fixed), RAS mm, right to about a voxel.
        rigid: change rotation and translation only.
        mask: where the fixed image counts (not 0).

    Returns:
        The transform that costs least; the given one where nothing costs less.
    """
    pair, matrix = _Comparison.of(fixed, moving, mask), start.matrix
    centre = start.map(fixed.geometry.centre)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T * (
        np.array(fixed.geometry.shape) - 1
    )
    corners = fixed.geometry.to_world(corners)
    there, residuals = pair.residuals(matrix)
    if len(residuals) < LEAST_POINTS:
        return start
    damping = 1e-3
    for _ in range(STEPS):
        scale = max(1.4826 * float(np.median(np.abs(residuals))), 1e-6)
        slopes = sample(pair.slopes, apply_affine(pair.to_index, there))
        jacobian = _jacobian(slopes, there - centre, rigid)
        weighted = jacobian * _weights(residuals, scale)[:, None]
        normal, pull = weighted.T @ jacobian, weighted.T @ residuals
        normal += np.diag(damping * np.diag(normal) + 1e-12)
        found = _step(np.linalg.solve(normal, pull), centre, rigid) @ matrix
        moved = apply_affine(found, corners) - apply_affine(matrix, corners)
        new = pair.residuals(found)
        if len(new[1]) >= LEAST_POINTS and sensible(found) and _cost(new[1], scale) < _cost(residuals, scale):
            matrix, (there, residuals), damping = found, new, damping * SOFTER
        else:
            damping *= STIFFER
        if np.linalg.norm(moved, axis=1).max() < STILL * moving.geometry.spacing.min():
            break
    return AffineTransform(matrix)
