"""Merging to exactly N connected regions, held against SciPy's labelling and a slow merging by the rule."""

import numpy as np
import pytest
from scipy import ndimage

from RegCore.slicreg.supervoxels import connected_parts, contacts, merge_to
from RegCore.space.geometry import InputError

SHAPE = (7, 8, 9)


def scattered(seed: int, labels: int = 5, shape=SHAPE) -> np.ndarray:
    """Labels with many pieces, holes and single voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 0.8)
    return np.digitize(noise, np.quantile(noise, np.arange(1, labels) / labels))


def parts_by_scipy(labels: np.ndarray) -> int:
    """Number of 6-connected pieces of all labels other than 0."""
    return sum(ndimage.label(labels == label)[1] for label in np.unique(labels) if label)


def slowly(labels: np.ndarray, count: int) -> np.ndarray:
    """The rule followed literally: everything anew after each merging."""
    parts = connected_parts(labels).astype(int)
    while len(np.unique(parts[parts > 0])) > count:
        sizes = np.bincount(parts.ravel())
        alive = [n for n in range(1, len(sizes)) if sizes[n]]
        smallest = min(alive, key=lambda n: (sizes[n], n))
        around = ndimage.binary_dilation(parts == smallest) & (parts != smallest)
        others = sorted(set(parts[around].tolist()) - {0}, key=lambda n: (sizes[n], n))
        parts[parts == smallest] = others[0] if others else 0
    return parts


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the names of the regions; the background is the same."""
    pairs = set(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs}) and (0, 0) in pairs | {
        (0, 0)
    }


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_those_of_scipy(seed):
    labels = scattered(seed)
    parts = connected_parts(labels)
    assert parts.max() == parts_by_scipy(labels) == len(np.unique(parts[parts > 0]))
    assert ((parts == 0) == (labels == 0)).all()
    for part in range(1, parts.max() + 1):
        assert ndimage.label(parts == part)[1] == 1 and len(np.unique(labels[parts == part])) == 1
    first = [np.flatnonzero(parts.ravel() == part)[0] for part in range(1, parts.max() + 1)]
    assert first == sorted(first)


def test_contacts_count_the_faces_between_regions():
    parts = connected_parts(scattered(1))
    graph, expected = contacts(parts), {}
    for index in np.ndindex(*SHAPE):
        for axis in range(3):
            other = tuple(n + (a == axis) for a, n in enumerate(index))
            if other[axis] < SHAPE[axis] and parts[index] != parts[other] and parts[index] and parts[other]:
                for pair in ((parts[index], parts[other]), (parts[other], parts[index])):
                    expected[pair] = expected.get(pair, 0) + 1
    assert {(a, b): n for a, row in enumerate(graph) for b, n in row.items()} == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [3, 9])
def test_merging_follows_the_rule_and_leaves_connected_regions(seed, count):
    labels = scattered(seed)
    merged = merge_to(labels, count)
    assert sorted(np.unique(merged[merged > 0])) == list(range(1, count + 1))
    assert all(ndimage.label(merged == n)[1] == 1 for n in range(1, count + 1))
    assert same_partition(merged, slowly(labels, count))
    assert not merged[labels == 0].any()


def test_a_chain_of_mergings_ends_in_one_region():
    """Each piece is merged into the next one: a partner that is merged itself must hand its pieces on."""
    row = np.repeat(np.arange(1, 7), [1, 2, 3, 4, 5, 30])[None, None]
    assert (merge_to(row, 1) == 1).all()
    np.testing.assert_array_equal(merge_to(row, 2), np.where(row == 6, 2, 1))


def test_a_fragment_without_neighbours_goes_to_the_background():
    labels = np.zeros((5, 5, 5), int)
    labels[0, 0, 0], labels[2:4, :, :], labels[4, :, :] = 1, 2, 3
    merged = merge_to(labels, 2)
    assert merged[0, 0, 0] == 0 and merged.max() == 2
    assert (merged > 0).sum() == 75


def test_the_type_holds_the_number_of_classes():
    labels = np.arange(1, 401).reshape(20, 20, 1)
    assert merge_to(labels, 300).dtype == np.uint16 and merge_to(labels, 300).max() == 300
    assert merge_to(labels, 255).dtype == np.uint8 and merge_to(labels, 255).max() == 255


def test_fewer_regions_than_asked_for_are_refused():
    labels = np.zeros((4, 4, 4), int)
    labels[:2] = 1
    with pytest.raises(InputError, match="2 supervoxels were asked for, but the image gave only 1"):
        merge_to(labels, 2)
    with pytest.raises(InputError, match="gave only 0"):
        merge_to(np.zeros((3, 3, 3), int), 1)
    with pytest.raises(InputError, match="at least one supervoxel is needed, but 0"):
        merge_to(labels, 0)
