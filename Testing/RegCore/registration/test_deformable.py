"""Deformable registration: known fields recovered without folds, what joins the objective, settings."""

from functools import cache

import numpy as np
import pytest
import torch

from RegCore.progress import Cancelled
from RegCore.registration import deformable_level
from RegCore.registration.deformable import (
    DeformableTask,
    Settings,
    deform,
    make_deformable_level,
    smooth,
)
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.registration.starts import structures_apart
from RegCore.resampler import resample_ddf, warp
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS, smooth_field, tilted_affine
from Testing.RegCore.registration.blobs import FIXED, MOVING, density, motion, scan

QUICK = Settings(iterations=30, levels=2)
IDENTITY = AffineTransform.identity()


@cache
def bend() -> DisplacementField:
    """A smooth field of up to 17 mm, near three voxels, that does not fold."""
    return smooth_field(FIXED, seed=4, mm=17.0, sigma=4.5)


def sides(inverted: bool = False) -> tuple[PairSide, PairSide]:
    """The moving scan on its own grid, and the fixed one seen through `bend`."""
    return PairSide(scan(FIXED, bend().map)), PairSide(scan(MOVING, inverted=inverted, seed=1))


def in_voxels(field: DisplacementField, linear: AffineTransform = IDENTITY) -> np.ndarray:
    """What a field adds to the linear transform, (I, J, K, 3) in voxels of its grid."""
    grid = field.geometry
    return grid.to_index(linear.inverse().map(field.map(grid.world_grid()))) - grid.index_grid()


def body(geometry: Geometry = FIXED) -> np.ndarray:
    """Where there is something to see, bool (I, J, K)."""
    return density(bend().map(geometry.world_grid())) > 0.15


def errors(field: DisplacementField, truth) -> np.ndarray:
    """Distance in voxels from the truth at each voxel of the body."""
    points = FIXED.world_grid()[body()]
    return np.linalg.norm(field.map(points) - truth.map(points), axis=1) / FIXED.spacing.mean()


# ---- recovery ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inverted", "share"), [(False, 0.45), (True, 0.7)], ids=["one contrast", "inverted"]
)
def test_a_known_smooth_field_is_recovered_without_folds(inverted, share):
    told = []
    found = deform(*sides(inverted), IDENTITY, settings=QUICK, progress=lambda *event: told.append(event))
    before = errors(AffineTransform.identity(), bend()).mean()
    after = errors(found, bend())
    assert before > 0.7
    assert after.mean() < share * before and np.percentile(after, 95) < 2 * share * before
    assert found.jacobian_determinant().min() > 0.1
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and 0.9 < fractions[-1] <= 1
    assert all(text.startswith("deformable") for _, text, _ in told)
    assert all({"iteration", "loss"} <= set(v) for _, text, v in told if text.endswith(" mm"))


def test_the_field_is_what_remains_after_the_affine_part():
    linear = motion(rigid=False)
    fixed = PairSide(scan(FIXED, lambda p: linear.map(bend().map(p))))
    found = deform(fixed, PairSide(scan(MOVING, seed=1)), linear, settings=QUICK)
    truth = linear.compose(bend())
    assert errors(found, truth).mean() < 0.5 * errors(linear, truth).mean()


def test_images_that_fit_already_stay_where_they_are():
    fixed = PairSide(scan(FIXED))
    found = deform(fixed, PairSide(scan(FIXED, seed=1)), IDENTITY, settings=QUICK)
    assert np.abs(in_voxels(found)).max(-1)[body(found.geometry)].max() < 0.35
    assert np.abs(in_voxels(deform(fixed, fixed, IDENTITY, settings=QUICK))).max() < 0.1


def test_the_same_input_gives_the_same_field_to_the_last_bit():
    settings = Settings(iterations=4, levels=1)
    first, second = (deform(*sides(), IDENTITY, settings=settings).mm for _ in range(2))
    assert np.array_equal(first, second) and np.abs(first).max() > 0.1


