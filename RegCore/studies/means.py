"""Means of transforms, and transforms whose mean is the identity."""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import expm, logm

from RegCore.resampler import inverted
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform

STILL = 1e-10
ITERATIONS = 50


def centring(transforms: Sequence[AffineTransform]) -> AffineTransform:
    """The affine map N for which the transforms T N have the identity as their mean.

    The mean is that of their logarithms (Arsigny et al., MICCAI 2006), which depends neither on the origin of
    the coordinates nor on which side is inverted.

    Args:
        transforms: x_scan = T(x), RAS mm.
    """
    matrix = np.eye(4)
    for _ in range(ITERATIONS):
        mean = np.mean([_log(transform.matrix @ matrix) for transform in transforms], axis=0)
        matrix = matrix @ expm(-mean)
        matrix[3] = [0, 0, 0, 1]
        if np.abs(mean).max() < STILL:
            break
    return AffineTransform(matrix)


def _log(matrix: np.ndarray) -> np.ndarray:
    """The logarithm of an affine matrix; of half a turn, which has none, that of the translation alone."""
    found = logm(matrix)
    if np.iscomplexobj(found):
        if np.abs(found.imag).max() > 1e-6:
            found = np.zeros((4, 4))
            found[:3, 3] = matrix[:3, 3]
        found = found.real
    found[3] = 0
    return found


def centred_fields(
    fields: Sequence[DisplacementField], linear: Sequence[AffineTransform]
) -> tuple[list[Transform], float]:
    """Fields from which their mean was taken out (Guimond et al., Comput. Vis. Image Underst. 77, 2000).

    With T = A (id + u) each, A its linear part, the mean of u is made zero by going through the inverse of
    D = id + mean u first: T D^-1.

    Args:
        fields: x_scan = T(x_template), RAS mm, on one grid.
        linear: A of each, whose mean is the identity.

    Returns:
        The fields T D^-1 on the same grid, and the mean length of the mean of u in mm.
    """
    grid = fields[0].geometry
    world = grid.world_grid()
    total = np.zeros((*grid.shape, 3))
    for field, affine in zip(fields, linear, strict=True):
        total += affine.inverse().map(world + field.mm) - world
    mean = total / len(fields)
    back = inverted(DisplacementField(grid, mean, AffineTransform.identity()), grid)
    return [field.compose(back) for field in fields], float(np.linalg.norm(mean, axis=-1).mean())


def covering_grid(grid: Geometry, transform: AffineTransform) -> Geometry:
    """A grid with the axes and the spacing of another that covers what that becomes under a transform.

    Args:
        grid: the other grid.
        transform: RAS mm to RAS mm.
    """
    ends = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T * (np.array(grid.shape) - 1)
    index = grid.to_index(transform.map(grid.to_world(ends)))
    low, high = index.min(0), index.max(0)
    shape = np.maximum(np.rint(high - low).astype(int) + 1, 1)
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world((low + high) / 2 - (shape - 1) / 2)
    i, j, k = (int(n) for n in shape)
    return Geometry((i, j, k), affine)
