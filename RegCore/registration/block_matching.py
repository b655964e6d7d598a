"""Discrete search: the cost of moving each block of the fixed image by each of a cube of displacements."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

FLAT = 1e-5  # a block whose cost hardly changes with the displacement tells nothing


def offsets(radius: int) -> torch.Tensor:
    """The (2 radius + 1)^3 displacements of a search cube, ``(D, 3)`` whole voxels, i slowest."""
    axis = torch.arange(-radius, radius + 1)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def block_costs(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    radius: int,
    block: int | Sequence[int],
    *,
    valid: torch.Tensor | None = None,
    outside: float | torch.Tensor = 0.0,
    tick: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Squared feature distance, summed over channels, of each block to the moving image at each displacement.

    Args:
        fixed: features ``(1, C, I, J, K)``.
        moving: features on the same grid.
        radius: of the search, in voxels; ``D = (2 radius + 1)**3``.
        block: side of a block in voxels, one number or three.
        valid: ``(1, 1, I, J, K)``, 1 where the moving features are known; elsewhere the distance counts as
            ``outside``.
        outside: one number, or one for each fixed voxel, ``(1, 1, I, J, K)``.
        tick: called at each displacement; what it raises ends the search.

    Returns:
        ``(D, I // block, J // block, K // block)``, displacements in the order of `offsets`.
    """
    blocks = (block,) * 3 if isinstance(block, int) else tuple(block)
    pad = (radius,) * 6
    moving = F.pad(moving, pad, mode="replicate")
    if valid is not None:
        valid = F.pad(valid, pad)
    rows = []
    for offset in offsets(radius).tolist():
        tick()
        i, j, k = (slice(radius + o, radius + o + n) for o, n in zip(offset, fixed.shape[2:], strict=True))
        cost = (fixed - moving[..., i, j, k]).square_().sum(1, keepdim=True)
        if valid is not None:
            cost = (cost - outside).mul_(valid[..., i, j, k]).add_(outside)
        rows.append(F.avg_pool3d(cost, blocks)[0, 0] if max(blocks) > 1 else cost[0, 0])
    return torch.stack(rows)


def best_displacements(costs: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each block the cheapest displacement, refined by parabolas, and how much it stands out.

    Args:
        costs: ``(D, i, j, k)`` of `block_costs`.
        radius: of that search.

    Returns:
        Displacements ``(i*j*k, 3)`` in voxels, and ``(i*j*k,)`` the mean cost less the least cost.
    """
    side = 2 * radius + 1
    flat = costs.reshape(costs.shape[0], -1)
    least, index = flat.min(0)
    place = torch.stack([index // side**2, index // side % side, index % side], -1)
    shift = torch.zeros(place.shape, dtype=costs.dtype, device=costs.device)
    for axis, step in enumerate((side**2, side, 1)):
        inner = (place[:, axis] > 0) & (place[:, axis] < side - 1)
        before = flat.gather(0, torch.where(inner, index - step, index)[None])[0]
        after = flat.gather(0, torch.where(inner, index + step, index)[None])[0]
        curve = (before + after - 2 * least).clamp_min(1e-12)
        shift[:, axis] = torch.where(inner, (0.5 * (before - after) / curve).clamp(-0.5, 0.5), 0.0)
    return place.to(costs.dtype) - radius + shift, flat.mean(0) - least
