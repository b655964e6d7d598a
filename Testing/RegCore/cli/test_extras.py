"""Starts by name and what is made of a registration on demand."""

import numpy as np
import pytest
import SimpleITK as sitk

import RegCore
from RegCore.cli.extras import STARTS, extras, maps_command, named_start, small
from RegCore.progress import silent
from RegCore.registration.compact import FOUND_ON
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume


def ball(shape, affine, centre) -> Volume:
    """A bright ball about a place (mm) on a dark ground with a little noise."""
    grid = Geometry(shape, affine)
    away = np.linalg.norm(grid.world_grid() - centre, axis=-1)
    noise = np.random.default_rng(0).normal(0, 1, shape)
    return Volume((100 * (away < 9) + noise).astype(np.float32), grid)


FIXED = ball((30, 28, 26), np.diag([2.0, 2.0, 2.0, 1.0]), np.array([20.0, 30.0, 22.0]))
MOVING = ball((26, 30, 24), np.diag([-2.0, 2.0, 2.5, 1.0]), np.array([-30.0, 24.0, 34.0]))


def test_as_they_lie_is_the_identity():
    np.testing.assert_array_equal(named_start("header", FIXED, MOVING).matrix, np.eye(4))


def test_centres_are_those_of_the_grids():
    start = named_start("centres", FIXED, MOVING)
    np.testing.assert_allclose(start.map(FIXED.geometry.centre), MOVING.geometry.centre)
    np.testing.assert_array_equal(start.matrix[:3, :3], np.eye(3))


def test_moments_lay_what_is_seen_on_what_is_seen():
    start = named_start("moments", FIXED, MOVING)
    np.testing.assert_allclose(start.map(np.array([20.0, 30.0, 22.0])), [-30.0, 24.0, 34.0], atol=1.0)
    flat = Volume(np.zeros_like(FIXED.array), FIXED.geometry)
    np.testing.assert_allclose(
        named_start("moments", flat, flat).matrix, np.eye(4), atol=1e-9
    )  # nothing stands out


def turned() -> np.ndarray:
    matrix = np.eye(4)
    c, s = np.cos(0.4), np.sin(0.4)
    matrix[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    matrix[:3, 3] = [5.0, -7.0, 11.0]
    return matrix


@pytest.mark.parametrize("count", [3, 8])
def test_landmarks_give_a_turn_and_a_shift(count):
    points = np.random.default_rng(1).normal(0, 20, (count, 3))
    pairs = np.c_[points, AffineTransform(turned()).map(points)]
    np.testing.assert_allclose(named_start("landmarks", FIXED, MOVING, pairs).matrix, turned(), atol=1e-9)


LINE = [[n, 2.0 * n, 3] for n in range(5)]


@pytest.mark.parametrize("points", [LINE[:1], LINE[:2], LINE])
def test_too_few_landmarks_or_some_in_line_give_a_shift(points):
    pairs = np.c_[points, np.array(points) + [1.0, -2.0, 3.0]]
    wanted = np.eye(4)
    wanted[:3, 3] = [1.0, -2.0, 3.0]
    np.testing.assert_allclose(named_start("landmarks", FIXED, MOVING, pairs).matrix, wanted, atol=1e-9)


def test_what_can_not_be_a_start_is_said():
    with pytest.raises(InputError, match="needs a pair"):
        named_start("landmarks", FIXED, MOVING)
    with pytest.raises(InputError, match=f"is 'centers', expected one of {', '.join(STARTS)}"):
        named_start("centers", FIXED, MOVING)


@pytest.fixture(scope="module")
def done():
    pair = RegCore.make_phantom(fixed_shape=(20, 18, 16), moving_shape=(18, 19, 17))
    return pair, RegCore.register(pair.fixed, pair.moving, method="rigid", device="cpu")


def test_without_wishes_there_is_the_warped_image_alone(done):
    pair, result = done
    found = extras({}, pair.moving, result)
    assert list(found) == ["warped"] and found["warped"] is result.warped


def test_inverse_and_maps_are_those_of_the_transform(done):
    pair, result = done
    found = extras({"inverse": True, "jacobian": True, "displacement": True}, pair.moving, result)
    assert set(found) == {"warped", "inverse", "jacobian", "displacement"}
    points = np.random.default_rng(0).normal(0, 30, (9, 3))
    np.testing.assert_allclose(found["inverse"].map(result.transform.map(points)), points, atol=1e-6)
    np.testing.assert_allclose(found["jacobian"].array, 1, atol=1e-5)
    grid = pair.fixed.geometry
    moved = result.transform.map(grid.world_grid().reshape(-1, 3)).reshape(*grid.shape, 3)
    length = np.linalg.norm(moved - grid.world_grid(), axis=-1)
    np.testing.assert_allclose(found["displacement"].array, length, rtol=1e-4)


def test_interpolation_and_fill_are_those_of_warp(done):
    pair, result = done
    found = extras({"interpolation": "nearest", "fill": -5.0}, pair.moving, result)["warped"]
    wanted = RegCore.warp(
        pair.moving, result.transform, pair.fixed.geometry, interpolation="nearest", fill=-5.0
    )
    np.testing.assert_array_equal(found.array, wanted.array)
    assert np.isin(found.array, [*np.unique(pair.moving.array), -5.0]).all()


def test_a_large_field_is_sent_small_unless_it_is_wanted_whole():
    grid = Geometry((160, 150, 140), np.eye(4))
    waves = np.sin(np.indices(grid.shape) / 60).transpose(1, 2, 3, 0).astype(np.float32)
    field = DisplacementField(grid, waves)
    assert small(field, full=True) is field
    assert small(field).geometry.voxels < 1.2 * FOUND_ON < grid.voxels
    affine = AffineTransform.identity()
    assert small(affine) is affine


def test_the_worker_starts_where_it_is_told_and_makes_what_is_wanted(done):
    from RegCore.cli.worker import register_command

    pair, told = done[0], []
    arguments = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "method": "rigid",
        "landmarks": pair.landmarks,
        "initial": "landmarks",
        "device": "auto",
        "wanted": {"inverse": True, "displacement": True, "interpolation": "cubic"},
    }
    found = register_command(arguments, lambda *event: told.append(event))
    assert found["device"] in ("cpu", "cuda")
    assert (0.0, f"starting on {found['device']}", {"device": found["device"]}) in told
    points = pair.landmarks[:, :3]
    np.testing.assert_allclose(found["inverse"].map(found["transform"].map(points)), points, atol=1e-6)
    assert "jacobian" not in found and found["displacement"].array.shape == pair.fixed.array.shape
    begun = found["landmark_errors"]["before"]
    fitted = named_start("landmarks", pair.fixed, pair.moving, pair.landmarks).map(points)
    np.testing.assert_allclose(begun, np.linalg.norm(fitted - pair.landmarks[:, 3:], axis=1), atol=1e-6)
    cubic = RegCore.warp(pair.moving, found["transform"], pair.fixed.geometry, interpolation="cubic")
    np.testing.assert_array_equal(found["warped"].array, cubic.array)
    with pytest.raises(InputError, match="the start is 'middle'"):
        register_command({**arguments, "initial": "middle"}, lambda *event: None)


