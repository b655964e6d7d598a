"""Sampling, composing, integrating and filtering of tensors, against SciPy, closed forms and gradcheck."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.linalg import expm

from RegCore.resampler import (
    affine_coordinates,
    box_mean,
    compose,
    gaussian_smooth,
    integrate,
    reference_grid,
    resize3d,
    resize_ddf,
    sample,
    warp_image_ddf,
)

SHAPE = (7, 8, 9)
THIN = [SHAPE, (1, 8, 3), (2, 1, 3), (3, 2, 1)]


def noise(shape, seed=0, channels=1, dtype=torch.float32) -> torch.Tensor:
    """Uniform noise ``(1, C, *shape)``."""
    return torch.from_numpy(np.random.default_rng(seed).random((1, channels, *shape))).to(dtype)


def places(shape, count=200, beyond=2.0, seed=1) -> torch.Tensor:
    """Random places ``(1, 3, count, 1, 1)`` in voxels, some of them outside the grid."""
    high = np.array(shape) - 1.0 + beyond
    index = np.random.default_rng(seed).uniform(-beyond, high, (count, 3))
    return torch.from_numpy(index.T.copy())[None, :, :, None, None]


def by_scipy(image: torch.Tensor, at: torch.Tensor, order=1) -> np.ndarray:
    """Values of each channel at the places, edges extended."""
    index = at[0].flatten(1).numpy()
    return np.stack(
        [ndimage.map_coordinates(c, index, order=order, mode="nearest") for c in image[0].numpy()]
    )


@pytest.fixture
def threads():
    """Sets the number of torch's threads for one test; puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---- sample ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*THIN, (1, 1, 1)])
def test_linear_values_are_those_of_scipy_with_edges_extended(shape):
    image, at = noise(shape, channels=3, dtype=torch.float64), places(shape)
    found = sample(image, at)[0].flatten(1).numpy()
    np.testing.assert_allclose(found, by_scipy(image, at), atol=1e-12)


def test_each_entry_of_a_batch_has_its_own_image_and_places():
    image = torch.cat([noise(SHAPE, 0, 2), noise(SHAPE, 1, 2)]).double()
    at = torch.cat([places(SHAPE, seed=1), places(SHAPE, seed=2)])
    found = sample(image, at).flatten(2).numpy()
    for n in range(2):
        np.testing.assert_allclose(found[n], by_scipy(image[n : n + 1], at[n : n + 1]), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float64])
def test_nearest_values_are_of_the_nearest_voxel_in_the_dtype_of_the_image(dtype):
    image = (noise(SHAPE) * 200).to(dtype)
    at = places(SHAPE)
    index = [np.clip(np.round(at[0, d].flatten().numpy()), 0, n - 1).astype(int) for d, n in enumerate(SHAPE)]
    found = sample(image, at, nearest=True)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.flatten().numpy(), image[0, 0].numpy()[tuple(index)])


def test_halves_round_up():
    image = torch.arange(4, dtype=torch.int32).view(1, 1, 4, 1, 1)
    at = torch.zeros((1, 3, 4, 1, 1))
    at[0, 0, :, 0, 0] = torch.tensor([-0.5, 0.5, 1.5, 2.5])
    assert sample(image, at, nearest=True).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("nearest", [False, True])
def test_a_constant_border_begins_half_a_voxel_beyond_the_last_voxel_centre(nearest):
    image, at = 1 + noise(SHAPE, dtype=torch.float64), places(SHAPE, 2000)
    inside = np.ones(2000, bool)
    for d, n in enumerate(SHAPE):
        x = at[0, d].flatten().numpy()
        inside &= (x >= -0.5) & (x <= n - 0.5)
    assert 0.2 < inside.mean() < 0.8
    found = sample(image, at, border="constant", fill=-7.0, nearest=nearest).flatten().numpy()
    edge = sample(image, at, border="edge", nearest=nearest).flatten().numpy()
    np.testing.assert_array_equal(found, np.where(inside, edge, -7.0))


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match="'mirror', expected one of edge, constant, zero_boundary"):
        sample(noise(SHAPE), places(SHAPE).float(), border="mirror")


