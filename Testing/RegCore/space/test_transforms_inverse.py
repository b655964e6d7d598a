"""The inverse of a displacement field: analytic ones, large affine parts, other grids, folds, the cost."""

import time

import numpy as np
import pytest

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import affine, points_inside, rough_field, smooth_field, tilted_affine

GRID = Geometry((32, 35, 30), affine(spacing=(-1.1, 1.7, 2.3)))


def error_in_voxels(
    field: DisplacementField, inverse: DisplacementField, at: np.ndarray, margin: float = 0.0
) -> np.ndarray:
    """|T(T⁻¹(y)) - y| in voxels of the field's grid, for y whose T⁻¹(y) lies inside that grid.

    margin: how many voxels inside. The constant extension makes a kink at the border of the grid, which no
    interpolated inverse follows.
    """
    back = inverse.map(at)
    index = field.geometry.to_index(back)
    inside = ((index >= margin) & (index <= np.array(field.geometry.shape) - 1 - margin)).all(-1)
    assert inside.mean() > 0.3, "too few points to say anything"
    off = (field.map(back) - at)[inside]
    return np.linalg.norm(off @ np.linalg.inv(field.geometry.affine[:3, :3]).T, axis=-1)


@pytest.mark.parametrize("affine_part", ["none", "shift", "scale"])
def test_there_and_back_is_within_a_tenth_of_a_voxel(affine_part):
    linear = {
        "none": AffineTransform.identity(),
        "shift": AffineTransform(np.array([[1, 0, 0, 35.0], [0, 1, 0, -10], [0, 0, 1, 4], [0, 0, 0, 1]])),
        "scale": tilted_affine(1.3, (35.0, -20.0, 9.0)),
    }[affine_part]
    field = linear.compose(smooth_field(GRID, mm=6.0))
    target = GRID.moved(linear.matrix)  # where the voxels go, but for the smooth part
    inverse = field.inverse(target)
    assert inverse.geometry == target
    assert error_in_voxels(field, inverse, target.world_grid()).max() < 0.02
    between = points_inside(target, 5000, margin=1.0)
    assert error_in_voxels(field, inverse, between, margin=1.5).max() < 0.1


def test_the_default_grid_is_the_own_one():
    field = smooth_field(GRID, mm=6.0)
    inverse = field.inverse()
    assert inverse.geometry == GRID
    assert error_in_voxels(field, inverse, GRID.world_grid()).max() < 0.02


def test_the_inverse_of_the_inverse_is_the_field():
    linear = tilted_affine(1.2, (20.0, 5.0, -8.0))
    field = linear.compose(smooth_field(GRID, mm=3.0, sigma=6.0))
    inverse = field.inverse(GRID.moved(linear.matrix))
    np.testing.assert_allclose(inverse.affine.map(linear.map(GRID.centre)), GRID.centre, atol=2)
    np.testing.assert_allclose(inverse.affine.matrix[:3, :3] @ linear.matrix[:3, :3], np.eye(3), atol=0.1)
    points = points_inside(GRID, margin=5.0)
    np.testing.assert_allclose(inverse.inverse(GRID).map(points), field.map(points), atol=0.1)


def test_an_analytic_inverse():
    """T stretches along one axis as z + 3 sin(z / 12): a root of one equation at each place."""
    grid = Geometry((5, 6, 60), np.diag([2.0, 2.0, 0.5, 1.0]))
    z = grid.world_grid()[..., 2]
    field = DisplacementField(grid, np.stack([np.full_like(z, 4), np.zeros_like(z), 3 * np.sin(z / 12)], -1))
    at = np.array([[6.0, 2.0, y] for y in np.linspace(1, 25, 40)])
    found = field.inverse(tolerance_voxels=1e-3).map(at)
    for y, x in zip(at, found, strict=True):
        low, high = 0.0, 29.5
        while high - low > 1e-9:  # bisection
            middle = (low + high) / 2
            low, high = (middle, high) if middle + 3 * np.sin(middle / 12) < y[2] else (low, middle)
        np.testing.assert_allclose(x, [2.0, 2.0, low], atol=5e-3)


def test_strong_compression_is_inverted():
    grid = Geometry((60, 7, 8), np.eye(4))
    x = grid.world_grid()[..., 0]
    u = -8 * np.tanh((x - 30) / 10)
    field = DisplacementField(grid, np.stack([u, 0 * u, 0 * u], -1))
    assert 0 < field.jacobian_determinant().min() < 0.21
    assert error_in_voxels(field, field.inverse(), grid.world_grid()).max() < 0.02


def test_steep_expansion_needs_more_than_the_fixed_point(monkeypatch):
    grid = Geometry((60, 7, 8), np.eye(4))
    x = grid.world_grid()[..., 0]
    u = 10 * np.tanh((x - 30) / 3)  # slope 1 + 10/3 in the middle, 1 outside
    field = DisplacementField(grid, np.stack([u, 0 * u, 0 * u], -1))
    assert error_in_voxels(field, field.inverse(), grid.world_grid()).max() < 0.02
    monkeypatch.setattr(
        "RegCore.space.transforms._Search.newton", lambda self, linear_inverse, iterations: None
    )
    assert error_in_voxels(field, field.inverse(), grid.world_grid()).max() > 0.5


def test_slabs_and_a_known_affine_part_change_nothing_but_the_way(monkeypatch):
    linear = tilted_affine(1.2)
    field = linear.compose(smooth_field(GRID, mm=5.0))
    target = GRID.moved(linear.matrix)
    plain = field.inverse(target)
    monkeypatch.setattr("RegCore.space.transforms.CHUNK", 5000)
    told = DisplacementField(GRID, field.mm, linear).inverse(target)
    reached = ((i := GRID.to_index(plain.map(target.world_grid()))) > 0).all(-1)
    reached &= (i < np.array(GRID.shape) - 1).all(-1)
    np.testing.assert_allclose(told.mm[reached], plain.mm[reached], atol=0.1)


def test_a_field_that_folds_still_gets_an_answer():
    field = rough_field(GRID, mm=4.0)
    assert (field.jacobian_determinant() < 0).mean() > 0.1
    assert np.isfinite(field.inverse().mm).all()


def test_a_field_of_one_slice():
    flat = Geometry((20, 21, 1), affine())
    field = smooth_field(flat, mm=2.0)
    back = field.map(field.inverse().map(flat.world_grid()))
    np.testing.assert_allclose(back[5:15, 5:15], flat.world_grid()[5:15, 5:15], atol=0.05)


def test_a_quarter_of_a_million_voxels_take_less_than_a_second_or_a_few():
    grid = Geometry((64, 64, 64), affine(spacing=(-1.1, 1.7, 2.3)))
    field = tilted_affine(1.3, (35.0, -20.0, 9.0)).compose(smooth_field(grid, mm=10.0, sigma=6.0))
    start = time.process_time()
    field.inverse()
    assert time.process_time() - start < 10  # 0.6 s on one core; the bound is for slow and busy machines
