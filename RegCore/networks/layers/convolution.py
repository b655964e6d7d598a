"""What every block is made of: convolutions with TensorFlow's "same" padding, normalisation, activation.

Tensors are ``(B, C, I, J, K)``. "Same" gives ``ceil(n / stride)`` voxels per axis and, where the padding is
odd, puts the larger half at the end, so that weights trained by DeepReg (TensorFlow) mean the same here.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from RegCore.networks.layers.conv_backends import convolve, deconvolve
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name, select

Sizes = int | Sequence[int]
PADDINGS = ("same", "valid")
ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda x: x,
    "linear": lambda x: x,
    "relu": lambda x: F.relu(x, inplace=True),
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "exponential": torch.exp,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "softmax": lambda x: torch.softmax(x, 1),
}
INITIALISERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "he_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "lecun_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    "lecun_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "random_uniform": lambda w: nn.init.uniform_(w, -0.05, 0.05),
    "random_normal": lambda w: nn.init.normal_(w, std=0.05),
    "orthogonal": nn.init.orthogonal_,
}


def lookup(table: dict, name, what: str):
    """The entry of a table by name.

    Raises:
        InputError: there is no such name; the message lists those that there are.
    """
    return select(table, name, (), f"the {what}")


def three(value: Sizes, what: str) -> tuple[int, int, int]:
    """One positive whole number, or three of them, as three.

    Raises:
        InputError: the value is anything else.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, int) and v > 0 for v in values):
        raise InputError(f"{what} must be one or three positive whole numbers, but it is {value!r}")
    return values


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Voxels to add before and after an axis of ``size`` voxels for ``ceil(size / stride)`` outputs."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def down_sampled(shape: Sequence[int], strides: Sizes) -> tuple[int, ...]:
    """Shape after a "same" convolution or pooling: ``ceil(n / stride)`` per axis."""
    return tuple(math.ceil(n / s) for n, s in zip(shape, three(strides, "strides"), strict=True))


def _paddings(x: torch.Tensor, kernel, strides) -> list[tuple[int, int]]:
    return [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, strides, strict=True)]


def _padded(x: torch.Tensor, pads: list[tuple[int, int]], value: float) -> torch.Tensor:
    """So many voxels more, or fewer, before and after each axis; the same tensor if there are none."""
    if not any(before or after for before, after in pads):
        return x
    return F.pad(x, [n for pair in reversed(pads) for n in pair], value=value)


def max_pool3d_same(x: torch.Tensor, size, strides) -> torch.Tensor:
    """Max pooling of ``(B, C, I, J, K)`` to ``ceil(n / stride)`` voxels; padding never wins."""
    size, strides = three(size, "pool_size"), three(strides, "strides")
    pads = _paddings(x, size, strides)
    whole = size == strides and not any(before for before, _ in pads)  # then torch's own padding will do
    if not whole and any(after for _, after in pads):
        x = _padded(x, pads, -math.inf)
    return F.max_pool3d(x, size, strides, ceil_mode=whole)


class Conv3d(nn.Module):
    """Convolution with "same" or "valid" padding.

    ``(B, in_channels, I, J, K)`` -> ``(B, filters, i, j, k)``.

    Args:
        in_channels, filters: channels of input and output.
        kernel_size, strides: one or three whole numbers.
        padding: ``same`` (ceil(n / stride) voxels) or ``valid``.
        use_bias: whether a bias, begun at zero, is added.
        kernel_initializer: name in `INITIALISERS`.

    Raises:
        InputError: an option is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Sizes = 3,
        strides: Sizes = 1,
        padding: str = "same",
        *,
        use_bias: bool = False,
        kernel_initializer: str = "glorot_uniform",
    ):
        super().__init__()
        check_name(padding, PADDINGS, "padding")
        self.kernel_size, self.strides = three(kernel_size, "kernel_size"), three(strides, "strides")
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(filters, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(filters)) if use_bias else None
        lookup(INITIALISERS, kernel_initializer, "initialiser")(self.weight.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, I, J, K)`` -> ``(B, filters, i, j, k)``."""
        pads = [(0, 0)] * 3
        if self.padding == "same":
            pads = _paddings(x, self.kernel_size, self.strides)
            if any(before != after for before, after in pads):
                x, pads = _padded(x, pads, 0.0), [(0, 0)] * 3
        return convolve(x, self.weight, self.bias, self.strides, [before for before, _ in pads])


