"""One step of training for tests: what `RegCore.training.loop` does, without a folder and data on disk."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from RegCore.training.gradients import add_gradient
from RegCore.training.objective import Objective, summary


def train_step(
    model: nn.Module, objective: Objective, optimiser: torch.optim.Optimizer, batches: Iterable[Mapping]
) -> dict[str, float]:
    """A step along the gradient of all batches together; what it logs, means over the samples before it."""
    optimiser.zero_grad(set_to_none=True)
    parts = [add_gradient(model, objective, batch) for batch in batches]
    optimiser.step()
    return summary({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
