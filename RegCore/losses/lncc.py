"""Local normalised cross-correlation with its gradient in closed form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from RegCore.losses.checks import check_pair
from RegCore.losses.kernels import SIZE_KERNELS, separable_filter
from RegCore.resampler import box_sum
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name

Sums = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Window:
    """A weighted window sliding over a volume ``(I, J, K)``, and how its sums become means."""

    total: Sums  # weighted sums over the window of each voxel, zeros outside the image
    adjoint: Sums  # the transposed map
    volume: float  # N, the weight of a whole window
    share: torch.Tensor | float  # 1 / weight by which a sum becomes a mean, (I, J, K) or one number


def _weights_inside(kernel: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Weight of each voxel's window that lies inside the image, ``(I, J, K)``."""
    return separable_filter(torch.ones(tuple(shape), dtype=kernel.dtype, device=kernel.device), kernel)


def _window(fixed: torch.Tensor, kernel_type: str, kernel_size: int, deepreg: bool) -> _Window:
    check_name(kernel_type, SIZE_KERNELS, "kernel_type")
    if kernel_size < 1 or kernel_size != int(kernel_size):
        raise InputError(f"kernel_size is {kernel_size}, expected a whole number from 1 on")
    size = int(kernel_size)
    kernel = SIZE_KERNELS[kernel_type](size, dtype=fixed.dtype, device=fixed.device)
    volume = float(kernel.double().sum() ** 3)
    share = 1 / volume if deepreg else _weights_inside(kernel, fixed.shape[2:]).reciprocal_()
    if kernel_type == "rectangular":
        before = (size - 1) // 2
        return _Window(
            lambda x: box_sum(x, size, before), lambda x: box_sum(x, size, size - 1 - before), volume, share
        )
    return _Window(
        lambda x: separable_filter(x, kernel),
        lambda x: separable_filter(x, kernel, adjoint=True),
        volume,
        share,
    )


def _derivative(
    window: _Window,
    this: torch.Tensor,
    other: torch.Tensor,
    mean_this: torch.Tensor,
    mean_other: torch.Tensor,
    cross: torch.Tensor,
    spread: torch.Tensor,
) -> torch.Tensor:
    """Sum over x of w(x - y) (cross(x) (other(y) - E[other]) + spread(x) (this(y) - E[this])).

    With E the mean over a window, d covariance / d this(y) = w (other(y) - E[other]) and d variance / d
    this(y) = 2 w (this(y) - E[this]): three sums in all. Uses up ``cross``.
    """
    out = window.adjoint(cross).mul_(other).addcmul_(window.adjoint(spread), this)
    return out.sub_(window.adjoint(cross.mul_(mean_other).addcmul_(spread, mean_this)))


