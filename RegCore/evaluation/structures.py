"""How each structure lies before and after a registration: overlap, distance of surfaces and of centroids."""

import math

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from RegCore.evaluation.metrics import IDENTITY, dice, nearest_labels
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume, common_labels

MOST_POINTS = 20_000  # of a surface from which distances are measured; more are thinned out evenly

Figures = dict[str, dict[str, float]]
"""Figure -> {"before": value, "after": value}."""


def structure_figures(
    fixed: Volume, moving: Volume, warped: Volume, before: Transform = IDENTITY
) -> dict[int, Figures]:
    """Figures of every structure that both segmentations hold.

    Args:
        fixed, moving: label maps ``(I, J, K)`` on their own grids, or ``(I, J, K, C)`` with one structure in
            each channel, numbered from 0.
        warped: the moving one on the fixed grid, after registration.
        before: the transform at the start, fixed -> moving, RAS mm.

    Returns:
        By label: "dice"; "hd95_mm", see `surface_distance`; "centroid_mm", the distance of the centroids. NaN
        where the structure is missing on one side, as for `dice`.

    Raises:
        InputError: the two hold no structure in common.
    """
    maps = {"before": nearest_labels(moving, before, fixed.geometry), "after": warped.array}
    found: dict[int, Figures] = {}
    for label in common_labels(fixed, moving, "fixed", "moving"):
        reference = _inside(fixed.array, label)
        pairs = {when: (reference, _inside(array, label)) for when, array in maps.items()}
        found[label] = {
            "dice": {when: _dice(*pair) for when, pair in pairs.items()},
            "hd95_mm": {when: surface_distance(*pair, fixed.geometry) for when, pair in pairs.items()},
            "centroid_mm": {when: centroid_distance(*pair, fixed.geometry) for when, pair in pairs.items()},
        }
    return found


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return dice(a.astype(np.uint8), b.astype(np.uint8), [1])[1]


def _inside(array: np.ndarray, label: int) -> np.ndarray:
    return np.asarray(array[..., label] > 0.5 if array.ndim == 4 else array == label)


def centroid_distance(a: np.ndarray, b: np.ndarray, geometry: Geometry) -> float:
    """Distance in mm of the centroids of two masks ``(I, J, K)`` on one grid; NaN if one is empty."""
    if not a.any() or not b.any():
        return math.nan
    centroids = [geometry.to_world(np.argwhere(mask).mean(0)) for mask in (a, b)]
    return float(np.linalg.norm(centroids[0] - centroids[1]))


def surface_distance(a: np.ndarray, b: np.ndarray, geometry: Geometry, percentile: float = 95.0) -> float:
    """Hausdorff distance in mm of two masks ``(I, J, K)`` on one grid, robust; NaN if one is empty.

    The surface of a mask are the centres of its voxels that touch a voxel outside, or the border of the grid,
    with a face. From each point of one surface the distance to the nearest point of the other is taken; the
    result is the larger of the two percentiles, in both directions (Huttenlocher, Klanderman and Rucklidge,
    PAMI 15, 1993). 100 is the classical Hausdorff distance.
    """
    points = [_surface(mask, geometry) for mask in (a, b)]
    if not len(points[0]) or not len(points[1]):
        return math.nan
    trees = [cKDTree(part) for part in points]
    ways = [tree.query(_thinned(part))[0] for tree, part in zip(trees[::-1], points, strict=True)]
    return float(max(np.percentile(distances, percentile) for distances in ways))


def _surface(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Centres in RAS mm ``(N, 3)``; of the mask only the box around it is looked at."""
    if not mask.any():
        return np.zeros((0, 3))
    spans = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    part = mask[box]
    edge = part & ~binary_erosion(part)
    return np.asarray(geometry.to_world(np.argwhere(edge) + [side.start for side in box]))


def _thinned(points: np.ndarray) -> np.ndarray:
    return points[:: math.ceil(len(points) / MOST_POINTS)]
