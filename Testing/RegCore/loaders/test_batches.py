"""Batches: the same whatever reads them, taken up midway, dealt to several processes, kept in memory."""

import os
import shutil
from multiprocessing import parent_process

import numpy as np
import pytest
import torch

from RegCore.loaders import Batches, Source, Unpaired, batches, images_from_volumes, make_loader
from RegCore.loaders.batches import deal
from RegCore.loaders.cache import SHARED, VolumeCache
from RegCore.loaders.images import RoleImages
from RegCore.space.geometry import Geometry, InputError
from Testing.RegCore.loaders import data


@pytest.fixture(params=["nifti", "h5"])
def loader(request, tmp_path):
    """Six images with two labels each, from files: three pairs in an epoch."""
    data.write(tmp_path, "unpaired", request.param, channels=2, count=6)
    section = data.dataset("unpaired", request.param, tmp_path, labeled=True, sample_label="all")
    return make_loader(section, "train")


def memory_loader(count: int = 14):
    """Pairs from memory, each image constant but for one voxel that tells it apart."""
    images = [np.zeros((3, 3, 3), np.float32) for _ in range(count)]
    for number, image in enumerate(images):
        image.flat[number % 27], image.flat[(number + 7) % 27] = 1, 0.5
    return images_from_volumes(images, image_shape=[3, 3, 3])


def assert_equal(first: list, second: list) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
            assert same, key


def test_a_batch_is_its_samples_side_by_side(loader):
    samples = loader.samples(3, seed=1)
    (first, second) = batches(loader, 3, 4, seed=1)
    assert first["fixed_image"].shape == (4, 1, 5, 6, 4) and second["fixed_image"].shape == (2, 1, 5, 6, 4)
    assert first["indices"].dtype == torch.int64 and first["indices"].shape == (4, 3)
    loaded = [loader.load(sample) for sample in samples]
    for number, sample in enumerate(loaded):
        batch, place = (first, number) if number < 4 else (second, number - 4)
        for key, value in sample.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(batch[key][place], value)
            elif key == "indices":
                assert batch[key][place].tolist() == value
            else:
                assert batch[key][place] == value
    assert isinstance(first["fixed_geometry"][0], Geometry)


@pytest.mark.parametrize("cache", [0, 2**20])
@pytest.mark.parametrize("shuffle", [0, 3])
def test_the_number_of_workers_changes_nothing(loader, shuffle, cache):
    found = []
    for workers in (0, 2):
        made = Batches(loader, 4, workers=workers, shuffle_buffer=shuffle, cache_bytes=cache)
        found.append([batch for epoch in (0, 1, 2) for batch in made.epoch(epoch, seed=5)])
        made.close()
    assert_equal(*found)
    assert len({tuple(b["indices"].flatten().tolist()) for b in found[0][:3]}) == 3


def test_spawned_workers_read_the_same(loader):
    made = Batches(loader, 4, workers=1, start_method="spawn", cache_bytes=2**20)
    first, second = list(made.epoch(0)), list(made.epoch(0))
    made.close()
    assert_equal(first, list(batches(loader, 0, 4)))
    assert_equal(first, second)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_an_epoch_can_be_taken_up_where_it_was_left(loader, stop, workers):
    made = Batches(loader, 2, workers=workers, shuffle_buffer=4)
    whole = list(made.epoch(7, seed=2))
    start = whole[stop - 1]["next_sample"] if stop else 0
    assert_equal(whole[stop:], list(made.epoch(7, seed=2, start_at=start)))
    left = made.epoch(7, seed=2)
    next(left)
    left.close()  # broken off in the middle
    assert_equal(whole, list(made.epoch(7, seed=2)))
    made.close()


@pytest.mark.parametrize(
    "count, batch, world, last", [(14, 1, 2, False), (28, 3, 2, True), (28, 2, 3, False)]
)
def test_several_processes_together_see_what_one_with_a_larger_batch_sees(count, batch, world, last):
    loader = memory_loader(count)
    ranks = [
        Batches(loader, batch, rank=r, world_size=world, shuffle_buffer=5, drop_last=last)
        for r in range(world)
    ]
    one = Batches(loader, batch * world, shuffle_buffer=5, drop_last=last)
    for epoch in (0, 1):
        for whole, *parts in zip(one.epoch(epoch), *(r.epoch(epoch) for r in ranks), strict=True):
            there = [part for part in parts if part is not None]
            assert torch.equal(torch.cat([part["fixed_image"] for part in there]), whole["fixed_image"])
            assert {part["next_sample"] for part in there} == {whole["next_sample"]}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_dealing_shares_out_evenly(world, drop_last):
    samples = list(range(11))
    dealt = [deal(samples, 2, rank=r, world_size=world, drop_last=drop_last) for r in range(world)]
    assert len({len(steps) for steps in dealt}) == 1
    seen = [sample for steps in zip(*dealt, strict=True) for _, own in steps for sample in own]
    full = 11 // (2 * world) * 2 * world
    assert seen == samples[: full if drop_last else 11]
    sizes = [[len(own) for _, own in steps] for steps in zip(*dealt, strict=True)]
    assert all(max(step) - min(step) <= 1 for step in sizes)
    few = deal([0, 1, 2], 4, rank=0, world_size=2, drop_last=True)
    assert few == [(3, [0])]  # the only step is kept


