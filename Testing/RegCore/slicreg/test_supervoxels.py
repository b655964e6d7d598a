"""Supervoxels of a template: number, connection, variety of layers, warping, what is refused."""

import sys

import numpy as np
import pytest
from scipy import ndimage

from RegCore.slicreg import supervoxels
from RegCore.slicreg.supervoxels import (
    Supervoxels,
    oversegment,
    propagate_supervoxels,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import OBLIQUE, affine

GRID = Geometry((22, 26, 24), affine((0.1, -0.2, 0.3), (4.0, 4.0, 4.0)))


def scene() -> tuple[Volume, np.ndarray]:
    """Smooth blobs, and a mask of an ellipsoid."""
    values = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=GRID.shape), 2.0)
    index = GRID.index_grid() - (np.array(GRID.shape) - 1) / 2
    mask = ((index / (10.0, 12.0, 11.0)) ** 2).sum(-1) < 1
    return Volume((values / values.std()).astype(np.float32), GRID), mask


@pytest.fixture(scope="module")
def layers() -> Supervoxels:
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    return oversegment(*scene(), layers=3, count=20)


def test_each_layer_has_exactly_so_many_connected_supervoxels_within_the_mask(layers):
    assert layers.labels.shape == (3, *GRID.shape) and layers.labels.dtype == np.uint8
    mask = scene()[1]
    for layer in layers.labels:
        assert sorted(np.unique(layer)) == list(range(21))
        assert all(ndimage.label(layer == n)[1] == 1 for n in range(1, 21))
        assert not layer[~mask].any() and (layer[mask] > 0).mean() > 0.97
        assert np.bincount(layer.ravel())[1:].min() > 0.25 * mask.sum() / 20


def test_layers_differ_so_that_together_they_tell_places_apart(layers):
    mask = scene()[1]
    tuples = np.unique(layers.labels[:, mask], axis=1).shape[1]
    assert tuples > 5 * 20
    first, second = layers.labels[:2]
    shared = [np.bincount(second[first == n]).max() / (first == n).sum() for n in range(1, 21)]
    assert np.mean(shared) < 0.85


def test_supervoxels_keep_to_edges_of_the_image_the_less_the_more_compact_they_are():
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    image, mask = scene()
    within = []
    for compactness in (0.2, 50.0):
        found = oversegment(image, mask, layers=1, count=20, compactness=compactness).labels[0]
        within.append(np.mean([image.array[found == n].var() for n in range(1, 21)]))
    assert within[0] < 0.8 * within[1] < 0.8 * image.array[mask].var()


def test_the_same_seed_gives_the_same_layers(layers):
    np.testing.assert_array_equal(oversegment(*scene(), layers=1, count=20).labels[0], layers.labels[0])
    assert (oversegment(*scene(), layers=1, count=20, seed=1).labels[0] != layers.labels[0]).mean() > 0.05


def test_compactness_is_that_of_the_units_given_whatever_the_range(layers):
    """scikit-image divides intensities by their range; here both range and compactness may be scaled."""
    image, mask = scene()
    scaled = Volume(image.array * 8, GRID)
    found = oversegment(scaled, mask, layers=1, count=20, compactness=8 * 1.5)
    np.testing.assert_array_equal(found.labels[0], layers.labels[0])


def test_progress_is_told_after_each_layer():
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    told = []
    oversegment(*scene(), layers=2, count=5, progress=lambda *event: told.append(event))
    assert [(fraction, text) for fraction, text, _ in told] == [(0.5, "supervoxels"), (1.0, "supervoxels")]


def numbered() -> Supervoxels:
    """Two layers in which each voxel can be told apart."""
    first = np.arange(1, OBLIQUE.voxels + 1, dtype=np.uint16).reshape(OBLIQUE.shape)
    return Supervoxels(np.stack([first, first[::-1]]), OBLIQUE, OBLIQUE.voxels)


def test_supervoxels_are_carried_to_another_grid_by_the_nearest_voxel():
    onto = Geometry((9, 7, 11), affine((0.2, 0.1, -0.3), (1.3, 1.5, 2.0), (28.0, -48.0, 91.0)))
    move = DisplacementField(onto, np.random.default_rng(0).normal(0, 2.0, (*onto.shape, 3)))
    found = propagate_supervoxels(numbered(), move, onto)
    index = np.floor(OBLIQUE.to_index(onto.world_grid() + move.mm) + 0.5).astype(int)
    inside = ((index >= 0) & (index < np.array(OBLIQUE.shape))).all(-1)
    expected = np.zeros((2, *onto.shape), np.uint16)
    expected[:, inside] = numbered().labels[(slice(None), *index[inside].T)]
    assert 0.1 < inside.mean() < 0.95 and found.geometry == onto and found.count == numbered().count
    np.testing.assert_array_equal(found.labels, expected)


def test_the_identity_carries_every_supervoxel_to_itself():
    found = propagate_supervoxels(numbered(), AffineTransform.identity(), OBLIQUE)
    np.testing.assert_array_equal(found.labels, numbered().labels)


REFUSED = {
    "more supervoxels than voxels": (
        {"count": 9000},
        "9000 supervoxels were asked for, but the mask has only",
    ),
    "no layer": ({"layers": 0}, "at least 1 layer"),
    "no supervoxel": ({"count": 0}, "expected at least 1 layer of 1 to 65535 supervoxels, got 16 of 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_divided_is_refused(case):
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    options, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        oversegment(*scene(), **options)


def test_if_slic_gives_too_few_more_are_tried_and_then_it_is_said(monkeypatch):
    asked = []

    def lazy(image, mask, segments, compactness, iterations):
        asked.append(segments)
        return mask.astype(int)

    monkeypatch.setattr(supervoxels, "_slic", lazy)
    with pytest.raises(InputError, match="30 supervoxels were asked for, but the image gave only 1"):
        oversegment(*scene(), layers=1, count=30)
    assert len(asked) == 4 and asked[0] > 30 and sorted(set(asked)) == asked


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(InputError, match=r"the mask \(3, 3, 3\) does not fit the grid"):
        oversegment(scene()[0], np.ones((3, 3, 3), bool))


def test_without_scikit_image_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(InputError, match="pip install scikit-image"):
        oversegment(*scene(), layers=1, count=5)


def test_supervoxels_must_fit_their_grid_and_number():
    with pytest.raises(InputError, match=r"whole numbers \(L, I, J, K\) on the grid"):
        Supervoxels(np.zeros(OBLIQUE.shape, np.uint8), OBLIQUE, 3)
    with pytest.raises(InputError, match="numbered to 3, but one is 5"):
        Supervoxels(np.full((1, *OBLIQUE.shape), 5, np.uint8), OBLIQUE, 3)


def test_labels_of_every_second_voxel_have_half_the_shape():
    half = tuple(-(-n // 2) for n in OBLIQUE.shape)
    assert Supervoxels(np.ones((2, *half), np.uint8), OBLIQUE, 3, 2).layers == 2
    with pytest.raises(InputError, match="on the grid"):
        Supervoxels(np.ones((2, *OBLIQUE.shape), np.uint8), OBLIQUE, 3, 2)
