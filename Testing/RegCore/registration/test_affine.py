"""Robust linear alignment: known motions recovered, starts, costs."""

from functools import cache

import numpy as np
import pytest
import torch

from RegCore.progress import Cancelled
from RegCore.registration.affine import align, given_position, match_blocks
from RegCore.registration.affine_level import AffineLevel, make_affine_level
from RegCore.registration.affine_refinement import refine
from RegCore.registration.fits import fit_affine, fit_rigid, trimmed_fit
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.registration.starts import starts, stretched
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS
from Testing.RegCore.registration.blobs import FIXED, MOVING, centred, corner_error, density, motion, scan

# ---- starts and costs --------------------------------------------------------------------------------------


@cache
def level(rigid: bool = True, mask: bool = False) -> AffineLevel:
    """A pair whose moving image has to be moved by `motion`."""
    fixed = PairSide(scan(FIXED, motion(rigid).map), mask=half() if mask else None)
    return make_affine_level(fixed, PairSide(scan(MOVING, seed=1)), 8000, None, "cpu")


def sides(moving: Geometry = MOVING) -> tuple[PairSide, PairSide]:
    return PairSide(scan(FIXED)), PairSide(scan(moving))


def half() -> Volume:
    array = np.zeros(FIXED.shape, np.uint8)
    array[:13] = 1
    return Volume(array, FIXED, "labels")


@pytest.mark.parametrize("fixed", GRIDS.values(), ids=GRIDS)
def test_stretched_grids_lay_corner_on_corner(fixed):
    moving = Geometry((12, 9, 15), MOVING.affine)
    ends = np.array(np.meshgrid(*((0, 1),) * 3)).reshape(3, -1).T
    found = AffineTransform(stretched(fixed, moving)).map(fixed.to_world(ends * (np.array(fixed.shape) - 1)))
    np.testing.assert_allclose(found, moving.to_world(ends * (np.array(moving.shape) - 1)), atol=1e-9)


@pytest.mark.parametrize("rigid", [True, False])
def test_starts_are_proper_and_the_header_comes_first(rigid):
    found = starts(level(), *sides(), stretch=not rigid)
    assert next(iter(found)) == "header"
    assert {"grid centres", "centres of mass"} <= set(found)
    np.testing.assert_array_equal(found["header"], np.eye(4))
    np.testing.assert_allclose(AffineTransform(found["grid centres"]).map(FIXED.centre), MOVING.centre)
    for name, matrix in found.items():
        assert np.linalg.det(matrix[:3, :3]) > 0, name
        if rigid:
            np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9, err_msg=name)


def test_grids_of_other_handedness_are_not_stretched_onto_each_other():
    mirrored = Geometry(MOVING.shape, MOVING.affine @ np.diag([-1.0, 1, 1, 1]))
    handed = [grid for grid in (MOVING, mirrored) if "stretched grids" in starts(level(), *sides(grid))]
    expected = MOVING if np.linalg.det(MOVING.affine @ FIXED.affine) > 0 else mirrored
    assert handed == [expected]


def test_the_cost_is_least_at_the_truth_and_counts_the_unknown_at_its_price():
    truth, far = motion(True).matrix, np.eye(4)
    far[:3, 3] = 5000.0
    costs = [level().cost(matrix) for matrix in (truth, np.eye(4), far)]
    assert costs[0] < 0.5 * costs[1] and costs[2] == pytest.approx(level().chance, rel=1e-5)
    gains = [level().gain(matrix) for matrix in (truth, far)]
    assert gains[0] == pytest.approx(1 - costs[0] / costs[2], rel=1e-4) and abs(gains[1]) < 1e-5
    assert level().overlap(far) == 0
    index = MOVING.to_index(motion(True).map(level().grid.world_grid()))
    inside = ((index >= -0.5) & (index <= np.array(MOVING.shape) - 0.5)).all(-1)
    assert level().overlap(truth) == pytest.approx(inside.mean(), abs=0.02)


def test_a_fixed_mask_says_where_the_cost_is_taken():
    masked, moving = level(mask=True), np.eye(4)
    assert float(masked.weight.sum()) == pytest.approx(
        float(half().array.mean() * masked.grid.voxels), rel=0.1
    )
    features, known = masked.resampled(moving)
    distance = (masked.features - features).square().sum(1, keepdim=True)
    distance = torch.where(known > 0, distance, masked.price)[masked.weight > 0]
    assert masked.cost(moving) == pytest.approx(float(distance.mean()), rel=1e-4)


def test_a_fixed_mask_beyond_the_image_is_refused():
    elsewhere = Volume(np.ones((5, 5, 5), np.uint8), centred((5, 5, 5), (0, 0, 0), (1, 1, 1)), "labels")
    tiny = np.zeros((5, 5, 5), np.uint8)
    tiny[2, 2, 2] = 1  # half a voxel of the image wide: no voxel centre is left in it
    mask = Volume(tiny, elsewhere.geometry, "labels")
    with pytest.raises(InputError, match="the fixed mask leaves no voxel"):
        make_affine_level(PairSide(scan(FIXED), mask=mask), PairSide(scan(MOVING)), 1000, None, "cpu")


