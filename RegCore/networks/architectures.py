"""DeepReg's networks `UNet`, `LocalNet` and `GlobalNet`, `KeypointNet`, and `NETWORKS`, which names them.

They read the images of a pair as channels, ``(B, in_channels, I, J, K)``, of any size, and answer with
``(B, out_channels, I, J, K)``, a field in voxels if there are three. A network of one's own is added by
``NETWORKS["mine"] = MyNet``; it is called ``MyNet(image_size, in_channels=…, out_channels=…, …)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import ClassVar

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
    KeypointHead,
    ResidualConv3dBlock,
    down_sampled,
    fit_theta,
    max_pool3d_same,
    recomputed,
)
from RegCore.networks.layers.convolution import Sizes, lookup
from RegCore.resampler import affine_ddf
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, LazyTable


def _per_level(value: Sizes, count: int, what: str) -> tuple[int, ...]:
    """One value for all levels or a list with one for each. Raises InputError."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * count
    if len(values) != count:
        raise InputError(
            f"{what} must be one value or {count} values, one for each level, but it is {value!r}"
        )
    return values


def _check_levels(extract_levels: Sequence[int], depth: int) -> None:
    """Whether these are levels of a decoder. Raises InputError."""
    levels = list(extract_levels)
    if not levels or sorted(set(levels)) != sorted(levels) or min(levels) < 0 or max(levels) > depth:
        raise InputError(
            f"extract_levels must be different levels from 0 to the depth {depth}, but is {levels}"
        )