@pytest.mark.parametrize("border", ["edge", "constant", "zero_boundary"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 4, 2)])
def test_gradients_with_respect_to_image_and_coordinates(border, shape):
    image = noise(shape, channels=2, dtype=torch.float64).requires_grad_()
    at = places(shape, 30, beyond=0.9).requires_grad_()  # none of them on a kink, at whole coordinates
    assert torch.autograd.gradcheck(lambda i, x: sample(i, x, border=border, fill=0.3), (image, at))


@pytest.mark.parametrize("count", [2, 3])
def test_the_work_of_several_threads_is_that_of_one(threads, count):
    image, at = noise(SHAPE, channels=2), places(SHAPE, 9001).float()
    threads(1)
    alone = sample(image, at)
    threads(count)
    assert torch.equal(sample(image, at), alone)
    assert alone.shape == (1, 2, 9001, 1, 1)


def test_gradients_of_several_threads_are_those_of_one(threads):
    found = []
    for count in (1, 2):
        threads(count)
        image, at = noise(SHAPE).double().requires_grad_(), places(SHAPE, 5001).requires_grad_()
        sample(image, at).square().sum().backward()
        found.append((image.grad, at.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


# ---- displacements -----------------------------------------------------------------------------------------


def test_the_reference_grid_counts_voxels():
    grid = reference_grid(SHAPE)
    assert grid.shape == (1, 3, *SHAPE)
    np.testing.assert_array_equal(grid[0].numpy(), np.indices(SHAPE))


def test_affine_coordinates_of_a_block_are_matrix_times_index():
    matrix = np.vstack([np.random.default_rng(0).normal(size=(3, 4)), [0, 0, 0, 1]])
    index = np.indices((2, 3, 4)).reshape(3, -1).T + [5, 0, 7]
    found = affine_coordinates(matrix, (2, 3, 4), start=(5, 0, 7), dtype=torch.float64)
    np.testing.assert_allclose(
        found.numpy().reshape(3, -1).T, index @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-12
    )


def test_a_ddf_pulls_values_from_where_it_points():
    image, ddf = noise(SHAPE), torch.zeros((1, 3, *SHAPE))
    ddf[:, 0], ddf[:, 1], ddf[:, 2] = 2, -1, 3
    found = warp_image_ddf(image, ddf)[0, 0].numpy()
    np.testing.assert_allclose(found[:-2, 1:, :-3], image[0, 0, 2:, :-1, 3:].numpy(), atol=1e-6)


def test_the_zero_ddf_leaves_the_image_as_it_is():
    image = noise(SHAPE)
    torch.testing.assert_close(warp_image_ddf(image, torch.zeros((1, 3, *SHAPE))), image, atol=1e-6, rtol=0)


def linear_field(matrix, shape) -> torch.Tensor:
    """The DDF ``matrix @ (index - centre)``, float64."""
    index = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return torch.from_numpy(np.einsum("rc,cijk->rijk", matrix, index))[None]


# Inward: no point leaves the grid.
INWARD = np.array([[-0.30, 0.10, 0.05], [-0.08, -0.25, 0.04], [0.06, -0.03, -0.35]])


def test_composing_linear_maps_multiplies_their_matrices():
    other = np.array([[-0.2, 0.05, 0.0], [0.1, -0.3, -0.05], [0.0, 0.04, -0.1]])
    found = compose(linear_field(INWARD, SHAPE), linear_field(other, SHAPE))
    product = (np.eye(3) + INWARD) @ (np.eye(3) + other) - np.eye(3)
    torch.testing.assert_close(found, linear_field(product, SHAPE))


def test_compose_applies_the_inner_displacement_first():
    outer = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, *SHAPE)))
    inner = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, *SHAPE)))
    first = np.indices(SHAPE) + inner[0].numpy()
    second = np.stack([ndimage.map_coordinates(c, first, order=1, mode="nearest") for c in outer[0].numpy()])
    np.testing.assert_allclose(
        compose(outer, inner)[0].numpy(), first + second - np.indices(SHAPE), atol=1e-12
    )


