"""The statistics of batch normalisation as the present weights have them, for validation and for prediction.

The moving averages of training keep 0.99 of the old value at each step (DeepReg's constant), so that they lag
hundreds of steps behind the weights.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from RegCore.training.gradients import precision_of, predict
from RegCore.training.objective import Objective

SAMPLES = 32  # of the training that the statistics are taken over, as far as an epoch has as many
FEWEST_STEPS = 4  # but at least so many batches, also where an epoch has fewer


class _Forward(nn.Module):
    """The forward passes of one step of training."""

    def __init__(self, network: nn.Module, objective: Objective | None, bf16: bool):
        super().__init__()
        self.network, self.objective, self.bf16 = network, objective, bf16

    def forward(self, batch: Mapping) -> None:
        with precision_of(self.network, self.bf16):
            self._passes(batch)

    def _passes(self, batch: Mapping) -> None:
        if self.objective is None:
            self.network(batch)
            return
        predict(self.network, batch)
        if self.objective.needs_exchanged:
            self.network(batch["moving_image"], batch["fixed_image"], batch.get("fixed_label"))


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """The layers of a network that keep moving averages."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def renew_statistics(
    network: nn.Module, objective: Objective | None, batches: Iterable[Mapping], *, bf16: bool = False
) -> None:
    """Replace the moving averages of mean and variance by their means over forward passes on some batches.

    Nothing else of the network changes: weights, other buffers and the numbers of steps stay. In a training
    of several processes each gives its own part of every batch.

    Args:
        network: as `RegCore.networks.models.build_model` makes it.
        objective: what it is trained with, which says whether pairs are seen both ways; None for a network
            that brings its own loss.
        batches: as in training, on the network's device; at least one.
        bf16: whether the network computes in bfloat16, as in training.
    """
    norms = norms_of(network)
    if not norms:
        return
    averages = {id(buffer) for norm in norms for buffer in (norm.running_mean, norm.running_var)}
    others = [(b, b.clone()) for b in network.buffers() if id(b) not in averages]
    training = network.training
    try:
        update_bn(batches, _Forward(network, objective, bf16))
    finally:
        network.train(training)
        with torch.no_grad():
            for buffer, kept in others:
                buffer.copy_(kept)
