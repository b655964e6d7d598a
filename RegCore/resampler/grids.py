"""Voxel grids and the maps of indices between them.

Tensors of coordinates and displacements are ``(B, 3, I, J, K)`` in voxels, channel order i, j, k.
"""

import numpy as np
import torch

from RegCore.geometry import Geometry


def reference_grid(shape, *, dtype=torch.float32, device=None) -> torch.Tensor:
    """Index of every voxel of a grid: ``(1, 3, I, J, K)``."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def index_map(transform_matrix: np.ndarray, onto: Geometry, source: Geometry) -> np.ndarray:
    """4x4 matrix from indices of ``onto`` through a world matrix to indices of ``source``."""
    return np.linalg.inv(source.affine) @ transform_matrix @ onto.affine


def affine_coordinates(matrix: np.ndarray, shape, *, start=(0, 0, 0), dtype=torch.float32, device=None):
    """``matrix @ index`` for a block of voxels of the given shape from ``start``: ``(1, 3, I, J, K)``."""
    m = np.asarray(matrix, np.float64)
    axes = [torch.arange(s, s + n, dtype=torch.float64) for s, n in zip(start, shape, strict=True)]
    out = torch.empty((1, 3, *shape), dtype=dtype)  # float64 on the way, which not every device knows
    for row in range(3):
        parts = [m[row, d] * axes[d] for d in range(3)]
        plane = (parts[0][:, None] + parts[1][None, :] + m[row, 3])[:, :, None]
        out[0, row] = (plane + parts[2][None, None, :]).to(dtype)
    return out.to(device)
