"""Label maps as segmentation programs write them: their structures become the labels, with their names."""

import logging
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.io import save
from RegCore.loaders import make_loader
from RegCore.loaders.images import resized
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Segment, Volume, reoriented
from Testing.RegCore.grids import affine
from Testing.RegCore.loaders import data

GRID = Geometry((7, 8, 9), affine((1.4, 0.3, -0.2), (-0.2, 1.1, 0.4), (5.0, -6.0, 7.0)))
SHAPE = [6, 5, 8]


def label_map(seed, values=(0, 1, 3, 7), dtype=np.int16):
    return np.random.default_rng(seed).choice(values, GRID.shape).astype(dtype)


def write(folder, maps, *, images=None):
    """Images and label maps: arrays as NIfTI, volumes as .seg.nrrd."""
    for number, labels in enumerate(maps):
        name = f"obs{number}"
        data.put(folder, "nifti", "images", name, data.image(number, GRID.shape), GRID.affine)
        if isinstance(labels, Volume):
            (folder / "labels").mkdir(exist_ok=True)
            save(labels, folder / "labels" / f"{name}.seg.nrrd")
        else:
            data.put(folder, "nifti", "labels", name, labels, GRID.affine)


def loader(folder, labels=None, *, split="test", form="nifti", **options):
    dataset = {"type": "unpaired", "image_shape": SHAPE, "sample_label": "all", "labels": labels}
    dataset |= {split: {"dir": str(folder), "format": form, "labeled": True}}
    return make_loader(dataset, split, **options)


def expected(array, value):
    """A structure as the network gets it."""
    return resized((array == value).astype(np.float32), SHAPE)


@pytest.mark.parametrize("labels", [None, "all"])
def test_structures_of_label_maps_are_the_labels(tmp_path, labels, caplog):
    maps = [label_map(n) for n in range(4)]
    maps[2][maps[2] == 3] = 0
    write(tmp_path, maps)
    with caplog.at_level(logging.INFO):
        made = loader(tmp_path, labels)
    assert made.structures == ["1", "3", "7"]
    assert "dataset.test: structures of 4 labels: 1 in 4, 3 in 3, 7 in 4" in caplog.text
    samples = made.samples()
    assert len(samples) == 3 + 2  # a structure that one of both lacks is no sample
    for sample in samples:
        found = made.load(sample)
        value = (1, 3, 7)[sample.label]
        assert (found["fixed_label"] == expected(maps[sample.fixed], value)).all()
        assert (found["moving_label"] == expected(maps[sample.moving], value)).all()
        whole = made.volumes(sample)["fixed_label"]
        assert whole.kind == "labels"
        np.testing.assert_array_equal(whole.array, maps[sample.fixed] == value)


@pytest.mark.parametrize("first", [(0,), (0, 1)], ids=["empty", "one structure"])
def test_a_first_file_that_could_be_a_mask_leaves_it_to_the_others(tmp_path, first):
    write(tmp_path, [label_map(0, first), label_map(1, first), label_map(2), label_map(3)])
    assert loader(tmp_path).structures == ["1", "3", "7"]


def test_files_that_can_not_be_read_are_not_called_empty(tmp_path):
    drawn = Volume(label_map(0, (0, 1)), GRID, "labels", (Segment(1, "liver"),))
    write(tmp_path, [drawn, drawn])
    for place in (tmp_path / "labels").iterdir():
        place.write_bytes(place.read_bytes().replace(b"LabelValue:=1", b"LabelValue:=x"))
    with pytest.raises(InputError, match=r"obs0.seg.nrrd: the NRRD field .*labelvalue"):
        loader(tmp_path, ["liver"])


def test_files_that_all_could_be_masks_are_masks(tmp_path):
    write(tmp_path, [label_map(0, (0,)), label_map(1, (0, 1))])
    assert loader(tmp_path).structures is None