def test_a_process_without_a_sample_in_the_last_step_gets_none():
    found = list(Batches(memory_loader(10), 2, rank=0, world_size=2).epoch(0))
    assert found[0] is not None and found[1] is None


def test_a_cache_reads_each_file_once_and_changes_nothing(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", channels=2, count=4)
    loader = make_loader(
        data.dataset("unpaired", "nifti", tmp_path, labeled=True, sample_label="all"), "train"
    )
    expected = [list(batches(loader, epoch, 2)) for epoch in (0, 1, 2)]
    made = Batches(loader, 2, workers=2, cache_bytes=2**20)
    assert_equal(expected[0], list(made.epoch(0)))
    shutil.rmtree(tmp_path)
    assert_equal(expected[1], list(made.epoch(1)))
    assert_equal(expected[2], list(made.epoch(2)))
    made.close()


def test_a_cache_takes_no_more_memory_than_it_may(tmp_path):
    data.write(tmp_path, "paired", "nifti", channels=2, count=4)
    loader = make_loader(data.dataset("paired", "nifti", tmp_path, labeled=True, sample_label="all"), "train")
    expected = list(batches(loader, 0, 2))
    for limit in (1, 1000, 5000, 10**9):
        made = Batches(loader, 2, cache_bytes=limit)
        shelves = VolumeCache(loader, limit).shelves.values()
        assert sum(shelf.values.nbytes for shelf in shelves) <= limit
        for _ in range(2):
            assert_equal(expected, list(made.epoch(0)))
    assert sum(shelf.values.nbytes for shelf in shelves) == 4 * 12 * (5 * 6 * 4 + 4 * 10 * 5)


@pytest.mark.skipif(not SHARED.is_dir(), reason="this system keeps shared memory elsewhere")
def test_a_cache_leaves_room_in_shared_memory(caplog, monkeypatch):
    from multiprocessing import get_context

    from RegCore.loaders import cache

    usage = shutil.disk_usage(SHARED)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=4 * 27 * 6))
    made = VolumeCache(memory_loader(), 2**20, get_context())
    assert len(made.shelves["image"].there) == 3 and "no room for more" in caplog.text


def test_no_random_numbers_of_others_are_used_up(loader):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(batches(loader, 0, 2, workers=1, shuffle_buffer=3))
    list(batches(loader, 0, 2))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_can_not_be_read_is_named_in_one_sentence(loader, workers):
    for path in [loader.fixed.images.places[i] for i in range(6)]:
        (path if not isinstance(path, tuple) else path[0].path).write_bytes(b"\0" * 400)
    made = Batches(loader, 2, workers=workers)
    with pytest.raises(InputError, match=r"^\S*images\S*: not an? [^\n]*$"):
        list(made.epoch(0))
    made.close()


class Deadly(Source):
    """Ends the process that reads it, if that is a worker."""

    def read(self, index):
        if parent_process() is not None:
            os._exit(1)
        return np.zeros((2, 2, 2)), Geometry((2, 2, 2), np.eye(4))


def test_a_worker_that_dies_is_told():
    side = RoleImages("image", Deadly({("a", "b"): 0, ("a", "c"): 1}, False, "images"), None, (2, 2, 2))
    loader = Unpaired(side, sample_label="all", seed=None)
    with pytest.raises(RuntimeError, match="a process that reads the data ended unexpectedly"):
        list(batches(loader, 0, 1, workers=1))


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but it is 0"),
        ({"workers": -1}, "workers must be a whole number of at least 0, but it is -1"),
        ({"shuffle_buffer": 1.5}, "shuffle_buffer must be a whole number of at least 0, but it is 1.5"),
        ({"rank": 2, "world_size": 2}, "rank must be less than world_size 2, but it is 2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        Batches(memory_loader(), **options)
