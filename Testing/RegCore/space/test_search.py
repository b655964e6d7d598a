"""The search behind the inverse of a field: one step where the field is linear; transforms as values."""

import numpy as np
import pytest

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import Lazy
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume, check_labels, looks_like_labels
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


@pytest.mark.parametrize("value", [OBLIQUE, AffineTransform.identity(), Lazy("math", "pi")])
def test_values_are_never_changed(value):
    name = next(iter(vars(value)))
    with pytest.raises(AttributeError, match=name):
        setattr(value, name, 3)


def test_the_affine_part_of_a_large_field_is_fitted_on_about_twenty_thousand_voxels():
    """Noise, whose fit depends on the choice of voxels: here every second one, with both ends."""
    grid = Geometry((54, 54, 56), affine(spacing=(-1.1, 1.7, 2.3)))
    mm = np.random.default_rng(0).normal(size=(*grid.shape, 3)).astype(np.float32)
    ticks = [np.linspace(0, n - 1, n // 2).round().astype(int) for n in grid.shape]
    places = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3)
    assert 18_000 < len(places) < 22_000
    points = grid.to_world(places)
    columns = np.c_[points, np.ones(len(points))]
    expected = np.linalg.lstsq(columns, points + mm[tuple(places.T)], rcond=None)[0].T
    found = DisplacementField(grid, mm).affine_part().matrix[:3]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "patches"), [((3, 3, 0, 0, 0), True), ((3, 3, 0, 0, 3, 0, 0), False), ((0, 3), False)]
)
def test_half_of_the_neighbours_off_the_background_must_be_equal(values, patches):
    array = np.array(values, np.int16)[:, None, None].repeat(2, 1).repeat(3, 2)  # planes of one value each
    assert looks_like_labels(array) is patches


@pytest.mark.parametrize(("count", "fine"), [(256, True), (257, False)])
def test_scattered_values_are_labels_up_to_256(count, fine):
    values = np.random.default_rng(0).integers(1, count + 1, (20, 20, 20)).astype(np.int16)
    values.flat[:count] = np.arange(1, count + 1)
    volume = Volume(values, Geometry(values.shape, np.eye(4)), "labels")
    if fine:
        check_labels(volume, "seg")
        return
    with pytest.raises(InputError, match="257 values scattered like these are an image"):
        check_labels(volume, "seg")