def test_one_label_drawn_is_one_that_both_images_have(tmp_path):
    maps = [label_map(n, (0, 1, 2) if n % 2 else (0, 2, 5)) for n in range(4)]
    write(tmp_path, maps)
    dataset = {"type": "unpaired", "image_shape": SHAPE, "sample_label": "sample"}
    made = make_loader(dataset | {"test": {"dir": str(tmp_path), "format": "nifti", "labeled": True}}, "test")
    drawn = {sample for epoch in range(20) for sample in made.samples(epoch, seed=epoch)}
    for sample in drawn:
        value = int(made.structures[sample.label])
        assert value in maps[sample.fixed] and value in maps[sample.moving]
    assert {made.structures[sample.label] for sample in drawn} >= {"2"}


@pytest.mark.parametrize(("labels", "names"), [([7, 1], ["7", "1"]), (["3"], ["3"])])
def test_chosen_structures_are_the_labels_in_the_order_given(tmp_path, labels, names):
    maps = [label_map(n) for n in range(2)]
    write(tmp_path, maps)
    made = loader(tmp_path, labels)
    assert made.structures == names
    for sample in made.samples():
        value = int(names[sample.label])
        assert (made.load(sample)["moving_label"] == expected(maps[sample.moving], value)).all()


def test_masks_of_255_are_taken_as_they_are_meant(tmp_path):
    maps = [label_map(n, (0, 255), np.uint8) for n in range(2)]
    write(tmp_path, maps)
    made = loader(tmp_path)
    (sample,) = made.samples()
    assert made.structures == ["255"]
    assert (made.load(sample)["fixed_label"] == expected(maps[sample.fixed], 255)).all()


def test_label_maps_in_h5_files(tmp_path):
    maps = {f"obs{n}": label_map(n) for n in range(2)}
    for name, labels in maps.items():
        data.put(tmp_path, "h5", "images", name, data.image(1, GRID.shape))
        data.put(tmp_path, "h5", "labels", name, labels)
    made = loader(tmp_path, "all", form="h5")
    for sample in made.samples():
        value = (1, 3, 7)[sample.label]
        name = made.fixed.labels.names[sample.fixed][-1]
        assert (made.load(sample)["fixed_label"] == expected(maps[name], value)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_and_channels_are_labels_as_before(tmp_path, channels):
    data.write(tmp_path, "unpaired", "nifti", channels=channels)
    made = loader(tmp_path)
    assert made.structures is None
    assert {sample.label for sample in made.samples()} == set(range(channels))


# ---- segmentations of Slicer -------------------------------------------------------------------------------


def segmentation(seed, names, grid=GRID):
    """Structures under values that differ from file to file."""
    array = np.random.default_rng(seed).integers(0, len(names) + 1, grid.shape).astype(np.uint8)
    segments = tuple(Segment(n, name) for n, name in enumerate(names, start=1))
    return Volume(array, grid, "labels", segments)


def test_structures_of_slicer_are_those_of_one_name(tmp_path):
    maps = [segmentation(0, ["liver", "spleen"]), segmentation(1, ["spleen", "liver", "aorta"])]
    write(tmp_path, maps)
    made = loader(tmp_path)
    assert sorted(made.structures) == ["aorta", "liver", "spleen"]
    assert {made.structures[s.label] for s in made.samples()} == {"liver", "spleen"}
    for sample in made.samples():
        name = made.structures[sample.label]
        loaded = made.load(sample)
        for side, index in (("fixed", sample.fixed), ("moving", sample.moving)):
            (value,) = (s.label for s in maps[index].segments if s.name == name)
            assert (loaded[f"{side}_label"] == expected(maps[index].array, value)).all()
    assert loader(tmp_path, ["Spleen"]).structures == ["spleen"]


def test_overlapping_structures_of_slicer(tmp_path):
    channels = np.random.default_rng(3).integers(0, 2, (*GRID.shape, 2)).astype(np.uint8)
    volume = Volume(channels, GRID, "labels", (Segment(0, "gland"), Segment(1, "lesion")))
    write(tmp_path, [volume, segmentation(4, ["lesion", "gland"])])
    made = loader(tmp_path)
    assert made.structures == ["gland", "lesion"]
    for sample in made.samples():
        loaded = made.load(sample)
        side = "fixed" if sample.fixed == 0 else "moving"
        wanted = resized(channels[..., sample.label].astype(np.float32), SHAPE)
        assert (loaded[f"{side}_label"] == wanted).all()


def test_a_cropped_segmentation_lies_where_its_header_says(tmp_path):
    """Slicer may save no more than the box around the structures."""
    whole = np.zeros(GRID.shape, np.uint8)
    whole[2:5, 3:6, 1:8] = 1
    small = Volume(whole[2:5, 3:6, 1:8], GRID.cropped((2, 3, 1), (5, 6, 8)), "labels", (Segment(1, "node"),))
    write(tmp_path, [small, reoriented(small, "PIR")])
    made = loader(tmp_path)
    (sample,) = made.samples()
    loaded = made.load(sample)
    for side in ("fixed", "moving"):
        assert (loaded[f"{side}_label"] == expected(whole, 1)).all()
    reference = sitk.Resample(  # the file as SimpleITK places it
        sitk.ReadImage(str(tmp_path / "labels" / "obs0.seg.nrrd")),
        sitk.ReadImage(str(tmp_path / "images" / "obs0.nii.gz")),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(reference).T, whole)


# ---- what can't be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([2], "dataset.test: dataset.labels names 2, which is in none of the labels"),
        (["7", "livre"], "dataset.labels names 'livre', which is in none of the labels, there are 1, 3, 7"),
    ],
)
def test_a_structure_that_is_nowhere_is_told(tmp_path, labels, message):
    write(tmp_path, [label_map(n) for n in range(2)])
    with pytest.raises(InputError, match=re.escape(message)):
        loader(tmp_path, labels)


