"""Which starts of an alignment are tried, which one is taken, and what counts as a sensible matrix."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import RegCore
from RegCore.evaluation.metrics import dice, mean_of_defined
from RegCore.registration import affine
from RegCore.registration.affine import (
    LEAST_BLOCKS,
    WORTH,
    align,
    align_simply,
    choose_starts,
    match_blocks,
)
from RegCore.registration.affine_level import even_geometry, make_affine_level, prices
from RegCore.registration.fits import fit_affine, sensible, trimmed_fit
from RegCore.registration.pair import UNRELATED, PairSide
from RegCore.registration.starts import HELD, handicap, rigid_part, starts, turn
from RegCore.samples.torso import make_torso, true_transform
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, MOVING, centred, corner_error, motion, scan


def shifted(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def turned(degrees: float, axis=(0.6, -0.48, 0.64)) -> np.ndarray:
    """About the centre of the fixed grid."""
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis)).as_matrix()
    return rotation


@pytest.fixture
def tried(monkeypatch) -> list[tuple[float, int, int, int]]:
    """Shifts that block matching was begun from, with radius, block and pool; it finds nothing."""
    begun = []

    def match(level, matrix, *, radius, block, pool, tick):
        begun.append((matrix[0, 3], radius, block, pool))

    monkeypatch.setattr(affine, "match_blocks", match)
    monkeypatch.setattr(affine, "handicap", lambda *_: 0.0)
    return begun


LEVEL = SimpleNamespace(gain=lambda matrix: 1 - abs(matrix[0, 3]) / 10, grid=FIXED)  # the shift is the loss


def test_the_three_best_starts_and_the_given_one_are_tried(tried):
    candidates = {"given": shifted(9), "a": shifted(5), "b": shifted(2), "c": shifted(3), "d": shifted(4)}
    (found,) = choose_starts(LEVEL, candidates, lambda *_: None)
    best = found.best
    assert tried[:4] == [(2, 4, 2, 2), (3, 4, 2, 2), (4, 4, 2, 2), (9, 4, 2, 2)]
    assert tried[4:] == [(2, 3, 4, 1), (2, 2, 4, 1)]  # the best one twice more, on the whole resolution
    assert best.start == "b" and best.matrix[0, 3] == 2 and best.gain == pytest.approx(0.8)


def test_a_given_start_among_the_best_is_tried_once(tried):
    candidates = {"given": shifted(2), "a": shifted(5), "b": shifted(4), "c": shifted(3)}
    choose_starts(LEVEL, candidates, lambda *_: None)
    assert [shift for shift, *_ in tried] == [2, 3, 4, 2, 2]


@pytest.mark.parametrize(("degrees", "expected"), [(5, "turned"), (60, "given"), (170, "given")])
def test_a_large_turn_must_be_worth_it(tried, monkeypatch, degrees, expected):
    monkeypatch.setattr(affine, "handicap", handicap)
    gains = {1.0: 0.5, turned(degrees)[0, 0]: 0.53}
    level = SimpleNamespace(
        gain=lambda matrix: gains[matrix[0, 0]], grid=centred((9, 9, 9), (0, 0, 0), (5, 5, 5))
    )
    found = choose_starts(level, {"given": np.eye(4), "turned": turned(degrees)}, lambda *_: None)[0]
    assert found.best.start == expected


@pytest.mark.parametrize(("degrees", "upright"), [(59, 0), (61, 1), (179, 1)])
def test_beside_one_that_is_far_turned_the_best_upright_one_goes_on(tried, degrees, upright):
    given = turned(-20)
    gains = {1.0: 0.3, given[0, 0]: 0.1, (away := given @ turned(degrees))[0, 0]: 0.5}
    level = SimpleNamespace(
        gain=lambda matrix: gains[matrix[0, 0]], grid=centred((9, 9, 9), (0, 0, 0), (5, 5, 5))
    )
    found = choose_starts(
        level, {"given": given, "turned": away, "upright": np.eye(4), "as well": given}, lambda *_: None
    )
    assert [nested.best.start for nested in found] == ["turned", "upright"][: 1 + upright]
    four = {
        f"turned {n}": given @ turned(90 + n) for n in range(4)
    }  # it is not among the three best any more
    gains |= {matrix[0, 0]: 0.5 for matrix in four.values()}
    tried.clear()
    found = choose_starts(level, {"given": given, **four, "upright": np.eye(4)}, lambda *_: None)
    assert found[1].best.start == "upright" and len(tried) == 5 + 4


def test_details_tell_which_way_round_a_body_lies():
    """On the coarse grid the torso upside down costs less than the right way round: 0.42 and 0.50."""
    fixed, moving = make_torso(0, (64,) * 3), make_torso(202, (64,) * 3, misalignment=2.5)
    found = align(PairSide(fixed.image), PairSide(moving.image))
    truth = true_transform(fixed, moving).affine_part()
    assert turn(found.matrix, truth.matrix) < 30
    warped = RegCore.warp(moving.labels, found, fixed.labels.geometry)
    assert mean_of_defined(dice(fixed.labels, warped).values()) > 0.5


@pytest.mark.parametrize(
    "given", [np.eye(4), turned(50), motion(False).matrix], ids=["header", "turned", "affine"]
)
def test_what_is_held_against_a_matrix_grows_with_turn_stretch_and_shift(given):
    centre = np.eye(4)
    centre[:3, 3] = FIXED.centre
    grid = FIXED.moved(np.linalg.inv(centre))

    def held(matrix):
        return handicap(given @ matrix, given, grid)

    assert held(np.eye(4)) == pytest.approx(0, abs=1e-9)
    assert held(turned(5)) < 0.01 * held(turned(60)) and held(turned(60)) == pytest.approx(HELD, rel=1e-6)
    assert held(turned(175)) == pytest.approx(held(turned(60)))
    assert held(np.diag([2.0, 1, 1, 1])) == pytest.approx(HELD, rel=1e-6)
    assert held(np.diag([1.05, 1, 1, 1])) < 0.01 * HELD
    assert 0 < held(shifted(5)) < held(shifted(20)) < held(shifted(500)) == held(shifted(900)) < HELD


def test_a_match_is_kept_only_if_it_is_sensible_and_costs_less(monkeypatch):
    offered = {"dearer": shifted(3), "mirrored": shifted(1) @ np.diag([-1.0, 1, 1, 1]), "better": shifted(1)}
    monkeypatch.setattr(affine, "match_blocks", lambda *_, **__: ())
    for name, matrix in offered.items():
        monkeypatch.setattr(affine, "trimmed_fit", lambda fit, found=matrix: found)
        (found,) = choose_starts(LEVEL, {"given": shifted(2)}, lambda *_: None)
        np.testing.assert_array_equal(found.best.matrix, shifted(1 if name == "better" else 2))


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
    points, targets, weights = match_blocks(level, np.eye(4), radius=1, block=5, pool=1)
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
    found = starts(level, PairSide(scan(FIXED)), PairSide(moving), stretch=not rigid)
    axes = [AffineTransform(found[f"principal axes {n}"]) for n in (1, 2, 3, 4)]
    assert min(corner_error(start, away, FIXED) for start in axes) < 0.5
    middle = AffineTransform(found["centres of mass"])
    centre = axes[0].compose(axes[1].inverse())  # a turn about the moving centre of mass
    fixed_point = np.linalg.lstsq(centre.matrix[:3, :3] - np.eye(3), -centre.matrix[:3, 3], rcond=None)[0]
    np.testing.assert_allclose(centre.map(fixed_point), fixed_point, atol=1e-6)
    np.testing.assert_allclose(middle.matrix[:3, :3], np.eye(3))


@pytest.mark.parametrize(("more", "kind"), [(1.01, "affine"), (0.99, "rigid")])
def test_an_affine_transform_must_gain_clearly_more_than_a_rigid_one(monkeypatch, more, kind):
    made = {"rigid": shifted(5), "affine": shifted(5 - 5 * more * WORTH)}
    monkeypatch.setattr(affine, "_rigid_and_affine", lambda *_: (LEVEL, made["rigid"], made["affine"]))
    np.testing.assert_array_equal(align_simply(None, None).matrix, made[kind])


def test_a_trimmed_fit_without_iterations_is_the_fit():
    points = np.random.default_rng(1).normal(size=(30, 3))
    targets = points @ np.diag([2.0, 1, 1]) + np.random.default_rng(2).normal(size=points.shape)
    plain = fit_affine(points, targets, np.ones(30))
    np.testing.assert_array_equal(trimmed_fit(points, targets, np.ones(30), fit_affine, iterations=0), plain)


# ---- nested searches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [True, False], ids=["rigid truth", "affine truth"])
def test_the_affine_result_never_costs_more_than_the_rigid_one(kind):
    sides = PairSide(scan(FIXED, motion(kind).map)), PairSide(scan(MOVING, seed=1))
    rigid, free = (align(*sides, rigid=rigid).matrix for rigid in (True, False))
    level = make_affine_level(*sides, affine.FINE_VOXELS, None, "cpu")
    assert level.cost(free) <= level.cost(rigid) + 1e-9
    np.testing.assert_allclose(rigid[:3, :3] @ rigid[:3, :3].T, np.eye(3), atol=1e-6)
    chosen = align_simply(*sides).matrix
    assert corner_error(AffineTransform(chosen), motion(kind), FIXED) < 0.6


def test_the_rigid_part_keeps_a_point_and_the_nearest_rotation():
    matrix, centre = motion(False).matrix, np.array([10.0, -4, 7])
    found = rigid_part(matrix, centre)
    np.testing.assert_allclose(AffineTransform(found).map(centre), AffineTransform(matrix).map(centre))
    expected = Rotation.align_vectors(matrix[:3, :3].T, np.eye(3))[0].as_matrix()  # Wahba's problem
    np.testing.assert_allclose(found[:3, :3], expected, atol=1e-9)
    np.testing.assert_allclose(rigid_part(turned(40), centre), turned(40), atol=1e-12)


# ---- grids and prices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_thick_slices_are_divided_until_voxels_are_cubes(order):
    shape, spacing = np.array([49, 54, 9])[list(order)], np.array([0.5, 0.5, -7.5])[list(order)]
    thick = centred(tuple(int(n) for n in shape), (0.2, -0.1, 0.3), spacing)
    grid = even_geometry(thick, centred((40, 40, 40), (0, 0, 0), (1, 1, 1)), 64_000)
    root = np.sqrt(0.5 * 7.5)
    np.testing.assert_allclose(grid.spacing, root, rtol=0.1)
    for index in ((0, 0, 0), np.array(shape) - 1):
        at = grid.to_index(thick.to_world(index))
        np.testing.assert_allclose(np.abs(at - np.round(at)), 0, atol=1e-6)


def test_cubes_stay_and_thin_images_keep_their_slices():
    cubes = centred((30, 31, 29), (0.2, 0.1, 0), (2, 2, 2))
    assert even_geometry(cubes, cubes, 64_000).is_close(cubes)
    thin = centred((40, 40, 5), (0.2, 0.1, 0), (1, 1, 1))
    assert even_geometry(thin, thin, 64_000).shape == (40, 40, 5)
    assert even_geometry(cubes, cubes, 1000).voxels <= 1000


def test_the_unknown_costs_what_unrelated_tissue_costs():
    random = np.random.default_rng(0)
    fixed, moving = (
        torch.from_numpy(random.normal(size=(1, 3, 16, 17, 18)).astype(np.float32)) for _ in range(2)
    )
    all_known = torch.ones(1, 1, 16, 17, 18)
    found = prices(fixed, all_known, 2 * moving, all_known)
    assert float(found.mean()) == pytest.approx(3 * (1 + 4), rel=0.05)
    half_known = all_known.clone()
    half_known[..., :9] = 0
    assert float(prices(fixed, all_known, 2 * moving, half_known).mean()) == pytest.approx(15, rel=0.1)
    none = prices(fixed, all_known, moving, 0 * all_known)
    assert float(none.min()) == float(none.max()) == pytest.approx(UNRELATED)
    flat = prices(0 * fixed, all_known, 0 * moving, all_known)
    assert float(flat.max()) <= UNRELATED + 1e-6


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((9, 10, 8), (10, 9, -11)), ((24, 22, 4), (4.5, 5, 5)), ((11, 24, 6), (5, 4.8, -16))],
    ids=["small", "thin slab", "thick slices"],
)
def test_images_with_few_voxels_along_an_axis_are_matched(shape, spacing):
    assert LEAST_BLOCKS >= affine.LEAST_MATCHES / 0.6
    truth = turned(8)
    truth[:3, 3] = 4.0, -6.0, 5.0
    grid = centred(shape, (0.1, -0.2, 0.15), spacing)
    fixed, moving = scan(grid, AffineTransform(truth).map), scan(MOVING, seed=1)
    before, after = (
        corner_error(found, AffineTransform(truth), grid)
        for found in (AffineTransform.identity(), align(PairSide(fixed), PairSide(moving), rigid=True))
    )
    assert after < 0.5 * before
