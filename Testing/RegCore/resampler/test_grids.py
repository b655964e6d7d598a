"""Maps of grids, corners of cells, borders and sizes, against SciPy, NumPy and closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator
from scipy.linalg import expm

from RegCore.resampler import (
    affine_ddf,
    box_sum,
    deconv_output_padding,
    gaussian_filter_3d,
    get_n_bits_combinations,
    get_reference_grid,
    integrate,
    pyramid_combination,
    resample,
    resize3d,
    sample,
    warp_grid,
    warp_image_ddf,
)
from RegCore.space.geometry import InputError

SHAPE = (7, 8, 9)


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


# ---- maps of indices ---------------------------------------------------------------------------------------


def test_affine_maps_move_each_voxel_of_each_sample_by_its_own_matrix():
    theta = noise(2, 4, 3) - 0.5
    index = np.concatenate([np.indices(SHAPE).reshape(3, -1).T, np.ones((504, 1))], 1)
    for grid in (get_reference_grid(SHAPE), get_reference_grid(SHAPE).expand(2, -1, -1, -1, -1)):
        found = warp_grid(grid.double(), theta)
        assert found.shape == (2, 3, *SHAPE)
        np.testing.assert_allclose(found.flatten(2).numpy().swapaxes(1, 2), index @ theta.numpy())
    field = affine_ddf(theta, SHAPE)
    np.testing.assert_allclose(field.numpy(), found.numpy() - np.indices(SHAPE), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_identity_moves_nothing_far_from_the_origin(dtype):
    """Indices beyond 256 don't exist in bfloat16, in which networks may compute."""
    shape = (301, 1, 2)
    assert not affine_ddf(torch.eye(4, 3, dtype=dtype)[None], shape).any()
    image = noise(1, 2, *shape).to(dtype)
    found = warp_image_ddf(image, torch.zeros((1, 3, *shape), dtype=dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)


def test_autocast_leaves_coordinates_in_full_precision():
    theta = (torch.eye(4, 3) + 0.01 * noise(4, 3).float())[None]
    with torch.autocast("cpu", torch.bfloat16):
        found = affine_ddf(theta, (60, 5, 4))
    assert torch.equal(found, affine_ddf(theta, (60, 5, 4)))


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_combinations_of_bits_are_binary_numbers(bits):
    found = ["".join(map(str, row)) for row in get_n_bits_combinations(bits)]
    assert found == [format(i, f"0{bits}b") for i in range(2**bits)]


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_corners_are_combined_to_the_multilinear_interpolation(axes):
    values, t = noise(*[2] * axes), noise(11, axes, seed=1)
    corners = list(values.flatten()[:, None].expand(-1, 11))
    found = pyramid_combination(corners, list((1 - t).T), list(t.T))
    reference = RegularGridInterpolator([(0, 1)] * axes, values.numpy())(t.numpy())
    np.testing.assert_allclose(found.numpy(), reference)
    np.testing.assert_allclose(pyramid_combination(corners, list((1 - t).T)).numpy(), reference)


def test_corners_may_have_any_weights():
    values, floor, ceil = noise(8, 2, 3), noise(3, 2, 1, seed=1), noise(3, 2, 1, seed=2)
    expected = 0
    for value, bits in zip(values, get_n_bits_combinations(3), strict=True):
        for d, bit in enumerate(bits):
            value = value * (ceil if bit else floor)[d]
        expected = expected + value
    torch.testing.assert_close(pyramid_combination(list(values), list(floor), list(ceil)), expected)
    with pytest.raises(InputError, match="7 values came with 3 floor and 3 ceil"):
        pyramid_combination(list(values[:7]), list(floor), list(ceil))


def test_corners_are_combined_by_the_names_of_both_versions_of_deepreg():
    values, floor = list(noise(4, 3, 2)), list(noise(2, 3, 2, seed=1))
    ceil = [1 - weight for weight in floor]
    wanted = sum(
        value * (floor, ceil)[a][0] * (floor, ceil)[b][1]
        for value, (a, b) in zip(values, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
    )
    torch.testing.assert_close(pyramid_combination(values, floor), wanted)
    torch.testing.assert_close(pyramid_combination(values=values, weights=floor), wanted)
    torch.testing.assert_close(pyramid_combination(values, weights=floor), wanted)
    torch.testing.assert_close(
        pyramid_combination(values=values, weight_floor=floor, weight_ceil=ceil), wanted
    )
    for other in ({"weight_floor": floor}, {"weight_ceil": ceil}):
        with pytest.raises(InputError, match="weights stand in place of weight_floor and weight_ceil"):
            pyramid_combination(values, weights=floor, **other)
    with pytest.raises(InputError, match="weight_floor is missing"):
        pyramid_combination(values)


@pytest.mark.parametrize("shape", [(3, 5), (1,), (2, 7, 3, 1), (4, 1, 6)])
@pytest.mark.parametrize("axes", [1, 2, 3, 5])
def test_corners_of_any_shape_are_combined_alike_whatever_the_axis_of_the_weights(shape, axes):
    values = list(noise(2**axes, *shape))
    for own in {shape, (1,) * len(shape), (*shape[:-1], 1), (1, *shape[1:])}:
        floor, ceil = list(noise(axes, *own, seed=1)), list(noise(axes, *own, seed=2))
        expected = sum(
            value * torch.stack([(floor, ceil)[bit][d] for d, bit in enumerate(bits)]).prod(0)
            for value, bits in zip(values, get_n_bits_combinations(axes), strict=True)
        )
        torch.testing.assert_close(pyramid_combination(values, floor, ceil), expected)


def test_weights_that_lack_an_axis_are_not_spread_over_another_one():
    values = list(noise(4, 3, 3, 3))
    with pytest.raises(InputError, match=r"equally many axes.*\(3, 3, 3\), \(3, 3\)"):
        pyramid_combination(values, list(noise(2, 3, 3)))
    with pytest.raises(InputError, match=r"of one length or of 1.*\(3, 3, 3\), \(3, 3, 2\)"):
        pyramid_combination(values, list(noise(2, 3, 3, 2)))


@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid", "full"])
def test_output_padding_is_what_a_transposed_convolution_lacks(kernel, stride, padding):
    cut = {"same": kernel // 2, "valid": 0, "full": kernel - 1}[padding]
    made = F.conv_transpose1d(torch.ones(1, 1, 9), torch.ones(1, 1, kernel), stride=stride, padding=cut)
    for wanted in (made.shape[-1], made.shape[-1] + 2):
        found = deconv_output_padding(9, wanted, kernel, stride, padding)
        assert found == wanted - made.shape[-1]
    sizes = (made.shape[-1], made.shape[-1] + 1)
    assert deconv_output_padding((9, 9), sizes, kernel, stride, padding) == (0, 1)
    with pytest.raises(InputError, match="'half', expected one of same, valid, full"):
        deconv_output_padding(9, 18, kernel, stride, "half")


# ---- sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (5, 8), (1, 6)])
@pytest.mark.parametrize("border", ["edge", "constant", "zero_boundary"])
@pytest.mark.parametrize("nearest", [False, True])
def test_lines_and_planes_are_sampled_as_volumes_are(shape, border, nearest):
    image = 1 + noise(2, 3, *shape)
    high = torch.tensor([n + 1.0 for n in shape]).view(-1, 1, 1)
    at = noise(2, len(shape), 6, 4, seed=1) * high - 1
    found = resample(image, at, border=border, nearest=nearest, fill=-3)
    assert found.shape == (2, 3, 6, 4)
    for b in range(2):
        x, size = at[b].numpy(), np.array(shape).reshape(-1, 1, 1)
        keep = (x >= -0.5) & (x <= size - 0.5) if border == "constant" else (x > 0) & (x <= size - 1)
        keep = keep.all(0) | (border == "edge")
        for c in range(3):
            values = ndimage.map_coordinates(
                image[b, c].numpy(), x, order=0 if nearest else 1, mode="nearest"
            )
            expected = np.where(keep, values, -3 if border == "constant" else 0)
            np.testing.assert_allclose(found[b, c].numpy(), expected, atol=1e-12)


def test_whole_numbers_are_interpolated_too():
    image = torch.tensor([0, 10, 4], dtype=torch.uint8).view(1, 1, 3)
    found = sample(image, torch.tensor([0.5, 1.25, 2.0]).view(1, 1, 3))
    torch.testing.assert_close(found, torch.tensor([5, 8.5, 4]).view(1, 1, 3))


def test_what_has_another_number_of_axes_is_refused():
    with pytest.raises(InputError, match="2 rows came with 3 axes"):
        sample(torch.zeros((1, 1, 3, 3, 3)), torch.zeros((1, 2, 5)))


def test_deepreg_takes_the_slope_before_a_voxel_and_none_at_the_edges():
    line = torch.tensor([0.0, 1, 3, 7, 15], dtype=torch.float64).view(1, 1, 5)
    for border, values in (("edge", [0, 0, 3, 5, 15, 15]), ("zero_boundary", [0, 0, 3, 5, 15, 0])):
        at = torch.tensor([-0.5, 0, 2, 2.5, 4, 4.5], dtype=torch.float64).view(1, 1, 6).requires_grad_()
        found = sample(line, at, border=border, deepreg=True)
        assert found.flatten().tolist() == values
        found.sum().backward()
        assert at.grad.flatten().tolist() == [0, 0, 2, 4, 8, 0]


def test_places_that_are_no_numbers_give_values_that_are_none():
    at = torch.full((1, 3, 4), 1.5)
    at[0, 1, 2] = torch.nan
    found = sample(torch.ones((1, 1, 4, 4, 4)), at, deepreg=True).flatten()
    assert torch.equal(found.isnan(), torch.tensor([False, False, True, False]))


# ---- fields and sizes --------------------------------------------------------------------------------------


def linear_velocity(matrix, shape) -> torch.Tensor:
    centre = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return torch.from_numpy(np.einsum("rc,cijk->rijk", matrix, np.indices(shape) - centre))[None]


@pytest.mark.parametrize("shape", [(12, 14, 15), SHAPE])
def test_integration_on_half_the_grid_gives_the_exponential_of_a_linear_velocity(shape):
    matrix = np.array([[-0.30, 0.10, 0.05], [-0.08, -0.25, 0.04], [0.06, -0.03, -0.35]])
    found = integrate(linear_velocity(matrix, shape), scale=0.5)
    assert found.shape == (1, 3, *shape)
    exact = linear_velocity(expm(matrix) - np.eye(3), shape)
    torch.testing.assert_close(found, exact, atol=0.01, rtol=0)


def test_integration_on_half_the_grid_is_close_to_that_on_all_of_it_for_a_smooth_velocity():
    wave = [np.sin(np.pi * np.arange(n) / (n - 1)) for n in (31, 30, 33)]
    velocity = torch.from_numpy(np.stack([2 * np.einsum("i,j,k->ijk", *wave)] * 3))[None]
    full, half = integrate(velocity), integrate(velocity, scale=0.5)
    assert float((full - half).abs().max()) < 0.07 < 0.15 < float((full - velocity).abs().max())


def test_integration_with_the_border_of_deepreg_has_right_gradients():
    velocity = ((noise(1, 3, 3, 4, 3) - 0.5) * 1.7).requires_grad_()
    for border in ("edge", "zero_boundary"):
        assert torch.autograd.gradcheck(lambda v, b=border: integrate(v, 3, border=b), velocity)
    assert torch.autograd.gradcheck(lambda v: integrate(v, 2, scale=0.6), velocity)


@pytest.mark.parametrize("shape", [(13, 15, 17), (4, 5, 3), (1, 9, 20), SHAPE])
def test_resizing_about_the_centres_of_voxels_keeps_the_box(shape):
    image = noise(2, 3, *SHAPE)
    axes = [(np.arange(n) + 0.5) * o / n - 0.5 for o, n in zip(SHAPE, shape, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    found = resize3d(image, shape, align_corners=False)
    near = resize3d(image, shape, nearest=True)
    cells = [((np.arange(n) * 2 + 1) * o) // (2 * n) for o, n in zip(SHAPE, shape, strict=True)]
    for b, c in np.ndindex(2, 3):
        expected = ndimage.map_coordinates(image[b, c].numpy(), at, order=1, mode="nearest")
        np.testing.assert_allclose(found[b, c].numpy(), expected, atol=1e-12)
        np.testing.assert_array_equal(near[b, c].numpy(), image[b, c].numpy()[np.ix_(*cells)])


# ---- filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("before", [0, 1])
def test_box_sums_see_zeros_or_the_edge_outside(size, before):
    before = min(before, size - 1)
    image = noise(1, 2, 5, 1, 7)
    window = np.ones((size, size, size))
    shift = before - size // 2
    for outside, mode in (("zeros", "constant"), ("edge", "nearest")):
        found = box_sum(image, size, before, outside=outside)
        for c in range(2):
            expected = ndimage.correlate(image[0, c].numpy(), window, mode=mode, origin=shift)
            np.testing.assert_allclose(found[0, c].numpy(), expected, atol=1e-12)
    assert found.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("sigma", [1, 2.0, (1.0, 2.0, 1.5), [0.88, 1.76, 3.52]])
def test_the_gaussian_kernel_is_that_of_scipy_cut_to_its_size(sigma):
    sigmas = np.broadcast_to(sigma, 3)
    kernel = gaussian_filter_3d(sigma).double().numpy()
    for n, s in zip(kernel.shape, sigmas, strict=True):
        assert n % 2 == 1 and 3 * s <= n < 3 * s + 2
    impulse = np.zeros(kernel.shape)
    impulse[tuple(n // 2 for n in kernel.shape)] = 1
    for axis, (n, s) in enumerate(zip(kernel.shape, sigmas, strict=True)):
        impulse = ndimage.gaussian_filter1d(impulse, s, axis, mode="constant", radius=n // 2)
    np.testing.assert_allclose(kernel, impulse, rtol=1e-6)
    with pytest.raises(InputError, match="kernel_sigma is 0"):
        gaussian_filter_3d(0)