@dataclass(eq=False, repr=False)
class _Encoder(nn.Module):
    """The encoder that all networks share, and its arguments: a dataclass, so that they are written once."""

    affine: ClassVar[bool] = False
    """Whether it answers with the DDF of an affine map and theta, in place of any field."""
    image_size: Sequence[int] | None = None
    """Voxels (I, J, K) of the images; only `GlobalNet` needs it, any size will do for the others."""
    _: KW_ONLY
    in_channels: int = 2
    """Channels of the input."""
    out_channels: int = 3
    """Channels of the output; an affine map has none."""
    num_channel_initial: int
    """Channels of the first level; they double from level to level."""
    depth: int | None = None
    """The input is level 0, the bottom is the level ``depth``."""
    pooling: bool = True
    """Max pooling between the levels of the encoder, else convolutions with strides."""
    encode_kernel_sizes: Sizes = 3
    """One size for all levels, or depth + 1 of them."""
    encode_num_channels: Sequence[int] | None = None
    """Channels of the depth + 1 levels, in place of the doubling."""
    strides: int = 2
    """Factor of the size from level to level."""
    padding: str = "same"
    """``same``; nothing else can be decoded."""
    out_kernel_initializer: str = "zeros"
    """Of the output convolutions; of the dense layer of `GlobalNet`, which with zeros is the identity. Not of
    `KeypointNet`."""
    out_activation: str | None = None
    """Of the output convolutions."""
    kernel_initializer: str = "glorot_uniform"
    """First weights of all blocks, a name of `RegCore.networks.layers.INITIALISERS`."""
    activation: str | None = "relu"
    """Of all blocks, a name of `RegCore.networks.layers.ACTIVATIONS`."""
    norm_name: str = "batch"
    """Normalisation in all blocks: ``batch`` or ``layer``."""
    activation_checkpointing: bool = False
    """Keep less for the backward pass and compute it again: saves memory."""
    deepreg: bool = False
    """As DeepReg: its order of extracted levels, its first weights of the affine map."""

    def __post_init__(self) -> None:
        super().__init__()

    def _check(self) -> int:
        """The depth, once it and the channels are known to be right. Raises InputError."""
        for what in ("depth", "num_channel_initial"):
            number = getattr(self, what)
            if not isinstance(number, int) or number < 1:
                raise InputError(f"{what} must be a positive whole number, but it is {number!r}")
        if self.padding != "same":
            raise InputError(f"padding must be 'same', so that levels fit, but it is {self.padding!r}")
        return self.depth or 0

    def _read_channels(self) -> int:
        """Channels that the encoder reads at once."""
        return self.in_channels

    def _channels(self) -> tuple[int, ...]:
        """Channels of the levels 0..depth of the encoder."""
        count = self._check() + 1
        doubled = [self.num_channel_initial * 2**level for level in range(count)]
        return _per_level(self.encode_num_channels or doubled, count, "encode_num_channels")

    def _add_encoder(self, channels: Sequence[int], kernel_sizes: Sizes, *, short_bottom: bool) -> None:
        """Blocks of the levels; a short bottom is a single convolution."""
        depth = len(channels) - 1
        sizes = _per_level(kernel_sizes, depth + 1, "encode_kernel_sizes")
        self.encode_convs, self.encode_pools = nn.ModuleList(), nn.ModuleList()
        for level in range(depth):
            before, after = (channels[level - 1] if level else self._read_channels()), channels[level]
            self.encode_convs.append(self._stage(before, after, sizes[level]))
            if not self.pooling:
                self.encode_pools.append(self._block(Conv3dBlock, after, after, self.strides, self.strides))
        bottom = partial(self._block, Conv3dBlock) if short_bottom else self._stage
        self.bottom_block = bottom(channels[-2], channels[-1], sizes[-1])

    def _block(
        self, kind: Callable[..., nn.Module], before: int, after: int, size: Sizes, strides: int = 1
    ) -> nn.Module:
        """A block of this kind with the options of the network."""
        return kind(
            before,
            after,
            size,
            strides,
            activation=self.activation,
            norm_name=self.norm_name,
            kernel_initializer=self.kernel_initializer,
        )

    def _stage(self, before: int, after: int, size: Sizes) -> ConvStage:
        """The convolution and the residual block of a level."""
        first = self._block(Conv3dBlock, before, after, size)
        residual = ResidualConv3dBlock(
            after,
            size,
            activation=self.activation,
            norm_name=self.norm_name,
            kernel_initializer=self.kernel_initializer,
        )
        return ConvStage(first, residual)

    def _run(self, module: nn.Module, *inputs: torch.Tensor, block: Callable | None = None) -> torch.Tensor:
        """A module, or a block made of it, on inputs; activation checkpointing keeps nothing from inside."""
        block = block or module
        if not (self.activation_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        if isinstance(block, ConvStage):
            return block(*inputs, recompute=True)
        return recomputed(block, module, *inputs)

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Tensors of all levels, finest first, the bottom last."""
        x = x.contiguous(memory_format=torch.channels_last_3d)
        levels: list[torch.Tensor] = []
        for level, block in enumerate(self.encode_convs):
            levels.append(self._run(block, x))
            if self.pooling:
                x = max_pool3d_same(levels[-1], self.strides, self.strides)
            else:
                x = self._run(self.encode_pools[level], levels[-1])
        return [*levels, self._run(self.bottom_block, x)]


@dataclass(eq=False, repr=False)
class _EncoderDecoder(_Encoder):
    """An encoder with a decoder that is joined to it by skips, and the arguments of the decoder."""

    extract_levels: Sequence[int] = (0,)
    """Levels of the decoder whose outputs are averaged."""
    concat_skip: bool = False
    """Skipped tensors are concatenated, else added."""
    decode_kernel_sizes: Sizes = 3
    """One size for all levels, or depth of them."""
    decode_num_channels: Sequence[int] | None = None
    """Channels of the depth + 1 levels, by default those of the encoder."""

    def _add_levels(
        self, up: Callable[..., nn.Module], encode_kernel_sizes: Sizes, *, short_bottom: bool = False
    ) -> None:
        """All blocks of the network; `up` makes the next larger level. Raises InputError."""
        encode = self._channels()
        decode = _per_level(self.decode_num_channels or encode, len(encode), "decode_num_channels")
        decode = (*decode[:-1], encode[-1])  # the decoder begins at the bottom of the encoder
        _check_levels(self.extract_levels, len(encode) - 1)
        if not self.concat_skip and encode != decode:
            raise InputError(
                f"skipped tensors are added, so encode_num_channels {encode} and decode_num_channels"
                f" {decode} must agree; or set concat_skip"
            )
        self._add_encoder(encode, encode_kernel_sizes, short_bottom=short_bottom)
        self._add_decoder(up, encode, decode)

    def _add_decoder(
        self, up: Callable[..., nn.Module], encode: Sequence[int], decode: Sequence[int]
    ) -> None:
        """Blocks of the levels from the bottom to the finest that is extracted, and the output."""
        depth, self.first = len(encode) - 1, min(self.extract_levels)
        sizes = _per_level(self.decode_kernel_sizes, depth, "decode_kernel_sizes")
        self.decode_deconvs, self.decode_convs = nn.ModuleDict(), nn.ModuleDict()
        for level in range(self.first, depth):
            joined = encode[level] + decode[level] if self.concat_skip else decode[level]
            larger = self._block(up, decode[level + 1], decode[level], sizes[level], self.strides)
            self.decode_deconvs[str(level)] = larger
            self.decode_convs[str(level)] = self._stage(joined, decode[level], sizes[level])
        self.output_block = Extraction(
            decode[self.first :],
            tuple(self.extract_levels),
            self.out_channels,
            self.out_kernel_initializer,
            self.out_activation,
            deepreg=self.deepreg,
        )

    def _joined(self, level: int, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        up = self.decode_deconvs[str(level)](x, skip.shape[2:])
        return torch.cat([up, skip], 1) if self.concat_skip else up + skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, I, J, K)`` to ``(B, out_channels, I, J, K)``."""
        shape = x.shape[2:]
        levels = self._encode(x)
        for level in range(len(levels) - 2, self.first - 1, -1):
            deconvolution, join = self.decode_deconvs[str(level)], partial(self._joined, level)
            joined = self._run(deconvolution, levels[level + 1], levels[level], block=join)
            levels[level] = self._run(self.decode_convs[str(level)], joined)
        return self.output_block(levels[self.first :], shape)


@dataclass(eq=False, repr=False)
class UNet(_EncoderDecoder):
    """A U-Net (Ronneberger et al., MICCAI 2015) in three dimensions with residual blocks, as DeepReg's.

    ``(B, in_channels, I, J, K)`` -> ``(B, out_channels, I, J, K)``.

    Raises:
        InputError: the arguments do not fit together.
    """

    _: KW_ONLY
    depth: int = field()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._add_levels(Deconv3dBlock, self.encode_kernel_sizes)


@dataclass(eq=False, repr=False)
class LocalNet(_EncoderDecoder):
    """The LocalNet (Hu et al., MedIA 49, 2018), as DeepReg's: a U-Net with additive upsampling.

    Its bottom is a single convolution; ``depth`` is the greatest of ``extract_levels`` if it is not given.
    Otherwise as `UNet`.
    """

    _: KW_ONLY
    extract_levels: Sequence[int] = field()
    """Levels of the decoder whose outputs are averaged."""
    use_additive_upsampling: bool = True
    """Add the resized input to each deconvolution; channels must then halve evenly."""
    encode_kernel_sizes: Sizes | None = None
    """[7, 3, 3, …] if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth is None:
            self.depth = max(self.extract_levels, default=0)
        sizes = self.encode_kernel_sizes or [7] + [3] * self._check()
        up = AdditiveUpSampling if self.use_additive_upsampling else Deconv3dBlock
        self._add_levels(up, sizes, short_bottom=True)


@dataclass(eq=False, repr=False)
class GlobalNet(_Encoder):
    """The GlobalNet (Hu et al., ISBI 2018), as DeepReg's: an encoder that answers with one affine map.

    ``(B, in_channels, *image_size)`` -> the DDF ``(B, 3, *image_size)`` in voxels and theta ``(B, 4, 3)``:
    moving index = [i j k 1] @ theta.
    """

    affine: ClassVar[bool] = True
    image_size: Sequence[int] = field()
    """Voxels (I, J, K) of the images: the dense layer at the end reads images of this size."""
    _: KW_ONLY
    extract_levels: Sequence[int] | None = None
    """DeepReg's older name: the greatest is the depth, if that is not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth is None:
            if not self.extract_levels:
                raise InputError("the network global needs a depth")
            self.depth = max(self.extract_levels)
        channels = self._channels()
        self._add_encoder(channels, self.encode_kernel_sizes, short_bottom=False)
        self.output_block = _affine_head(channels, self.image_size, self.strides)
        start = "glorot_uniform" if self.deepreg else self.out_kernel_initializer
        lookup(INITIALISERS, start, "initialiser")(self.output_block.dense.weight.data)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The DDF and theta."""
        return self.output_block(self._encode(x)[-1])


def _affine_head(channels: Sequence[int], image_size: Sequence[int], strides: int) -> AffineHead:
    """What reads the deepest level of an encoder with so many channels from level to level."""
    shape = tuple(image_size)
    for _ in channels[1:]:
        shape = down_sampled(shape, strides)
    return AffineHead(channels[-1], shape, image_size)


@dataclass(eq=False, repr=False)
class KeypointNet(_Encoder):
    """An affine map from points that it finds in each image; after KeyMorph (Yu et al., MIDL 2022).

    One encoder finds the points, in each image without the other; see
    `RegCore.networks.layers.KeypointHead` and `fit_theta`. A moved image takes its points along, so that
    images which lie far apart are learnt from as easily as near ones.

    ``(B, in_channels, I, J, K)``, the moving image before the fixed one -> the DDF ``(B, 3, I, J, K)`` in
    voxels and theta ``(B, 4, 3)``: moving index = [i j k 1] @ theta.

    Raises:
        InputError: the arguments do not fit together.
    """

    affine: ClassVar[bool] = True
    _: KW_ONLY
    depth: int = field()
    keypoints: int = 32
    """Points in each image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.keypoints, int) or self.keypoints < 4:
            raise InputError(f"keypoints must be a whole number from 4 on, but it is {self.keypoints!r}")
        if self.in_channels % 2:
            raise InputError(
                f"two images have an even number of channels, but in_channels is {self.in_channels}"
            )
        channels = self._channels()
        self._add_encoder(channels, self.encode_kernel_sizes, short_bottom=False)
        cell = self.strides ** (len(channels) - 1)
        self.output_block = KeypointHead(channels[-1], self.keypoints, cell, self.kernel_initializer)

    def _read_channels(self) -> int:
        return self.in_channels // 2

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The DDF and theta."""
        images = torch.cat(x.chunk(2, 1))
        moving, fixed = self.output_block(self._encode(images)[-1]).chunk(2)
        with torch.autocast(x.device.type, enabled=False):
            theta = fit_theta(fixed, moving, x.shape[2:])
        return affine_ddf(theta, x.shape[2:]), theta


NETWORKS = LazyTable(
    {
        "unet": UNet,
        "local": LocalNet,
        "global": GlobalNet,
        "keypoints": KeypointNet,
        "deeplab": Lazy("RegCore.slicreg.methods", "DeepLab"),
    }
)
