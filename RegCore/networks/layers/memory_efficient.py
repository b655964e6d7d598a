"""Blocks that keep little of the forward pass for the backward pass, for training within a given memory.

Tensors are ``(B, C, I, J, K)``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from RegCore.networks.layers.blocks import Conv3dBlock, ResidualConv3dBlock
from RegCore.networks.layers.conv_backends import convolution_gradients, convolve, has_operators
from RegCore.networks.layers.convolution import ACTIVATIONS, BatchNorm3d

# glibc puts a tensor only into a hole that is some bytes larger than it, so that the hole of one never takes
# another of its size and the memory of the process grows by a third. What is freed soon is made larger.
ROOM = 1024
TAKES_EDGES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5)  # `torch.autograd.grad`, of outputs
# What `_Chain` is made of. Where a version of torch lacks a part, the layers are computed one by one.
CHAIN_OPERATORS = (
    "batch_norm_update_stats",
    "convolution_backward",
    "native_batch_norm.out",
    "native_batch_norm_backward",
    "threshold_backward.grad_input",
)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Moving averages stay while a block is computed a second time for its gradient."""
    norms = [m for m in module.modules() if isinstance(m, BatchNorm3d)]
    kept = [norm.momentum for norm in norms], [norm.num_batches_tracked.clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in zip(norms, *kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


class _Recomputed(torch.autograd.Function):
    """A block of which only the inputs are kept; it is computed again for its derivative."""

    @staticmethod
    def forward(ctx, block, module, count, *tensors):
        device = tensors[0].device.type
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.block, ctx.module, ctx.count = block, module, count
        ctx.save_for_backward(*tensors)
        return block(*tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        inputs = [x.detach() for x in ctx.saved_tensors[: ctx.count]]
        for x, needed in zip(inputs, ctx.needs_input_grad[3:], strict=False):
            x.requires_grad_(needed)
        tensors = [*inputs, *ctx.saved_tensors[ctx.count :]]
        differentiable = [x for x in tensors if x.requires_grad]
        with torch.enable_grad(), _frozen_statistics(ctx.module), torch.autocast(*ctx.autocast):
            out = ctx.block(*inputs)
        if TAKES_EDGES:  # else it is held until all is done
            out = torch.autograd.graph.get_gradient_edge(out)
        gradients = iter(torch.autograd.grad(out, differentiable, grad, allow_unused=True))
        return None, None, None, *(next(gradients) if x.requires_grad else None for x in tensors)


def recomputed(block: Callable, module: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """``block(*inputs)``, of which nothing is kept for its derivative: it is then computed again.

    The sublinear memory of Chen et al., arXiv 1604.06174. torch's own `checkpoint` does the same, but loads
    torch's compiler first, which takes a second and 70 MiB.

    Args:
        block: gives one tensor; must not depend on chance.
        module: holds all its parameters and the moving averages, which are updated once.
    """
    return _Recomputed.apply(block, module, len(inputs), *inputs, *module.parameters())


@dataclass(frozen=True)
class _Unit:
    """What a convolution and its batch norm need, in the dtype in which they are computed."""

    weight: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor
    eps: float
    mean: torch.Tensor
    variance: torch.Tensor

    @property
    def padding(self) -> list[int]:
        return [size // 2 for size in self.weight.shape[2:]]


def _with_room(x: torch.Tensor) -> torch.Tensor:
    """An empty tensor like ``x``, channels last."""
    memory = torch.empty(x.numel() + ROOM, dtype=x.dtype, device=x.device)[: x.numel()]
    return memory.view(len(x), *x.shape[2:], x.shape[1]).movedim(-1, 1)


def _convolved(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out = convolve(x, weight, None, [1, 1, 1], [size // 2 for size in weight.shape[2:]])
    return out.contiguous(memory_format=torch.channels_last_3d)


def _normed(x: torch.Tensor, unit: _Unit) -> torch.Tensor:
    out, unused = _with_room(x), unit.mean.new_empty(0)
    known = unit.scale, unit.shift, unit.mean, unit.variance, False, 0.0, unit.eps
    torch.ops.aten.native_batch_norm.out(x, *known, out=out, save_mean=unused, save_invstd=unused)
    return out


def _normed_back(grad: torch.Tensor, x: torch.Tensor, unit: _Unit, own: bool) -> tuple:
    """Derivatives by ``x``, scale and shift of a batch norm; ``own``: ``grad`` may be overwritten.

    With s = scale / sqrt(variance + eps), n values and centred = (x - mean) / sqrt(variance + eps):
    s (grad - mean of grad - centred * mean of grad * centred).
    """
    inverse = (unit.variance + unit.eps).rsqrt()
    known = unit.scale, None, None, unit.mean, inverse, True, unit.eps
    if x.dtype == torch.bfloat16:  # torch's arithmetic between numbers and channels is slow in this dtype
        return torch.ops.aten.native_batch_norm_backward(grad, x, *known, [True, True, True])
    sums = torch.ops.aten.native_batch_norm_backward(grad, x, *known, [False, True, True])[1:]
    n = x.numel() / x.shape[1]
    factor = unit.scale * inverse
    slope = -factor * sums[0] * inverse / n
    constant = -factor * sums[1] / n - slope * unit.mean
    factor, slope, constant = (v.view(1, -1, 1, 1, 1) for v in (factor, slope, constant))
    if own:
        return grad.mul_(factor).addcmul_(x, slope).add_(constant), *sums
    return torch.addcmul(constant, x, slope, out=_with_room(x)).addcmul_(grad, factor), *sums


def _masked(grad: torch.Tensor, active: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.threshold_backward.grad_input(grad, active, 0, grad_input=out)


class _Chain(torch.autograd.Function):
    """relu(norm(conv(x))) several times, the first result added to the last before it is rectified.

    Only the result and those of the convolutions are kept, the latter not with ``recompute``; norms and
    activations between them take a fiftieth of the time and are computed again. The result costs no memory:
    what follows keeps it, too.
    """

    @staticmethod
    def forward(ctx, x, recompute, norms, *parameters):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        ctx.source, ctx.eps = x.dtype, [norm.eps for norm in norms]
        x, kept, statistics, first = x.to(dtype), [], [], None
        out = x
        with torch.autocast("cpu", enabled=False):
            for i, norm in enumerate(norms):
                weight, scale, shift = parameters[3 * i : 3 * i + 3]
                made = _convolved(out, weight.to(dtype))
                norm.num_batches_tracked += 1
                moving = norm.running_mean, norm.running_var, norm.momentum
                statistics += torch.ops.aten.batch_norm_update_stats(made, *moving)
                out = _normed(made, _Unit(weight, scale, shift, norm.eps, *statistics[-2:]))
                kept += [] if recompute else [made]
                del made
                out = (out if i < len(norms) - 1 else out.add_(first)).relu_()
                first = out if i == 0 else first
        ctx.save_for_backward(x, out, *parameters, *statistics, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        n = len(ctx.eps)
        x, out, *tensors = ctx.saved_tensors
        units = []
        for i in range(n):
            weight, scale, shift = tensors[3 * i : 3 * i + 3]
            statistics = tensors[3 * n + 2 * i : 3 * n + 2 * i + 2]
            units.append(_Unit(weight.to(x.dtype), scale, shift, ctx.eps[i], *statistics))
        with torch.autocast("cpu", enabled=False):
            made = tensors[5 * n :] or _forth(x, units)
            del tensors[5 * n :]
            found = _back(grad, x, out, units, made, ctx.needs_input_grad[0])
        by_x = None if found[0] is None else found[0].to(ctx.source)
        by_weights = [part.to(old.dtype) for part, old in zip(found[1:], tensors, strict=False)]
        return by_x, None, None, *by_weights


def _forth(x: torch.Tensor, units: Sequence[_Unit]) -> list[torch.Tensor]:
    """What the convolutions of a chain make."""
    made = []
    for i, unit in enumerate(units):
        made.append(_convolved(x, unit.weight))
        x = _normed(made[-1], unit).relu_() if i < len(units) - 1 else None
    return made


def _back(
    grad, x, out, units: Sequence[_Unit], made: list[torch.Tensor], needed: bool
) -> list[torch.Tensor]:
    """Derivatives by ``x`` and by weight, scale and shift of each unit; empties ``made``."""
    grad = grad.contiguous(memory_format=torch.channels_last_3d)
    grad = first = _masked(grad, out, _with_room(out))
    found = []
    for i in reversed(range(len(units))):
        grad, *by_norm = _normed_back(grad, made.pop(), units[i], grad is not first)
        source = _normed(made[-1], units[i - 1]).relu_() if i else x
        weight, padding = units[i].weight, units[i].padding
        grad, by_weight = convolution_gradients(grad, source, weight, padding, (i > 0 or needed, True))
        if i == 1:
            grad, first = grad.add_(first), None
        if i:
            grad = _masked(grad, source, grad)
        found = [by_weight, *by_norm, *found]
    return [grad, *found]


class ConvStage(nn.Sequential):
    """What a network does on a level: a `Conv3dBlock` and a `ResidualConv3dBlock` of two layers or more.

    With batch norm and ReLU it keeps half as much for its gradient as torch would, on the CPU.
    ``forward(x, recompute=True)`` keeps only ``x``.
    """

    def __init__(self, block: Conv3dBlock, residual: ResidualConv3dBlock):
        super().__init__(block, residual)

    def forward(self, x: torch.Tensor, recompute: bool = False) -> torch.Tensor:
        """``(B, in_channels, I, J, K)`` -> ``(B, filters, I, J, K)``; `recompute` keeps only ``x``."""
        block, residual = self
        layers, norms = [block.layer, *residual.layers], [block.norm, *residual.norms]
        if self._is_plain(x, layers, norms):
            parts = zip(layers, norms, strict=True)
            parameters = [p for layer, norm in parts for p in (layer.weight, norm.weight, norm.bias)]
            return _Chain.apply(x, recompute, norms, *parameters)
        return recomputed(super().forward, self, x) if recompute else super().forward(x)

    def _is_plain(self, x: torch.Tensor, layers: Sequence[nn.Module], norms: Sequence[nn.Module]) -> bool:
        """Whether `_Chain` computes this stage, and its gradient is wanted."""
        learning = self.training and torch.is_grad_enabled() and x.device.type == "cpu"
        rectified = all(block.act is ACTIVATIONS["relu"] for block in self)
        batch = all(isinstance(norm, BatchNorm3d) and not norm.synchronised for norm in norms)
        odd = all(size % 2 for layer in layers for size in layer.kernel_size)
        plain = learning and rectified and batch and odd and x.numel() > x.shape[1]
        return plain and has_operators(*CHAIN_OPERATORS)
