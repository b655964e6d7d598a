"""A compact 3-D DeepLab that tells, for each voxel and layer, which supervoxel of the template it lies in."""

import math
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from RegCore.space.geometry import InputError

# Channels in, in the middle, out, and stride of each inverted residual; the first one strides in its first
# convolution, so its depthwise one has stride 1.
BLOCKS = (
    (1, 64, 24, 1),
    (24, 128, 24, 1),
    (24, 192, 32, 1),
    (32, 192, 48, 2),
    (48, 256, 48, 1),
    (48, 256, 48, 1),
    (48, 256, 64, 1),
    (64, 384, 64, 1),
)
SKIP = 2  # blocks before the skip connection branches off
STRIDE = 2  # voxels of the input per cell of the output
NORMS = ("group", "batch")
Box = tuple[slice, slice, slice]  # of cells, one slice for each axis
LAYOUTS = ("grouped", "seed")


@dataclass(frozen=True)
class NetworkSettings:
    """Everything that determines the network, so that it can be built again from a file."""

    layers: int = 16
    """Over-segmentations that are predicted at once."""
    classes: int = 128
    """Supervoxels of each layer and the background."""
    width: float = 1.0
    """Factor of the backbone's channels."""
    context: int = 128
    """Channels of the atrous spatial pyramid."""
    hidden: int = 32
    """Channels of the head for each layer."""
    rates: tuple[int, ...] = (2, 4, 8, 16)
    """Dilations of the pyramid."""
    dropout: float = 0.5
    """Share of the pyramid's outputs that training blanks."""
    norm: str = "group"
    """"group" does not depend on the batch; "batch", as published, needs batches of at least 2."""
    layout: str = "grouped"
    """"grouped": each layer has its own group of the head's convolutions. "seed": channel c·L + l belongs to
    class c of layer l, as published, where every layer reads all groups."""
    checkpointing: bool = False
    """Compute parts again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self):
        for name in ("layers", "classes", "width", "context", "hidden"):
            if not getattr(self, name) > 0:
                raise InputError(f"network setting {name} is {getattr(self, name)}, expected more than 0")
        for name, known in (("norm", NORMS), ("layout", LAYOUTS)):
            if getattr(self, name) not in known:
                wanted = " or ".join(known)
                raise InputError(f"network setting {name} is {getattr(self, name)!r}, expected {wanted}")
        if not self.rates or min(self.rates) < 1:
            raise InputError(f"network setting rates is {self.rates}, expected dilations of at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"network setting dropout is {self.dropout}, expected at least 0 and below 1")


def _norm(channels: int, kind: str, groups: int = 8) -> nn.Module:
    """Batch normalisation, or group normalisation (over fewer groups where so many do not divide)."""
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def _scaled(channels: int, width: float) -> int:
    return max(4, round(channels * width / 4) * 4)


class _Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.module(x)


def _block(inward: int, middle: int, outward: int, stride: int, norm: str, *, first: bool) -> nn.Module:
    """An inverted residual (Sandler et al., CVPR 2018) of three dimensions."""
    if first:
        expand = nn.Conv3d(inward, middle, 3, stride=2, padding=1, bias=False)
    else:
        expand = nn.Conv3d(inward, middle, 1, bias=False)
    layers = nn.Sequential(
        expand,
        _norm(middle, norm),
        nn.ReLU6(),
        nn.Conv3d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False),
        _norm(middle, norm),
        nn.ReLU6(),
        nn.Conv3d(middle, outward, 1, bias=False),
        _norm(outward, norm),
    )
    return _Residual(layers) if inward == outward and stride == 1 else layers


class Backbone(nn.Module):
    """Eight inverted residuals: an image ``(B, 1, I, J, K)`` to fine and coarse features.

    Fine ones have half the resolution (24 channels at width 1), coarse ones a quarter (64). Convolutions
    begin with kaiming's normal distribution by fan-out (He et al., ICCV 2015).
    """

    def __init__(self, width: float = 1.0, norm: str = "group", checkpointing: bool = False):
        super().__init__()
        blocks = []
        for n, (inward, middle, outward, stride) in enumerate(BLOCKS):
            sizes = (
                inward if n == 0 else _scaled(inward, width),
                _scaled(middle, width),
                _scaled(outward, width),
            )
            blocks.append(_block(*sizes, stride, norm, first=n == 0))
        self.stem, self.body = nn.Sequential(*blocks[:SKIP]), nn.Sequential(*blocks[SKIP:])
        self.channels = (_scaled(BLOCKS[SKIP - 1][2], width), _scaled(BLOCKS[-1][2], width))
        self.checkpointing = checkpointing
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image ``(B, 1, I, J, K)`` to features ``(B, C, …)`` of half and of a quarter of its resolution."""
        fine = _kept(self.stem, image, self.checkpointing)
        return fine, _kept(self.body, fine, self.checkpointing)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., arXiv 1706.05587): context at several dilations.

    Branches: 1³, 3³ at each rate, and the mean of the whole image; joined by 1³, normalised, with dropout.
    """

    def __init__(self, inward: int, rates, channels: int, norm: str = "group", dropout: float = 0.5):
        super().__init__()

        def unit(size: int, convolution: nn.Conv3d) -> nn.Sequential:
            return nn.Sequential(convolution, _norm(size, norm), nn.ReLU())

        branches = [unit(channels, nn.Conv3d(inward, channels, 1, bias=False))]
        for rate in rates:
            branches.append(
                unit(channels, nn.Conv3d(inward, channels, 3, padding=rate, dilation=rate, bias=False))
            )
        self.branches = nn.ModuleList(branches)
        self.whole = unit(channels, nn.Conv3d(inward, channels, 1, bias=False))
        joined = (len(branches) + 1) * channels
        self.join = unit(channels, nn.Conv3d(joined, channels, 1, bias=False))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, inward, i, j, k)`` -> ``(B, channels, i, j, k)``."""
        whole = self.whole(x.mean((2, 3, 4), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.dropout(self.join(torch.cat([*(branch(x) for branch in self.branches), whole], 1)))


class Head(nn.Module):
    """Fine features and context to scores of all classes of all layers, by grouped convolutions."""

    def __init__(self, inward: int, settings: NetworkSettings):
        super().__init__()
        layers, classes, wide = settings.layers, settings.classes, settings.layers * settings.hidden
        self.stages = nn.Sequential(
            nn.Conv3d(inward, wide, 1, bias=False),
            _norm(wide, settings.norm, layers),
            nn.ReLU(),
            nn.Conv3d(wide, wide, 3, padding=1, groups=layers, bias=False),
            _norm(wide, settings.norm, layers),
            nn.ReLU(),
            nn.Conv3d(wide, layers * classes, 1, groups=layers),
        )
        self.layers, self.classes, self.layout = layers, classes, settings.layout

    def forward(self, x: torch.Tensor, inner: Box | None = None) -> torch.Tensor:
        """``(B, inward, i, j, k)`` -> ``(B, L, classes, i, j, k)``; with `inner` of that part alone."""
        hidden = self.stages[:-1](x)
        if inner is not None:
            hidden = hidden[(slice(None), slice(None), *inner)]
        scores, rest = self.stages[-1](hidden), hidden.shape[2:]
        if self.layout == "grouped":
            return scores.reshape(len(x), self.layers, self.classes, *rest)
        return scores.reshape(len(x), self.classes, self.layers, *rest).transpose(1, 2)


class SlicNet(nn.Module):
    """The network of SLIC-Reg: scores of every supervoxel of every layer at every second voxel.

    Cell c of the output is centred on voxel 2 c of the input: a convolution of stride 2 with padding 1 has it
    there, so `prediction` has it learn the supervoxel of that voxel and reads voxel v at cell v / 2.
    """

    def __init__(self, settings: NetworkSettings | None = None):
        super().__init__()
        self.settings = settings = settings or NetworkSettings()
        self.backbone = Backbone(settings.width, settings.norm, settings.checkpointing)
        fine, coarse = self.backbone.channels
        self.pyramid = Pyramid(coarse, settings.rates, settings.context, settings.norm, settings.dropout)
        self.head = Head(fine + settings.context, settings)

    def context(self, image: torch.Tensor) -> torch.Tensor:
        """What the head sees: fine features and upsampled context, ``(B, C, i, j, k)``.

        Raises:
            InputError: a batch holds one image in training with batch normalisation.
        """
        if self.training and self.settings.norm == "batch" and len(image) < 2:
            raise InputError(
                "batch normalisation needs batches of at least 2 scans; choose norm: group for 1"
            )
        fine, coarse = self.backbone(image)
        around = _kept(self.pyramid, coarse, self.settings.checkpointing)
        return torch.cat([fine, F.interpolate(around, size=fine.shape[2:], mode="nearest")], 1)

    def scores(self, context: torch.Tensor, inner: Box | None = None) -> torch.Tensor:
        """The head alone, so that a large batch can go through it one by one, see `Head`."""
        return _kept(self.head, context, self.settings.checkpointing, inner)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 1, I, J, K)`` to scores ``(B, L, classes, ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)`` before softmax.

        Raises:
            InputError: as `context`.
        """
        return self.scores(self.context(image))


def _kept(module: nn.Module, x: torch.Tensor, checkpointing: bool, *more: Box | None) -> torch.Tensor:
    """The module's output; with checkpointing what led to it is forgotten until the backward pass."""
    if not (checkpointing and torch.is_grad_enabled()):
        return module(x, *more)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen(module)

    return checkpoint(module, x, *more, use_reentrant=False, context_fn=contexts)


@contextmanager
def _frozen(module: nn.Module):
    """Running statistics stay as they are: the second computation of a batch must not count again."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm3d)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in zip(norms, momenta, strict=True):
            part.momentum = momentum
