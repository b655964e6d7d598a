"""Rows of channels and pairs of slices read at any place, against the sampler and its derivative by torch."""

import pytest
import torch

from RegCore.resampler import folding_fraction, sample, voxel_jacobian
from RegCore.resampler.rows import POINTS, Rows, SlicePairs


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


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 6, 5), (4, 1, 1), (2, 2, 2), (1, 1, 1), (160, 150, 3)])
def test_pairs_of_slices_give_what_the_sampler_does(shape):
    image, places = case(shape, channels=1)
    expected = sample(image, places.view(1, 3, -1, 1, 1)).view(-1)
    tolerance = 1e-6 * shape[0] * shape[1]  # places are float32 in units of all lines
    torch.testing.assert_close(SlicePairs(image).read(places), expected, rtol=0, atol=max(tolerance, 1e-5))
    near = places[:, places[0].abs() < 2]
    expected = sample(image, near.view(1, 3, -1, 1, 1)).view(-1)
    torch.testing.assert_close(SlicePairs(image).read(near), expected, rtol=0, atol=1e-3)


def test_jacobians_in_slabs_are_determinants(monkeypatch):
    ddf = torch.randn(1, 3, 7, 8, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    here = ddf[0, :, :-1, :-1, :-1]
    ahead = ddf[0, :, 1:, :-1, :-1], ddf[0, :, :-1, 1:, :-1], ddf[0, :, :-1, :-1, 1:]
    columns = torch.stack([part - here for part in ahead], -1).movedim(0, -2)
    expected = torch.linalg.det(torch.eye(3).double() + columns)
    for slab in (1, 130, 2**16):
        monkeypatch.setattr("RegCore.resampler.fields.SLAB", slab)
        torch.testing.assert_close(voxel_jacobian(ddf), expected)
    assert folding_fraction(ddf) == pytest.approx(float((expected <= 0).double().mean()))
