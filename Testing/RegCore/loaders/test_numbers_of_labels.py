"""Groups with different numbers of labels are fine unless groups meet; labels hold values from 0 to 1."""

import re

import numpy as np
import pytest

from RegCore.loaders import make_loader
from RegCore.loaders.sources import check_label
from RegCore.space.geometry import InputError
from Testing.RegCore.loaders import data

FORMATS = pytest.mark.parametrize("form", data.FORMATS)


def groups(folder, form: str, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """Write images named group/image with so many labels each; returns the labels."""
    labels = {}
    for number, (name, channels) in enumerate(counts.items()):
        labels[name] = data.label(number, channels)
        data.put(folder, form, "images", name, data.image(number + 100))
        data.put(folder, form, "labels", name, labels[name])
    return labels


def loader_of(folder, form: str, **options):
    sampling = {"sample_label": "all", "seed": 0, "sample_image_in_group": False, **options}
    return make_loader(data.dataset("grouped", form, folder, labeled=True, **sampling), "train")


@FORMATS
def test_each_group_may_have_its_own_number_within_groups(form, tmp_path):
    counts = {"1/1": 2, "1/2": 2, "2/1": 3, "2/2": 3, "2/3": 3}
    labels = groups(tmp_path, form, counts)
    loader = loader_of(tmp_path, form, intra_group_prob=1, intra_group_option="forward")
    samples = loader.samples()
    assert len(loader) == 1 + 3 and len(samples) == 1 * 2 + 3 * 3
    for sample in samples:
        group, earlier, again, later = sample.indices
        assert group == again and earlier < later
        held = loader.volumes(sample)
        for role, image in (("moving", earlier), ("fixed", later)):
            expected = labels[f"{group + 1}/{image + 1}"][..., sample.label]
            np.testing.assert_array_equal(held[f"{role}_label"].array > 0, expected > 0)
    drawn = {"1": set(), "2": set()}
    sampled = loader_of(
        tmp_path, form, intra_group_prob=1, intra_group_option="forward", sample_label="sample"
    )
    for epoch in range(20):
        chosen = sampled.samples(epoch)
        assert len(chosen) == 4
        for sample in chosen:
            drawn[str(sample.indices[0] + 1)].add(sample.label)
    assert drawn == {"1": {0, 1}, "2": {0, 1, 2}}


@FORMATS
@pytest.mark.parametrize(("probability", "sampled"), [(0, False), (0, True), (0.5, True)])
def test_all_must_have_the_same_number_where_groups_meet(form, probability, sampled, tmp_path):
    counts = {"1/1": 2, "1/2": 2, "2/1": 3, "2/2": 3}
    groups(tmp_path, form, counts)
    options = {"intra_group_prob": probability, "sample_image_in_group": sampled}
    with pytest.raises(InputError) as caught:
        loader_of(tmp_path, form, intra_group_option="forward", **options)
    assert_names(str(caught.value), form, ("1", "1", 2), ("2", "1", 3))


@FORMATS
@pytest.mark.parametrize("odd", ["1/2", "2/2", "2/3"])
def test_a_group_must_agree_in_itself(form, odd, tmp_path):
    counts = {"1/1": 2, "1/2": 2, "2/1": 3, "2/2": 3, "2/3": 3} | {odd: 4}
    groups(tmp_path, form, counts)
    with pytest.raises(InputError) as caught:
        loader_of(tmp_path, form, intra_group_prob=1, intra_group_option="forward")
    group, image = odd.split("/")
    assert_names(str(caught.value), form, (group, "1", counts[f"{group}/1"]), (group, image, 4))


def assert_names(sentence: str, form: str, *expected: tuple) -> None:
    """The sentence names both labels, the first one of the group first, with their numbers."""
    assert sentence.count("\n") == 0 and "same number of labels" in sentence
    said = re.search(r"but (.*) has (\d+) and (.*) has (\d+)", sentence)
    for (group, image, count), place, number in zip(
        expected, said.group(1, 3), said.group(2, 4), strict=True
    ):
        ending = f"{group}/{image}.nii.gz" if form == "nifti" else f"{group}-{image}"
        assert ending in place and int(number) == count, sentence


@pytest.mark.parametrize(
    ("values", "fine"),
    [((0, 1), True), ((-5e-6, 1), True), ((0, 1 + 5e-6), True), ((-2e-5, 1), False), ((0, 1 + 2e-5), False)],
)
def test_a_label_may_miss_0_and_1_by_rounding_alone(values, fine):
    array = np.array(values, np.float64).reshape(2, 1, 1)
    if fine:
        check_label(array, "seg.nii")
        return
    with pytest.raises(InputError, match=r"^seg\.nii: a label must have values from 0 to 1"):
        check_label(array, "seg.nii")


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.array([0, 3, 7]).reshape(3, 1, 1), True),
        (np.array([0, 255]).reshape(1, 1, 1, 2), False),  # channels already: dataset.labels refuses them
        (np.array([0, 1.5]).reshape(2, 1, 1), False),
    ],
)
def test_whole_numbers_are_proposed_as_structures_only_where_that_works(array, hint):
    with pytest.raises(InputError, match="must have values from 0 to 1") as refused:
        check_label(array, "seg.nii")
    assert ("dataset.labels" in str(refused.value)) == hint


def test_a_label_of_nan_is_refused():
    with pytest.raises(InputError, match="from 0 to 1"):
        check_label(np.array([0.0, np.nan]), "seg.nii")
