"""The learning rate's rules against PyTorch's own schedulers, half-angle formulas and values by hand."""

import math

import numpy as np
import pytest
import torch

from RegCore.training.config import Cosine, OneCycle, Plateau, Step
from RegCore.training.loop import train
from RegCore.training.schedule import epochs_without_gain, factor
from Testing.RegCore.training.runs import configuration, write_pairs

RATE = 0.03


def optimiser() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)


def rates_of_torch(made: torch.optim.Optimizer, scheduler, count: int) -> list[float]:
    """The scheduler's rate at the start of each epoch, as a part of the whole rate."""
    found = []
    for _ in range(count):
        found.append(made.param_groups[0]["lr"] / RATE)
        made.step()
        scheduler.step()
    return found


def ours(schedule, count: int, epochs: int) -> list[float]:
    return [factor(schedule, place, epochs, []) for place in range(count)]


def test_without_a_schedule_the_rate_stays():
    assert factor(None, 3.5, 7, [1.0, 2.0]) == 1.0


@pytest.mark.parametrize(("warmup", "final", "epochs"), [(0, 0.0, 8), (3, 0.2, 10), (1, 1.0, 5)])
def test_cosine_is_the_squared_cosine_of_the_half_angle_after_a_straight_rise(warmup, final, epochs):
    for place in np.arange(0, epochs + 0.1, 0.25):
        along = max(place - warmup, 0) / (epochs - warmup)
        fall = final + (1 - final) * math.cos(math.pi / 2 * along) ** 2
        expected = place / warmup if place < warmup else fall
        assert factor(Cosine(warmup, final), place, epochs, []) == pytest.approx(expected, abs=1e-12)


def test_cosine_is_that_of_pytorch():
    made = optimiser()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, T_max=7, eta_min=RATE * 0.1)
    expected = rates_of_torch(made, scheduler, 8)
    assert ours(Cosine(0, 0.1), 8, 7) == pytest.approx(expected, abs=1e-9)


def test_cosine_by_hand():
    schedule = Cosine(2, 0.5)
    hand = {0: 0, 0.5: 0.25, 1: 0.5, 1.5: 0.75, 2: 1, 4: 0.75, 6: 0.5, 9: 0.5}  # beyond the end it stays
    assert {place: factor(schedule, place, 6, []) for place in hand} == pytest.approx(hand)
    assert factor(schedule, 4, 10, []) == pytest.approx(0.5 + 0.5 * (2 + math.sqrt(2)) / 4)
    assert factor(Cosine(3, 0.25), 2, 3, []) == pytest.approx(2 / 3)
    assert factor(Cosine(3, 0.25), 3, 3, []) == 1  # a training that is all rise
    assert factor(Cosine(3, 0.25), 4, 3, []) == pytest.approx(0.25)


def test_steps_are_those_of_pytorch_and_stay_within_an_epoch():
    made = optimiser()
    scheduler = torch.optim.lr_scheduler.StepLR(made, step_size=3, gamma=0.4)
    expected = rates_of_torch(made, scheduler, 11)
    assert ours(Step(3, 0.4), 11, 11) == pytest.approx(expected, rel=1e-9)
    assert [factor(Step(3, 0.4), place, 11, []) for place in (2.99, 3.0, 5.99)] == [1, 0.4, 0.4]


@pytest.mark.parametrize(("rise", "start", "final"), [(0.3, 0.04, 4e-6), (0.5, 0.2, 0.1), (0.25, 0.5, 0.01)])
def test_one_cycle_is_that_of_pytorch(rise, start, final):
    """PyTorch counts steps from 0 to total - 1, and its rise ends one step before pct_start * total."""
    epochs, made = 20, optimiser()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        made,
        max_lr=RATE,
        total_steps=epochs + 1,
        pct_start=(rise * epochs + 1) / (epochs + 1),
        div_factor=1 / start,
        final_div_factor=start / final,
        cycle_momentum=False,
    )
    expected = []
    for step in range(epochs + 1):
        expected.append(made.param_groups[0]["lr"] / RATE)
        made.step()
        if step < epochs:
            scheduler.step()
    assert ours(OneCycle(rise, start, final), epochs + 1, epochs) == pytest.approx(expected, abs=1e-9)


