"""Rows of channels read at any place, against the sampler and its derivative by torch."""

import pytest
import torch

from RegCore.resampler import sample
from RegCore.resampler.rows import POINTS, Rows


def case(shape, channels=5, count=400, seed=0):
    """An image and places in it and up to two voxels beyond it, ``(3, N)``."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randn(1, channels, *shape, generator=random)
    sides = torch.tensor(shape).view(3, 1) + 3.0
    return image, torch.rand(3, count, generator=random) * sides - 2


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 6, 5), (4, 1, 1), (2, 2, 2)])
def test_values_and_slopes_are_those_of_the_sampler(shape):
    image, places = case(shape)
    places.requires_grad_(True)
    expected = sample(image, places.view(1, 3, -1, 1, 1))[0].flatten(1).T
    rows = Rows(image)
    values, *slopes = rows.values_and_slopes(places.detach())
    torch.testing.assert_close(values, expected.detach(), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(rows.read(places.detach()), values)
    for channel in range(image.shape[1]):
        (reference,) = torch.autograd.grad(expected[:, channel].sum(), places, retain_graph=True)
        found = torch.stack([slope[:, channel] for slope in slopes])
        torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-4)


def test_whole_places_give_the_voxels_themselves():
    image, _ = case((3, 4, 5))
    places = torch.cartesian_prod(*(torch.arange(n).float() for n in (3, 4, 5))).T
    assert torch.equal(Rows(image).read(places), image[0].flatten(1).T)


def test_many_places_are_read_in_parts():
    image, places = case((5, 6, 7), count=2 * POINTS + 3)
    rows = Rows(image)
    torch.testing.assert_close(rows.read(places)[-2:], rows.read(places[:, -2:]))
