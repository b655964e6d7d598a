"""Losses: what a registration makes small. One visible table for images, one for labels, one for fields.

Two tensors ``(B, C, I, J, K)`` or one field ``(B, 3, I, J, K)`` go in, one value per sample ``(B,)`` comes
out; a similarity is negated. Names and arguments are those of DeepReg's configuration files. A loss of one's
own is added by
assignment: ``IMAGE_LOSSES["mine"] = function``.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from ..geometry import InputError
from .deform import bending, central_difference, gradient
from .image import gmi, gncc
from .label import (
    centroid,
    centroid_distance,
    cross_entropy,
    dice,
    foreground_proportion,
    generalised_dice,
    jaccard,
    multi_scale,
    ssd,
)
from .lncc import lncc

IMAGE_LOSSES: dict[str, Callable] = {"lncc": lncc, "ssd": ssd, "gmi": gmi, "gncc": gncc}
LABEL_LOSSES: dict[str, Callable] = {
    "dice": dice,
    "jaccard": jaccard,
    "cross-entropy": cross_entropy,
    "ssd": ssd,
    "generalised-dice": generalised_dice,
}
DEFORMATION_LOSSES: dict[str, Callable] = {"bending": bending, "gradient": gradient}

__all__ = [
    "DEFORMATION_LOSSES",
    "IMAGE_LOSSES",
    "LABEL_LOSSES",
    "bending",
    "central_difference",
    "centroid",
    "centroid_distance",
    "cross_entropy",
    "dice",
    "foreground_proportion",
    "generalised_dice",
    "gmi",
    "gncc",
    "gradient",
    "jaccard",
    "lncc",
    "make_loss",
    "multi_scale",
    "ssd",
]


def make_loss(options: Mapping, losses: Mapping[str, Callable]) -> Callable:
    """The loss that a configuration describes, as a function of its tensors alone.

    Args:
        options: ``{"name": "lncc", "kernel_size": 7}``: a name of the table and arguments of that loss.
        losses: the table, for example `IMAGE_LOSSES`.

    Raises:
        InputError: no name, an unknown name, an argument that this loss does not have.
    """
    rest = dict(options)
    name = rest.pop("name", None)
    if name not in losses:
        raise InputError(f"the loss is named {name!r}, expected one of {', '.join(losses)}")
    known = [p.name for p in inspect.signature(losses[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(rest) - set(known))
    if unknown:
        raise InputError(
            f"the loss {name} has no argument {unknown[0]!r}, it takes {', '.join(known) or 'none'}"
        )
    return partial(losses[name], **rest)
