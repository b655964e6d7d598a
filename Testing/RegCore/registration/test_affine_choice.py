"""Which starts of an alignment are tried, which one is taken, and what counts as a sensible matrix."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from RegCore.registration import affine
from RegCore.registration.affine import (
    MARGIN,
    align_simply,
    choose_start,
    fit_affine,
    fit_rigid,
    make_affine_level,
    match_blocks,
    sensible,
    starts,
    trimmed_fit,
)
from RegCore.registration.pair import PairSide
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, corner_error, motion, scan


def shifted(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


@pytest.fixture
def tried(monkeypatch) -> list[tuple[float, int, int, int]]:
    """Shifts that block matching was begun from, with radius, block and pool; it changes nothing itself."""
    begun = []

    def match(level, matrix, fit, *, radius, block, pool, tick):
        begun.append((matrix[0, 3], radius, block, pool))
        return matrix

    monkeypatch.setattr(affine, "match_blocks", match)
    return begun


LEVEL = SimpleNamespace(cost=lambda matrix: abs(matrix[0, 3]))  # so the shift is the cost


def test_the_three_cheapest_starts_and_the_given_one_are_tried(tried):
    candidates = {"given": shifted(9), "a": shifted(5), "b": shifted(2), "c": shifted(3), "d": shifted(4)}
    best = choose_start(LEVEL, candidates, fit_rigid, lambda *_: None)
    assert tried[:4] == [(2, 4, 2, 2), (3, 4, 2, 2), (4, 4, 2, 2), (9, 4, 2, 2)]
    assert tried[4:] == [(2, 3, 4, 1)] * 2  # the best one is searched twice more, on the whole resolution
    assert best.start == "b" and best.matrix[0, 3] == best.cost == 2


def test_a_given_start_among_the_cheapest_is_tried_once(tried):
    candidates = {"given": shifted(2), "a": shifted(5), "b": shifted(4), "c": shifted(3)}
    choose_start(LEVEL, candidates, fit_rigid, lambda *_: None)
    assert [shift for shift, *_ in tried] == [2, 3, 4, 2, 2]


@pytest.mark.parametrize(("factor", "expected"), [(0.99, "given"), (1.01, "other")])
def test_the_given_start_is_preferred_by_the_margin(tried, factor, expected):
    candidates = {"given": shifted(factor), "other": shifted(MARGIN)}
    assert MARGIN < 1
    assert choose_start(LEVEL, candidates, fit_rigid, lambda *_: None).start == expected


def test_a_match_is_kept_only_if_it_is_sensible_and_costs_less(monkeypatch):
    offered = {"dearer": shifted(3), "mirrored": shifted(1) @ np.diag([-1.0, 1, 1, 1]), "better": shifted(1)}
    for name, matrix in offered.items():
        monkeypatch.setattr(affine, "match_blocks", lambda *_, found=matrix, **__: found)
        found = choose_start(LEVEL, {"given": shifted(2)}, fit_rigid, lambda *_: None)
        np.testing.assert_array_equal(found.matrix, shifted(1 if name == "better" else 2))


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    [
        ((0.5, 0.5, 0.5), True),
        ((0.34, 0.34, 2.99), True),
        ((1, 1, 3.01), False),
        ((1, 0.33, 1), False),
        ((1, -1e-9, 1), False),
        ((0.0, 1, 1), False),
    ],
)
def test_small_bodies_are_sensible_and_flat_ones_are_not(diagonal, expected):
    matrix = np.diag([*diagonal, 1.0])
    matrix[:3, 3] = 1e4  # where a body lies does not matter
    assert sensible(matrix) is expected


@pytest.mark.parametrize(("keep", "expected"), [(0.5, 1.0), (1.0, 3.0)])
def test_trimming_keeps_the_share_that_was_asked_for(keep, expected):
    """Twelve shifts of 1 mm and eight of 6 mm: the nearer half of them agree, all together do not."""
    points = np.random.default_rng(0).normal(size=(20, 3)) * 50
    targets = points + np.outer([1.0] * 12 + [6.0] * 8, [1, 0, 0])

    def mean_shift(x, y, weights):
        return shifted(np.average(y[:, 0] - x[:, 0], weights=weights))

    assert trimmed_fit(points, targets, np.ones(20), mean_shift, keep=keep)[0, 3] == pytest.approx(expected)


def test_half_of_the_residuals_are_kept_where_nothing_else_is_said():
    points = np.random.default_rng(1).normal(size=(30, 3))
    targets = points + np.random.default_rng(2).normal(size=points.shape)
    found, halves, more = (
        trimmed_fit(points, targets, np.ones(30), fit_affine, **options)
        for options in ({}, {"keep": 0.5, "iterations": 10}, {"keep": 0.55})
    )
    np.testing.assert_array_equal(found, halves)
    assert np.abs(found - more).max() > 1e-3


def test_three_fifths_of_the_blocks_are_matched_those_that_stand_out_most(monkeypatch):
    """Contrasts and shifts are made up: block n of 5 by 4 by 4 stands out by n + 1 and moves by n voxels."""
    side = PairSide(scan(FIXED))
    level = make_affine_level(side, side, 25_000, None, "cpu")
    blocks = [n // 5 for n in level.features.shape[2:]]
    count = int(np.prod(blocks))
    shift = torch.arange(count)[:, None] * torch.tensor([1.0, 0, 0])
    monkeypatch.setattr(affine, "best_displacements", lambda *_: (shift, torch.arange(1.0, count + 1)))
    monkeypatch.setattr(affine, "trimmed_fit", lambda *given: given)
    points, targets, weights, _ = match_blocks(level, np.eye(4), fit_rigid, radius=1, block=5, pool=1)
    kept = [n for n in range(count) if n + 1 > np.quantile(np.arange(1, count + 1), 0.4)]
    assert 0.59 < len(kept) / count < 0.61 and count > 60
    np.testing.assert_allclose(weights, np.array(kept) + 1.0)
    centres = np.stack(np.unravel_index(kept, blocks), -1) * 5 + 2
    np.testing.assert_allclose(points, level.grid.to_world(centres))
    moved = centres + np.outer(kept, [1, 0, 0])
    np.testing.assert_allclose(targets, level.grid.to_world(moved))


@pytest.mark.parametrize("rigid", [True, False])
def test_principal_axes_lay_centre_on_centre(rigid):
    """The moving scan is the fixed one, seen elsewhere: one of the four starts brings it back."""
    away = motion(True)
    moving = Volume(scan(FIXED).array, FIXED.moved(away.matrix))
    level = make_affine_level(PairSide(scan(FIXED)), PairSide(moving), 25_000, None, "cpu")
    found = starts(level, FIXED, moving.geometry, rigid)
    axes = [AffineTransform(found[f"principal axes {n}"]) for n in (1, 2, 3, 4)]
    assert min(corner_error(start, away, FIXED) for start in axes) < 0.5
    middle = AffineTransform(found["centres of mass"])
    centre = axes[0].compose(axes[1].inverse())  # a turn about the moving centre of mass
    fixed_point = np.linalg.lstsq(centre.matrix[:3, :3] - np.eye(3), -centre.matrix[:3, 3], rcond=None)[0]
    np.testing.assert_allclose(centre.map(fixed_point), fixed_point, atol=1e-6)
    np.testing.assert_allclose(middle.matrix[:3, :3], np.eye(3))


def test_a_simple_alignment_tells_one_half_of_the_way_for_each_kind(monkeypatch):
    def told(fixed, moving, *, rigid=False, progress, **_):
        for part in (0.0, 0.5, 1.0):
            progress(part, "rigid" if rigid else "affine", {})
        return AffineTransform.identity()

    monkeypatch.setattr(affine, "align", told)
    events, side = [], PairSide(scan(FIXED))
    align_simply(side, side, progress=lambda part, text, _: events.append((text, part)))
    assert events[:3] == [("affine", 0.0), ("affine", 0.25), ("affine", 0.5)]
    assert events[3:] == [("rigid", 0.5), ("rigid", 0.75), ("rigid", 1.0)]


@pytest.mark.parametrize(("share", "kind"), [(0.89, "affine"), (0.91, "rigid")])
def test_an_affine_transform_must_cost_clearly_less_than_a_rigid_one(monkeypatch, share, kind):
    made = {False: shifted(share), True: shifted(1.0)}
    monkeypatch.setattr(affine, "align", lambda *_, rigid=False, **__: AffineTransform(made[rigid]))
    monkeypatch.setattr(affine, "make_affine_level", lambda *_: LEVEL)
    found = align_simply(None, None)
    np.testing.assert_array_equal(found.matrix, made[kind == "rigid"])


def test_a_trimmed_fit_without_iterations_is_the_fit():
    points = np.random.default_rng(1).normal(size=(30, 3))
    targets = points @ np.diag([2.0, 1, 1]) + np.random.default_rng(2).normal(size=points.shape)
    plain = fit_affine(points, targets, np.ones(30))
    np.testing.assert_array_equal(trimmed_fit(points, targets, np.ones(30), fit_affine, iterations=0), plain)