@pytest.mark.parametrize("rigid", [True, False])
def test_block_matching_and_refinement_each_come_nearer(rigid):
    truth, at = motion(rigid), level(rigid)
    off = truth.matrix.copy()
    off[:3, 3] += 7.0, -6.0, 5.0
    found = match_blocks(at, off, radius=3, block=3, pool=1)
    matched = trimmed_fit(*found, fit_rigid if rigid else fit_affine)
    told = []
    refined = refine(at, off, rigid, iterations=15, tell=lambda n, loss: told.append((n, loss)))
    errors = [corner_error(AffineTransform(m), truth, FIXED) for m in (off, matched, refined)]
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[0]
    losses = [loss for _, loss in told]
    assert [n for n, _ in told] == list(range(len(told))) and losses == sorted(losses, reverse=True)
    if rigid:
        np.testing.assert_allclose(refined[:3, :3] @ refined[:3, :3].T, np.eye(3), atol=1e-5)


# ---- align -------------------------------------------------------------------------------------------------


def recorded(told: list):
    return lambda *event: told.append(event)


@pytest.mark.parametrize(
    ("rigid", "inverted"), [(True, False), (False, True)], ids=["rigid", "affine, inverted"]
)
def test_a_known_motion_is_recovered(rigid, inverted):
    truth, told = motion(rigid), []
    fixed, moving = PairSide(scan(FIXED, truth.map)), PairSide(scan(MOVING, inverted=inverted, seed=1))
    found = align(fixed, moving, rigid=rigid, progress=recorded(told))
    assert corner_error(AffineTransform.identity(), truth, FIXED) > 4
    assert corner_error(found, truth, FIXED) < 1
    if rigid:
        np.testing.assert_allclose(found.matrix[:3, :3] @ found.matrix[:3, :3].T, np.eye(3), atol=1e-5)
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and 0.9 < fractions[-1] <= 1
    assert all(text.startswith("rigid" if rigid else "affine") for _, text, _ in told)
    assert all("loss" in values for _, text, values in told if not text.endswith("preparing"))


def test_headers_that_mean_nothing_are_overcome_by_stretching_the_grids():
    """The moving array shows what the fixed one shows, but its header says voxels of 2.5 mm, far away."""
    header = np.diag([2.5, 2.5, 2.5 * np.sign(np.linalg.det(FIXED.affine)), 1.0])
    header[:3, 3] = 800.0, -300.0, 100.0
    lost, values, sides = Geometry(FIXED.shape, header), density(FIXED.world_grid()), []
    for n, geometry in enumerate((FIXED, lost)):
        noise = 0.02 * np.random.default_rng(n).normal(size=values.shape)
        sides.append(PairSide(Volume((values + noise).astype(np.float32), geometry)))
    truth = AffineTransform(stretched(FIXED, lost))
    np.testing.assert_allclose(given_position(*sides).matrix, truth.matrix)
    assert corner_error(align(*sides), truth, FIXED) < 0.5


def test_the_header_is_believed_where_it_is_right():
    moving = PairSide(scan(MOVING, seed=1))
    np.testing.assert_array_equal(given_position(PairSide(scan(FIXED)), moving).matrix, np.eye(4))


@pytest.mark.parametrize("rigid", [True, False])
def test_from_an_initial_transform_the_result_costs_no_more_than_it(rigid):
    truth = motion(rigid)
    fixed, moving = PairSide(scan(FIXED, truth.map)), PairSide(scan(MOVING, seed=1))
    near = truth.matrix.copy()
    near[:3, 3] += 3.0, -4.0, 2.0
    found = align(fixed, moving, rigid=rigid, initial=AffineTransform(near))
    at = make_affine_level(fixed, moving, 80**3, None, "cpu")
    assert at.cost(found.matrix) < at.cost(near)
    assert corner_error(found, truth, FIXED) < 0.8


def test_what_cannot_be_improved_is_given_back_as_it_was():
    random = np.random.default_rng(0)
    noise = [Volume(random.normal(size=g.shape).astype(np.float32), g) for g in (FIXED, MOVING)]
    initial = motion(True)
    found = align(PairSide(noise[0]), PairSide(noise[1]), rigid=True, initial=initial)
    at = make_affine_level(PairSide(noise[0]), PairSide(noise[1]), 80**3, None, "cpu")
    assert at.cost(found.matrix) <= at.cost(initial.matrix)


def test_segmentations_lead_where_images_say_nothing():
    truth, random = motion(True), np.random.default_rng(0)
    sides, maps = [], []
    for geometry, mapping in ((FIXED, truth.map), (MOVING, lambda p: p)):
        image = Volume(random.normal(size=geometry.shape).astype(np.float32), geometry)
        values = density(mapping(geometry.world_grid()))
        maps.append(Volume(np.digitize(values, [0.35, 0.7, 1.05]).astype(np.uint8), geometry, "labels"))
        sides.append(PairSide(image, maps[-1]))
    encoding = LabelEncoding.of(*maps, 20.0, 0)
    near = truth.matrix.copy()
    near[:3, 3] += 8.0, -7.0, 9.0
    found = align(*sides, rigid=True, initial=AffineTransform(near), encoding=encoding)
    assert corner_error(found, truth, FIXED) < 1 < corner_error(AffineTransform(near), truth, FIXED)


def test_cancelling_stops_at_the_next_word():
    calls = []

    def stop(*event):
        calls.append(event)
        raise Cancelled

    with pytest.raises(Cancelled):
        align(PairSide(scan(FIXED)), PairSide(scan(MOVING)), initial=motion(True), progress=stop)
    assert len(calls) == 1
