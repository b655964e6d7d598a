"""Descent on an objective by an optimiser: the loop that every method of this room goes through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Optimiser(Protocol):
    """What `minimise` asks of an optimiser; those of torch can do it."""

    def zero_grad(self) -> None:
        """Forget the gradient."""

    def step(self) -> Any:
        """Change the parameters along their gradient."""


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) on one tensor, as ``torch.optim.Adam`` computes it.

    The first optimiser of torch that a process makes imports the compiler of torch, which takes longer than
    many a registration.

    Args:
        parameters: a leaf that requires its gradient.
        rate: about the length of a step, in the unit of the parameters.
    """

    FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, parameters: torch.Tensor, rate: float):
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.parameters.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step; where there is no gradient nothing is done."""
        gradient = self.parameters.grad
        if gradient is None:
            return
        self.steps += 1
        self.mean.lerp_(gradient, 1 - self.FIRST)
        self.square.mul_(self.SECOND).addcmul_(gradient, gradient, value=1 - self.SECOND)
        root = self.square.sqrt().div_((1 - self.SECOND**self.steps) ** 0.5).add_(self.EPSILON)
        self.parameters.addcdiv_(self.mean, root, value=-self.rate / (1 - self.FIRST**self.steps))


@dataclass(frozen=True)
class Descent:
    """What came of `minimise`: the parameters at the lowest value that was seen, and after the last step."""

    best: torch.Tensor
    lowest: float
    last: torch.Tensor


def minimise(
    parameters: torch.Tensor,
    objective: Callable[[], torch.Tensor],
    optimiser: Optimiser,
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
