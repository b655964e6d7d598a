"""What every loss of two images asks of its arguments."""

import torch

from ..geometry import InputError


def check_pair(fixed: torch.Tensor, warped: torch.Tensor) -> None:
    """Raise InputError unless both are floating ``(B, C, I, J, K)`` of one shape."""
    if fixed.shape != warped.shape or fixed.ndim != 5:
        raise InputError(
            "a loss compares two tensors (B, C, I, J, K) of one shape, "
            f"but they are {tuple(fixed.shape)} and {tuple(warped.shape)}"
        )
    if not (fixed.is_floating_point() and warped.is_floating_point()):
        raise InputError(
            f"a loss compares floating-point tensors, but they are {fixed.dtype} and {warped.dtype}"
        )
