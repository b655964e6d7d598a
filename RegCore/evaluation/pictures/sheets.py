"""Sheets of points through the fixed image, and what the images, labels and the transform are there.

A sheet is a plane of the fixed grid, seen as a doctor sees it. Everything is sampled at its points, which
the transform carries into the moving image: volumes of any size cost the same, and oblique or differing
grids need no care.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.ndimage import binary_erosion, find_objects, gaussian_filter, map_coordinates

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

# Name; RAS axes against which it runs to the right and downwards; letters at the left, right, top, bottom.
PLANES = (("Axial", 0, 1, "RLAP"), ("Coronal", 0, 2, "RLSI"), ("Sagittal", 1, 2, "APSI"))
CROWDED = 12  # structures on a sheet, from which on their outlines are thinner
SEARCHED = 4_000_000  # voxels looked at to find where the structures are; larger volumes are thinned out


@dataclass(frozen=True)
class Sheet:
    """A plane of the fixed grid as points.

    Args:
        index: (H, W, 3) fixed voxel indices.
        world: the same in RAS mm.
        pixel_mm: their distance.
        letters: the sides of the patient at the left, right, top and bottom.
    """

    name: str
    letters: str
    index: np.ndarray
    world: np.ndarray
    pixel_mm: float

    def in_plane(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (..., 3) in mm as steps (right, down) in pixels of the sheet, (..., 2)."""
        right = self.world[0, -1] - self.world[0, 0]
        down = self.world[-1, 0] - self.world[0, 0]
        axes = np.stack([right / np.linalg.norm(right), down / np.linalg.norm(down)], -1)
        return vectors @ axes / self.pixel_mm


@dataclass(frozen=True)
class Samples:
    """What there is on a sheet; arrays (H, W), NaN where an image does not reach.

    Args:
        mm: u of the transform, (H, W, 3).
        outlines: the edges of the structures as masks, under the names "fixed", "before" and "after"; a name
            is absent where there are no labels.
        names: row and column of the middle of an outline, and the name of the structure, where it has one.
    """

    fixed: np.ndarray
    before: np.ndarray
    after: np.ndarray
    mm: np.ndarray
    outlines: dict[str, np.ndarray]
    names: tuple[tuple[float, float, str], ...] = ()


def make_sheets(fixed: Volume, labels: Volume | None, pixels: int) -> list[Sheet]:
    """The three planes of a volume through its structures; its longest side takes `pixels`."""
    geometry = fixed.geometry
    pixel_mm = float((geometry.spacing * geometry.shape).max()) / pixels
    focus = _focus(fixed, labels)
    return [plane_sheet(geometry, int(axis), focus, pixel_mm) for axis in _voxel_axes(geometry)[::-1]]


def _voxel_axes(geometry: Geometry) -> np.ndarray:
    """Which voxel axis is nearest to the patient axes R, A and S, one to one."""
    near = np.abs(geometry.direction)
    return np.array(max(permutations(range(3)), key=lambda order: near[range(3), order].sum()))


def plane_sheet(geometry: Geometry, axis: int, place: np.ndarray, pixel_mm: float) -> Sheet:
    """The plane of a grid through the voxel index `place`, across a voxel axis, seen as a doctor sees it."""
    (name, *toward, letters), axes = _plane(geometry, axis)
    extent = geometry.spacing * geometry.shape
    ticks = []
    for ras, along in zip(toward, axes, strict=True):
        places = pixel_places(geometry.shape[along], max(2, round(extent[along] / pixel_mm)))
        ticks.append(places[::-1] if geometry.direction[ras, along] > 0 else places)
    index = np.empty((len(ticks[1]), len(ticks[0]), 3))
    index[:] = place
    index[..., axes[0]], index[..., axes[1]] = ticks[0], ticks[1][:, None]
    return Sheet(name, letters, index, geometry.to_world(index), pixel_mm)


def fitting_pixel(geometry: Geometry, axis: int, size: tuple[int, int]) -> float:
    """Distance of pixels in mm with which the planes across a voxel axis just fit (width, height) pixels."""
    width, height = (geometry.spacing[n] * geometry.shape[n] for n in _plane(geometry, axis)[1])
    return float(max(width / size[0], height / size[1]))


def _plane(geometry: Geometry, axis: int) -> tuple[tuple, list[int]]:
    """The entry of `PLANES` across a voxel axis, and the voxel axes that run to the right and downwards."""
    voxel_axis = _voxel_axes(geometry).tolist()
    plane = PLANES[2 - voxel_axis.index(axis)]
    return plane, [voxel_axis[plane[1]], voxel_axis[plane[2]]]


def pixel_places(voxels: int, pixels: int) -> np.ndarray:
    """Where the centres of pixels that share out a row of voxels lie, in voxel indices, (pixels,)."""
    return (np.arange(pixels) + 0.5) / pixels * voxels - 0.5


