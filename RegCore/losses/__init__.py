"""Losses: what a registration makes small. One visible table for each kind of thing that they look at.

| table | called with | |
|---|---|---|
| `IMAGE_LOSSES`, `LABEL_LOSSES` | (fixed, warped), ``(B, C, I, J, K)`` | a similarity is negated |
| `DEFORMATION_LOSSES` | (ddf), ``(B, 3, I, J, K)`` in voxels | `ON_VELOCITY`: of the velocity, if any |
| `BIDIRECTIONAL_LOSSES` | (forward, backward), two displacement fields | of the pair and the exchanged pair |
| `LANDMARK_LOSSES` | (ddf, fixed_points, moving_points), points ``(B, N, 3)`` in voxels | |

Each returns one value per sample ``(B,)`` and takes its options by keyword; `make_loss` binds those that a
configuration gives. Names and arguments are those of DeepReg's configuration files. A loss of one's own is
added by assignment: ``IMAGE_LOSSES["mine"] = function``.
"""

from collections.abc import Callable, Mapping
from functools import partial

from RegCore.losses.correspondence import inverse_consistency, landmark_distance
from RegCore.losses.deform import bending, central_difference, diffusion, gradient
from RegCore.losses.folding import jacobian
from RegCore.losses.image import gmi, gncc, mind
from RegCore.losses.label import (
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
from RegCore.losses.lncc import lncc
from RegCore.space.names import options_of, select

IMAGE_LOSSES: dict[str, Callable] = {"lncc": lncc, "ssd": ssd, "gmi": gmi, "gncc": gncc, "mind": mind}
LABEL_LOSSES: dict[str, Callable] = {
    "dice": dice,
    "jaccard": jaccard,
    "cross-entropy": cross_entropy,
    "ssd": ssd,
    "generalised-dice": generalised_dice,
}
DEFORMATION_LOSSES: dict[str, Callable] = {
    "bending": bending,
    "gradient": gradient,
    "diffusion": diffusion,
    "jacobian": jacobian,
}
ON_VELOCITY = {"diffusion"}  # names of deformation losses that look at the velocity where there is one
BIDIRECTIONAL_LOSSES: dict[str, Callable] = {"inverse-consistency": inverse_consistency}
LANDMARK_LOSSES: dict[str, Callable] = {"landmarks": landmark_distance}

__all__ = [
    "BIDIRECTIONAL_LOSSES",
    "DEFORMATION_LOSSES",
    "IMAGE_LOSSES",
    "LABEL_LOSSES",
    "LANDMARK_LOSSES",
    "ON_VELOCITY",
    "bending",
    "central_difference",
    "centroid",
    "centroid_distance",
    "cross_entropy",
    "dice",
    "diffusion",
    "foreground_proportion",
    "generalised_dice",
    "gmi",
    "gncc",
    "gradient",
    "inverse_consistency",
    "jaccard",
    "jacobian",
    "landmark_distance",
    "lncc",
    "make_loss",
    "mind",
    "multi_scale",
    "ssd",
]
OPTIONS = partial(options_of, by_name_only=True)  # of a loss, whose tensors are given by position


def make_loss(options: Mapping, losses: Mapping[str, Callable]) -> Callable:
    """The loss that a configuration describes, as a function of its tensors alone.

    Args:
        options: ``{"name": "lncc", "kernel_size": 7}``: a name of the table and arguments of that loss.
        losses: the table, for example `IMAGE_LOSSES`.

    Raises:
        InputError: no name, an unknown name, an argument that this loss does not have.
    """
    rest = dict(options)
    loss = select(losses, rest.pop("name", None), rest, "the loss", takes=OPTIONS)
    return partial(loss, **rest)
