"""A step of training: sums in the gradient, means in the log, pieces of a batch."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from RegCore.networks.models import build_model
from RegCore.registration.optimisers import make_optimiser
from RegCore.training.gradients import add_gradient, evaluate, predict
from RegCore.training.objective import Objective, summary
from Testing.golden import models
from Testing.paths import DATA
from Testing.steps import train_step

FIXED, MOVING = (7, 8, 9), (6, 9, 8)
TRAIN = {
    "method": "ddf",
    "backbone": {
        "name": "unet",
        "num_channel_initial": 2,
        "depth": 2,
        "out_kernel_initializer": "glorot_uniform",
    },
}
LOSS = {
    "image": {"name": "lncc", "kernel_size": 3},
    "label": {"name": "dice"},
    "regularization": {"name": "bending"},
}
GOLDEN = DATA / "golden"


def batch(size: int = 3) -> dict:
    rng = torch.Generator().manual_seed(0)
    shapes = {"fixed": FIXED, "moving": MOVING}
    return {
        f"{side}_{kind}": torch.rand(size, 1, *shape, generator=rng)
        for kind in ("image", "label")
        for side, shape in shapes.items()
    }


def part(given: dict, *samples: int) -> dict:
    return {name: values[list(samples)] for name, values in given.items()}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(TRAIN, FIXED, MOVING, labeled=True)


def objective() -> Objective:
    return Objective.from_config(LOSS, labeled=True)


def gradients(made: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in made.parameters()]


def test_the_gradient_is_the_sum_over_the_samples_and_pieces_add_up():
    """In evaluation mode, in which batch normalisation does not see how the samples are grouped."""
    made, given = model().eval(), batch()
    parts = add_gradient(made, objective(), given)
    whole = gradients(made)
    made.zero_grad()
    pieces = [add_gradient(made, objective(), part(given, i)) for i in range(3)]
    scale = max(float(g.abs().max()) for g in whole)
    assert scale > 0.1
    for a, b in zip(whole, gradients(made), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * scale)
    for name, values in parts.items():
        torch.testing.assert_close(values, torch.cat([piece[name] for piece in pieces]), rtol=1e-4, atol=1e-6)


def test_a_step_goes_down_the_summed_gradient_and_logs_the_mean_before_it():
    made, given = model().eval(), batch()
    parts = add_gradient(made, objective(), given)
    wanted = [p.detach() - 0.01 * p.grad for p in made.parameters()]
    sgd = make_optimiser({"name": "SGD", "learning_rate": 0.01}, made.parameters())
    logged = train_step(made, objective(), sgd, [given])
    assert logged == pytest.approx(summary(parts), rel=1e-5, abs=1e-7)
    assert logged["loss"] == pytest.approx(float(parts["loss"].mean()), rel=1e-5)
    for p, values in zip(made.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), values)


def test_a_gradient_can_be_scaled_and_computed_in_half_precision():
    """In bfloat16 the network has 8 bits, the loss all of them: what is logged is rounded nowhere else."""
    made, given = model().eval(), batch()
    logged = add_gradient(made, objective(), given)
    whole = gradients(made)
    made.zero_grad()
    add_gradient(made, objective(), given, scale=3.0)
    for a, b in zip(whole, gradients(made), strict=True):
        torch.testing.assert_close(3 * a, b)
    made.zero_grad()
    rounded = add_gradient(made, objective(), given, bf16=True)
    assert rounded["loss"].dtype == torch.float32
    assert not torch.equal(rounded["loss"], logged["loss"])
    torch.testing.assert_close(rounded["loss"], logged["loss"], rtol=0.05, atol=0.05)
    both = [torch.cat([g.flatten() for g in parts]) for parts in (whole, gradients(made))]
    assert torch.cosine_similarity(*both, dim=0) > 0.95


def test_pieces_of_a_batch_make_the_step_of_the_whole():
    given, made, logged = batch(), [model().eval(), model().eval()], []
    for network, pieces in zip(made, ([given], [part(given, 0, 1), part(given, 2)]), strict=True):
        sgd = make_optimiser({"name": "SGD"}, network.parameters())
        logged.append(train_step(network, objective(), sgd, pieces))
    assert logged[0] == pytest.approx(logged[1], rel=1e-4, abs=1e-6)
    for a, b in zip(*(network.parameters() for network in made), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_training_makes_the_loss_small():
    made, given = model().train(), batch()
    adam = make_optimiser({"name": "Adam", "learning_rate": 0.01}, made.parameters())
    logged = [train_step(made, objective(), adam, [given])["loss"] for _ in range(30)]
    assert logged[-1] < logged[0] - 0.1


def test_evaluation_changes_nothing():
    made, given = model().eval(), batch()
    before = {name: values.clone() for name, values in made.state_dict().items()}
    parts = evaluate(made, objective(), given)
    assert all(torch.equal(values, before[name]) for name, values in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters())
    torch.testing.assert_close(parts["loss"], objective()(predict(made, given), given)[0].detach())


def test_both_ways_are_predicted_where_a_loss_asks_for_it():
    """The images differ in size, so the way back has the moving shape."""
    loss = {"regularization": {"name": "inverse-consistency"}}
    made, given = model().train(), batch()
    adam = make_optimiser({"name": "Adam", "learning_rate": 0.01}, made.parameters())
    asked = Objective.from_config(loss, labeled=False)
    logged = [train_step(made, asked, adam, [given])["loss"] for _ in range(20)]
    assert 0 < logged[-1] < 0.5 * logged[0]


@cache
def recorded() -> list[tuple[dict, dict]]:
    with np.load(GOLDEN / "models.npz") as arrays:
        cases = json.loads((GOLDEN / "index_models.json").read_text())
        return [(c, {name: arrays[f"{c['id']}|{name}"] for name in c["inputs"]}) for c in cases]


@pytest.mark.parametrize("place", range(10))
def test_the_log_says_what_deepreg_logged(place):
    """Losses, weighted losses and metrics of a recorded batch before and in training, and after two steps."""
    case, arrays = recorded()[place]
    for name, values in models.logged(case, arrays).items():
        assert values == pytest.approx(case[name], rel=1e-4, abs=1e-5), name
