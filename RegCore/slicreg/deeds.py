"""What the program deeds writes, as a displacement in voxels: an affine matrix and a field of control points.

Used where its results are at hand already; nothing here needs the program.
"""

import math
from pathlib import Path

import numpy as np
import torch

from RegCore.resampler import affine_coordinates, sample
from RegCore.space.geometry import InputError


def read_matrix(path) -> np.ndarray:
    """The 4×4 matrix of a `…_matrix.txt`: fixed voxel index to moving voxel index, columns (i, j, k, 1).

    The file holds its transpose: four rows of four numbers, the translation in the last row. Its last column
    is 0 0 0 1 within the accuracy of a fit in single precision, and is not used.

    Raises:
        InputError: the file can't be used; the message names it.
    """
    try:
        rows = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.split()]
        matrix = np.array(rows, dtype=np.float64)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: four lines of four numbers were expected ({error})") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{path}: four lines of four finite numbers were expected, not {matrix.shape}")
    if not np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-2):
        raise InputError(
            f"{path}: the last column of the matrix must be 0 0 0 1, not {matrix[:, 3].tolist()}"
        )
    matrix[:, 3] = [0, 0, 0, 1]
    return matrix.T


def _spacing(shape, count: int, path) -> int:
    """Voxels between control points: g with (I // g) (J // g) (K // g) points."""
    guess = round((math.prod(shape) / max(count, 1)) ** (1 / 3))
    for step in sorted(range(1, min(shape) + 1), key=lambda g: (abs(g - guess), g)):
        if math.prod(n // step for n in shape) == count:
            return step
    raise InputError(f"{path}: holds {count} control points, which fit no grid for the shape {tuple(shape)}")


def read_control_points(path, shape) -> np.ndarray:
    """The control points of a `…_displacements.dat`, (3, I // g, J // g, K // g) float32 voxels, i j k.

    The file is three blocks of little-endian float32 with the first axis fastest: displacements along axis
    1, axis 0 and axis 2.

    Args:
        shape: (I, J, K) of the fixed image, array order as deeds read it from its NIfTI file.

    Raises:
        InputError: the file can't be used; the message names it.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    if len(raw) == 0 or len(raw) % 12:
        raise InputError(f"{path}: three blocks of 4-byte numbers were expected, not {len(raw)} bytes")
    step = _spacing(shape, len(raw) // 12, path)
    coarse = [n // step for n in shape]
    blocks = np.frombuffer(raw, "<f4").reshape(3, *coarse[::-1]).transpose(0, 3, 2, 1)
    if not np.isfinite(blocks).all():
        raise InputError(f"{path}: holds values that are NaN or infinite")
    return np.ascontiguousarray(blocks[[1, 0, 2]], dtype=np.float32)


def read_deeds(displacements, matrix, shape) -> np.ndarray:
    """The displacement that deeds found: moving index = fixed index + ddf, (3, I, J, K) float32 voxels.

    p_moving = A p + u(p). Control point c of axis a lies at voxel c n / (n // g); u is interpolated linearly
    between them and constant beyond the last one. `DisplacementField.from_voxels` puts it into millimetres.

    Args:
        displacements: path of `…_displacements.dat`.
        matrix: path of `…_matrix.txt`.
        shape: (I, J, K) of the fixed image.

    Raises:
        InputError: a file is missing, damaged or of another shape; the message names it.
    """
    control = read_control_points(displacements, shape)
    affine = read_matrix(matrix)
    ratio = np.diag([*(c / n for c, n in zip(control.shape[1:], shape, strict=True)), 1.0])
    field = sample(torch.from_numpy(control)[None], affine_coordinates(ratio, shape))
    return (field + affine_coordinates(affine - np.eye(4), shape))[0].numpy()
