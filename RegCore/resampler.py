"""Sampling, warping and composing on voxel grids: the one place that knows how coordinates become values.

Tensors are ``(B, C, I, J, K)``; coordinates and displacements are ``(B, 3, i, j, k)`` in voxels of the grid
that is sampled, channel order i, j, k.
"""

from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.geometry import Geometry
from RegCore.progress import Progress, silent
from RegCore.transforms import AffineTransform, DisplacementField
from RegCore.volume import Volume

BORDERS = ("edge", "constant", "zero_boundary")
TOLERANCE = 0.04  # voxels by which an inverse may miss
SLAB_VOXELS = 2**20  # output voxels per slab: 12 MiB of coordinates


def reference_grid(shape, *, dtype=torch.float32, device=None) -> torch.Tensor:
    """Index of every voxel of a grid: ``(1, 3, I, J, K)``."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _normalised(coordinates: torch.Tensor, shape) -> torch.Tensor:
    """Coordinates ``(B, 3, N)`` in voxels for `grid_sample`: ``(B, N, 3)``, [-1, 1], last axis first."""
    scale = [2.0 / (n - 1) if n > 1 else 0.0 for n in shape]
    return torch.stack([coordinates[:, d] * scale[d] - 1.0 for d in (2, 1, 0)], -1)


def _inside(coordinates: torch.Tensor, shape, border: str) -> torch.Tensor:
    """Where values come from the image, ``(B, 1, ...)``.

    ``constant`` counts a voxel's whole cell as image (from -0.5 to n - 0.5), as ITK does; ``zero_boundary``
    takes 0 < x <= n - 1, which is what DeepReg's resampler amounts to.
    """
    keep = None
    for d, n in enumerate(shape):
        x = coordinates[:, d : d + 1]
        ok = (x >= -0.5) & (x <= n - 0.5) if border == "constant" else (x > 0) & (x <= n - 1)
        keep = ok if keep is None else keep & ok
    return keep


def _linear(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Trilinear values at ``(B, 3, N)``, edge-extended: ``(B, C, N)``.

    torch gives each batch entry of a 3-D `grid_sample` to one core; the points of a single image are
    therefore dealt to as many views of it as there are threads. The values are the same to the last bit.
    """
    batch, channels = image.shape[:2]
    points = coordinates.shape[-1]
    grid = _normalised(coordinates, image.shape[2:])
    parts = torch.get_num_threads() if batch == 1 and image.device.type == "cpu" and points > 4096 else 1
    if parts > 1:
        grid = F.pad(grid, (0, 0, 0, -points % parts)).view(parts, 1, 1, -1, 3)
        image = image.expand(parts, -1, -1, -1, -1)
    else:
        grid = grid.view(batch, 1, 1, points, 3)
    out = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    if parts > 1:
        return out.transpose(0, 1).reshape(1, channels, -1)[..., :points]
    return out.view(batch, channels, points)


def _linear_left(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """As `_linear`, but a whole coordinate counts to the cell before it: there DeepReg takes the slope."""
    flat, low, part, total = image.flatten(2), [], [], 0
    for d, n in enumerate(image.shape[2:]):
        first = torch.ceil(coordinates[:, d].detach()).clamp_(1, max(n - 1, 1)) - 1
        low.append(first.to(torch.int64))
        part.append(coordinates[:, d] - first)
    for corner in product((0, 1), repeat=3):
        index, weight = 0, 1
        for d, (n, upper) in enumerate(zip(image.shape[2:], corner, strict=True)):
            index = index * n + (low[d] + upper).clamp_max(n - 1)
            weight = weight * (part[d] if upper else 1 - part[d])
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        total = total + weight[:, None] * values
    return total


def _nearest(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Values of the nearest voxels at ``(B, 3, N)``, edge-extended, in the image's dtype: ``(B, C, N)``."""
    index = None
    for d, n in enumerate(image.shape[2:]):
        axis = torch.floor(coordinates[:, d] + 0.5).clamp_(0, n - 1).to(torch.int64)
        index = axis if index is None else index.mul_(n).add_(axis)
    flat = image.flatten(2)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))


def sample(
    image: torch.Tensor,
    coordinates: torch.Tensor,
    *,
    border: str = "edge",
    fill: float = 0.0,
    nearest: bool = False,
) -> torch.Tensor:
    """Values of an image at given places.

    Args:
        image: ``(B, C, I, J, K)``; floating for linear interpolation, anything for nearest.
        coordinates: ``(B, 3, *out)`` in voxels of ``image``; differentiable for linear interpolation.
        border: ``edge`` repeats the outermost voxels; ``constant`` puts ``fill`` beyond the outermost voxels'
            cells; ``zero_boundary`` blanks what DeepReg blanks (index 0 of each axis and all outside).
        fill: the value outside, for ``constant``.
        nearest: take the nearest voxel in place of trilinear interpolation (halves round up).

    Returns:
        ``(B, C, *out)``.

    Raises:
        ValueError: unknown border.
    """
    if border not in BORDERS:
        raise ValueError(f"border is {border!r}, expected one of {', '.join(BORDERS)}")
    flat = coordinates.flatten(2)
    linear = _linear_left if border == "zero_boundary" else _linear
    values = (_nearest if nearest else linear)(image, flat)
    if border != "edge":
        outside = ~_inside(flat, image.shape[2:], border)
        values = values.masked_fill(outside, fill if border == "constant" else 0)
    return values.view(*values.shape[:2], *coordinates.shape[2:])


