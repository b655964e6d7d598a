"""Losses of two images that look alike or depend on each other: differences, correlation, information.

All take ``(B, C, I, J, K)`` tensors, fixed first, and return one value per sample ``(B,)``, the lower the
better.
"""

import torch
from torch.utils.checkpoint import checkpoint

from ..geometry import InputError
from .checks import check_pair

CHUNK = 2**16  # voxels whose bin memberships are held at a time
TINY = 1e-10  # squared variances of this size are those of a flat image in [0, 1]


def gncc(fixed: torch.Tensor, warped: torch.Tensor, *, deepreg: bool = False) -> torch.Tensor:
    """Minus the squared zero-normalised cross-correlation over the whole image: cov(f, w)^2 / (var f var w).

    Args:
        fixed, warped: ``(B, C, I, J, K)``; channels are compared one by one.
        deepreg: add 1e-5 to numerator and denominator as DeepReg does, so that a flat image scores -1, the
            best there is, and weak contrast nearly so. Without it a flat image scores 0.

    Returns:
        ``(B,)`` in [-1, 0].
    """
    check_pair(fixed, warped)
    axes = (2, 3, 4)
    f = fixed - fixed.mean(dim=axes, keepdim=True)
    w = warped - warped.mean(dim=axes, keepdim=True)
    covariance = (f * w).mean(dim=axes)
    product = (f * f).mean(dim=axes) * (w * w).mean(dim=axes)
    smooth_nr, smooth_dr = (1e-5, 1e-5) if deepreg else (0.0, TINY)
    return -((covariance**2 + smooth_nr) / (product + smooth_dr)).mean(1)


def _memberships(values: torch.Tensor, centres: torch.Tensor, sigma: float) -> torch.Tensor:
    """How much each of ``(N,)`` values belongs to each bin, ``(N, bins)``; rows sum to 1 (Parzen window)."""
    return torch.softmax(-((values[:, None] - centres) ** 2) / (2 * sigma**2), 1)


def _joint_counts(fixed, warped, centres, sigma: float) -> torch.Tensor:
    return _memberships(fixed, centres, sigma).T @ _memberships(warped, centres, sigma)


def _joint_histogram(fixed: torch.Tensor, warped: torch.Tensor, num_bins: int, sigma_ratio: float):
    """Joint distribution of two ``(N,)`` of values in [0, 1], ``(bins, bins)``, sum 1.

    The memberships of all voxels at once would take 2 num_bins times the memory of the image: they are made
    in chunks, and made again on the way back.
    """
    centres = torch.linspace(0, 1, num_bins, dtype=fixed.dtype, device=fixed.device)
    sigma = sigma_ratio / (num_bins - 1)
    total = 0
    for f, w in zip(fixed.split(CHUNK), warped.split(CHUNK), strict=True):
        total = total + checkpoint(_joint_counts, f, w, centres, sigma, use_reentrant=False)
    return total / fixed.numel()


def gmi(
    fixed: torch.Tensor, warped: torch.Tensor, *, num_bins: int = 23, sigma_ratio: float = 0.5
) -> torch.Tensor:
    """Minus the mutual information of the intensities over the whole image, in nats.

    MI = sum p(a, b) log(p(a, b) / (p(a) p(b))) with Gaussian Parzen windows around ``num_bins`` centres
    spread over [0, 1]: Guo, Multi-modal image registration with unsupervised deep learning (MIT 2019), eq.
    3.1-3.5.

    Args:
        fixed, warped: ``(B, C, I, J, K)``, intensities in [0, 1]; what lies outside is moved to the nearer
            end. Channels are compared one by one.
        num_bins: number of bin centres.
        sigma_ratio: standard deviation of the window in units of the distance of bin centres.

    Returns:
        ``(B,)``, at most 0.

    Raises:
        InputError: fewer than two bins, a ratio that is not positive.
    """
    check_pair(fixed, warped)
    if num_bins < 2 or sigma_ratio <= 0:
        raise InputError(
            "mutual information needs num_bins of at least 2 and a positive sigma_ratio, "
            f"but they are {num_bins} and {sigma_ratio}"
        )
    fixed, warped = fixed.clamp(0, 1).flatten(2), warped.clamp(0, 1).flatten(2)
    values = []
    for pair in zip(fixed.flatten(0, 1), warped.flatten(0, 1), strict=True):
        joint = _joint_histogram(*pair, num_bins, sigma_ratio)
        product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        values.append((joint * torch.log((joint + 1e-5) / (product + 1e-5))).sum())
    return -torch.stack(values).view(fixed.shape[:2]).mean(1)
