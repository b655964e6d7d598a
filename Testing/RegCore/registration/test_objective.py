"""The objective of the deformable method term by term, and what is told while folds are smoothed away."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from RegCore.registration import deformable
from RegCore.registration.checks import check_types
from RegCore.registration.deformable import (
    DeformableLevel,
    DeformableTask,
    PairObjective,
    Settings,
    deform,
    make_deformable_level,
)
from RegCore.registration.pair import PairSide
from RegCore.registration.register import METHODS, register
from RegCore.resampler import sample
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform
from Testing.RegCore.registration.blobs import FIXED, MOVING, scan

IDENTITY = AffineTransform.identity()


def level(landmarks: np.ndarray | None = None, **settings) -> DeformableLevel:
    sides = PairSide(scan(FIXED)), PairSide(scan(MOVING, seed=1))
    task = DeformableTask(*sides, IDENTITY, Settings(**settings), landmarks=landmarks)
    return make_deformable_level(task, FIXED, 0.0)


def cost(at: DeformableLevel, u: torch.Tensor, **settings) -> float:
    return float(PairObjective(at, Settings(**settings))(u))


def ramp(shape, steps: np.ndarray) -> torch.Tensor:
    """A displacement whose component r grows by ``steps[r, d]`` from voxel to voxel along axis d."""
    field = np.einsum("rd,dijk->rijk", steps, np.indices(shape))
    return torch.from_numpy(field.astype(np.float32))[None]


@pytest.mark.parametrize("smoothness", [0.5, 2.0])
def test_the_smoothness_term_is_the_mean_square_of_the_gradient_of_a_displacement(smoothness):
    at, steps = level(), np.random.default_rng(0).normal(size=(3, 3)) * 0.01
    u = ramp(at.fixed.shape[2:], steps)
    found = cost(at, u, smoothness=smoothness) - cost(at, u, smoothness=0.0)
    assert found == pytest.approx(smoothness * np.square(steps).sum(), rel=1e-2)


@pytest.mark.parametrize("dense", [10**6, 1000], ids=["a parameter per voxel", "every second voxel"])
def test_the_landmark_term_is_the_mean_square_distance_in_millimetres(dense):
    places = FIXED.to_world(np.random.default_rng(0).uniform(6, 15, (8, 3)))
    apart = np.random.default_rng(1).normal(size=(8, 3)) * 3
    at = level(np.hstack([places, places + apart]), dense_voxels=dense)
    resting = torch.zeros((1, 3, *at.fixed.shape[2:]))
    costs = [cost(at, resting, landmark_weight=weight) for weight in (0.0, 1.0, 2.5)]
    in_voxels = np.linalg.solve(FIXED.affine[:3, :3], apart.T)
    mean_side = np.prod(FIXED.spacing) ** (1 / 3)
    sides = {"mean": FIXED.spacing.mean(), "geometric": mean_side}
    expected = [np.square(in_voxels * side).sum(0).mean() for side in sides.values()]
    assert min(expected) * 0.99 < costs[1] - costs[0] < max(expected) * 1.01
    assert costs[2] - costs[0] == pytest.approx(2.5 * (costs[1] - costs[0]), rel=1e-4)
    assert np.square(apart).sum(1).mean() == pytest.approx(costs[1] - costs[0], rel=0.1)


def test_the_cost_of_no_displacement_is_the_mean_distance_where_both_are_known():
    at = level()
    values = at.moving[(..., *(slice(at.margin, at.margin + n) for n in at.fixed.shape[2:]))]
    known = values[:, -1:] * at.weight
    distance = (at.fixed - values[:, :-1]).square().sum(1, keepdim=True)
    expected = float((distance * known).sum() / known.sum())
    resting = torch.zeros((1, 3, *at.fixed.shape[2:]))
    assert cost(at, resting) == pytest.approx(expected, rel=1e-4)
    away = torch.full_like(resting, 1000.0)  # where nothing is known, a voxel costs what it costs at rest
    assert cost(at, away) == pytest.approx(expected, rel=1e-4)


def test_the_derivative_is_that_of_the_interpolated_features():
    at, settings = level(), Settings(smoothness=0.0)
    shape = at.fixed.shape[2:]
    u = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 3, *shape)).astype(np.float32) * 3)
    u.requires_grad_(True)
    objective = PairObjective(at, settings)
    found = objective(u)
    (slope,) = torch.autograd.grad(2 * found, u)
    values = sample(at.moving, objective.at.view(1, 3, *shape) + u)
    distance = (at.fixed - values[:, :-1]).square().sum(1, keepdim=True)
    distance = (distance - objective.unknown) * values[:, -1:] + objective.unknown
    expected = (distance * at.weight).sum() / at.weight.sum()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (reference,) = torch.autograd.grad(2 * expected, u)
    assert float(reference.abs().max()) > 0
    torch.testing.assert_close(slope, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max()))


def test_at_rest_neither_the_cells_ahead_nor_those_behind_are_preferred():
    at = level()
    u = torch.zeros((1, 3, *at.fixed.shape[2:]), requires_grad=True)
    (slope,) = torch.autograd.grad(PairObjective(at, Settings(smoothness=0.0))(u), u)
    ahead, behind = u.detach() + 0.01, u.detach() - 0.01
    found = [
        torch.autograd.grad(PairObjective(at, Settings(smoothness=0.0))(v.requires_grad_(True)), v)[0]
        for v in (ahead, behind)
    ]
    mean = (found[0] + found[1]) / 2
    sums = [float((x * mean).sum() / (mean * mean).sum()) for x in (slope, *found)]
    assert sums[0] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_field_that_will_not_unfold_is_smoothed_three_times_and_told_of_in_order(monkeypatch, symmetric):
    monkeypatch.setattr(deformable, "folding_fraction", lambda ddf: 1.0)
    smoothness, told = [], []
    descend = deformable.descend

    def noted(at, start, iterations, settings, progress):
        smoothness.append((settings.smoothness, iterations))
        return descend(at, start, iterations, settings, progress)

    monkeypatch.setattr(deformable, "descend", noted)
    settings = Settings(iterations=4, levels=1, smoothness=0.7, symmetric=symmetric)
    sides = PairSide(scan(FIXED)), PairSide(scan(MOVING, seed=1))
    deform(*sides, IDENTITY, settings=settings, progress=lambda *event: told.append(event))
    once = [(0.7, 4), (1.4, 2), (2.8, 2), (5.6, 2)]
    assert smoothness == once * (2 if symmetric else 1)
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] <= 1


def test_the_reversed_task_exchanges_everything():
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    pairs = np.arange(12.0).reshape(2, 6)
    task = DeformableTask(
        PairSide(scan(FIXED)), PairSide(scan(MOVING)), AffineTransform(matrix), Settings(), landmarks=pairs
    )
    turned = task.reversed()
    assert (turned.fixed, turned.moving) == (task.moving, task.fixed)
    np.testing.assert_array_equal(turned.landmarks, [[3, 4, 5, 0, 1, 2], [9, 10, 11, 6, 7, 8]])
    np.testing.assert_allclose(turned.linear.map([1, 2, 3]), [0, 0, 0])
    assert replace(task, landmarks=None).reversed().landmarks is None and turned.initial is None


@pytest.mark.parametrize(("seed", "fine"), [(0, True), (7, True), (-1, False), (1.0, False), ("1", False)])
def test_a_seed_is_a_whole_number_from_0_on(seed, fine):
    given = ((scan(FIXED), scan(MOVING)), (None, None), (None, None), None, None, seed)
    if fine:
        check_types(*given)
        return
    with pytest.raises(InputError, match=f"the seed is {seed!r}, expected a whole number of at least 0"):
        check_types(*given)


def test_a_registration_without_a_seed_has_the_seed_0(monkeypatch):
    seen = []

    def probe(task) -> AffineTransform:
        seen.append(task.seed)
        return IDENTITY

    monkeypatch.setitem(METHODS, "probe", probe)
    fixed, moving = scan(FIXED), scan(MOVING)
    for given in ({}, {"seed": 0}, {"seed": 5}):
        register(fixed, moving, "probe", device="cpu", **given)
    assert seen == [0, 0, 5]
