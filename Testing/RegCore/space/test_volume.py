"""Volumes, their labels, and the sentences for what can't be registered."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import (
    Segment,
    Volume,
    check_image,
    check_labels,
    common_labels,
    distinct_values,
    extent,
    finite,
    looks_like_labels,
    reoriented,
    slabs,
)
from Testing.paths import DEEPREG, REAL
from Testing.RegCore.grids import GRIDS, OBLIQUE, SHAPE, SHEARED


def image(values) -> Volume:
    return Volume(np.asarray(values), Geometry(np.shape(values)[:3], OBLIQUE.affine))


def labels(values) -> Volume:
    return Volume(np.asarray(values), Geometry(np.shape(values)[:3], OBLIQUE.affine), "labels")


def noise(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 100


def blocks(values=(0, 2, 300, -1)) -> np.ndarray:
    """A label map with a block of 3×4×9 voxels or more for each value."""
    return np.repeat(np.array(values, np.int16)[None, :, None], 12, 0).repeat(4, 1).repeat(9, 2)


@pytest.mark.parametrize(
    ("array", "kind", "sentence"),
    [
        (noise((7, 8, 10)), "image", "does not fit the grid"),
        (noise((7, 8)), "image", "3 axes"),
        (noise().astype(complex), "image", "real numbers"),
        (noise(), "picture", "'image' or 'labels'"),
        (noise(), "labels", "whole numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(array, kind, sentence):
    with pytest.raises(InputError, match=sentence):
        Volume(array, OBLIQUE, kind)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_are_the_values_other_than_zero(dtype, order):
    values = np.random.default_rng(0).choice([0, 3, 7, 100], size=SHAPE).astype(dtype, order=order)
    values[0, 0, 0] = 5
    assert labels(values).labels() == [3, 5, 7, 100]
    assert distinct_values(values) == np.unique(values).tolist()


def test_labels_of_all_sorts():
    assert labels(blocks()).labels() == [-1, 2, 300]
    assert labels(np.eye(9)[None].repeat(3, 0) > 0).labels() == [1]
    assert labels(np.zeros((2, 2, 2, 4), np.uint8)).labels() == [0, 1, 2, 3]
    assert distinct_values(np.array([0, 2**40])) == [0, 2**40]
    assert distinct_values(np.array([], np.int16)) == []
    assert distinct_values(np.ones((2, 2), bool)) == [1]


def test_slabs_lie_together_in_memory():
    for order in "CF":
        array = np.zeros(SHAPE, order=order)
        assert slabs(array)[0].flags.c_contiguous
        assert slabs(array).size == array.size


@pytest.mark.parametrize("order", ["C", "F"])
def test_patches_look_like_labels_and_images_do_not(order):
    ramp = np.indices((20, 20, 20)).sum(0).astype(np.int16)
    ct = np.full((20, 20, 20), -1000, np.int16)
    ct[5:15, 5:15, 5:15] = noise((10, 10, 10))
    coarse = ramp * 2 // 3  # one of three neighbours is equal
    for array, expected in [(blocks(), True), (ramp, False), (coarse, False), (ct, False), (noise(), False)]:
        assert looks_like_labels(np.asarray(array, order=order)) is expected
    assert looks_like_labels(blocks() > 1)
    stripped = ct + 1000  # the background is the most frequent value, even where one voxel lies below it
    stripped[0, 0, 0] = -1
    assert not looks_like_labels(stripped)


@pytest.mark.parametrize("folder", [DEEPREG / "data/test/nifti/paired/test", *REAL], ids=lambda f: f.name)
def test_real_label_maps_and_scans_are_told_apart(folder):
    paths = list(folder.rglob("*.nii.gz"))
    assert paths
    for path in paths:
        array = nibabel.load(path).get_fdata().astype(np.int32)
        is_labels = any(word in str(path.relative_to(folder)) for word in ("seg", "mask", "labels"))
        for map_or_scan in np.moveaxis(array, -1, 0) if array.ndim == 4 else [array]:
            assert looks_like_labels(map_or_scan) is is_labels, path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_may_have_bad_values_but_not_only_these(value):
    array = noise()
    array[1, 2, 3] = array[4, 4, 4] = value
    check_image(image(array), "scan.nii")
    filled = finite(image(array)).array
    known = np.isfinite(array)
    assert (filled[~known] == array[known].min()).all() and (filled[known] == array[known]).all()
    array[...] = value
    with pytest.raises(InputError, match=r"^scan\.nii: all voxels are NaN or infinite"):
        check_image(image(array), "scan.nii")


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (image(np.full(SHAPE, 7, np.int16)), "constant.* 7"),
        (image(noise((7, 8, 9, 2))), "one channel"),
        (image(noise((7, 8, 1))), "single slice"),
        (labels(blocks()), "label map"),
    ],
)
def test_what_is_no_image_is_refused_with_a_sentence(volume, sentence):
    with pytest.raises(InputError, match=f"^scan: .*{sentence}"):
        check_image(volume, "scan")


def test_good_images_and_labels_pass():
    for values in (noise(), noise().astype(np.int16), noise().astype(np.float32), blocks(), blocks() > 1):
        check_image(image(values), "scan")
    check_labels(labels(blocks()), "seg")
    check_labels(labels(np.eye(9, dtype=np.uint8)[None, :, :, None].repeat(2, 3)), "seg")
    supervoxels = np.arange(1000, dtype=np.int32).reshape(10, 10, 10).repeat(12, 0)
    check_labels(labels(supervoxels), "seg")


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (image(blocks()), "this is an image"),
        (labels(np.zeros(SHAPE, np.uint8)), "empty"),
        (labels(np.zeros((7, 8, 9, 2), np.uint8)), "empty"),
        (labels(np.full((7, 8, 9, 2), 2, np.uint8)), "0 and 1 only"),
        (labels(noise().astype(np.int16) * 9), "values scattered like these are an image"),
    ],
)
def test_what_is_no_label_map_is_refused_with_a_sentence(volume, sentence):
    with pytest.raises(InputError, match=f"^seg: .*{sentence}"):
        check_labels(volume, "seg")


def test_the_labels_that_two_maps_share():
    assert common_labels(labels(blocks()), labels(blocks((0, 2, 9, -1))), "f", "m") == [-1, 2]
    channels = labels(np.zeros((7, 8, 9, 2), np.uint8))
    assert common_labels(channels, labels(np.ones((3, 3, 3, 2), np.uint8)), "f", "m") == [0, 1]


@pytest.mark.parametrize(
    ("moving", "sentence"),
    [
        (labels(blocks((0, 5, 6, 7))), r"share no label \(-1, 2, 300 against 5, 6, 7\)"),
        (labels(np.zeros(SHAPE, np.uint8)), "against none"),
        (labels(np.ones((7, 8, 9, 2), np.uint8)), "3 and 4 axes"),
    ],
)
def test_label_maps_that_share_nothing_are_refused(moving, sentence):
    with pytest.raises(InputError, match=f"^f and m: .*{sentence}"):
        common_labels(labels(blocks()), moving, "f", "m")
    named = replace(labels(blocks()), segments=(Segment(2, "liver"), Segment(300, "left kidney")))
    with pytest.raises(InputError, match=r"\(-1, liver, left kidney against"):
        common_labels(named, labels(np.zeros(SHAPE, np.uint8)), "f", "m")
    with pytest.raises(InputError, match="2 and 3"):
        common_labels(
            labels(np.ones((2, 2, 2, 2), np.uint8)), labels(np.ones((2, 2, 2, 3), np.uint8)), "f", "m"
        )


# ---- extent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [(), (2,)], ids=["3-D", "4-D"])
def test_the_extent_is_the_box_around_what_is_not_zero(order, channels):
    array = np.zeros((*SHAPE, *channels), np.int16, order=order)
    array[2, 3, 4], array[5, 3, 7] = -1, 300
    box = extent(Volume((array != 0) if channels else array, OBLIQUE, "labels"))
    assert box.shape == (4, 1, 4)
    np.testing.assert_allclose(box.to_world((0, 0, 0)), OBLIQUE.to_world((2, 3, 4)))
    np.testing.assert_allclose(box.to_world((3, 0, 3)), OBLIQUE.to_world((5, 3, 7)))


def test_what_is_empty_has_no_extent_and_what_is_full_the_whole():
    assert extent(labels(np.zeros(SHAPE, np.uint8))) is None
    assert extent(labels(np.ones(SHAPE, bool))) == OBLIQUE


# ---- the order of axes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(), (2,)])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "AIL", "PRI"])
@pytest.mark.parametrize("place", [*GRIDS, "sheared"])
def test_voxels_in_another_order_stay_where_they_are(place, codes, channels):
    """As nibabel orders them; and each voxel has its value at its place."""
    grid = {**GRIDS, "sheared": SHEARED}[place]
    volume = Volume(np.random.default_rng(0).normal(size=(*SHAPE, *channels)), grid)
    found = reoriented(volume, codes)
    assert found.geometry.axis_codes == codes
    change = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(grid.axis_codes), nibabel.orientations.axcodes2ornt(codes)
    )
    image = nibabel.Nifti1Image(volume.array, grid.affine).as_reoriented(change)
    np.testing.assert_array_equal(found.array, image.get_fdata())
    np.testing.assert_allclose(found.geometry.affine, image.affine, atol=1e-12)
    index = np.rint(grid.to_index(found.geometry.world_grid())).astype(int)
    np.testing.assert_array_equal(found.array, volume.array[tuple(np.moveaxis(index, -1, 0))])


def test_the_kind_stays_and_the_way_back_is_there():
    volume = Volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), OBLIQUE, "labels")
    there = reoriented(volume, "IPR")
    back = reoriented(there, OBLIQUE.axis_codes)
    assert there.kind == "labels" and there.array.dtype == np.int16
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.geometry.affine, OBLIQUE.affine)


@pytest.mark.parametrize("codes", ["", "RA", "RRS", "RAL", "XYZ", "ras", "RASL"])
def test_what_are_no_three_directions(codes):
    with pytest.raises(InputError, match="three directions such as RAS or LPS were expected"):
        reoriented(Volume(np.zeros(SHAPE), OBLIQUE), codes)
