"""Networks: sizes of every kind, options, what training leaves behind, and errors in one sentence."""

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass

from RegCore.networks import layers
from RegCore.networks.architectures import NETWORKS, GlobalNet, KeypointNet, LocalNet, UNet
from RegCore.networks.layers import heads
from RegCore.space.geometry import InputError

ODD = (7, 8, 9)


def small(name: str, **options) -> torch.nn.Module:
    levels = {"extract_levels": [0, 1, 2]} if name == "local" else {"depth": 2}
    return NETWORKS[name](ODD, num_channel_initial=2, **levels, **options)


def fields(out) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", ["unet", "local", "global"])
def test_a_new_network_answers_with_no_displacement(name):
    torch.manual_seed(0)
    ddf = fields(small(name).eval()(torch.rand(2, 2, *ODD)))
    assert ddf.shape == (2, 3, *ODD)
    assert torch.equal(ddf, torch.zeros_like(ddf))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), ODD, (16, 16, 16), (5, 17, 12)])
@pytest.mark.parametrize("strides", [2, 3])
def test_images_of_any_size_fit(shape, strides):
    network = UNet(num_channel_initial=2, depth=3, strides=strides, extract_levels=[0, 2])
    assert network.train()(torch.rand(1, 2, *shape)).shape == (1, 3, *shape)


OPTIONS = {
    "pooling by convolution": {"pooling": False},
    "skips concatenated": {"concat_skip": True},
    "layer norm": {"norm_name": "layer"},
    "another activation": {"activation": "elu"},
    "a bounded output": {"out_activation": "tanh", "out_kernel_initializer": "he_normal"},
    "kernels per level": {"encode_kernel_sizes": [5, 3, 1], "decode_kernel_sizes": [3, 5]},
    "channels per level": {"encode_num_channels": [2, 4, 4], "decode_num_channels": [2, 4, 8]},
    "more outputs": {"out_channels": 5, "in_channels": 3},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["unet", "local"])
