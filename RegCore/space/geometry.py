"""Where voxels are: a grid of voxels in millimetres, and the error that is fit for the user's eyes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

ANATOMY = ("RL", "AP", "SI")  # for each axis of RAS+ space, where it grows to and where it comes from
ORDERS = tuple(permutations(range(3)))
SINGULAR = 1e-6  # smallest determinant of the unit axes that still spans a volume


class InputError(ValueError):
    """What was given can't be used. The text is one sentence for the user: what was expected, what came."""


def homogeneous(matrix: ArrayLike, name: str = "the matrix") -> np.ndarray:
    """A read-only float64 copy of a 4×4 matrix with the last row 0 0 0 1.

    Args:
        matrix: 4×4 numbers.
        name: what the matrix is, for the message.

    Raises:
        InputError: another shape, values that are not finite, or another last row.
    """
    array = np.array(matrix, dtype=np.float64)
    if array.shape != (4, 4):
        raise InputError(f"{name} must be 4×4, but its shape is {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds a value that is not finite")
    if not np.allclose(array[3], [0, 0, 0, 1], atol=1e-9):
        raise InputError(f"{name} must end with the row 0 0 0 1, but it ends with {array[3].tolist()}")
    array[3] = [0, 0, 0, 1]
    array.setflags(write=False)
    return array


def apply_linear(matrix: np.ndarray, vectors: ArrayLike) -> np.ndarray:
    """Vectors (..., 3) mapped by a 3×3 matrix, float64.

    Not ``vectors @ matrix.T``: BLAS threads gain nothing on 3 columns, and lose much on a busy machine.
    """
    return np.einsum("...j,ij->...i", np.asarray(vectors, dtype=np.float64), matrix)


def apply_affine(matrix: np.ndarray, points: ArrayLike) -> np.ndarray:
    """Points (..., 3) mapped by a 4×4 matrix, ``M[:3, :3] p + M[:3, 3]``, float64."""
    mapped = apply_linear(matrix[:3, :3], points)
    mapped += matrix[:3, 3]
    return mapped


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    numbers = tuple(shape)
    if len(numbers) != 3:
        raise InputError(f"a grid has 3 axes, but the shape {numbers} has {len(numbers)}")
    whole = tuple(int(n) for n in numbers)
    if whole != numbers or min(whole) < 1:
        raise InputError(f"a grid needs at least one voxel along each axis, but its shape is {numbers}")
    return whole


