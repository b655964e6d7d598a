"""Trainable methods: SLIC-Reg, and the regression of displacements that it is compared with.

Each is a module that brings its own loss to the training loop: called with a batch of `loading.Scans` it
gives the loss of each sample ``(B,)`` and what to log. What else it must know of the data, the template, it
gets from the loader before the training and keeps with its weights, so that a model file is all that is
needed.
"""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from RegCore.networks.models import make_backbone
from RegCore.progress import Progress, silent
from RegCore.slicreg.network import STRIDE, Box, Head, NetworkSettings, SlicNet
from RegCore.slicreg.prediction import Method, targets
from RegCore.slicreg.preparation import UNIT, PreparedScan
from RegCore.slicreg.registration import (
    KINDS,
    PREFIX,
    REFINEMENT,
    best_passes,
    register_scans,
    settings_from,
    shows_template,
    template_of,
)
from RegCore.space.geometry import InputError
from RegCore.space.names import select
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)
OF_NETWORK = ("layers", "classes", "hidden", "norm", "layout")  # what every network of SLIC-Reg is told
JUDGED = 4  # scans by which a model judges itself
TRIES = 8  # places of a box until one holds some of the body
UNET_CHANNELS = 64  # that a network of `RegCore.networks.architectures` hands to the head


class DeepLab(nn.Module):
    """The network ``deeplab`` of a configuration; it goes with the methods of SLIC-Reg alone.

    Arguments as in `RegCore.slicreg.network.NetworkSettings`.
    """

    def __init__(
        self,
        image_size=None,
        *,
        in_channels: int = 1,
        width: float = 1.0,
        context: int = 128,
        rates: tuple[int, ...] = (2, 4, 8, 16),
        dropout: float = 0.5,
        checkpointing: bool = False,
    ):
        super().__init__()
        raise InputError("the backbone deeplab works only with the methods slicreg and slicreg-regression")


