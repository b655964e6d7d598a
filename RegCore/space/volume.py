"""An image or a label map in space, and the checks that say in one sentence why one can't be registered."""

import re
from dataclasses import dataclass, replace

import numpy as np

from RegCore.space.geometry import ANATOMY, Geometry, InputError

KINDS = ("image", "labels")
TERMINOLOGY = re.compile(r"TerminologyEntry:([^|]*)")
MANY_LABELS = 256  # more distinct values than this, and not in patches: an image, not a label map
PATCHED = 0.5  # share of equal neighbours off the background: label maps have 0.69 and more, scans to 0.34


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation.

    Args:
        label: its value in a 3-D label map, its channel in a 4-D one.
        name: as users see it.
        id: what tells it apart in Slicer, "" where unknown.
        colour: red, green, blue, each 0 to 1; None where unknown.
        tags: Slicer's tags, verbatim; among them the terminology.
    """

    label: int
    name: str
    id: str = ""
    colour: tuple[float, float, float] | None = None
    tags: str = ""

    @property
    def terminology(self) -> str:
        """Category, type and region of the standard terminology; "" where they name no certain structure."""
        found = TERMINOLOGY.search(self.tags)
        parts = found[1].split("~") if found else []
        if len(parts) < 3 or "^Tissue" in parts[2]:  # what Slicer gives to a new segment
            return ""
        return "~".join([parts[1], parts[2], *parts[3:4], *parts[5:7]])


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels in space; a value: neither the array nor the geometry is to be changed.

    Args:
        array: (I, J, K) or (I, J, K, C), channel last, nibabel's axis order, real numbers.
        geometry: where the voxels are; its shape is that of the first three axes.
        kind: "image" or "labels". Labels are (I, J, K) of integers or booleans with 0 for the background, or
            (I, J, K, C) with one binary channel per structure (structures may overlap).
        segments: what is known of the structures of a label map: names, colours and the like.
        padding: the value of voxels that were not measured, where the file names one.

    Raises:
        InputError: these do not fit together.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> grid = RegCore.Geometry((4, 5, 6), np.eye(4))
        >>> image = RegCore.Volume(np.zeros((4, 5, 6), np.float32), grid)
        >>> structures = np.zeros((4, 5, 6), np.uint8)
        >>> structures[1:3, 1:3, 1:3] = 7
        >>> RegCore.Volume(structures, grid, "labels").labels()
        [7]
    """

    array: np.ndarray
    geometry: Geometry
    kind: str = "image"
    segments: tuple[Segment, ...] = ()
    padding: float | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        object.__setattr__(self, "array", array)
        if self.kind not in KINDS:
            raise InputError(f"the kind of a volume is 'image' or 'labels', not {self.kind!r}")
        if array.ndim not in (3, 4):
            raise InputError(f"a volume has 3 axes, or 4 with channels, but its array has {array.ndim}")
        if array.shape[:3] != self.geometry.shape:
            raise InputError(f"the array {array.shape} does not fit the grid {self.geometry.shape}")
        if array.dtype.kind not in "biuf":
            raise InputError(f"the voxels of a volume are real numbers, not {array.dtype}")
        if self.kind == "labels" and array.ndim == 3 and array.dtype.kind == "f":
            raise InputError(f"a label map holds whole numbers, but its voxels are {array.dtype}")

    def labels(self) -> list[int]:
        """The structures: the sorted values other than 0, or the channel numbers 0..C-1 of a 4-D one."""
        if self.array.ndim == 4:
            return list(range(self.array.shape[3]))
        return [value for value in distinct_values(self.array) if value != 0]


def reoriented(volume: Volume, axis_codes: str) -> Volume:
    """The same voxels in another order: axes exchanged and turned round, nothing interpolated.

    Args:
        volume: an image or a label map.
        axis_codes: where the axes shall run, as `Geometry.axis_codes` says it.

    Raises:
        InputError: these are not three directions of anatomy.
    """
    rows = [next((row for row, pair in enumerate(ANATOMY) if code in pair), -1) for code in axis_codes]
    if sorted(rows) != [0, 1, 2]:
        raise InputError(f"three directions such as RAS or LPS were expected, not {axis_codes!r}")
    own = volume.geometry.axis_codes
    source = [next(axis for axis, code in enumerate(own) if code in ANATOMY[row]) for row in rows]
    turned = [axis for axis, code in enumerate(axis_codes) if code != own[source[axis]]]
    i, j, k = (volume.array.shape[axis] for axis in source)
    shape = (i, j, k)
    step = np.zeros((4, 4))
    step[source, range(3)] = [-1 if axis in turned else 1 for axis in range(3)]
    step[source, 3] = [shape[axis] - 1 if axis in turned else 0 for axis in range(3)]
    step[3, 3] = 1
    array = np.flip(volume.array.transpose(*source, *range(3, volume.array.ndim)), tuple(turned))
    return replace(volume, array=array, geometry=Geometry(shape, volume.geometry.affine @ step))


def extent(volume: Volume) -> Geometry | None:
    """The smallest part of the grid that holds every voxel other than 0; None if there is no such voxel."""
    axes = range(volume.array.ndim)
    found = [np.flatnonzero(volume.array.any(axis=tuple(b for b in axes if b != a))) for a in range(3)]
    if not len(found[0]):
        return None
    return volume.geometry.cropped([f[0] for f in found], [f[-1] + 1 for f in found])


def slabs(array: np.ndarray) -> np.ndarray:
    """The array to iterate over for slabs that lie together in memory: axes reversed in Fortran order.

    Work on slab after slab needs no second copy of the volume.
    """
    return array.T if array.flags.f_contiguous else array


