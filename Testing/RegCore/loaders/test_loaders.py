"""Every kind of loader, from each format: what a sample holds, where it lies, which ones there are."""

import pickle

import h5py
import nibabel
import numpy as np
import pytest

from RegCore.loaders import FILE_LOADERS, LOADERS, Source, loader_keys, make_loader
from RegCore.loaders.intensity import MinMax
from RegCore.space.geometry import Geometry
from Testing.RegCore.grids import GRIDS, affine
from Testing.RegCore.loaders import data


def expected(arrays: dict, role: str, kind: str, name: str, shape, channel: int) -> dict:
    """Image and label of one side of a sample, computed by SciPy from what was written."""
    prefix = f"{role}_" if kind == "paired" else ""
    found = {f"{role}_image": data.half_pixel(data.scaled(arrays[f"{prefix}images", name]), shape)}
    if channel >= 0:
        array = arrays[f"{prefix}labels", name]
        found[f"{role}_label"] = data.half_pixel(array if array.ndim == 3 else array[..., channel], shape)
    return found


@pytest.mark.parametrize("channels", [0, 1, 3], ids=["unlabelled", "one label", "three labels"])
@pytest.mark.parametrize("form", data.FORMATS)
@pytest.mark.parametrize("kind", data.KINDS)
def test_a_sample_holds_what_its_files_hold(kind, form, channels, tmp_path):
    arrays = data.write(tmp_path, kind, form, channels=channels)
    loader = make_loader(
        data.dataset(kind, form, tmp_path, labeled=channels > 0, sample_label="all"), "train"
    )
    samples = loader.samples(epoch=3, seed=8)
    assert len(samples) == len(loader) * max(channels, 1)
    for sample in samples:
        loaded = loader.load(sample)
        assert len(loaded["indices"]) == loader.num_indices and loaded["indices"][-1] == sample.label
        assert (sample.label >= 0) == (channels > 0)
        for role in ("fixed", "moving"):
            shape = getattr(loader, f"{role}_image_shape")
            name = loaded[f"{role}_name"]
            for key, array in expected(arrays, role, kind, name, shape, sample.label).items():
                assert loaded[key].shape == (1, *shape)
                np.testing.assert_allclose(loaded[key][0].numpy(), array, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("form", data.FORMATS)
@pytest.mark.parametrize("kind", data.KINDS)
def test_several_folders_are_one_data_set(kind, form, tmp_path):
    folders = [tmp_path / "b", tmp_path / "a"]
    arrays = {str(f): data.write(f, kind, form, channels=2, seed=n) for n, f in enumerate(folders)}
    loader = make_loader(data.dataset(kind, form, folders, labeled=True), "train")
    names = loader.fixed.images.names
    assert names == sorted((f, *(n.split("/"))) for f, found in arrays.items() for n in data.names(kind))
    assert len(names) == 2 * len(data.names(kind))
    for index, (folder, *rest) in enumerate(names):
        array = arrays[folder]["fixed_images" if kind == "paired" else "images", "/".join(rest)]
        np.testing.assert_array_equal(loader.fixed.images.read(index)[0], array)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("shape", [(3, 4, 2), (7, 8, 9), (1, 3, 5)])
def test_a_resized_image_stays_where_it_is_in_space(name, shape, tmp_path):
    """A ramp along a direction of space has, at each voxel of the network's grid, the value of that place."""
    grid, direction = GRIDS[name], np.array([0.3, -1.1, 0.7])
    ramp = grid.world_grid() @ direction
    for side in ("fixed_images", "moving_images"):
        data.put(tmp_path, "nifti", side, "a", ramp, grid.affine)
    shapes = {"fixed_image_shape": list(shape), "moving_image_shape": list(shape)}
    loader = make_loader(data.dataset("paired", "nifti", tmp_path, labeled=False, **shapes), "train")
    loaded = loader.load(loader.samples()[0])
    places = loaded["fixed_geometry"].world_grid()
    values = loaded["fixed_image"][0].numpy() * np.ptp(ramp) + ramp.min()
    np.testing.assert_allclose(values, places @ direction, atol=1e-3)
    assert loaded["moving_file_geometry"].is_close(grid, 1e-3)


def test_h5_files_may_say_where_their_volumes_lie(tmp_path):
    data.write(tmp_path, "unpaired", "h5")
    loader = make_loader(data.dataset("unpaired", "h5", tmp_path, labeled=False), "train")
    assert loader.fixed.grids[1] == Geometry(data.SHAPE, np.eye(4))
    with h5py.File(tmp_path / "images.h5", "a") as file:
        file["obs1"].attrs["affine"] = affine()
    loader = make_loader(data.dataset("unpaired", "h5", tmp_path, labeled=False), "train")
    assert loader.fixed.grids[1] == Geometry(data.SHAPE, affine())


def test_the_directions_of_axes_are_known_if_all_images_of_a_side_agree(tmp_path):
    lps = np.diag([-1.0, -2.0, 3.0, 1.0])
    for side, matrix in (("fixed_images", affine()), ("moving_images", lps)):
        for name in ("a", "b"):
            data.put(tmp_path, "nifti", side, name, data.image(1), matrix)
    section = data.dataset("paired", "nifti", tmp_path, labeled=False)
    assert make_loader(section, "train").axes == ("".join(nibabel.aff2axcodes(affine())), "LPS")
    data.put(tmp_path, "nifti", "moving_images", "b", data.image(1), np.diag([1.0, -2.0, 3.0, 1.0]))
    assert make_loader(section | {"space": "file"}, "train").axes is None
    assert make_loader(section, "train").axes[1] in ("LPS", "RPS")  # another direction, made the same
    data.put(tmp_path, "nifti", "moving_images", "b", data.image(1), np.eye(4))  # no place at all
    assert make_loader(section, "train").axes is None


def test_a_sample_can_be_had_as_its_files_hold_it(tmp_path):
    arrays = data.write(tmp_path, "paired", "nifti", channels=2)
    soft = np.random.default_rng(0).random((3, 4, 5, 2))
    data.put(tmp_path, "nifti", "moving_labels", "obs1", soft)
    loader = make_loader(data.dataset("paired", "nifti", tmp_path, labeled=True, sample_label="all"), "test")
    assert loader is None
    loader = make_loader(data.dataset("paired", "nifti", tmp_path, labeled=True, sample_label="all"), "train")
    sample = next(s for s in loader.samples() if s.moving == 1 and s.label == 1)
    volumes = loader.volumes(sample)
    np.testing.assert_array_equal(volumes["fixed_image"].array, arrays["fixed_images", "obs1"])
    np.testing.assert_array_equal(volumes["fixed_label"].array, arrays["fixed_labels", "obs1"][..., 1])
    assert volumes["fixed_label"].kind == "labels" and volumes["fixed_label"].array.dtype == np.uint8
    assert volumes["fixed_image"].geometry.is_close(Geometry(data.SHAPE, affine()))
    label = volumes["moving_label"]
    assert label.kind == "image"
    np.testing.assert_allclose(label.array, soft[..., 1], atol=1e-7)
    for corner in (np.full(3, -0.5), np.array([7, 8, 9]) - 0.5):  # another shape, but the box of its image
        inside = corner if corner[0] < 0 else np.array([3, 4, 5]) - 0.5
        place = volumes["moving_image"].geometry.to_world(corner)
        np.testing.assert_allclose(label.geometry.to_world(inside), place, atol=1e-4)


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_other_formats_of_files_are_read_as_well(ending, tmp_path):
    from RegCore.io import save
    from RegCore.space.volume import Volume

    data.write(tmp_path, "unpaired", "nifti", channels=2)
    grid = GRIDS["left-handed"]
    array, labels = data.image(5), data.label(6, 2)
    save(Volume(array, grid), tmp_path / "images" / f"z{ending}")
    save(Volume(labels, grid), tmp_path / "labels" / f"z{ending}")
    loader = make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=True), "train")
    assert loader.fixed.channels == [2] * 5 and loader.fixed.grids[4].is_close(grid)
    np.testing.assert_array_equal(loader.fixed.images.read(4)[0], array)
    np.testing.assert_array_equal(loader.fixed.labels.read(4)[0], labels)


