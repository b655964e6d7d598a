"""The gradient of the loss summed over a batch, and what to log of it.

As DeepReg does: with twice the samples in a batch the gradient is twice as large. Batches that are too large
for the memory can therefore be taken in pieces whose gradients are added.
"""

from collections.abc import Mapping

import torch
from torch import nn

from RegCore.networks.models import Prediction
from RegCore.training.objective import Objective


def predict(model: nn.Module, batch: Mapping) -> Prediction:
    """What a model says about a batch: ``fixed_image``, ``moving_image`` and, if there, ``moving_label``."""
    return model(batch["fixed_image"], batch["moving_image"], batch.get("moving_label"))


def precision_of(model: nn.Module, bf16: bool) -> torch.autocast:
    """The context in which a model computes in bfloat16 where it is safe, or else in the dtype it has."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bf16)


def _losses(
    model: nn.Module, objective: Objective | None, batch: Mapping, bf16: bool = False
) -> tuple[torch.Tensor, dict]:
    with precision_of(model, bf16):
        if objective is None:
            return model(batch)
        prediction, exchanged = predict(model, batch), None
        if objective.needs_exchanged:
            exchanged = model(batch["moving_image"], batch["fixed_image"], batch.get("fixed_label"))
    return objective(prediction, batch, exchanged)


def add_gradient(
    model: nn.Module, objective: Objective | None, batch: Mapping, *, bf16: bool = False, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """Add the gradient of a batch's summed loss to that of the parameters.

    Args:
        model: as `RegCore.networks.models.build_model` makes it, in training mode.
        objective: the losses to minimise; None for a model that brings its own loss: called with the batch
            alone, it gives the loss of each sample ``(B,)`` and what to log.
        batch: see `Objective`.
        bf16: whether the network computes in bfloat16; the loss is computed in the dtype of the images.
        scale: factor of the gradient.

    Returns:
        What to log, ``(B,)`` each; see `Objective`.

    Raises:
        InputError: as `Objective`.
    """
    total, parts = _losses(model, objective, batch, bf16)
    (total.sum() * scale).backward()
    return parts


@torch.no_grad()
def evaluate(
    model: nn.Module, objective: Objective | None, batch: Mapping, *, bf16: bool = False
) -> dict[str, torch.Tensor]:
    """What would be logged for a batch, ``(B,)`` each, without a step; the model in evaluation mode.

    Args:
        model, objective, batch, bf16: see `add_gradient`.
    """
    return _losses(model, objective, batch, bf16)[1]
