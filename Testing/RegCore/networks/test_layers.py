"""Layers against SciPy, against their adjoints and against formulae; blocks of DeepReg's older versions."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate

from RegCore.networks import layers
from RegCore.networks.layers import memory_efficient
from RegCore.networks.layers.conv_backends import convolution_gradients, convolve, has_operators
from RegCore.networks.layers.convolution import Conv3d, Deconv3d, same_padding
from RegCore.networks.layers.memory_efficient import CHAIN_OPERATORS
from RegCore.space.geometry import InputError

ODD = (7, 8, 9)


def test_a_same_convolution_is_scipys_correlation():
    layer = layers.Conv3d(1, 1, (3, 5, 1))
    x = torch.rand(1, 1, *ODD)
    expected = correlate(x[0, 0].numpy(), layer.weight[0, 0].detach().numpy(), mode="constant")
    np.testing.assert_allclose(layer(x)[0, 0].detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
def test_same_padding_gives_the_ceiling_and_pads_more_at_the_end(kernel, strides):
    for size in range(1, 12):
        before, after = same_padding(size, kernel, strides)
        assert after - before in (0, 1)
        out = layers.Conv3d(1, 1, kernel, strides)(torch.rand(1, 1, size, size, size))
        assert out.shape[2:] == (-(-size // strides),) * 3
        assert layers.max_pool3d_same(torch.rand(1, 1, *(size,) * 3), kernel, strides).shape == out.shape


def test_padding_never_wins_a_maximum():
    assert torch.equal(layers.max_pool3d_same(-torch.ones(1, 1, *ODD), 3, 2), -torch.ones(1, 1, 4, 4, 5))


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_a_deconvolution_is_the_adjoint_of_the_convolution(kernel, strides):
    """<conv(x), y> = <x, deconv(y)> for the same weights, on shapes that do not divide."""
    torch.manual_seed(kernel * strides)
    conv, deconv = layers.Conv3d(2, 3, kernel, strides), layers.Deconv3d(3, 2, kernel, strides)
    deconv.weight = conv.weight
    x = torch.rand(1, 2, *ODD)
    out = conv(x)
    y = torch.rand_like(out)
    back = deconv(y, ODD)
    assert back.shape == x.shape
    torch.testing.assert_close((out * y).sum(), (x * back).sum(), rtol=1e-4, atol=1e-4)


def test_a_stride_longer_than_the_kernel_leaves_zeros_behind():
    out = layers.Deconv3d(1, 1, 1, 3)(torch.ones(1, 1, 2, 2, 2), (5, 5, 5))
    assert out.shape == (1, 1, 5, 5, 5)
    assert (out != 0).sum() == 8


@pytest.mark.parametrize("shape", [(1, 6, *ODD), (1, 6, 8, 6, 5), (2, 6, 4, 5, 16)])
@pytest.mark.parametrize(("strides", "padding", "filters"), [(1, 1, 4), (1, 1, 3), (2, 0, 4), (2, 1, 4)])
def test_every_way_to_convolve_has_the_values_and_gradients_of_the_plain_one(
    shape, strides, padding, filters
):
    """In double precision torch takes its own way, in single precision ours: both must agree."""
    torch.manual_seed(4)
    tensors = torch.rand(shape), torch.rand(filters, 6, 3, 3, 3), torch.rand(filters)
    geometry, found = ([strides] * 3, [padding] * 3), []
    for dtype in (torch.float32, torch.float64):
        x, w, b = (t.to(dtype, copy=True).requires_grad_() for t in tensors)
        out = convolve(x, w, b, *geometry) if dtype == torch.float32 else F.conv3d(x, w, b, *geometry)
        (out * out).sum().backward()
        found.append([out.detach(), x.grad, w.grad, b.grad])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("shape", [ODD, (8, 6, 5), (6, 32, 33)])
def test_convolution_gradients_are_those_of_a_convolution(shape, wanted):
    torch.manual_seed(5)
    x, w, grad = torch.rand(1, 32, *shape), torch.rand(16, 32, 3, 5, 1), torch.rand(1, 16, *shape)
    by_x, by_weight = convolution_gradients(grad, x, w, [1, 2, 0], (wanted, True))
    x, w = x.double().requires_grad_(), w.double().requires_grad_()
    F.conv3d(x, w, padding=(1, 2, 0)).backward(grad.double())
    torch.testing.assert_close(by_weight.double(), w.grad, rtol=1e-4, atol=1e-3)
    assert wanted or by_x is None
    if wanted:
        torch.testing.assert_close(by_x.double(), x.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("kernel", "last"), [((7, 7, 7), 22), ((3, 1, 5), 16)])  # odd, even length
def test_wide_kernels_are_transformed_with_the_values_and_gradients_of_the_plain_way(kernel, last, batch):
    """Within a few millionths of the largest value, which is as accurate as the plain way in float32."""
    torch.manual_seed(7)
    padding = [size // 2 for size in kernel]
    tensors = torch.randn(batch, 5, 9, 8, last), torch.randn(4, 5, *kernel), torch.randn(4)
    x, w, b = (t.requires_grad_() for t in tensors)
    with torch.profiler.profile() as seen:
        out = convolve(x, w, b, [1] * 3, padding)
    assert {"aten::conv2d"} <= {event.name for event in seen.events()}
    grad = torch.randn_like(out)
    found = [out, *torch.autograd.grad(out, (x, w, b), grad)]
    found += convolution_gradients(grad, x.detach(), w.detach(), padding, (True, True))
    for wanted in ((True, False), (False, True)):
        parts = convolution_gradients(grad, x.detach(), w.detach(), padding, wanted)
        assert [part is not None for part in parts] == list(wanted)
        found += [part for part in parts if part is not None]
    x, w, b = (t.detach().double().requires_grad_() for t in tensors)
    plain = F.conv3d(x, w, b, padding=padding)
    by_x, by_w, by_b = torch.autograd.grad(plain, (x, w, b), grad.double())
    expected = [plain, by_x, by_w, by_b, by_x, by_w, by_x, by_w]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).abs().max() < 5e-6 * theirs.abs().max()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_stage_has_the_values_statistics_and_gradients_of_its_blocks(recompute, half):
    torch.manual_seed(6)
    stage = layers.ConvStage(layers.Conv3dBlock(2, 4), layers.ResidualConv3dBlock(4))
    found = []
    for module in (copy.deepcopy(stage), copy.deepcopy(stage)):
        x = torch.rand(2, 2, 12, 13, 14, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = module(x, recompute) if not found else torch.nn.Sequential.forward(module, x)
        (out.float() * torch.linspace(-1, 1, 14)).sum().backward()
        found.append([out.float(), x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for ours, plain in zip(*found, strict=True):
        assert ours.dtype == plain.dtype
        size = plain.abs().max().item()
        torch.testing.assert_close(ours, plain, rtol=0, atol=(0.05 if half else 1e-4) * size)


@pytest.mark.parametrize("takes_edges", [False, True])
def test_what_is_recomputed_has_the_gradients_of_what_is_kept(takes_edges, monkeypatch):
    """Also by a torch that does not take the edges of the graph as outputs."""
    monkeypatch.setattr(memory_efficient, "TAKES_EDGES", takes_edges)
    torch.manual_seed(8)
    block = layers.Conv3dBlock(2, 3, activation="elu")
    x = torch.rand(2, 2, *ODD, requires_grad=True)
    for function in (block, partial(layers.recomputed, block, block)):
        torch.autograd.backward(function(x).square().sum())
    kept, x.grad = x.grad, None
    weight = block.layer.weight
    twice, weight.grad = weight.grad, None
    block(x).square().sum().backward()
    torch.testing.assert_close(kept, 2 * x.grad)
    torch.testing.assert_close(twice, 2 * weight.grad)


def test_operators_are_there_or_not():
    assert has_operators("convolution_backward", "native_batch_norm.out")
    assert not has_operators("convolution_backward", "nothing_like_this")
    assert not has_operators("native_batch_norm.nothing_like_this")


@pytest.mark.parametrize("missing", ["convolution_backward", "native_batch_norm"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_stage_trains_where_torch_lacks_an_operator(recompute, missing, monkeypatch):
    """What only `_Chain` calls is missing: torch's own layers need none of it by these names."""
    torch.manual_seed(7)
    stage = layers.ConvStage(layers.Conv3dBlock(2, 4), layers.ResidualConv3dBlock(4))
    x = torch.rand(2, 2, 7, 8, 9)
    outputs, gradients = [], []
    for lacking in (False, True):
        if lacking:
            names = {name.partition(".")[0] for name in CHAIN_OPERATORS}
            operators = {name: getattr(torch.ops.aten, name) for name in names}
            operators.pop(missing)
            monkeypatch.setattr(torch.ops, "aten", SimpleNamespace(**operators))
        module = copy.deepcopy(stage)
        outputs.append(module(x, recompute))
        outputs[-1].square().sum().backward()
        gradients.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(outputs[0], outputs[1])
    for chained, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(chained, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())


