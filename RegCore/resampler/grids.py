"""Voxel grids and the maps of indices between them.

Tensors of coordinates and displacements are ``(B, 3, I, J, K)`` in voxels, channel order i, j, k.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from RegCore.space.geometry import Geometry, InputError

Device = torch.device | str | None


def reference_grid(
    shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """The index of every voxel of a grid of the shape (I, J, K): ``(1, 3, I, J, K)``."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


get_reference_grid = reference_grid  # DeepReg's name


def warp_grid(grid: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Coordinates mapped by affine maps: new = [i j k 1] @ theta for every voxel.

    Args:
        grid: ``(1 or B, 3, *shape)``, voxels.
        theta: ``(B, 4, 3)``: what i, j and k add to each new coordinate, and the translation in voxels.

    Returns:
        ``(B, 3, *shape)``, voxels.
    """
    flat = grid.flatten(2)  # products one by one: as a matrix product, autocast would round them to 8 bits
    transformed = sum(theta[:, d, :, None] * flat[:, d : d + 1] for d in range(3)) + theta[:, 3, :, None]
    return transformed.unflatten(2, grid.shape[2:])


def affine_ddf(theta: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The DDF ``(B, 3, *shape)`` of affine maps theta ``(B, 4, 3)``: [i j k 1] @ theta - [i j k], voxels."""
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))  # half precision can't hold indices
    grid = reference_grid(shape, dtype=theta.dtype, device=theta.device)
    return warp_grid(grid, theta - torch.eye(4, 3, dtype=theta.dtype, device=theta.device))


def get_n_bits_combinations(num_bits: int) -> list[list[int]]:
    """The combinations of some bits: the corners of a cell of a grid, as `pyramid_combination` takes them.

    Args:
        num_bits: how many bits.

    Returns:
        2**num_bits lists; the one with index i holds the binary digits of i, the highest first.
    """
    return [list(bits) for bits in product((0, 1), repeat=num_bits)]


_REACH = {  # voxels of output that one voxel of input makes, less what padding takes away
    "same": lambda kernel: kernel - 2 * (kernel // 2),
    "valid": lambda kernel: kernel,
    "full": lambda kernel: 2 - kernel,
}


def deconv_output_padding(
    input_shape: int | Sequence[int],
    output_shape: int | Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: str,
) -> int | tuple[int, ...]:
    """What a transposed convolution lacks to the wanted size: output - ((input - 1) stride + reach).

    Reach is kernel - 2 p with the padding p of each side: kernel // 2 for ``same``, 0 for ``valid``,
    kernel - 1 for ``full`` (Dumoulin and Visin, arXiv:1603.07285).

    Args:
        input_shape, output_shape: voxels without batch and channels, a number or one for each axis.
        kernel_size, stride: a number or one for each axis.
        padding: ``same``, ``valid`` or ``full``.

    Returns:
        A number if both shapes are numbers, else one for each axis.

    Raises:
        InputError: an unknown padding.
    """
    if padding not in _REACH:
        raise InputError(f"padding is {padding!r}, expected one of {', '.join(_REACH)}")
    given = (input_shape, output_shape, kernel_size, stride)
    axes = max((len(g) for g in given if not isinstance(g, int)), default=0)
    columns = [(g,) * max(axes, 1) if isinstance(g, int) else tuple(g) for g in given]
    lacking = tuple(
        out - (size - 1) * step - _REACH[padding](kernel)
        for size, out, kernel, step in zip(*columns, strict=True)
    )
    return lacking if axes else lacking[0]


def index_map(transform_matrix: np.ndarray, onto: Geometry, source: Geometry) -> np.ndarray:
    """4x4 matrix from indices of ``onto`` through a world matrix to indices of ``source``."""
    return np.linalg.inv(source.affine) @ transform_matrix @ onto.affine


def affine_coordinates(
    matrix: np.ndarray,
    shape: Sequence[int],
    *,
    start: Sequence[int] = (0, 0, 0),
    dtype: torch.dtype = torch.float32,
    device: Device = None,
) -> torch.Tensor:
    """``matrix @ index`` for a block of voxels of the given shape from ``start``: ``(1, 3, I, J, K)``."""
    m = np.asarray(matrix, np.float64)
    axes = [torch.arange(s, s + n, dtype=torch.float64) for s, n in zip(start, shape, strict=True)]
    out = torch.empty((1, 3, *shape), dtype=dtype)  # float64 on the way, which not every device knows
    for row in range(3):
        parts = [m[row, d] * axes[d] for d in range(3)]
        plane = (parts[0][:, None] + parts[1][None, :] + m[row, 3])[:, :, None]
        out[0, row] = (plane + parts[2][None, None, :]).to(dtype)
    return out.to(device)
