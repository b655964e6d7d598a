"""Matching from perfect predictions: known maps come back within a voxel on any grid; the parts of it."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from RegCore.evaluation.metrics import folding
from RegCore.slicreg.matching import (
    Keypoints,
    Matching,
    MatchSettings,
    choose_keypoints,
    coded_cells,
    descend,
    features,
    match,
    random_codes,
    unit_of,
)
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import affine
from Testing.RegCore.slicreg.voronoi import COUNT, voronoi

QUICK = MatchSettings(keypoints=700)
RADIUS = 55.0


def grid(angles, spacing, shape, centre) -> Geometry:
    matrix = affine(angles, spacing)
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, matrix)


CENTRE = np.array([30.0, -40.0, 70.0])
GRIDS = {
    "isotropic": grid((0, 0, 0), (5.0, 5.0, 5.0), (32, 32, 32), CENTRE),
    "oblique": grid((0.2, 0.3, -0.4), (5.0, 5.0, 5.0), (31, 33, 32), CENTRE),
    "anisotropic": grid((0.0, 0.1, 0.2), (4.0, 5.0, 6.5), (38, 31, 26), CENTRE),
    "left-handed": grid((0.1, -0.2, 0.1), (-5.0, 5.5, 5.0), (33, 30, 32), CENTRE),
}


def known(kind: str, geometry: Geometry):
    """A map in space: points of the fixed scan to points of the moving scan."""
    matrix = np.eye(4)
    if kind == "affine":
        matrix[:3, :3] = affine((0.08, -0.1, 0.06), (1.08, 0.95, 1.04))[:3, :3]
    matrix[:3, 3] = CENTRE - matrix[:3, :3] @ CENTRE + np.array([9.0, -7.0, 5.0])
    linear = AffineTransform(matrix)
    if kind == "affine":
        return linear
    points = geometry.world_grid()
    waves = np.stack([6 * np.sin((points[..., (a + 1) % 3] - CENTRE[a]) / 30) for a in range(3)], -1)
    return DisplacementField(geometry, linear.map(points) + waves - points)


@cache
def pair(kind: str, name: str):
    """Supervoxels of both sides and the map: the moving scan shows the cells as they are."""
    fixed = GRIDS[name]
    moving = (
        grid((0.2, 0.3, -0.4), (5.0, 5.0, 5.0), (33, 31, 34), CENTRE + [3, 2, -4])
        if name == "oblique"
        else fixed
    )
    truth = known(kind, fixed)
    return (
        voronoi(fixed, truth.map, CENTRE, RADIUS),
        voronoi(moving, lambda points: points, CENTRE, RADIUS),
        truth,
    )


@pytest.mark.parametrize("kind", ["affine", "smooth"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_known_map_is_recovered_within_a_voxel(kind, name):
    fixed, moving, truth = pair(kind, name)
    found = match(fixed, moving, settings=replace(QUICK, smoothness=0.005))
    assert found.geometry == fixed.geometry
    points = fixed.geometry.world_grid()[fixed.labels[0] > 0]
    error = np.linalg.norm(found.map(points) - truth.map(points), axis=1) / fixed.geometry.spacing.mean()
    start = np.linalg.norm(points - truth.map(points), axis=1) / fixed.geometry.spacing.mean()
    assert start.mean() > 2 and error.mean() < 0.4 and np.percentile(error, 98) < 1.0
    assert folding(found) < 0.1


def test_equal_scans_stay_where_they_are():
    _, moving, _ = pair("affine", "isotropic")
    found = match(moving, moving, settings=QUICK)
    assert np.linalg.norm(found.mm, axis=-1).max() < 0.5


def test_grids_apart_in_space_begin_index_on_index():
    """Prepared scans lie on grids about their own bodies, wherever those are in the world."""
    fixed, moving, truth = pair("smooth", "isotropic")
    away = moving.geometry.moved(
        np.block([[np.eye(3), np.array([[500.0], [-300.0], [200.0]])], [np.zeros(3), 1]])
    )
    found = match(fixed, Supervoxels(moving.labels, away, COUNT), settings=QUICK)
    near = match(fixed, moving, settings=QUICK)
    np.testing.assert_allclose(
        found.mm - near.mm, np.broadcast_to([500, -300, 200], near.mm.shape), atol=1e-2
    )


def test_the_same_settings_give_the_same_field_and_another_seed_nearly_the_same():
    fixed, moving, _ = pair("smooth", "isotropic")
    first, again = (match(fixed, moving, settings=replace(QUICK, iterations=20)).mm for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = match(fixed, moving, settings=replace(QUICK, iterations=20, seed=1)).mm
    assert 0 < np.abs(other - first).mean() < 1.5


def test_more_smoothness_gives_a_smoother_field():
    fixed, moving, truth = pair("smooth", "isotropic")
    bends = []
    for smoothness in (0.005, 0.5):
        found = match(fixed, moving, settings=replace(QUICK, smoothness=smoothness)).mm
        bends.append(sum(np.square(np.diff(found, axis=a)).mean() for a in range(3)))
    assert bends[1] < 0.5 * bends[0]


# ---- parts -------------------------------------------------------------------------------------------------


def test_codes_use_every_channel_equally_often_and_differ_from_layer_to_layer():
    codes = random_codes(16, 128, 16, 0)
    assert codes.shape == (16, 128) and all((np.bincount(row) == 8).all() for row in codes)
    shared = (codes[:, :, None] == codes[:, None, :]).sum(0)[~np.eye(128, dtype=bool)]
    assert shared.max() <= 9  # no two supervoxels look alike in most layers
    np.testing.assert_array_equal(random_codes(16, 128, 16, 0), codes)
    assert (random_codes(16, 128, 16, 1) != codes).any()
    np.testing.assert_array_equal(random_codes(2, 5, 0, 0), [range(5)] * 2)


def mean_within(array: np.ndarray, size: int) -> np.ndarray:
    """Mean over a cube of the voxels that there are."""
    total = uniform_filter(array.astype(float), size, mode="constant") * size**3
    return total / (uniform_filter(np.ones(array.shape), size, mode="constant") * size**3)


def test_features_are_pooled_codes_about_every_second_voxel():
    random = np.random.default_rng(0)
    labels, codes = random.integers(0, 6, (2, 9, 12, 11)), random.permuted(np.tile(range(3), (2, 2)), axis=1)
    found = features(coded_cells(labels, codes))[0].numpy()
    assert found.shape == (6, 5, 6, 6)
    for layer in range(2):
        for code in range(3):
            hot = codes[layer][labels[layer]] == code
            expected = mean_within(mean_within(hot, 3)[::2, ::2, ::2], 5)
            np.testing.assert_allclose(found[3 * layer + code], expected, atol=1e-6)


def test_features_of_cells_are_pooled_once():
    random = np.random.default_rng(0)
    labels, codes = random.integers(0, 6, (1, 7, 8, 9)), np.array([[0, 1, 2, 0, 1, 2]])
    found = features(coded_cells(labels, codes, cells=True))[0].numpy()
    for code in range(3):
        expected = mean_within(codes[0][labels[0]] == code, 5)
        np.testing.assert_allclose(found[code], expected, atol=1e-6)


def cells_of(side: Supervoxels) -> Supervoxels:
    return Supervoxels(side.labels[:, ::2, ::2, ::2].copy(), side.geometry, side.count, 2)


@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_labels_of_every_second_voxel_match_nearly_as_well(name):
    fixed, moving, truth = pair("smooth", name)
    settings = replace(QUICK, smoothness=0.005)
    found = match(cells_of(fixed), cells_of(moving), settings=settings)
    assert found.geometry == fixed.geometry
    points = fixed.geometry.world_grid()[fixed.labels[0] > 0]
    error = np.linalg.norm(found.map(points) - truth.map(points), axis=1) / fixed.geometry.spacing.mean()
    assert error.mean() < 0.6


def test_a_second_match_comes_nearer_to_the_truth():
    fixed, moving, truth = pair("smooth", "anisotropic")
    points = fixed.geometry.world_grid()[fixed.labels[0] > 0]
    errors = []
    for matches in (1, 2):
        found = match(fixed, moving, settings=replace(QUICK, matches=matches))
        errors.append(np.linalg.norm(found.map(points) - truth.map(points), axis=1).mean())
    assert errors[1] < 0.9 * errors[0]


def test_keypoints_are_voxels_of_the_mask_tied_to_their_nearest_in_millimetres():
    mask = np.random.default_rng(0).random((9, 10, 11)) > 0.5
    spacing = np.array([1.0, 2.0, 5.0])
    found = choose_keypoints(mask, spacing, MatchSettings(keypoints=80, neighbours=4))
    points, edges = found.points.numpy(), found.edges.numpy()
    assert len(points) == 80 == len(np.unique(points, axis=0)) and mask[tuple(points.astype(int).T)].all()
    distance = np.linalg.norm((points[:, None] - points[None]) * spacing, axis=-1)
    np.fill_diagonal(distance, np.inf)
    tied = np.zeros((80, 80), bool)
    tied[edges[:, 0], edges[:, 1]] = True
    assert not tied[np.tril_indices(80)].any()  # each pair once
    tied |= tied.T
    farthest = np.sort(distance, axis=1)[:, 3]  # equal distances may be chosen either way
    assert (tied.sum(1) >= 4).all()
    assert (tied | (distance >= farthest[:, None])).all()
    assert ((distance <= farthest[:, None]) | (distance <= farthest[None]) | ~tied).all()


def test_a_small_body_gives_fewer_keypoints_and_too_small_a_one_is_refused():
    mask = np.zeros((6, 6, 6), bool)
    mask[1:3, 1:4, 1:5] = True
    found = choose_keypoints(mask, np.ones(3), MatchSettings())
    assert len(found.points) == 24
    mask[:] = False
    mask[0, 0, :4] = True
    with pytest.raises(InputError, match="only 4 voxels inside supervoxels"):
        choose_keypoints(mask, np.ones(3), MatchSettings())


def small_objective(smoothness: float = 0.3) -> tuple[Matching, torch.Tensor]:
    random = np.random.default_rng(1)
    fixed, moving = (torch.from_numpy(random.random((1, 6, 5, 6, 7))) for _ in range(2))
    points = torch.from_numpy(random.uniform(2, 7, (9, 3)))
    edges = torch.tensor([[0, 1], [1, 2], [2, 5], [3, 8], [4, 6], [0, 7]])
    flow = torch.from_numpy(random.normal(size=(9, 3)) * 0.05)
    return Matching(fixed, moving, Keypoints(points, edges), 2, [4.0, 5.0, 6.0], smoothness), flow


def test_the_gradient_of_the_objective_is_right():
    objective, flow = small_objective()
    assert torch.autograd.gradcheck(objective, flow.requires_grad_(True))
    assert torch.autograd.gradcheck(lambda f: small_objective(0.0)[0](f), flow)


def test_the_objective_is_the_published_sum():
    objective, flow = small_objective(0.3)
    apart = flow[:, None] - flow[None]
    tied = torch.zeros(9, 9, dtype=torch.float64)
    tied[objective.edges[:, 0], objective.edges[:, 1]] = 1
    penalty = ((apart**2).sum(-1) * (tied + tied.T)).sum() / 9
    shifted = objective.at(objective.moving, objective.points + flow * torch.tensor([4.0, 5.0, 6.0]))
    # the mean over 16 channels per layer of which only 3 are in use here: the others would be 0
    data = ((shifted - objective.targets) ** 2).sum() / (9 * 32)
    np.testing.assert_allclose(float(objective(flow)), float(data + 0.3 * penalty), rtol=1e-12)


def test_a_feature_lies_at_the_even_voxel():
    ramp = torch.arange(6, dtype=torch.float64).view(1, 1, 6, 1, 1).expand(1, 1, 6, 6, 6).contiguous()
    points = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 5.0], [8.0, 0.0, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(Matching.at(ramp, points)[0].numpy(), [0.0, 1.5, 4.0])


def test_descending_lowers_the_objective_and_tells_of_it():
    objective, _ = small_objective(0.01)
    told = []
    flow = descend(objective, MatchSettings(iterations=30), lambda *event: told.append(event))
    assert objective(flow) < 0.9 * objective(torch.zeros_like(flow))
    assert len(told) == 30 and told[-1][2]["loss"] < told[0][2]["loss"]


def test_the_unit_is_half_the_mean_extent():
    assert unit_of(Geometry((192, 160, 256), np.diag([2.0, 2.0, 2.0, 1.0]))) == pytest.approx(
        202.6667, abs=1e-3
    )


# ---- refusals ----------------------------------------------------------------------------------------------


def test_scans_that_do_not_belong_together_are_refused():
    fixed, moving, _ = pair("affine", "isotropic")
    with pytest.raises(InputError, match="divided by one template.*6 layers of 31 supervoxels.*2 of 31"):
        match(fixed, Supervoxels(moving.labels[:2], moving.geometry, COUNT))
    coarse = Geometry(moving.geometry.shape, moving.geometry.affine @ np.diag([1, 1, 2.0, 1]))
    with pytest.raises(InputError, match="one spacing, but they have 5 × 5 × 5 mm and 5 × 5 × 10 mm"):
        match(fixed, Supervoxels(moving.labels, coarse, COUNT))
    thin = Supervoxels(moving.labels[..., :8], moving.geometry.cropped((0, 0, 0), (32, 32, 8)), COUNT)
    with pytest.raises(InputError, match=r"\(32, 32, 8\) voxels is too small to match: each axis needs 9"):
        match(fixed, thin)
    with pytest.raises(InputError, match="only 0 voxels inside supervoxels"):
        match(Supervoxels(np.zeros_like(fixed.labels), fixed.geometry, COUNT), moving)


@pytest.mark.parametrize(
    "setting",
    [{"keypoints": 0}, {"matches": 0}, {"smoothness": -1.0}, {"rate": float("nan")}, {"iterations": 0}],
)
def test_settings_that_make_no_sense_are_named(setting):
    with pytest.raises(InputError, match=f"setting {next(iter(setting))} is"):
        MatchSettings(**setting)
