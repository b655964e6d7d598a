"""The registries of names that a configuration can choose from, and the further keys that each name takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from RegCore.loaders import COMMON, FILE_LOADERS, LOADERS
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.losses import BIDIRECTIONAL_LOSSES, DEFORMATION_LOSSES, IMAGE_LOSSES, LABEL_LOSSES
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.models import MODELS
from RegCore.registration.optimisers import OPTIMISERS
from RegCore.training.config.types import FREE, Argument, arguments


@dataclass(frozen=True)
class Registry:
    """Names and what they stand for.

    Args:
        kind: what they are, for messages.
        names: gives all of them, looked up anew each time, since plugins add to them.
        arguments: the further keys that a name takes, from what it stands for; None for any.
        own: whether a user can add to them.
    """

    kind: str
    names: Callable[[], Mapping]
    arguments: Callable[[Any], dict[str, Argument] | None]
    own: bool = True

    def __str__(self) -> str:
        return f"one of {', '.join(self.names())}"


def _of_network(network: Callable) -> dict[str, Argument] | None:
    found = arguments(network, without=("image_size", "in_channels"))
    if found is None:
        return None
    by_method = ("out_channels", "out_kernel_initializer", "out_activation")  # unless they are given
    found |= {name: Argument(found[name].hint, False) for name in by_method if name in found}
    for method in MODELS.values():
        own = getattr(method, "backbone_options", {})
        found |= {name: Argument(hint, False) for name, hint in own.items() if name not in found}
    return {**found, "control_points": Argument(int | tuple[int, int, int] | None, False)}


def _of_loss(loss: Callable) -> dict[str, Argument] | None:
    return arguments(loss, by_name_only=True)


def _of_regularization(loss: Callable) -> dict[str, Argument] | None:
    """Of a loss of fields, whose spacing may also be that of each image, see `training.objective`."""
    found = _of_loss(loss)
    if found is not None and "spacing" in found:
        found["spacing"] = Argument(Sequence[float] | Literal["image"] | None, found["spacing"].needed)
    return found


def _of_loader(loader: Callable) -> dict[str, Argument] | None:
    found = arguments(loader)
    return None if found is None else {n: a for n, a in list(found.items())[1:] if n not in COMMON}


def _of_optimiser(defaults: Mapping) -> dict[str, Argument]:
    return {name: Argument(FREE, False) for name in defaults}


METHOD = Registry("method", lambda: MODELS, lambda method: {})
NETWORK = Registry("network", lambda: NETWORKS, _of_network)
OPTIMISER = Registry("optimiser", lambda: OPTIMISERS, _of_optimiser, own=False)
AUGMENTATION = Registry("augmentation", lambda: AUGMENTATIONS, arguments)
LOADER = Registry("loader", lambda: LOADERS, _of_loader)
FILE_LOADER = Registry("file loader", lambda: FILE_LOADERS, lambda loader: {})
IMAGE_LOSS = Registry("loss", lambda: LABEL_LOSSES | IMAGE_LOSSES, _of_loss)
LABEL_LOSS = Registry("loss", lambda: IMAGE_LOSSES | LABEL_LOSSES, _of_loss)
REGULARIZATION = Registry("loss", lambda: BIDIRECTIONAL_LOSSES | DEFORMATION_LOSSES, _of_regularization)
