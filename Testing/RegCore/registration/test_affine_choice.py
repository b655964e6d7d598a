"""Which starts of an alignment are tried, which one is taken, and what counts as a sensible matrix."""

from types import SimpleNamespace

import numpy as np
import pytest

from RegCore.registration import affine
from RegCore.registration.affine import MARGIN, choose_start, fit_affine, fit_rigid, sensible, trimmed_fit


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
    name, matrix = choose_start(LEVEL, candidates, fit_rigid, lambda *_: None)
    assert tried[:4] == [(2, 4, 2, 2), (3, 4, 2, 2), (4, 4, 2, 2), (9, 4, 2, 2)]
    assert tried[4:] == [(2, 3, 4, 1)] * 2  # the best one is searched twice more, on the whole resolution
    assert name == "b" and matrix[0, 3] == 2


def test_a_given_start_among_the_cheapest_is_tried_once(tried):
    candidates = {"given": shifted(2), "a": shifted(5), "b": shifted(4), "c": shifted(3)}
    choose_start(LEVEL, candidates, fit_rigid, lambda *_: None)
    assert [shift for shift, *_ in tried] == [2, 3, 4, 2, 2]


@pytest.mark.parametrize(("factor", "expected"), [(0.99, "given"), (1.01, "other")])
def test_the_given_start_is_preferred_by_the_margin(tried, factor, expected):
    candidates = {"given": shifted(factor), "other": shifted(MARGIN)}
    assert MARGIN < 1
    assert choose_start(LEVEL, candidates, fit_rigid, lambda *_: None)[0] == expected


def test_a_match_is_kept_only_if_it_is_sensible_and_costs_less(monkeypatch):
    offered = {"dearer": shifted(3), "mirrored": shifted(1) @ np.diag([-1.0, 1, 1, 1]), "better": shifted(1)}
    for name, matrix in offered.items():
        monkeypatch.setattr(affine, "match_blocks", lambda *_, found=matrix, **__: found)
        _, found = choose_start(LEVEL, {"given": shifted(2)}, fit_rigid, lambda *_: None)
        np.testing.assert_array_equal(found, shifted(1 if name == "better" else 2))


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


def test_a_trimmed_fit_without_iterations_is_the_fit():
    points = np.random.default_rng(1).normal(size=(30, 3))
    targets = points @ np.diag([2.0, 1, 1]) + np.random.default_rng(2).normal(size=points.shape)
    plain = fit_affine(points, targets, np.ones(30))
    np.testing.assert_array_equal(trimmed_fit(points, targets, np.ones(30), fit_affine, iterations=0), plain)