def test_files_that_are_no_label_maps_are_told_when_they_are_asked_for(tmp_path, caplog):
    soft = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    write(tmp_path, [label_map(0), soft, label_map(2), label_map(3)])
    with pytest.raises(InputError, match=r"obs1.nii.gz: a label map must hold whole numbers"):
        loader(tmp_path, "all")
    data.put(tmp_path, "nifti", "labels", "obs1", data.label(1, 2, GRID.shape), GRID.affine)
    with pytest.raises(InputError, match=r"obs1.nii.gz: .* 2 channels, .*: leave out dataset.labels"):
        loader(tmp_path, "all")
    dataset = {"type": "unpaired", "image_shape": SHAPE, "labels": "all", "skip_bad_files": True}
    dataset |= {"test": {"dir": str(tmp_path), "format": "nifti", "labeled": True}}
    made = make_loader(dataset, "test")
    assert "left out: " in caplog.text and len(made.fixed) == 3


def test_empty_label_maps_and_images_as_labels_are_told(tmp_path):
    write(tmp_path / "empty", [np.zeros(GRID.shape, np.int16)] * 2)
    with pytest.raises(InputError, match="the label maps are all empty"):
        loader(tmp_path / "empty", "all")
    many = np.arange(np.prod(GRID.shape), dtype=np.int16).reshape(GRID.shape)
    write(tmp_path / "many", [many] * 2)
    with pytest.raises(InputError, match="hold 503 values: are they images"):
        loader(tmp_path / "many")


def test_as_deepreg_a_label_map_is_refused(tmp_path):
    write(tmp_path, [label_map(n) for n in range(2)])
    made = loader(tmp_path, deepreg=True)
    assert made.structures is None
    with pytest.raises(InputError, match=r"from 0 to 7 \(dataset.labels: all takes"):
        made.load(made.samples()[0])
    assert loader(tmp_path, "all", deepreg=True).structures == ["1", "3", "7"]


def test_worker_processes_and_caches_give_the_same(tmp_path):
    from RegCore.loaders import Batches

    write(tmp_path, [label_map(n) for n in range(4)])
    made = loader(tmp_path)
    plain = list(Batches(made, 2).epoch())
    worked = Batches(loader(tmp_path), 2, workers=1, cache_bytes=10**6, start_method="spawn")
    for one, other in zip(plain, worked.epoch(), strict=True):
        assert (one["fixed_label"] == other["fixed_label"]).all()
    worked.close()


def test_numbers_written_by_nibabel_with_a_scale_are_whole(tmp_path):
    maps = [label_map(n) for n in range(2)]
    write(tmp_path, maps)
    image = nibabel.Nifti1Image(maps[0].astype(np.float64), GRID.affine)
    nibabel.save(image, tmp_path / "labels" / "obs0.nii.gz")
    assert loader(tmp_path).structures == ["1", "3", "7"]