def distinct_values(array: np.ndarray) -> list[int]:
    """The sorted distinct values of an array of integers or booleans, without sorting all voxels."""
    if array.size == 0:
        return []
    if array.dtype == bool:
        return sorted({int(array.min()), int(array.max())})
    low, high = int(array.min()), int(array.max())
    if high - low > 1 << 24:
        return [int(value) for value in np.unique(array)]
    seen = np.zeros(high - low + 1, dtype=bool)
    for slab in slabs(array):  # the indices need 8 bytes per voxel
        seen[slab.astype(np.int64) - low] = True
    return [int(value) + low for value in np.flatnonzero(seen)]


def looks_like_labels(array: np.ndarray) -> bool:
    """True for an array of whole numbers made of patches of equal values, as label maps are and images not.

    The rule: of all pairs of neighbours along one axis that are not both background (the most frequent
    value), at least half are equal. Noise and gradients break this at once.
    """
    if array.dtype.kind not in "biu" or array.size < 2:
        return array.dtype.kind == "b"
    values, counts = np.unique(
        array[tuple(slice(None, None, -(-n // 128)) for n in array.shape)], return_counts=True
    )
    background = values[counts.argmax()]
    equal = total = 0
    planes = slabs(array)
    for first, second in zip(planes[:-1], planes[1:], strict=True):
        either = (first != background) | (second != background)
        total += int(np.count_nonzero(either))
        equal += int(np.count_nonzero(either & (first == second)))
    return total > 0 and equal >= PATCHED * total


def unknown_voxels(array: np.ndarray) -> int:
    """How many voxels are NaN or infinite."""
    if np.isfinite(array.min()) and np.isfinite(array.max()):
        return 0
    return array.size - int(np.count_nonzero(np.isfinite(array)))


def finite(volume: Volume) -> Volume:
    """The image with its smallest finite value where it is NaN or infinite."""
    array = volume.array
    if not unknown_voxels(array):
        return volume
    known = np.isfinite(array)
    return replace(volume, array=np.where(known, array, array[known].min()))


def check_image(volume: Volume, name: str) -> None:
    """Check that a volume can be registered as an image.

    An image of whole numbers that `looks_like_labels` is let through: only who chose it knows its role.

    Raises:
        InputError: one sentence that begins with `name`, for labels, several channels, a single slice, one
            value everywhere. Voxels that are NaN or infinite do not count; some must be neither.
    """
    array = volume.array
    if volume.kind != "image":
        raise InputError(f"{name}: an image was expected, but this is a label map")
    if array.ndim != 3:
        raise InputError(f"{name}: an image with one channel was expected, but it has {array.shape[3]}")
    if min(array.shape) < 2:
        raise InputError(f"{name}: a 3-D image was expected, but {array.shape} is a single slice")
    low, high = array.min(), array.max()  # either is NaN if one voxel is
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = array[np.isfinite(array)]
        if not finite.size:
            raise InputError(f"{name}: all voxels are NaN or infinite, there is nothing to align")
        low, high = finite.min(), finite.max()
    if low == high:
        raise InputError(f"{name}: the image is constant (every voxel is {low:g}), there is nothing to align")


def check_labels(volume: Volume, name: str) -> None:
    """Check that a volume is a usable label map.

    Raises:
        InputError: one sentence that begins with `name`, for an image, channels that are not binary, no
            structure at all, and an image in disguise: more than 256 values that are not in patches.
    """
    array = volume.array
    if volume.kind != "labels":
        raise InputError(f"{name}: a label map was expected, but this is an image")
    if array.ndim == 4:
        if not all(bool(((slab == 0) | (slab == 1)).all()) for slab in slabs(array)):
            raise InputError(f"{name}: a 4-D label map holds 0 and 1 only, one channel per structure")
        if not array.any():
            raise InputError(f"{name}: the label map is empty (every voxel is 0)")
        return
    values = volume.labels()
    if not values:
        raise InputError(f"{name}: the label map is empty (every voxel is 0)")
    if len(values) > MANY_LABELS and not looks_like_labels(array):
        raise InputError(
            f"{name}: a label map was expected, but {len(values)} values scattered like these are an image"
        )


def common_labels(fixed: Volume, moving: Volume, fixed_name: str, moving_name: str) -> list[int]:
    """The structures that both label maps hold, sorted.

    Raises:
        InputError: one is 3-D and the other 4-D, the numbers of channels differ, or the two share no label.
    """
    if fixed.array.ndim != moving.array.ndim:
        raise InputError(
            f"{fixed_name} and {moving_name}: both label maps must be 3-D, or both 4-D with one channel per "
            f"structure, but they have {fixed.array.ndim} and {moving.array.ndim} axes"
        )
    of_fixed, of_moving = fixed.labels(), moving.labels()
    if fixed.array.ndim == 4 and of_fixed != of_moving:
        raise InputError(
            f"{fixed_name} and {moving_name}: the label maps must have the same channels, but they have "
            f"{len(of_fixed)} and {len(of_moving)}"
        )
    shared = sorted(set(of_fixed) & set(of_moving))
    if not shared:
        raise InputError(
            f"{fixed_name} and {moving_name}: the label maps share no label "
            f"({_listed(fixed)} against {_listed(moving)})"
        )
    return shared


def _listed(volume: Volume, at_most: int = 8) -> str:
    """The first structures of a label map, by their names if they have some."""
    values, names = volume.labels(), {segment.label: segment.name for segment in volume.segments}
    shown = ", ".join(str(names.get(value) or value) for value in values[:at_most]) or "none"
    return f"{shown}, …" if len(values) > at_most else shown
