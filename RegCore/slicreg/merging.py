"""Exactly so many connected regions: parts of an over-segmentation merged until a given number is left."""

import heapq

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from RegCore.space.geometry import InputError


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
