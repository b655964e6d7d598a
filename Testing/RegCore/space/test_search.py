"""The search behind the inverse of a field: one step where the field is linear; transforms as values."""

import numpy as np
import pytest

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import LEFT_HANDED, OBLIQUE, affine


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("iterations", [1, 2])
def test_newton_finds_the_inverse_of_a_linear_field_in_one_step(axis, iterations):
    """T stretches fivefold about the middle, along a voxel axis of a tilted grid: no fixed point is stable.

    The start is told to be the identity, so that the steps have the whole way to go. Only voxels whose
    neighbours lie inside the grid are looked at: beyond it the field is constant.
    """
    grid = Geometry((13, 12, 11), affine(spacing=(-1.1, 1.7, 2.3)))
    centre = grid.centre
    along = grid.direction[:, axis]
    stretch = np.eye(3) + 4 * np.outer(along, along)
    points = grid.world_grid()
    mm = (points - centre) @ (stretch - np.eye(3)).T
    field = DisplacementField(grid, mm, AffineTransform.identity())
    found = field.inverse(tolerance_voxels=1e-5, iterations=iterations)
    inner = (slice(1, -1),) * 3
    expected = centre + (points - centre) @ np.linalg.inv(stretch).T
    np.testing.assert_allclose((points + found.mm)[inner], expected[inner], atol=2e-4)


@pytest.mark.parametrize(
    "transform",
    [AffineTransform(OBLIQUE.affine), DisplacementField.from_affine(AffineTransform.identity(), LEFT_HANDED)],
)
def test_transforms_are_compared_by_what_they_are_and_can_be_keys(transform):
    """An array in them would make the answer of == an array, or an error."""
    again = type(transform)(**vars(transform))
    assert transform == transform and transform != again
    assert {transform: 1, again: 2}[transform] == 1