def test_hidden_files_are_passed_over_and_linked_folders_are_not(tmp_path):
    data.write(tmp_path / "far", "unpaired", "nifti", count=2)
    data.write(tmp_path / "near", "unpaired", "nifti", count=2)
    (tmp_path / "near" / "images" / "._obs0.nii.gz").write_bytes(b"Mac OS")
    (tmp_path / "near" / "images" / "more").symlink_to(tmp_path / "far" / "images")
    loader = make_loader(data.dataset("unpaired", "nifti", tmp_path / "near", labeled=False), "train")
    assert [name[1] for name in loader.fixed.images.names] == ["more/obs0", "more/obs1", "obs0", "obs1"]


def test_groups_of_h5_files_are_counted_by_number_unless_deepreg_is_asked_for(tmp_path):
    for number in (1, 2, 10):
        data.put(tmp_path, "h5", "images", f"1/{number}", data.image(number))
    section = data.dataset("grouped", "h5", tmp_path, labeled=False)
    ours, theirs = (make_loader(section, "train", deepreg=switch) for switch in (False, True))
    assert [name[-1] for name in ours.fixed.images.names] == ["1", "2", "10"]
    assert [name[-1] for name in theirs.fixed.images.names] == ["1", "10", "2"]


def test_splits_differ_in_their_defaults_and_a_value_holds_for_all(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", channels=3)
    section = data.dataset("unpaired", "nifti", tmp_path, labeled=True)
    section |= {"valid": section["train"], "test": section["train"]}
    made = {split: make_loader(section, split) for split in ("train", "valid", "test")}
    assert {k: (v.seed, v.sample_label) for k, v in made.items()} == {
        "train": (None, "sample"),
        "valid": (0, "all"),
        "test": (0, "all"),
    }
    section |= {"seed": 7, "sample_label": "sample"}
    assert all((v.seed, v.sample_label) == (7, "sample") for v in (make_loader(section, s) for s in made))


def test_keys_that_say_nothing_to_the_loader_are_passed_over(tmp_path):
    data.write(tmp_path, "unpaired", "nifti")
    section = data.dataset("unpaired", "nifti", tmp_path, labeled=False, cache=1.5, workers=2)
    section |= {"moving_image_shape": None, "sample_label": None, "skip_bad_files": False}
    assert make_loader(section, "train").sample_label == "sample"


@pytest.mark.parametrize("valid", [None, {}, {"dir": None}, {"dir": "", "format": "nifti"}])
def test_a_split_without_a_folder_is_no_loader(valid):
    assert make_loader({"type": "paired", "valid": valid}, "valid") is None


def test_without_a_seed_the_order_follows_from_run_and_epoch(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", count=12, channels=4)
    loader = make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=True), "train")
    again = pickle.loads(pickle.dumps(loader))
    assert loader.samples(4, seed=1) == again.samples(4, seed=1)
    orders = [tuple(s[:2] for s in loader.samples(epoch, seed)) for epoch in (0, 1) for seed in (0, 1)]
    assert len(set(orders)) == 4
    seeded = make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=True, seed=5), "train")
    assert seeded.sample_indices(0, 1) == seeded.sample_indices(9, 2)
    drawn = {tuple(s.label for s in seeded.samples(epoch)) for epoch in range(5)}
    assert len(drawn) > 1  # labels are drawn anew in each epoch, or some would never be seen


