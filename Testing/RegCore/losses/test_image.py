"""Image losses against references in numpy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

import RegCore.losses.image as image_losses
from RegCore.losses import IMAGE_LOSSES, gmi, gncc, lncc, make_loss, mind, ssd
from RegCore.losses.kernels import SIZE_KERNELS
from RegCore.resampler.descriptors import mind_ssc
from RegCore.space.geometry import InputError

SHAPE = (2, 1, 7, 8, 9)


def images(shape=SHAPE, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.rand(shape, generator=generator, dtype=dtype)
    return fixed, 0.6 * fixed + 0.4 * torch.rand(shape, generator=generator, dtype=dtype)


def windowed(array: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Weighted sums over windows, zeros outside; SciPy centres an even kernel one voxel further on."""
    for axis in range(3):
        array = correlate1d(array, kernel, axis, mode="constant", origin=-1 if len(kernel) % 2 == 0 else 0)
    return array


def reference_lncc(f: np.ndarray, w: np.ndarray, kernel: np.ndarray, smooth_dr: float = 1e-5) -> float:
    """Squared correlation per window from weighted moments about the window's own means."""
    inside, volume = windowed(np.ones_like(f), kernel), kernel.sum() ** 3
    mean_f, mean_w = windowed(f, kernel) / inside, windowed(w, kernel) / inside
    cross = volume * (windowed(f * w, kernel) / inside - mean_f * mean_w)
    var_f = volume * (windowed(f * f, kernel) / inside - mean_f**2)
    var_w = volume * (windowed(w * w, kernel) / inside - mean_w**2)
    return float((cross**2 / (var_f * var_w + smooth_dr)).mean())


@pytest.mark.parametrize(
    ("kernel_type", "size"),
    [("rectangular", 3), ("rectangular", 4), ("rectangular", 9), ("triangular", 5), ("gaussian", 4)],
)
def test_lncc_is_the_mean_over_windows_of_the_squared_correlation(kernel_type, size):
    fixed, warped = images()
    kernel = SIZE_KERNELS[kernel_type](size, dtype=torch.float64).numpy()
    expected = [-reference_lncc(fixed[b, 0].numpy(), warped[b, 0].numpy(), kernel) for b in range(2)]
    found = lncc(fixed, warped, kernel_size=size, kernel_type=kernel_type)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_lncc_does_not_take_what_lies_outside_for_image_as_deepreg_does():
    fixed, warped = images((1, 1, 7, 8, 9))
    brighter = fixed + 3, warped + 3  # zeros outside are a strong edge now
    assert abs(lncc(*brighter) - lncc(fixed, warped)) < 1e-9
    assert abs(lncc(*brighter, deepreg=True) - lncc(fixed, warped, deepreg=True)) > 0.05


def test_a_flat_image_scores_nothing_in_lncc_and_gncc_and_best_in_deepreg():
    fixed, _ = images(dtype=torch.float32)
    flat = torch.full_like(fixed, 0.7)
    for loss in (lncc, gncc):
        assert loss(fixed, flat).abs().max() < 1e-6
    flat = torch.zeros_like(fixed)
    for loss in (lncc, gncc):
        torch.testing.assert_close(loss(fixed, flat, deepreg=True), torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize("name", IMAGE_LOSSES)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_flat_image_is_no_better_than_a_similar_one_and_has_a_finite_slope(name, level):
    fixed, warped = images(dtype=torch.float32)
    for pair in ((fixed, torch.full_like(fixed, level)), (torch.full_like(fixed, level), fixed)):
        moved = pair[1].clone().requires_grad_(True)
        value = IMAGE_LOSSES[name](pair[0], moved)
        value.sum().backward()
        assert moved.grad.isfinite().all()
        assert (value > IMAGE_LOSSES[name](fixed, warped) + 0.01).all()


def test_lncc_sees_no_change_of_contrast_within_a_float32():
    fixed, _ = images(dtype=torch.float32)
    torch.testing.assert_close(lncc(fixed, 0.2 * fixed + 0.5), torch.tensor([-1.0, -1.0]), atol=2e-3, rtol=0)


def test_lncc_without_a_gradient_wanted_makes_none_and_scores_the_same():
    fixed, warped = images()
    plain = lncc(fixed, warped)
    assert not plain.requires_grad
    warped.requires_grad_(True)
    torch.testing.assert_close(lncc(fixed, warped).detach(), plain)
    with torch.no_grad():
        assert not lncc(fixed, warped).requires_grad


@pytest.mark.parametrize("name", IMAGE_LOSSES)
def test_channels_are_compared_one_by_one_and_averaged(name):
    fixed, warped = images((2, 3, 7, 5, 6))
    loss = IMAGE_LOSSES[name]
    apart = torch.stack([loss(fixed[:, [c]], warped[:, [c]]) for c in range(3)]).mean(0)
    torch.testing.assert_close(loss(fixed, warped), apart)


def test_gncc_is_the_square_of_pearsons_correlation():
    fixed, warped = images()
    expected = [-(np.corrcoef(fixed[b].ravel(), warped[b].ravel())[0, 1] ** 2) for b in range(2)]
    np.testing.assert_allclose(gncc(fixed, warped), expected, rtol=1e-6)
    warped.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda w: gncc(fixed[..., :3, :3, :2], w), warped[..., :3, :3, :2])


