"""From volumes as they come to the smaller grids on which networks and optimisers work."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from RegCore.resampler import affine_coordinates, gaussian_smooth, index_map, sample, tensor_of
from RegCore.resampler.grids import Device
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

BLOCK = 2**20  # voxels that are rescaled at a time
FARTHEST = 1e15  # robust ranges from which on values are cut: their squares must stay within float32


def working_geometry(geometry: Geometry, max_voxels: int, *, min_size: int = 8) -> Geometry:
    """A grid over the same corner voxels with a limited number of voxels, as isotropic as that allows.

    Args:
        geometry: the grid that it covers; no axis becomes finer than it is there.
        max_voxels: the number of voxels that it has at most, but for ``min_size``.
        min_size: voxels that each axis keeps, unless it has fewer.

    Returns:
        The grid; ``geometry`` itself if that is small enough.
    """
    shape, spacing = np.array(geometry.shape, float), geometry.spacing
    extent = np.maximum(shape - 1, 1) * spacing
    low, high = float(spacing.min()), float(extent.max())

    def sized(target: float) -> np.ndarray:
        size = np.floor(extent / np.maximum(target, spacing) + 1e-6) + 1
        return np.minimum(np.maximum(size, min_size), shape).astype(int)

    if np.prod(sized(low)) <= max_voxels:
        return geometry
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if np.prod(sized(middle)) > max_voxels else (low, middle)
    return geometry.resized(tuple(int(n) for n in sized(high)))


def _pooled(image: torch.Tensor, geometry: Geometry, factors: Sequence[int]) -> tuple[torch.Tensor, Geometry]:
    """Means of whole blocks of voxels, and the grid of the blocks' centres."""
    if max(factors) == 1:
        return image, geometry
    pooled = F.avg_pool3d(image, tuple(factors), tuple(factors))
    step = np.eye(4)
    step[:3, :3] = np.diag(factors)
    step[:3, 3] = (np.array(factors) - 1) / 2
    i, j, k = pooled.shape[2:]
    return pooled, Geometry((i, j, k), geometry.affine @ step)


def as_tensor(volume: Volume, *, device: Device = None) -> torch.Tensor:
    """The array of a one-channel volume as float32 ``(1, 1, I, J, K)``, i slowest in memory."""
    array = np.ascontiguousarray(volume.array, np.float32)
    return tensor_of(array)[None, None].to(device)