def _focus(fixed: Volume, labels: Volume | None) -> np.ndarray:
    """The voxel through which the planes run: they meet most structures there, or the middle of the body."""
    source = fixed if labels is None else labels
    step = max(1, int(np.ceil((source.geometry.voxels / SEARCHED) ** (1 / 3))))
    array = source.array[::step, ::step, ::step]
    if labels is None:
        finite = array[np.isfinite(array)]
        low, high = np.percentile(finite, (1, 99)) if finite.size else (0, 0)
        inside = array > low + 0.15 * (high - low)
        return step * _middle([inside], array.shape)
    channels = np.moveaxis(array, -1, 0) if array.ndim == 4 else [array == v for v in labels.labels()]
    middle = step * _middle([channel != 0 for channel in channels], array.shape[:3])
    index = np.rint(fixed.geometry.to_index(source.geometry.to_world(middle)))
    return np.clip(index, 0, np.array(fixed.geometry.shape) - 1)


def _middle(masks: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """For each axis the index whose plane cuts most of the masks, and these near their middles."""
    best = []
    for axis, count in enumerate(shape):
        score = np.zeros(count)
        others = tuple(other for other in range(3) if other != axis)
        for mask in masks:
            area = np.sqrt(mask.sum(others))
            if area.max() > 0:
                score += area / area.max()
        best.append(int(np.argmax(gaussian_filter(score, count / 20))) if score.any() else count // 2)
    return np.array(best)


def sample_sheet(
    sheet: Sheet,
    transform: Transform,
    warped: Volume,
    fixed: Volume,
    moving: Volume,
    labels: dict[str, Volume | None],
) -> Samples:
    """All that is shown of one sheet; labels "fixed", "before" (the moving ones) and "after" (warped)."""
    mapped = transform.map(sheet.world)
    start = moving.geometry.to_index(sheet.world)
    given = {name: volume for name, volume in labels.items() if volume is not None}
    edges = {name: outlines_of(volume, sheet.world, sheet.pixel_mm) for name, volume in given.items()}
    after = values_at(warped.array, sheet.index)
    after[~inside(moving.geometry.shape, moving.geometry.to_index(mapped))] = np.nan
    return Samples(
        values_at(fixed.array, sheet.index),
        values_at(moving.array, start),
        after,
        mapped - sheet.world,
        {name: found > 0 for name, found in edges.items()},
        _names(given["fixed"], edges["fixed"]) if "fixed" in given else (),
    )


def _names(labels: Volume, edges: np.ndarray) -> tuple[tuple[float, float, str], ...]:
    """The middles (row, column) of the outlines whose structure has a name, the largest first."""
    found = []
    for segment in labels.segments:
        rows, columns = np.nonzero(edges == (segment.label + 1 if labels.array.ndim == 4 else segment.label))
        if segment.name and rows.size:
            found.append((rows.size, float(rows.mean()), float(columns.mean()), segment.name))
    return tuple(part[1:] for part in sorted(found, reverse=True))


def inside(shape: tuple[int, ...], index: np.ndarray) -> np.ndarray:
    """Where indices (..., 3) lie on a grid of this shape, the outer halves of the border voxels included."""
    return np.asarray(((index >= -0.5) & (index <= np.array(shape) - 0.5)).all(-1))


def values_at(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation of an array (I, J, K) at indices (..., 3), float64, NaN outside the array."""
    values = map_coordinates(array, np.moveaxis(index, -1, 0), order=1, mode="nearest", output=np.float64)
    return np.where(inside(array.shape, index), values, np.nan)


def outlines_of(labels: Volume, world: np.ndarray, pixel_mm: float) -> np.ndarray:
    """The edges of the structures at points (H, W, 3) RAS mm, smoothed over half a voxel, (H, W) int64.

    0 where there is no edge, else the label, or the number of the channel counted from 1; of labels below
    0 the absolute value.
    """
    nearest = np.rint(labels.geometry.to_index(world)).astype(np.int64)
    limits = np.array(labels.geometry.shape) - 1
    seen = ((nearest >= 0) & (nearest <= limits)).all(-1)
    values = labels.array[tuple(np.moveaxis(np.clip(nearest, 0, limits), -1, 0))]
    smooth = float(labels.geometry.spacing.mean()) / pixel_mm / 2
    edges = np.zeros(world.shape[:2], np.int64)
    several = values.ndim == 3
    for channel, plane in enumerate(np.moveaxis(values, -1, 0) if several else [values], start=1):
        numbers = np.where(seen, plane, 0).astype(np.int64)
        found, compact = np.unique(numbers, return_inverse=True)
        compact = compact.reshape(numbers.shape) + (0 if found[0] == 0 else 1)
        names = found if found[0] == 0 else [0, *found]
        width = 3 if len(found) < CROWDED else 2
        for number, box in enumerate(find_objects(compact), start=1):
            if box is not None and names[number] != 0:
                edge = _edge(compact == number, box, smooth, width)
                edges[edge] = channel if several else abs(names[number])
    return edges


def _edge(mask: np.ndarray, box: tuple[slice, slice], smooth: float, width: int) -> np.ndarray:
    """The inner edge of one structure, `width` pixels wide, computed in its box only."""
    margin = int(4 * smooth) + 3
    window = tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in box)
    soft = gaussian_filter(mask[window].astype(np.float32), smooth) > 0.5
    edge = np.zeros_like(mask)
    edge[window] = soft & ~binary_erosion(soft, iterations=width, border_value=1)
    return edge
