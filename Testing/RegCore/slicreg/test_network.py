"""The network: parameters of the published setting, shapes, which output reads what, checkpointing, norms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from RegCore.slicreg.network import Backbone, Head, NetworkSettings, Pyramid, SlicNet
from RegCore.space.geometry import InputError

SMALL = NetworkSettings(layers=4, classes=8, width=0.5, context=16, hidden=8, dropout=0.0)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def seeded(settings: NetworkSettings) -> SlicNet:
    torch.manual_seed(0)
    return SlicNet(settings)


def image(batch: int = 1, shape=(20, 18, 24), seed: int = 0) -> torch.Tensor:
    return torch.randn((batch, 1, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_parts_have_as_many_parameters_as_published(norm):
    network = SlicNet(NetworkSettings(norm=norm))
    assert parameters(network.backbone) == 216_768
    assert parameters(network.pyramid) == 1_001_216
    assert parameters(network.head) == 589_824
    assert parameters(network) == 1_807_808


def test_each_block_has_as_many_parameters_as_published():
    backbone = Backbone()
    counts = [parameters(block) for part in (backbone.stem, backbone.body) for block in part]
    assert counts == [5296, 10160, 16768, 21408, 32608, 32608, 36736, 61184]


def test_blocks_that_keep_their_shape_are_residual():
    backbone = Backbone()
    blocks = [*backbone.stem, *backbone.body]
    assert [type(block).__name__ == "_Residual" for block in blocks] == [
        False, True, False, False, True, True, False, True,
    ]  # fmt: skip
    x = torch.randn((1, 24, 5, 6, 7), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(blocks[1](x), x + blocks[1].module(x))


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 22, 25), (7, 8, 9)])
def test_sizes_follow_the_image(shape):
    network = seeded(SMALL)
    fine, coarse = network.backbone(image(2, shape))
    half = tuple(-(-n // 2) for n in shape)
    assert fine.shape == (2, 12, *half) and coarse.shape == (2, 32, *(-(-n // 2) for n in half))
    assert network(image(2, shape)).shape == (2, 4, 8, *half)


def test_convolutions_of_the_backbone_begin_with_kaiming_s_distribution():
    torch.manual_seed(0)
    for module in Backbone().modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 3000:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            assert float(module.weight.detach().std()) == pytest.approx(np.sqrt(2 / fan_out), rel=0.06)


def test_the_pyramid_sees_at_each_rate_and_the_whole():
    """The answer to a single bright voxel reaches exactly as far as the dilation of each branch."""
    torch.manual_seed(0)
    pyramid = Pyramid(2, (2, 4), 8, dropout=0.0)
    x = torch.zeros((1, 2, 13, 13, 13))
    x[..., 6, 6, 6] = 1
    for branch, rate in zip(pyramid.branches, (0, 2, 4), strict=True):
        reached = branch[0](x).abs().sum(1)[0].nonzero() - 6
        assert set(reached.unique().tolist()) == {-rate, 0, rate}
    image = torch.randn((2, 2, 6, 7, 8), generator=torch.Generator().manual_seed(0))
    every = [*(branch(image) for branch in pyramid.branches)]
    mean = pyramid.whole(image.mean((2, 3, 4), keepdim=True)).expand_as(every[0])
    torch.testing.assert_close(pyramid(image), pyramid.join(torch.cat([*every, mean], 1)))


def gradient_of(layer: int, layout: str) -> torch.Tensor:
    """Which channels between the head's grouped convolutions a layer's scores depend on, by layers' share."""
    torch.manual_seed(0)
    head = Head(10, replace(SMALL, layout=layout))
    middle = torch.randn((1, 32, 5, 5, 5), requires_grad=True)
    scores = head.stages[3:](middle).reshape(1, -1, 5, 5, 5)
    if layout == "grouped":
        chosen = scores.reshape(1, 4, 8, 5, 5, 5)[:, layer]
    else:
        chosen = scores.reshape(1, 8, 4, 5, 5, 5)[:, :, layer]
    chosen.square().sum().backward()
    return middle.grad.abs().reshape(4, 8, -1).sum((1, 2)) > 0


def test_grouped_each_layer_has_a_group_of_its_own_and_in_the_seed_it_reads_all():
    for layer in range(4):
        np.testing.assert_array_equal(gradient_of(layer, "grouped").numpy(), np.arange(4) == layer)
        assert gradient_of(layer, "seed").all()


def test_layouts_name_the_same_channels_differently():
    torch.manual_seed(0)
    grouped = Head(10, SMALL).eval()
    seed = Head(10, replace(SMALL, layout="seed")).eval()
    seed.load_state_dict(grouped.state_dict())
    x = torch.randn((2, 10, 4, 5, 6), generator=torch.Generator().manual_seed(3))
    raw = grouped.stages(x)
    for c, layer in ((0, 0), (3, 2), (7, 3)):
        torch.testing.assert_close(grouped(x)[:, layer, c], raw[:, layer * 8 + c])
        torch.testing.assert_close(seed(x)[:, layer, c], raw[:, c * 4 + layer])


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_checkpointing_changes_neither_answers_nor_gradients_nor_statistics(norm):
    outcomes = []
    for checkpointing in (False, True):
        network = seeded(replace(SMALL, norm=norm, checkpointing=checkpointing)).train()
        loss = network(image(2)).square().mean()
        loss.backward()
        statistics = [b for name, b in network.named_buffers() if not name.endswith("num_batches_tracked")]
        outcomes.append((loss, [p.grad for p in network.parameters()], statistics))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0])
    for plain, again in zip(outcomes[0][1] + outcomes[0][2], outcomes[1][1] + outcomes[1][2], strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)
    assert all(grad.abs().sum() > 0 for grad in outcomes[0][1])


def test_group_normalisation_learns_from_one_scan_and_does_not_care_for_the_others():
    network = seeded(SMALL).train()
    both = network(torch.cat([image(seed=1), image(seed=2)]))
    torch.testing.assert_close(network(image(seed=2)), both[1:], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="batches of at least 2"):
        seeded(replace(SMALL, norm="batch")).train()(image())


def test_memory_in_channels_last_order_gives_the_same_answer():
    network = seeded(SMALL).eval()
    plain = network(image())
    network.to(memory_format=torch.channels_last_3d)
    turned = network(image().contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(turned, plain, rtol=1e-4, atol=1e-5)


def test_dropout_is_at_work_in_training_only():
    network = seeded(replace(SMALL, dropout=0.5))
    assert not torch.equal(network.train()(image()), network(image()))
    assert torch.equal(network.eval()(image()), network(image()))


def test_a_few_steps_bring_the_loss_down():
    network = seeded(SMALL).train()
    x = image(2, (12, 12, 12))
    target = (x[:, 0, ::2, ::2, ::2] > 0).long() * 3 + 1
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        scores = network(x)
        loss = F.cross_entropy(scores.flatten(0, 1), target.repeat_interleave(4, 0))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


REFUSED = {
    "layers": {"layers": 0},
    "width": {"width": -1.0},
    "norm": {"norm": "layer"},
    "layout": {"layout": "other"},
    "rates": {"rates": ()},
    "dropout": {"dropout": 1.0},
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_make_no_sense_are_named(name):
    with pytest.raises(InputError, match=f"network setting {name} is"):
        NetworkSettings(**REFUSED[name])
