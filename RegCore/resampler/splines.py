"""Fields that follow a coarse grid of control points by cubic B-splines (free-form deformation).

A field ``(B, C, I, J, K)`` has control points every ``spacing`` voxels: point q of an axis lies at voxel
(q - 1) spacing, so that one stands ahead of the image and one or two behind it. All steps are linear and go
axis by axis: each is a product with a small matrix. Rueckert et al., IEEE Trans. Med. Imaging 18, 1999.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from RegCore.resampler.smoothing import gaussian_taps
from RegCore.space.geometry import InputError

WIDTH = 0.44  # of the Gaussian that goes before, in spacings: what finer detail control points can't follow


def _three(spacing: int | Sequence[int]) -> tuple[int, int, int]:
    values = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,) * 3
    if len(values) != 3 or not all(isinstance(v, int) and v > 0 for v in values):
        raise InputError(
            "the spacing of control points is one or three positive whole numbers of voxels,"
            f" but {spacing!r} came"
        )
    return values


def _count(n: int, spacing: int) -> int:
    """Control points of an axis of n voxels."""
    return math.ceil(n / spacing) + 3


def _by_axis(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each of the last three axes of ``(B, C, I, J, K)`` times a matrix ``(new, old)``."""
    with torch.autocast(x.device.type, enabled=False):  # which would round displacements to 8 bits
        i, j, k = (m.to(x) for m in matrices)
        x = j @ (x @ k.T)
        return (i @ x.flatten(3)).unflatten(3, x.shape[3:])


def _linear(places: torch.Tensor, n: int) -> torch.Tensor:
    """Matrix ``(len(places), n)`` of linear interpolation among n values, edges extended."""
    distance = places.clamp(0, n - 1)[:, None] - torch.arange(n, dtype=torch.float64)
    return (1 - distance.abs()).clamp_min(0)


def _gaussian(n: int, sigma: float, radius: int, *, edge: bool) -> torch.Tensor:
    """Matrix ``(n, n)`` of Gaussian smoothing with edges replicated, else with zeros outside."""
    rows = torch.arange(n).expand(2 * radius + 1, -1)
    columns = rows + torch.arange(-radius, radius + 1)[:, None]
    weights = gaussian_taps(sigma, radius)[:, None].expand(-1, n)
    if not edge:
        weights = weights * ((columns >= 0) & (columns < n))
    out = torch.zeros((n, n), dtype=torch.float64)
    return out.index_put_((rows, columns.clamp(0, n - 1)), weights, accumulate=True)


@lru_cache(maxsize=32)
def _onto_points(n: int, spacing: int, deepreg: bool) -> torch.Tensor:
    """Matrix from the n voxels of an axis to its control points: smoothed, then interpolated."""
    sigma, count = WIDTH * spacing, _count(n, spacing)
    points = torch.arange(count, dtype=torch.float64)
    if deepreg:
        smooth = _gaussian(n, sigma, math.ceil(3 * sigma) // 2, edge=False)
        return _linear((points + 0.5) * n / count - 0.5, n) @ smooth
    return _linear((points - 1) * spacing, n) @ _gaussian(n, sigma, max(int(3 * sigma + 0.5), 1), edge=True)


@lru_cache(maxsize=32)
def _spline(start: int, stop: int, count: int, spacing: int, deepreg: bool) -> torch.Tensor:
    """Matrix from the control points of an axis to its voxels start..stop."""
    voxels = torch.arange(start, stop, dtype=torch.float64) + (0.5 if deepreg else 0)
    t = (voxels[:, None] / spacing - torch.arange(-1, count - 1)).abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp_min(0) ** 3 / 6)


def onto_control_points(
    field: torch.Tensor, spacing: int | Sequence[int], *, deepreg: bool = False
) -> torch.Tensor:
    """The values of a field at control points, after a Gaussian of 0.44 spacings against aliasing.

    Args:
        field: ``(B, C, I, J, K)``.
        spacing: voxels from one control point to the next, a number or one for each axis.
        deepreg: as DeepReg: the Gaussian fades into zeros outside the image and is cut early, and the whole
            image is spread evenly over the control points, which stretches the field about its centre.

    Returns:
        ``(B, C, *m)`` with m = ceil(n / spacing) + 3 control points along each axis.

    Raises:
        InputError: a spacing that is not one or three positive whole numbers.
    """
    sizes = zip(field.shape[2:], _three(spacing), strict=True)
    return _by_axis(field, [_onto_points(n, s, deepreg) for n, s in sizes])


def bspline_field(
    points: torch.Tensor,
    spacing: int | Sequence[int],
    shape: Sequence[int] | None = None,
    *,
    deepreg: bool = False,
) -> torch.Tensor:
    """The field that follows control points: along each axis sum of points[q] beta(x / spacing - (q - 1)).

    beta is the cubic B-spline, so that the field has two continuous derivatives; a constant is kept.

    Args:
        points: ``(B, C, *m)``, see `onto_control_points`.
        spacing: voxels from one control point to the next, a number or one for each axis.
        shape: of the field; by default all voxels that the points reach, from -3 spacing to m spacing.
        deepreg: as DeepReg, which evaluates half a voxel further on.

    Returns:
        ``(B, C, *shape)``.

    Raises:
        InputError: a spacing that is not one or three positive whole numbers.
    """
    matrices = []
    for axis, (count, step) in enumerate(zip(points.shape[2:], _three(spacing), strict=True)):
        start, stop = (-3 * step, count * step) if shape is None else (0, shape[axis])
        matrices.append(_spline(start, stop, count, step, deepreg))
    return _by_axis(points, matrices)


def control_point_field(
    field: torch.Tensor, spacing: int | Sequence[int], *, deepreg: bool = False
) -> torch.Tensor:
    """A field as cubic B-splines on control points follow it: `onto_control_points`, then `bspline_field`.

    Args:
        field: ``(B, C, I, J, K)``.
        spacing: voxels from one control point to the next, a number or one for each axis.
        deepreg: as DeepReg, see the two functions.

    Returns:
        ``(B, C, I, J, K)``.

    Raises:
        InputError: a spacing that is not one or three positive whole numbers.
    """
    points = onto_control_points(field, spacing, deepreg=deepreg)
    return bspline_field(points, spacing, field.shape[2:], deepreg=deepreg)
