"""What training minimises: weighted losses of a prediction, each with a name in the log.

`Objective.from_config` reads the section ``loss`` of a configuration; an `Objective` is called with a
prediction and its batch.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from RegCore import losses
from RegCore.networks.models import Prediction, warped
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name

SECTIONS = ("image", "label", "regularization")
# What DeepReg calls a loss in its log; others are logged under the name in the configuration.
LOGGED = {
    "lncc": "LocalNormalizedCrossCorrelationLoss",
    "gncc": "GlobalNormalizedCrossCorrelationLoss",
    "gmi": "GlobalMutualInformationLoss",
    "ssd": "SumSquaredDifference",
    "dice": "DiceScoreLoss",
    "jaccard": "JaccardIndexLoss",
    "cross-entropy": "CrossEntropy",
    "bending": "BendingEnergy",
    "gradient": "GradientNorm",
}


@dataclass(frozen=True)
class Term:
    """One weighted loss.

    Args:
        section: what it looks at.
        name: in the configuration.
        logged: in the log.
        weight: factor in the total.
        loss: called with the tensors.
        spacing_of_image: the loss gets the voxel size of each fixed image on the network's grid.
    """

    section: str
    name: str
    logged: str
    weight: float
    loss: Callable[..., torch.Tensor]
    spacing_of_image: bool = False


@dataclass(frozen=True)
class Objective:
    """A sum of weighted losses of what a model predicts.

    Args:
        terms: the losses.
        labeled: whether there are labels; their distance (TRE) is then measured, too.
        deepreg: warp and measure as DeepReg does; its losses are asked for when the terms are made.
    """

    terms: tuple[Term, ...]
    labeled: bool
    deepreg: bool = False

    @staticmethod
    def from_config(section: Mapping, *, labeled: bool, deepreg: bool = False) -> "Objective":
        """The objective that the section ``loss`` of a configuration describes.

        Args:
            section: under ``image``, ``label`` and ``regularization`` a dict or a list of dicts: ``name``,
                ``weight`` (1.0 if not given; 0 leaves out this loss) and arguments of the loss. An image
                loss may stand under ``label`` and the other way round. Under ``regularization`` may also
                stand a loss of `RegCore.losses.BIDIRECTIONAL_LOSSES`; ``spacing: image`` is there the voxel
                size of each fixed image on the network's grid.
            labeled: whether there are labels; if not, label losses are not used.
            deepreg: ask those losses that know a difference to compute what DeepReg computes.

        Raises:
            InputError: an unknown section, name or argument, a weight that is no number, nothing to
                minimise.
        """
        if not isinstance(section, Mapping):
            raise InputError(f"loss is {section!r}, expected the sections {', '.join(SECTIONS)}")
        for key in section:
            check_name(key, SECTIONS, "a section of loss")
        terms = [t for key in SECTIONS for t in _terms(key, section.get(key), deepreg)]
        used = tuple(t for t in terms if t.weight != 0 and (labeled or t.section != "label"))
        if not used:
            why = "" if labeled else "; label losses need labelled data"
            raise InputError(f"the section loss leaves nothing to minimise{why}")
        return Objective(used, labeled, deepreg)

    @property
    def needs_exchanged(self) -> bool:
        """Whether a loss compares with the prediction for the exchanged pair."""
        return any(_both_ways(term) for term in self.terms)

    def __call__(
        self, prediction: Prediction, batch: Mapping, exchanged: Prediction | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of each sample, and what to log.

        Args:
            prediction: of a model for the batch.
            batch: ``fixed_image (B, 1, I, J, K)``, ``moving_image (B, 1, i, j, k)`` in [0, 1]; if labelled
                ``fixed_label``, ``moving_label`` alike.
            exchanged: the prediction with moving and fixed exchanged, if `needs_exchanged`.

        Returns:
            total: ``(B,)``, the weighted sum.
            parts: ``(B,)`` each, without gradient, by DeepReg's names: ``loss``;
                ``loss/<section>_<loss>`` and the same ``_weighted``, a second loss of a kind ends in ``_2``,
                NaN of labels where one is empty, which then add nothing to the total;
                ``metric/TRE``, the distance of the centroids in voxels, NaN where a label is empty; and
                ``metric/<tensor>_mean``, ``_min``, ``_max`` of images, labels and fields.

        Raises:
            InputError: the batch lacks something, or no loss applies to what the method predicts.
        """
        tensors = _inputs(prediction, batch, self)
        parts: dict[str, torch.Tensor] = {}
        total: torch.Tensor | None = None
        for section in SECTIONS:
            parts |= _statistics(section, prediction, batch, self.labeled)
            for term in self.terms:
                arguments = tensors.get(section)
                if term.section != section or arguments is None:
                    continue
                value = _value(term, arguments, prediction, batch, exchanged)
                if value.shape != arguments[0].shape[:1]:
                    raise InputError(
                        f"the loss {term.name} must give one value per sample, the shape"
                        f" {tuple(arguments[0].shape[:1])}, but it gave {tuple(value.shape)}"
                    )
                logged = value.detach()
                if section == "label" and not self.deepreg:
                    missing = _placeholders(batch)
                    value, logged = value.masked_fill(missing, 0), logged.masked_fill(missing, math.nan)
                weighted = value * term.weight
                total = weighted if total is None else total + weighted
                parts[f"loss/{term.logged}"] = logged
                parts[f"loss/{term.logged}_weighted"] = logged * term.weight
            if section == "label" and self.labeled:
                parts["metric/TRE"] = _distance(tensors["label"], self.deepreg)
        if total is None:
            names = ", ".join(term.name for term in self.terms)
            raise InputError(f"none of the losses ({names}) applies to what this method predicts")
        return total, {"loss": total.detach(), **parts}