def test_stiffer_settings_give_smoother_fields():
    roughness = []
    for smoothness in (0.5, 20.0):
        settings = Settings(iterations=15, levels=1, smoothness=smoothness)
        ddf = in_voxels(deform(*sides(), IDENTITY, settings=settings))
        roughness.append(sum(np.square(np.diff(ddf, axis=d)).mean() for d in range(3)))
    assert roughness[1] < 0.2 * roughness[0]


def test_a_large_volume_is_worked_on_at_the_resolution_asked():
    found = deform(*sides(), IDENTITY, settings=Settings(working_voxels=3000, iterations=3))
    assert found.geometry == working_geometry(FIXED, 3000)


# ---- what else joins the objective -------------------------------------------------------------------------


def label_maps() -> tuple[Volume, Volume]:
    """The balls cut at three brightnesses, fixed and moving."""
    maps = []
    for geometry, mapping in ((FIXED, bend().map), (MOVING, lambda p: p)):
        values = np.digitize(density(mapping(geometry.world_grid())), [0.3, 0.6, 0.9])
        maps.append(Volume(values.astype(np.uint8), geometry, "labels"))
    return tuple(maps)


def noise_sides(maps) -> tuple[PairSide, PairSide]:
    random = np.random.default_rng(0)
    images = [Volume(random.normal(size=m.geometry.shape).astype(np.float32), m.geometry) for m in maps]
    return tuple(PairSide(image, labels) for image, labels in zip(images, maps, strict=True))


def test_segmentations_are_brought_together_where_images_are_mere_noise():
    maps = label_maps()
    encoding = LabelEncoding.of(*maps, Settings().label_weight, 0)
    found = deform(*noise_sides(maps), IDENTITY, settings=QUICK, encoding=encoding)
    before, after = errors(AffineTransform.identity(), bend()), errors(found, bend())
    assert after.mean() < 0.7 * before.mean()


def landmark_pairs(count: int = 30) -> np.ndarray:
    places = FIXED.world_grid()[body()]
    places = places[np.random.default_rng(0).permutation(len(places))[:count]]
    return np.hstack([places, bend().map(places)])


def test_landmarks_pull_only_if_they_have_a_weight():
    pairs, images = landmark_pairs(), noise_sides(label_maps())
    apart = {}
    for weight in (0.0, 1.0):
        settings = Settings(iterations=30, levels=2, landmark_weight=weight)
        found = deform(*images, IDENTITY, settings=settings, landmarks=pairs)
        apart[weight] = np.linalg.norm(found.map(pairs[:, :3]) - pairs[:, 3:], axis=1).mean()
    start = np.linalg.norm(pairs[:, :3] - pairs[:, 3:], axis=1).mean()
    assert apart[1.0] < 0.5 * start < 0.7 * apart[0.0]


@pytest.mark.parametrize(("dense", "stride"), [(10**6, 1), (1000, 2)])
def test_landmarks_lie_where_they_belong_among_the_parameters(dense, stride):
    linear = tilted_affine(1.05, (4.0, -3.0, 2.0))
    parameter, shift = np.array([[3.0, 4, 5], [6, 2, 1]]), np.array([[0.5, -1, 2], [0, 0.25, -0.5]])
    voxel = parameter * stride + (stride - 1) / 2  # a parameter stands in the middle of its voxels
    stop = linear.map(FIXED.to_world(voxel + shift * stride))
    pairs = np.hstack([FIXED.to_world(voxel), stop])
    task = DeformableTask(*sides(), linear, Settings(dense_voxels=dense), landmarks=pairs)
    level = make_deformable_level(task, FIXED, 0.0)
    np.testing.assert_allclose(level.points[0, :, :, 0, 0].numpy().T, parameter, atol=1e-4)
    np.testing.assert_allclose(level.targets[0, :, :, 0, 0].numpy().T, shift, atol=1e-4)


