"""Descent on an objective by an optimiser: the loop that every method of this room goes through."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Descent:
    """What came of `minimise`: the parameters at the lowest value that was seen, and after the last step."""

    best: torch.Tensor
    lowest: float
    last: torch.Tensor


def minimise(
    parameters: torch.Tensor,
    objective: Callable[[], torch.Tensor],
    optimiser: torch.optim.Optimizer,
    iterations: int,
    tell: Callable[[int, float], object] = lambda iteration, value: None,
) -> Descent:
    """Take steps downhill, each along the gradient of the objective where the parameters are.

    Args:
        parameters: a leaf that requires its gradient; it is changed in place.
        objective: the loss at the present parameters, a scalar or ``(B,)``: the gradient is that of its sum,
            so that the samples of a batch do not depend on each other, the value is its mean. What it raises
            ends the descent.
        optimiser: of the parameters.
        iterations: number of steps, at least one.
        tell: called after each step with its number, from 0 on, and the value before it.

    Returns:
        The first of the parameters with the lowest of the values before the steps, that value, and the
        parameters after the last step, whose value is not computed.
    """
    best, lowest = parameters.detach().clone(), float("inf")
    for iteration in range(iterations):
        optimiser.zero_grad()
        with torch.enable_grad():
            loss = objective()
            loss.sum().backward()
        value = float(loss.detach().mean())
        if value < lowest:
            best, lowest = parameters.detach().clone(), value
        optimiser.step()
        tell(iteration, value)
    return Descent(best, lowest, parameters.detach())
