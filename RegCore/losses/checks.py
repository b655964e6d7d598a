"""What losses ask of their arguments: pairs of images, fields, lengths."""

import torch
from numpy.typing import ArrayLike

from RegCore.space.geometry import InputError


def check_pair(fixed: torch.Tensor, warped: torch.Tensor) -> None:
    """Check that both are floating ``(B, C, I, J, K)`` of one shape.

    Raises:
        InputError: they are not.
    """
    if fixed.shape != warped.shape or fixed.ndim != 5:
        raise InputError(
            "a loss compares two tensors (B, C, I, J, K) of one shape, "
            f"but they are {tuple(fixed.shape)} and {tuple(warped.shape)}"
        )
    if not (fixed.is_floating_point() and warped.is_floating_point()):
        raise InputError(
            f"a loss compares floating-point tensors, but they are {fixed.dtype} and {warped.dtype}"
        )


def check_field(field: torch.Tensor) -> None:
    """Check that a displacement or velocity field is ``(B, 3, I, J, K)``.

    Raises:
        InputError: it is not.
    """
    if field.ndim != 5 or field.shape[1] != 3:
        raise InputError(
            f"a displacement field has the shape (B, 3, I, J, K), but it is {tuple(field.shape)}"
        )


def check_share(value: float, name: str) -> None:
    """Check that a number lies between 0 and 1.

    Raises:
        InputError: it does not.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} must lie between 0 and 1, but it is {value}")


def lengths_mm(spacing: ArrayLike, like: torch.Tensor) -> torch.Tensor:
    """Lengths in mm as a tensor of the dtype and device of ``like``; InputError unless positive.

    Three of them, or three for each sample ``(B, 3)``.
    """
    mm = torch.as_tensor(spacing, dtype=torch.float64)
    shapes = ((3,), (len(like), 3)) if like.ndim else ((3,),)
    if mm.shape not in shapes or not bool((mm > 0).all()):
        raise InputError(f"spacing must be three positive lengths in mm, but it is {spacing!r}")
    return mm.to(like)
