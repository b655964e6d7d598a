"""Maps of space: affine transforms and displacement fields, ``x_moving = T(x_fixed)`` in RAS mm."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import map_coordinates

from RegCore.space.geometry import Geometry, InputError, apply_affine, apply_linear, homogeneous

CHUNK = 1 << 20  # points handled at a time: bounds the float64 copies
NEWTON_STEPS = 40  # of the search for an inverse, at most


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """T(x) = M x, a 4×4 matrix in RAS mm that takes fixed points to moving points.

    Args:
        matrix: 4×4, its last row 0 0 0 1.

    Raises:
        InputError: the matrix is not finite, not affine or not invertible.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> shift = np.eye(4)
        >>> shift[:3, 3] = [5.0, 0.0, -2.0]
        >>> transform = RegCore.AffineTransform(shift)
        >>> transform.map([1.0, 1.0, 1.0]).tolist()
        [6.0, 1.0, -1.0]
        >>> transform.inverse().map([6.0, 1.0, -1.0]).tolist()
        [1.0, 1.0, 1.0]
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", homogeneous(self.matrix, "the matrix of an affine transform"))
        linear = self.matrix[:3, :3]
        if np.linalg.matrix_rank(linear) < 3:
            raise InputError("the matrix of an affine transform can't be inverted")

    @classmethod
    def identity(cls) -> "AffineTransform":
        """The transform that leaves every point where it is."""
        return cls(np.eye(4))

    def map(self, points: ArrayLike) -> np.ndarray:
        """Fixed points (..., 3) RAS mm to moving points, float64."""
        return apply_affine(self.matrix, points)

    def inverse(self) -> "AffineTransform":
        """Moving points to fixed points."""
        return AffineTransform(np.linalg.inv(self.matrix))

    def compose(self, other: "Transform") -> "Transform":
        """x -> self(other(x)): affine if `other` is, else a field on the grid of `other`."""
        if isinstance(other, AffineTransform):
            return AffineTransform(self.matrix @ other.matrix)
        return _field_of(lambda points: self.map(other.map(points)), other.geometry)


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """T(x) = x + u(x), u in RAS mm on a grid, which takes fixed points to moving points.

    Args:
        geometry: the grid of u, usually that of the fixed image.
        mm: u at the voxel centres, (I, J, K, 3) float32 RAS mm. Between them u is interpolated linearly,
            outside the grid the nearest border value holds (as in Slicer's grid transform).
        affine: the affine part that `mm` contains, where it is known. It changes nothing but the point at
            which `inverse` starts.

    Raises:
        InputError: the array does not fit the grid or is not finite.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> grid = RegCore.Geometry((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
        >>> ddf = np.zeros((4, 5, 6, 3))
        >>> ddf[..., 2] = 1.0  # one voxel along k, which is 3 mm
        >>> field = RegCore.DisplacementField.from_voxels(ddf, grid, grid)
        >>> field.map([2.0, 2.0, 3.0]).tolist()
        [2.0, 2.0, 6.0]
    """

    geometry: Geometry
    mm: np.ndarray
    affine: AffineTransform | None = None

    def __post_init__(self) -> None:
        mm = np.ascontiguousarray(self.mm, dtype=np.float32)
        object.__setattr__(self, "mm", mm)
        if mm.shape != (*self.geometry.shape, 3):
            raise InputError(f"the displacements {mm.shape} do not fit the grid {self.geometry.shape}")
        if not np.isfinite(mm).all():
            raise InputError("a displacement field holds values that are NaN or infinite")

    @classmethod
    def from_affine(cls, affine: AffineTransform, geometry: Geometry) -> "DisplacementField":
        """The affine transform as a field on a grid: u = A x - x. Exact inside the grid only."""
        field = _field_of(affine.map, geometry)
        return cls(geometry, field.mm, affine)

    @classmethod
    def from_voxels(cls, ddf: np.ndarray, fixed: Geometry, moving: Geometry) -> "DisplacementField":
        """A field in voxels, moving index = fixed index + ddf, each on its own grid, in mm on the fixed one.

        u = A_moving φ - A_fixed i with φ = i + ddf, which is M_moving ddf + (A_moving - A_fixed) i with the
        matrix M of an affine map A: exact for oblique, anisotropic and differing grids.

        Args:
            ddf: (I, J, K, 3) voxels, components along i, j, k.
            fixed: the grid of the ddf.
            moving: the grid that the ddf points into.

        Raises:
            InputError: the ddf does not fit the fixed grid.
        """
        ddf = np.asarray(ddf)
        if ddf.shape != (*fixed.shape, 3):
            raise InputError(f"the displacements {ddf.shape} do not fit the fixed grid {fixed.shape}")
        mm, between = np.empty(ddf.shape, np.float32), moving.affine - fixed.affine
        along_i, along_j, along_k = (
            np.arange(n)[:, None] * between[:3, axis] for axis, n in enumerate(fixed.shape)
        )
        plane = along_j[:, None] + along_k + between[:3, 3]
        for row, shift in enumerate(along_i):
            mm[row] = apply_linear(moving.affine[:3, :3], ddf[row]) + (plane + shift)
        return cls(fixed, mm)

    def displacement(self, points: ArrayLike) -> np.ndarray:
        """u at the points (..., 3) RAS mm, (..., 3) mm float64."""
        points = np.asarray(points, dtype=np.float64)
        flat = points.reshape(-1, 3)
        out = np.empty_like(flat)
        to_index = np.linalg.inv(self.geometry.affine)
        for start in range(0, len(flat), CHUNK):
            part = slice(start, start + CHUNK)
            out[part] = sample(self.mm, apply_affine(to_index, flat[part]))
        return out.reshape(points.shape)

    def map(self, points: ArrayLike) -> np.ndarray:
        """Fixed points (..., 3) RAS mm to moving points, float64."""
        return np.asarray(points, dtype=np.float64) + self.displacement(points)

    def compose(self, other: "Transform", onto: Geometry | None = None) -> "DisplacementField":
        """x -> self(other(x)) on the grid `onto`.

        Args:
            other: the transform that is applied first.
            onto: the grid of the result; None is the grid of `other`. An affine `other` has none, then it is
                the own grid pulled back by it, where no value has to be interpolated.
        """
        if onto is None:
            if isinstance(other, AffineTransform):
                onto = self.geometry.moved(other.inverse().matrix)
            else:
                onto = other.geometry
        return _field_of(lambda points: self.map(other.map(points)), onto)

    def resampled(self, geometry: Geometry) -> "DisplacementField":
        """The same transform sampled on another grid."""
        if geometry == self.geometry:
            return self
        return DisplacementField(geometry, _field_of(self.map, geometry).mm, self.affine)

    def inverse(
        self, onto: Geometry | None = None, tolerance_voxels: float = 0.01, iterations: int = NEWTON_STEPS
    ) -> "DisplacementField":
        """Moving points to fixed points, as a field on the grid `onto`.

        At each voxel centre y of `onto`, x is sought with |T(x) - y| below the tolerance. Start: the inverse
        of the affine part, which is fitted by least squares where the field does not know it. Then
        x <- x - A⁻¹(T(x) - y), and where this does not converge, Newton's method with the local Jacobian and
        halved steps. Where T folds there is no inverse: the point that came nearest is kept. Points that no
        x inside the grid reaches get the inverse of the constant extension of u.

        Args:
            onto: the grid of the result; None is the own grid.
            tolerance_voxels: largest |T(x) - y|, in voxels of the own grid.
            iterations: the most steps of the search.
        """
        onto = self.geometry if onto is None else onto
        affine = self.affine_part() if self.affine is None else self.affine
        return _inverse(self, affine, onto, tolerance_voxels, iterations)

    def affine_part(self) -> AffineTransform:
        """The affine transform nearest to the field, by least squares over (at most 20 000) voxels."""
        step = max(1, round((self.geometry.voxels / 20_000) ** (1 / 3)))
        index = np.stack(np.meshgrid(*(_ticks(n, step) for n in self.geometry.shape), indexing="ij"), -1)
        target = self.geometry.to_world(index) + self.mm[tuple(np.moveaxis(index, -1, 0))]
        used = [axis for axis, n in enumerate(self.geometry.shape) if n > 1]
        columns = index[..., used].reshape(-1, len(used))
        columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
        solution = np.linalg.lstsq(columns, target.reshape(-1, 3), rcond=None)[0]
        forward = self.geometry.affine.copy()  # an axis of one voxel keeps its own direction
        forward[:3, used], forward[:3, 3] = solution[:-1].T, solution[-1]
        matrix = forward @ np.linalg.inv(self.geometry.affine)
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-3:  # collapsed: only the shift is of use
            matrix[:3, :3] = np.eye(3)
            matrix[:3, 3] = self.mm.reshape(-1, 3).mean(0, dtype=np.float64)
        return AffineTransform(matrix)

    def jacobian_determinant(self) -> np.ndarray:
        """det(I + du/dx) at each voxel, (I, J, K) float32; at most 0 where the transform folds.

        du/dx = du/di · A⁻¹, with central differences along the voxel axes (one-sided at the border).
        """
        out = np.empty(self.geometry.shape, np.float32)
        for part, jacobian in jacobians(self):
            out[part] = determinants(jacobian)
        return out