def test_gmi_of_values_on_bin_centres_is_that_of_a_plain_histogram():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 5, (7, 8, 9))
    b = (a + generator.integers(0, 2, a.shape)) % 5
    joint = np.histogram2d(a.ravel(), b.ravel(), bins=5)[0] / a.size
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    expected = -(joint[joint > 0] * np.log(joint[joint > 0] / outer[joint > 0])).sum()
    pair = [torch.from_numpy(x / 4.0)[None, None] for x in (a, b)]
    assert gmi(*pair, num_bins=5, sigma_ratio=0.05).item() == pytest.approx(expected, abs=2e-3)


def test_gmi_does_not_depend_on_the_chunks_it_is_made_in(monkeypatch):
    fixed, warped = images()
    results = []
    for chunk in (50, 10**6):
        monkeypatch.setattr(image_losses, "CHUNK", chunk)
        moved = warped.clone().requires_grad_(True)
        loss = gmi(fixed, moved)
        loss.sum().backward()
        results.append((loss.detach(), moved.grad))
    torch.testing.assert_close(results[0], results[1])


def test_gmi_moves_what_lies_outside_the_range_to_its_ends():
    fixed, warped = images()
    torch.testing.assert_close(gmi(fixed, 1.5 * warped), gmi(fixed, (1.5 * warped).clamp(0, 1)))


def test_mind_compares_the_structure_of_images_of_any_contrast():
    fixed, warped = images((2, 1, 9, 8, 7))
    apart = (mind_ssc(fixed, dilation=1) - mind_ssc(warped, dilation=1)).numpy() ** 2
    np.testing.assert_allclose(mind(fixed, warped, dilation=1), apart.reshape(2, -1).mean(1))
    other_contrast = torch.stack([-3 * fixed[0], 0.01 * fixed[1] + 7])
    assert mind(fixed, other_contrast).max() < 1e-9 < 0.01 < mind(fixed, warped).min()


def test_mind_moves_an_image_of_inverted_contrast_onto_the_other():
    i, j, k = (torch.arange(n, dtype=torch.float64) for n in (14, 12, 13))

    def ball(centre):
        square = (i[:, None, None] - centre) ** 2 + (j[:, None] - 6) ** 2 + (k - 6) ** 2
        return torch.exp(-square / 8)[None, None]

    shift = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    mind(ball(6.0), 1 - ball(6.0 + shift)).sum().backward()
    assert shift.grad > 0  # the way back is downhill
    with torch.no_grad():
        values = [mind(ball(6.0), 1 - ball(6.0 + s)).item() for s in (2, 1, 0.5, 0)]
    assert values == sorted(values, reverse=True) and values[-1] < 1e-9


def test_ssd_is_the_mean_square_of_the_difference():
    fixed, warped = images()
    expected = ((fixed - warped).numpy() ** 2).reshape(2, -1).mean(1)
    np.testing.assert_allclose(ssd(fixed, warped), expected)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda f, w: lncc(f, w, kernel_type="round"), "kernel_type is 'round'"),
        (lambda f, w: lncc(f, w, kernel_size=0), "kernel_size is 0"),
        (lambda f, w: lncc(f, w, kernel_size=4, kernel_type="triangular"), "odd size"),
        (lambda f, w: gmi(f, w, num_bins=1), "num_bins"),
        (lambda f, w: mind(f, w, radius=-1), "radius of at least 0"),
        (lambda f, w: mind(f, w, dilation=0), "dilation of at least 1"),
        (lambda f, w: lncc(f, w[..., 1:]), r"of one shape, but they are \(2, 1, 7, 8, 9\)"),
        (lambda f, w: ssd(f[0], w[0]), "of one shape"),
        (lambda f, w: ssd(f, w.long()), "torch.int64"),
        (lambda f, w: make_loss({"name": "lnc"}, IMAGE_LOSSES), "'lnc', expected one of lncc, ssd"),
        (lambda f, w: make_loss({"kernel_size": 3}, IMAGE_LOSSES), "loss is missing"),
        (lambda f, w: make_loss({"name": "gmi", "bins": 3}, IMAGE_LOSSES), "no argument 'bins'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(*images())


def test_a_configured_loss_has_its_arguments():
    fixed, warped = images()
    made = make_loss({"name": "lncc", "kernel_size": 5}, IMAGE_LOSSES)
    torch.testing.assert_close(made(fixed, warped), lncc(fixed, warped, kernel_size=5))
