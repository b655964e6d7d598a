"""The blocks of DeepReg's networks: convolution - normalisation - activation, alone, residual, up and down.

Names and orders of arguments follow DeepReg, preceded by the number of input channels, which torch does not
guess. Tensors are ``(B, C, I, J, K)``. Residual blocks: He et al., CVPR 2016.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import reduce

import torch
from torch import nn

from RegCore.networks.layers.convolution import (
    ACTIVATIONS,
    Conv3d,
    Deconv3d,
    Norm,
    Sizes,
    lookup,
    max_pool3d_same,
)
from RegCore.resampler import resize3d
from RegCore.space.geometry import InputError


@dataclass(eq=False, repr=False)
class _Block(nn.Module):
    """The arguments of all blocks: a dataclass, so that they are written once."""

    in_channels: int
    """Channels of the input."""
    filters: int
    """Channels of the output."""
    kernel_size: Sizes = 3
    """Voxels of the kernel, one number or one for each axis."""
    strides: Sizes = 1
    """Voxels from one output to the next; of a deconvolution the factor of the size."""
    padding: str = "same"
    """``same`` or ``valid``."""
    _: KW_ONLY
    activation: str | None = "relu"
    """A name of `ACTIVATIONS`."""
    norm_name: str = "batch"
    """A name of `NORMS`."""
    kernel_initializer: str = "glorot_uniform"
    """A name of `INITIALISERS`."""

    def __post_init__(self) -> None:
        super().__init__()
        self.act = lookup(ACTIVATIONS, self.activation, "activation")
        self._build()

    def _build(self) -> None:
        raise NotImplementedError

    def _layer(self, kind: Callable[..., nn.Module]) -> nn.Module:
        sizes = self.in_channels, self.filters, self.kernel_size, self.strides, self.padding
        return kind(*sizes, kernel_initializer=self.kernel_initializer)


class Conv3dBlock(_Block):
    """act(norm(conv(x))): ``(B, in_channels, I, J, K)`` -> ``(B, filters, i, j, k)``."""

    def _build(self) -> None:
        self.layer, self.norm = self._layer(Conv3d), Norm(self.filters, self.norm_name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, I, J, K)`` -> ``(B, filters, i, j, k)``, convolved, normalised and activated."""
        return self.act(self.norm(self.layer(x)))


class Deconv3dBlock(_Block):
    """act(norm(deconv(x))); ``forward(x, shape)`` gives ``(B, filters, *shape)``."""

    def _build(self) -> None:
        self.layer, self.norm = self._layer(Deconv3d), Norm(self.filters, self.norm_name)

    def forward(self, x: torch.Tensor, shape: Sequence[int] | None = None) -> torch.Tensor:
        """``(B, in_channels, i, j, k)`` -> ``(B, filters, *shape)``; `shape` as for `Deconv3d.forward`."""
        return self.act(self.norm(self.layer(x, shape)))


class ResidualConv3dBlock(nn.Module):
    """Convolution blocks whose last activation comes after the input has been added; shape kept.

    act(x + norm(conv(... act(norm(conv(x)))))), ``num_layers`` convolutions of ``filters`` channels.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes = 3,
        *,
        num_layers: int = 2,
        padding: str = "same",
        activation: str | None = "relu",
        norm_name: str = "batch",
        kernel_initializer: str = "glorot_uniform",
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            Conv3d(filters, filters, kernel_size, 1, padding, kernel_initializer=kernel_initializer)
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(Norm(filters, norm_name) for _ in range(num_layers))
        self.act = lookup(ACTIVATIONS, activation, "activation")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, I, J, K)`` -> the same shape; the input is added before the last activation."""
        out = x
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True), 1):
            out = norm(layer(out))
            out = self.act(out.add_(x) if i == len(self.layers) else out)
        return out