class Headed(nn.Module):
    """Another network with the head of SLIC-Reg: image ``(B, 1, I, J, K)`` to scores of each second voxel."""

    def __init__(self, backbone: nn.Module, channels: int, settings: NetworkSettings):
        super().__init__()
        self.backbone, self.head = backbone, Head(channels, settings)

    def context(self, image: torch.Tensor) -> torch.Tensor:
        """What the head sees."""
        return self.backbone(image)[:, :, ::STRIDE, ::STRIDE, ::STRIDE]

    def scores(self, context: torch.Tensor, inner: Box | None = None) -> torch.Tensor:
        """What `context` gave to scores ``(B, L, classes, ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)`` before softmax."""
        return self.head(context, inner)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 1, I, J, K)`` to scores ``(B, L, classes, ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)`` before softmax."""
        return self.scores(self.context(image))


def make_network(backbone: Mapping, size, needed: Mapping) -> nn.Module:
    """The network that a section ``backbone`` describes.

    Args:
        backbone: ``{"name": "deeplab", …}`` with the keys of `NetworkSettings`, or another name of `NETWORKS`
            with its arguments and those of `OF_NETWORK`.
        size: voxels of the images.
        needed: settings that the method decides.

    Raises:
        InputError: a key that there is not, or that the method decides itself.
    """
    given = dict(backbone)
    for key, value in needed.items():
        if given.setdefault(key, value) != value:
            raise InputError(f"{key} of the backbone is {given[key]}, but the method needs {value}")
    if given.get("name") == "deeplab":
        rest = {key: value for key, value in given.items() if key != "name"}
        known = [field.name for field in fields(NetworkSettings)]
        select({"deeplab": known}, "deeplab", rest, "the backbone", takes=list)
        if "rates" in rest:
            rest["rates"] = tuple(rest["rates"])
        return SlicNet(NetworkSettings(**rest))
    settings = NetworkSettings(**{key: given.pop(key) for key in OF_NETWORK if key in given})
    defaults = {
        "in_channels": 1,
        "out_channels": UNET_CHANNELS,
        "out_kernel_initializer": "glorot_uniform",
        "out_activation": "relu",
    }
    return Headed(make_backbone(given, size, defaults), UNET_CHANNELS, settings)


class _Registering(Method):
    """A method whose model registers scans in its own way, see `RegCore.registration.learned`."""

    own_settings: Mapping[str, type] = {}
    refinement: Mapping[str, Any] = REFINEMENT

    def find_transform(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> DisplacementField:
        """The field between two scans as they came; see `RegCore.slicreg.registration.register_scans`."""
        wanted = settings_from(settings or {}, PREFIX) if self.own_settings else None
        return register_scans(self, fixed, moving, settings=wanted, device=device, progress=progress)

    def settle(self, batch: Mapping) -> None:
        """What a model learns of itself in the last quarter of a training, from a batch of it: nothing."""


class SlicReg(_Registering):
    """Predicts in which supervoxels of the template each voxel lies (Heinrich et al., MIDL 2021).

    Args:
        backbone: name and arguments of the network, see `make_network`; ``layers`` and ``classes`` are those
            of the prepared scans. Besides: ``as_published`` learns and reads half a voxel
            apart (older configurations call it ``literal``);
            ``background`` is the weight of the background's voxels in the loss;
            ``share`` is the part of the cells that a step of training learns from: a box of that part of each
            scan, at a random place (1, as published: all of them). The head costs most by far, and its share
            of time and memory falls alike.
        fixed_size: voxels of the network's grid. moving_size: the same.
        labeled, deepreg: make no difference.
    """

    own_settings = {PREFIX + name: kind for name, kind in KINDS.items()}
    backbone_options = {
        "layers": int,
        "classes": int,
        "hidden": int,
        "norm": str,
        "layout": str,
        "as_published": bool,
        "literal": bool,
        "background": float,
        "share": float,
    }

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        given = dict(backbone)
        older, background = given.pop("literal", False), given.pop("background", 1.0)
        as_published = given.pop("as_published", older)
        share = given.pop("share", 1.0)
        if not 0 < share <= 1:
            raise InputError(f"share of the backbone is {share}, expected more than 0 and at most 1")
        if background < 0:
            raise InputError(f"background of the backbone must not be negative, but it is {background}")
        network = make_network(given, fixed_size, {})
        settings = network.settings if isinstance(network, SlicNet) else network.head
        super().__init__(network, settings.layers, settings.classes, fixed_size)
        self.as_published, self.background, self.share = as_published, background, share

    def stopover(self, fixed: Volume, moving: Volume) -> Volume | None:
        """The template, with which either of two scans is matched better than with the other.

        For `RegCore.registration.methods.trained_network`.

        Args:
            fixed, moving: the scans as they came.

        Returns:
            `template_of` this model; None if one of the scans shows it.

        Raises:
            InputError: a scan can't be prepared; the message says which.
        """
        scans = (fixed, "the fixed image"), (moving, "the moving image")
        return None if any(shows_template(self, *scan) for scan in scans) else template_of(self)

    def forward(self, batch: Mapping) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the layers of the cross-entropy ``(B,)``, and the share of body voxels that are right.

        The scans of a batch go through the head one by one: its output is by far the largest tensor.
        """
        wanted = targets(batch["supervoxels"], as_published=self.as_published)
        context = self.network.context(batch["image"])
        found = [self._one(context[n : n + 1], wanted[n]) for n in range(len(wanted))]
        loss, mean, right = (torch.stack(values) for values in zip(*found, strict=True))
        return loss, {"loss": mean.detach(), "metric/supervoxel_accuracy": right}

    def _one(self, context: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Loss of a scan as a part of its cells tells it; its mean over these; the share that is right."""
        weight, inner = torch.where(wanted > 0, 1.0, self.background), None
        total, cells = weight.sum(), wanted.numel()
        if self.training and self.share < 1:
            box, around, inner = random_boxes((wanted > 0).any(0), self.share)
            wanted, weight, context = wanted[(..., *box)], weight[(..., *box)], context[(..., *around)]
            total = total * (wanted.numel() / cells)
        wanted = wanted.long()
        scores = self.network.scores(context, inner)[0]
        each = F.cross_entropy(scores, wanted, reduction="none")
        with torch.no_grad():
            own, body = scores.gather(1, wanted[:, None])[:, 0], wanted > 0
            right = ((own >= scores.amax(1)) & body).sum() / body.sum().clamp_min(1)
        loss = (each * weight).sum()
        return loss / total.clamp_min(1e-6), loss / weight.sum().clamp_min(1e-6), right

    def settle(self, batch: Mapping) -> None:
        """How often the network should look at a scan, as the first `JUDGED` of a batch tell, moved and bent
        as in training."""
        grid, scans = self.supervoxels.geometry, []
        for image in batch["image"][:JUDGED, 0].float().cpu().numpy():
            scanned = image * UNIT if self.modality == "ct" else image
            scans.append(PreparedScan(Volume(scanned, grid), np.ones(grid.shape, bool), grid, self.modality))
        places = batch["places"][:JUDGED].float().cpu().numpy()
        try:
            self.passes.fill_(best_passes(self, scans, places, str(batch["image"].device)))
        except InputError as error:  # a training must not end because its model can't register yet
            log.warning("how often the network should look at a scan can't be found out: %s", error)


def random_boxes(body: torch.Tensor, share: float) -> tuple[Box, Box, Box]:
    """A box of a part of the cells, at a random place where some of the body is, if it has any.

    The place follows from `torch.manual_seed`, which the training sets for each step.

    Args:
        body: ``(i, j, k)``, which cells belong to it.
        share: of the cells in the box, about.

    Returns:
        The box; the same with a border of one cell, which the head's convolutions of 3³ read besides (at the
        edges of the grid there is none); and the former within the latter.
    """
    sizes = [min(n, max(1, round(n * share ** (1 / 3)))) for n in body.shape]
    for _ in range(TRIES):
        starts = [_start(n, size) for n, size in zip(body.shape, sizes, strict=True)]
        i, j, k = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        if bool(body[i, j, k].any()):
            break
    box: Box = (i, j, k)
    a, b, c = (slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, body.shape, strict=True))
    x, y, z = (slice(s.start - r.start, s.stop - r.start) for s, r in zip(box, (a, b, c), strict=True))
    return box, (a, b, c), (x, y, z)


def _start(cells: int, size: int) -> int:
    """Where a box begins along an axis: anywhere that meets the axis, then pushed inside.

    So cells at the border are seen as often as those in the middle, half as often as those between.
    """
    return max(0, min(cells - size, int(torch.randint(1 - size, cells, ()))))


class SlicRegression(_Registering):
    """The baseline: the same backbone tells the place in the template itself, three numbers for each cell.

    Arguments as in `SlicReg`; ``layers`` and ``classes`` are not its own, but say which template it has.
    """

    tells_supervoxels = False

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        given = dict(backbone)
        layers, classes = (given.pop(name, default) for name, default in (("layers", 16), ("classes", 128)))
        network = make_network(given, fixed_size, {"layers": 1, "classes": 3})
        super().__init__(network, layers, classes, fixed_size)

    def forward(self, batch: Mapping) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean distance ``(B,)`` between predicted and true places in the body, in half extents."""
        found = self.network(batch["image"])[:, 0]
        body = (targets(batch["supervoxels"])[:, :1] > 0).to(found.dtype)
        distance = ((found - batch["places"]).square().sum(1, keepdim=True) + 1e-6).sqrt()
        loss = (distance * body).flatten(1).sum(1) / body.flatten(1).sum(1).clamp_min(1)
        return loss, {"loss": loss.detach()}
