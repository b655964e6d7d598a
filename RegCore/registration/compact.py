"""Displacement fields as fine as they were found: the same map in a fraction of the memory."""

import math

import numpy as np

from RegCore.space.transforms import DisplacementField

FOUND_ON = 1_500_000  # voxels at most on which the deformable method works
CHECKED = 300_000  # about so many fixed voxels are looked at
SAME = 0.05  # voxels by which their places may differ


def compacted(field: DisplacementField) -> DisplacementField:
    """The same field on a grid about as fine as the one that it was found on, where that says the same.

    The deformable method works on `FOUND_ON` voxels at most and gives its field on the fixed grid, which can
    be many times as large in memory, in files and in views.

    Args:
        field: on the fixed grid.

    Returns:
        A field of the same extent that maps the fixed voxels to the same places, to `SAME` voxels; the given
        one if it is small, or if no smaller one does.
    """
    grid = field.geometry
    stride = max(1, round((grid.voxels / CHECKED) ** (1 / 3)))
    index = np.stack(np.meshgrid(*(np.arange(0, n, stride) for n in grid.shape), indexing="ij"), -1)
    places = grid.to_world(index)
    there = field.map(places)
    for voxels in (FOUND_ON, 4 * FOUND_ON):
        factor = (grid.voxels / voxels) ** (1 / 3)
        if factor <= 1.2:  # nothing to be gained
            break
        smaller = field.resampled(grid.resized(tuple(max(2, math.ceil(n / factor)) for n in grid.shape)))
        away = np.linalg.norm((smaller.map(places) - there) / np.min(grid.spacing), axis=-1)
        if away.max() <= SAME:
            return smaller
    return field
