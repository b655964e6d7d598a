"""Slices as pictures: what is where, how large, in which colours; and bent step by step."""

import numpy as np
import pytest

from RegCore.evaluation.pictures.slices import (
    ANIMATION,
    COLOURS,
    Frames,
    Scene,
    check_slices,
    slice_frames,
    tile_picture,
    tiled_frames,
    transform_frames,
    warp_frames,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

SHAPE = (30, 20, 9)


def grid(affine=None, shape=SHAPE) -> Geometry:
    return Geometry(shape, np.eye(4) if affine is None else affine)


def noise(geometry, seed=0) -> Volume:
    return Volume(np.random.default_rng(seed).random(geometry.shape).astype(np.float32), geometry)


def block(geometry, *ranges) -> np.ndarray:
    """1 in a block of voxels, else 0."""
    array = np.zeros(geometry.shape, np.uint8)
    array[tuple(slice(*part) for part in ranges)] = 1
    return array


def middle(picture, marked) -> np.ndarray:
    """The middle (row, column) of the marked pixels, as a share of the picture."""
    return (np.argwhere(marked(np.asarray(picture).astype(int))).mean(0) + 0.5) / picture.size[::-1]


def white(pixels):
    return (pixels > 200).all(-1)


@pytest.mark.parametrize(
    ("affine", "place"),
    [
        (
            np.diag([1.0, 1, 1, 1]),
            (0, 1),
        ),  # i to the right, j to the front: in doctors' view i goes left, j up
        (np.diag([-1.0, -1, 1, 1]), (1, 0)),
        (np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), (0, 0)),
    ],
)
def test_a_slice_is_seen_as_a_doctor_sees_it(affine, place):
    """place: whether the patient's anterior (row) and right (column) sides are where the block is."""
    geometry = grid(affine, (20, 20, 5))
    image = Volume(block(geometry, (0, 5), (14, 20), (0, 5)), geometry)
    row, column = middle(slice_frames(Scene(image))[2], white)
    world = geometry.to_world((2, 17, 2)) - geometry.centre
    assert (row < 0.4) == (world[1] > 0) and (row > 0.6) == (world[1] < 0)
    assert (column < 0.45) == (world[0] > 0) and (column > 0.55) == (world[0] < 0)
    assert (int(row > 0.5), int(column > 0.5)) == place


def test_raw_slices_have_rows_along_i_and_columns_along_j():
    geometry = grid(np.diag([-1.0, 1, 1, 1]), (20, 20, 5))
    image = Volume(block(geometry, (0, 5), (14, 20), (0, 5)), geometry)
    row, column = middle(slice_frames(Scene(image, raw=True))[2], white)
    assert row < 0.3 and column > 0.6


@pytest.mark.parametrize(
    ("spacing", "ratio"), [((1, 1, 1), 30 / 20), ((1, 3, 1), 30 / 60), ((0.5, 1, 7), 15 / 20)]
)
def test_proportions_are_true(spacing, ratio):
    geometry = grid(np.diag([*spacing, 1.0]))
    full = Volume(np.full(SHAPE, 7, np.int16), geometry)
    full.array[0, 0, 0] = 0
    marked = white(np.asarray(slice_frames(Scene(full))[4]))
    rows, columns = (np.flatnonzero(marked.mean(axis) > 0.2) for axis in (1, 0))
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(ratio, rel=0.03)
    assert max(np.ptp(rows) / ANIMATION[1], np.ptp(columns) / ANIMATION[0]) > 0.97
    raw = white(np.asarray(slice_frames(Scene(full, raw=True))[4]))
    height, width = (np.ptp(np.flatnonzero(raw.mean(axis) > 0.2)) for axis in (1, 0))
    assert height / width == pytest.approx(30 / 20, rel=0.03)


def test_values_are_those_of_the_slice():
    geometry = grid()
    image = noise(geometry)
    frame = np.asarray(slice_frames(Scene(image, raw=True), (20 * 9 + 3, 30 * 9 + 3))[6])
    centres = frame[1 + 4 : 1 + 270 : 9, 1 + 4 : 1 + 180 : 9, 0].astype(float)
    shown = np.s_[:26]  # below is the number of the slice
    order = np.argsort(image.array[shown][..., 6].ravel())
    assert (np.diff(centres[shown].ravel()[order]) >= 0).all()  # black to white as the intensity rises
    assert np.ptp(centres) > 200


def test_frames_are_as_many_as_slices_and_of_one_size():
    frames = slice_frames(Scene(noise(grid())))
    assert len(frames) == 9 and {frame.size for frame in frames} == {ANIMATION}
    with pytest.raises(IndexError):
        frames[9]


@pytest.mark.parametrize("shape", [(1, 9, 1), (2, 1, 3), (50, 2, 1)])
def test_thin_and_constant_images_can_be_shown(shape):
    flat = Volume(np.full(shape, 3.0, np.float32), grid(shape=shape))
    for raw in (False, True):
        assert slice_frames(Scene(flat, raw=raw))[0].size == ANIMATION
    nothing = Volume(np.full(shape, np.nan, np.float32), grid(shape=shape))
    assert tile_picture([Scene(nothing)], [0]).size == (200, 200)


