"""Structures of two segmentations are paired by name, terminology, number; voxels follow, names stay."""

from dataclasses import replace

import numpy as np
import pytest

from RegCore.space.geometry import InputError
from RegCore.space.segments import pair_segments
from RegCore.space.volume import Segment, Volume, reoriented
from Testing.RegCore.grids import LEFT_HANDED, OBLIQUE, SHAPE

LIVER = "TerminologyEntry:Any list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Anatomic~^^~^^|"
RIGHT = (
    "TerminologyEntry:Any list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^24028007^Right~|"
)
UNSET = "TerminologyEntry:Any list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes~^^~^^|"


def segmentation(*names, labels=None, tags=None, overlapping=None, grid=OBLIQUE):
    """A label map of a row of voxels each; with `overlapping` a channel each, neighbours sharing a row."""
    labels = labels or range(1, len(names) + 1)
    masks = [np.zeros(SHAPE, bool) for _ in names]
    for number, mask in enumerate(masks):
        mask[number : number + 1 + bool(overlapping)] = True
    if overlapping is not None:
        array, labels = np.stack(masks, -1).astype(np.uint8), range(len(names))
    else:
        array = sum(mask * np.uint8(label) for mask, label in zip(masks, labels, strict=True))
    tags = tags or [""] * len(names)
    segments = [
        Segment(n, name, f"id {name}", tags=t) for n, name, t in zip(labels, names, tags, strict=True)
    ]
    return Volume(array, grid, "labels", tuple(segments))


def mask_of(volume: Volume, name: str) -> np.ndarray:
    """Where the structure of this name is."""
    (segment,) = (segment for segment in volume.segments if segment.name == name)
    return volume.array == segment.label if volume.array.ndim == 3 else volume.array[..., segment.label] > 0


def assert_voxels_follow_their_names(before: Volume, after: Volume):
    assert [segment.name for segment in after.segments] == [segment.name for segment in before.segments]
    assert [segment.id for segment in after.segments] == [segment.id for segment in before.segments]
    for segment in before.segments:
        np.testing.assert_array_equal(mask_of(after, segment.name), mask_of(before, segment.name))
    assert after.geometry == before.geometry


def labels_of(volume: Volume) -> dict[str, int]:
    return {segment.name: segment.label for segment in volume.segments}


FIXED = segmentation("Liver", "Kidney", "Spleen", labels=(1, 2, 7))


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("Liver", "Kidney", "Spleen"), (1, 2, 7), (1, 2, 7)),
        (("Kidney", "Liver"), (1, 2), (2, 1)),
        ((" kidney ", "LIVER"), (200, 255), (2, 1)),
        (("Lung", "Kidney", "Heart"), (1, 2, 3), (8, 2, 3)),
        (("Lung", "Heart", "Spleen"), (2, 7, 1), (8, 9, 7)),
        (("Spleen", "Segment_2"), (1, 2), (7, 2)),
    ],
)
def test_the_moving_labels_become_those_of_the_same_name(names, labels, expected):
    moving = segmentation(*names, labels=labels, grid=LEFT_HANDED)
    fixed, found = pair_segments(FIXED, moving)
    assert fixed is FIXED and labels_of(found) == dict(zip(names, expected, strict=True))
    assert_voxels_follow_their_names(moving, found)
    assert pair_segments(FIXED, found)[1].array is found.array
    assert found.array.dtype == np.uint8


def test_a_label_that_does_not_fit_the_type_widens_it():
    fixed = replace(FIXED, array=FIXED.array.astype(np.int32) * 300)
    fixed = replace(fixed, segments=tuple(replace(s, label=s.label * 300) for s in FIXED.segments))
    moving = segmentation("Spleen", "Liver")
    found = pair_segments(fixed, moving)[1]
    assert labels_of(found) == {"Spleen": 2100, "Liver": 300}
    assert_voxels_follow_their_names(moving, found)


def test_where_names_differ_the_terminology_pairs():
    fixed = segmentation("Leber", "Niere", "X", tags=(LIVER, RIGHT, UNSET))
    moving = segmentation("Y", "right kidney", "liver", tags=(UNSET, RIGHT, LIVER))
    found = pair_segments(fixed, moving)[1]
    assert labels_of(found) == {"Y": 4, "right kidney": 2, "liver": 1}
    assert [s.terminology != "" for s in fixed.segments] == [True, True, False]