def test_one_cycle_by_hand():
    schedule = OneCycle(rise=0.4, start_factor=0.2, final_factor=0.1)
    hand = {0: 0.2, 2: 0.6, 4: 1.0, 7: 0.55, 10: 0.1, 1: 0.2 + 0.8 * (2 - math.sqrt(2)) / 4}
    assert {place: factor(schedule, place, 10, []) for place in hand} == pytest.approx(hand)
    assert factor(OneCycle(0.0, 0.2, 0.1), 0, 10, []) == 1  # no rise at all
    assert factor(OneCycle(1.0, 0.2, 0.1), 5, 10, []) == pytest.approx(0.6)  # no fall
    assert factor(OneCycle(1.0, 0.2, 0.1), 10, 10, []) == 1
    usual = OneCycle()
    assert [factor(usual, place, 10, []) for place in (0, 3, 10)] == pytest.approx([0.04, 1, 4e-6])


@pytest.mark.parametrize("patience", [1, 2, 5])
@pytest.mark.parametrize("min_delta", [0.0, 0.3])
def test_plateau_is_that_of_pytorch(patience, min_delta):
    made = optimiser()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        made, factor=0.5, patience=patience, threshold=min_delta, threshold_mode="abs", eps=0
    )
    losses = np.random.default_rng(patience).normal(size=60) - np.arange(60) * 0.01
    expected = []
    for loss in losses:
        made.step()
        scheduler.step(loss)
        expected.append(made.param_groups[0]["lr"] / RATE)
    schedule = Plateau(patience, 0.5, min_delta)
    found = [factor(schedule, n, 60, losses[:n].tolist()) for n in range(1, 61)]
    assert found == pytest.approx(expected) and found[-1] < 0.3


def test_plateau_by_hand():
    schedule = Plateau(patience=2, factor=0.1, min_delta=0.5)
    falls, stays = [5.0, 4.0, 3.0], [5.0, 4.5, 4.6, 4.7]  # 4.5 is no gain of more than 0.5
    assert factor(schedule, 0, 9, []) == 1
    assert factor(schedule, 3, 9, falls) == 1
    assert factor(schedule, 3, 9, stays[:3]) == 1  # two epochs without gain are borne
    assert factor(schedule, 4, 9, stays) == pytest.approx(0.1)  # the third is not
    assert factor(schedule, 6, 9, [*stays, 5, 5]) == pytest.approx(0.1)  # counted anew since the change
    assert factor(schedule, 7, 9, [*stays, 5, 5, 5]) == pytest.approx(0.01)
    assert factor(schedule, 7, 9, [*stays, 5, 4.4, 5, 5]) == pytest.approx(0.1)


def test_epochs_without_gain_by_hand():
    assert epochs_without_gain([], 0) == 0
    assert epochs_without_gain([3.0], 0) == 0
    assert epochs_without_gain([3.0, 2.0, 2.0, 2.5], 0) == 2  # an equal loss is no gain
    assert epochs_without_gain([3.0, 2.0, 2.5, 1.0], 0) == 0
    assert epochs_without_gain([3.0, 2.75, 2.5], 0.5) == 2
    assert epochs_without_gain([3.0, 2.75, 2.25, 2.0], 0.5) == 1  # measured from the best that counted
    losses = np.random.default_rng(0).normal(size=50)
    expected = [n - 1 - int(np.argmin(losses[:n])) for n in range(1, 51)]
    assert [epochs_without_gain(losses[:n].tolist(), 0) for n in range(1, 51)] == expected


def rates_of_a_training(folder, **train_keys) -> list[float]:
    """The rate of the last step of each epoch, in a training on five pairs in batches of two."""
    write_pairs(folder / "pairs")
    config = configuration(folder / "pairs", **train_keys)
    return [row["learning_rate"] for row in train(config, log_dir=folder, exp_name="run").history]


def test_a_training_waits_for_its_plateau(tmp_path):
    """A gain of ten is never reached, so only the first epoch counts as one."""
    schedule = {"name": "plateau", "patience": 1, "factor": 0.5, "min_delta": 10.0}
    found = rates_of_a_training(tmp_path, learning_rate_schedule=schedule, epochs=6)
    assert found == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.005, 0.0025])


def test_a_training_warms_up_from_step_to_step(tmp_path):
    """Its last step of an epoch begins when two of five samples are done: the fifth fills no batch."""
    schedule = {"name": "cosine", "warmup_epochs": 3}
    found = rates_of_a_training(tmp_path, learning_rate_schedule=schedule, epochs=3)
    assert found == pytest.approx([0.01 * (epoch + 2 / 5) / 3 for epoch in range(3)])
