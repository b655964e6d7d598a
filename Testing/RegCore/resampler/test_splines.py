"""Fields on control points, against SciPy's B-splines, and what DeepReg does otherwise."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline

from RegCore.resampler import bspline_field, control_point_field, onto_control_points
from RegCore.space.geometry import InputError

CASES = [((7, 8, 9), (2, 2, 2)), ((9, 7, 12), (3, 2, 5)), ((1, 6, 5), (4, 1, 8))]


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def basis(places: np.ndarray, count: int, spacing: int) -> np.ndarray:
    """SciPy's cubic B-splines about (q - 1) spacing, q of 0..count, at places of an axis."""
    knots = (np.arange(count + 4) - 3.0) * spacing
    return BSpline.design_matrix(places, knots, 3).toarray()


def spread(places, points: torch.Tensor, spacing) -> np.ndarray:
    rows = [basis(x, n, s) for x, n, s in zip(places, points.shape[2:], spacing, strict=True)]
    return np.einsum("ip,jq,kr,bcpqr->bcijk", *rows, points.numpy())


@pytest.mark.parametrize("shape, spacing", CASES)
def test_the_field_of_control_points_is_the_spline_of_scipy(shape, spacing):
    points = noise(2, 3, *[-(-n // s) + 3 for n, s in zip(shape, spacing, strict=True)])
    found = bspline_field(points, spacing, shape)
    np.testing.assert_allclose(found.numpy(), spread(map(np.arange, shape), points, spacing), atol=1e-12)
    later = bspline_field(points, spacing, shape, deepreg=True)
    expected = spread([np.arange(n) + 0.5 for n in shape], points, spacing)
    np.testing.assert_allclose(later.numpy(), expected, atol=1e-12)


def test_without_a_size_the_field_goes_as_far_as_its_points():
    points = noise(1, 1, 3, 4, 5)
    found = bspline_field(points, (2, 1, 3))
    assert found.shape == (1, 1, 12, 7, 24)
    padded = torch.nn.functional.pad(points, (3,) * 6)
    inner = bspline_field(
        padded, (2, 1, 3), found.shape[2:]
    )  # three more points ahead: begins 3 spacings later
    torch.testing.assert_close(inner, found)


@pytest.mark.parametrize("shape, spacing", CASES)
def test_control_points_hold_the_smoothed_field_at_their_places(shape, spacing):
    field = noise(1, 2, *shape)
    points = onto_control_points(field, spacing)
    places = [(np.arange(n) - 1) * s for n, s in zip(points.shape[2:], spacing, strict=True)]
    assert all(x[-1] >= n for x, n in zip(places, shape, strict=True))
    at = np.stack(np.meshgrid(*places, indexing="ij"))
    for c in range(2):
        smooth = field[0, c].numpy()
        for axis, s in enumerate(spacing):
            radius = max(int(3 * 0.44 * s + 0.5), 1)
            smooth = ndimage.gaussian_filter1d(smooth, 0.44 * s, axis, mode="nearest", radius=radius)
        expected = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
        np.testing.assert_allclose(points[0, c].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape, spacing", CASES)
def test_a_constant_is_kept_up_to_the_edges(shape, spacing):
    field = torch.full((1, 3, *shape), 2.5, dtype=torch.float64)
    torch.testing.assert_close(control_point_field(field, spacing), field)


def test_a_linear_field_is_kept_inside_where_deepreg_stretches_it():
    ramp = torch.arange(64.0).view(1, 1, 64, 1, 1)
    inside = slice(24, 40)
    torch.testing.assert_close(control_point_field(ramp, (8, 1, 1))[:, :, inside], ramp[:, :, inside])
    stretched = control_point_field(ramp.expand(1, 1, 64, 9, 9), (8, 1, 1), deepreg=True)[0, 0, :, 4, 4]
    slope = float(stretched[inside].diff().mean())
    assert slope == pytest.approx(64 / (11 * 8), abs=1e-3)  # the image over 11 points 8 voxels apart


def test_a_smooth_field_is_followed_closely_and_noise_is_not():
    wave = torch.sin(torch.arange(48, dtype=torch.float64) / 6).view(1, 1, 48, 1, 1)
    assert float((control_point_field(wave, (2, 1, 1)) - wave)[:, :, 4:-4].abs().max()) < 0.05
    rough = noise(1, 1, 64, 64, 4) - 0.5
    assert float(control_point_field(rough, (4, 4, 1)).std()) < 0.2 * float(rough.std())


@pytest.mark.parametrize("deepreg", [False, True])
def test_gradients_of_a_field_on_control_points(deepreg):
    field = noise(2, 2, 5, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: control_point_field(x, (2, 3, 2), deepreg=deepreg), field)


def test_autocast_leaves_displacements_in_full_precision():
    field = noise(1, 3, 9, 8, 7).float() * 30
    with torch.autocast("cpu", torch.bfloat16):
        found = control_point_field(field, 2)
    assert torch.equal(found, control_point_field(field, 2))


@pytest.mark.parametrize("spacing", [0, -2, 1.5, (2, 2), "four"])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(InputError, match="spacing of control points"):
        control_point_field(torch.zeros((1, 3, 4, 4, 4)), spacing)