def grid(turn=None, shape=(9, 8, 7)) -> Geometry:
    """Anisotropic, its axes along L, P and S unless it is turned."""
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([-1.0, -1.0, 1.0]) if turn is None else turn) * (1.5, 0.8, 2.5)
    affine[:3, 3] = (4, -9, 30)
    return Geometry(shape, affine)


def itk_image(mm: np.ndarray, geometry: Geometry):
    """A field in RAS mm as SimpleITK has it, in LPS."""
    flip = np.diag([-1.0, -1.0, 1.0])
    image = sitk.GetImageFromArray((mm @ flip).transpose(2, 1, 0, 3), isVector=True)
    image.SetSpacing(geometry.spacing.tolist())
    image.SetDirection((flip @ geometry.affine[:3, :3] / geometry.spacing).ravel().tolist())
    image.SetOrigin((flip @ geometry.affine[:3, 3]).tolist())
    return image


def test_the_maps_of_a_field_are_those_of_simpleitk():
    geometry = grid()  # not turned: ITK's filter takes no account of the direction of the axes
    x = geometry.world_grid() / 5
    mm = 4 * np.stack([np.sin(x[..., 1]), np.cos(x[..., 2]) + 0.3 * x[..., 0], np.sin(x[..., 0])], -1)
    fixed = Volume(np.zeros(geometry.shape, np.float32), geometry, "image")
    made = maps_command({"transform": DisplacementField(geometry, mm), "fixed": fixed}, silent)
    reference = sitk.DisplacementFieldJacobianDeterminant(itk_image(mm, geometry), True)
    inner = (slice(1, -1),) * 3  # at the border ITK takes the field for constant outside
    expected = sitk.GetArrayFromImage(reference).transpose(2, 1, 0)
    assert np.allclose(made["jacobian"].array[inner], expected[inner], atol=1e-5)
    assert expected[inner].std() > 0.05
    lengths = sitk.GetArrayFromImage(sitk.VectorMagnitude(itk_image(mm, geometry))).transpose(2, 1, 0)
    assert np.allclose(made["displacement"].array, lengths, atol=1e-5)


def test_the_map_of_a_field_that_is_linear_is_its_determinant_on_any_grid():
    rng = np.random.default_rng(1)
    geometry = grid(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    matrix = np.eye(3) + 0.2 * rng.normal(size=(3, 3))
    mm = geometry.world_grid() @ (matrix - np.eye(3)).T + (3, -4, 5)
    fixed = Volume(np.zeros(geometry.shape, np.float32), geometry, "image")
    made = maps_command({"transform": DisplacementField(geometry, mm), "fixed": fixed}, silent)
    assert np.allclose(made["jacobian"].array, np.linalg.det(matrix), atol=1e-5)
    assert abs(np.linalg.det(matrix) - 1) > 0.03


def test_the_maps_of_a_linear_transform_are_on_the_fixed_grid():
    matrix = np.diag([1.2, 0.9, 1.0, 1.0])
    matrix[:3, 3] = 3, 0, 0
    fixed = Volume(np.zeros((7, 8, 9), np.float32), Geometry((7, 8, 9), np.diag([2.0, 1, 1, 1])), "image")
    made = maps_command({"transform": AffineTransform(matrix), "fixed": fixed}, silent)
    assert np.allclose(made["jacobian"].array, 1.08) and made["jacobian"].geometry.is_close(fixed.geometry)
    assert made["displacement"].array[2, 3, 0] == pytest.approx(np.hypot(0.2 * 4 + 3, 0.1 * 3))
