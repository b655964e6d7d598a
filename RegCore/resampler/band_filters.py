"""Filters of short reach along each axis of a volume, as products with band matrices."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK = 48  # lines of a long axis that are computed at a time, so that few zeros of the matrix are multiplied


def gaussian_half(sigma: float) -> list[float]:
    """exp(-x^2 / (2 sigma^2)) at 0, 1, ... as far as about 3 sigma; 1 alone for the smallest."""
    return [math.exp(-0.5 * (k / sigma) ** 2) for k in range(math.ceil(3 * sigma - 0.25) + 1)]


def means_inside(size: int, half: Sequence[float]) -> torch.Tensor:
    """The matrix ``(size, size)`` of weighted means over that part of a window which lies on the axis.

    In float64. A constant stays what it is up to the ends; nothing is assumed beyond them.

    Args:
        size: voxels along the axis.
        half: weights at distances 0, 1, ... from the middle of the window.
    """
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for distance, weight in enumerate(half[:size]):
        at = torch.arange(size - distance)
        matrix[at, at + distance] = matrix[at + distance, at] = weight
    return matrix / matrix.sum(1, keepdim=True)


def means_of_repeated(size: int, radius: int, times: int = 1) -> torch.Tensor:
    """The matrix ``(size, size)`` of ``times`` means over 2 radius + 1 voxels, the ends repeated; float64."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for distance in range(-radius, radius + 1):
        at = torch.arange(size)
        matrix.index_put_((at, (at + distance).clamp(0, size - 1)), torch.ones(()).double(), accumulate=True)
    return torch.linalg.matrix_power(matrix / (2 * radius + 1), times)


def _blocks(matrix: torch.Tensor) -> list[tuple[slice, slice, torch.Tensor]]:
    """Parts of a band matrix: which lines come out, which go in, and the weights; none for the identity."""
    size = len(matrix)
    if torch.equal(matrix, torch.eye(size).to(matrix)):
        return []
    step = -(-size // -(-size // BLOCK))
    blocks = []
    for start in range(0, size, step):
        lines = slice(start, start + step)
        used = matrix[lines].any(0).nonzero()
        needed = slice(int(used.min()), int(used.max()) + 1)
        blocks.append((lines, needed, matrix[lines, needed].contiguous()))
    return blocks


class BandFilter:
    """A filter along each axis of ``(..., I, J, K)``.

    The matrices say what happens at the ends, and their transposes are the adjoint. A product with a matrix
    that is mostly zeros costs less than as many sums of shifted volumes, since it stays in the cache.

    Args:
        matrices: of each axis, ``(n, n)``.
        like: a tensor of the type and on the device of those that will be filtered.
    """

    def __init__(self, matrices: Sequence[torch.Tensor], like: torch.Tensor):
        self.shape = tuple(len(matrix) for matrix in matrices)
        self.ahead = [_blocks(matrix.to(like)) for matrix in matrices]
        self.back = [_blocks(matrix.T.to(like)) for matrix in matrices]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The filtered volumes, of the shape of ``x``; once differentiable."""
        return _Filtered.apply(x, self)

    def adjoint(self, x: torch.Tensor) -> torch.Tensor:
        """The transposed filter applied to ``x``."""
        return self.filtered(x, self.back)

    def filtered(self, x: torch.Tensor, axes: list) -> torch.Tensor:
        """The product with the blocks of each axis: ``ahead``, or ``back`` for the adjoint."""
        i, j, k = self.shape
        now, free = x.reshape(-1, i, j, k), x.new_empty(x.shape).view(-1, i, j, k)
        for axis, blocks in enumerate(axes):
            if not blocks:
                continue
            for a, b in zip(now, free, strict=True):
                for lines, needed, weights in blocks:
                    if axis == 0:
                        torch.mm(weights, a[needed].reshape(-1, j * k), out=b[lines].view(-1, j * k))
                    elif axis == 1:
                        torch.bmm(weights.expand(i, *weights.shape), a[:, needed], out=b[:, lines])
                    else:
                        lay = a.reshape(i * j, k)[:, needed]
                        torch.mm(lay, weights.T, out=b.view(i * j, k)[:, lines])
            used, now = now, free
            free = used if used.data_ptr() != x.data_ptr() else torch.empty_like(now)
        return now.reshape(x.shape) if now.data_ptr() != x.data_ptr() else x.clone()


class _Filtered(torch.autograd.Function):
    """`BandFilter` for autograd: its derivative is its adjoint."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bands: BandFilter) -> torch.Tensor:
        ctx.bands = bands
        return bands.filtered(x, bands.ahead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.bands.adjoint(gradient), None