@dataclass(eq=False, repr=False)
class AdditiveUpSampling(_Block):
    """Deconvolution block plus the resized input, whose channel groups are summed (Hu et al., MedIA 2018).

    ``forward(x, shape)``: ``(B, in_channels, i, j, k)`` -> ``(B, filters, *shape)``.

    Raises:
        InputError: ``in_channels`` is not a multiple of ``filters``.
    """

    strides: Sizes = 2

    def _build(self) -> None:
        if self.in_channels % self.filters:
            raise InputError(
                f"additive upsampling sums groups of channels, but {self.in_channels} channels can't be"
                f" summed to {self.filters}: the channels of each level must be a multiple of those of the"
                " level above"
            )
        self.deconv3d = Deconv3dBlock(
            self.in_channels,
            self.filters,
            self.kernel_size,
            self.strides,
            self.padding,
            activation=self.activation,
            norm_name=self.norm_name,
            kernel_initializer=self.kernel_initializer,
        )

    def forward(self, x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """``(B, in_channels, i, j, k)`` -> ``(B, filters, *shape)``."""
        summed = reduce(torch.add, x.split(self.filters, 1))  # stays channels-last, unlike by `sum`
        return resize3d(summed, shape, align_corners=False) + self.deconv3d(x, shape)


class Conv3dWithResize(nn.Module):
    """Convolution (kernel 3, bias) - activation - linear resize: ``(B, filters, *output_shape)``."""

    def __init__(
        self,
        in_channels: int,
        output_shape: Sequence[int],
        filters: int,
        kernel_initializer: str = "glorot_uniform",
        activation: str | None = None,
    ):
        super().__init__()
        self.layer = Conv3d(in_channels, filters, use_bias=True, kernel_initializer=kernel_initializer)
        self.act = lookup(ACTIVATIONS, activation, "activation")
        self.output_shape = tuple(output_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, i, j, k)`` -> ``(B, filters, *output_shape)``, resized trilinearly."""
        return resize3d(self.act(self.layer(x)), self.output_shape, align_corners=False)


class DownSampleResnetBlock(nn.Module):
    """Convolution and residual block, then half the size by max pooling or by a convolution block.

    ``(B, in_channels, I, J, K)`` -> pooled ``(B, filters, ceil(I / 2), …)``, skip ``(B, filters, I, J, K)``.
    """

    def __init__(self, in_channels: int, filters: int, kernel_size: Sizes = 3, *, pooling: bool = True):
        super().__init__()
        self.conv = Conv3dBlock(in_channels, filters, kernel_size)
        self.residual = ResidualConv3dBlock(filters, kernel_size)
        self.pool = None if pooling else Conv3dBlock(filters, filters, 2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``(B, in_channels, I, J, K)`` -> pooled to half the size, and ``(B, filters, I, J, K)``."""
        skip = self.residual(self.conv(x))
        return max_pool3d_same(skip, 2, 2) if self.pool is None else self.pool(skip), skip


class UpSampleResnetBlock(nn.Module):
    """Deconvolution to the size of the skipped tensor, joined with it, convolution and residual block.

    ``forward((x, skip))``: ``(B, in_channels, i, j, k)`` and ``(B, filters, I, J, K)`` ->
    ``(B, filters, I, J, K)``. ``concat`` joins by concatenation in place of addition.
    """

    def __init__(self, in_channels: int, filters: int, kernel_size: Sizes = 3, *, concat: bool = False):
        super().__init__()
        self.concat = concat
        self.deconv = Deconv3dBlock(in_channels, filters, 3, 2)
        self.conv = Conv3dBlock(2 * filters if concat else filters, filters, kernel_size)
        self.residual = ResidualConv3dBlock(filters, kernel_size)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The coarse features and the skip ``(B, filters, I, J, K)`` -> ``(B, filters, I, J, K)``."""
        x, skip = inputs
        up = self.deconv(x, skip.shape[2:])
        return self.residual(self.conv(torch.cat([up, skip], 1) if self.concat else up + skip))


class LocalNetResidual3dBlock(nn.Module):
    """act(norm(conv(x)) + added): one convolution, then another tensor of its shape is added."""

    def __init__(self, in_channels: int, filters: int, kernel_size: Sizes = 3, strides: Sizes = 1):
        super().__init__()
        self.layer = Conv3d(in_channels, filters, kernel_size, strides)
        self.norm = Norm(filters)
        self.act = ACTIVATIONS["relu"]

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """``(B, in_channels, I, J, K)`` -> ``(B, filters, I, J, K)``; adds `added`, or else `x`."""
        return self.act(self.norm(self.layer(x)) + (x if added is None else added))


class LocalNetUpSampleResnetBlock(nn.Module):
    """Up-sampling of the LocalNet (Hu et al., MedIA 2018): deconvolution, additive if wanted, plus the skip.

    ``forward((x, skip))``: ``(B, in_channels, i, j, k)`` and ``(B, filters, I, J, K)`` ->
    ``(B, filters, I, J, K)``: up = deconv(x) (+ resized x), out = act(norm(conv(block(up))) + up + skip).
    """

    def __init__(self, in_channels: int, filters: int, *, use_additive_upsampling: bool = True):
        super().__init__()
        kind = AdditiveUpSampling if use_additive_upsampling else Deconv3dBlock
        self.deconv = kind(in_channels, filters, 3, 2)
        self.conv = Conv3dBlock(filters, filters)
        self.residual = LocalNetResidual3dBlock(filters, filters)

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The coarse features and the skip ``(B, filters, I, J, K)`` -> ``(B, filters, I, J, K)``."""
        x, skip = inputs
        up = self.deconv(x, skip.shape[2:])
        return self.residual(self.conv(up), up + skip)