def test_landmarks_pull_through_the_affine_part_and_on_every_second_voxel():
    linear = tilted_affine(1.05, (4.0, -3.0, 2.0))
    pairs = landmark_pairs()
    pairs[:, 3:] = linear.map(pairs[:, 3:])
    settings = Settings(iterations=30, levels=1, landmark_weight=5.0, smoothness=0.3, dense_voxels=1000)
    images = noise_sides(label_maps())
    found = deform(*images, linear, settings=settings, landmarks=pairs)
    start = np.linalg.norm(linear.map(pairs[:, :3]) - pairs[:, 3:], axis=1).mean()
    assert np.linalg.norm(found.map(pairs[:, :3]) - pairs[:, 3:], axis=1).mean() < 0.5 * start


def test_parameters_on_every_second_voxel_recover_the_field_too():
    settings = Settings(iterations=30, levels=1, dense_voxels=1000)
    found = deform(*sides(), IDENTITY, settings=settings)
    assert errors(found, bend()).mean() < 0.5 * errors(AffineTransform.identity(), bend()).mean()


def far_structures() -> tuple[Volume, Volume]:
    """A large ball in place, and a small one that lies 42 mm away from its counterpart."""
    maps = []
    for geometry, shift in ((FIXED, 42.0), (MOVING, 0.0)):
        places = geometry.world_grid()
        large = np.linalg.norm(places - [-32.0, 0, 0], axis=-1) < 26
        small = np.linalg.norm(places - [32.0, shift, 0], axis=-1) < 13
        maps.append(Volume((large * 1 + (small & ~large) * 2).astype(np.uint8), geometry, "labels"))
    return tuple(maps)


def dice_of_both(field, maps) -> list[float]:
    warped = warp(maps[1], field, FIXED).array
    return [
        2
        * np.count_nonzero((warped == n) & (maps[0].array == n))
        / (np.count_nonzero(warped == n) + np.count_nonzero(maps[0].array == n))
        for n in (1, 2)
    ]


def test_structures_that_do_not_meet_are_drawn_together_by_their_centroids(monkeypatch):
    maps = far_structures()
    apart = structures_apart(*maps, (1, 2), IDENTITY)
    np.testing.assert_allclose(apart, [[32, 42, 0, 32, 0, 0]], atol=2.5)
    assert structures_apart(maps[0], maps[0], (1, 2), IDENTITY) is None
    encoding = LabelEncoding.of(*maps, Settings().label_weight, 0)
    found = {}
    for drawn in (0.0, deformable_level.DRAWN):
        monkeypatch.setattr(deformable_level, "DRAWN", drawn)
        field = deform(*noise_sides(maps), IDENTITY, settings=QUICK, encoding=encoding)
        found[drawn] = dice_of_both(field, maps)
        assert field.jacobian_determinant().min() > 0
    large, small = found[0.03]
    assert large > 0.85 and small > 0.6 > 0.3 > found[0.0][1]


# ---- the start ---------------------------------------------------------------------------------------------


def test_an_initial_field_is_where_the_descent_begins():
    settings = Settings(iterations=1, levels=1, symmetric=False)
    found = deform(*sides(), IDENTITY, settings=settings, initial=bend())
    assert errors(found, bend()).mean() < 0.15


def test_without_a_step_an_initial_field_is_smoothed_at_most():
    linear = tilted_affine(1.05, (4.0, -3.0, 2.0))
    initial = linear.compose(bend())
    settings = Settings(iterations=1, levels=1, rate=0.0)
    fixed, moving = sides()
    found = deform(fixed, moving, linear, settings=settings, initial=initial)
    points = found.geometry.world_grid()[2:-2, 2:-2, 2:-2]
    apart = np.linalg.norm(found.map(points) - initial.map(points), axis=-1)
    assert apart.max() < 0.25 * FIXED.spacing.min()


@pytest.mark.parametrize("dense", [10**6, 1000], ids=["a parameter per voxel", "every second voxel"])
def test_a_linear_initial_field_passes_through_the_parameters_unchanged(dense):
    matrix = FIXED.affine @ np.diag([1.25, 0.8, 1.2, 1.0]) @ np.linalg.inv(FIXED.affine)
    initial = DisplacementField.from_affine(AffineTransform(matrix), FIXED)
    settings = Settings(
        iterations=1, levels=1, rate=0.0, smoothness=100.0, symmetric=False, dense_voxels=dense
    )
    found = deform(*sides(), IDENTITY, settings=settings, initial=initial)
    inner = (slice(8, -8),) * 3
    expected = found.geometry.index_grid() * np.array([0.25, -0.2, 0.2])
    np.testing.assert_allclose(in_voxels(found)[inner], expected[inner], atol=0.01)


