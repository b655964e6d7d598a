"""Fields of displacements or velocities ``(B, 3, I, J, K)`` in voxels: warp, compose, integrate, resample."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.resampler.grids import affine_coordinates, index_map, reference_grid
from RegCore.resampler.sampling import sample
from RegCore.space.geometry import Geometry

SLAB = 2**16  # voxels of which a Jacobian is computed at a time, so that its parts stay in the cache


def warp_image_ddf(
    image: torch.Tensor, ddf: torch.Tensor, *, border: str = "edge", fill: float = 0.0, nearest: bool = False
) -> torch.Tensor:
    """An image resampled through a DDF: out(x) = image(x + ddf(x)), in voxels.

    Args:
        image: ``(B, C, I, J, K)``, the moving image.
        ddf: ``(B, 3, i, j, k)`` on the fixed grid, in voxels.
        border: what lies outside the image, see `sample`.
        fill: the value outside, for the border ``constant``.
        nearest: take the nearest voxel in place of trilinear interpolation.

    Returns:
        ``(B, C, i, j, k)``.

    Raises:
        InputError: an unknown border.
    """
    dtype = torch.promote_types(ddf.dtype, torch.float32)  # half precision can't hold indices
    grid = reference_grid(ddf.shape[2:], dtype=dtype, device=ddf.device)
    return sample(image, grid + ddf, border=border, fill=fill, nearest=nearest)


def compose(outer: torch.Tensor, inner: torch.Tensor, *, border: str = "edge") -> torch.Tensor:
    """DDF of x -> (id + outer)((id + inner)(x)), both ``(B, 3, I, J, K)`` in voxels of one grid."""
    return inner + warp_image_ddf(outer, inner, border=border)


def integrate(
    velocity: torch.Tensor, steps: int = 7, *, border: str = "edge", scale: float = 1.0
) -> torch.Tensor:
    """exp of a stationary velocity field by scaling and squaring (Arsigny et al., MICCAI 2006).

    Args:
        velocity: ``(B, 3, I, J, K)`` in voxels per unit time.
        steps: number of squarings; the first step is velocity / 2**steps.
        border: what the field is beyond its grid, see `sample`; DeepReg's is ``zero_boundary``.
        scale: size of the grid on which it is done, as a part of the field's: 0.5 takes an eighth of time and
            memory (Dalca et al., Med. Image Anal. 57, 2019) and loses what linear interpolation between every
            other voxel loses.

    Returns:
        The DDF ``(B, 3, I, J, K)`` in voxels.
    """
    shape = velocity.shape[2:]
    if scale != 1:
        velocity = resize_ddf(velocity, [min(n, max(round((n - 1) * scale) + 1, 2)) for n in shape])
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf, border=border)
    return resize_ddf(ddf, shape) if scale != 1 else ddf


def resize3d(
    image: torch.Tensor, shape: Sequence[int], *, align_corners: bool = True, nearest: bool = False
) -> torch.Tensor:
    """An image of another size: trilinear, without smoothing before.

    Args:
        image: ``(B, C, I, J, K)``.
        shape: the size wanted.
        align_corners: corner voxels keep their place: index x (n - 1) / (m - 1). Otherwise the outer faces of
            the corner voxels do: (x + 1/2) n / m - 1/2, edges extended, as DeepReg resizes.
        nearest: take the nearest voxel (of outer faces kept in place) in place of interpolation.

    Returns:
        ``(B, C, *shape)``; the image itself if it has that size.
    """
    size = list(shape)
    if list(image.shape[2:]) == size:
        return image
    if nearest:
        return F.interpolate(image, size=size, mode="nearest-exact")
    return F.interpolate(image, size=size, mode="trilinear", align_corners=align_corners)


def resize_ddf(ddf: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A DDF ``(B, 3, I, J, K)`` on another grid over the same corner voxels, in voxels of that grid."""
    old = ddf.shape[2:]
    ratios = [(n - 1) / max(o - 1, 1) for n, o in zip(shape, old, strict=True)]
    scale = torch.tensor(ratios, dtype=ddf.dtype, device=ddf.device).view(1, 3, 1, 1, 1)
    return resize3d(ddf, shape) * scale


def resample_ddf(ddf: torch.Tensor, old: Geometry, new: Geometry) -> torch.Tensor:
    """A DDF ``(1, 3, I, J, K)`` in voxels of one grid, on another grid and in voxels of that."""
    at = affine_coordinates(index_map(np.eye(4), new, old), new.shape, device=ddf.device)
    matrix = torch.from_numpy(index_map(np.eye(4), old, new)[:3, :3]).float().to(ddf.device)
    return torch.einsum("rc,bcijk->brijk", matrix, sample(ddf, at))


def voxel_jacobian(ddf: torch.Tensor) -> torch.Tensor:
    """det(I + forward differences) of a DDF ``(1, 3, I, J, K)`` in voxels: ``(I - 1, J - 1, K - 1)``."""
    i, j, k = (size - 1 for size in ddf.shape[2:])
    out = ddf.new_empty((i, j, k))
    slices = max(1, SLAB // max(j * k, 1))
    for start in range(0, i, slices):
        part = ddf[0, :, start : start + slices + 1]
        here = part[:, :-1, :-1, :-1]
        a, b, c = part[:, 1:, :-1, :-1] - here, part[:, :-1, 1:, :-1] - here, part[:, :-1, :-1, 1:] - here
        for d, column in enumerate((a, b, c)):
            column[d] += 1
        det = (b[1] * c[2]).addcmul_(b[2], c[1], value=-1).mul_(a[0])
        det += (b[2] * c[0]).addcmul_(b[0], c[2], value=-1).mul_(a[1])
        det += (b[0] * c[1]).addcmul_(b[1], c[0], value=-1).mul_(a[2])
        out[start : start + slices] = det
    return out


def folding_fraction(ddf: torch.Tensor) -> float:
    """Share of voxels at which a DDF ``(1, 3, I, J, K)`` folds: `voxel_jacobian` <= 0."""
    if min(ddf.shape[2:]) < 2:
        return 0.0
    return float((voxel_jacobian(ddf) <= 0).float().mean())
