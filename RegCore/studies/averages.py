"""Means of images of several scans, brought together by transforms."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from RegCore.resampler import gaussian_smooth, warp
from RegCore.resampler.pyramid import as_tensor, robust_range
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

SIGMA = 1.0  # voxels of the Gaussian that is taken off where a template is sharpened
COVERED = 1e-3  # share of a scan from which on it counts at a voxel


def in_one_range(scans: Sequence[Volume]) -> list[Volume]:
    """The scans with their robust ranges brought linearly to the median of all, float32."""
    ranges = [robust_range(scan.array) for scan in scans]
    low, high = np.median(ranges, axis=0)
    out = []
    for scan, (own_low, own_high) in zip(scans, ranges, strict=True):
        factor = (high - low) / (own_high - own_low)
        array = (scan.array.astype(np.float32) - np.float32(own_low)) * np.float32(factor) + np.float32(low)
        out.append(replace(scan, array=array))
    return out


@dataclass(frozen=True)
class Average:
    """The mean of scans through their transforms, and how far they are from it.

    Attributes:
        mean: each voxel is the mean of the scans that reach it; where none does, the smallest mean.
        spread: standard deviation over the scans, (I, J, K).
    """

    mean: Volume
    spread: np.ndarray = field(repr=False)


def average(scans: Sequence[Volume], transforms: Sequence[Transform], grid: Geometry) -> Average:
    """The average of scans on a grid.

    Args:
        scans: images in one range of intensities, on any grids.
        transforms: x_scan = T(x_grid) of each, RAS mm.
        grid: of the average.
    """
    total, squares, count = (np.zeros(grid.shape) for _ in range(3))
    for scan, transform in zip(scans, transforms, strict=True):
        values = warp(scan, transform, grid, border="edge").array.astype(np.float64)
        inside = Volume(np.ones(scan.geometry.shape, np.float32), scan.geometry)
        weight = warp(inside, transform, grid, fill=0.0).array.astype(np.float64)
        total += weight * values
        squares += weight * values**2
        count += weight
    seen = count > COVERED
    mean = np.divide(total, count, out=np.zeros(grid.shape), where=seen)
    mean[~seen] = mean[seen].min() if seen.any() else 0.0
    variance = np.divide(squares, count, out=np.zeros(grid.shape), where=seen) - np.where(seen, mean, 0) ** 2
    return Average(Volume(mean.astype(np.float32), grid), np.sqrt(np.maximum(variance, 0)))


def sharpened(image: Volume, share: float) -> Volume:
    """An image to which a share of its detail is added: what a Gaussian of one voxel takes off.

    Args:
        image: ``(I, J, K)``.
        share: 0 leaves it as it is.
    """
    if share == 0:
        return image
    values = as_tensor(image)
    with torch.no_grad():
        out = values + share * (values - gaussian_smooth(values, SIGMA))
    return replace(image, array=out[0, 0].numpy())


def figures_of_mean(found: Average, changed: float, drift: float) -> dict[str, float]:
    """The figures of a round, see `RegCore.studies.template.GroupTemplate`."""
    low, high = robust_range(found.mean.array)
    span = high - low if high > low else 1.0
    array = found.mean.array.astype(np.float64)
    steps = np.stack([np.gradient(array, axis=axis) for axis in range(3)], -1)
    return {
        "changed_voxels": changed,
        "drift_mm": drift,
        "spread": float(found.spread.mean()) / span,
        "sharpness": float(np.sqrt((steps**2).sum(-1).mean())) / span,
    }
