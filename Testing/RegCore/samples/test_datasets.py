"""Made-up data sets: what they hold, that they repeat, that loaders and trainers can use them."""

import logging
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import yaml
from scipy.stats import spearmanr

from RegCore.loaders import make_loader
from RegCore.samples import datasets
from RegCore.samples.datasets import (
    EXAMPLES,
    FORMATS,
    KINDS,
    Patient,
    ScanProtocol,
    make_cases,
    write_dataset,
    write_examples,
)
from RegCore.space.geometry import InputError
from Testing.paths import DEEPREG

SMALL, FIXED = (
    ScanProtocol(shape=(20, 17, 14)),
    ScanProtocol("us", (18, 15, 16), (200, 180, 170), (10, -10, -20)),
)


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_same_numbers_give_the_same_patient_and_others_give_others():
    first, again, other = (Patient(seed, 4, 8.0).scan(SMALL) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.array, two.array) and one.geometry == two.geometry
    assert not np.array_equal(first[1].array, other[1].array)
    assert not np.array_equal(first[0].array, Patient(0, 5, 8.0).scan(SMALL)[0].array)


def test_labels_are_binary_channels_and_none_is_empty():
    for number in range(4):
        image, labels = Patient(0, number, 8.0).scan(SMALL)
        assert image.array.dtype == np.int16 and labels.array.shape == (*SMALL.shape, 3)
        assert set(np.unique(labels.array)) == {0, 1} and labels.array.any((0, 1, 2)).all()
        assert image.geometry == labels.geometry == SMALL.geometry
    assert Patient(0, 0, 8.0).scan(ScanProtocol(shape=(9, 8, 7), labels=(4,)))[1].array.shape == (9, 8, 7)
    assert Patient(0, 0, 8.0).scan(ScanProtocol(shape=(9, 8, 7), labels=()))[1] is None


def test_the_grid_covers_the_part_of_the_body_that_is_asked_for():
    grid = FIXED.geometry
    np.testing.assert_allclose(grid.centre, FIXED.centre_mm)
    np.testing.assert_allclose(grid.spacing * grid.shape, FIXED.extent_mm)


def test_visits_and_modalities_show_the_same_patient_moved_a_little():
    whole = {"shape": (40, 34, 30), "labels": (4,)}
    patient, other = Patient(0, 1, 8.0), Patient(0, 2, 8.0)
    still, again, moved = (
        patient.scan(ScanProtocol(**whole), visit, mm) for visit, mm in ((0, 0.0), (1, 0.0), (1, 6.0))
    )
    assert np.array_equal(still[1].array, again[1].array) and not np.array_equal(
        still[0].array, again[0].array
    )
    assert 0.6 < dice(still[1].array > 0, moved[1].array > 0) < 0.99
    assert dice(still[1].array > 0, other.scan(ScanProtocol(**whole))[1].array > 0) < 0.9
    echo = patient.scan(ScanProtocol("us", **whole))
    assert np.array_equal(echo[1].array, still[1].array) and echo[0].array.dtype == np.uint8
    body = still[0].array > 60
    assert abs(spearmanr(echo[0].array[body], still[0].array[body])[0]) < 0.8  # another modality indeed
    ct = patient.scan(ScanProtocol("ct", **whole))[0].array
    assert ct.min() < -900 and np.array_equal(
        patient.scan(ScanProtocol("ct", **whole))[1].array, still[1].array
    )


def test_masks_are_the_structures_themselves():
    image, labels = Patient(0, 0, 8.0).scan(ScanProtocol("mask", (20, 17, 14), labels=(3, 4)))
    np.testing.assert_array_equal(image.array, 255 * labels.array.any(-1))


def test_patients_vary_as_much_as_asked_and_large_displacements_are_made_smaller():
    fields = [datasets._displacement(mm, (0, 0)) for mm in (2.0, 8.0, 200.0)]
    lengths = [np.linalg.norm(field.mm, axis=-1).mean() for field in fields]
    assert lengths[0] < lengths[1] < lengths[2]
    assert min(field.jacobian_determinant().min() for field in fields) > 0
    assert datasets._displacement(0.0, (0, 0)) is None


PARTS = {
    "paired": {"moving_images", "moving_labels", "fixed_images", "fixed_labels"},
    "unpaired": {"images", "labels"},
    "grouped": {"images", "labels"},
}