def warp_image_ddf(
    image: torch.Tensor, ddf: torch.Tensor, *, border: str = "edge", fill: float = 0.0, nearest: bool = False
) -> torch.Tensor:
    """Image ``(B, C, I, J, K)`` pulled by a DDF ``(B, 3, i, j, k)``: out(x) = image(x + ddf(x)), voxels."""
    grid = reference_grid(ddf.shape[2:], dtype=ddf.dtype, device=ddf.device)
    return sample(image, grid + ddf, border=border, fill=fill, nearest=nearest)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """DDF of x -> (id + outer)((id + inner)(x)), both ``(B, 3, I, J, K)`` in voxels of one grid."""
    return inner + warp_image_ddf(outer, inner)


def integrate(velocity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """exp of a stationary velocity field by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: ``(B, 3, I, J, K)`` in voxels per unit time.
        steps: number of squarings; the first step is velocity / 2**steps.

    Returns:
        The DDF ``(B, 3, I, J, K)`` in voxels.
    """
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf)
    return ddf


def resize3d(image: torch.Tensor, shape, *, align_corners: bool = True) -> torch.Tensor:
    """Trilinear resize of ``(B, C, I, J, K)`` to ``shape``; corner voxels keep their place by default."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    return F.interpolate(image, size=tuple(shape), mode="trilinear", align_corners=align_corners)


def resize_ddf(ddf: torch.Tensor, shape) -> torch.Tensor:
    """A DDF ``(B, 3, I, J, K)`` on another grid over the same corner voxels, in voxels of that grid."""
    old = ddf.shape[2:]
    scale = [(n - 1) / max(o - 1, 1) for n, o in zip(shape, old, strict=True)]
    scale = torch.tensor(scale, dtype=ddf.dtype, device=ddf.device).view(1, 3, 1, 1, 1)
    return resize3d(ddf, shape) * scale


def _window_sum(x: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Sums of ``width`` consecutive entries along ``dim`` (valid positions) by doubling adds."""
    total, start, power, partial = None, 0, 1, x
    length = x.shape[dim] - width + 1
    while True:
        if width & power:
            piece = partial.narrow(dim, start, length)
            total = piece.clone() if total is None else total.add_(piece)
            start += power
        power *= 2
        if power > width:
            return total
        half = power // 2
        n = partial.shape[dim] - half
        partial = partial.narrow(dim, 0, n) + partial.narrow(dim, half, n)


