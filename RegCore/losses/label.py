"""Losses of two segmentations as tensors of memberships in [0, 1], at one or several scales.

All take ``(B, C, I, J, K)`` tensors, one channel per structure, fixed first, and return one value per sample
``(B,)``, the lower the better. Where an overlap is measured, each structure has its own and they are
averaged, so that a small one counts as much as a large one.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from RegCore.losses.checks import check_pair, check_share
from RegCore.losses.kernels import SIGMA_KERNELS, separable_filter
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name

Scales = float | Sequence[float] | None
VOXELS = (2, 3, 4)


def multi_scale(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    fixed: torch.Tensor,
    warped: torch.Tensor,
    scales: Scales = None,
    kernel: str = "gaussian",
) -> torch.Tensor:
    """Mean of a loss over copies of both tensors smoothed at several scales (Hu et al., MedIA 49, 2018).

    Args:
        loss: takes (fixed, warped) and returns ``(B,)``.
        fixed, warped: ``(B, C, I, J, K)``, taken as zero outside.
        scales: widths of the kernel in voxels, 0 for no smoothing; None for no smoothing at all.
        kernel: ``gaussian``, cut at 3 standard deviations, or ``cauchy``, cut at 5 half widths.

    Returns:
        ``(B,)``.

    Raises:
        InputError: unknown kernel, no or a negative scale.
    """
    check_pair(fixed, warped)
    if scales is None:
        return loss(fixed, warped)
    check_name(kernel, SIGMA_KERNELS, "kernel")
    scales = [scales] if isinstance(scales, int | float) else list(scales)
    if not scales or min(scales) < 0:
        raise InputError(f"scales must hold one number or more, none of them negative, but it is {scales}")
    values = []
    for scale in scales:
        pair = [fixed, warped]
        if scale > 0:
            weights = SIGMA_KERNELS[kernel](scale, dtype=fixed.dtype, device=fixed.device)
            pair = [separable_filter(x, weights) for x in pair]
        values.append(loss(*pair))
    return torch.stack(values).mean(0)


def _binary(fixed: torch.Tensor, warped: torch.Tensor, binary: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both cut at one half where ``binary`` asks for it, which leaves no gradient."""
    return ((fixed >= 0.5).to(fixed.dtype), (warped >= 0.5).to(warped.dtype)) if binary else (fixed, warped)