def test_every_option_gives_a_network_all_of_whose_weights_learn(name, options):
    torch.manual_seed(1)
    network = small(name, **{"out_kernel_initializer": "glorot_uniform", **options})
    x = torch.rand(2, options.get("in_channels", 2), *ODD)
    out = network(x)
    assert out.shape == (2, options.get("out_channels", 3), *ODD)
    (out * torch.rand_like(out)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("options", [{}, {"activation": "elu"}, {"pooling": False}], ids=str)
@pytest.mark.parametrize("name", ["unet", "local", "global", "keypoints"])
def test_activation_checkpointing_changes_neither_gradients_nor_statistics(name, options):
    torch.manual_seed(2)
    plain = small(
        name, **({} if name == "global" else {"out_kernel_initializer": "glorot_uniform"}), **options
    )
    plain, x = plain.double(), torch.rand(2, 2, *ODD, dtype=torch.float64)
    sparing = copy.deepcopy(plain)
    sparing.activation_checkpointing = True
    results = []
    for network in (plain, sparing):
        network.train()
        out = fields(network(x))
        (out * out).sum().backward()
        results.append((out.detach(), [p.grad for p in network.parameters()], network.state_dict()))
    (a, grads, state), (b, other_grads, other_state) = results
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(grads, other_grads)
    statistics = {n: v for n, v in state.items() if "running" in n or "num_batches" in n}
    assert statistics
    for key, value in statistics.items():
        torch.testing.assert_close(value, other_state[key])
    assert all(m.momentum == 0.01 for m in sparing.modules() if isinstance(m, torch.nn.BatchNorm3d))


def test_levels_with_a_gap_are_those_that_were_asked_for():
    """DeepReg mirrors them: of [0, 1, 3] it looks at 3, 2 and 0."""
    options = {"num_channel_initial": 1, "extract_levels": [0, 1, 3], "depth": 3}
    ours, theirs = UNet(**options), UNet(**options, deepreg=True)
    assert [layer[0].weight.shape[1] for layer in ours.output_block.layers] == [1, 2, 8]
    assert [layer[0].weight.shape[1] for layer in theirs.output_block.layers] == [8, 4, 1]


def test_only_the_extracted_levels_are_decoded():
    network = UNet(num_channel_initial=2, depth=3, extract_levels=[1, 2])
    assert sorted(network.decode_convs) == ["1", "2"]
    assert network(torch.rand(1, 2, *ODD)).shape == (1, 3, *ODD)


@pytest.mark.parametrize("name", ["global", "keypoints"])
def test_the_affine_field_is_that_of_theta(name):
    torch.manual_seed(3)
    network = small(name, deepreg=True).eval()
    ddf, theta = network(torch.rand(2, 2, *ODD))
    i, j, k = 4, 2, 7
    moved = torch.tensor([i, j, k, 1.0]) @ theta[1]
    assert (theta - torch.eye(4, 3)).abs().max() > 5e-4
    torch.testing.assert_close(ddf[1, :, i, j, k] + torch.tensor([i, j, k]), moved)


def test_half_precision_does_not_round_an_affine_map_to_a_hundredth():
    torch.manual_seed(3)
    network = GlobalNet(ODD, num_channel_initial=2, depth=2).eval()
    with torch.no_grad():
        network.output_block.dense.weight.normal_(0, 1e-3)
        network.output_block.dense.bias.add_(0.0013 * torch.arange(12))  # a bfloat16 near 1 is a 128th
        images = torch.rand(2, 2, *ODD)
        _, wanted = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            ddf, theta = network(images)
    assert theta.dtype == ddf.dtype == torch.float32
    torch.testing.assert_close(theta, wanted, rtol=0, atol=2e-4)


def moved_apart(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of a blob with a core, ``(count, 2, 24, 20, 28)``, and how far apart the moving one lies."""
    rng = np.random.default_rng(seed)
    index = np.indices((24, 20, 28)).reshape(3, -1).T
    places = np.array([11.5, 9.5, 13.5]) + rng.uniform(-3, 3, (count, 2, 3))
    distance = np.linalg.norm((index - places[:, :, None]) / [4, 3, 5], axis=-1)
    images = np.exp(-(distance**2)) + (distance < 0.6)
    images = torch.from_numpy(images).float().view(count, 2, 24, 20, 28)
    return images, torch.from_numpy(places[:, 0] - places[:, 1]).float()


def test_keypoints_soon_learn_how_far_images_lie_apart():
    torch.manual_seed(0)
    network = KeypointNet(num_channel_initial=4, depth=2)
    adam = torch.optim.Adam(network.parameters(), 4e-3)
    for step in range(60):
        images, apart = moved_apart(4, step)
        ddf, _ = network(images)
        loss = (ddf.mean((2, 3, 4)) - apart).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    images, apart = moved_apart(50, 1000)
    same = torch.stack([images[:, 0], images[:, 0]], 1)
    with torch.no_grad():
        ddf, none = network(images)[0], network(same)[0]
    error = (ddf.mean((2, 3, 4)) - apart).norm(dim=1).mean()
    assert error < 0.25 * apart.norm(dim=1).mean()
    torch.testing.assert_close(none, torch.zeros_like(none), atol=1e-4, rtol=0)


def test_keypoints_take_any_size_and_learn_with_all_their_weights():
    torch.manual_seed(0)
    network = KeypointNet((99, 99, 99), num_channel_initial=2, depth=2, keypoints=5)
    for shape in (ODD, (16, 5, 12), (1, 3, 2)):
        ddf, theta = network(torch.rand(2, 2, *shape))
        assert ddf.shape == (2, 3, *shape) and theta.shape == (2, 4, 3) and ddf.isfinite().all()
    (ddf * torch.rand_like(ddf)).sum().backward()
    ddf, theta = network(torch.rand(2, 2, *ODD))
    (ddf * torch.rand_like(ddf)).sum().backward()
    assert [n for n, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_keypoints_are_centres_of_mass():
    torch.manual_seed(0)
    head = layers.KeypointHead(3, 4, cell=2)
    features = torch.randn(2, 3, *ODD)
    heat = head.layer(features).detach().double().exp().numpy()
    for image, points in zip(heat, head(features).tolist(), strict=True):
        wanted = [2 * (np.array(center_of_mass(part)) - (np.array(ODD) - 1) / 2) for part in image]
        np.testing.assert_allclose(points, wanted, atol=1e-4)


def test_an_affine_map_is_found_from_points_that_it_moved(monkeypatch):
    """Held to the exact map, and to NumPy's least squares where there is none."""
    monkeypatch.setattr(heads, "RIDGE", 0.0)
    rng, shape = np.random.default_rng(0), np.array([20, 33, 14])
    index = rng.uniform(0, 1, (2, 9, 3)) * (shape - 1)
    theta = np.eye(4, 3) + rng.normal(0, 0.2, (2, 4, 3)) * [[1], [1], [1], [9]]
    moved = np.concatenate([index, np.ones((2, 9, 1))], 2) @ theta
    moved[1] += rng.normal(0, 1, (9, 3))
    theta[1] = np.linalg.lstsq(np.c_[index[1], np.ones(9)], moved[1], rcond=None)[0]
    points = (torch.from_numpy(x - (shape - 1) / 2) for x in (index, moved))
    np.testing.assert_allclose(layers.fit_theta(*points, shape.tolist()), theta, atol=1e-9)


def test_points_in_one_place_tell_a_translation():
    place, there = torch.tensor([3.0, -2, 1]).expand(1, 5, 3), torch.tensor([4.0, 0, -1]).expand(1, 5, 3)
    theta = layers.fit_theta(place, there, (12, 9, 10))
    torch.testing.assert_close(theta, torch.cat([torch.eye(3), torch.tensor([[1.0, 2, -2]])])[None])


def test_an_affine_network_begins_with_the_identity_unless_deepreg_is_asked_for():
    images = torch.rand(2, 2, *ODD)
    ddf, theta = GlobalNet(ODD, num_channel_initial=2, depth=2)(images)
    assert torch.equal(theta, torch.eye(4, 3).expand(2, 4, 3)) and ddf.abs().max() < 1e-5
    _, theta = GlobalNet(ODD, num_channel_initial=2, depth=2, deepreg=True)(images)
    assert (theta - torch.eye(4, 3)).abs().max() > 0.01


def test_an_affine_network_says_which_size_it_was_built_for():
    network = GlobalNet((8, 8, 8), num_channel_initial=2, depth=2)
    with pytest.raises(InputError, match=r"built for images of \(8, 8, 8\) voxels.*\(3, 3, 3\)"):
        network(torch.rand(1, 2, 12, 12, 12))


def unet(**options):
    return lambda: UNet(**{"num_channel_initial": 2, "depth": 2, **options})


WRONG = {
    "depth": (unet(depth=0), "depth must be a positive whole number, but it is 0"),
    "no channels": (
        unet(num_channel_initial=0),
        "num_channel_initial must be a positive whole number, but it is 0",
    ),
    "level below the bottom": (unet(extract_levels=[0, 3]), "levels from 0 to the depth 2, but is .0, 3."),
    "no level": (unet(extract_levels=[]), "extract_levels must be different levels"),
    "level twice": (unet(extract_levels=[1, 1]), "extract_levels must be different levels"),
    "padding": (unet(padding="valid"), "padding must be 'same'.* 'valid'"),
    "kernels": (unet(encode_kernel_sizes=[3, 3]), "encode_kernel_sizes must be one value or 3"),
    "channels": (unet(decode_num_channels=[3, 4, 8]), "must agree; or set concat_skip"),
    "initialiser": (unet(out_kernel_initializer="zeroes"), "'zeroes', expected one of zeros"),
    "activation": (unet(activation="rule"), "'rule', expected one of linear, relu"),
    "norm": (unet(norm_name="group"), "'group', expected one of batch"),
    "odd halves": (
        lambda: LocalNet(
            num_channel_initial=2,
            extract_levels=[0, 1],
            encode_num_channels=[2, 3],
            decode_num_channels=[2, 3],
        ),
        "3 channels can't be summed to 2",
    ),
    "keypoints": (
        lambda: KeypointNet(num_channel_initial=2, depth=2, keypoints=3),
        "keypoints must be a whole number from 4 on, but it is 3",
    ),
    "one image and a half": (
        lambda: KeypointNet(num_channel_initial=2, depth=2, in_channels=3),
        "an even number of channels, but in_channels is 3",
    ),
    "no depth": (lambda: GlobalNet(ODD, num_channel_initial=2), "needs a depth"),
}


@pytest.mark.parametrize(("build", "words"), WRONG.values(), ids=WRONG)
def test_options_that_do_not_fit_are_refused_in_one_sentence(build, words):
    with pytest.raises(InputError, match=words):
        build()
