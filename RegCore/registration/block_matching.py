"""Discrete search: the cost of moving each block of the fixed image by each of a cube of displacements."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

LINE = 24  # voxels of a line that are held against all that lie near, at a time
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
        tick: called at each displacement along the first two axes; what it raises ends the search.

    Returns:
        ``(D, I // block, J // block, K // block)``, displacements in the order of `offsets`.
    """
    blocks = (block,) * 3 if isinstance(block, int) else tuple(block)
    bi, bj, bk = blocks
    side, wide = 2 * radius + 1, 2 * radius
    n = [size // b for size, b in zip(fixed.shape[2:], blocks, strict=True)]
    i, j, k = (count * b for count, b in zip(n, blocks, strict=True))
    price = torch.as_tensor(outside, dtype=fixed.dtype, device=fixed.device).expand_as(fixed[:, :1])
    fixed, price = (x[0, :, :i, :j, :k] for x in (fixed, price))
    moving = F.pad(moving, (radius,) * 6, mode="replicate")[0, :, : i + wide, : j + wide, : k + wide]
    # (|f|^2 + |m|^2 - 2 f m - price) known is a product of two rows of channels for each voxel
    here = torch.cat([fixed, fixed.square().sum(0, keepdim=True) - price, torch.ones_like(price)])
    size = moving.square().sum(0, keepdim=True)
    there = torch.cat([moving * -2, torch.ones_like(size), size])
    if valid is not None:
        there *= F.pad(valid, (radius,) * 6)[0, :, : i + wide, : j + wide, : k + wide]
    c = len(here)
    here = here.view(c, n[0], bi, n[1], bj, k).permute(1, 3, 5, 2, 4, 0).reshape(n[0] * n[1], k, bi * bj * c)
    there = there.permute(1, 2, 0, 3).contiguous()
    rows = []
    for a in range(side):
        for b in range(side):
            tick()
            lay = there[a : a + i, b : b + j].reshape(n[0], bi, n[1], bj, c, k + wide).transpose(1, 2)
            lay = lay.reshape(n[0] * n[1], bi * bj * c, k + wide)
            rows.append(_along_lines(here, lay, side, bk).view(n[0], n[1], n[2], side).permute(3, 0, 1, 2))
    return torch.cat(rows).div_(bi * bj * bk).add_(F.avg_pool3d(price[None], blocks)[0, 0]).clamp_min_(0)


def _along_lines(here: torch.Tensor, there: torch.Tensor, side: int, block: int) -> torch.Tensor:
    """Products of each voxel of a line with the ``side`` voxels that lie near it in another, in blocks.

    Args:
        here: ``(N, K, C)``.
        there: ``(N, C, K + side - 1)``: the first of the voxels that lie near voxel k is voxel k.
        side: their number.
        block: voxels that are summed.

    Returns:
        ``(N, K // block, side)``.
    """
    lines, length = here.shape[:2]
    step, found = block * max(1, round(LINE / block)), []
    for start in range(
        0, length, step
    ):  # a product with all that lie near any of them holds them as diagonals
        count = min(step, length - start)
        width = count + side - 1
        products = torch.bmm(here[:, start : start + count], there[:, :, start : start + width])
        shape = (lines, count // block, block, side)
        strides = (count * width, block * (width + 1), width + 1, 1)
        found.append(products.as_strided(shape, strides).sum(2))
    return torch.cat(found, 1)


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
