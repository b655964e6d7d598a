"""One step of training: the gradient of the loss summed over the batch, the mean of it to log.

As DeepReg does: with twice the samples in a batch the gradient is twice as large. Batches that are too large
for the memory can therefore be taken in pieces whose gradients are added.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from RegCore.networks.models import Prediction
from RegCore.space.geometry import InputError
from RegCore.training.objective import Objective, summary


def predict(model: nn.Module, batch: Mapping) -> Prediction:
    """What a model says about a batch: ``fixed_image``, ``moving_image`` and, if there, ``moving_label``."""
    return model(batch["fixed_image"], batch["moving_image"], batch.get("moving_label"))


def _losses(
    model: nn.Module, objective: Objective | None, batch: Mapping, half: bool = False
) -> tuple[torch.Tensor, dict]:
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=half):
        if objective is None:
            return model(batch)
        prediction, exchanged = predict(model, batch), None
        if objective.needs_exchanged:
            exchanged = model(batch["moving_image"], batch["fixed_image"], batch.get("fixed_label"))
    return objective(prediction, batch, exchanged)


def add_gradient(
    model: nn.Module, objective: Objective | None, batch: Mapping, *, half: bool = False, scale: float = 1.0
) -> dict[str, torch.Tensor]:
    """Add the gradient of a batch's summed loss to that of the parameters.

    Args:
        model: as `RegCore.networks.models.build_model` makes it, in training mode.
        objective: what is made small; None for a model that brings its own loss: called with the batch alone,
            it gives the loss of each sample ``(B,)`` and what to log.
        batch: see `Objective`.
        half: whether the network computes in bfloat16; the loss is computed in the dtype of the images.
        scale: factor of the gradient.

    Returns:
        What to log, ``(B,)`` each; see `Objective`.

    Raises:
        InputError: as `Objective`.
    """
    total, parts = _losses(model, objective, batch, half)
    (total.sum() * scale).backward()
    return parts


def train_step(
    model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer, batches: Iterable[Mapping]
) -> dict[str, float]:
    """One step of the optimiser on one batch, or on several that are taken as one.

    Args:
        model, objective: as in `add_gradient`.
        optimiser: of the model's parameters; its gradients are cleared before.
        batches: one batch in a list, or the pieces of a batch; batch normalisation sees each by itself.

    Returns:
        Means over all samples, before the step; see `RegCore.training.objective.summary`.

    Raises:
        InputError: as `Objective`; no batch; a loss that is not finite, before the weights are spoilt.
    """
    optimiser.zero_grad(set_to_none=True)
    found = [add_gradient(model, objective, batch) for batch in batches]
    if not found:
        raise InputError("a step of training needs at least one batch, but there is none")
    numbers = summary({name: torch.cat([parts[name] for parts in found]) for name in found[0]})
    if not torch.isfinite(torch.tensor(numbers["loss"])):
        parts = {k: v for k, v in numbers.items() if k.startswith("loss/") and not k.endswith("_weighted")}
        raise InputError(f"the loss is {numbers['loss']}, so training can't go on; its parts are {parts}")
    optimiser.step()
    return numbers


@torch.no_grad()
def evaluate(model: nn.Module, objective: Objective | None, batch: Mapping) -> dict[str, torch.Tensor]:
    """What would be logged for a batch, ``(B,)`` each, without a step; the model in evaluation mode."""
    return _losses(model, objective, batch)[1]