def test_a_table_has_a_column_for_each_image_and_a_row_for_each_slice():
    geometry = grid()
    dark, bright = (Volume(np.full(SHAPE, v, np.uint8), geometry) for v in (0, 1))
    bright.array[0, 0, 0] = 0
    picture = tile_picture(
        [Scene(dark), Scene(bright)], [0, 4, 8], ["first", "a title that is much too long"]
    )
    assert picture.size == (400, 600)
    pixels = np.asarray(picture).astype(int)
    assert white(pixels[150:580, 210:390]).mean() > 0.5 and not white(pixels[150:580, 100:190]).any()
    assert (pixels[:22, :200] > 150).any() and (pixels[:22, 200:] > 150).any()  # titles
    assert tile_picture([Scene(dark)], [1], zoom=2.5).size == (500, 500)


def test_tiles_with_fewer_slices_go_on_more_slowly():
    long, short = noise(grid()), noise(grid(shape=(30, 20, 3)), 1)
    frames = tiled_frames([Scene(long), Scene(short)], 1, 2)
    assert len(frames) == 9 and frames[0].size == ANIMATION
    halves = [np.asarray(frame)[:, ANIMATION[0] // 2 :] for frame in frames]
    same = [np.array_equal(halves[n], halves[n + 1]) for n in range(8)]
    assert same.count(False) == 2  # the short one shows three slices
    with pytest.raises(InputError, match="2 × 2 tiles need 4 images, but 1 is given"):
        tiled_frames([Scene(long)], 2, 2)


def test_tiles_go_row_by_row():
    geometry = grid()
    images = [Volume(block(geometry, (0, 30), (0, 20), (0, 9)) * int(n == 1), geometry) for n in range(6)]
    images[1].array[0, 0, 0] = 0
    row, column = middle(tiled_frames([Scene(image) for image in images], 2, 3)[4], white)
    assert row == pytest.approx(0.25, abs=0.02) and column == pytest.approx(0.5, abs=0.02)


def test_outlines_have_the_colours_of_their_labels_and_lie_in_space():
    geometry = grid(shape=(40, 40, 5))
    image = Volume(np.zeros(geometry.shape, np.float32), geometry)
    labels = block(geometry, (5, 12), (5, 12), (0, 5)) + 3 * block(geometry, (25, 35), (20, 35), (0, 5))
    shifted = Geometry((30, 40, 5), np.array([[1, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    for volume in (Volume(labels, geometry, "labels"), Volume(labels[10:], shifted, "labels")):
        pixels = np.asarray(slice_frames(Scene(image, volume))[2]).astype(int)
        for label, there in ((1, volume.geometry == geometry), (2, False), (3, True)):
            close = np.abs(pixels - 0.88 * np.array(COLOURS[label - 1])).max(-1) < 6
            assert close.any() == (there or label == 1), label
        box = np.argwhere(np.abs(pixels - 0.88 * np.array(COLOURS[2])).max(-1) < 6)
        pixel = 40 / (ANIMATION[1] - 3)
        assert np.ptp(box[:, 0]) * pixel == pytest.approx(15, abs=0.7)
        assert np.ptp(box[:, 1]) * pixel == pytest.approx(10, abs=0.7)


def test_channels_are_structures_of_their_own():
    geometry = grid(shape=(40, 40, 5))
    channels = np.stack(
        [block(geometry, (5, 20), (5, 20), (0, 5)), block(geometry, (15, 35), (15, 35), (0, 5))], -1
    )
    image = Volume(np.zeros(geometry.shape, np.float32), geometry)
    pixels = np.asarray(slice_frames(Scene(image, Volume(channels, geometry, "labels")))[2]).astype(int)
    for colour in COLOURS[:2]:
        assert (np.abs(pixels - 0.88 * np.array(colour)).max(-1) < 6).any()


def test_an_image_blended_with_itself_is_grey_and_otherwise_green_and_magenta():
    geometry = grid()
    first, second = (Volume(block(geometry, (i, i + 10), (5, 15), (0, 9)), geometry) for i in (5, 12))
    same = np.asarray(slice_frames(Scene(first, overlay=first))[4]).astype(int)
    assert np.ptp(same, axis=-1).max() <= 12 and white(same).any()
    mixed = np.asarray(slice_frames(Scene(first, overlay=second))[4]).astype(int)
    red, green, blue = np.moveaxis(mixed, -1, 0)
    assert ((green > 200) & (red < 30) & (blue < 30)).any()
    assert ((green < 30) & (red > 200) & (blue > 200)).any()
    assert white(mixed).any()


def test_a_checkerboard_alternates_between_the_two():
    geometry = grid(shape=(32, 32, 3))
    first, second = (Volume(np.full(geometry.shape, v, np.uint8), geometry) for v in (0, 1))
    for volume in (first, second):
        volume.array[0, 0, :] = 1 - volume.array[1, 1, 0]
    pixels = np.asarray(slice_frames(Scene(first, overlay=second, style="checkerboard"))[1])
    assert white(pixels)[:, 85:555].mean() == pytest.approx(0.5, abs=0.04)
    same = slice_frames(Scene(first, overlay=first, style="checkerboard"))[1]
    assert np.array_equal(same, slice_frames(Scene(first))[1])


def test_an_overlay_lies_where_it_is_in_space():
    geometry = grid(shape=(40, 40, 5))
    image = Volume(np.zeros(geometry.shape, np.float32), geometry)
    turned = Geometry((40, 40, 5), np.array([[0, -1, 0, 39], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    over = Volume(block(turned, (30, 38), (2, 10), (0, 5)), turned)
    world = turned.to_world((33.5, 5.5, 2))
    frame = slice_frames(Scene(image, overlay=over))[2]
    row, column = middle(frame, lambda p: (p[..., 0] > 200) & (p[..., 1] < 30))
    side = ANIMATION[1] / ANIMATION[0]
    assert row == pytest.approx(1 - (world[1] + 0.5) / 40, abs=0.03)
    assert (column - 0.5) / side + 0.5 == pytest.approx(1 - (world[0] + 0.5) / 40, abs=0.03)


def test_three_channels_are_colours_and_other_numbers_are_refused():
    geometry = grid()
    array = np.zeros((*SHAPE, 3), np.float32)
    array[..., 0] = 1
    pixels = np.asarray(slice_frames(Scene(Volume(array, geometry)))[0]).astype(int)
    assert ((pixels[..., 0] > 250) & (pixels[..., 1:] < 5).all(-1)).mean() > 0.3
    with pytest.raises(InputError, match="but it has 2"):
        Scene(Volume(array[..., :2], geometry))
    with pytest.raises(InputError, match="one channel each"):
        Scene(Volume(array, geometry), overlay=noise(geometry))
    with pytest.raises(InputError, match="not as 'glow'"):
        Scene(noise(geometry), overlay=noise(geometry), style="glow")


def test_warping_goes_from_the_image_to_the_whole_displacement():
    geometry = grid(shape=(40, 40, 5))
    image = Volume(block(geometry, (20, 28), (10, 18), (0, 5)), geometry)
    labels = Volume(image.array, geometry, "labels")
    ddf = np.broadcast_to(np.float32([10, -6, 0]), (*geometry.shape, 3))
    frames = warp_frames(Scene(image, raw=True), ddf, geometry, 2, 5)
    assert len(frames) == 5
    start, end = (middle(frames[n], white) for n in (0, 4))
    # out(i) = image(i + ddf): what was at i is seen at i - ddf
    assert start[0] == pytest.approx(24 / 40, abs=0.01) and end[0] == pytest.approx(14 / 40, abs=0.01)
    side = ANIMATION[1] / ANIMATION[0]
    assert end[1] - start[1] == pytest.approx(6 / 40 * side, abs=0.01)
    halfway = middle(frames[2], white)
    np.testing.assert_allclose(halfway, (start + end) / 2, atol=0.01)
    outlined = warp_frames(Scene(image, labels, raw=True), ddf, geometry, 2, 5)[4]
    edge = middle(outlined, lambda p: np.abs(p - 0.88 * np.array(COLOURS[0])).max(-1) < 45)
    np.testing.assert_allclose(edge, end, atol=0.02)


def test_a_transform_in_space_warps_as_the_ddf_it_stands_for():
    moving_grid = Geometry(
        (24, 22, 7), np.array([[-1.5, 0.2, 0, 20], [0.1, 1.2, 0, -3], [0, 0.1, 2, 0], [0, 0, 0, 1]])
    )
    fixed_grid = Geometry(
        (20, 26, 6), np.array([[-1.4, 0, 0, 21], [0, 1.1, 0, -2], [0, 0, 2.1, 1], [0, 0, 0, 1.0]])
    )
    ddf = np.random.default_rng(0).normal(0, 0.7, (*fixed_grid.shape, 3)).astype(np.float32)
    scene = Scene(noise(moving_grid))
    field = DisplacementField.from_voxels(ddf, fixed_grid, moving_grid)
    by_ddf = np.asarray(warp_frames(scene, ddf, fixed_grid, 3, 2)[1]).astype(int)
    in_space = np.asarray(transform_frames(scene, field, fixed_grid, 3, 2)[1]).astype(int)
    inner = np.s_[30:-30, 115:-115]  # beyond the outermost voxels each goes on in its own way
    assert (np.abs(by_ddf - in_space)[inner] > 2).mean() < 0.001 and np.ptp(by_ddf[inner]) > 200
    still = transform_frames(scene, AffineTransform.identity(), moving_grid, 3, 3)
    zero = warp_frames(scene, np.zeros((*moving_grid.shape, 3), np.float32), moving_grid, 3, 3)
    for first, second in zip(still, zero, strict=True):
        assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() <= 1


def test_a_slice_that_is_not_there_is_named():
    check_slices(grid(), [0, 8], "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: there is no slice 9, the slices are 0 to 8"):
        check_slices(grid(), [3, 9], "a.nii")


def test_frames_can_be_asked_for_again():
    frames = Frames(3, lambda number: number * 2)
    assert list(frames) == [0, 2, 4] == list(frames)
