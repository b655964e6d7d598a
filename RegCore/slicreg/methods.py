"""Trainable methods: SLIC-Reg, and the regression of displacements that it is compared with.

Each is a module that brings its own loss to the training loop: called with a batch of `loading.Scans` it
gives the loss of each sample ``(B,)`` and what to log. What else it must know of the data, the template, it
gets from the loader before the training and keeps with its weights, so that a model file is all that is
needed.
"""

from collections.abc import Mapping
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import nn

from RegCore.networks.models import make_backbone
from RegCore.progress import Progress, silent
from RegCore.slicreg.network import STRIDE, Head, NetworkSettings, SlicNet
from RegCore.slicreg.prediction import targets
from RegCore.slicreg.registration import register_scans
from RegCore.slicreg.template import Method
from RegCore.space.geometry import InputError
from RegCore.space.names import select
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

OF_NETWORK = ("layers", "classes", "hidden", "norm", "layout")  # what every network of SLIC-Reg is told
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

    def scores(self, context: torch.Tensor) -> torch.Tensor:
        """What `context` gave to scores ``(B, L, classes, ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)`` before softmax."""
        return self.head(context)

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

    def find_transform(
        self, fixed: Volume, moving: Volume, *, device: str = "cpu", progress: Progress = silent
    ) -> DisplacementField:
        """The field between two scans as they came; see `RegCore.slicreg.registration.register_scans`."""
        return register_scans(self, fixed, moving, device=device, progress=progress)


class SlicReg(_Registering):
    """Predicts in which supervoxels of the template each voxel lies (Heinrich et al., MIDL 2021).

    Args:
        backbone: name and arguments of the network, see `make_network`; ``layers`` and ``classes`` are those
            of the prepared scans. Besides: ``as_published`` learns and reads half a voxel
            apart (older configurations call it ``literal``);
            ``background`` is the weight of the background's voxels in the loss.
        fixed_size: voxels of the network's grid. moving_size: the same.
        labeled, deepreg: make no difference.
    """

    backbone_options = {
        "layers": int,
        "classes": int,
        "hidden": int,
        "norm": str,
        "layout": str,
        "as_published": bool,
        "literal": bool,
        "background": float,
    }

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        given = dict(backbone)
        older, background = given.pop("literal", False), given.pop("background", 1.0)
        as_published = given.pop("as_published", older)
        if background < 0:
            raise InputError(f"background of the backbone must not be negative, but it is {background}")
        network = make_network(given, fixed_size, {})
        settings = network.settings if isinstance(network, SlicNet) else network.head
        super().__init__(network, settings.layers, settings.classes, fixed_size)
        self.as_published, self.background = as_published, background

    def forward(self, batch: Mapping) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the layers of the cross-entropy ``(B,)``, and the share of body voxels that are right.

        The scans of a batch go through the head one by one: its output is by far the largest tensor.
        """
        wanted = targets(batch["supervoxels"], as_published=self.as_published)
        context = self.network.context(batch["image"])
        found = [self._one(context[n : n + 1], wanted[n].long()) for n in range(len(wanted))]
        loss, right = (torch.stack(values) for values in zip(*found, strict=True))
        return loss, {"loss": loss.detach(), "metric/supervoxel_accuracy": right}

    def _one(self, context: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.network.scores(context)[0]
        each = F.cross_entropy(scores, wanted, reduction="none")
        body = wanted > 0
        weight = torch.where(body, 1.0, self.background)
        with torch.no_grad():
            own = scores.gather(1, wanted[:, None])[:, 0]
            right = (own >= scores.amax(1))[body].float().mean()
        return (each * weight).sum() / weight.sum().clamp_min(1e-6), right


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
