"""Label losses against plain numpy, SciPy's filters and sets of voxels."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from RegCore.losses import (
    LABEL_LOSSES,
    centroid,
    centroid_distance,
    cross_entropy,
    dice,
    foreground_proportion,
    generalised_dice,
    jaccard,
    multi_scale,
    ssd,
)
from RegCore.losses.kernels import cauchy_kernel1d
from RegCore.space.geometry import InputError


def memberships(shape=(2, 3, 7, 8, 9), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def masks(seed=0):
    return [x > 0.6 for x in memberships(seed=seed)]


def as_float(masks):
    return [m.to(torch.float64) for m in masks]


def test_dice_and_jaccard_of_masks_count_voxels_structure_by_structure():
    a, b = masks()
    both, either = (a & b).flatten(2).sum(2).double(), (a | b).flatten(2).sum(2)
    total = a.flatten(2).sum(2) + b.flatten(2).sum(2)
    torch.testing.assert_close(dice(*as_float((a, b))), -(2 * both / total).mean(1))
    torch.testing.assert_close(jaccard(*as_float((a, b))), -(both / either).mean(1))


def test_a_background_weight_of_one_scores_the_background():
    a, b = masks()
    for loss in (dice, jaccard):
        inverted = loss(*as_float((~a, ~b)))
        torch.testing.assert_close(loss(*as_float((a, b)), background_weight=1.0), inverted)


def test_binary_cuts_at_one_half_and_passes_no_gradient():
    fixed, warped = memberships()
    warped.requires_grad_(True)
    for loss in (dice, jaccard, cross_entropy, generalised_dice):
        cut = loss((fixed >= 0.5).double(), (warped >= 0.5).double())
        found = loss(fixed, warped, binary=True)
        assert not found.requires_grad
        torch.testing.assert_close(found, cut)


def test_two_empty_structures_agree_and_one_alone_does_not():
    empty, one = torch.zeros(1, 1, 5, 5, 5), torch.zeros(1, 1, 5, 5, 5)
    one[0, 0, 2, 2, 2] = 1
    for loss in (dice, jaccard, generalised_dice):
        assert loss(empty, empty).item() == -1
        assert loss(empty, one).item() == pytest.approx(0, abs=2e-5)
        assert loss(one, one).item() == pytest.approx(-1)


def test_cross_entropy_is_that_of_bernoulli_variables():
    fixed, warped = memberships()
    warped = warped * 0.9 + 0.05
    f, w = fixed.numpy(), warped.numpy()
    expected = (-f * np.log(w) - (1 - f) * np.log(1 - w)).reshape(2, -1).mean(1)
    found = 2 * cross_entropy(fixed, warped, background_weight=0.5, smooth=0.0)
    np.testing.assert_allclose(found, expected)


def test_generalised_dice_weights_structures_by_their_size():
    (a, b), numerator, denominator = masks(), 0.0, 0.0
    for c in range(3):
        weight = 1 / a[0, c].sum().item() ** 2
        numerator += weight * (a & b)[0, c].sum().item()
        denominator += weight * (a[0, c].sum().item() + b[0, c].sum().item())
    found = generalised_dice(*as_float((a, b)))[0].item()
    assert found == pytest.approx(-2 * numerator / denominator, rel=1e-3)


@pytest.mark.parametrize("loss", [dice, jaccard, generalised_dice])
def test_overlap_does_not_depend_on_the_size_of_the_grid(loss):
    """The smoothing constants must not outweigh the sums, however many voxels a structure has."""
    for size in (4, 100):
        fixed, warped = torch.zeros(1, 2, size, size, size), torch.zeros(1, 2, size, size, size)
        fixed[:, 0, : size // 2], fixed[:, 1, size // 2 :] = 1, 1
        apart, half = fixed.flip(1), fixed.clone()
        warped[:] = fixed
        half[:, :, :, : size // 2] = 0
        assert loss(fixed, apart).item() == pytest.approx(0, abs=1e-5)
        assert loss(fixed, warped).item() == pytest.approx(-1)
        assert loss(fixed, half).item() == pytest.approx(-1 / 2 if loss is jaccard else -2 / 3, abs=1e-5)


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_every_loss_has_the_gradient_of_finite_differences_at_two_scales(name):
    fixed, warped = memberships((2, 2, 3, 4, 3))
    warped = (0.1 + 0.8 * warped).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda w: LABEL_LOSSES[name](fixed, w, scales=[0, 1]), warped)


def test_scales_smooth_as_scipy_does_with_zeros_outside():
    fixed, warped = memberships((1, 1, 7, 8, 9))
    expected = []
    for sigma in (1, 2):
        pair = (ndimage.gaussian_filter(x[0, 0], sigma, mode="constant", truncate=3) for x in (fixed, warped))
        expected.append(np.mean(np.subtract(*pair) ** 2))
    expected.append(np.mean((fixed - warped).numpy() ** 2))
    assert ssd(fixed, warped, scales=[1, 2, 0]).item() == pytest.approx(np.mean(expected))
    kernel, smooth = cauchy_kernel1d(1.5, dtype=torch.float64), []
    for x in (fixed[0, 0].numpy(), warped[0, 0].numpy()):
        for axis in range(3):
            x = ndimage.correlate1d(x, kernel, axis, mode="constant")
        smooth.append(x)
    found = ssd(fixed, warped, scales=1.5, kernel="cauchy").item()
    assert found == pytest.approx(np.mean(np.subtract(*smooth) ** 2))


def test_the_width_of_a_kernel_may_exceed_the_image():
    fixed, warped = memberships((1, 1, 4, 5, 3))
    assert 0 > dice(fixed, warped, scales=[32]).item() > -1


def test_centroids_are_those_of_scipy_and_an_empty_structure_has_none():
    a, b = as_float(masks())
    a[1, 2] = 0
    found, distance = centroid(a), centroid_distance(a, b, spacing=(1, 2, 3))
    expected = np.array(ndimage.center_of_mass(a[0, 1].numpy()))
    np.testing.assert_allclose(found[0, 1], expected)
    other = np.array(ndimage.center_of_mass(b[0, 1].numpy()))
    assert distance[0, 1].item() == pytest.approx(np.linalg.norm((expected - other) * [1, 2, 3]))
    assert found[1, 2].isnan().all() and distance[1, 2].isnan()
    torch.testing.assert_close(centroid(a, deepreg=True)[1, 2], torch.ones(3, dtype=torch.float64))


def test_the_foreground_is_counted():
    a, _ = masks()
    torch.testing.assert_close(foreground_proportion(a.float()), a.float().flatten(2).mean(2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scales": []}, "one number or more"),
        ({"scales": [1, -2]}, "none of them negative"),
        ({"scales": [1], "kernel": "box"}, "kernel is 'box', expected one of gaussian, cauchy"),
    ],
)
def test_scales_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        multi_scale(dice, *memberships(), **options)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("loss", [dice, jaccard, cross_entropy])
def test_a_background_weight_that_is_no_share_is_refused(loss, weight):
    with pytest.raises(InputError, match="background_weight must lie between 0 and 1"):
        loss(torch.rand(1, 1, 3, 3, 3), torch.rand(1, 1, 3, 3, 3), background_weight=weight)
