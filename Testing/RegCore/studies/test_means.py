"""Means of transforms: of affine ones by their logarithms, of fields by what is left without them."""

import numpy as np
import pytest
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.studies.means import centred_fields, centring, covering_grid
from Testing.RegCore.grids import GRIDS, OBLIQUE, points_inside, smooth_field, tilted_affine


def matrices(count: int = 4) -> list[AffineTransform]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(count):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * 0.3).as_matrix() * rng.uniform(0.8, 1.2, 3)
        matrix[:3, 3] = rng.normal(size=3) * 30
        out.append(AffineTransform(matrix))
    return out


def test_the_mean_of_the_logarithms_becomes_zero():
    given = matrices()
    back = centring(given)
    logs = [logm(transform.matrix @ back.matrix) for transform in given]
    np.testing.assert_allclose(np.mean(logs, axis=0), 0, atol=1e-7)


def test_where_the_coordinates_begin_does_not_matter():
    given, turn = matrices(), tilted_affine(1.3, (200.0, -500.0, 900.0))
    there = [AffineTransform(turn.matrix @ t.matrix @ turn.inverse().matrix) for t in given]
    expected = turn.matrix @ centring(given).matrix @ turn.inverse().matrix
    np.testing.assert_allclose(centring(there).matrix, expected, rtol=1e-6, atol=1e-5)


def test_opposite_transforms_have_the_identity_as_their_mean():
    step = np.zeros((4, 4))
    step[:3] = np.random.default_rng(1).normal(size=(3, 4)) * [0.2, 0.2, 0.2, 20]
    pair = [AffineTransform(expm(step)), AffineTransform(expm(-step))]
    np.testing.assert_allclose(centring(pair).matrix, np.eye(4), atol=1e-8)


def test_half_a_turn_has_no_logarithm_but_a_place():
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:3, 3] = 10, 20, 30
    found = centring([AffineTransform.identity(), AffineTransform(turned)])
    assert np.isfinite(found.matrix).all()


@pytest.mark.parametrize("name", ["oblique", "left-handed", "lps-like"])
def test_what_fields_have_in_common_is_taken_out(name):
    grid = GRIDS[name]
    common = np.array([1.5, -1.0, 0.5])
    bends = [smooth_field(grid, seed, mm=1.0, sigma=3.0).mm for seed in (1, 2)]
    bends.append(-bends[0] - bends[1])
    linear = [AffineTransform.identity(), tilted_affine(1.05), tilted_affine(0.95, (3.0, 2.0, 1.0))]
    world = grid.world_grid()
    fields = [
        DisplacementField(grid, affine.map(world + common + bend) - world)
        for affine, bend in zip(linear, bends, strict=True)
    ]
    found, drift = centred_fields(fields, linear)
    assert drift == pytest.approx(np.linalg.norm(common), rel=1e-3)
    inside = points_inside(grid, margin=2.0)
    for field, affine, bend in zip(found, linear, bends, strict=True):
        expected = affine.map(inside + DisplacementField(grid, bend).displacement(inside - common))
        np.testing.assert_allclose(field.map(inside), expected, atol=0.05)


@pytest.mark.parametrize("name", GRIDS)
def test_a_covering_grid_covers_what_it_should(name):
    grid, transform = GRIDS[name], tilted_affine()
    found = covering_grid(grid, transform)
    np.testing.assert_allclose(found.direction, grid.direction, atol=1e-12)
    np.testing.assert_allclose(found.spacing, grid.spacing)
    index = found.to_index(transform.map(grid.world_grid())).reshape(-1, 3)
    assert (index.min(0) > -0.51).all() and (index.max(0) < np.array(found.shape) - 0.49).all()
    assert covering_grid(OBLIQUE, AffineTransform.identity()).is_close(OBLIQUE, 1e-9)