class Deconv3d(nn.Module):
    """Transposed convolution to a wanted shape: the adjoint of `Conv3d` on an image of that shape.

    Options as in `Conv3d`; ``forward(x, shape)`` gives ``(B, filters, *shape)``. Without a shape, strides
    times the input ("same") or (n - 1) stride + kernel ("valid").
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: Sizes = 3,
        strides: Sizes = 1,
        padding: str = "same",
        *,
        use_bias: bool = False,
        kernel_initializer: str = "glorot_uniform",
    ):
        super().__init__()
        check_name(padding, PADDINGS, "padding")
        self.kernel_size, self.strides = three(kernel_size, "kernel_size"), three(strides, "strides")
        self.padding = padding
        self.weight = nn.Parameter(torch.empty(in_channels, filters, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(filters)) if use_bias else None
        lookup(INITIALISERS, kernel_initializer, "initialiser")(self.weight.data)

    def forward(self, x: torch.Tensor, shape: Sequence[int] | None = None) -> torch.Tensor:
        """``(B, in_channels, i, j, k)`` -> ``(B, filters, *shape)``; see the class for its default."""
        if self.padding == "valid" and shape is None:
            return deconvolve(x, self.weight, self.bias, self.strides)
        if shape is None:
            shape = [n * s for n, s in zip(x.shape[2:], self.strides, strict=True)]
        axes = list(zip(shape, self.kernel_size, self.strides, strict=True))
        before = [same_padding(*axis)[0] if self.padding == "same" else 0 for axis in axes]
        x = deconvolve(x, self.weight, self.bias, self.strides, before)
        # one voxel too many where the padding is odd, or some too few where the stride is long
        x = _padded(x, [(0, n - m) for n, m in zip(shape, x.shape[2:], strict=True)], 0.0)
        return x.contiguous(memory_format=torch.channels_last_3d)


class _OverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _over_processes(gradient)


def _over_processes(tensor: torch.Tensor) -> torch.Tensor:
    return _OverProcesses.apply(tensor)


class BatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation (Ioffe and Szegedy, ICML 2015) with DeepReg's constants, for any number of values.

    eps 1e-3, moving averages keep 0.99 of the old value. One value per channel, as at the bottom of a deep
    network on a small image, has zero variance and gives the bias; torch alone would refuse it.

    Attributes:
        synchronised: whether mean and variance are those of the batches of all processes of a training.
    """

    synchronised = False

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, I, J, K)`` -> the same shape, normalised channel by channel."""
        if self.training and self.synchronised:
            return self._over_processes(x)
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(x.detach().flatten().to(self.running_mean), self._share())
            self.running_var.mul_(1 - self._share())
        centred = (x - x.detach()) * 0  # the mean is the value itself: zero, and no gradient reaches x
        return centred * self.weight.view(1, -1, 1, 1, 1) + self.bias.view(1, -1, 1, 1, 1)

    def _share(self) -> float:
        """What a new value weighs in the moving averages; without momentum they are plain means."""
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _over_processes(self, x: torch.Tensor) -> torch.Tensor:
        """Mean and variance over all processes; gradients go through both sums."""
        axes, one = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        count = torch.tensor([x.numel() / x.shape[1]], dtype=torch.float32, device=x.device)
        count = float(_over_processes(count))
        wide = x.float()
        mean = _over_processes(wide.sum(axes)) / count
        centred = wide - mean.view(one)
        variance = _over_processes((centred * centred).sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self._share())
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self._share())
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centred * scale.view(one) + self.bias.view(one)).to(x.dtype)


class LayerNorm(nn.Module):
    """Normalisation over the channels of each voxel (Ba et al., 2016), eps 1e-3."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, …)`` -> the same shape, normalised over the channels of each voxel."""
        channels_last = x.movedim(1, -1)
        normed = F.layer_norm(channels_last, (x.shape[1],), self.weight, self.bias, eps=1e-3)
        return normed.movedim(-1, 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm3d,
    "layer": LayerNorm,
    "batch_norm": BatchNorm3d,
    "layer_norm": LayerNorm,
}


def Norm(channels: int, name: str = "batch") -> nn.Module:
    """The normalisation of that name for so many channels; DeepReg's older names end in ``_norm``."""
    return lookup(NORMS, name, "normalisation")(channels)