def _ncc(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    window: _Window,
    smooth_nr: float,
    smooth_dr: float,
    needed: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Mean squared local correlation of two ``(I, J, K)``, and its derivatives where ``needed``."""
    n = window.volume

    def mean(x: torch.Tensor) -> torch.Tensor:
        return window.total(x).mul_(window.share)

    mean_f, mean_w = mean(fixed), mean(warped)
    cross = mean(fixed * warped).addcmul_(mean_f, mean_w, value=-1).mul_(n)
    var_f = mean(fixed * fixed).addcmul_(mean_f, mean_f, value=-1).mul_(n).clamp_min_(0)
    var_w = mean(warped * warped).addcmul_(mean_w, mean_w, value=-1).mul_(n).clamp_min_(0)
    inverse = (var_f * var_w).add_(smooth_dr).reciprocal_()
    ncc = (cross * cross).add_(smooth_nr).mul_(inverse)
    value = ncc.mean()
    if not any(needed):
        return value, None, None
    inverse.mul_(window.share).mul_(2 * n / ncc.numel())
    cross.mul_(inverse)  # d value / d covariance, the window's share included
    spread = ncc.mul_(inverse).neg_()  # times the other variance: twice d value / d this variance
    to_f = to_w = None
    if needed[0]:
        # a variance that was cut off at 0 does not move
        own = (spread * var_w).mul_(var_f > 0)
        to_f = _derivative(window, fixed, warped, mean_f, mean_w, cross.clone(), own)
    if needed[1]:
        own = spread.mul_(var_f).mul_(var_w > 0)
        to_w = _derivative(window, warped, fixed, mean_w, mean_f, cross, own)
    return value, to_f, to_w


class _LocalCorrelation(torch.autograd.Function):
    """Score ``(B,)``; the derivatives are made on the way forward, where every sum that they need exists."""

    @staticmethod
    def forward(
        ctx: Any,
        fixed: torch.Tensor,
        warped: torch.Tensor,
        window: _Window,
        smooth_nr: float,
        smooth_dr: float,
        needed: tuple[bool, bool],
    ) -> torch.Tensor:
        batch, channels = fixed.shape[:2]
        scores = fixed.new_zeros(batch)
        grads = [torch.empty_like(fixed) if wanted else None for wanted in needed]
        for b in range(batch):  # volume by volume: the temporaries stay in the cache
            for c in range(channels):
                value, *parts = _ncc(fixed[b, c], warped[b, c], window, smooth_nr, smooth_dr, needed)
                scores[b] += value / channels
                for grad, part in zip(grads, parts, strict=True):
                    if grad is not None and part is not None:
                        torch.div(part, channels, out=grad[b, c])
        ctx.save_for_backward(*grads)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_scores: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        factor = grad_scores.view(-1, 1, 1, 1, 1)
        grads = [None if grad is None else grad * factor for grad in ctx.saved_tensors]
        return (*grads, None, None, None, None)


def lncc(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    *,
    kernel_size: int = 9,
    kernel_type: str = "rectangular",
    smooth_nr: float | None = None,
    smooth_dr: float = 1e-5,
    deepreg: bool = False,
) -> torch.Tensor:
    """Minus the local squared zero-normalised cross-correlation, averaged over the image.

    In a window around each voxel, with E the weighted mean and N the weight of a whole window,
    ncc = (c^2 + smooth_nr) / (v_f v_w + smooth_dr), c = N (E[fw] - E[f]E[w]), v_f = N (E[f^2] - E[f]^2).
    Avants et al., Medical Image Analysis 12 (2008). Near the border E is the mean over that part of the
    window which lies inside the image, and a window where either image is flat scores 0. Once differentiable
    in both images. The smoothing constants suit images in [0, 1].

    Args:
        fixed, warped: ``(B, C, I, J, K)``, intensities in [0, 1]; channels are compared one by one.
        kernel_size: width of the window in voxels; of a Gaussian it is three standard deviations.
        kernel_type: ``rectangular``, ``triangular`` or ``gaussian``.
        smooth_nr: added to the numerator; by default 0 (1e-5 with ``deepreg``).
        smooth_dr: added to the denominator.
        deepreg: do as DeepReg does: divide by N at the border too, as if zeros lay outside, and let a flat
            window score smooth_nr / smooth_dr = 1, the best there is.

    Returns:
        ``(B,)`` in [-1, 0].

    Raises:
        InputError: unknown kernel, a size below 1, an even triangular kernel.
    """
    check_pair(fixed, warped)
    window = _window(fixed, kernel_type, kernel_size, deepreg)
    if smooth_nr is None:
        smooth_nr = 1e-5 if deepreg else 0.0
    if not deepreg:  # changes nothing but the rounding: the variances are differences of large sums
        fixed, warped = _centred(fixed), _centred(warped)
    enabled = torch.is_grad_enabled()
    needed = (enabled and fixed.requires_grad, enabled and warped.requires_grad)
    return -_LocalCorrelation.apply(fixed, warped, window, smooth_nr, smooth_dr, needed)


def _centred(x: torch.Tensor) -> torch.Tensor:
    """The image less its mean; the mean passes no gradient, the score does not depend on it."""
    return x - x.detach().mean(dim=(2, 3, 4), keepdim=True)
