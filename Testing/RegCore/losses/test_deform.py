"""Deformation losses against polynomials whose derivatives are known, numpy's differences."""

import numpy as np
import pytest
import torch

from RegCore.losses import DEFORMATION_LOSSES, ON_VELOCITY, bending, central_difference, diffusion, gradient
from RegCore.space.geometry import InputError

SHAPE = (7, 8, 9)


def grid(shape=SHAPE):
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")


def polynomial(shape=SHAPE):
    """A field with second derivatives (components 0, 1, 2): ii 1.0, jk 0.4; ij -0.6; kk 2.0."""
    i, j, k = grid(shape)
    return torch.stack([0.5 * i**2 + 0.4 * j * k + j, -0.6 * i * j + 3, k**2 - 2 * i])[None]


def affine_field(shape=SHAPE):
    i, j, k = grid(shape)
    return torch.stack([0.3 * i - 0.2 * j, 1 + 0.5 * k, 0.1 * i + 0.2 * j - 0.4 * k])[None]


def noise(shape=(2, 3, *SHAPE), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("deepreg", [False, True])
def test_bending_of_a_polynomial_is_exact(deepreg):
    expected = (1.0**2 + 2 * 0.4**2 + 2 * 0.6**2 + 2.0**2) / 3
    assert bending(polynomial(), deepreg=deepreg).item() == pytest.approx(expected)
    assert bending(affine_field(), deepreg=deepreg).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("deepreg", [False, True])
def test_the_gradient_norm_of_an_affine_field_is_that_of_its_matrix(deepreg):
    entries = np.array([0.3, -0.2, 0.5, 0.1, 0.2, -0.4])
    squares = gradient(affine_field(), deepreg=deepreg).item()
    moduli = gradient(affine_field(), l1=True, deepreg=deepreg).item()
    assert squares == pytest.approx((entries**2).sum() / 3)
    assert moduli == pytest.approx(np.abs(entries).sum() / 3)


@pytest.mark.parametrize("loss", [bending, gradient, diffusion])
def test_each_sample_may_have_a_spacing_of_its_own(loss):
    fields, spacings = noise().requires_grad_(), torch.tensor([(0.5, 2.0, 3.0), (1.5, 0.7, 1.0)])
    together = loss(fields, spacing=spacings)
    alone = [loss(fields[n : n + 1], spacing=spacings[n].tolist()) for n in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))
    (slope,) = torch.autograd.grad(together.sum(), fields)
    torch.testing.assert_close(slope, torch.autograd.grad(sum(alone).sum(), fields)[0])
    with pytest.raises(InputError, match="three positive lengths"):
        loss(fields, spacing=spacings[:1])


def test_millimetres_weigh_components_and_axes_by_their_spacing():
    s = spacing = (0.5, 2.0, 3.0)
    in_mm = [s[0] / s[0] ** 2, s[0] / (s[1] * s[2]) * 0.4, s[1] / (s[0] * s[1]) * 0.6, s[2] / s[2] ** 2 * 2.0]
    expected = (in_mm[0] ** 2 + 2 * in_mm[1] ** 2 + 2 * in_mm[2] ** 2 + in_mm[3] ** 2) / 3
    assert bending(polynomial(), spacing=spacing).item() == pytest.approx(expected)
    entries = [0.3, -0.2 * s[0] / s[1], 0.5 * s[1] / s[2], 0.1 * s[2] / s[0], 0.2 * s[2] / s[1], -0.4]
    assert gradient(affine_field(), spacing=spacing).item() == pytest.approx(np.square(entries).sum() / 3)


def test_gradient_takes_the_differences_of_all_neighbours():
    ddf = noise()
    for power, l1 in ((2, False), (1, True)):
        parts = [np.abs(np.diff(ddf.numpy(), axis=a)) ** power for a in (2, 3, 4)]
        expected = sum(p.reshape(2, -1).mean(1) for p in parts)
        np.testing.assert_allclose(gradient(ddf, l1=l1), expected)


def test_a_field_that_alternates_is_free_in_deepreg_and_dear_in_ours():
    i, j, k = grid()
    ddf = torch.where((i + j + k) % 2 == 0, 1.0, -1.0).double().expand(1, 3, -1, -1, -1)
    for loss in (bending, gradient):
        assert loss(ddf, deepreg=True).item() == pytest.approx(0, abs=1e-12)
        assert loss(ddf).item() > 1


@pytest.mark.parametrize("shape", [(7, 8, 4), (7, 2, 9), (1, 8, 9), (1, 1, 1)])
def test_small_grids_have_a_finite_energy_and_deepregs_is_nan(shape):
    ddf = noise((1, 3, *shape)).requires_grad_(True)
    energy = bending(ddf) + gradient(ddf)
    energy.sum().backward()
    assert energy.isfinite().all() and ddf.grad.isfinite().all()
    assert bending(ddf, deepreg=True).isnan().all()


def test_each_sample_has_its_own_energy():
    ddf = noise()
    for loss in DEFORMATION_LOSSES.values():
        torch.testing.assert_close(loss(ddf), torch.cat([loss(ddf[:1]), loss(ddf[1:])]))


def test_the_diffusion_of_a_velocity_is_the_sum_of_its_squared_slopes():
    v, spacing = noise().numpy(), (0.5, 2.0, 3.0)
    expected = 0
    for a, length in enumerate(spacing):
        in_mm = np.diff(v, axis=a + 2) * np.reshape(spacing, (3, 1, 1, 1)) / length
        expected = expected + (in_mm**2).reshape(2, -1).mean(1)
    np.testing.assert_allclose(diffusion(torch.from_numpy(v), spacing=spacing), expected)
    assert diffusion(affine_field()).item() == pytest.approx(
        sum(np.square([0.3, 0.2, 0.5, 0.1, 0.2, 0.4])) / 3
    )


def test_the_losses_that_look_at_the_velocity_are_deformation_losses():
    assert ON_VELOCITY and set(DEFORMATION_LOSSES) > ON_VELOCITY


def test_central_differences_are_numpys_without_the_border():
    x = noise((1, 1, *SHAPE))
    for axis in range(3):
        expected = np.gradient(x[0, 0].numpy(), axis=axis)[1:-1, 1:-1, 1:-1]
        np.testing.assert_allclose(central_difference(x, axis)[0, 0], expected)


@pytest.mark.parametrize(
    ("shape", "spacing", "sentence"),
    [
        ((1, 2, 5, 5, 5), None, r"shape \(B, 3, I, J, K\), but it is \(1, 2, 5, 5, 5\)"),
        ((1, 3, 5, 5, 5), (1, 1), "three positive lengths"),
        ((1, 3, 5, 5, 5), (1, 0, 1), "three positive lengths"),
    ],
)
def test_what_is_no_field_or_no_spacing_is_refused(shape, spacing, sentence):
    with pytest.raises(InputError, match=sentence):
        bending(torch.zeros(shape), spacing=spacing)