@pytest.fixture(scope="module")
def cases():
    return {kind: make_cases(kind, SMALL, FIXED, count=2, first=3, visits=2) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_files_lie_as_deepreg_wants_them(cases, kind, tmp_path):
    written = write_dataset(tmp_path, cases[kind])
    names = ["case000003", "case000004"]
    below = [f"{name}.nii.gz" for name in names]
    if kind == "grouped":
        below = [f"group{n // 2 + 1}/case{6 + n:06d}.nii.gz" for n in range(4)]
    expected = {f"{part}/{name}" for part in PARTS[kind] for name in below}
    assert {path.relative_to(tmp_path).as_posix() for path in written} == expected
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.nii.gz")} == expected
    for path in written:
        array = nibabel.load(path).get_fdata()
        fixed = "fixed" in path.parts[-2]
        assert array.shape[:3] == (FIXED if fixed else SMALL).shape
        assert "labels" not in str(path.relative_to(tmp_path)) or (array.min() == 0 and array.max() == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_h5_holds_the_same_under_the_keys_of_deepreg(cases, kind, tmp_path):
    nifti, h5 = (write_dataset(tmp_path / form, cases[kind], form) for form in FORMATS)
    assert {path.name for path in h5} == {f"{part}.h5" for part in PARTS[kind]}
    keys = (
        [f"group-{g}-{v}" for g in (1, 2) for v in (1, 2)]
        if kind == "grouped"
        else ["case000003", "case000004"]
    )
    for path in h5:
        with h5py.File(path) as file:
            assert list(file) == keys
            stored = [file[key][()] for key in keys]
        files = [other for other in nifti if path.stem in other.parts]
        for other, array in zip(files, stored, strict=True):
            np.testing.assert_array_equal(nibabel.load(other).get_fdata(), array)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_the_loaders_take_them(cases, kind, form, tmp_path):
    write_dataset(tmp_path, cases[kind], form)
    shapes = {"image_shape": [8, 8, 8]}
    if kind == "paired":
        shapes = {"moving_image_shape": [8, 8, 8], "fixed_image_shape": [8, 9, 7]}
    group = {"intra_group_prob": 1, "intra_group_option": "forward", "sample_image_in_group": True}
    data = {"type": kind, "test": {"dir": str(tmp_path), "format": form, "labeled": True}, **shapes}
    loader = make_loader(data | (group if kind == "grouped" else {}), "test")
    sample = loader.load(loader.samples(0)[0])
    assert sample["fixed_image"].shape[1:] == ((8, 9, 7) if kind == "paired" else (8, 8, 8))
    assert sample["fixed_label"].shape[0] == 1


BAD = {
    "data sets are paired, unpaired, grouped, not 'pairs'": lambda: make_cases("pairs", SMALL, count=1),
    "written as nifti or h5, not as 'png'": lambda: write_dataset("nowhere", [], "png"),
    "a scan of the torso is made as one of ct, mr, us, mask, not as 'pet'": lambda: ScanProtocol("pet"),
    "structures 1 to 9 of the torso can be segmented, not [0, 12]": lambda: ScanProtocol(labels=(0, 4, 12)),
    "not none": lambda: ScanProtocol("mask", labels=()),
}


@pytest.mark.parametrize("sentence", BAD)
def test_what_can_not_be_made_is_refused(sentence):
    with pytest.raises(InputError) as error:
        BAD[sentence]()
    assert sentence in str(error.value)


def test_a_folder_that_can_not_be_written_to_is_named(tmp_path, cases):
    (tmp_path / "images").write_text("a file")
    for form in FORMATS:
        with pytest.raises(InputError, match="can't be written"):
            write_dataset(tmp_path / "images", cases["unpaired"], form)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder, patients=1)
    return folder


def yamls(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in Path(folder).rglob("*.yaml")}


def test_the_examples_are_the_packaged_configurations_and_data_for_them(examples):
    assert yamls(examples) == yamls(EXAMPLES) and len(yamls(examples)) == 50
    expected = {
        f"data/test/{form}/{kind}/{split}"
        for form in FORMATS
        for kind in KINDS
        for split in ("train", "test")
    }
    made = {path.relative_to(examples).as_posix() for path in examples.glob("data/test/*/*/*")}
    assert made == expected
    for name, text in yamls(examples / "config").items():
        data = yaml.safe_load(text).get("dataset", {})
        if "v011" in name:
            continue
        for split in ("train", "valid", "test"):
            folders = (data.get(split) or {}).get("dir", [])
            for folder in [folders] if isinstance(folders, str) else folders:
                assert (examples / folder).is_dir(), f"{name} names {folder}"


def test_a_configuration_that_was_changed_stays(examples, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(datasets, "make_cases", lambda *_, **__: [])
    write_examples(tmp_path)
    mine = tmp_path / "config" / "unpaired_labeled_ddf.yaml"
    mine.write_text("mine")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "RegCore"):
        write_examples(tmp_path)
    assert mine.read_text() == "mine"
    assert [record.args[0] for record in caplog.records] == [mine]


def test_the_examples_say_what_those_of_deepreg_say():
    ours = {Path(name).name: yaml.safe_load(text) for name, text in yamls(EXAMPLES).items()}
    ours = {
        name: text for name, text in ours.items() if not name.startswith(("small", "run"))
    }  # our additions
    theirs = {path.name: yaml.safe_load(path.read_text()) for path in DEEPREG.rglob("*.yaml")}
    theirs = {name: text for name, text in theirs.items() if name in ours}
    assert len(theirs) == len(ours)
    for name, text in theirs.items():
        text["train"] = text.get("train") or {}
        text["train"].get("preprocess", {}).setdefault("num_parallel_calls", -1)
        ours[name]["train"] = ours[name].get("train") or {}
        ours[name]["train"].get("preprocess", {}).setdefault("num_parallel_calls", -1)
        ours[name].get("dataset", {}).pop("intensity", None)  # the window of the demos with CT is an addition
        assert ours[name] == text, name


def test_a_patient_of_a_pair_lies_elsewhere_in_the_fixed_image():
    still, moved = (
        make_cases("paired", ScanProtocol(), ScanProtocol(), count=3, motion_mm=0.0, shift_mm=shift)
        for shift in (0.0, 6.0)
    )
    for one, other in zip(still, moved, strict=True):
        assert np.array_equal(one.volumes["moving_labels"].array, other.volumes["moving_labels"].array)
        assert np.array_equal(one.volumes["fixed_labels"].array, one.volumes["moving_labels"].array)
        places = [np.argwhere(case.volumes["fixed_labels"].array[..., 0]).mean(0) for case in (one, other)]
        distance = np.linalg.norm((places[1] - places[0]) * ScanProtocol().geometry.spacing)
        assert 2 < distance < 25
