"""The last hundredths of a voxel of a linear registration of images of one kind: on the intensities."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from RegCore.registration.affine_level import even_geometry
from RegCore.registration.fits import sensible
from RegCore.registration.pair import FeatureImage, PairSide, Tick, make_feature_image, scaled_image
from RegCore.space.geometry import Geometry, apply_affine
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
VOXELS = 80**3  # of the grid to whose spacing two images of any size are brought first, at most
REACH = 2  # voxels to which what is unknown is carried by the Gaussian and the splines
ALIKE = 0.5  # residual, in shares of the deviation, up to which a pair may be of one kind and well in place
NOTHING = 1e-4  # the same below which nothing is left to explain
EXPLAINED = 0.1  # the same in the end: above it, the bodies differ, and intensities pull as they like


@dataclass(frozen=True)
class _Comparison:
    """Points of the fixed image with their intensities, and the moving image to be sampled."""

    points: np.ndarray  # (N, 3) RAS mm
    values: np.ndarray  # (N,)
    spline: np.ndarray  # (I, J, K), coefficients of the moving image
    slopes: np.ndarray  # (I, J, K, 3), its gradient in RAS mm
    to_index: np.ndarray  # 4x4, RAS mm -> moving index
    known: np.ndarray | None = None  # (I, J, K) bool, where the moving image has data; None: everywhere

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
        return cls._with(points, values[tuple(index.T)], there, moving.geometry)

    @classmethod
    def of_features(cls, fixed: FeatureImage, moving: FeatureImage) -> "_Comparison":
        """The images of two sides at working resolution, without what is masked or unknown in either."""
        values, there = _smoothed_features(fixed), _smoothed_features(moving)
        index = np.argwhere(_surely_known(fixed))
        index = index[:: max(1, len(index) // MOST_POINTS)]
        points = fixed.image.grid.to_world(index)
        pair = cls._with(points, values[tuple(index.T)], there, moving.image.grid)
        return replace(pair, known=_surely_known(moving))

    @classmethod
    def _with(
        cls, points: np.ndarray, values: np.ndarray, moving: np.ndarray, grid: Geometry
    ) -> "_Comparison":
        to_index = np.linalg.inv(grid.affine)
        axes = [
            np.gradient(moving, axis=a) if moving.shape[a] > 1 else np.zeros_like(moving) for a in range(3)
        ]
        return cls(points, values, spline_filter(moving), np.stack(axes, -1) @ to_index[:3, :3], to_index)

    def in_like_units(self, matrix: np.ndarray) -> "_Comparison":
        """The same with the moving values in the units of the fixed ones: of their mean and deviation."""
        _, residuals, values = self.compared(matrix)
        found = values - residuals
        gain = values.std() / max(found.std(), 1e-12)
        spline = values.mean() + gain * (self.spline - found.mean())
        return replace(self, spline=spline, slopes=gain * self.slopes)

    def compared(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the points that meet the moving image lie in it, mm, fixed less moving there, and fixed."""
        there = apply_affine(matrix, self.points)
        index = apply_affine(self.to_index, there)
        last = np.array(self.spline.shape) - 1 - MARGIN
        met = np.asarray(((index >= MARGIN) & (index <= last)).all(1))
        if self.known is not None:
            met[met] = self.known[tuple(np.rint(index[met]).astype(int).T)]
        found = map_coordinates(self.spline, index[met].T, prefilter=False, mode="nearest")
        return there[met], self.values[met] - found, self.values[met]

    def residuals(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first two of `compared`."""
        return self.compared(matrix)[:2]

    def unexplained(self, matrix: np.ndarray) -> float:
        """The root of the mean squared residual in shares of the deviation; infinite for too few points."""
        _, residuals, values = self.compared(matrix)
        if len(residuals) < LEAST_POINTS or values.std() == 0:
            return float("inf")
        return float(np.sqrt(np.mean(residuals**2)) / values.std())


def _smoothed_features(side: FeatureImage) -> np.ndarray:
    array = side.image.values[0, 0].cpu().numpy().astype(np.float64)
    return gaussian_filter(array, SIGMA, mode="nearest")


def _surely_known(side: FeatureImage) -> np.ndarray:
    """Where a side counts on its own grid, away from what does not, bool ``(I, J, K)``."""
    grid = side.image.grid
    counted = side.counted(grid, np.eye(4))
    if isinstance(counted, float):
        return np.ones(grid.shape, bool)
    return binary_erosion(counted[0, 0].cpu().numpy() > 0.5, iterations=REACH, border_value=1)


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
    what does not fit counts less. Both images are brought to units of their robust range before, and, once
    they lie on each other, to the same mean and deviation.

    Args:
        fixed, moving: images of one kind, such as two frames of a series.
        start: x_moving = T(x_fixed), RAS mm, right to about a voxel.
        rigid: change rotation and translation only.
        mask: where the fixed image counts (not 0).

    Returns:
        The transform that costs least; the given one where nothing costs less.
    """
    pair, matrix = _Comparison.of(fixed, moving, mask), start.matrix
    for _ in range(2):
        if np.isinf(pair.unexplained(matrix)):
            break
        matrix = _minimised(pair, matrix, fixed.geometry, moving.geometry, rigid, lambda: None)
        pair = pair.in_like_units(matrix)
    return AffineTransform(matrix)


def refined_where_explained(
    fixed: PairSide,
    moving: PairSide,
    start: AffineTransform,
    *,
    rigid: bool,
    device: str = "cpu",
    tick: Tick = lambda: None,
) -> AffineTransform:
    """The same for any two images, where a linear transform explains the one by the other.

    That is where what is left of the intensities is small beside their deviation: two scans of one body of
    one kind. Elsewhere, in unlike images or bodies that are deformed, intensities tell less than features do.

    Args:
        fixed: image, and mask if there is one.
        moving: the same of the moving volume, on any grid.
        start: x_moving = T(x_fixed), RAS mm.
        rigid: change rotation and translation only.
        device: torch device, on which large images are made smaller.
        tick: called between steps.

    Returns:
        The transform that costs least; the given one where intensities do not tell, or not better.
    """
    here, there = fixed.image.geometry, moving.image.geometry
    grid, sides = even_geometry(here, there, VOXELS), []
    for side, other, matrix in ((fixed, there, np.eye(4)), (moving, here, start.matrix)):
        sides.append(make_feature_image(replace(side, labels=None), grid, matrix, None, device, other))
        tick()
    pair = _Comparison.of_features(*sides)
    if np.isinf(pair.unexplained(start.matrix)):
        return start
    pair = pair.in_like_units(start.matrix)
    before = pair.unexplained(start.matrix)
    if not NOTHING < before <= ALIKE:
        return start
    found = _minimised(pair, start.matrix, here, sides[1].image.grid, rigid, tick)
    return AffineTransform(found) if pair.unexplained(found) < min(before, EXPLAINED) else start


def _minimised(
    pair: _Comparison, matrix: np.ndarray, fixed: Geometry, moving: Geometry, rigid: bool, tick: Tick
) -> np.ndarray:
    """The 4x4 matrix, fixed -> moving, that costs least from a start; the grids say how far a voxel is."""
    centre = apply_affine(matrix, fixed.centre)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T * (np.array(fixed.shape) - 1)
    corners = fixed.to_world(corners)
    there, residuals = pair.residuals(matrix)
    if len(residuals) < LEAST_POINTS:
        return matrix
    damping = 1e-3
    for _ in range(STEPS):
        tick()
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
        if np.linalg.norm(moved, axis=1).max() < STILL * moving.spacing.min():
            break
    return matrix