Transform = Union[AffineTransform, DisplacementField]  # noqa: UP007 - the classes name it in quotes


def sample(mm: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values of (I, J, K, C) at the indices (N, 3): linear, the border value outside; (N, C) float64."""
    out = np.empty((len(index), mm.shape[3]))
    for channel in range(mm.shape[3]):
        map_coordinates(mm[..., channel], index.T, output=out[:, channel], order=1, mode="nearest")
    return out


def jacobians(field: DisplacementField) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of axis 0, d T / d x there (n, J, K, 3, 3) float64), slab by slab."""
    mm, inverse = field.mm, np.linalg.inv(field.geometry.affine[:3, :3])
    rows = max(1, CHUNK // max(1, mm[0, ..., 0].size))
    for start in range(0, len(mm), rows):
        stop = min(start + rows, len(mm))
        first, last = max(start - 1, 0), min(stop + 1, len(mm))
        slab = mm[first:last].astype(np.float64)
        by_index = np.stack([_gradient(slab, axis) for axis in range(3)], -1)
        yield slice(start, stop), by_index[start - first : stop - first] @ inverse + np.eye(3)


def _gradient(values: np.ndarray, axis: int) -> np.ndarray:
    if values.shape[axis] == 1:
        return np.zeros_like(values)
    return np.gradient(values, axis=axis)


def determinants(m: np.ndarray) -> np.ndarray:
    """Determinants of (..., 3, 3), several times faster than LU."""
    return (
        m[..., 0, 0] * (m[..., 1, 1] * m[..., 2, 2] - m[..., 1, 2] * m[..., 2, 1])
        - m[..., 0, 1] * (m[..., 1, 0] * m[..., 2, 2] - m[..., 1, 2] * m[..., 2, 0])
        + m[..., 0, 2] * (m[..., 1, 0] * m[..., 2, 1] - m[..., 1, 1] * m[..., 2, 0])
    )


def _ticks(n: int, step: int) -> np.ndarray:
    """About n / step indices from 0 to n - 1, both ends among them."""
    return np.unique(np.linspace(0, n - 1, max(min(n, 2), -(-n // step))).round().astype(int))


def _slabs(geometry: Geometry) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of axis 0, voxel indices (n, J, K, 3) float64) of bounded size."""
    count_i, count_j, count_k = geometry.shape
    rows = max(1, CHUNK // (count_j * count_k))
    for start in range(0, count_i, rows):
        stop = min(start + rows, count_i)
        axes = np.arange(start, stop, dtype=np.float64), np.arange(count_j), np.arange(count_k)
        yield slice(start, stop), np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def _field_of(mapping: Callable[[np.ndarray], np.ndarray], geometry: Geometry) -> DisplacementField:
    """The field u(x) = mapping(x) - x at the voxel centres of a grid."""
    mm = np.empty((*geometry.shape, 3), np.float32)
    for part, index in _slabs(geometry):
        points = geometry.to_world(index)
        mm[part] = mapping(points) - points
    return DisplacementField(geometry, mm)


def _inverse(
    field: DisplacementField, affine: AffineTransform, onto: Geometry, tolerance: float, iterations: int
) -> DisplacementField:
    """The work of `DisplacementField.inverse`, in slabs of the target grid."""
    mm = np.empty((*onto.shape, 3), np.float32)
    for part, index in _slabs(onto):
        target = onto.to_world(index)
        points = affine.inverse().map(target).reshape(-1, 3)
        search = _Search(field, target.reshape(-1, 3), points, tolerance)
        search.fixed_point(np.linalg.inv(affine.matrix[:3, :3]), min(8, iterations))
        search.newton(np.linalg.inv(affine.matrix[:3, :3]), iterations)
        mm[part] = search.points.reshape(target.shape) - target
    return DisplacementField(onto, mm, affine.inverse())


def nearer(
    field: DisplacementField, targets: np.ndarray, points: np.ndarray, tolerance_voxels: float
) -> np.ndarray:
    """Points that a field takes to targets, searched for by Newton's method from points that come close.

    Args:
        field: T, with its affine part.
        targets: ``(N, 3)`` RAS mm.
        points: ``(N, 3)`` RAS mm, where the search begins.
        tolerance_voxels: largest |T(x) - y|, in voxels of the field, at which it ends.

    Returns:
        ``(N, 3)`` RAS mm; the nearest that was met where there is no inverse.
    """
    affine = field.affine_part() if field.affine is None else field.affine
    search = _Search(field, targets, points.copy(), tolerance_voxels)
    search.newton(np.linalg.inv(affine.matrix[:3, :3]), NEWTON_STEPS)
    return search.points


class _Search:
    """Points x (N, 3) on their way to T(x) = y; keeps for each the residual mm and its length in voxels."""

    def __init__(self, field: DisplacementField, target: np.ndarray, points: np.ndarray, tolerance: float):
        self.field, self.target, self.points, self.tolerance = field, target, points, tolerance
        self.to_index = np.linalg.inv(field.geometry.affine)
        self.residual, self.error = self.evaluate(points, slice(None))

    def evaluate(self, points: np.ndarray, which: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """T(x) - y in mm and its length in voxels, of the points numbered `which`."""
        residual = points + sample(self.field.mm, apply_affine(self.to_index, points)) - self.target[which]
        return residual, np.linalg.norm(apply_linear(self.to_index[:3, :3], residual), axis=1)

    def accept(self, which: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Take those new points that are nearer than the old ones; return which they are (mask)."""
        residual, error = self.evaluate(points, which)
        better = error < self.error[which]
        kept = which[better]
        self.points[kept], self.residual[kept] = points[better], residual[better]
        self.error[kept] = error[better]
        return better

    def fixed_point(self, linear_inverse: np.ndarray, iterations: int) -> None:
        """x <- x - A⁻¹(T(x) - y) as long as it brings the point nearer."""
        active = np.flatnonzero(self.error > self.tolerance)
        for _ in range(iterations):
            if not len(active):
                return
            better = self.accept(
                active, self.points[active] - apply_linear(linear_inverse, self.residual[active])
            )
            active = active[better & (self.error[active] > self.tolerance)]

    def newton(self, linear_inverse: np.ndarray, iterations: int) -> None:
        """x <- x - t J⁻¹(T(x) - y); t is halved for each point that did not come nearer, else doubled."""
        active = np.flatnonzero(self.error > self.tolerance)
        step = np.ones(len(active))
        for number in range(iterations):
            if not len(active):
                return
            # the slope over a whole voxel carries over kinks; the one inside the voxel ends the search
            jacobian = self.jacobian(self.points[active], 0.5 if number < iterations // 2 else 0.02)
            determinant = determinants(jacobian)
            jacobian[np.abs(determinant) < 1e-6] = np.linalg.inv(linear_inverse)
            move = np.linalg.solve(jacobian, self.residual[active][..., None])[..., 0]
            better = self.accept(active, self.points[active] - step[:, None] * move)
            step = np.where(better, np.minimum(2 * step, 1), step / 2)
            going = (self.error[active] > self.tolerance) & (step > 1 / 256)
            active, step = active[going], step[going]

    def jacobian(self, points: np.ndarray, half_width: float) -> np.ndarray:
        """dT/dx (N, 3, 3) by differences over ± half_width voxels along each axis of the grid."""
        index = apply_affine(self.to_index, points)
        columns = []
        for axis in range(3):
            offset = half_width * np.eye(3)[axis]
            difference = sample(self.field.mm, index + offset) - sample(self.field.mm, index - offset)
            columns.append(difference / (2 * half_width))
        return np.stack(columns, -1) @ self.to_index[:3, :3] + np.eye(3)
