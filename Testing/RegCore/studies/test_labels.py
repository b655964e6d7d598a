"""Votes over segmentations against SimpleITK and by hand; structures brought to one numbering by name."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.space.geometry import InputError
from RegCore.space.volume import Segment, Volume
from RegCore.studies import labels as module
from RegCore.studies.labels import common_numbering, shares_of_labels, vote
from Testing.RegCore.grids import OBLIQUE, SHAPE

NONE = 99


def maps(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).choice([0, 1, 4, 7], (count, *SHAPE)).astype(np.uint8))


@pytest.mark.parametrize("slab", [1, 1 << 20])
def test_the_majority_is_that_of_simpleitk(monkeypatch, slab):
    monkeypatch.setattr(module, "SLAB", slab)
    given = maps(5)
    images = [sitk.GetImageFromArray(labels) for labels in given]
    expected = sitk.GetArrayFromImage(sitk.LabelVoting(images, NONE))
    found, share = vote(given)
    decided = expected != NONE
    assert 0.3 < decided.mean() < 1
    np.testing.assert_array_equal(found[decided], expected[decided])
    votes = np.sum([labels == found for labels in given], axis=0)
    np.testing.assert_allclose(share, votes / 5, rtol=1e-6)


def test_of_several_with_as_many_votes_the_smallest_label_wins():
    given = [np.full(SHAPE, value, np.int16) for value in (7, 4, 7, 4)]
    assert (vote(given)[0] == 4).all()
    assert (vote([given[0], np.zeros(SHAPE, np.int16)])[0] == 0).all()


def test_weights_count_and_where_all_are_zero_each_has_one_vote():
    given, rng = maps(4), np.random.default_rng(1)
    weights = list(rng.random((4, *SHAPE)))
    for weight in weights:
        weight[0] = 0
    found, share = vote(given, weights)
    for place in np.ndindex(SHAPE):
        heavy = [weight[place] if place[0] else 1.0 for weight in weights]
        tally = np.bincount([labels[place] for labels in given], heavy, minlength=8)
        assert found[place] == tally.argmax()
        assert share[place] == pytest.approx(tally.max() / sum(heavy), rel=1e-5)


def test_probabilities_are_shares():
    given = maps(3)
    found = shares_of_labels(given, [1, 4, 7])
    assert found.shape == (*SHAPE, 3)
    np.testing.assert_allclose(found[..., 1], np.mean([labels == 4 for labels in given], axis=0), rtol=1e-6)


def named(values: np.ndarray, **names: int) -> Volume:
    segments = tuple(Segment(label, name) for name, label in names.items())
    return Volume(values, OBLIQUE, "labels", segments)


def test_structures_are_paired_by_name_across_all():
    first, second, third = maps(3)
    given = [
        named(first, Liver=1, spleen=4, aorta=7),
        named(second, spleen=1, liver=4, kidney=7),
        named(third, kidney=1, LIVER=4, vein=7),
    ]
    one, two, three = common_numbering(given, ["a", "b", "c"])
    label = {segment.name.casefold(): segment.label for segment in one.segments}
    assert {name: label[name] for name in ("liver", "spleen", "aorta")} == {
        "liver": 1,
        "spleen": 4,
        "aorta": 7,
    }
    assert len(label) == 5 and len(set(label.values())) == 5
    np.testing.assert_array_equal(one.array, first)
    np.testing.assert_array_equal(two.array == label["liver"], second == 4)
    np.testing.assert_array_equal(two.array == label["kidney"], second == 7)
    np.testing.assert_array_equal(three.array == label["kidney"], third == 1)
    np.testing.assert_array_equal(three.array == label["vein"], third == 7)
    assert one.segments == two.segments == three.segments


def test_what_has_no_name_among_others_is_paired_by_its_number():
    first, second = maps(2)
    one, two = common_numbering([named(first, liver=1), named(second, liver=4)], ["a", "b"])
    np.testing.assert_array_equal(two.array == 1, second == 4)
    np.testing.assert_array_equal(two.array == 7, second == 7)
    assert {segment.label: segment.name for segment in one.segments}[7] == "label 7"


def test_without_names_numbers_count():
    given = [Volume(labels, OBLIQUE, "labels") for labels in maps(2)]
    for volume, found in zip(given, common_numbering(given, ["a", "b"]), strict=True):
        np.testing.assert_array_equal(found.array, volume.array)


def test_channels_that_do_not_overlap_become_one_layer():
    flat = maps(1)[0]
    channels = Volume(np.stack([flat == 4, flat == 1], -1).astype(np.uint8), OBLIQUE, "labels",
                      (Segment(0, "spleen"), Segment(1, "liver")))  # fmt: skip
    one, two = common_numbering([named(flat, liver=1, spleen=4, aorta=7), channels], ["a", "b"])
    np.testing.assert_array_equal(two.array, np.where(flat == 7, 0, flat))


def test_what_can_not_be_voted_on_is_named():
    flat = maps(1)[0]
    overlapping = Volume(np.ones((*SHAPE, 2), np.uint8), OBLIQUE, "labels")
    with pytest.raises(InputError, match="b: structures that overlap can't be put to the vote"):
        common_numbering([Volume(flat, OBLIQUE, "labels"), overlapping], ["a", "b"])
    with pytest.raises(InputError, match="b: structures are paired by their names, but .* share none"):
        common_numbering(
            [named(flat, liver=1, spleen=4, left=7), named(flat, aorta=1, vein=4, right=7)], ["a", "b"]
        )
    empty = replace(named(flat), array=np.zeros(SHAPE, np.uint8))
    with pytest.raises(InputError, match=r"b: the label map is empty"):
        common_numbering([Volume(flat, OBLIQUE, "labels"), empty], ["a", "b"])
