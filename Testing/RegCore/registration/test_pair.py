"""What is compared: encodings of structures, features on grids, the agreement of local contrasts."""

import numpy as np
import pytest
import torch

from RegCore.registration.affine import align
from RegCore.registration.pair import (
    MAX_LABEL_CHANNELS,
    LabelEncoding,
    PairSide,
    local_agreement,
    make_feature_image,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.RegCore.grids import LEFT_HANDED, OBLIQUE, SHAPE
from Testing.RegCore.registration.blobs import FIXED, MOVING, corner_error, motion, scan


def label_map(values, dtype=np.uint8, geometry=OBLIQUE, seed=0) -> Volume:
    """Random voxels of the given values, each of them present."""
    picked = np.random.default_rng(seed).choice(values, SHAPE)
    picked.flat[: len(values)] = values
    return Volume(picked.astype(dtype), geometry, "labels")


def test_each_structure_that_both_hold_gets_a_channel_of_its_own():
    fixed, moving = label_map([0, 3, 7, 9]), label_map([0, 2, 3, 9], seed=1)
    encoding = LabelEncoding.of(fixed, moving, 4.0, 0)
    assert encoding.labels == (3, 9) and encoding.rows.shape == (2, 2)
    assert (encoding.rows > 0).sum() == 2
    for number, label in enumerate(encoding.labels):
        for volume in (fixed, moving):
            channel = encoding.channel(volume, number)
            assert channel.dtype == np.float32
            np.testing.assert_array_equal(channel > 0, volume.array == label)


def test_the_weight_is_that_of_squared_distances_and_small_structures_count_more():
    array = np.zeros(SHAPE, np.uint8)
    array[:4], array[6, 6, :8] = 1, 2  # 288 voxels and 8
    volume = Volume(array, OBLIQUE, "labels")
    rows = LabelEncoding.of(volume, volume, 4.0, 0).rows
    assert rows[0, 0] == pytest.approx(2.0)  # the largest structure: root of the weight
    assert rows[1, 1] == pytest.approx(2.0 * 5)  # at most five times that
    np.testing.assert_allclose(LabelEncoding.of(volume, volume, 1.0, 0).rows * 2, rows)


def test_many_structures_share_channels_and_stay_apart():
    volume = label_map(list(range(41)))
    encoding = LabelEncoding.of(volume, volume, 1.0, 5)
    assert encoding.rows.shape == (40, MAX_LABEL_CHANNELS)
    apart = np.linalg.norm(encoding.rows[:, None] - encoding.rows[None], axis=-1)[np.triu_indices(40, 1)]
    assert apart.min() > 0.25
    np.testing.assert_array_equal(LabelEncoding.of(volume, volume, 1.0, 5).rows, encoding.rows)
    assert not np.array_equal(LabelEncoding.of(volume, volume, 1.0, 6).rows, encoding.rows)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("i4", [-5, 0, 70_000_000]),
        ("i2", [-5, 0, 3]),
        ("i2", [-7, 0, 900]),
        ("u2", [0, 1, 60_000]),
        ("bool", [0, 1]),
    ],
)
def test_label_values_may_be_negative_huge_or_boolean(dtype, values):
    volume = label_map(values, dtype)
    encoding = LabelEncoding.of(volume, volume, 1.0, 0)
    assert encoding.labels == tuple(v for v in values if v)
    for number, label in enumerate(encoding.labels):
        np.testing.assert_array_equal(encoding.channel(volume, number) > 0, volume.array == label)


def test_channels_of_overlapping_structures_are_the_structures():
    array = np.random.default_rng(0).random((*SHAPE, 2)) > 0.5
    volume = Volume(array, OBLIQUE, "labels")
    encoding = LabelEncoding.of(volume, volume, 1.0, 0)
    for number in range(2):
        np.testing.assert_array_equal(encoding.channel(volume, number) > 0, array[..., number])


def test_label_maps_that_share_no_structure_are_refused():
    with pytest.raises(
        InputError, match="the fixed segmentation and the moving segmentation.*share no label"
    ):
        LabelEncoding.of(label_map([0, 1]), label_map([0, 2]), 1.0, 0)


def test_an_empty_mask_is_refused():
    empty = Volume(np.zeros(FIXED.shape, np.uint8), FIXED, "labels")
    with pytest.raises(InputError, match="a mask is empty"):
        make_feature_image(PairSide(scan(FIXED), mask=empty), FIXED, np.eye(4), None, "cpu")


def test_feature_images_on_a_grid_have_mind_contrast_and_labels_and_know_what_the_mask_leaves():
    labels = label_map([0, 1, 2])
    image = Volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), OBLIQUE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5] = 1
    side = PairSide(image, labels, Volume(mask, OBLIQUE, "labels"))
    reduced = make_feature_image(side, OBLIQUE, np.eye(4), LabelEncoding.of(labels, labels, 1.0, 0), "cpu")
    features, known = reduced.resampled(OBLIQUE, np.eye(4), 3.0)
    assert features.shape == (1, 12 + 1 + 2, *SHAPE)
    np.testing.assert_array_equal(known[0, 0].numpy(), mask)
    assert reduced.resampled(OBLIQUE, np.eye(4), 0.0)[0].shape[1] == 12 + 2