def test_two_of_one_name_are_paired_in_their_order():
    fixed, moving = segmentation("Node", "Node"), segmentation("Node", "Node", labels=(5, 4))
    found = pair_segments(fixed, moving)[1]
    assert [segment.label for segment in found.segments] == [1, 2]
    np.testing.assert_array_equal(found.array, fixed.array)


def test_one_structure_each_is_the_same_and_several_without_a_common_name_are_refused():
    found = pair_segments(segmentation("Liver", labels=(3,)), segmentation("Tumour"))[1]
    assert labels_of(found) == {"Tumour": 3}
    with pytest.raises(InputError, match="fixed one has 'Liver', 'Kidney', 'Spleen', the moving one 'Lung'"):
        pair_segments(FIXED, segmentation("Lung"))


def test_without_names_on_both_sides_numbers_count_as_ever():
    plain = replace(FIXED, segments=())
    for pair in ((plain, FIXED), (FIXED, plain), (None, FIXED), (FIXED, None)):
        assert pair_segments(*pair) == pair


@pytest.mark.parametrize("swap", [False, True])
def test_one_layer_and_overlapping_layers_get_a_channel_for_each_structure(swap):
    layered = segmentation("Spleen", "Tumour", "Liver", overlapping=True)
    pair = (layered, FIXED) if swap else (FIXED, layered)
    found = pair_segments(*pair)
    for before, after in zip(pair, found, strict=True):
        assert after.array.shape == (*SHAPE, 4)
        assert_voxels_follow_their_names(before, after)
    both = [labels_of(volume) for volume in found]
    assert all(both[0][name] == both[1][name] for name in ("Liver", "Spleen"))
    assert len({*both[0].values(), *both[1].values()}) == 4
    assert [labels_of(volume) for volume in pair_segments(*found)] == both


def test_layers_that_do_not_overlap_become_one():
    layered = segmentation("Kidney", "Liver", overlapping=False)
    fixed, found = pair_segments(FIXED, layered)
    assert fixed is FIXED and labels_of(found) == {"Kidney": 2, "Liver": 1}
    assert_voxels_follow_their_names(layered, found)
    found = pair_segments(layered, FIXED)
    assert found[0].array.ndim == found[1].array.ndim == 3
    both = [labels_of(volume) for volume in found]
    assert both[0].items() <= both[1].items()


def test_turning_axes_round_keeps_the_segments():
    assert reoriented(FIXED, "LPS").segments == FIXED.segments


def test_structures_without_a_name_are_paired_by_number():
    """Of three structures on each side only some have names: what has none keeps its number."""
    fixed = replace(FIXED, segments=FIXED.segments[:1])  # 1 is the liver; 2 and 7 have no names
    given = segmentation("Liver", "Kidney", "Spleen", "Lung", labels=(2, 7, 1, 4), grid=LEFT_HANDED)
    moving = replace(given, segments=given.segments[:1])  # 2 is the liver; 7, 1 and 4 have no names
    _, paired = pair_segments(fixed, moving)
    assert labels_of(paired) == {"Liver": 1}
    numbers = {old: np.unique(paired.array[given.array == old]).tolist() for old in (2, 7, 1, 4)}
    assert numbers == {
        2: [1],
        7: [7],
        1: [8],
        4: [4],
    }  # 7 with 7; 1 is the liver's, so another gets a new one
    again = pair_segments(fixed, paired)[1]
    assert np.array_equal(again.array, paired.array) and again.segments == paired.segments


def test_a_named_structure_is_paired_with_the_same_number_without_a_name():
    moving = replace(FIXED, segments=FIXED.segments[:2])  # 7, the spleen of the fixed one, has no name here
    assert np.array_equal(pair_segments(FIXED, moving)[1].array, FIXED.array)
    assert np.array_equal(pair_segments(moving, FIXED)[1].array, FIXED.array)


def test_channels_keep_structures_that_have_no_name():
    layered = segmentation("Liver", "Kidney", "Spleen", overlapping=True)
    layered = replace(layered, segments=layered.segments[:2])
    moving = segmentation("Kidney", "Liver", "Lung", labels=(5, 6, 9))
    moving = replace(moving, segments=moving.segments[:2])  # 9 has no name
    fixed, paired = pair_segments(layered, moving)
    assert fixed.array.shape[3] == paired.array.shape[3] == 4
    np.testing.assert_array_equal(fixed.array[..., 2], layered.array[..., 2])
    np.testing.assert_array_equal(paired.array[..., 3], moving.array == 9)
    assert not paired.array[..., 2].any() and labels_of(paired) == {"Kidney": 1, "Liver": 0}