def test_what_costs_more_than_the_start_is_dropped(monkeypatch):
    """The coarse grid hands on nonsense, from which the fine one takes no step."""
    nonsense = 6 * torch.randn((1, 3, *FIXED.shape), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("RegCore.registration.deformable.resample_ddf", lambda ddf, old, new: nonsense)
    settings = Settings(iterations=1, levels=1, rate=0.0)
    found = deform(PairSide(scan(FIXED)), PairSide(scan(FIXED, seed=1)), IDENTITY, settings=settings)
    assert not found.mm.any()


# ---- pieces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_a_resampled_ddf_moves_the_same_points_to_the_same_places(name):
    old = GRIDS[name]
    new = Geometry((5, 11, 7), old.resized((5, 11, 7)).affine)
    field = np.einsum("rc,ijkc->rijk", [[0.1, 0.2, 0], [0, -0.1, 0.3], [0.2, 0, 0.1]], old.index_grid())
    found = resample_ddf(torch.from_numpy(field.astype(np.float32))[None], old, new)[0].numpy()
    at_new = old.to_index(new.world_grid())
    matrix = np.array([[0.1, 0.2, 0], [0, -0.1, 0.3], [0.2, 0, 0.1]])
    expected = old.to_world(at_new + at_new @ matrix.T)  # a linear field is linear between voxels too
    np.testing.assert_allclose(
        new.to_world(new.index_grid() + np.moveaxis(found, 0, -1)), expected, atol=1e-3
    )


def test_smoothing_parameters_keeps_constants_and_spreads_a_peak_as_a_spline_does():
    parameters = torch.zeros((1, 3, 9, 9, 9))
    parameters[0, 1, 4, 4, 4] = 1.0
    found = smooth(parameters)
    weights = torch.tensor([1.0, 3, 6, 7, 6, 3, 1]) / 27  # three means of three
    expected = torch.einsum("i,j,k->ijk", weights, weights, weights)
    torch.testing.assert_close(found[0, 1, 1:8, 1:8, 1:8], expected)
    assert not found[0, 0].any()
    torch.testing.assert_close(smooth(torch.full((1, 3, 4, 1, 5), 2.5)), torch.full((1, 3, 4, 1, 5), 2.5))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("working_voxels", 0, "setting working_voxels is 0, expected at least 1"),
        ("levels", 0, "setting levels is 0, expected at least 1"),
        ("iterations", -3, "setting iterations is -3, expected at least 1"),
        ("smoothness", -0.1, "setting smoothness is -0.1, expected a number of at least 0"),
        ("contrast", float("nan"), "setting contrast is nan, expected a number of at least 0"),
        ("label_weight", float("inf"), "setting label_weight is inf, expected a number of at least 0"),
        ("landmark_weight", -1.0, "setting landmark_weight is -1.0, expected a number of at least 0"),
        ("rate", -1.0, "setting rate is -1.0, expected a number of at least 0"),
    ],
)
def test_settings_out_of_range_are_named(name, value, sentence):
    with pytest.raises(InputError, match=sentence):
        Settings(**{name: value})


def test_cancelling_stops_at_the_next_iteration():
    calls = []

    def stop(*event):
        calls.append(event)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        deform(*sides(), IDENTITY, settings=QUICK, progress=stop)
    assert len(calls) == 3


def test_both_directions_agree_better_with_the_truth_than_one():
    one, both = (
        deform(*sides(), IDENTITY, settings=Settings(iterations=30, levels=2, symmetric=symmetric))
        for symmetric in (False, True)
    )
    assert errors(both, bend()).mean() < errors(one, bend()).mean()