def test_every_label_is_drawn(tmp_path):
    data.write(tmp_path, "unpaired", "nifti", channels=4)
    loader = make_loader(data.dataset("unpaired", "nifti", tmp_path, labeled=True), "train")
    drawn = [sample.label for epoch in range(200) for sample in loader.samples(epoch)]
    counts = np.bincount(drawn)
    assert len(counts) == 4 and counts.min() > 60  # 400 draws, 100 expected of each


def test_a_loader_and_a_file_loader_of_one_s_own(tmp_path, monkeypatch):
    class Ramps(Source):
        def __init__(self, folders, name, grouped=False):
            super().__init__({(folders[0], str(n)): n for n in range(3)}, grouped, name)

        def read(self, index):
            ramp = np.arange(24.0).reshape(2, 3, 4)
            return (ramp + self.places[index]) / (24 if "label" in self.title else 1), Geometry(
                ramp.shape, np.eye(4)
            )

    def stepwise(open_files, *, factor=1, **options):
        return LOADERS["unpaired"](open_files, image_shape=[2 * factor] * 3, **options)

    monkeypatch.setitem(FILE_LOADERS, "ramps", Ramps)
    monkeypatch.setitem(LOADERS, "stepwise", stepwise)
    section = {"type": "stepwise", "factor": 2, "train": {"dir": str(tmp_path), "format": "ramps"}}
    section["train"]["labeled"] = False
    loader = make_loader(section, "train")
    assert loader.fixed_image_shape == (4, 4, 4) and len(loader.samples()) == 1
    assert loader_keys(LOADERS["stepwise"]) == {"factor": False}
    assert loader_keys(LOADERS["paired"]) == {"fixed_image_shape": True, "moving_image_shape": True}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float16, np.float32, np.float64, bool])
def test_normalised_images_go_from_0_to_1_in_any_type(dtype):
    array = (np.random.default_rng(0).random(data.SHAPE) * 100 > 30) if dtype is bool else None
    array = array if array is not None else (np.random.default_rng(0).random(data.SHAPE) * 100).astype(dtype)
    out = MinMax()(array, "a")
    assert out.dtype == np.float32 and (out.min(), out.max()) == (0, 1)
    np.testing.assert_allclose(out, data.scaled(array), atol=1e-6)


def test_normalised_images_keep_small_differences_and_bear_huge_ones():
    small = 1e6 + np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(MinMax()(small, "a"), np.arange(24).reshape(2, 3, 4) / 23, atol=1e-6)
    huge = np.array([[[-3e38, 0, 3e38]]], np.float32)
    np.testing.assert_allclose(MinMax()(huge, "a")[0, 0], [0, 0.5, 1])
    assert not MinMax()(np.full((2, 2, 2), 7.0), "a").any()
