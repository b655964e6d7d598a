"""How warping finds values between voxels: nearest, linear, and the cubic spline against SciPy's."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from RegCore.resampler import warp
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.resampler.test_warp import IDENTITY, MOVING, ONTO, scan, tilt, transform_of


@pytest.mark.parametrize("kind", ["affine", "coarse field"])
def test_cubic_is_the_spline_of_scipy(kind):
    moving, onto = scan(), next(iter(ONTO.values()))
    transform = transform_of(kind, onto)
    index = np.moveaxis(moving.geometry.to_index(transform.map(onto.world_grid())), -1, 0)
    size = np.reshape(moving.array.shape, (3, 1, 1, 1))
    wanted = map_coordinates(moving.array.astype(float), np.clip(index, 0, size - 1), order=3, mode="mirror")
    inside = ((index >= -0.5) & (index <= size - 0.5)).all(0)
    found = warp(moving, transform, onto, interpolation="cubic", fill=-3.0).array
    assert 0 < inside.sum() < inside.size and found.dtype == np.float32
    np.testing.assert_allclose(found[inside], wanted[inside], atol=0.02)
    assert (found[~inside] == -3).all()
    edge = warp(moving, transform, onto, interpolation="cubic", border="edge").array
    np.testing.assert_allclose(edge, wanted, atol=0.02)


def test_cubic_meets_a_smooth_image_better_than_linear_does():
    grid = Geometry((24, 22, 20), np.eye(4))
    wave = lambda x: 100 * np.sin(x[..., 0] / 2) * np.cos(x[..., 1] / 2.5)  # noqa: E731
    moved = AffineTransform(np.array([[1, 0, 0, 0.4], [0, 1, 0, 0.3], [0, 0, 1, 0.5], [0, 0, 0, 1.0]]))
    image = Volume(wave(grid.world_grid()).astype(np.float32), grid)
    wanted = wave(moved.map(grid.world_grid()))
    inner = (slice(3, -3),) * 3
    error = {
        how: np.abs(warp(image, moved, grid, interpolation=how).array - wanted)[inner].max()
        for how in ("nearest", "linear", "cubic")
    }
    assert error["cubic"] < 0.1 * error["linear"] < 0.1 * error["nearest"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_nearest_invents_no_value(dtype):
    array = np.random.default_rng(3).integers(0, 200, MOVING.shape).astype(dtype)
    onto = next(iter(ONTO.values()))
    found = warp(Volume(array, MOVING), tilt(), onto, interpolation="nearest", fill=7).array
    assert np.isin(found, [*np.unique(array), 7]).all() and len(np.unique(found)) > 50


@pytest.mark.parametrize("how", ["nearest", "linear", "cubic"])
def test_labels_and_thin_and_constant_images_take_any_interpolation(how):
    labels = Volume(np.random.default_rng(0).integers(0, 5, MOVING.shape).astype(np.uint8), MOVING, "labels")
    onto = next(iter(ONTO.values()))
    np.testing.assert_array_equal(
        warp(labels, tilt(), onto, interpolation=how).array, warp(labels, tilt(), onto).array
    )
    thin = Volume(np.full((9, 8, 1), 4.0, np.float32), Geometry((9, 8, 1), np.eye(4)))
    np.testing.assert_allclose(warp(thin, IDENTITY, thin.geometry, interpolation=how).array, 4, atol=1e-5)


def test_an_unknown_interpolation_or_border_of_it_is_said():
    with pytest.raises(InputError, match="the interpolation is 'spline', expected one of linear"):
        warp(scan(), IDENTITY, MOVING, interpolation="spline")
    with pytest.raises(InputError, match="the border of a cubic interpolation is 'zero_boundary'"):
        warp(scan(), IDENTITY, MOVING, interpolation="cubic", border="zero_boundary")