def test_batch_norm_of_one_value_is_its_bias_and_keeps_learning():
    norm = layers.BatchNorm3d(3)
    torch.nn.init.uniform_(norm.bias)
    x = torch.rand(1, 3, 1, 1, 1, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    torch.testing.assert_close(out.flatten(), norm.bias)
    torch.testing.assert_close(norm.running_mean, 0.01 * x.detach().flatten())
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.99))
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(norm.bias.grad, torch.ones(3))


def test_layer_norm_makes_each_voxel_standard():
    out = layers.Norm(6, "layer")(torch.rand(2, 6, *ODD) * 100)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, *ODD), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, *ODD), atol=1e-3, rtol=0)


def test_additive_upsampling_adds_the_sum_of_channel_groups():
    block = layers.AdditiveUpSampling(6, 2)
    torch.nn.init.zeros_(block.deconv3d.layer.weight)
    x = torch.rand(1, 6, 3, 4, 5)
    expected = torch.nn.functional.interpolate(
        x[:, 0:2] + x[:, 2:4] + x[:, 4:6], size=ODD, mode="trilinear", align_corners=False
    )
    torch.testing.assert_close(block.eval()(x, ODD), expected)


def test_blocks_of_older_versions_keep_their_shapes_and_formulae():
    x = torch.rand(2, 3, *ODD)
    pooled, skip = layers.DownSampleResnetBlock(3, 4)(x)
    assert pooled.shape == (2, 4, 4, 4, 5) and skip.shape == (2, 4, *ODD)
    torch.testing.assert_close(pooled, layers.max_pool3d_same(skip, 2, 2))
    assert layers.DownSampleResnetBlock(3, 4, pooling=False)(x)[0].shape == pooled.shape
    for concat in (False, True):
        assert layers.UpSampleResnetBlock(4, 4, concat=concat)((pooled, skip)).shape == skip.shape
    deeper = torch.rand(2, 8, 4, 4, 5)
    for additive in (False, True):
        block = layers.LocalNetUpSampleResnetBlock(8, 4, use_additive_upsampling=additive)
        assert block((deeper, skip)).shape == skip.shape
    assert layers.Conv3dWithResize(3, (4, 5, 6), 2)(x).shape == (2, 2, 4, 5, 6)
    residual = layers.LocalNetResidual3dBlock(3, 3).eval()
    torch.testing.assert_close(residual(x), torch.relu(residual.norm(residual.layer(x)) + x))
    assert layers.Residual3dBlock is layers.ResidualConv3dBlock


