"""Loaders of volumes and arrays in memory: the same samples as from files, structures, what is refused."""

import numpy as np
import pytest
import torch

from RegCore.loaders import Grouped, batches, images_from_volumes, make_loader, pairs_from_volumes
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS, affine
from Testing.RegCore.loaders import data


def test_pairs_in_memory_are_those_of_files(tmp_path):
    arrays = data.write(tmp_path, "paired", "nifti", channels=2)
    section = data.dataset("paired", "nifti", tmp_path, labeled=True, sample_label="all", seed=4)
    grid = Geometry(data.SHAPE, affine())
    pairs = [
        tuple(Volume(arrays[top, name], grid) for top in ("fixed_images", "moving_images"))
        + tuple(arrays[top, name] for top in ("fixed_labels", "moving_labels"))
        for name in data.names("paired")
    ]
    memory = pairs_from_volumes(pairs, sample_label="all", seed=4, **data.SHAPES["paired"])
    files = make_loader(section, "train")
    for one, other in zip(batches(memory, 0, 3), batches(files, 0, 3), strict=True):
        for key in ("fixed_image", "moving_image", "fixed_label", "moving_label", "indices"):
            assert torch.equal(one[key], other[key]), key
        for mine, theirs in zip(one["fixed_geometry"], other["fixed_geometry"], strict=True):
            assert mine.is_close(theirs)


def test_a_label_map_becomes_a_channel_for_each_structure_of_any_of_them():
    grid = GRIDS["oblique"]
    maps = [np.zeros(data.SHAPE, np.int16) for _ in range(2)]
    maps[0][1:4, 2:6, 3:7], maps[0][5:, 5:, 5:] = 3, 7
    maps[1][2:5, 2:6, 3:7], maps[1][0, 0, 0] = 7, 20
    images = [Volume(data.image(n), grid) for n in range(2)]
    labels = [Volume(array, grid, "labels") for array in maps]
    loader = pairs_from_volumes([(*images, *labels)], fixed_image_shape=list(data.SHAPE))
    samples = loader.samples()
    assert [sample.label for sample in samples] == [0, 1, 2]
    for sample, value in zip(samples, (3, 7, 20), strict=True):
        loaded = loader.load(sample)
        np.testing.assert_array_equal(loaded["fixed_label"][0].numpy(), maps[0] == value)
        np.testing.assert_array_equal(loaded["moving_label"][0].numpy(), maps[1] == value)
        assert loaded["fixed_geometry"].is_close(grid)
        original = loader.volumes(sample)["moving_label"]
        assert original.kind == "labels" and original.geometry.is_close(grid)
        np.testing.assert_array_equal(original.array, maps[1] == value)


def test_images_in_memory_meet_at_random_or_in_their_groups():
    images = [data.image(n) for n in range(6)]
    loader = images_from_volumes(images, image_shape=[4, 5, 6])
    used = [i for sample in loader.samples(3) for i in (sample.moving, sample.fixed)]
    assert sorted(used) == list(range(6))
    groups = ["b", "a", "b", "a", "a", "b"]
    loader = images_from_volumes(
        images,
        image_shape=[4, 5, 6],
        groups=groups,
        intra_group_option="forward",
        sample_image_in_group=False,
    )
    assert isinstance(loader, Grouped) and loader.sizes == [3, 3]
    pairs = {(sample.moving, sample.fixed) for sample in loader.samples()}
    assert pairs == {(0, 2), (0, 5), (2, 5), (1, 3), (1, 4), (3, 4)}


@pytest.mark.parametrize(
    "pairs, sentence",
    [
        ([], "pairs must all be"),
        ([(1, 2, 3)], "pairs must all be"),
        ([(data.image(0), data.image(1)), (data.image(0),) * 4], "pairs must all be"),
        ([(data.image(0)[0], data.image(1))], r"fixed_images\[0\]: a grid has 3 axes"),
        (
            [(np.stack([data.image(0)] * 2, -1), data.image(1))],
            r"fixed_images\[0\]: one 3-D image was expected",
        ),
        ([(data.image(0).astype(complex), data.image(1))], r"fixed_images\[0\]: .*real numbers"),
    ],
)
def test_what_is_no_pair_is_refused(pairs, sentence):
    with pytest.raises(InputError, match=sentence):
        pairs_from_volumes(pairs, fixed_image_shape=[4, 4, 4])


def test_labels_that_are_none_are_refused():
    images, grid = [data.image(0), data.image(1)], Geometry(data.SHAPE, np.eye(4))
    loader = images_from_volumes(images, [data.image(0), data.image(1)], image_shape=[4, 4, 4])
    with pytest.raises(InputError, match=r"labels\[[01]\]: a label must have values from 0 to 1"):
        loader.load(loader.samples()[0])
    empty = Volume(np.zeros(data.SHAPE, np.uint8), grid, "labels")
    with pytest.raises(InputError, match="the label maps are all empty"):
        images_from_volumes(images, [empty, empty], image_shape=[4, 4, 4])
    with pytest.raises(InputError, match=r"images\[1\]: has no counterpart among the labels"):
        images_from_volumes(images, [data.label(0, 1)], image_shape=[4, 4, 4])
    with pytest.raises(InputError, match="2 volumes need as many groups, not 1"):
        images_from_volumes(images, image_shape=[4, 4, 4], groups=["a"])
