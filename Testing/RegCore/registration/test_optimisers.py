"""Optimisers against steps that Keras 2.15 itself took, their state, and what they refuse."""

import io
import json

import numpy as np
import pytest
import torch

from RegCore.registration.optimisers import OPTIMISERS, make_optimiser, read_options
from RegCore.space.geometry import InputError
from Testing.paths import DATA

RECORDED = json.loads((DATA / "keras_optimisers.json").read_text())
CASES = [pytest.param(c, id=" ".join(map(str, c["options"].values()))) for c in RECORDED["cases"]]


def weights(dtype=torch.float64) -> list:
    return [torch.nn.Parameter(torch.tensor(values, dtype=dtype)) for values in RECORDED["start"]]


def descend(optimiser, parameters, steps) -> None:
    for gradients in steps:
        for p, values in zip(parameters, gradients, strict=True):
            p.grad = torch.tensor(values, dtype=p.dtype)
        optimiser.step()


@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_of_keras(case):
    """Recorded with one gradient of 1e-8, where it shows what epsilon is added to. Keras rounds some of its
    arguments to single precision, hence the tolerance."""
    parameters = weights()
    descend(make_optimiser(case["options"], parameters), parameters, RECORDED["gradients"])
    for p, start, end in zip(parameters, RECORDED["start"], case["end"], strict=True):
        moved = np.array(end) - np.ravel(start)
        assert np.abs(moved).max() > 1e-6
        np.testing.assert_allclose(p.detach().numpy().ravel() - np.ravel(start), moved, rtol=1e-4, atol=1e-12)


def test_adam_adds_epsilon_before_the_bias_is_corrected():
    """One step of a gradient g as small as epsilon: lr sqrt(1 - b2) g / (sqrt(1 - b2) g + epsilon)."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    p.grad = torch.full((1,), 1e-7, dtype=torch.float64)
    make_optimiser({"name": "Adam", "learning_rate": 0.1}, [p]).step()
    root = 0.001**0.5
    expected = -0.1 * root * 1e-7 / (root * 1e-7 + 1e-7)
    assert p.item() == pytest.approx(expected, rel=1e-6)
    assert abs(p.item() + 0.05) > 0.04  # what torch.optim.Adam does with the same epsilon


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_as_if_it_had_not_been_interrupted(case):
    through, stopped = weights(torch.float32), weights(torch.float32)
    descend(make_optimiser(case["options"], through), through, RECORDED["gradients"])
    first = make_optimiser(case["options"], stopped)
    descend(first, stopped, RECORDED["gradients"][:2])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = make_optimiser(case["options"], stopped)
    again.load_state_dict(torch.load(file, weights_only=True))
    descend(again, stopped, RECORDED["gradients"][2:])
    for a, b in zip(through, stopped, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_has_no_gradient_stays(name):
    frozen, moved = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    optimiser = make_optimiser({"name": name, "weight_decay": 0.1, "clipnorm": 1.0}, [frozen, moved])
    moved.grad = torch.ones(3)
    optimiser.step()
    assert torch.equal(frozen, torch.ones(3))
    assert not torch.equal(moved, torch.ones(3))


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ({"clipnorm": 1.0}, [[0.6, 0.8], [0.3]]),
        ({"global_clipnorm": 1.0}, [[3 / 5.009, 4 / 5.009], [0.3 / 5.009]]),
        ({"clipvalue": 0.5}, [[0.5, 0.5], [0.3]]),
        ({"clipnorm": 0}, [[3.0, 4.0], [0.3]]),
    ],
)
def test_clipping(clip, expected):
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (2, 1)]
    descend(
        make_optimiser({"name": "SGD", "learning_rate": 1.0, **clip}, parameters),
        parameters,
        [[[3, 4], [0.3]]],
    )
    for p, values in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(-p.detach().numpy(), values, rtol=1e-3)


def test_defaults_are_filled_in():
    made = read_options({"name": "SGD", "momentum": 0.9})
    assert made["learning_rate"] == 0.01
    assert made["momentum"] == 0.9
    assert made["clipnorm"] is None


def test_a_schedule_of_torch_can_drive_the_learning_rate():
    p = torch.nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser({"name": "Adam", "learning_rate": 0.1}, [p])
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.0)
    p.grad = torch.ones(1)
    optimiser.step()
    schedule.step()
    reached = p.item()
    optimiser.step()
    assert p.item() == reached == pytest.approx(-0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "the optimiser is missing, expected one of Adam"),
        ({"name": "adam"}, "is 'adam'.*did you mean Adam"),
        ({"name": "Rmsprop"}, "did you mean RMSprop"),
        ({"name": "Foo"}, r"is 'Foo', expected one of [\w, ]*$"),
        (
            {"name": "Adam", "learning_rte": 1.0},
            "no argument 'learning_rte', it takes .*, did you mean learning_rate\\?$",
        ),
        ({"name": "SGD", "beta_1": 0.9}, "SGD has no argument 'beta_1'"),
        ({"name": "Adam", "learning_rate": "1e-5"}, "is '1e-5', expected a number; YAML.*1.0e-5"),
        ({"name": "Adam", "learning_rate": 0}, "is 0, expected a number above 0"),
        ({"name": "Adam", "learning_rate": float("nan")}, "is nan, expected a number"),
        ({"name": "Adam", "learning_rate": None}, "is None, expected a number"),
        ({"name": "Adam", "beta_1": 1}, "is 1, expected a number from 0 to below 1"),
        ({"name": "Adam", "amsgrad": 1}, "is 1, expected true or false"),
        ({"name": "SGD", "momentum": True}, "is True, expected a number"),
        ({"name": ["Adam"]}, r"is \['Adam'\]"),
        ("Adam", "optimizer is 'Adam', expected a name and its arguments"),
        ({"name": "SGD", "momentum": 1.5}, "is 1.5, expected a number from 0 to 1"),
        ({"name": "Ftrl", "learning_rate_power": 0.5}, "is 0.5, expected a number of at most 0"),
        ({"name": "Adagrad", "initial_accumulator_value": -1}, "is -1, expected a number of at least 0"),
        ({"name": "Adam", "clipnorm": 1.0, "clipvalue": 1.0}, "clip in one way, but clipnorm and clipvalue"),
    ],
)
def test_what_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        make_optimiser(options, weights())