def box_mean(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over the (2 radius + 1)^3 neighbourhood of ``(B, C, I, J, K)``, edges replicated."""
    if radius == 0:
        return x
    width = 2 * radius + 1
    for dim in (2, 3, 4):
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (4 - dim)] = pad[2 * (4 - dim) + 1] = radius
        x = _window_sum(F.pad(x, pad, mode="replicate"), width, dim)
    return x / width**3


def gaussian_smooth(x: torch.Tensor, sigma) -> torch.Tensor:
    """Gaussian smoothing of ``(B, C, I, J, K)``; ``sigma`` in voxels, a number or three; edges replicated."""
    sigmas = [float(s) for s in np.broadcast_to(np.asarray(sigma, float), (3,))]
    for dim, s in zip((2, 3, 4), sigmas, strict=True):
        if s <= 0 or x.shape[dim] == 1:
            continue
        radius = max(int(3 * s + 0.5), 1)
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / s) ** 2)
        weights = (weights / weights.sum()).tolist()
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (4 - dim)] = pad[2 * (4 - dim) + 1] = radius
        padded, length = F.pad(x, pad, mode="replicate"), x.shape[dim]
        out = padded.narrow(dim, radius, length) * weights[radius]
        for k in range(radius):  # the kernel is symmetric: two slices, one multiplication
            pair = padded.narrow(dim, k, length) + padded.narrow(dim, 2 * radius - k, length)
            out.add_(pair, alpha=weights[k])
        x = out
    return x


# ---- volumes in space --------------------------------------------------------------------------------------


def index_map(transform_matrix: np.ndarray, onto: Geometry, source: Geometry) -> np.ndarray:
    """4x4 matrix from indices of ``onto`` through a world matrix to indices of ``source``."""
    return np.linalg.inv(source.affine) @ transform_matrix @ onto.affine


def affine_coordinates(matrix: np.ndarray, shape, *, start=(0, 0, 0), dtype=torch.float32, device=None):
    """``matrix @ index`` for a block of voxels of the given shape from ``start``: ``(1, 3, I, J, K)``."""
    m = np.asarray(matrix, np.float64)
    axes = [torch.arange(s, s + n, dtype=torch.float64) for s, n in zip(start, shape, strict=True)]
    out = torch.empty((1, 3, *shape), dtype=dtype)  # float64 on the way, which not every device knows
    for row in range(3):
        parts = [m[row, d] * axes[d] for d in range(3)]
        plane = (parts[0][:, None] + parts[1][None, :] + m[row, 3])[:, :, None]
        out[0, row] = (plane + parts[2][None, None, :]).to(dtype)
    return out.to(device)


class _Map:
    """Indices of one grid -> indices of another through a transform, slab by slab."""

    def __init__(self, transform, onto: Geometry, source: Geometry):
        self.onto, self.source = onto, source
        field = isinstance(transform, DisplacementField)
        self.base = index_map(np.eye(4) if field else transform.matrix, onto, source)
        self.field = None
        if field:
            self.turn = torch.from_numpy(np.linalg.inv(source.affine)[:3, :3]).float()
            self.same = transform.geometry == onto
            self.field = torch.from_numpy(np.asarray(transform.mm, np.float32))
            self.to_field = index_map(np.eye(4), onto, transform.geometry)

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


def _slabs(shape):
    """Ranges of planes of about `SLAB_VOXELS` voxels each."""
    step = max(1, SLAB_VOXELS // max(shape[1] * shape[2], 1))
    return [(s, min(s + step, shape[0])) for s in range(0, shape[0], step)]


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """A tensor to read from, in the memory of the array wherever torch can address it.

    Torch takes neither foreign byte orders nor reversed axes, which are copied. It warns of read-only arrays,
    such as memory-mapped files, which are too large to be copied for that: they are given as writable ones.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if min(array.strides) < 0:
        array = array.copy()
    if not array.flags.writeable:
        memory = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
        array = np.asarray(SimpleNamespace(owner=array, __array_interface__=memory))
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


def warp(
    volume: Volume,
    transform: AffineTransform | DisplacementField,
    onto: Geometry,
    *,
    border: str = "constant",
    fill: float | None = None,
    progress: Progress = silent,
) -> Volume:
    """Pull a volume through a transform onto a grid, once, from its own voxels.

    Images are interpolated linearly, label maps by their nearest voxel, 4-D labels (one binary channel per
    structure) linearly and cut at one half. The work goes slab by slab: beside input and output only one slab
    of coordinates is held.

    Args:
        volume: the moving volume, ``(I, J, K)`` or ``(I, J, K, C)``.
        transform: x_moving = T(x_fixed), RAS mm.
        onto: the fixed grid.
        border: ``constant`` or ``edge``, see `sample`.
        fill: the value outside the moving volume; by default an image's smallest value, 0 for labels.
        progress: told after each slab.

    Returns:
        A volume on ``onto`` of the same kind; images are float32 (float64 if their values need it), label
        maps keep their dtype.

    Raises:
        ValueError: unknown border.
    """
    unit = _beyond_float32(volume)
    if unit is not None:
        low, span = unit
        scaled = Volume(((volume.array - low) / span).astype(np.float32), volume.geometry)
        filled = None if fill is None else (fill - low) / span
        found = warp(scaled, transform, onto, border=border, fill=filled, progress=progress)
        return Volume(found.array.astype(np.float64) * span + low, onto)
    labels = volume.kind == "labels"
    nearest = labels and volume.array.ndim == 3
    source = _source_tensor(volume, nearest)
    if fill is None:
        fill = 0 if labels else float(volume.array.min())
    dtype = volume.array.dtype.newbyteorder("=") if labels else np.float32
    out = np.empty((*onto.shape, *volume.array.shape[3:]), dtype)
    mapping = _Map(transform, onto, volume.geometry)
    for start, stop in _slabs(onto.shape):
        values = sample(source, mapping.slab(start, stop), border=border, fill=fill, nearest=nearest)[0]
        values = values.permute(1, 2, 3, 0) if volume.array.ndim == 4 else values[0]
        out[start:stop] = (values > 0.5 if labels and not nearest else values).numpy()
        progress(stop / onto.shape[0], "warp", {})
    return Volume(out, onto, volume.kind)


def field_of(
    transform: AffineTransform, onto: Geometry, ddf: torch.Tensor | None = None
) -> DisplacementField:
    """Displacements in mm of x -> A(x + u(x)) on a grid, u a DDF ``(1, 3, I, J, K)`` in voxels of it."""
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
    """`DisplacementField.inverse` on a grid, slab by slab, so that Cancel is heard in between."""
    linear = field.affine or field.affine_part()
    known = DisplacementField(field.geometry, field.mm, linear)
    rows = max(1, SLAB_VOXELS // 4 // (onto.shape[1] * onto.shape[2]))
    parts = []
    for start in range(0, onto.shape[0], rows):
        stop = min(start + rows, onto.shape[0])
        part = onto.cropped((start, 0, 0), (stop, *onto.shape[1:]))
        parts.append(known.inverse(part, tolerance_voxels=TOLERANCE).mm)
        progress(stop / onto.shape[0], "inverse", {})
    return DisplacementField(onto, np.concatenate(parts), linear.inverse())
