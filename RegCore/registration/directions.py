"""Where a DDF begins, and how those of the two directions become one."""

import numpy as np
import torch

from RegCore.progress import Progress, silent
from RegCore.resampler import field_of, index_map, inverted, reference_grid
from RegCore.resampler.grids import Device
from RegCore.space.geometry import Geometry, apply_affine
from RegCore.space.transforms import AffineTransform, DisplacementField

BORDER = 6  # voxels over which the backward direction gains its full share


def start_ddf(
    initial: DisplacementField | None, matrix: np.ndarray, grid: Geometry, device: Device
) -> torch.Tensor:
    """The displacement to begin with, in voxels of the grid: zero, or what ``initial`` adds to the matrix."""
    if initial is None:
        return torch.zeros((1, 3, *grid.shape), device=device)
    through = np.linalg.inv(matrix @ grid.affine)
    index = apply_affine(through, initial.map(grid.world_grid())) - grid.index_grid()
    return torch.from_numpy(index.astype(np.float32)).permute(3, 0, 1, 2)[None].contiguous().to(device)


def averaged(
    forward: torch.Tensor,
    fixed: Geometry,
    backward: torch.Tensor,
    moving: Geometry,
    linear: AffineTransform,
    *,
    stride: int = 1,
    progress: Progress = silent,
) -> torch.Tensor:
    """The mean of a forward DDF and the inverse of a backward one, on the forward grid.

    Near the border of the backward grid and beyond it the forward one prevails: nothing else is known there.

    Args:
        forward, fixed: DDF ``(1, 3, I, J, K)`` in voxels of its grid, before the linear part.
        backward, moving: the same of the other direction, before the inverse of the linear part.
        linear: fixed -> moving, RAS mm.
        stride: voxels between the places at which the inverse is computed.
        progress: told of the inversion.
    """
    coarse = fixed.resized(tuple((n + stride - 1) // stride + 1 for n in fixed.shape))

    def tell(fraction: float, _: str, values: dict) -> None:
        progress(fraction, "deformable: both directions", values)

    inverse = inverted(field_of(linear.inverse(), moving, backward), coarse, tell)
    ddf = start_ddf(inverse, linear.matrix, fixed, forward.device)
    matrix = torch.from_numpy(index_map(linear.matrix, fixed, moving)).float().to(ddf.device)
    landing = reference_grid(fixed.shape, device=ddf.device) + forward
    landing = torch.einsum("rc,bcijk->brijk", matrix[:3, :3], landing) + matrix[:3, 3].view(1, 3, 1, 1, 1)
    last = torch.tensor(moving.shape, device=ddf.device).view(1, 3, 1, 1, 1) - 1
    inside = torch.minimum(landing, last - landing).amin(1, keepdim=True)
    share = 0.5 * (inside / BORDER).clamp(0, 1)
    return forward + share * (ddf - forward)