def _placeholders(batch: Mapping) -> torch.Tensor:
    """Samples ``(B,)`` whose fixed or moving label is empty, as one that was never drawn."""
    there = [batch[name].flatten(1).any(1) for name in ("fixed_label", "moving_label")]
    return ~(there[0] & there[1])


def may_be_missing(name: str) -> bool:
    """Whether NaN of what is logged means that a sample has it not: metrics, and losses of labels."""
    return name.startswith(("metric/", "loss/label_"))


def _both_ways(term: Term) -> bool:
    return term.section == "regularization" and term.name in losses.BIDIRECTIONAL_LOSSES


def _table(section: str) -> dict[str, Callable]:
    """All losses that may stand in a section; of two of one name that which is meant for the section."""
    if section == "regularization":
        return losses.BIDIRECTIONAL_LOSSES | losses.DEFORMATION_LOSSES
    if section == "image":
        return losses.LABEL_LOSSES | losses.IMAGE_LOSSES
    return losses.IMAGE_LOSSES | losses.LABEL_LOSSES


def _terms(section: str, given, deepreg: bool) -> list[Term]:
    """The losses of a section, also those of weight 0."""
    entries = given if isinstance(given, list | tuple) else [] if given is None else [given]
    table, terms = _table(section), []
    counts: Counter[str] = Counter()
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise InputError(f"loss.{section} holds {entry!r}, expected a name, a weight and arguments")
        options = dict(entry)
        name: Any = options.get("name")
        weight = options.pop("weight", 1.0)
        check_name(name, table, f"loss.{section}: the loss")
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
            hint = "; YAML reads 1e-5 as text, write 1.0e-5" if isinstance(weight, str) else ""
            raise InputError(f"the weight of {name} in loss.{section} is {weight!r}, expected a number{hint}")
        if deepreg and "deepreg" in inspect.signature(table[name]).parameters:
            options.setdefault("deepreg", True)
        of_image = section == "regularization" and options.get("spacing") == "image"
        if of_image:
            del options["spacing"]
        try:
            loss = losses.make_loss(options, table)
        except InputError as error:
            raise InputError(f"loss.{section}: {error}") from None
        word = f"{section}_{LOGGED.get(name, name)}"
        counts[word] += 1
        logged = word if counts[word] == 1 else f"{word}_{counts[word]}"
        terms.append(Term(section, name, logged, float(weight), loss, of_image))
    return terms


