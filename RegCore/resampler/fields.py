"""Fields of displacements or velocities ``(B, 3, I, J, K)`` in voxels: warp, compose, integrate, resize."""

import torch
import torch.nn.functional as F

from RegCore.resampler.grids import reference_grid
from RegCore.resampler.sampling import sample


def warp_image_ddf(
    image: torch.Tensor, ddf: torch.Tensor, *, border: str = "edge", fill: float = 0.0, nearest: bool = False
) -> torch.Tensor:
    """Image ``(B, C, I, J, K)`` pulled by a DDF ``(B, 3, i, j, k)``: out(x) = image(x + ddf(x)), voxels."""
    grid = reference_grid(ddf.shape[2:], dtype=ddf.dtype, device=ddf.device)
    return sample(image, grid + ddf, border=border, fill=fill, nearest=nearest)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """DDF of x -> (id + outer)((id + inner)(x)), both ``(B, 3, I, J, K)`` in voxels of one grid."""
    return inner + warp_image_ddf(outer, inner)


def integrate(velocity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """exp of a stationary velocity field by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: ``(B, 3, I, J, K)`` in voxels per unit time.
        steps: number of squarings; the first step is velocity / 2**steps.

    Returns:
        The DDF ``(B, 3, I, J, K)`` in voxels.
    """
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf)
    return ddf


def resize3d(image: torch.Tensor, shape, *, align_corners: bool = True) -> torch.Tensor:
    """Trilinear resize of ``(B, C, I, J, K)`` to ``shape``; corner voxels keep their place by default."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    return F.interpolate(image, size=tuple(shape), mode="trilinear", align_corners=align_corners)


def resize_ddf(ddf: torch.Tensor, shape) -> torch.Tensor:
    """A DDF ``(B, 3, I, J, K)`` on another grid over the same corner voxels, in voxels of that grid."""
    old = ddf.shape[2:]
    scale = [(n - 1) / max(o - 1, 1) for n, o in zip(shape, old, strict=True)]
    scale = torch.tensor(scale, dtype=ddf.dtype, device=ddf.device).view(1, 3, 1, 1, 1)
    return resize3d(ddf, shape) * scale