def test_a_constant_velocity_is_its_own_displacement():
    velocity = torch.tensor([1.5, -2.25, 0.3]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    torch.testing.assert_close(integrate(velocity), velocity.contiguous(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_linear_velocity_becomes_the_exponential_of_its_matrix(steps):
    found = integrate(linear_field(INWARD, SHAPE), steps)
    squared = np.linalg.matrix_power(np.eye(3) + INWARD / 2**steps, 2**steps)
    torch.testing.assert_close(found, linear_field(squared - np.eye(3), SHAPE))
    if steps == 7:
        exact = linear_field(expm(INWARD) - np.eye(3), SHAPE)
        torch.testing.assert_close(found, exact, atol=0.005, rtol=0)


def test_backward_velocity_undoes_forward_velocity():
    velocity = linear_field(INWARD / 3, SHAPE)
    there_and_back = compose(integrate(-velocity), integrate(velocity))
    inner = there_and_back[:, :, 2:-2, 2:-2, 2:-2]  # further out, the way back begins beyond the grid
    assert float(inner.abs().max()) < 0.005 < 0.1 < float(integrate(velocity)[:, :, 2:-2].abs().max())


# ---- resizing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(13, 15, 17), (4, 5, 3), (7, 3, 20), SHAPE])
def test_resizing_keeps_the_corner_voxels_and_is_linear_between(shape):
    image = noise(SHAPE, channels=2, dtype=torch.float64)
    axes = [np.linspace(0, o - 1, n) for o, n in zip(SHAPE, shape, strict=True)]
    at = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij")))[None]
    found = resize3d(image, shape)
    assert found.shape == (1, 2, *shape)
    np.testing.assert_allclose(found[0].flatten(1).numpy(), by_scipy(image, at), atol=1e-12)


@pytest.mark.parametrize("shape", [(13, 15, 17), (4, 5, 3), SHAPE])
def test_a_resized_ddf_carries_the_same_points_to_the_same_places(shape):
    ddf = noise(SHAPE, channels=3, dtype=torch.float64) * 4 - 2
    step = (np.array(SHAPE) - 1) / (np.array(shape) - 1)  # old voxels per new voxel
    index = np.indices(shape) * step.reshape(3, 1, 1, 1)
    target = index + by_scipy(ddf, torch.from_numpy(index)[None]).reshape(index.shape)
    found = resize_ddf(ddf, shape)[0].numpy()
    np.testing.assert_allclose((np.indices(shape) + found) * step.reshape(3, 1, 1, 1), target, atol=1e-12)


# ---- filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", THIN)
@pytest.mark.parametrize("radius", [0, 1, 2, 4])
def test_box_means_are_those_of_scipy(shape, radius):
    image = noise(shape, channels=2, dtype=torch.float64)
    expected = [ndimage.uniform_filter(c, 2 * radius + 1, mode="nearest") for c in image[0].numpy()]
    np.testing.assert_allclose(box_mean(image, radius)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", THIN)
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, (0.5, 2.0, 1.3), (0, 3.5, 0)])
def test_gaussian_smoothing_is_that_of_scipy_cut_at_three_sigma(shape, sigma):
    image = noise(shape, channels=2, dtype=torch.float64)
    expected = [ndimage.gaussian_filter(c, sigma, mode="nearest", truncate=3) for c in image[0].numpy()]
    np.testing.assert_allclose(gaussian_smooth(image, sigma)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("function", [lambda x: box_mean(x, 2), lambda x: gaussian_smooth(x, (0.7, 0, 1.5))])
def test_filters_leave_their_input_alone_and_have_right_gradients(function):
    image = noise((4, 3, 5), dtype=torch.float64).requires_grad_()
    before = image.detach().clone()
    assert torch.autograd.gradcheck(function, image)
    assert torch.equal(image.detach(), before)
