"""The loop of descent: its steps by their closed form, what it keeps, what it tells, how it ends."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from RegCore.progress import Cancelled
from RegCore.registration.minimise import Adam, minimise

WEIGHTS = torch.tensor([[0.25, 1.0], [0.5, 1.75]], dtype=torch.float64)
START = torch.tensor([[3.0, -2.0], [1.0, 4.0]], dtype=torch.float64)


def descend(rate: float, iterations: int, **options):
    """Plain steps on w x^2 / 2, summed over rows of two samples: x becomes (1 - rate w) x with each."""
    parameters = START.clone().requires_grad_(True)
    optimiser = torch.optim.SGD([parameters], lr=rate)
    return minimise(
        parameters, lambda: (0.5 * WEIGHTS * parameters**2).sum(1), optimiser, iterations, **options
    )


@pytest.mark.parametrize("iterations", [1, 7])
def test_each_step_follows_the_gradient_of_the_sum_and_the_value_is_the_mean_before_it(iterations):
    told = []
    found = descend(0.6, iterations, tell=lambda *event: told.append(event))
    at = [START * (1 - 0.6 * WEIGHTS) ** n for n in range(iterations + 1)]
    values = [float((0.5 * WEIGHTS * x**2).sum(1).mean()) for x in at]
    np.testing.assert_allclose(found.last, at[-1], rtol=1e-12)
    assert [n for n, _ in told] == list(range(iterations))
    np.testing.assert_allclose([value for _, value in told], values[:-1], rtol=1e-12)
    assert found.lowest == told[-1][1]
    np.testing.assert_allclose(found.best, at[-2], rtol=1e-12)


def test_the_best_is_the_first_of_the_lowest_values():
    rising = descend(1.5, 5)  # w = 1.75 grows by 1.625 with each step
    assert torch.equal(rising.best, START) and not torch.equal(rising.last, START)
    parameters = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([parameters], lr=2.0)  # x changes its sign, x^2 / 2 stays
    swinging = minimise(parameters, lambda: 0.5 * parameters.square().sum(), optimiser, 3)
    assert float(swinging.best) == 1.0 and float(swinging.last) == -1.0 and swinging.lowest == 0.5


def test_gradients_of_before_do_not_count_and_a_surrounding_no_grad_does_no_harm():
    parameters = torch.tensor([2.0], requires_grad=True)
    parameters.grad = torch.tensor([1000.0])
    optimiser = torch.optim.SGD([parameters], lr=0.25)
    with torch.no_grad():
        found = minimise(parameters, lambda: parameters.square().sum(), optimiser, 2)
    assert float(found.last) == 0.5 and not found.last.requires_grad


def test_a_value_that_is_no_number_is_never_the_lowest():
    parameters = torch.tensor([-1.0], requires_grad=True)
    optimiser = torch.optim.SGD([parameters], lr=0.5)
    found = minimise(parameters, lambda: parameters.sqrt().sum(), optimiser, 2)
    assert float(found.best) == -1.0 and found.lowest == float("inf")


def test_what_tell_raises_ends_the_descent():
    told = []

    def tell(iteration: int, value: float) -> None:
        told.append(iteration)
        if iteration == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        descend(0.1, 10, tell=tell)
    assert told == [0, 1, 2]


def test_adam_takes_the_steps_of_the_one_in_torch():
    def objective(x):
        return (WEIGHTS * (x - 1) ** 2).sum() + x.sin().sum()

    ours, theirs = (START.clone().requires_grad_(True) for _ in range(2))
    reference = torch.optim.Adam([theirs], lr=0.3)
    minimise(ours, lambda: objective(ours), Adam(ours, 0.3), 25)
    minimise(theirs, lambda: objective(theirs), reference, 25)
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-12)


def test_adam_leaves_alone_what_has_no_gradient():
    parameters = START.clone().requires_grad_(True)
    Adam(parameters, 0.3).step()
    assert torch.equal(parameters, START)


def test_registering_does_not_import_the_compiler_of_torch():
    code = (
        "import sys, RegCore\n"
        "pair = RegCore.make_phantom(fixed_shape=(24, 20, 18), moving_shape=(22, 21, 20))\n"
        "RegCore.register(pair.fixed, pair.moving, device='cpu')\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"], done.stderr
