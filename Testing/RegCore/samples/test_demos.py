"""Data of the demos: structure of the real ones, the same each time, different patients in all parts."""

from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest

from RegCore.samples.datasets import Patient
from RegCore.samples.demos import DEMOS, PAIRS, make_pair, write_demo
from RegCore.space.geometry import InputError

LABELS = {"unpaired_ct_abdomen": 13, "paired_mrus_prostate": 4, "grouped_mr_heart": 3}
LABELS |= {"unpaired_mr_brain": 2, "paired_mrus_brain": 2}


@pytest.fixture(scope="module", autouse=True)
def few_folds():
    """Three of nine folds and more are enough here."""
    before = dict(DEMOS)
    DEMOS.update({name: replace(d, parts=dict(list(d.parts.items())[:3])) for name, d in DEMOS.items()})
    yield before
    DEMOS.update(before)


@pytest.fixture(scope="module")
def written(tmp_path_factory, few_folds):
    folder = tmp_path_factory.mktemp("demos")
    return folder, {name: write_demo(name, folder, patients=1) for name in DEMOS}


@pytest.mark.parametrize("name", DEMOS)
def test_all_parts_are_there_with_all_labels(written, name):
    folder, files = written[0] / "demos" / name / "dataset", written[1][name]
    assert {path.name for path in folder.iterdir()} == set(DEMOS[name].parts)
    assert files and all(path.is_file() and folder in path.parents for path in files)
    count = LABELS.get(name, 1)
    for path in files:
        if "labels" in str(path.relative_to(folder)):
            arrays = voxels(path)
            assert all(array.shape[3:] == ((count,) if count > 1 else ()) for array in arrays)
            assert all(array.any((0, 1, 2)).all() and array.max() == 1 for array in arrays)


def voxels(path):
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return [file[key][()] for key in file]
    return [np.asarray(nibabel.load(path).dataobj)]


@pytest.mark.parametrize("name", ["unpaired_mr_brain", "unpaired_us_prostate_cv"])
def test_the_parts_hold_different_patients_and_come_out_the_same_again(written, name, tmp_path):
    again = write_demo(name, tmp_path, patients=1)
    images = [voxels(path)[0] for path in again if "images" in path.parts or path.stem == "images"]
    before = [voxels(path)[0] for path in written[1][name] if "images" in path.parts or path.stem == "images"]
    assert len(images) == len(DEMOS[name].parts)
    for one, two in zip(images, before, strict=True):
        np.testing.assert_array_equal(one, two)
    assert len({image.tobytes() for image in images}) == len(images)


def test_visits_show_other_sequences_and_masks_are_images():
    heart = DEMOS["grouped_mr_heart"]
    patient = Patient(0, 0, heart.variation_mm)
    blood = []
    for visit, scan in enumerate(heart.scans):
        image, labels = patient.scan(scan, visit, 0.0)
        blood.append(float(np.median(image.array[labels.array[..., 0] > 0])))
    assert blood[0] > 1.5 * blood[1] > 1.5 * 1.5 * blood[2]
    masks = DEMOS["grouped_mask_prostate_longitudinal"].scans[0]
    image, labels = patient.scan(masks)
    np.testing.assert_array_equal(image.array > 0, labels.array > 0)


def test_lungs_are_smaller_and_denser_breathed_out():
    demo = DEMOS["paired_ct_lung"]
    full, empty = (Patient(0, 0, demo.variation_mm).scan(scan) for scan in demo.scans)
    volumes = [int(labels.array.sum()) for _, labels in (full, empty)]
    assert 0.6 < volumes[1] / volumes[0] < 0.95
    density = [float(np.median(image.array[labels.array > 0])) for image, labels in (full, empty)]
    assert density[0] + 50 < density[1]


def test_the_pairs_without_training_are_what_they_say(tmp_path):
    for name in PAIRS:
        files = write_demo(name, tmp_path)
        pair = make_pair(name)
        assert {path.name for path in files} == {f"{part}.nii.gz" for part in pair}
        for path in files:
            np.testing.assert_array_equal(voxels(path)[0], pair[path.name.removesuffix(".nii.gz")].array)
        fixed, moving = (set(np.unique(pair[f"{side}_label"].array)) for side in ("fixed", "moving"))
        assert fixed == moving == ({0, 1, 2} if name == PAIRS[0] else {0, 1})
    head = make_pair(PAIRS[0])
    centres = [
        head[f"{side}_label"].geometry.to_world(np.argwhere(head[f"{side}_label"].array == 1).mean(0))
        for side in ("fixed", "moving")
    ]
    assert 5 < np.linalg.norm(centres[0] - centres[1]) < 25
    with pytest.raises(InputError, match="not 'classical'"):
        make_pair("classical")


def test_an_unknown_demo_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean unpaired_ct_lung"):
        write_demo("unpared_ct_lung", tmp_path)