def _inputs(prediction: Prediction, batch: Mapping, objective: Objective) -> dict[str, tuple]:
    """What the losses of each section look at; a section that does not apply is missing."""
    needed = ["fixed_image", "moving_image"] + ["fixed_label", "moving_label"] * objective.labeled
    for name in needed:
        if batch.get(name) is None:
            raise InputError(f"the batch lacks {name}, which the loss needs")
    moving_label = batch["moving_label"] if objective.labeled else None
    border = "zero_boundary" if objective.deepreg else "edge"
    image, label = warped(prediction, batch["moving_image"], moving_label, border=border)
    tensors: dict[str, tuple] = {}
    if image is not None:
        tensors["image"] = (batch["fixed_image"], image)
    if objective.labeled:
        tensors["label"] = (batch["fixed_label"], label)
    if prediction.ddf is not None:
        tensors["regularization"] = (prediction.ddf,)
    return tensors


def _value(
    term: Term, arguments: tuple, prediction: Prediction, batch: Mapping, exchanged: Prediction | None
) -> torch.Tensor:
    """A loss ``(B,)`` of the tensors that it looks at."""
    both = _both_ways(term)
    if both and (exchanged is None or exchanged.ddf is None):
        raise InputError(f"the loss {term.name} needs the prediction for the exchanged pair")
    mm = {}
    if term.spacing_of_image:
        mm["spacing"] = _spacings(batch, "fixed_geometry", term.name)
        if both:
            mm["moving_spacing"] = _spacings(batch, "moving_geometry", term.name)
    if both and exchanged is not None:
        return term.loss(prediction.ddf, exchanged.ddf, **mm)
    on_velocity = term.section == "regularization" and term.name in losses.ON_VELOCITY
    if on_velocity and prediction.dvf is not None:
        return term.loss(prediction.dvf, **mm)
    return term.loss(*arguments, **mm)


def _spacings(batch: Mapping, side: str, name: str) -> torch.Tensor:
    """Voxel sizes ``(B, 3)`` in mm of the images of a batch on the network's grid."""
    if side not in batch:
        raise InputError(f"the loss {name} with spacing: image needs images with a place in space")
    return torch.tensor(np.array([grid.spacing for grid in batch[side]]))


def _distance(pair: tuple, deepreg: bool) -> torch.Tensor:
    """Distance of the centroids of two labels ``(B,)`` in voxels, the mean over channels."""
    with torch.no_grad():
        return losses.centroid_distance(*pair, deepreg=deepreg).mean(1)


@torch.no_grad()
def _statistics(section: str, prediction: Prediction, batch: Mapping, labeled: bool) -> dict:
    """Mean, least and greatest value of each sample of the tensors that a section is about, ``(B,)`` each."""
    if section == "regularization":
        tensors = {"ddf": prediction.ddf, "dvf": prediction.dvf}
    elif section == "image" or labeled:
        tensors = {f"{side}_{section}": batch[f"{side}_{section}"] for side in ("moving", "fixed")}
    else:
        return {}
    statistics: dict[str, torch.Tensor] = {}
    for name, x in tensors.items():
        if x is not None:
            flat = x.flatten(1)
            low, high = flat.aminmax(dim=1)
            statistics |= {f"metric/{name}_mean": flat.mean(1), f"metric/{name}_min": low}
            statistics[f"metric/{name}_max"] = high
    return statistics


def summary(parts: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The mean of each logged ``(B,)``, of ``metric/…_min`` too, as in DeepReg.

    What some samples have not, see `may_be_missing`, is averaged over the others; other NaN stay NaN.
    """
    means = [x.nanmean() if may_be_missing(name) else x.mean() for name, x in parts.items()]
    return dict(zip(parts, torch.stack([mean.float() for mean in means]).tolist(), strict=True))
