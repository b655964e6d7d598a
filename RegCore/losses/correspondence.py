"""Losses that need more than one field: the field of the opposite direction, or pairs of landmarks."""

from collections.abc import Sequence

import torch

from RegCore.losses.checks import check_field, lengths_mm
from RegCore.resampler import sample, warp_image_ddf
from RegCore.space.geometry import InputError


def _mean_square(residual: torch.Tensor, spacing: Sequence[float] | torch.Tensor | None) -> torch.Tensor:
    """Mean over voxels of the squared length of ``(B, 3, I, J, K)``, in voxels or mm: ``(B,)``."""
    if spacing is not None:
        residual = residual * lengths_mm(spacing, residual).view(-1, 3, 1, 1, 1)
    return residual.square().sum(1).flatten(1).mean(1)


def inverse_consistency(
    forward: torch.Tensor,
    backward: torch.Tensor,
    *,
    spacing: Sequence[float] | torch.Tensor | None = None,
    moving_spacing: Sequence[float] | None = None,
) -> torch.Tensor:
    """How far points come from where they set out when they go there and back, squared.

    Half the sum of mean |u(x) + v(x + u(x))|^2 over the fixed voxels x and mean |v(y) + u(y + v(y))|^2 over
    the moving voxels y (Christensen and Johnson, IEEE TMI 20, 2001). Beyond its grid a field goes on as it is
    at the edge. 0 for a field and its inverse. DeepReg has no such loss.

    A training objective predicts twice, once with the images exchanged, and hands over both displacement
    fields; if there are velocities, the exchanged prediction is needed all the same, since nothing makes a
    network predict -v for the exchanged pair.

    Args:
        forward: u, ``(B, 3, I, J, K)`` on the fixed grid: moving index = fixed index + u.
        backward: v, ``(B, 3, i, j, k)`` on the moving grid: fixed index = moving index + v.
        spacing: of the fixed grid, three lengths in mm; the result is then in mm^2, otherwise in voxels^2.
        moving_spacing: of the moving grid; by default that of the fixed one.

    Returns:
        ``(B,)``.

    Raises:
        InputError: another shape, batches of different size, spacings that are not three positive lengths.
    """
    check_field(forward)
    check_field(backward)
    if len(forward) != len(backward):
        raise InputError(
            "a forward and a backward field are compared sample by sample, "
            f"but there are {len(forward)} and {len(backward)}"
        )
    there = _mean_square(forward + warp_image_ddf(backward, forward), spacing)
    spacing = spacing if moving_spacing is None else moving_spacing
    return 0.5 * (there + _mean_square(backward + warp_image_ddf(forward, backward), spacing))


def _to_mm(
    residual: torch.Tensor, spacing: Sequence[float] | None, affine: torch.Tensor | None
) -> torch.Tensor:
    """Differences ``(B, 3, N)`` in voxels of a grid, in mm."""
    if spacing is not None and affine is not None:
        raise InputError("a distance in mm takes either a spacing or an affine matrix, not both")
    if spacing is not None:
        return residual * lengths_mm(spacing, residual).view(1, 3, 1)
    if affine is None:
        return residual
    matrix = torch.as_tensor(affine).to(residual)
    if matrix.shape[-2:] not in ((3, 3), (4, 4)) or matrix.ndim > 3:
        raise InputError(f"affine must be (4, 4) or (B, 4, 4), but its shape is {tuple(matrix.shape)}")
    return matrix[..., :3, :3] @ residual


def landmark_distance(
    ddf: torch.Tensor,
    fixed_points: torch.Tensor,
    moving_points: torch.Tensor,
    *,
    spacing: Sequence[float] | None = None,
    affine: torch.Tensor | None = None,
    squared: bool = False,
) -> torch.Tensor:
    """Mean distance |p + u(p) - q| of landmarks p of the fixed image, once displaced, from their partners q.

    It is the target registration error; u is interpolated linearly between voxels. Differentiable in the
    field and the points. DeepReg has no such loss, its nearest is the distance of centroids of labels.

    Args:
        ddf: u, ``(B, 3, I, J, K)`` in voxels: moving index = fixed index + u.
        fixed_points: p, ``(B, N, 3)`` in voxels of the fixed grid (`Geometry.to_index` of points in mm).
        moving_points: q, ``(B, N, 3)`` in voxels of the moving grid. A pair with a NaN does not count, so
            that samples with fewer landmarks fit into a batch.
        spacing: of the moving grid, three lengths in mm: the distance is then in mm, otherwise in voxels.
        affine: in place of ``spacing``, the index-to-mm matrix of the moving grid, ``(4, 4)`` or one per
            sample ``(B, 4, 4)``; differs from the spacing only where axes are not at right angles.
        squared: the mean of the squared distances, which pulls harder at what is far off.

    Returns:
        ``(B,)``; 0 for a sample without landmarks.

    Raises:
        InputError: other shapes, both a spacing and an affine matrix.
    """
    check_field(ddf)
    shape = tuple(fixed_points.shape)
    if fixed_points.ndim != 3 or shape[2] != 3 or shape[0] != len(ddf) or moving_points.shape != shape:
        raise InputError(
            f"landmarks are (B, N, 3) for both images with B = {len(ddf)} as the field has, "
            f"but they are {shape} and {tuple(moving_points.shape)}"
        )
    start, stop = (points.transpose(1, 2).to(ddf) for points in (fixed_points, moving_points))
    known = torch.isfinite(start).all(1) & torch.isfinite(stop).all(1)
    start, stop = (points.masked_fill(~known[:, None], 0) for points in (start, stop))
    residual = start + sample(ddf, start[..., None, None])[..., 0, 0] - stop
    distance = _to_mm(residual, spacing, affine).square().sum(1)
    if not squared:
        zero = distance == 0  # a square root has no slope there, a distance takes 0
        distance = distance.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    return (distance * known).sum(1) / known.sum(1).clamp_min(1)
