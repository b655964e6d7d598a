"""Volumes and transforms in space: warped, inverted and turned into fields, slab by slab."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage

from RegCore.progress import Progress, silent
from RegCore.resampler.grids import affine_coordinates, index_map
from RegCore.resampler.sampling import sample
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import INTERPOLATIONS, not_among
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform, nearer
from RegCore.space.volume import Volume

TOLERANCE = 0.04  # voxels by which an inverse may miss
NEAR = 0.1  # share of it at which the search for a voxel's place ends
SLAB_VOXELS = 2**20  # output voxels per slab: 12 MiB of coordinates
COARSEST_INVERSE = 50_000  # voxels up to which an inverse is begun from the affine part
FIXED_POINT_STEPS = 8  # on each grid


class _Map:
    """Indices of one grid -> indices of another through a transform, slab by slab."""

    def __init__(self, transform: Transform, onto: Geometry, source: Geometry):
        self.onto, self.source = onto, source
        field = transform if isinstance(transform, DisplacementField) else None
        matrix = transform.matrix if isinstance(transform, AffineTransform) else np.eye(4)
        self.base = index_map(matrix, onto, source)
        self.field: torch.Tensor | None = None
        if field is not None:
            self.turn = torch.from_numpy(np.linalg.inv(source.affine)[:3, :3]).float()
            self.same = field.geometry == onto
            self.field = torch.from_numpy(np.asarray(field.mm, np.float32))
            self.to_field = index_map(np.eye(4), onto, field.geometry)

    def slab(self, start: int, stop: int) -> torch.Tensor:
        """Moving indices ``(1, 3, stop - start, J, K)`` of the fixed planes start..stop."""
        shape = (stop - start, *self.onto.shape[1:])
        out = affine_coordinates(self.base, shape, start=(start, 0, 0))
        if self.field is None:
            return out
        if self.same:
            mm = self.field[start:stop]
        else:
            at = affine_coordinates(self.to_field, shape, start=(start, 0, 0))
            mm = sample(self.field.permute(3, 0, 1, 2)[None], at)[0].permute(1, 2, 3, 0)
        return out.add_((mm.reshape(-1, 3) @ self.turn.T).T.reshape(out.shape))


def _slabs(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges of planes of about `SLAB_VOXELS` voxels each."""
    step = max(1, SLAB_VOXELS // max(shape[1] * shape[2], 1))
    return [(s, min(s + step, shape[0])) for s in range(0, shape[0], step)]


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A tensor to read from, in the memory of the array wherever torch can address it.

    Args:
        array: any shape. Foreign byte orders and reversed axes are copied, because torch takes neither. Torch
            has no read-only tensors and warns of read-only arrays, such as memory-mapped files, which are too
            large to be copied for that; nothing here writes to the tensor, so that warning is not shown.

    Returns:
        A tensor of the same shape; whoever gets it must not write to it.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if min(array.strides) < 0:
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(array)


def _source_tensor(volume: Volume, nearest: bool) -> torch.Tensor:
    """The array of a volume as ``(1, C, I, J, K)``, without a copy where its dtype allows."""
    array = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    if not nearest:
        array = np.asarray(array, np.float32)
    elif array.dtype == bool or array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64 if array.dtype.itemsize > 2 else np.int32)
    return tensor_of(array).permute(3, 0, 1, 2)[None]


def _beyond_float32(volume: Volume) -> tuple[float, float] | None:
    """Smallest value and range of a float64 image whose values float32 can't hold apart, else None."""
    array = volume.array
    if volume.kind == "labels" or array.dtype.kind != "f" or array.dtype.itemsize <= 4:
        return None
    low, high = float(array.min()), float(array.max())
    largest = max(abs(low), abs(high))
    held = 1e-30 < largest < 1e37 and high - low > 1e-4 * largest
    if held or low == high or not np.isfinite(high - low):
        return None
    return low, high - low


