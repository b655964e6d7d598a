"""The overview shows the right places the right way round, whatever the grids, and odd input too."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from RegCore.evaluation.overview import _round_length, overview
from RegCore.evaluation.pictures.panels import Translation, Window, difference_panel, ramp, window_of
from RegCore.evaluation.pictures.sheets import make_sheets, sample_sheet
from RegCore.samples.phantom import make_phantom
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Segment, Volume

AXES = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
NO_LABELS = {"fixed": None, "before": None, "after": None}


def grid(order=(0, 1, 2), signs=(1, 1, 1), degrees=(9, -7, 5), shape=(9, 11, 13), spacing=(2.0, 3.0, 1.5)):
    """An oblique grid whose voxel axes are permuted and flipped patient axes."""
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, list(order)] * np.array(signs)
    affine[:3, :3] = axes * np.array(spacing)
    affine[:3, 3] = (4, -3, 8) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def shifted(transform_mm, geometry):
    """An image of x + 10 y + 100 z at world points, seen through a translation."""
    points = geometry.world_grid() + transform_mm
    return Volume((points @ [1.0, 10.0, 100.0]).astype(np.float32), geometry, "image")


def registration(case, transform, warped, labels=None):
    return SimpleNamespace(
        transform=transform, warped=warped, warped_labels=labels, metrics={"fold_percent": 0.0}, seconds=1.0
    )


@pytest.fixture(scope="module")
def case():
    return make_phantom(seed=1, fixed_shape=(44, 37, 32), moving_shape=(40, 39, 35))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_sheets_run_the_way_their_letters_say(order, signs):
    geometry = grid(order, signs)
    volume = Volume(np.random.default_rng(0).random(geometry.shape, np.float32), geometry, "image")
    for sheet in make_sheets(volume, None, pixels=60):
        left, right, top, bottom = (np.array(AXES[letter]) for letter in sheet.letters)
        across = sheet.world[0, -1] - sheet.world[0, 0]
        down = sheet.world[-1, 0] - sheet.world[0, 0]
        for vector, start, end in ((across, left, right), (down, top, bottom)):
            unit = vector / np.linalg.norm(vector)
            assert unit @ end > 0.95 and unit @ start < -0.95
        steps = np.diff(sheet.world[0], axis=0), np.diff(sheet.world[:, 0], axis=0)
        for step in steps:  # pixels are square, up to rounding to a whole number of them
            np.testing.assert_allclose(np.linalg.norm(step, axis=1), sheet.pixel_mm, rtol=0.03)
        inside = (sheet.index >= -0.5) & (sheet.index <= np.array(geometry.shape) - 0.5)
        assert inside.all()


def test_samples_are_the_images_at_the_mapped_points():
    fixed_grid, moving_grid = grid(), grid((2, 0, 1), (-1, 1, 1), (-4, 3, 12), (20, 17, 15), (2.5, 1.5, 2.5))
    shift = np.array([3.0, -1.0, 2.0])
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    fixed, moving = shifted(shift, fixed_grid), shifted(np.zeros(3), moving_grid)
    for sheet in make_sheets(fixed, None, pixels=40):
        found = sample_sheet(sheet, AffineTransform(matrix), fixed, fixed, moving, NO_LABELS)
        expected = (sheet.world @ [1.0, 10.0, 100.0], (sheet.world + shift) @ [1.0, 10.0, 100.0])
        index = moving_grid.to_index(sheet.world)
        core = ((index > 0) & (index < np.array(moving_grid.shape) - 1)).all(-1)
        assert core.any()
        np.testing.assert_allclose(found.before[core], expected[0][core], rtol=1e-4, atol=1e-2)
        inner = ((sheet.index > 0) & (sheet.index < np.array(fixed_grid.shape) - 1)).all(-1)
        np.testing.assert_allclose(found.fixed[inner], expected[1][inner], rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(found.mm, np.broadcast_to(shift, found.mm.shape), atol=1e-9)
        beyond = ((index < -0.5) | (index > np.array(moving_grid.shape) - 0.5)).any(-1)
        assert np.isnan(found.before[beyond]).all()


def test_steps_in_the_plane_are_right_and_down():
    volume = shifted(np.zeros(3), grid(degrees=(0, 0, 0)))
    axial, coronal, sagittal = make_sheets(volume, None, pixels=50)
    to_left_and_back = np.array([-2.0, -6.0, 4.0])
    np.testing.assert_allclose(axial.in_plane(to_left_and_back) * axial.pixel_mm, [2, 6], atol=1e-9)
    np.testing.assert_allclose(coronal.in_plane(to_left_and_back) * coronal.pixel_mm, [2, -4], atol=1e-9)
    np.testing.assert_allclose(sagittal.in_plane(to_left_and_back) * sagittal.pixel_mm, [6, -4], atol=1e-9)


def test_planes_go_through_the_structures():
    geometry = grid(degrees=(0, 0, 0), shape=(30, 32, 34), spacing=(1, 1, 1))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[4:9, 20:27, 25:30] = 7
    image = Volume(np.random.default_rng(1).random(geometry.shape, np.float32), geometry, "image")
    sheets = make_sheets(image, Volume(labels, geometry, "labels"), pixels=40)
    axial, coronal, sagittal = (sheet.index[0, 0] for sheet in sheets)
    assert 25 <= axial[2] < 30 and 20 <= coronal[1] < 27 and 4 <= sagittal[0] < 9


def test_outlines_lie_on_the_edge_of_the_structures():
    geometry = grid(degrees=(0, 0, 0), shape=(40, 40, 40), spacing=(1, 1, 1))
    centre = geometry.centre
    ball = np.linalg.norm(geometry.world_grid() - centre, axis=-1) < 12
    image = Volume(ball.astype(np.float32), geometry, "image")
    for array in (ball.astype(np.uint8), np.stack([ball, ball], -1).astype(np.uint8)):
        labels = Volume(array, geometry, "labels")
        for sheet in make_sheets(image, labels, pixels=160):
            given = {"fixed": labels, "before": labels, "after": None}
            found = sample_sheet(sheet, AffineTransform.identity(), image, image, image, given)
            assert set(found.outlines) == {"fixed", "before"}
            radius = np.linalg.norm(sheet.world - centre, axis=-1)[found.outlines["fixed"]]
            assert radius.min() > 9.5 and radius.max() < 12.8 and len(radius) > 200


def test_labels_on_a_grid_of_their_own_are_shown_in_their_place():
    geometry = grid(degrees=(0, 0, 0), shape=(40, 40, 40), spacing=(1, 1, 1))
    image = shifted(np.zeros(3), geometry)
    other = Geometry((50, 60, 30), np.diag([-1.0, 1.0, 2.0, 1.0])).moved(
        np.array([[1, 0, 0, 30], [0, 1, 0, -35], [0, 0, 1, -22], [0, 0, 0, 1]])
    )
    place = geometry.centre + [6, -4, 5]
    ball = np.linalg.norm(other.world_grid() - place, axis=-1) < 8
    labels = Volume(ball.astype(np.uint8), other, "labels")
    for sheet in make_sheets(image, labels, pixels=160):
        given = {"fixed": labels, "before": None, "after": None}
        found = sample_sheet(sheet, AffineTransform.identity(), image, image, image, given)
        distance = np.linalg.norm(sheet.world - place, axis=-1)[found.outlines["fixed"]]
        assert len(distance) > 200 and distance.min() > 4.5 and distance.max() < 9.5


def test_registered_images_differ_less_and_the_grid_bends(case):
    mapped = case.truth.map(case.fixed.geometry.world_grid())
    index = np.rint(case.moving.geometry.to_index(mapped)).astype(int)
    nearest = tuple(np.moveaxis(np.clip(index, 0, np.array(case.moving.array.shape) - 1), -1, 0))
    geometry = case.fixed.geometry
    warped = Volume(case.moving.array[nearest], geometry, "image")
    labels = Volume(case.moving_labels.array[nearest], geometry, "labels")
    done = registration(case, case.truth, warped, labels)
    picture = overview(done, case.fixed, case.moving, case.fixed_labels, case.moving_labels)
    assert picture.mode == "RGB" and picture.width > 1500 and picture.height > 600
    pixels = np.asarray(picture).astype(int)[140:-70]
    width = (picture.width - 52) // 6
    before, after = (pixels[:, 52 + n * width + 12 : 52 + (n + 1) * width - 12] for n in (3, 4))
    colourful = [(panel.max(-1) - panel.min(-1)).mean() for panel in (before, after)]
    assert colourful[1] < 0.7 * colourful[0]


def test_other_voxel_orders_of_the_same_images_give_the_same_picture(case):
    identity = AffineTransform.identity()
    first = overview(registration(case, identity, case.fixed), case.fixed, case.moving)

    def turned(volume):
        flip = np.zeros((4, 4))
        flip[0, 2], flip[1, 0], flip[2, 1], flip[3, 3] = 1, 1, -1, 1
        flip[2, 3] = volume.array.shape[2] - 1
        array = np.ascontiguousarray(np.transpose(volume.array[:, :, ::-1], (1, 2, 0)))
        # new index (j, k', i) -> old index (i, j, n - 1 - k')
        return Volume(array, Geometry(array.shape, volume.geometry.affine @ flip), volume.kind)

    np.testing.assert_allclose(
        turned(case.fixed).geometry.to_world([3, 4, 5]),
        case.fixed.geometry.to_world([5, 3, case.fixed.array.shape[2] - 1 - 4]),
    )
    fixed, moving = turned(case.fixed), turned(case.moving)
    second = overview(registration(case, identity, fixed), fixed, moving)
    difference = np.abs(np.asarray(first).astype(int) - np.asarray(second))
    assert np.mean(difference > 12) < 0.01


def test_a_difference_is_nothing_where_only_the_contrast_is_inverted():
    values = np.random.default_rng(0).random((60, 60)) * 100
    inverted = 300 - 3 * values
    translate = Translation(inverted, values, window_of(inverted))
    picture = difference_panel(values, translate(inverted), Window(0, 100))
    zero = ramp(((90, 176, 255), (24, 88, 190), (15, 17, 23), (196, 52, 38), (255, 160, 110)), np.array(0.5))
    assert np.abs(picture.astype(int) - zero).mean() < 8
    other = difference_panel(values, translate(inverted[::-1]), Window(0, 100))
    assert np.abs(other.astype(int) - zero).mean() > 40


@pytest.mark.parametrize("shape", [(2, 3, 40), (1, 9, 9)])
def test_thin_and_constant_volumes_and_images_apart_can_be_shown(shape):
    near, far = grid(shape=shape), grid(shape=shape).moved(np.array([[1, 0, 0, 900], *np.eye(4)[1:]]))
    flat = Volume(np.full(shape, 5, np.int16), near, "image")
    noisy = Volume(np.random.default_rng(0).random(shape, np.float32), far, "image")
    assert overview(registration(None, AffineTransform.identity(), flat), flat, noisy).mode == "RGB"


@pytest.mark.parametrize(("limit", "length"), [(83, 50), (50, 50), (49, 20), (1.2, 1), (0.3, 0.2), (19, 10)])
def test_the_scale_bar_has_a_round_length(limit, length):
    assert _round_length(limit) == pytest.approx(length)


def test_names_of_structures_stand_in_the_fixed_image():
    grid = Geometry((30, 28, 26), np.diag([4.0, 4.0, 4.0, 1.0]))
    image = Volume(np.random.default_rng(0).random(grid.shape).astype(np.float32), grid)
    array = np.zeros(grid.shape, np.uint8)
    array[4:14, 6:22, 6:20], array[17:26, 6:22, 6:20] = 3, 5
    pictures = {}
    for names in ((), ("Liver", "Kidney"), ("Liver", "Spleen")):
        segments = tuple(Segment(n, name) for n, name in zip((3, 5), names, strict=False))
        labels = Volume(array, grid, "labels", segments)
        done = registration(None, AffineTransform.identity(), image, labels)
        pictures[names] = np.asarray(overview(done, image, image, labels, labels)).astype(int)
    plain, one, other = pictures.values()
    changed = np.abs(one - plain).sum(-1) > 0
    columns = np.flatnonzero(changed.any(0))
    assert 300 < changed.sum() < 20_000 and columns.max() < plain.shape[1] / 6  # in the first column only
    different = np.abs(one - other).sum(-1) > 0
    assert 0 < different.sum() < changed.sum()  # Liver stands in both