def _sums(fixed: torch.Tensor, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Sums over the voxels of f w and of f + w, ``(B, C)`` each, and the number of voxels."""
    return (fixed * warped).sum(dim=VOXELS), (fixed + warped).sum(dim=VOXELS), fixed[0, 0].numel()


def _dice(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    binary: bool,
    background_weight: float,
    smooth_nr: float,
    smooth_dr: float,
) -> torch.Tensor:
    product, total, voxels = _sums(*_binary(fixed, warped, binary))
    numerator = 2 * (product - background_weight * total + background_weight * voxels)
    denominator = (1 - 2 * background_weight) * total + 2 * background_weight * voxels
    return -((numerator + smooth_nr) / (denominator + smooth_dr)).mean(1)


def dice(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    binary: bool = False,
    background_weight: float = 0.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    scales: Scales = None,
    kernel: str = "gaussian",
) -> torch.Tensor:
    """Minus the Dice score, 2 sum(u f w + b (1 - f)(1 - w)) / sum(u (f + w) + b (2 - f - w)), u = 1 - b.

    Args:
        fixed, warped: ``(B, C, I, J, K)`` in [0, 1].
        binary: cut both at one half first; no gradient then.
        background_weight: b, the weight of the background in [0, 1].
        smooth_nr, smooth_dr: added to numerator and denominator: two empty structures score 1.
        scales, kernel: see `multi_scale`.

    Returns:
        ``(B,)`` in [-1, 0].

    Raises:
        InputError: what `multi_scale` refuses; a weight outside [0, 1].
    """
    check_share(background_weight, "background_weight")
    one = partial(
        _dice,
        binary=binary,
        background_weight=background_weight,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
    )
    return multi_scale(one, fixed, warped, scales, kernel)


def _jaccard(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    binary: bool,
    background_weight: float,
    smooth_nr: float,
    smooth_dr: float,
) -> torch.Tensor:
    product, total, voxels = _sums(*_binary(fixed, warped, binary))
    numerator = product - background_weight * total + background_weight * voxels
    denominator = (1 - background_weight) * total - product + background_weight * voxels
    return -((numerator + smooth_nr) / (denominator + smooth_dr)).mean(1)


def jaccard(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    binary: bool = False,
    background_weight: float = 0.0,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    scales: Scales = None,
    kernel: str = "gaussian",
) -> torch.Tensor:
    """Minus the Jaccard index, sum(u f w + b (1 - f)(1 - w)) / sum(u (f + w - f w) + b (1 - f w)), u = 1 - b.

    Args:
        fixed, warped: ``(B, C, I, J, K)`` in [0, 1].
        binary: cut both at one half first; no gradient then.
        background_weight: b, the weight of the background in [0, 1].
        smooth_nr, smooth_dr: added to numerator and denominator: two empty structures score 1.
        scales, kernel: see `multi_scale`.

    Returns:
        ``(B,)`` in [-1, 0].

    Raises:
        InputError: what `multi_scale` refuses; a weight outside [0, 1].
    """
    check_share(background_weight, "background_weight")
    one = partial(
        _jaccard,
        binary=binary,
        background_weight=background_weight,
        smooth_nr=smooth_nr,
        smooth_dr=smooth_dr,
    )
    return multi_scale(one, fixed, warped, scales, kernel)


def _cross_entropy(
    fixed: torch.Tensor, warped: torch.Tensor, binary: bool, background_weight: float, smooth: float
) -> torch.Tensor:
    fixed, warped = _binary(fixed, warped, binary)
    foreground = -(fixed * torch.log(warped + smooth)).flatten(1).mean(1)
    if background_weight == 0:
        return foreground
    background = -((1 - fixed) * torch.log(1 - warped + smooth)).flatten(1).mean(1)
    return (1 - background_weight) * foreground + background_weight * background


def cross_entropy(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    binary: bool = False,
    background_weight: float = 0.0,
    smooth: float = 1e-5,
    scales: Scales = None,
    kernel: str = "gaussian",
) -> torch.Tensor:
    """Weighted cross-entropy, mean of -(1 - b) f log(w + smooth) - b (1 - f) log(1 - w + smooth), in nats.

    Args:
        fixed, warped: ``(B, C, I, J, K)`` in [0, 1].
        binary: cut both at one half first; no gradient then.
        background_weight: b, the weight of the background in [0, 1].
        smooth: keeps the logarithm finite.
        scales, kernel: see `multi_scale`.

    Returns:
        ``(B,)``.

    Raises:
        InputError: what `multi_scale` refuses; a weight outside [0, 1].
    """
    check_share(background_weight, "background_weight")
    one = partial(_cross_entropy, binary=binary, background_weight=background_weight, smooth=smooth)
    return multi_scale(one, fixed, warped, scales, kernel)


def _ssd(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    return ((fixed - warped) ** 2).flatten(1).mean(1)


def ssd(
    fixed: torch.Tensor, warped: torch.Tensor, *, scales: Scales = None, kernel: str = "gaussian"
) -> torch.Tensor:
    """Mean of (f - w)^2 over channels and voxels, of images or labels; a mean despite its name.

    Args:
        fixed, warped: ``(B, C, I, J, K)``.
        scales, kernel: see `multi_scale`.

    Returns:
        ``(B,)``.

    Raises:
        InputError: what `multi_scale` refuses.
    """
    return multi_scale(_ssd, fixed, warped, scales, kernel)


def _generalised_dice(
    fixed: torch.Tensor, warped: torch.Tensor, binary: bool, smooth_nr: float, smooth_dr: float
) -> torch.Tensor:
    fixed, warped = _binary(fixed, warped, binary)
    product, total, _ = _sums(fixed, warped)
    weight = fixed.sum(dim=VOXELS).clamp_min(1) ** -2
    weight = weight / weight.sum(1, keepdim=True)  # so that sums stay numbers of voxels beside the smoothing
    return -(2 * (weight * product).sum(1) + smooth_nr) / ((weight * total).sum(1) + smooth_dr)


def generalised_dice(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    binary: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    scales: Scales = None,
    kernel: str = "gaussian",
) -> torch.Tensor:
    """Minus the generalised Dice score 2 sum_l v_l sum(f w) / sum_l v_l sum(f + w), v_l = 1 / (sum f_l)^2.

    Sudre et al., DLMIA 2017, over the channels l of ``(B, C, I, J, K)``; a structure that the fixed labels
    lack is weighted like one of a single voxel.

    Args:
        fixed, warped: ``(B, C, I, J, K)`` in [0, 1].
        binary: cut both at one half first; no gradient then.
        smooth_nr, smooth_dr: added to numerator and denominator: two empty structures score 1.
        scales, kernel: see `multi_scale`.

    Returns:
        ``(B,)`` in [-1, 0].

    Raises:
        InputError: what `multi_scale` refuses.
    """
    one = partial(_generalised_dice, binary=binary, smooth_nr=smooth_nr, smooth_dr=smooth_dr)
    return multi_scale(one, fixed, warped, scales, kernel)


def centroid(mask: torch.Tensor, *, deepreg: bool = False) -> torch.Tensor:
    """Mean index of the voxels of each structure.

    Args:
        mask: ``(B, C, I, J, K)``; a voxel belongs to the structure from 0.5 on.
        deepreg: add 1e-5 to sums and counts as DeepReg does, which puts the centroid of an empty structure at
            (1, 1, 1). Without it an empty structure has none: NaN.

    Returns:
        ``(B, C, 3)`` in voxels.
    """
    inside = (mask >= 0.5).to(mask.dtype)
    smooth = 1e-5 if deepreg else 0.0
    count = inside.sum(dim=VOXELS)
    means = []
    for dim in VOXELS:
        index = torch.arange(mask.shape[dim], dtype=mask.dtype, device=mask.device)
        profile = inside.sum(dim=[d for d in VOXELS if d != dim])
        means.append(((profile @ index) + smooth) / (count + smooth))
    return torch.stack(means, -1)


def centroid_distance(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    spacing: Sequence[float] | None = None,
    deepreg: bool = False,
) -> torch.Tensor:
    """Distance of the centroids of each structure.

    Args:
        fixed, warped: ``(B, C, I, J, K)``; a voxel belongs to the structure from 0.5 on.
        spacing: three lengths in mm; the distance is then in mm, otherwise in voxels.
        deepreg: see `centroid`.

    Returns:
        ``(B, C)``, NaN where either structure is empty, unless ``deepreg``.

    Raises:
        InputError: the two are not ``(B, C, I, J, K)`` of one shape.
    """
    check_pair(fixed, warped)
    difference = centroid(fixed, deepreg=deepreg) - centroid(warped, deepreg=deepreg)
    if spacing is not None:
        difference = difference * torch.as_tensor(spacing, dtype=fixed.dtype, device=fixed.device)
    return difference.norm(dim=-1)


def foreground_proportion(mask: torch.Tensor) -> torch.Tensor:
    """Share of the voxels of ``(B, C, I, J, K)`` that belong to each structure (0.5 or more), ``(B, C)``."""
    return (mask >= 0.5).to(torch.float32).mean(dim=VOXELS)
