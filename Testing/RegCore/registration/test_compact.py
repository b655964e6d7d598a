"""Fields on a coarser grid than the fixed one: where they map the same, and where they stay as they are."""

import numpy as np

from RegCore.registration import compact
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import DisplacementField


def bend_on(shape, width: float) -> DisplacementField:
    """A smooth field on an oblique, anisotropic grid, plus an affine part; width of its bends in mm."""
    affine = np.array([[0.9, 0.1, 0, -30], [-0.12, 1.1, 0.05, 12], [0, 0.08, 1.6, 7], [0, 0, 0, 1.0]])
    grid = Geometry(shape, affine)
    x = grid.world_grid()
    bends = [3 * np.sin(x[..., (axis + 1) % 3] / width) + 0.05 * x[..., axis] for axis in range(3)]
    return DisplacementField(grid, np.stack(bends, -1))


def test_a_field_is_kept_as_fine_as_it_was_found(monkeypatch):
    monkeypatch.setattr(compact, "FOUND_ON", 30_000)
    field = bend_on((71, 64, 53), width=30)
    small = compact.compacted(field)
    assert small.geometry.voxels < 0.2 * field.geometry.voxels
    points = field.geometry.to_world(np.random.default_rng(1).uniform(0, 52, (20_000, 3)))
    index = np.linalg.inv(field.geometry.affine[:3, :3])
    away = (small.map(points) - field.map(points)) @ index.T  # voxels
    assert np.linalg.norm(away, axis=1).max() < 0.06


def test_a_field_that_a_coarser_grid_can_not_hold_stays(monkeypatch):
    monkeypatch.setattr(compact, "FOUND_ON", 3_000)
    for field in (bend_on((47, 40, 33), width=2), bend_on((9, 8, 7), width=30)):
        assert compact.compacted(field) is field
