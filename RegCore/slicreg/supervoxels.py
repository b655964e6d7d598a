"""Several different over-segmentations of a template, each of exactly N connected supervoxels."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from RegCore.progress import Progress, silent
from RegCore.resampler import affine_coordinates, sample, warp
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

SPREAD = 0.05  # standard deviation of the entries of a random affine matrix about the identity, half extents
COMPACTNESS = 1.5  # of SLIC, for intensities as a network sees them
SURPLUS = 1.64  # segments that SLIC is asked for, per supervoxel wanted: 208 for 127
ATTEMPTS = 4  # each with a third more segments than the one before
ITERATIONS = 5  # of SLIC's k-means


@dataclass(frozen=True)
class Supervoxels:
    """Layers of supervoxels on one grid.

    Args:
        labels: (L, I, J, K) uint8 or uint16; 0 is the background, 1..count are the supervoxels of each layer.
        geometry: the grid.
        count: supervoxels of each layer, so there are count + 1 classes.
        stride: voxels of the grid from one label to the next along each axis, from voxel 0 on. With 2 they
            are those of a network's cells, and the labels have the shape (L, ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉).

    Raises:
        InputError: these do not fit together.
    """

    labels: np.ndarray
    geometry: Geometry
    count: int
    stride: int = 1

    def __post_init__(self) -> None:
        array, shape = self.labels, tuple(-(-n // self.stride) for n in self.geometry.shape)
        if array.ndim != 4 or array.shape[1:] != shape or array.dtype.kind != "u":
            raise InputError(
                f"layers of supervoxels are whole numbers (L, I, J, K) on the grid {shape}, "
                f"not {array.dtype} {array.shape}"
            )
        if array.size and int(array.max()) > self.count:
            raise InputError(f"supervoxels are numbered to {self.count}, but one is {int(array.max())}")

    @property
    def layers(self) -> int:
        """Number of over-segmentations."""
        return self.labels.shape[0]


def _slic(
    image: np.ndarray, mask: np.ndarray, segments: int, compactness: float, iterations: int
) -> np.ndarray:
    """SLIC supervoxels 1.. within the mask, 0 outside (Achanta et al., PAMI 2012; maskSLIC, Irving 2016).

    compactness: for the intensities as they are: scikit-image divides by their range inside the mask.
    """
    try:
        segmentation = import_module("skimage.segmentation")
    except ImportError as error:
        raise InputError(
            "supervoxels are made by the package scikit-image, which is not installed here; "
            "install it with: pip install scikit-image"
        ) from error
    span = float(np.ptp(image[mask])) or 1.0
    return segmentation.slic(
        image,
        n_segments=segments,
        compactness=compactness / span,
        max_num_iter=iterations,
        mask=mask,
        channel_axis=None,
        enforce_connectivity=True,
        min_size_factor=0.85,
        start_label=1,
    )


def index_matrix(shape: Sequence[int], entries: np.ndarray) -> np.ndarray:
    """4×4 index to index: the identity and entries (3, 4) in half extents, about the centre of the grid."""
    half = np.array(shape) / 2
    unit = np.diag([*half, 1.0])
    unit[:3, 3] = half - 0.5
    matrix = np.eye(4)
    matrix[:3] += entries
    return unit @ matrix @ np.linalg.inv(unit)


def _pulled(array: np.ndarray, matrix: np.ndarray, nearest: bool) -> np.ndarray:
    """An array (I, J, K) seen through an index matrix, edges repeated."""
    at = affine_coordinates(matrix, array.shape)
    tensor = torch.from_numpy(array)[None, None]
    return sample(tensor, at, nearest=nearest)[0, 0].numpy()


def _layer(
    image: np.ndarray,
    mask: np.ndarray,
    count: int,
    slic: tuple[float, int],
    spread: float,
    random: np.random.Generator,
) -> np.ndarray:
    """One over-segmentation, from the image seen through a random affine matrix; (I, J, K)."""
    for attempt in range(ATTEMPTS):
        matrix = index_matrix(image.shape, spread * random.standard_normal((3, 4)))
        turned = _pulled(image, matrix, nearest=False)
        inside = _pulled(mask.astype(np.uint8), matrix, nearest=True) > 0
        segments = round(SURPLUS * count * (4 / 3) ** attempt)
        found = _slic(turned, inside, segments, *slic) if inside.any() else np.zeros_like(mask, int)
        back = _pulled(found.astype(np.int32), np.linalg.inv(matrix), nearest=True)
        parts = connected_parts(np.where(mask, back, 0))
        if parts.max() >= count:
            break
    return merge_to(parts, count)


def oversegment(
    image: Volume,
    mask: np.ndarray,
    *,
    layers: int = 16,
    count: int = 127,
    compactness: float = COMPACTNESS,
    iterations: int = ITERATIONS,
    spread: float = SPREAD,
    seed: int = 0,
    progress: Progress = silent,
) -> Supervoxels:
    """Several over-segmentations of an image, so that together they tell places apart finely.

    Each layer is SLIC within the mask on the image seen through a random affine matrix near the identity,
    carried back; its connected parts are then merged to exactly `count` supervoxels (Heinrich et al., IPMI
    2013 and MIDL 2021). The same input and seed give the same layers.

    Args:
        image: the template in the units that a network sees (`network_units`).
        mask: bool (I, J, K), what is to be divided; the rest is the background.
        layers: number of over-segmentations.
        count: supervoxels of each.
        compactness: of SLIC; larger makes supervoxels rounder and cares less for intensities.
        iterations: of SLIC's k-means.
        spread: by how much the layers differ, standard deviation of the entries of a random affine matrix in
            half extents of the grid.
        seed: of the random matrices.
        progress: told after each layer.

    Raises:
        InputError: nothing to divide, fewer supervoxels than asked for, or scikit-image is missing.
    """
    mask = np.asarray(mask, bool)
    if mask.shape != image.geometry.shape:
        raise InputError(f"the mask {mask.shape} does not fit the grid of the image {image.geometry.shape}")
    if layers < 1 or not 1 <= count < 2**16:
        raise InputError(f"expected at least 1 layer of 1 to 65535 supervoxels, got {layers} of {count}")
    if np.count_nonzero(mask) < count:
        raise InputError(
            f"{count} supervoxels were asked for, but the mask has only {np.count_nonzero(mask)} voxels"
        )
    random = np.random.default_rng([seed, 7])
    array = np.ascontiguousarray(image.array, np.float32)
    found = []
    for layer in range(layers):
        found.append(_layer(array, mask, count, (compactness, iterations), spread, random))
        progress((layer + 1) / layers, "supervoxels", {"layer": layer + 1})
    return Supervoxels(np.stack(found), image.geometry, count)


def propagate_supervoxels(supervoxels: Supervoxels, transform: Transform, onto: Geometry) -> Supervoxels:
    """The supervoxels of a template on the grid of a scan, nearest voxel, background beyond the template.

    Args:
        transform: x_template = T(x_scan), RAS mm.
    """
    layers = np.moveaxis(supervoxels.labels, 0, -1)
    maps = [
        warp(Volume(layers[..., n], supervoxels.geometry, "labels"), transform, onto)
        for n in range(supervoxels.layers)
    ]
    return Supervoxels(np.stack([found.array for found in maps]), onto, supervoxels.count)


# ---- exactly so many connected regions ---------------------------------------------------------------------


def connected_parts(labels: np.ndarray) -> np.ndarray:
    """A number for each 6-connected region of one label, 1.. in order of the first voxels; 0 stays 0.

    Args:
        labels: (I, J, K) whole numbers, 0 for the background.
    """
    index = np.arange(labels.size).reshape(labels.shape)
    first, second = [], []
    for a, b in _neighbours(labels.ndim):
        same = (labels[a] == labels[b]) & (labels[a] != 0)
        first.append(index[a][same])
        second.append(index[b][same])
    first, second = np.concatenate(first), np.concatenate(second)
    edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(labels.size,) * 2)
    part = connected_components(edges, directed=False)[1]
    part[labels.ravel() == 0] = -1
    return _consecutive(part + 1).reshape(labels.shape)


def _neighbours(axes: int):
    """Pairs of slices that lay each voxel beside the next one, axis by axis."""
    for axis in range(axes):
        before, after = [slice(None)] * axes, [slice(None)] * axes
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        yield tuple(before), tuple(after)


def _consecutive(values: np.ndarray) -> np.ndarray:
    """Flat non-negative numbers renamed 1, 2, … in order of first appearance; 0 stays 0."""
    found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(np.where(found == 0, -1, first), kind="stable")
    names = np.empty(len(found), np.int64)
    names[order] = np.arange(len(found)) + (0 if found[0] == 0 else 1)
    return names[inverse]


def contacts(parts: np.ndarray) -> list[dict[int, int]]:
    """How many voxel faces each region shares with each other one, [{other: faces}] by number; 0 left out."""
    size = int(parts.max()) + 1
    pairs = []
    for a, b in _neighbours(parts.ndim):
        low, high = np.minimum(parts[a], parts[b]), np.maximum(parts[a], parts[b])
        border = (low != high) & (low > 0)
        pairs.append(low[border].astype(np.int64) * size + high[border])
    found, faces = np.unique(np.concatenate(pairs), return_counts=True)
    graph: list[dict[int, int]] = [{} for _ in range(size)]
    for pair, count in zip(found.tolist(), faces.tolist(), strict=True):
        a, b = divmod(pair, size)
        graph[a][b] = graph[b][a] = count
    return graph


def merge_to(labels: np.ndarray, count: int) -> np.ndarray:
    """Merge regions until exactly `count` are left, each 6-connected: 0..count, (I, J, K) uint8 or uint16.

    The 6-connected parts of the labels are the regions to begin with. The smallest one is merged into its
    smallest neighbour, again and again, which evens out their sizes; ties are decided by number, so the
    result is determined. A region that touches no other is given to the background once it is the smallest.
    No border between two labels is moved.

    Args:
        labels: (I, J, K) whole numbers, 0 for the background, which is no region.

    Raises:
        InputError: there are fewer regions than asked for.
    """
    if count < 1:
        raise InputError(f"at least one supervoxel is needed, but {count} were asked for")
    parts = connected_parts(labels)
    total = int(parts.max())
    if total >= count:
        parent = _merged(parts, count)
        left = np.unique(parent[1:])
        total = int(np.count_nonzero(left))
    if total < count:
        raise InputError(f"{count} supervoxels were asked for, but the image gave only {total}")
    dtype = np.uint8 if count < 256 else np.uint16
    return _consecutive(parent[parts].ravel()).reshape(parts.shape).astype(dtype)


def _merged(parts: np.ndarray, count: int) -> np.ndarray:
    """To which region each one belongs in the end, by number; 0 is the background."""
    sizes = np.bincount(parts.ravel()).tolist()
    graph = contacts(parts)
    parent = list(range(len(sizes)))
    alive = len(sizes) - 1
    queue = [(size, number) for number, size in enumerate(sizes) if number]
    heapq.heapify(queue)
    while alive > count:
        size, number = heapq.heappop(queue)
        if parent[number] != number or size != sizes[number]:
            continue  # merged in the meantime, or grown: it is queued again with its new size
        target = min(graph[number], key=lambda other: (sizes[other], other), default=0)
        parent[number] = target
        alive -= 1
        if target == 0:
            continue
        sizes[target] += sizes[number]
        heapq.heappush(queue, (sizes[target], target))
        for other, faces in graph[number].items():
            del graph[other][number]
            if other != target:
                graph[target][other] = graph[other][target] = graph[target].get(other, 0) + faces
    return _roots(parent)


def _roots(parent: list[int]) -> np.ndarray:
    """The end of each chain of parents."""
    roots = np.array(parent)
    while (roots[roots] != roots).any():
        roots = roots[roots]
    return roots
