"""Box sums and Gaussian smoothing of ``(B, C, I, J, K)``."""

import numpy as np
import torch
import torch.nn.functional as F


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