def test_each_thing_lies_on_its_own_grid_and_is_pulled_from_there():
    image = Volume(np.random.default_rng(0).random(SHAPE).astype(np.float32), OBLIQUE)
    mask = Volume(np.ones(LEFT_HANDED.shape, np.uint8), LEFT_HANDED, "labels")
    matrix = np.eye(4)
    matrix[:3, 3] = 1.0, -2.0, 0.5
    reduced = make_feature_image(PairSide(image, mask=mask), OBLIQUE, matrix, None, "cpu")
    known = reduced.resampled(OBLIQUE, matrix, 0.0)[1][0, 0].numpy()
    points = OBLIQUE.world_grid() + matrix[:3, 3]
    inside = [
        ((index >= -0.499) & (index <= np.array(SHAPE) - 0.501)).all(-1)
        for index in (OBLIQUE.to_index(points), LEFT_HANDED.to_index(points))
    ]
    assert not known[~inside[0]].any()  # the mask's edge is repeated beyond its grid, the image's is not
    assert known[inside[0] & inside[1]].all()


def agreement(fixed: Volume, moving: Volume, matrix=None) -> float:
    grid = fixed.geometry
    matrix = np.eye(4) if matrix is None else matrix
    fixed_features, moving_features = (
        make_feature_image(PairSide(v), grid, m, None, "cpu")
        for v, m in ((fixed, np.eye(4)), (moving, matrix))
    )
    return local_agreement(fixed_features, moving_features, grid, matrix)


def test_contrasts_agree_within_a_modality_disagree_when_inverted_and_say_nothing_of_noise():
    truth = motion(rigid=True)
    fixed = scan(FIXED, truth.map)
    assert agreement(fixed, fixed) == pytest.approx(1.0, abs=1e-3)
    assert agreement(fixed, scan(MOVING), truth.matrix) > 0.8
    assert agreement(fixed, scan(MOVING, inverted=True), truth.matrix) < -0.7
    noise = np.random.default_rng(9).normal(size=MOVING.shape).astype(np.float32)
    assert abs(agreement(fixed, Volume(noise, MOVING))) < 0.2


def test_contrasts_of_images_that_do_not_meet_agree_by_nothing():
    far = np.eye(4)
    far[:3, 3] = 5000.0
    assert agreement(scan(FIXED), scan(MOVING), far) == 0.0


def test_make_feature_image_reduces_a_fine_volume_to_the_spacing_of_the_grid():
    coarse = FIXED.resized((9, 8, 7))
    reduced = make_feature_image(PairSide(scan(FIXED)), coarse, np.eye(4), None, "cpu")
    np.testing.assert_allclose(reduced.image.grid.spacing, coarse.spacing, rtol=0.25)
    assert reduced.image.values.dtype == torch.float32 and reduced.labels is None and reduced.masks == ()


# ---- intensities -------------------------------------------------------------------------------------------


def intensities(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The image that is compared, at its own resolution, and where it is known."""
    grid = Geometry(array.shape, np.eye(4))
    reduced = make_feature_image(PairSide(Volume(array, grid)), grid, np.eye(4), None, "cpu")
    known = reduced.masks[0].values[0, 0].numpy() > 0.5 if reduced.masks else None
    return reduced.image.values[0, 0].numpy(), known


@pytest.mark.parametrize("value", [-32768, 30000])
def test_padding_with_an_extreme_number_is_no_data(value):
    image = (400 + 100 * np.random.default_rng(0).normal(size=(20, 18, 16))).astype(np.int16)
    padded = image.copy()
    padded[:4] = value
    scaled, known = intensities(padded)
    np.testing.assert_array_equal(known, padded != value)
    np.testing.assert_allclose(scaled[4:], intensities(image[4:])[0], atol=0.1)
    assert scaled[:4].min() >= 0 and scaled[:4].max() <= 1 and intensities(image)[1] is None


def test_single_outliers_are_cut_and_plain_background_is_data():
    image = np.zeros((20, 20, 20), np.int16)
    image[5:15, 5:15, 5:15] = 50 + np.random.default_rng(0).integers(0, 100, (10, 10, 10))
    plain, known = intensities(image)
    assert known is None
    image[10, 10, 10], image[0, 0, 0] = 32000, -32000
    spiked, known = intensities(image)
    assert known is None and spiked.max() <= 2 and spiked.min() >= -1
    others = np.abs(image.astype(int)) < 1000
    np.testing.assert_allclose(spiked[others], plain[others], atol=0.02)


def test_neither_padding_nor_outliers_move_the_result():
    sides = scan(FIXED, motion(rigid=True).map), scan(MOVING, seed=1)
    as_whole = [Volume((1000 * side.array).astype(np.int16), side.geometry) for side in sides]
    spoilt = [Volume(side.array.copy(), side.geometry) for side in as_whole]
    spoilt[0].array[:3], spoilt[1].array[:, :, -3:] = -32768, -32768
    spoilt[1].array[12, 11, 10] = 30000
    found = [align(*map(PairSide, pair), rigid=True) for pair in (as_whole, spoilt)]
    assert corner_error(found[1], motion(rigid=True), FIXED) < 1
    assert corner_error(found[1], found[0], FIXED) < 0.5
