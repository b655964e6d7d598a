"""Blocks of DeepReg's networks, with its weights."""

import inspect

import torch

from RegCore.deepreg.keras_weights import to_state
from RegCore.networks import layers
from RegCore.networks.layers import max_pool3d_same
from Testing.golden.backbones import answers
from Testing.golden.layout import channels_first, channels_last


def _options(kind, kwargs: dict) -> dict:
    known = inspect.signature(kind).parameters
    return {name: value for name, value in kwargs.items() if name in known}


class _ToShape(torch.nn.Module):
    """A block that enlarges, with the shape that DeepReg derives from its ``output_padding``."""

    def __init__(self, block, shape):
        super().__init__()
        self.block, self.shape = block, shape

    def forward(self, x):
        return self.block(x, self.shape)


def _run(block, x, arrays, shape=None):
    """As `answers`; a block that enlarges is wrapped, and its weights keep their names."""
    if shape is None:
        return answers(block, x, arrays)
    wrapped = {(f"w:block.{n[2:]}" if n.startswith("w:") else n): a for n, a in arrays.items()}
    made = answers(_ToShape(block, shape), x, wrapped)
    return {name.replace("w_after_train:block.", "w_after_train:"): value for name, value in made.items()}


def _convolution(case, arrays):
    x = channels_first(arrays["x"])
    return _run(layers.Conv3dBlock(x.shape[1], **case["kwargs"]), x, arrays)


def _residual(case, arrays):
    return _run(layers.ResidualConv3dBlock(**case["kwargs"]), channels_first(arrays["x"]), arrays)


def _enlarged(kwargs: dict, shape) -> list[int] | None:
    """Shape that a deconvolution of DeepReg gives; Keras's rule for a given ``output_padding``."""
    if "output_shape" in kwargs:
        return kwargs["output_shape"]
    strides, kernel = (
        [v] * 3 if isinstance(v, int) else v for v in (kwargs.get("strides", 1), kwargs["kernel_size"])
    )
    extra = kwargs.get("output_padding")
    if extra is None:
        return (
            None if kwargs.get("padding") == "valid" else [n * s for n, s in zip(shape, strides, strict=True)]
        )
    extra = [extra] * 3 if isinstance(extra, int) else extra
    pad = [k // 2 if kwargs.get("padding", "same") == "same" else 0 for k in kernel]
    axes = zip(shape, strides, kernel, pad, extra, strict=True)
    return [(n - 1) * s + k - 2 * p + e for n, s, k, p, e in axes]


def _deconvolution(kind):
    def run(case, arrays):
        x = channels_first(arrays["x"])
        block = kind(x.shape[1], **_options(kind, case["kwargs"]))
        return _run(block, x, arrays, _enlarged(case["kwargs"], x.shape[2:]) or ())

    return run


def _loaded(module, arrays):
    weights = {name[2:]: array for name, array in arrays.items() if name.startswith("w:")}
    module.load_state_dict(to_state(weights, module))
    return module


def _extraction(case, arrays):
    kwargs = dict(case["kwargs"])
    shape = kwargs.pop("image_size")
    levels = [channels_first(arrays[f"x{i}"]) for i in range(sum(name[:1] == "x" for name in arrays))]
    module = layers.Extraction([x.shape[1] for x in levels], **kwargs, deepreg=True)
    return {"out": channels_last(_loaded(module, arrays)(levels, shape))}


def _affine_head(case, arrays):
    x = channels_first(arrays["x"])
    head = layers.AffineHead(x.shape[1], x.shape[2:], case["kwargs"]["image_size"])
    start = head.dense.bias.detach().numpy().copy()
    ddf, theta = _loaded(head, arrays)(x)
    return {"ddf": channels_last(ddf), "theta": theta.detach().numpy(), "initial_bias": start}


def _max_pool(case, arrays):
    size, strides = case["kwargs"]["pool_size"], case["kwargs"].get("strides")
    pooled = max_pool3d_same(channels_first(arrays["x"]), size, strides or size)
    return {"out": channels_last(pooled)}


FUNCTIONS = {
    "deepreg Conv3dBlock": _convolution,
    "deepreg Deconv3dBlock": _deconvolution(layers.Deconv3dBlock),
    "deepreg ResidualConv3dBlock": _residual,
    "deepreg AdditiveUpsampling": _deconvolution(layers.AdditiveUpSampling),
    "deepreg AffineHead": _affine_head,
    "deepreg.model.layer.Extraction": _extraction,
    "tf.keras.layers.MaxPool3D(same)": _max_pool,
}
