"""Where ours differs from DeepReg: each entry of Docs/differences-from-deepreg.md, both ways.

What DeepReg does is written out here in numpy or in plain torch; that the options equal DeepReg itself is
held by the recorded cases in Testing/test_golden.py.
"""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from RegCore import losses
from RegCore.loaders.augmentation import AUGMENTATIONS, in_voxels, random_affine
from RegCore.loaders.images import resized
from RegCore.losses import bending, centroid, centroid_distance, dice, gncc, gradient, jaccard, lncc
from RegCore.networks.layers import BatchNorm3d, Extraction
from RegCore.registration.optimisers import make_optimiser
from RegCore.resampler import affine_ddf, reference_grid, sample, warp_image_ddf
from RegCore.resampler.pyramid import normalize_array
from Testing.paths import ROOT

DOCUMENT = ROOT / "Docs" / "differences-from-deepreg.md"
SHAPE = (7, 8, 9)


def images(shape=(2, 1, *SHAPE), seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fixed, noise = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return fixed, 0.6 * fixed + 0.4 * noise


def as_one_channel(x: torch.Tensor) -> torch.Tensor:
    """All channels as one, which is how DeepReg takes them."""
    return x.movedim(1, -1).flatten(3)[:, None]


# ---- the document ------------------------------------------------------------------------------------------


def entries() -> dict[str, str]:
    """Heading -> text of each entry of the document."""
    parts = re.split(r"^### (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.split("\n## ")[0] for part in parts[1::2]), strict=True))


@pytest.mark.parametrize("heading", entries())
def test_every_entry_names_a_test_that_exists(heading):
    found = re.findall(r"\*\*Test\*\*: `(Testing/[^`]+\.py)::(\w+)`", entries()[heading])
    assert found, f"{heading} names no test"
    for path, name in found:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path} has no {name}"


# ---- warping -----------------------------------------------------------------------------------------------


def test_an_identity_warp_keeps_the_first_slices():
    image, _ = images()
    still = torch.zeros(2, 3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(warp_image_ddf(image, still), image)
    blanked = image.clone()
    blanked[:, :, 0], blanked[:, :, :, 0], blanked[..., 0] = 0, 0, 0
    torch.testing.assert_close(warp_image_ddf(image, still, border="zero_boundary"), blanked)


def test_the_slope_at_a_whole_coordinate():
    image, _ = images((1, 1, *SHAPE))
    slopes = {}
    for border in ("edge", "zero_boundary"):
        ddf = torch.zeros(1, 3, *SHAPE, dtype=torch.float64, requires_grad=True)
        warp_image_ddf(image, ddf, border=border).sum().backward()
        slopes[border] = ddf.grad[0, :, 1:-1, 1:-1, 1:-1]
    grid = reference_grid(SHAPE, dtype=torch.float64).requires_grad_(True)
    sample(image, grid, deepreg=True).sum().backward()
    slopes["deepreg"] = grid.grad[0, :, 1:-1, 1:-1, 1:-1]
    for d in range(3):
        steps = image[0, 0].diff(dim=d)
        for e in range(3):
            steps = steps if e == d else steps.narrow(e, 1, SHAPE[e] - 2)
        before, after = steps.narrow(d, 0, SHAPE[d] - 2), steps.narrow(d, 1, SHAPE[d] - 2)
        torch.testing.assert_close(slopes["zero_boundary"][d], before)
        torch.testing.assert_close(slopes["deepreg"][d], before)
        missed = torch.minimum((slopes["edge"][d] - before).abs(), (slopes["edge"][d] - after).abs())
        assert missed.max() < 1e-9


# ---- losses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [lncc, gncc])
def test_a_flat_image_is_not_the_best_match(loss):
    fixed, other = images()
    for level in (0.0, 1.0):
        flat = torch.full_like(fixed, level)
        assert loss(fixed, flat).abs().max() < 1e-6
        assert (loss(fixed, other) < loss(fixed, flat)).all()
    flat = torch.zeros_like(fixed)
    torch.testing.assert_close(loss(fixed, flat, deepreg=True), -torch.ones(2, dtype=torch.float64))
    if loss is lncc:
        explicit = loss(fixed, flat, smooth_nr=1e-5)
        torch.testing.assert_close(explicit, -torch.ones(2, dtype=torch.float64))


def deepregs_lncc(fixed: torch.Tensor, warped: torch.Tensor, size: int) -> torch.Tensor:
    """Sums over windows with zeros outside, all divided by the number of voxels of a whole window."""
    kernel, n = torch.ones(1, 1, size, size, size, dtype=fixed.dtype), size**3
    sums = [
        F.conv3d(x, kernel, padding=size // 2) for x in (fixed, warped, fixed**2, warped**2, fixed * warped)
    ]
    f, w, ff, ww, fw = sums
    cross, var_f, var_w = fw - f * w / n, (ff - f * f / n).clamp_min(0), (ww - w * w / n).clamp_min(0)
    return -((cross**2 + 1e-5) / (var_f * var_w + 1e-5)).flatten(1).mean(1)


def test_windows_at_the_border_see_the_image_alone():
    fixed, warped = images()
    brighter = fixed + 1, warped + 1
    torch.testing.assert_close(lncc(*brighter, kernel_size=5), lncc(fixed, warped, kernel_size=5))
    theirs = [lncc(*pair, kernel_size=5, deepreg=True) for pair in ((fixed, warped), brighter)]
    for found, pair in zip(theirs, ((fixed, warped), brighter), strict=True):
        torch.testing.assert_close(found, deepregs_lncc(*pair, 5))
    assert (theirs[1] < theirs[0] - 0.05).all()  # brighter alone is better


def test_each_channel_has_its_own_score():
    large, small = torch.zeros(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE)
    large[:, :, 1:6], small[:, :, 3, 4, 4] = 1, 1
    fixed, warped = torch.cat([large, small], 1), torch.cat([large, torch.zeros_like(small)], 1)
    for loss in (dice, jaccard):
        assert loss(fixed, warped).item() == pytest.approx(-0.5, abs=1e-4)
    pair = as_one_channel(fixed), as_one_channel(warped)
    n = large.sum().item()
    assert dice(*pair).item() == pytest.approx(-2 * n / (2 * n + 1))
    assert jaccard(*pair).item() == pytest.approx(-n / (n + 1))


def test_an_empty_label_has_no_centroid():
    label = torch.zeros(1, 2, *SHAPE)
    label[0, 0, 2, 4, 6] = 1
    assert centroid(label)[0, 0].tolist() == [2, 4, 6] and centroid(label)[0, 1].isnan().all()
    assert centroid_distance(label, label.flip(1)).isnan().all()
    theirs = centroid(label, deepreg=True)
    torch.testing.assert_close(theirs[0, 1], torch.ones(3))
    np.testing.assert_allclose(theirs[0, 0], (np.array([2, 4, 6]) + 1e-5) / (1 + 1e-5), rtol=1e-6)
    distance = np.linalg.norm(np.subtract([2, 4, 6], 1))
    assert centroid_distance(label, label.flip(1), deepreg=True)[0, 0] == pytest.approx(distance, rel=1e-4)


def alternating() -> torch.Tensor:
    sign = 1 - 2 * (sum(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij")) % 2)
    return sign.double().expand(1, 3, *SHAPE).clone()


def test_an_alternating_field_is_not_smooth():
    for loss in (gradient, bending):
        assert loss(alternating()).item() > 1
        assert loss(alternating(), deepreg=True).item() == 0
    ddf = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    central = np.stack(np.gradient(ddf[0].numpy(), axis=(1, 2, 3)))[:, :, 1:-1, 1:-1, 1:-1]
    assert gradient(ddf, deepreg=True).item() == pytest.approx((central**2).mean((1, 2, 3, 4)).sum())
    assert gradient(ddf, l1=True, deepreg=True).item() == pytest.approx(
        np.abs(central).mean((1, 2, 3, 4)).sum()
    )
    second = np.gradient(central, axis=(2, 3, 4))  # [along which][component, …] of each first derivative
    second = np.stack([s[:, :, 1:-1, 1:-1, 1:-1] for s in second])
    assert bending(ddf, deepreg=True).item() == pytest.approx((second**2).mean((2, 3, 4, 5)).sum())


def test_small_grids_have_a_finite_energy():
    for n in range(1, 6):
        ddf = torch.randn(1, 3, 7, 8, n, generator=torch.Generator().manual_seed(n))
        assert bending(ddf).isfinite().all() and gradient(ddf).isfinite().all()
        assert bending(ddf, deepreg=True).isnan().item() == (n <= 4)
        assert gradient(ddf, deepreg=True).isnan().item() == (n <= 2)


def test_voxels_are_the_default_and_millimetres_an_option():
    ddf = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for loss, power in ((gradient, 0), (bending, 1), (losses.diffusion, 0)):
        torch.testing.assert_close(loss(ddf, spacing=(1, 1, 1)), loss(ddf))
        torch.testing.assert_close(loss(ddf, spacing=(2, 2, 2)), loss(ddf) / 4**power)
        assert (loss(ddf, spacing=(1, 1, 3)) - loss(ddf)).abs() > 0.01 * loss(ddf)


# ---- data --------------------------------------------------------------------------------------------------


def test_random_affine_maps_turn_about_the_centre():
    shape = (15, 13, 17)
    corners = torch.tensor([[-1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]], dtype=torch.float64)
    theta = random_affine(200, 0.3, torch.Generator().manual_seed(0))
    share = torch.cat([corners, torch.ones(4, 1)], 1) @ theta.double() / corners
    assert share.min() >= 0.7 - 1e-6 and share.max() <= 1 + 1e-6  # drawn inwards by up to 0.3
    centre = (torch.tensor(shape) - 1) / 2
    for deepreg in (False, True):
        ddf = affine_ddf(theta if deepreg else in_voxels(theta, shape), shape)
        at_centre, at_origin = ddf[:, :, 7, 6, 8].mean(0), ddf[:, :, 0, 0, 0].mean(0)
        if deepreg:  # the voxel (0, 0, 0) stays but for a fraction of a voxel, the centre is pulled to it
            assert ddf[:, :, 0, 0, 0].abs().max() < 1 and (at_centre < -0.05 * centre).all()
        else:  # the centre stays where it is in the mean of all maps, the corner is drawn inwards
            assert (at_centre.abs() < 0.05 * centre).all() and (at_origin > 0.1 * centre).all()
    image = torch.rand(1, 1, *shape) + 1
    batch = {"fixed_image": image, "moving_image": image}
    made = {d: AUGMENTATIONS["affine"](0.0, deepreg=d)(batch, torch.Generator()) for d in (False, True)}
    torch.testing.assert_close(made[False]["moving_image"], image)
    blank = made[True]["moving_image"]
    assert not blank[:, :, 0].any() and not blank[:, :, :, 0].any() and not blank[..., 0].any()


# ---- networks and training ---------------------------------------------------------------------------------


def test_extraction_levels_are_what_they_are_called():
    shapes = [(8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)]
    levels = [torch.full((1, 1, *shape), 10.0**n) for n, shape in enumerate(shapes)]
    for asked, theirs in (([0, 1, 3], [3, 2, 0]), ([1, 2, 3], [3, 2, 1]), ([0], [0])):
        for deepreg, seen in ((False, asked), (True, theirs)):
            made = Extraction([1] * 4, asked, 1, deepreg=deepreg)
            for layer, value in zip(made.layers, (1.0, 2.0, 3.0), strict=False):
                layer[0].weight.data.zero_()
                layer[0].weight.data[..., 1, 1, 1] = value  # the voxel itself, times 1, 2, 3
            found = made(levels[min(asked) :], (8, 8, 8))
            expected = sum(value * 10.0**level for value, level in zip((1, 2, 3), seen, strict=False))
            torch.testing.assert_close(found, torch.full_like(found, expected / len(asked)))


def test_losses_leave_the_sum_over_the_batch_to_the_caller():
    fixed, warped = images((3, 1, *SHAPE))
    for loss in losses.IMAGE_LOSSES.values():
        together, alone = (warped.clone().requires_grad_(True) for _ in range(2))
        loss(fixed, together).sum().backward()
        loss(fixed[1:2], alone[1:2]).sum().backward()
        torch.testing.assert_close(together.grad[1], alone.grad[1])


def test_adam_adds_epsilon_where_keras_does():
    weights = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    ours = make_optimiser({"name": "Adam", "learning_rate": 0.1}, [weights[0]])
    torchs = torch.optim.Adam([weights[1]], lr=0.1)
    slope = torch.tensor([1e-9, -1e-6, 2.0], dtype=torch.float64)
    m = v = expected = torch.zeros(3, dtype=torch.float64)
    for t in range(1, 4):
        for w, optimiser in zip(weights, (ours, torchs), strict=True):
            w.grad = slope.clone()
            optimiser.step()
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        rate = 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        expected = expected - rate * m / (v.sqrt() + 1e-7)
    torch.testing.assert_close(weights[0].detach(), expected)
    assert weights[1][0].abs() > 10 * weights[0][0].abs()  # where the slope is small, torch goes further
    torch.testing.assert_close(weights[1][2], weights[0][2], rtol=1e-5, atol=0)


def test_batch_normalisation_of_one_value_gives_the_bias():
    norm, x = BatchNorm3d(4), torch.randn(1, 4, 1, 1, 1)
    norm.bias.data = torch.arange(4.0)
    torch.testing.assert_close(norm.train()(x).flatten(), torch.arange(4.0))
    with pytest.raises(ValueError, match="more than 1 value"):
        torch.nn.BatchNorm3d(4).train()(x)
    plain = torch.nn.BatchNorm3d(4, eps=1e-3, momentum=0.01)
    plain.bias.data, norm = torch.arange(4.0), BatchNorm3d(4)
    norm.bias.data = torch.arange(4.0)
    x = torch.randn(2, 4, 3, 2, 3)
    torch.testing.assert_close(norm(x), plain(x))
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_resized_labels_become_soft():
    label = np.zeros((4, 4, 4), np.uint8)
    label[:2] = 1
    found = resized(label, (6, 4, 4))[0]
    half = [1, 1, 5 / 6, 1 / 6, 0, 0]  # linear about half-pixel centres: 2/3 (i + 1/2) - 1/2
    np.testing.assert_allclose(found[:, 1, 1], half, atol=1e-6)


def test_a_constant_image_becomes_zero():
    assert not normalize_array(np.full(SHAPE, 7.0)).any()
    found = normalize_array(np.arange(504, dtype=np.int16).reshape(SHAPE) - 100)
    assert found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(found, np.arange(504).reshape(SHAPE) / 503, atol=1e-7)
