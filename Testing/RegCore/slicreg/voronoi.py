"""Supervoxels from a formula, with an exact map between two scans: what a perfect network would say."""

import numpy as np
from scipy.spatial import cKDTree

from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry

COUNT = 31


def voronoi(geometry: Geometry, mapping, centre, radius: float, layers: int = 6) -> Supervoxels:
    """Cells about random centres in a ball, seen by a grid through a map into the space of the centres.

    mapping: points (..., 3) RAS mm of the grid's space to the space of the centres.
    """
    points = mapping(geometry.world_grid())
    inside = np.linalg.norm(points - centre, axis=-1) < radius
    random = np.random.default_rng(5)
    found = []
    for _ in range(layers):
        ways = random.normal(size=(COUNT, 3))
        ways *= radius * random.uniform(0, 1, (COUNT, 1)) ** (1 / 3) / np.linalg.norm(ways, axis=1)[:, None]
        nearest = 1 + cKDTree(ways + centre).query(points)[1]
        found.append(np.where(inside, nearest, 0).astype(np.uint8))
    return Supervoxels(np.stack(found), geometry, COUNT)