def robust_range(array: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> tuple[float, float]:
    """Two percentiles of a sample of the voxels, or the extremes if these agree."""
    sampled = array[tuple(slice(None, None, -(-n // 64)) for n in array.shape)]
    low, high = (float(value) for value in np.percentile(sampled.astype(np.float64), [lower, upper]))
    return (low, high) if high > low else (float(array.min()), float(array.max()))


def rescale_percentiles(array: np.ndarray, bounds: tuple[float, float] | None = None) -> np.ndarray:
    """An image in units of its robust range: 0 is its 0.5 percentile and 1 its 99.5 percentile.

    Optimisers square intensities, which overflows or vanishes in float32 where the unit is extreme. No second
    copy in double precision is made: the work goes block by block of memory.

    Args:
        array: ``(I, J, K)``, any dtype and unit.
        bounds: what becomes 0 and 1, in place of the two percentiles.

    Returns:
        ``(I, J, K)`` float32, not cut at 0 and 1.
    """
    low, high = bounds or robust_range(array)
    span = high - low if high > low else 1.0
    exact = np.float32 if array.dtype.itemsize <= 2 else np.float64
    out = np.empty(array.shape, np.float32)
    rows = max(1, BLOCK // max(array[0].size, 1))
    for start in range(0, len(array), rows):
        part: NDArray[np.floating] = array[start : start + rows].astype(exact)
        part -= exact(low)
        part /= exact(span)
        out[start : start + rows] = np.clip(part, -FARTHEST, FARTHEST, out=part)
    return out


def normalize_array(
    array: np.ndarray, v_min: float | None = None, v_max: float | None = None, *, where: str = "the image"
) -> np.ndarray:
    """An image clipped to a window of intensities and rescaled: 0 at its lower end, 1 at its upper one.

    Args:
        array: any shape and dtype.
        v_min, v_max: the window; by default the smallest and the largest value.
        where: what the array is, for messages.

    Returns:
        float32 in [0, 1] of the same shape; 0 throughout if the window has no width.

    Raises:
        InputError: a value is not finite, or the window ends below its beginning.
    """
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # each is NaN if one voxel is
        raise InputError(f"{where}: all voxels must be finite, but some are NaN or infinite")
    low, high = (low if v_min is None else v_min), (high if v_max is None else v_max)
    span = float(high) - float(low)
    if not span >= 0:
        raise InputError(f"{where}: v_min must not exceed v_max, but the window goes from {low} to {high}")
    if span == 0:
        return np.zeros(array.shape, np.float32)
    small = array.dtype.itemsize <= 2 or (array.dtype == np.float32 and 1e-30 < span < 1e38)
    exact = np.float32 if small else np.float64
    scaled: NDArray[np.floating] = array.astype(exact)
    scaled -= exact(low)
    scaled /= exact(high) - exact(low)
    if not (v_min is None and v_max is None):
        np.clip(scaled, 0, 1, out=scaled)
    return scaled.astype(np.float32, copy=False)


def downsample(
    image: torch.Tensor, geometry: Geometry, spacing: ArrayLike, *, least: int = 4
) -> tuple[torch.Tensor, Geometry]:
    """An image at about the given spacing, smoothed so that nothing finer is left to alias.

    Args:
        image: ``(1, C, I, J, K)`` on ``geometry``.
        spacing: three wanted spacings in mm along the image's own axes; finer than its own means its own.
        least: no axis gets fewer voxels than this unless it has fewer already.

    Returns:
        The image and its grid: whole factors by block means, the rest by a Gaussian and linear sampling.
    """
    ratio = np.maximum(np.asarray(spacing, float) / geometry.spacing, 1.0)
    ratio = np.minimum(ratio, np.maximum(np.array(geometry.shape) / least, 1.0))
    factors = [int(f + 1e-6) for f in ratio]
    image, geometry = _pooled(image, geometry, factors)
    rest = ratio / factors
    if rest.max() < 1.05:
        return image, geometry
    shape = [max(round((n - 1) / r) + 1, 1) for n, r in zip(geometry.shape, rest, strict=True)]
    target = geometry.resized(tuple(shape))
    image = gaussian_smooth(image, 0.5 * np.sqrt(np.maximum(rest**2 - 1, 0)))
    at = affine_coordinates(index_map(np.eye(4), target, geometry), target.shape, device=image.device)
    return sample(image, at), target


def resample_to(
    image: torch.Tensor, geometry: Geometry, target: Geometry, matrix: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image resampled onto a grid through a world matrix, edges repeated, and where it really lies.

    Args:
        image: ``(1, C, I, J, K)`` on ``geometry``.
        target: the grid wanted.
        matrix: 4x4, world of ``target`` -> world of ``geometry``, RAS mm.

    Returns:
        ``(1, C, *target.shape)`` and a mask ``(1, 1, *target.shape)`` of 0 and 1, 1 inside the image.
    """
    at = affine_coordinates(index_map(matrix, target, geometry), target.shape, device=image.device)
    inside = torch.ones_like(at[:, :1])
    for d, n in enumerate(geometry.shape):
        inside *= (at[:, d : d + 1] >= -0.5) & (at[:, d : d + 1] <= n - 0.5)
    return sample(image, at), inside


def spacing_along(geometry: Geometry, directions: np.ndarray) -> np.ndarray:
    """Spacing of a grid along world directions, the columns of ``(3, 3)``: ``(3,)`` mm."""
    return 1.0 / np.linalg.norm(np.linalg.inv(geometry.affine)[:3, :3] @ directions, axis=0)


def padded(geometry: Geometry, voxels: int) -> Geometry:
    """The grid with a margin of voxels on each of its six sides."""
    step = np.eye(4)
    step[:3, 3] = -voxels
    i, j, k = (n + 2 * voxels for n in geometry.shape)
    return Geometry((i, j, k), geometry.affine @ step)


def foreground(image: np.ndarray) -> np.ndarray:
    """Body against background, bool (I, J, K), by Otsu's threshold (IEEE Trans. SMC 1979)."""
    sampled = image[:: max(image.shape[0] // 64, 1), :: max(image.shape[1] // 64, 1), ::]
    low, high = np.percentile(sampled, [0.5, 99.5])
    if high <= low:
        return np.ones(image.shape, bool)
    counts, edges = np.histogram(np.clip(sampled, low, high), 128)
    centres = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts)
    total = np.cumsum(counts * centres)
    above = weight[-1] - weight
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total / weight - (total[-1] - total) / above) ** 2 * weight * above
    return image > edges[1:][np.nanargmax(between[:-1])]
