"""Fields that fold in a few voxels are made smoother there, and nowhere else."""

import torch
import torch.nn.functional as F

from RegCore.registration.compositional import gaussian_on
from RegCore.resampler import box_mean, box_sum, folding_fraction, voxel_jacobian
from RegCore.space.geometry import Geometry

LEAST = 0.05  # of the Jacobian's determinant by forward differences: others may see a fold below it
MENDINGS = 5  # times that a folded field is smoothed before it is given up


def mended_folds(ddf: torch.Tensor, grid: Geometry) -> torch.Tensor | None:
    """A DDF smoothed about the voxels that (nearly) fold, each time wider.

    Args:
        ddf: ``(1, 3, I, J, K)`` voxels of the grid.
        grid: that it lies on.

    Returns:
        The same where it does not fold; None if some voxels still fold at the end.
    """
    for n in range(1, MENDINGS + 1):
        if min(grid.shape) < 2:
            break
        folded = voxel_jacobian(ddf) < LEAST
        if not bool(folded.any()):
            break
        near = box_sum(F.pad(folded.float()[None, None], (0, 1) * 3), 4 * n + 1, 2 * n).gt_(0.5)
        smoother = gaussian_on(grid, float(n), ddf)(ddf)
        ddf = torch.lerp(ddf, smoother, box_mean(near, n))
    return ddf if folding_fraction(ddf) == 0 else None
