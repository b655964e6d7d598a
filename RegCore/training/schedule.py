"""How the learning rate changes during a training: a factor of the optimiser's own rate.

The factor depends on the place in the training alone, or on the history of losses, never on a counter of its
own, so that a training that is taken up again goes on exactly.
"""

import math
from collections.abc import Callable

from RegCore.training.config import Cosine, OneCycle, Plateau, Step


def _half_cosine(begin: float, end: float, part: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * min(max(part, 0.0), 1.0))) / 2


def factor(schedule, place: float, epochs: int, losses: list[float]) -> float:
    """What the learning rate is multiplied by.

    Args:
        schedule: of `RegCore.training.config.SCHEDULES`; None changes nothing.
        place: epochs done, with the part of the present one.
        epochs: of the whole training.
        losses: monitored loss of each epoch done.
    """
    if schedule is None:
        return 1.0
    return _RULES[type(schedule)](schedule, place, epochs, losses)


def _cosine(schedule: Cosine, place: float, epochs: int, losses) -> float:
    if place < schedule.warmup_epochs:
        return place / schedule.warmup_epochs
    part = (place - schedule.warmup_epochs) / max(epochs - schedule.warmup_epochs, 1)
    return _half_cosine(1.0, schedule.final_factor, part)


def _step(schedule: Step, place: float, epochs: int, losses) -> float:
    return schedule.factor ** (int(place) // schedule.every)


def _one_cycle(schedule: OneCycle, place: float, epochs: int, losses) -> float:
    part = place / epochs
    if part < schedule.rise:
        return _half_cosine(schedule.start_factor, 1.0, part / schedule.rise)
    return _half_cosine(1.0, schedule.final_factor, (part - schedule.rise) / max(1 - schedule.rise, 1e-9))


def _plateau(schedule: Plateau, place: float, epochs: int, losses: list[float]) -> float:
    best, waited, changes = math.inf, 0, 0
    for loss in losses:
        if loss < best - schedule.min_delta:
            best, waited = loss, 0
        else:
            waited += 1
        if waited > schedule.patience:
            waited, changes = 0, changes + 1
    return schedule.factor**changes


_RULES: dict[type, Callable[..., float]] = {
    Cosine: _cosine,
    Step: _step,
    OneCycle: _one_cycle,
    Plateau: _plateau,
}


def epochs_without_gain(losses: list[float], min_delta: float) -> int:
    """Epochs at the end of the list since the loss last fell by more than ``min_delta``."""
    best, waited = math.inf, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best - min_delta else (best, waited + 1)
    return waited