def _reader(
    volume: Volume, interpolation: str, border: str, fill: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from indices ``(1, 3, ...)`` to the values of a volume there, ``(C, ...)``."""
    if volume.kind == "labels":
        interpolation = "nearest" if volume.array.ndim == 3 else "linear"
    if interpolation == "cubic":
        if border not in ("constant", "edge"):
            raise InputError(f"the border of a cubic interpolation is {border!r}, expected constant or edge")
        stacked = volume.array if volume.array.ndim == 4 else volume.array[..., None]
        channels = [_spline(channel) for channel in np.moveaxis(stacked, -1, 0)]
        return lambda at: torch.stack([_cubic(one, at[0].numpy(), border, fill) for one in channels])
    nearest = interpolation == "nearest"
    source = _source_tensor(volume, nearest)
    return lambda at: sample(source, at, border=border, fill=fill, nearest=nearest)[0]


def _spline(array: np.ndarray) -> np.ndarray:
    """The coefficients of the cubic B-spline through an image's voxels, mirrored at its borders."""
    return np.asarray(ndimage.spline_filter(np.asarray(array, np.float64), 3, np.float32, mode="mirror"))


def _cubic(spline: np.ndarray, index: np.ndarray, border: str, fill: float) -> torch.Tensor:
    """Values of a spline at indices ``(3, ...)``; the border as `sample` has it."""
    size = np.reshape(spline.shape, (3, *[1] * (index.ndim - 1)))
    values = ndimage.map_coordinates(spline, np.clip(index, 0, size - 1), prefilter=False, mode="mirror")
    if border == "constant":
        values[((index < -0.5) | (index > size - 0.5)).any(0)] = fill
    return torch.from_numpy(values)


def warp(
    volume: Volume,
    transform: Transform,
    onto: Geometry,
    *,
    border: str = "constant",
    fill: float | None = None,
    interpolation: str = "linear",
    progress: Progress = silent,
) -> Volume:
    """Resample a volume through a transform onto a grid, once, from its own voxels.

    Images are interpolated linearly, label maps by their nearest voxel, 4-D labels (one binary channel per
    structure) linearly and cut at one half. The work goes slab by slab: beside input and output only one slab
    of coordinates is held.

    Args:
        volume: the moving volume, ``(I, J, K)`` or ``(I, J, K, C)``.
        transform: x_moving = T(x_fixed), RAS mm.
        onto: the fixed grid.
        border: ``constant`` or ``edge``, see `sample`.
        fill: the value outside the moving volume; by default an image's smallest value, 0 for labels.
        interpolation: of images, ``linear``, ``nearest`` or ``cubic``: a B-spline through the voxels (Unser,
            IEEE Signal Process. Mag. 1999), which is sharper and can overshoot at edges.
        progress: told after each slab.

    Returns:
        A volume on ``onto`` of the same kind; images are float32 (float64 if their values need it), label
        maps keep their dtype.

    Raises:
        InputError: an unknown border or interpolation.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(12, 10, 9), moving_shape=(11, 12, 10))
        >>> warped = RegCore.warp(pair.moving, pair.truth, pair.fixed.geometry)
        >>> warped.array.shape
        (12, 10, 9)
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"the interpolation {not_among(interpolation, INTERPOLATIONS)}")
    unit = _beyond_float32(volume)
    if unit is not None:
        low, span = unit
        scaled = Volume(((volume.array - low) / span).astype(np.float32), volume.geometry)
        filled, how = None if fill is None else (fill - low) / span, interpolation
        found = warp(
            scaled, transform, onto, border=border, fill=filled, interpolation=how, progress=progress
        )
        return Volume(found.array.astype(np.float64) * span + low, onto)
    labels, channels = volume.kind == "labels", volume.array.ndim == 4
    if fill is None:
        fill = 0 if labels else float(volume.array.min())
    dtype = volume.array.dtype.newbyteorder("=") if labels else np.float32
    out = np.empty((*onto.shape, *volume.array.shape[3:]), dtype)
    mapping, read = _Map(transform, onto, volume.geometry), _reader(volume, interpolation, border, fill)
    for start, stop in _slabs(onto.shape):
        values = read(mapping.slab(start, stop))
        values = values.permute(1, 2, 3, 0) if channels else values[0]
        out[start:stop] = (values > 0.5 if labels and channels else values).numpy()
        progress(stop / onto.shape[0], "warp", {})
    return replace(volume, array=out, geometry=onto)


def field_of(
    transform: AffineTransform, onto: Geometry, ddf: torch.Tensor | None = None
) -> DisplacementField:
    """The field of x -> A(x + u(x)), on the grid of u.

    Args:
        transform: A, fixed -> moving, RAS mm.
        onto: the grid (I, J, K).
        ddf: u, ``(1, 3, I, J, K)`` in voxels of the grid; by default 0.

    Returns:
        The field in RAS mm on ``onto``.
    """
    mm = np.empty((*onto.shape, 3), np.float32)
    step = (transform.matrix - np.eye(4)) @ onto.affine
    turn = torch.from_numpy((transform.matrix @ onto.affine)[:3, :3]).float()
    for start, stop in _slabs(onto.shape):
        part = affine_coordinates(step, (stop - start, *onto.shape[1:]), start=(start, 0, 0))[0]
        if ddf is not None:
            part += torch.einsum("rc,cijk->rijk", turn, ddf[0, :, start:stop].float().cpu())
        mm[start:stop] = part.permute(1, 2, 3, 0).numpy()
    return DisplacementField(onto, mm)


def inverted(field: DisplacementField, onto: Geometry, progress: Progress = silent) -> DisplacementField:
    """`DisplacementField.inverse` on a grid, faster: from the inverse on a coarser grid, slab by slab.

    Args:
        field: x_moving = T(x_fixed), RAS mm.
        onto: the grid of the inverse.
        progress: told after each slab; what it raises ends the work.

    Returns:
        x_fixed = T^-1(x_moving), RAS mm, exact to 0.04 voxels where the field has an inverse.
    """
    search = _Inversion(field, field.affine or field.affine_part(), onto)
    grids = [onto]
    while grids[0].voxels > COARSEST_INVERSE:
        grids.insert(0, grids[0].resized(tuple(max(2, -(-n // 2)) if n > 1 else 1 for n in grids[0].shape)))
    start, before, total = None, onto, sum(grid.voxels for grid in grids)
    done = 0
    for grid in grids:
        found = torch.empty((1, 3, *grid.shape))
        for first, last in _slabs(grid.shape):
            found[:, :, first:last] = search.slab(grid, first, last, start, before)
            done += (last - first) * grid.shape[1] * grid.shape[2]
            progress(done / total, "inverse", {})
        start, before = found, grid
    return search.finished(found)


class _Inversion:
    """The search for i with phi(i) = A^-1 T(i) = z, in indices of the field's grid, A its affine part.

    The displacements i - z are what is kept: they are what can be interpolated from a coarser grid.
    """

    def __init__(self, field: DisplacementField, linear: AffineTransform, onto: Geometry):
        self.field = DisplacementField(field.geometry, field.mm, linear)
        self.onto, self.back = onto, linear.inverse()
        back, grid = self.back.matrix, field.geometry
        self.base = index_map(back, grid, grid)  # phi less what the displacements do
        turn = torch.from_numpy((np.linalg.inv(grid.affine) @ back @ grid.affine)[:3, :3]).float()
        to_index = torch.from_numpy(np.linalg.inv(grid.affine)[:3, :3]).float()
        mm = torch.from_numpy(field.mm).reshape(-1, 3)
        self.shifts = (mm @ (turn @ to_index).T).T.reshape(1, 3, *grid.shape).contiguous()
        stretch = np.linalg.inv(grid.affine) @ linear.matrix @ grid.affine
        self.tolerance = TOLERANCE / max(float(np.linalg.norm(stretch[:3, :3], 2)), 1e-6)

    def _off(self, at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """phi(i) - z at indices, ``(1, 3, ...)``."""
        linear = torch.from_numpy(self.base).float()
        out = torch.einsum("rc,bcijk->brijk", linear[:3, :3], at).add_(linear[:3, 3].view(1, 3, 1, 1, 1))
        return out.add_(sample(self.shifts, at)).sub_(targets)

    def _targets(self, grid: Geometry, first: int, last: int) -> torch.Tensor:
        """z of the planes first..last of a grid over the moving image."""
        matrix = index_map(self.back.matrix, grid, self.field.geometry)
        return affine_coordinates(matrix, (last - first, *grid.shape[1:]), start=(first, 0, 0))

    def slab(
        self, grid: Geometry, first: int, last: int, start: torch.Tensor | None, before: Geometry
    ) -> torch.Tensor:
        """Displacements ``(1, 3, last - first, J, K)`` of some planes, from those on a coarser grid."""
        targets = self._targets(grid, first, last)
        at = targets.clone()
        if start is not None:
            shape = (last - first, *grid.shape[1:])
            coarse = affine_coordinates(index_map(np.eye(4), grid, before), shape, start=(first, 0, 0))
            at += sample(start, coarse)
        off = self._off(at, targets)
        error = off.square().sum(1).view(-1)
        at, off, goal = (x.view(1, 3, -1, 1, 1) for x in (at, off, targets))
        near = (NEAR * self.tolerance) ** 2
        left = (error > near).nonzero()[:, 0]
        for _ in range(FIXED_POINT_STEPS):  # of those that are not home and have come nearer so far
            if len(left) == 0:
                break
            moved = at[:, :, left] - off[:, :, left]
            off[:, :, left] = self._off(moved, goal[:, :, left])
            new = off[:, :, left].square().sum(1).view(-1)
            nearer_by_it = new < error[left]
            left, moved, new = left[nearer_by_it], moved[:, :, nearer_by_it], new[nearer_by_it]
            at[:, :, left], error[left] = moved, new
            left = left[new > near]
        return at.view(targets.shape) - targets

    def finished(self, found: torch.Tensor) -> DisplacementField:
        """The field of these displacements; points that the search has not brought home go on from there."""
        onto, grid = self.onto, self.field.geometry
        mm = np.empty((*onto.shape, 3), np.float32)
        for first, last in _slabs(onto.shape):
            targets = self._targets(onto, first, last)
            at = targets + found[:, :, first:last]
            far = (self._off(at, targets).square().sum(1) > self.tolerance**2)[0].numpy()
            world = grid.to_world(at[0].permute(1, 2, 3, 0).numpy().astype(np.float64))
            places = onto.cropped((first, 0, 0), (last, *onto.shape[1:])).world_grid()
            if far.any():
                world[far] = nearer(self.field, places[far], world[far], TOLERANCE)
            mm[first:last] = world - places
        return DisplacementField(onto, mm, self.back)