def _check_axes(axes: np.ndarray) -> None:
    spacing = np.linalg.norm(axes, axis=0)
    if (spacing == 0).any():
        axis = "IJK"[int(np.argmin(spacing))]
        raise InputError(f"the voxel spacing along axis {axis} is 0 mm, but it must be positive")
    determinant = np.linalg.det(axes / spacing)
    if abs(determinant) < SINGULAR:
        raise InputError(
            f"the directions of the voxel axes do not span a volume (their determinant is {determinant:.1e})"
        )


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in space; a value, never changed.

    Args:
        shape: number of voxels (I, J, K).
        affine: 4×4, voxel index (i, j, k) to RAS+ mm, any invertible one (oblique, left-handed, sheared).

    Raises:
        InputError: the shape is not three positive whole numbers, or the affine is not invertible.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> grid = RegCore.Geometry((4, 5, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
        >>> grid.spacing.tolist()
        [2.0, 2.0, 3.0]
        >>> grid.to_world([1, 1, 1]).tolist()
        [2.0, 2.0, 3.0]
        >>> grid.axis_codes
        'RAS'
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        object.__setattr__(self, "affine", homogeneous(self.affine, "the affine of a grid"))
        _check_axes(self.affine[:3, :3])

    @property
    def spacing(self) -> np.ndarray:
        """Distance of neighbouring voxel centres along each axis, (3,) mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def origin(self) -> np.ndarray:
        """Centre of voxel (0, 0, 0), (3,) RAS mm."""
        return self.affine[:3, 3].copy()

    @property
    def direction(self) -> np.ndarray:
        """(3, 3): column a is the unit vector of voxel axis a in RAS."""
        return self.affine[:3, :3] / self.spacing

    @property
    def axis_codes(self) -> str:
        """Where the voxel axes run, by the nearest direction of anatomy: "RAS", "LPS", "SRA" ….

        The letter of an axis is where its index grows to: Right or Left, Anterior or Posterior, Superior or
        Inferior. Each of the three pairs occurs once: those that fit best together.
        """
        direction = self.direction
        fit = {rows: sum(abs(direction[row, axis]) for axis, row in enumerate(rows)) for rows in ORDERS}
        best = max(fit, key=lambda rows: fit[rows])
        return "".join(ANATOMY[row][int(direction[row, axis] < 0)] for axis, row in enumerate(best))

    @property
    def centre(self) -> np.ndarray:
        """Centre of the grid, (3,) RAS mm: the place of index (shape - 1) / 2."""
        return self.to_world((np.array(self.shape) - 1) / 2)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def to_world(self, index_points: ArrayLike) -> np.ndarray:
        """Voxel indices (..., 3), fractions allowed, to RAS mm."""
        return apply_affine(self.affine, index_points)

    def to_index(self, world_points: ArrayLike) -> np.ndarray:
        """RAS mm (..., 3) to voxel indices (fractions)."""
        return apply_affine(np.linalg.inv(self.affine), world_points)

    def index_grid(self) -> np.ndarray:
        """The index of each voxel, (I, J, K, 3) float64."""
        return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self.shape), indexing="ij"), -1)

    def world_grid(self) -> np.ndarray:
        """The centre of each voxel, (I, J, K, 3) RAS mm, float64."""
        return self.to_world(self.index_grid())

    def overlaps(self, other: "Geometry", mapping: Callable[[np.ndarray], np.ndarray] | None = None) -> bool:
        """Whether the box around this grid, mapped, meets the other grid; the box is along the other's axes.

        Args:
            other: the grid to meet.
            mapping: points (..., 3) RAS mm to points, of this space into that of the other; None is the
                identity.
        """
        ticks = [np.linspace(-0.5, n - 0.5, 9) for n in self.shape]
        points = self.to_world(np.stack(np.meshgrid(*ticks, indexing="ij"), -1))
        index = other.to_index(points if mapping is None else mapping(points)).reshape(-1, 3)
        return bool(((index.max(0) > -0.5) & (index.min(0) < np.array(other.shape) - 0.5)).all())

    def resized(self, shape: Sequence[int]) -> "Geometry":
        """The grid of another shape whose corner voxels keep their centres.

        Voxel 0 and voxel n-1 of each axis stay where they are. An axis of one voxel has no extent to share
        out: reduced to one voxel it is put in the middle, enlarged from one voxel it keeps its spacing and
        its centre.
        """
        new = _checked_shape(shape)
        scale, start = np.ones(3), np.zeros(3)
        for axis, (old_n, new_n) in enumerate(zip(self.shape, new, strict=True)):
            if old_n > 1 and new_n > 1:
                scale[axis] = (old_n - 1) / (new_n - 1)
            else:
                start[axis] = ((old_n - 1) - (new_n - 1)) / 2
        step = np.diag([*scale, 1.0])
        step[:3, 3] = start
        return Geometry(new, self.affine @ step)

    def resized_box(self, shape: Sequence[int]) -> "Geometry":
        """The grid of another shape in the same box: the outer faces of the voxels stay where they are.

        That is what resizing about half-pixel centres means (``align_corners=False``): the new index i lies
        at the old index (i + 1/2) n_old / n_new - 1/2.
        """
        new = _checked_shape(shape)
        scale = np.array(self.shape) / np.array(new)
        step = np.diag([*scale, 1.0])
        step[:3, 3] = (scale - 1) / 2
        return Geometry(new, self.affine @ step)

    def cropped(self, start: ArrayLike, stop: ArrayLike) -> "Geometry":
        """The part with indices start <= index < stop, (3,) each; negative or large ones extend the grid."""
        first, last = np.asarray(start), np.asarray(stop)
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(first)
        return Geometry((last - first).tolist(), affine)

    def moved(self, matrix: ArrayLike) -> "Geometry":
        """The grid carried through space by a 4×4 RAS matrix: affine = matrix @ affine."""
        return Geometry(self.shape, homogeneous(matrix) @ self.affine)

    def is_close(self, other: "Geometry", tolerance_mm: float = 1e-3) -> bool:
        """Same shape, and no voxel centre further than `tolerance_mm` from its counterpart."""
        return self.shape == other.shape and self.distance(other) <= tolerance_mm

    def distance(self, other: "Geometry") -> float:
        """The largest distance, in mm, of a voxel centre from where the other affine puts that voxel."""
        corners = np.array(np.meshgrid(*((0, n - 1) for n in self.shape))).reshape(3, -1).T
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and bool((self.affine == other.affine).all())

    def __hash__(self) -> int:
        return hash((self.shape, (self.affine + 0.0).tobytes()))  # + 0.0: -0 and 0 are equal, so hash alike
