"""Losses of two images that look alike or depend on each other: correlation, information, self-similarity.

All take ``(B, C, I, J, K)`` tensors, fixed first, and return one value per sample ``(B,)``, the lower the
better.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from RegCore.losses.checks import check_pair
from RegCore.resampler.descriptors import mind_ssc
from RegCore.space.geometry import InputError

CHUNK = 2**18  # voxels whose bin memberships are held at a time
TINY = 1e-10  # squared variances of this size are those of a flat image in [0, 1]


def gncc(fixed: torch.Tensor, warped: torch.Tensor, *, deepreg: bool = False) -> torch.Tensor:
    """Minus the squared zero-normalised cross-correlation over the whole image: cov(f, w)^2 / (var f var w).

    Args:
        fixed, warped: ``(B, C, I, J, K)``; channels are compared one by one.
        deepreg: add 1e-5 to numerator and denominator as DeepReg does, so that a flat image scores -1, the
            best there is, and weak contrast nearly so. Without it a flat image scores 0.

    Returns:
        ``(B,)`` in [-1, 0].

    Raises:
        InputError: the two are not ``(B, C, I, J, K)`` of one shape.
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
    """How much each of ``(N,)`` values belongs to each bin, ``(bins, N)``; columns sum to 1 (Parzen)."""
    return torch.softmax((values - centres[:, None]).square_().mul_(-0.5 / sigma**2), 0)


class _JointHistogram(torch.autograd.Function):
    """Joint distribution ``(bins, bins)``, sum 1, of two ``(N,)``, and its derivative in closed form.

    The memberships m_b of all voxels at once would take 2 bins times the memory of the image: they are
    made in chunks, and again on the way back. There d m_b / d x = m_b (c_b - E[c]) / sigma^2, E the mean over
    the bins weighted by m: the derivative of a sum of p_b m_b is the covariance of p and c over sigma^2.
    """

    @staticmethod
    def forward(
        ctx: Any, fixed: torch.Tensor, warped: torch.Tensor, centres: torch.Tensor, sigma: float
    ) -> torch.Tensor:
        ctx.save_for_backward(fixed, warped, centres)
        ctx.sigma = sigma
        joint = centres.new_zeros(len(centres), len(centres))
        for f, w in zip(fixed.split(CHUNK), warped.split(CHUNK), strict=True):
            joint.addmm_(_memberships(f, centres, sigma), _memberships(w, centres, sigma).T)
        return joint / fixed.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        fixed, warped, centres = ctx.saved_tensors
        outs = [
            torch.empty_like(x) if n else None
            for x, n in zip((fixed, warped), ctx.needs_input_grad[:2], strict=True)
        ]
        for start in range(0, fixed.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            f, w = (_memberships(x[part], centres, ctx.sigma) for x in (fixed, warped))
            for out, own, prices in ((outs[0], f, grad @ w), (outs[1], w, grad.T @ f)):
                if out is not None:
                    priced = prices.mul_(own)
                    covariance = centres @ priced - priced.sum(0) * (centres @ own)
                    out[part] = covariance / (ctx.sigma**2 * fixed.numel())
        return (*outs, None, None)


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
    centres = torch.linspace(0, 1, num_bins, dtype=fixed.dtype, device=fixed.device)
    values = []
    for pair in zip(fixed.flatten(0, 1), warped.flatten(0, 1), strict=True):
        joint = _JointHistogram.apply(*pair, centres, sigma_ratio / (num_bins - 1))
        product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        values.append((joint * torch.log((joint + 1e-5) / (product + 1e-5))).sum())
    return -torch.stack(values).view(fixed.shape[:2]).mean(1)


def mind(fixed: torch.Tensor, warped: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:
    """Mean square of the difference of the self-similarity contexts (MIND-SSC) of two images.

    Heinrich et al., MICCAI 2013; the descriptors are those of `mind_ssc`. They do not change with the
    brightness, the contrast or its sign, so that images of two modalities can be compared. DeepReg has no
    such loss.

    Args:
        fixed, warped: ``(B, C, I, J, K)``, any unit; channels are compared one by one.
        radius: of the patches that are compared, in voxels.
        dilation: distance of the patches, in voxels.

    Returns:
        ``(B,)`` in [0, 1]; 0 for images with the same structure, and for two flat ones.

    Raises:
        InputError: a radius below 0, a dilation below 1.
    """
    check_pair(fixed, warped)
    if radius < 0 or dilation < 1:
        raise InputError(
            "MIND needs a radius of at least 0 and a dilation of at least 1, "
            f"but they are {radius} and {dilation}"
        )
    found = [
        mind_ssc(image.flatten(0, 1)[:, None], radius=int(radius), dilation=int(dilation))
        for image in (fixed, warped)
    ]
    return (found[0] - found[1]).square().view(len(fixed), -1).mean(1)
