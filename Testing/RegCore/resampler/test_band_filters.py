"""Filters by band matrices, against SciPy, the sums of `box_mean`, and their own transposes."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from RegCore.resampler import box_mean
from RegCore.resampler.band_filters import (
    BLOCK,
    BandFilter,
    gaussian_half,
    means_inside,
    means_of_repeated,
)

SHAPES = [(7, 8, 9), (1, 6, 5), (3, 1, 2 * BLOCK + 5), (BLOCK + 1, 2, 3), (2, 3 * BLOCK, 1)]


def noise(shape, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def inside(shape, halves, like) -> BandFilter:
    return BandFilter([means_inside(n, half) for n, half in zip(shape, halves, strict=True)], like)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigmas", [(1.75, 1.75, 1.75), (0.05, 0.7, 9.0)])
def test_means_are_taken_over_that_part_of_the_window_which_lies_inside(shape, sigmas):
    x = noise(shape)
    expected = x.numpy()
    for axis, sigma in enumerate(sigmas):
        reach = int(np.ceil(3 * sigma - 0.25))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        share = ndimage.convolve1d(np.ones(shape), kernel, axis=axis, mode="constant")
        expected = ndimage.convolve1d(expected, kernel, axis=axis, mode="constant") / share
    found = inside(shape, [gaussian_half(sigma) for sigma in sigmas], x)(x)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("radii", [(2, 2, 2), (1, 0, 3), (9, 2, 1)])
def test_boxes_of_any_radius(radii):
    x = noise((7, 8, 9))
    expected = ndimage.convolve(x.numpy(), np.ones([2 * r + 1 for r in radii]), mode="constant")
    expected /= ndimage.convolve(np.ones(x.shape), np.ones([2 * r + 1 for r in radii]), mode="constant")
    found = inside(x.shape, [[1.0] * (r + 1) for r in radii], x)(x)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 3])
def test_repeated_means_are_those_of_the_box(shape, radius):
    x = noise((2, 3, *shape))
    bands = BandFilter([means_of_repeated(n, radius, times=2) for n in shape], x)
    torch.testing.assert_close(bands(x), box_mean(box_mean(x, radius), radius))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_is_the_transpose(shape):
    x, y = noise((2, *shape)), noise((2, *shape), 1)
    bands = inside(shape, [gaussian_half(2.0)] * 3, x)
    assert float((bands(x) * y).sum()) == pytest.approx(float((x * bands.adjoint(y)).sum()))


def test_what_is_given_stays_and_what_comes_is_new():
    x = noise((5, 4, 3))
    for halves in ([[1.0]] * 3, [[1.0, 0.5]] * 3, [[1.0], [1.0, 0.5], [1.0]]):
        before, found = x.clone(), inside(x.shape, halves, x)(x)
        found += 1
        assert torch.equal(x, before)


def test_views_are_filtered_as_their_values_are():
    x = noise((9, 8, 2, 7)).permute(2, 0, 3, 1)
    bands = inside(x.shape[1:], [gaussian_half(1.0)] * 3, x)
    torch.testing.assert_close(bands(x), bands(x.contiguous()))
