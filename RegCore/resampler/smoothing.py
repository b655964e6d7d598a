"""Box sums and Gaussians over ``(B, C, I, J, K)``, axis by axis."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from RegCore.space.geometry import InputError


def _extended(x: torch.Tensor, dim: int, before: int, after: int, outside: str) -> torch.Tensor:
    """One axis of ``(B, C, I, J, K)`` padded at both ends."""
    pad = [0, 0, 0, 0, 0, 0]
    pad[2 * (4 - dim) : 2 * (4 - dim) + 2] = before, after
    return F.pad(x, pad, mode="replicate" if outside == "edge" else "constant")


def _window_sum(x: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Sums of ``width`` consecutive entries along ``dim`` (valid positions) by doubling adds."""
    total: torch.Tensor | None = None
    start, power, partial = 0, 1, x
    length = x.shape[dim] - width + 1
    while True:
        if width & power:  # this power of two is part of the window
            piece = partial.narrow(dim, start, length)
            total = piece.clone() if total is None else total.add_(piece)
            start += power
        power *= 2
        if power > width and total is not None:
            return total
        half = power // 2
        n = partial.shape[dim] - half
        partial = partial.narrow(dim, 0, n) + partial.narrow(dim, half, n)


def box_sum(x: torch.Tensor, size: int, before: int, *, outside: str = "zeros") -> torch.Tensor:
    """Sums over windows of ``size`` voxels along each of the last three axes; same shape.

    Doubling adds: sums of 1, 2, 4, ... voxels are built from each other, so that 9 voxels take four
    additions. With zeros outside the adjoint is the same sum with ``before = size - 1 - before``.

    Args:
        x: ``(I, J, K)`` or ``(B, C, I, J, K)``.
        size: of the window.
        before: voxels by which the window of a voxel begins ahead of it.
        outside: what lies beyond the image: ``zeros``, or the outermost voxels again (``edge``).

    Returns:
        The sums, of the shape of ``x``.
    """
    out = x if x.ndim == 5 else x[None, None]
    for dim in (2, 3, 4):
        out = _window_sum(_extended(out, dim, before, size - 1 - before, outside), size, dim)
    return out.view(x.shape)


def box_mean(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over the (2 radius + 1)^3 neighbourhood of ``(B, C, I, J, K)``, edges replicated."""
    if radius == 0:
        return x
    width = 2 * radius + 1
    return box_sum(x, width, radius, outside="edge") / width**3


def gaussian_taps(sigma: float, radius: int) -> torch.Tensor:
    """exp(-x^2 / (2 sigma^2)) at the whole numbers x of [-radius, radius], sum 1, float64."""
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def replicate_pad_transposed(x: torch.Tensor, dim: int, margin: int) -> torch.Tensor:
    """The transpose of repeating an edge ``margin`` times along an axis: what lies beyond is added to it."""
    n = x.shape[dim] - 2 * margin
    inner = x.narrow(dim, margin, n).clone()
    inner.narrow(dim, 0, 1).add_(x.narrow(dim, 0, margin).sum(dim, keepdim=True))
    inner.narrow(dim, n - 1, 1).add_(x.narrow(dim, margin + n, margin).sum(dim, keepdim=True))
    return inner


def _symmetric(x: torch.Tensor, dim: int, weights: list[float]) -> torch.Tensor:
    """Correlation of an axis with a symmetric odd kernel where all of it lies inside."""
    radius = len(weights) // 2
    length = x.shape[dim] - 2 * radius
    out = x.narrow(dim, radius, length) * weights[radius]
    for k in range(radius):  # two slices, one multiplication
        pair = x.narrow(dim, k, length) + x.narrow(dim, 2 * radius - k, length)
        out.add_(pair, alpha=weights[k])
    return out


class _Smoothing(torch.autograd.Function):
    """An axis correlated with a symmetric kernel, edges replicated; nothing is kept for the derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dim: int, weights: list[float]) -> torch.Tensor:
        ctx.settings = dim, weights
        margin = len(weights) // 2
        return _symmetric(_extended(x, dim, margin, margin, "edge"), dim, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        dim, weights = ctx.settings
        margin = len(weights) // 2
        wide = _symmetric(_extended(grad, dim, 2 * margin, 2 * margin, "zeros"), dim, weights)
        return replicate_pad_transposed(wide, dim, margin), None, None


def gaussian_smooth(x: torch.Tensor, sigma: float | Sequence[float]) -> torch.Tensor:
    """Gaussian smoothing, cut at 3 sigma, edges replicated.

    Args:
        x: ``(B, C, I, J, K)``.
        sigma: standard deviation in voxels, a number or one for each axis; 0 leaves an axis as it is.

    Returns:
        The smoothed tensor, of the shape of ``x``.
    """
    sigmas = [float(s) for s in np.broadcast_to(np.asarray(sigma, float), (3,))]
    for dim, s in zip((2, 3, 4), sigmas, strict=True):
        if s > 0 and x.shape[dim] > 1:
            x = _Smoothing.apply(x, dim, gaussian_taps(s, max(int(3 * s + 0.5), 1)).tolist())
    return x


def gaussian_filter_3d(kernel_sigma: float | Sequence[float]) -> torch.Tensor:
    """A Gaussian as a kernel ``(I, J, K)`` of sum 1, each size the first odd number from 3 sigma on.

    A window as narrow as this is DeepReg's, for its control points; `gaussian_smooth` reaches twice as far.

    Args:
        kernel_sigma: standard deviation in voxels, a number or one for each axis.

    Returns:
        ``(I, J, K)`` float32, each size odd.

    Raises:
        InputError: a deviation that is not positive.
    """
    sigmas = [float(s) for s in np.broadcast_to(np.asarray(kernel_sigma, float), (3,))]
    if min(sigmas) <= 0:
        raise InputError(f"the width of a kernel must be positive, but kernel_sigma is {kernel_sigma}")
    i, j, k = (gaussian_taps(s, math.ceil(3 * s) // 2) for s in sigmas)
    return (i[:, None, None] * j[:, None] * k).float()
