"""MIND-SSC and local contrast, against their formulas written out in numpy."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import ndimage

from RegCore.resampler import descriptors
from RegCore.resampler.descriptors import local_contrast, mind_ssc

SHAPE = (7, 8, 9)


def noise(shape=SHAPE, seed=0, batch=1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((batch, 1, *shape)))


def naive_mind(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """The formula in the docstring of `mind_ssc`, voxel by voxel shift: (12, I, J, K)."""
    neighbours = [sign * dilation * np.eye(3, dtype=int)[axis] for axis in range(3) for sign in (1, -1)]

    def at(offset):
        index = [np.clip(np.arange(n) + o, 0, n - 1) for n, o in zip(image.shape, offset, strict=True)]
        return image[np.ix_(*index)]

    patch = [np.array(p) for p in product(range(-radius, radius + 1), repeat=3)]
    distances = []
    for a, b in combinations(neighbours, 2):
        if (a + b).any():  # opposite neighbours sum to zero
            distances.append(np.mean([(at(a + p) - at(b + p)) ** 2 for p in patch], axis=0))
    distance = np.array(distances) - np.min(distances, axis=0)
    variance = distance.mean(0)
    variance = np.clip(variance, 0.001 * variance.mean(), 1000 * variance.mean())
    return np.exp(-distance / variance)


@pytest.mark.parametrize("shape", [SHAPE, (3, 1, 5)])
@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (1, 1), (2, 2), (0, 3), (2, 1)])
def test_mind_is_its_formula(shape, radius, dilation):
    image = noise(shape)
    image[0, 0, :2] *= 1e-3  # so that the lower bound of the variance is at work
    found = mind_ssc(image, radius=radius, dilation=dilation)[0].numpy()
    expected = naive_mind(image[0, 0].numpy(), radius, dilation)
    assert found.shape == (12, *shape)
    np.testing.assert_allclose(np.sort(found, 0), np.sort(expected, 0), atol=1e-9)


def test_each_pair_of_neighbours_has_a_channel():
    image = noise()
    found, expected = mind_ssc(image)[0].numpy(), naive_mind(image[0, 0].numpy(), 1, 2)
    apart = np.abs(found[:, None] - expected[None]).reshape(12, 12, -1).max(-1)
    partner = apart.argmin(1)
    assert sorted(partner) == list(range(12)), "a pair of neighbours is missing or counted twice"
    assert apart.min(1).max() < 1e-9


def test_mind_lies_between_zero_and_one_and_the_likest_pair_has_one():
    found = mind_ssc(noise())
    assert found.min() >= 0 and found.max() == 1
    assert torch.equal(found.amax(1), torch.ones((1, *SHAPE), dtype=found.dtype))


@pytest.mark.parametrize(("scale", "shift"), [(-1.0, 3.0), (250.0, -1024.0), (0.01, 0.0)])
def test_mind_does_not_care_for_brightness_contrast_or_its_sign(scale, shift):
    image = noise()
    torch.testing.assert_close(mind_ssc(scale * image + shift), mind_ssc(image), atol=1e-8, rtol=0)


def test_mind_turns_with_the_image():
    image = noise((6, 7, 8))
    turned = mind_ssc(image.permute(0, 1, 4, 2, 3)).permute(0, 1, 3, 4, 2)
    # the same 12 values at each voxel, in another order of channels
    torch.testing.assert_close(turned.sort(1).values, mind_ssc(image).sort(1).values)


def test_mind_of_a_flat_image_is_one_everywhere():
    assert torch.equal(mind_ssc(torch.full((1, 1, *SHAPE), 37.0)), torch.ones((1, 12, *SHAPE)))


def test_mind_of_one_image_does_not_depend_on_the_others_of_its_batch():
    pair = noise(batch=2)
    pair[1] *= 50
    for n in range(2):
        torch.testing.assert_close(mind_ssc(pair)[n : n + 1], mind_ssc(pair[n : n + 1]))


@pytest.mark.parametrize("bounds", [(0.9, 1000.0), (0.001, 1.1), (0.9, 1.1)])
def test_the_slope_of_mind_is_right_where_the_variance_is_bounded(monkeypatch, bounds):
    monkeypatch.setattr(descriptors, "LOW", bounds[0])
    monkeypatch.setattr(descriptors, "HIGH", bounds[1])
    weights = noise((4, 3, 5), seed=1, batch=12).transpose(0, 1)
    image = noise((4, 3, 5)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: (weights * mind_ssc(x)).sum(), image)


@pytest.mark.parametrize("scale", [1e-30, 0.0])
def test_mind_of_a_flat_or_nearly_flat_image_has_a_finite_slope(scale):
    image = (scale * noise().float() + scale).requires_grad_(True)
    mind_ssc(image)[:, ::2].sum().backward()
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("function", [mind_ssc, local_contrast])
def test_features_leave_the_image_alone(function):
    image = noise()
    before = image.clone()
    function(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("shape", [SHAPE, (2, 1, 9)])
def test_local_contrast_is_its_formula(shape, radius):
    image = noise(shape, seed=1)
    image[0, 0, -1, 0, -1] = 40.0  # so that something is clipped
    array = image[0, 0].numpy()
    mean = ndimage.uniform_filter(array, 2 * radius + 1, mode="nearest")
    square = ndimage.uniform_filter(array**2, 2 * radius + 1, mode="nearest")
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    expected = np.clip((array - mean) / (spread + 0.1 * spread.mean()), -3, 3) / 3
    np.testing.assert_allclose(local_contrast(image, radius=radius)[0, 0].numpy(), expected, atol=1e-9)
    assert np.abs(expected).max() <= 1


def test_local_contrast_keeps_the_sign_of_contrast_and_ignores_its_size():
    image = noise()
    torch.testing.assert_close(local_contrast(5 * image - 3), local_contrast(image), atol=1e-9, rtol=0)
    torch.testing.assert_close(local_contrast(-image), -local_contrast(image), atol=1e-9, rtol=0)


def test_local_contrast_of_a_flat_image_is_zero():
    assert torch.equal(local_contrast(torch.full((1, 1, *SHAPE), 0.5)), torch.zeros((1, 1, *SHAPE)))