def test_the_field_layers_keep_the_identity_and_follow_a_shift():
    image, still = torch.rand(1, 2, *ODD), torch.zeros(1, 3, *ODD)
    torch.testing.assert_close(layers.Warping()(still, image), image)
    shift = still.clone()
    shift[:, 1] = 1
    torch.testing.assert_close(layers.Warping()(shift, image)[:, :, :, :-1], image[:, :, :, 1:])
    torch.testing.assert_close(layers.IntDVF(5)(shift), shift)


def test_unknown_paddings_and_sizes_are_named():
    with pytest.raises(InputError, match="padding is 'full', expected one of same, valid"):
        layers.Conv3d(1, 1, padding="full")
    with pytest.raises(InputError, match="kernel_size must be one or three positive whole numbers"):
        layers.Deconv3d(1, 1, (3, 3))


@pytest.mark.parametrize("layer", ["conv", "deconv"])
@pytest.mark.parametrize(
    ("shape", "size"), [((2, 4, 5), 3), ((2, 2, 3), 3), ((3, 8, 8), 5), ((12, 11, 13), 3)]
)
def test_bfloat16_gives_the_same_gradients_but_for_rounding(layer, shape, size):
    """torch 2.13 reads beyond its memory for the weights of small images; here huge values lie there."""
    torch.manual_seed(0)
    kind = {"conv": Conv3d, "deconv": Deconv3d}[layer]
    made, x = kind(16, 16, size), torch.randn(1, 16, *shape)
    for _ in range(4):
        junk = [torch.full((1 << k,), 1e30) for k in range(4, 18)]
        del junk
        found = {}
        for low in (False, True):
            made.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                out = made(x)
            out.float().square().sum().backward()
            found[low] = made.weight.grad.clone()
        assert (found[True] - found[False]).abs().max() < 0.05 * found[False].abs().max()
