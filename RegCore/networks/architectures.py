"""The networks of DeepReg: `UNet`, `LocalNet` and `GlobalNet`, and the table `NETWORKS` that names them.

They read the images of a pair as channels, ``(B, in_channels, I, J, K)``, of any size, and answer with
``(B, out_channels, I, J, K)``, a field in voxels if there are three. A network of one's own is added by
``NETWORKS["mine"] = MyNet``; it is called ``MyNet(image_size, in_channels=…, out_channels=…, …)``.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from RegCore.networks.layers import (
    INITIALISERS,
    AdditiveUpSampling,
    AffineHead,
    Conv3dBlock,
    ConvStage,
    Deconv3dBlock,
    Extraction,
    ResidualConv3dBlock,
    down_sampled,
    max_pool3d_same,
    recomputed,
)
from RegCore.networks.layers.convolution import lookup
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, LazyTable

Sizes = int | Sequence[int]


def _per_level(value, count: int, what: str) -> tuple:
    """One value for all levels or a list with one for each. Raises InputError."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * count
    if len(values) != count:
        raise InputError(
            f"{what} must be one value or {count} values, one for each level, but it is {value!r}"
        )
    return values


def _channels(encode, decode, initial: int, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the levels 0..depth on both ways: those given, or twice as many from level to level."""
    for what, number in (("depth", depth), ("num_channel_initial", initial)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{what} must be a positive whole number, but it is {number!r}")
    encode = _per_level(
        encode or [initial * 2**d for d in range(depth + 1)], depth + 1, "encode_num_channels"
    )
    decode = _per_level(decode or encode, depth + 1, "decode_num_channels")
    return encode, (*decode[:-1], encode[-1])  # the way up begins at the bottom of the way down


def _options(activation: str | None, norm_name: str, kernel_initializer: str) -> dict:
    return {"activation": activation, "norm_name": norm_name, "kernel_initializer": kernel_initializer}


def _check(depth: int, extract_levels: Sequence[int], padding: str, encode, decode, concat: bool) -> None:
    """Whether a decoder can be built. Raises InputError."""
    levels = list(extract_levels)
    if not levels or sorted(set(levels)) != sorted(levels) or min(levels) < 0 or max(levels) > depth:
        raise InputError(
            f"extract_levels must be different levels from 0 to the depth {depth}, but is {levels}"
        )
    if padding != "same":
        raise InputError(f"padding must be 'same', so that levels fit together, but it is {padding!r}")
    if not concat and tuple(encode[:depth]) != tuple(decode[:depth]):
        raise InputError(
            f"skipped tensors are added, so encode_num_channels {tuple(encode)} and decode_num_channels"
            f" {tuple(decode)} must agree; or set concat_skip"
        )


class _Network(nn.Module):
    """What all networks share: the way down, and the way up of those that have one."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        kernel_sizes: Sizes,
        down: tuple[bool, int],
        short_bottom: bool,
        activation_checkpointing: bool,
        options: dict,
    ):
        super().__init__()
        self.depth = len(channels) - 1
        sizes = _per_level(kernel_sizes, self.depth + 1, "encode_kernel_sizes")
        (self.pooling, self.strides), self.options = down, options
        self.activation_checkpointing = activation_checkpointing
        self.encode_convs, self.encode_pools = nn.ModuleList(), nn.ModuleList()
        for d in range(self.depth):
            before = channels[d - 1] if d else in_channels
            self.encode_convs.append(self._convolutions(before, channels[d], sizes[d]))
            if not self.pooling:
                self.encode_pools.append(Conv3dBlock(channels[d], channels[d], down[1], down[1], **options))
        if short_bottom:
            self.bottom_block = Conv3dBlock(channels[-2], channels[-1], sizes[-1], **options)
        else:
            self.bottom_block = self._convolutions(channels[-2], channels[-1], sizes[-1])

    def _convolutions(self, before: int, after: int, size: Sizes) -> ConvStage:
        first = Conv3dBlock(before, after, size, **self.options)
        return ConvStage(first, ResidualConv3dBlock(after, size, **self.options))

    def _run(self, module: nn.Module, *inputs, block: Callable | None = None) -> torch.Tensor:
        """A module, or a block made of it, on inputs; activation checkpointing keeps nothing from inside."""
        block = block or module
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        if isinstance(block, ConvStage):
            return block(*inputs, recompute=True)
        return recomputed(block, module, *inputs)

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Tensors of all levels, finest first, the bottom last."""
        x, levels = x.contiguous(memory_format=torch.channels_last_3d), []
        for d, block in enumerate(self.encode_convs):
            levels.append(self._run(block, x))
            if self.pooling:
                x = max_pool3d_same(levels[-1], self.strides, self.strides)
            else:
                x = self._run(self.encode_pools[d], levels[-1])
        return [*levels, self._run(self.bottom_block, x)]

    def _add_decoder(self, up, sizes: Sizes, encode, decode, concat: bool, extract_levels, padding) -> None:
        """Blocks of the levels from the bottom to the finest that is extracted. Raises InputError."""
        _check(self.depth, extract_levels, padding, encode, decode, concat)
        self.concat_skip, self.first = concat, min(extract_levels)
        self.decoded, self.extract_levels = decode, tuple(extract_levels)
        sizes = _per_level(sizes, self.depth, "decode_kernel_sizes")
        self.decode_deconvs, self.decode_convs = nn.ModuleDict(), nn.ModuleDict()
        for d in range(self.first, self.depth):
            joined = encode[d] + decode[d] if concat else decode[d]
            larger = up(decode[d + 1], decode[d], sizes[d], self.strides, **self.options)
            self.decode_deconvs[str(d)] = larger
            self.decode_convs[str(d)] = self._convolutions(joined, decode[d], sizes[d])

    def _add_output(self, channels: int, initializer: str, activation: str | None, deepreg: bool) -> None:
        """What gathers the extracted levels, once there is a decoder."""
        extracted = self.decoded[self.first :], self.extract_levels
        self.output_block = Extraction(*extracted, channels, initializer, activation, deepreg=deepreg)

    def _joined(self, d: int, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        up = self.decode_deconvs[str(d)](x, skip.shape[2:])
        return torch.cat([up, skip], 1) if self.concat_skip else up + skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[2:]
        levels = self._encode(x)
        for d in range(self.depth - 1, self.first - 1, -1):
            deconvolution, join = self.decode_deconvs[str(d)], partial(self._joined, d)
            joined = self._run(deconvolution, levels[d + 1], levels[d], block=join)
            levels[d] = self._run(self.decode_convs[str(d)], joined)
        return self.output_block(levels[self.first :], shape)


class UNet(_Network):
    """A U-Net (Ronneberger et al., MICCAI 2015) in three dimensions with residual blocks, as DeepReg's.

    Args:
        image_size: not needed, any size will do; there so that all networks are built alike.
        in_channels, out_channels: of the network.
        num_channel_initial: channels of the first level; they double from level to level.
        depth: the input is level 0, the bottom level ``depth``.
        extract_levels: levels of the decoder whose outputs are averaged.
        pooling: max pooling on the way down, else convolutions with strides.
        concat_skip: skipped tensors are concatenated, else added.
        encode_kernel_sizes, decode_kernel_sizes: one for all levels, or depth + 1 and depth of them.
        encode_num_channels, decode_num_channels: depth + 1 numbers each in place of the doubling.
        strides: factor from level to level.
        padding: ``same``; nothing else can be decoded.
        out_kernel_initializer, out_activation: of the output convolutions.
        kernel_initializer, activation, norm_name: of all blocks; see `RegCore.networks.layers`.
        activation_checkpointing: keep less for the backward pass and compute it again: saves memory.
        deepreg: DeepReg's order of extracted levels; see `RegCore.networks.layers.Extraction`.

    ``(B, in_channels, I, J, K)`` -> ``(B, out_channels, I, J, K)``. Raises InputError for options that do not
    fit together.
    """

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        *,
        in_channels: int = 2,
        out_channels: int = 3,
        num_channel_initial: int,
        depth: int,
        extract_levels: Sequence[int] = (0,),
        pooling: bool = True,
        concat_skip: bool = False,
        encode_kernel_sizes: Sizes = 3,
        decode_kernel_sizes: Sizes = 3,
        encode_num_channels: Sequence[int] | None = None,
        decode_num_channels: Sequence[int] | None = None,
        strides: int = 2,
        padding: str = "same",
        out_kernel_initializer: str = "zeros",
        out_activation: str | None = None,
        kernel_initializer: str = "glorot_uniform",
        activation: str | None = "relu",
        norm_name: str = "batch",
        activation_checkpointing: bool = False,
        deepreg: bool = False,
    ):
        encode, decode = _channels(encode_num_channels, decode_num_channels, num_channel_initial, depth)
        super().__init__(
            in_channels,
            encode,
            encode_kernel_sizes,
            (pooling, strides),
            False,
            activation_checkpointing,
            _options(activation, norm_name, kernel_initializer),
        )
        self._add_decoder(
            Deconv3dBlock, decode_kernel_sizes, encode, decode, concat_skip, extract_levels, padding
        )
        self._add_output(out_channels, out_kernel_initializer, out_activation, deepreg)


class LocalNet(_Network):
    """The LocalNet (Hu et al., MedIA 49, 2018), as DeepReg's: a U-Net with additive upsampling.

    Its first level has kernels of 7 voxels, its bottom a single convolution. Arguments as in `UNet`, but:
        extract_levels: required; ``depth`` is their greatest if it is not given.
        use_additive_upsampling: add the resized input to each deconvolution; channels must then halve evenly.
        encode_kernel_sizes: [7, 3, 3, …] if not given.
    """

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        *,
        in_channels: int = 2,
        out_channels: int = 3,
        num_channel_initial: int,
        extract_levels: Sequence[int],
        depth: int | None = None,
        use_additive_upsampling: bool = True,
        pooling: bool = True,
        concat_skip: bool = False,
        encode_kernel_sizes: Sizes | None = None,
        decode_kernel_sizes: Sizes = 3,
        encode_num_channels: Sequence[int] | None = None,
        decode_num_channels: Sequence[int] | None = None,
        strides: int = 2,
        padding: str = "same",
        out_kernel_initializer: str = "zeros",
        out_activation: str | None = None,
        kernel_initializer: str = "glorot_uniform",
        activation: str | None = "relu",
        norm_name: str = "batch",
        activation_checkpointing: bool = False,
        deepreg: bool = False,
    ):
        depth = max(extract_levels, default=0) if depth is None else depth
        encode, decode = _channels(encode_num_channels, decode_num_channels, num_channel_initial, depth)
        super().__init__(
            in_channels,
            encode,
            encode_kernel_sizes or [7] + [3] * depth,
            (pooling, strides),
            True,
            activation_checkpointing,
            _options(activation, norm_name, kernel_initializer),
        )
        up = (Deconv3dBlock, AdditiveUpSampling)[use_additive_upsampling]
        self._add_decoder(up, decode_kernel_sizes, encode, decode, concat_skip, extract_levels, padding)
        self._add_output(out_channels, out_kernel_initializer, out_activation, deepreg)


class GlobalNet(_Network):
    """The GlobalNet (Hu et al., ISBI 2018), as DeepReg's: an encoder that answers with one affine map.

    Arguments as in `UNet`, but:
        image_size: required: the dense layer at its end reads an image of this size.
        depth: of the encoder; if it is not given, the greatest of ``extract_levels``, DeepReg's older name.
        out_kernel_initializer: of the dense layer; with zeros the network begins with the identity.
        out_channels, out_activation: not used.
        deepreg: the dense layer begins with Glorot weights, whatever out_kernel_initializer says.

    ``(B, in_channels, *image_size)`` -> the DDF ``(B, 3, *image_size)`` in voxels and theta ``(B, 4, 3)``.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        *,
        in_channels: int = 2,
        out_channels: int = 3,
        num_channel_initial: int,
        depth: int | None = None,
        extract_levels: Sequence[int] | None = None,
        pooling: bool = True,
        encode_kernel_sizes: Sizes = 3,
        encode_num_channels: Sequence[int] | None = None,
        strides: int = 2,
        padding: str = "same",
        out_kernel_initializer: str = "zeros",
        out_activation: str | None = None,
        kernel_initializer: str = "glorot_uniform",
        activation: str | None = "relu",
        norm_name: str = "batch",
        activation_checkpointing: bool = False,
        deepreg: bool = False,
    ):
        if depth is None:
            if not extract_levels:
                raise InputError("the network global needs a depth")
            depth = max(extract_levels)
        channels, _ = _channels(encode_num_channels, None, num_channel_initial, depth)
        _check(depth, [0], padding, channels, channels, False)
        super().__init__(
            in_channels,
            channels,
            encode_kernel_sizes,
            (pooling, strides),
            False,
            activation_checkpointing,
            _options(activation, norm_name, kernel_initializer),
        )
        self.output_block = _affine_head(channels, image_size, strides)
        start = "glorot_uniform" if deepreg else out_kernel_initializer
        lookup(INITIALISERS, start, "initialiser")(self.output_block.dense.weight.data)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.output_block(self._encode(x)[-1])


def _affine_head(channels: Sequence[int], image_size: Sequence[int], strides: int) -> AffineHead:
    """What reads the deepest level of an encoder with so many channels from level to level."""
    shape = tuple(image_size)
    for _ in channels[1:]:
        shape = down_sampled(shape, strides)
    return AffineHead(channels[-1], shape, image_size)


NETWORKS = LazyTable(
    {
        "unet": UNet,
        "local": LocalNet,
        "global": GlobalNet,
        "deeplab": Lazy("RegCore.slicreg.methods", "DeepLab"),
    }
)
