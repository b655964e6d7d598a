"""Transforms of space against formulas, SciPy and SimpleITK: mapping, composing, the Jacobian."""

import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.grids import (
    GRIDS,
    LEFT_HANDED,
    LPS,
    OBLIQUE,
    SHAPE,
    SHEARED,
    affine,
    map_by_itk,
    points_inside,
    rough_field,
    smooth_field,
    tilted_affine,
)

EVERY_GRID = pytest.mark.parametrize("grid", [*GRIDS.values(), SHEARED], ids=[*GRIDS, "sheared"])


def itk_field(field: DisplacementField) -> sitk.DisplacementFieldTransform:
    """The field as SimpleITK's transform, made from its definition: LPS vectors, (K, J, I) arrays."""
    values = (field.mm.astype(np.float64) * LPS).transpose(2, 1, 0, 3)
    image = sitk.GetImageFromArray(values, isVector=True)
    image.SetSpacing(field.geometry.spacing)
    image.SetOrigin(field.geometry.origin * LPS)
    image.SetDirection((LPS[:, None] * field.geometry.direction).ravel())
    return sitk.DisplacementFieldTransform(image)


def test_an_affine_transform_maps_composes_and_inverts():
    first, second = tilted_affine(), tilted_affine(0.8, (-20, 4, 0.5))
    points = points_inside(OBLIQUE)
    homogeneous = np.concatenate([points, np.ones((50, 1))], 1)
    np.testing.assert_allclose(first.map(points), (homogeneous @ first.matrix.T)[:, :3])
    np.testing.assert_allclose(first.compose(second).map(points), first.map(second.map(points)))
    np.testing.assert_allclose(first.inverse().map(first.map(points)), points, atol=1e-9)
    np.testing.assert_array_equal(AffineTransform.identity().map(points), points)


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.diag([1, 1, 0, 1]), "inverted"),
        (np.full((4, 4), np.nan), "finite"),
        (np.eye(3), "4×4"),
        (np.ones((4, 4)), "0 0 0 1"),
    ],
)
def test_what_is_no_affine_transform_is_refused(matrix, sentence):
    with pytest.raises(InputError, match=sentence):
        AffineTransform(matrix)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_field_maps_points_as_simpleitk_does(grid):
    field, points = rough_field(grid), points_inside(grid)
    np.testing.assert_allclose(field.map(points), map_by_itk(itk_field(field), points), atol=1e-9)


def test_a_field_maps_its_voxels_exactly_and_keeps_the_shape_of_the_points():
    field = rough_field(SHEARED)
    np.testing.assert_allclose(field.map(SHEARED.world_grid()), SHEARED.world_grid() + field.mm, atol=1e-5)
    one = SHEARED.to_world([3, 4, 5])
    np.testing.assert_allclose(field.map(one), one + field.mm[3, 4, 5], atol=1e-5)


def test_outside_the_grid_the_border_value_holds():
    field = rough_field(OBLIQUE)
    far = OBLIQUE.to_world([[-5.0, 3, 4], [20, 20, 20], [2, -9, 30]])
    border = np.array([field.mm[0, 3, 4], field.mm[6, 7, 8], field.mm[2, 0, 8]])
    np.testing.assert_allclose(field.displacement(far), border, atol=1e-6)


def test_many_points_are_mapped_like_few(monkeypatch):
    field, points = rough_field(OBLIQUE), points_inside(OBLIQUE, 100)
    together = field.map(points)
    monkeypatch.setattr("RegCore.space.transforms.CHUNK", 7)
    np.testing.assert_array_equal(field.map(points), together)
    np.testing.assert_array_equal(field.resampled(SHEARED).mm, rough_field(OBLIQUE).resampled(SHEARED).mm)


@pytest.mark.parametrize(
    ("mm", "sentence"),
    [
        (np.zeros((7, 8, 9)), "do not fit the grid"),
        (np.zeros((9, 8, 7, 3)), "do not fit the grid"),
        (np.full((7, 8, 9, 3), np.nan), "NaN or infinite"),
    ],
)
def test_what_is_no_field_is_refused(mm, sentence):
    with pytest.raises(InputError, match=sentence):
        DisplacementField(OBLIQUE, mm)


@EVERY_GRID
def test_voxels_to_millimetres_follows_the_moving_grid(grid):
    moving = Geometry((5, 11, 6), affine((1.0, -0.4, 0.2), (0.7, -1.3, 2.9), (-4, 8, 120)))
    ddf = np.random.default_rng(0).normal(size=(*SHAPE, 3))
    field = DisplacementField.from_voxels(ddf, grid, moving)
    sampled_at = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) + ddf
    np.testing.assert_allclose(moving.to_index(field.map(grid.world_grid())), sampled_at, atol=1e-4)
    same = DisplacementField.from_voxels(ddf, grid, grid)
    np.testing.assert_allclose(same.mm, ddf @ grid.affine[:3, :3].T, atol=1e-4)
    with pytest.raises(InputError, match="fixed grid"):
        DisplacementField.from_voxels(ddf[1:], grid, moving)


@EVERY_GRID
def test_a_field_made_from_an_affine_is_the_affine(grid):
    transform, points = tilted_affine(), points_inside(grid)
    field = DisplacementField.from_affine(transform, grid)
    np.testing.assert_allclose(field.map(points), transform.map(points), atol=1e-4)
    np.testing.assert_allclose(field.affine_part().matrix, transform.matrix, atol=1e-4)
    assert field.affine is transform


def test_composing_fields_and_affines():
    outer, inner = smooth_field(LEFT_HANDED, 1), smooth_field(OBLIQUE, 2)
    linear = tilted_affine()
    at_voxels = OBLIQUE.world_grid()
    both = outer.compose(inner)
    assert both.geometry == OBLIQUE
    np.testing.assert_allclose(both.map(at_voxels), outer.map(inner.map(at_voxels)), atol=1e-4)
    after = linear.compose(inner)
    assert after.geometry == OBLIQUE
    points = points_inside(OBLIQUE)
    np.testing.assert_allclose(after.map(points), linear.map(inner.map(points)), atol=1e-4)
    stated = outer.compose(linear, onto=OBLIQUE)
    assert stated.geometry == OBLIQUE
    np.testing.assert_allclose(stated.map(at_voxels), outer.map(linear.map(at_voxels)), atol=1e-4)


def test_a_field_after_an_affine_is_exact_on_the_grid_pulled_back():
    field, linear = rough_field(LEFT_HANDED), tilted_affine()
    both = field.compose(linear)
    points = linear.inverse().map(points_inside(LEFT_HANDED))
    np.testing.assert_allclose(both.map(points), field.map(linear.map(points)), atol=1e-4)


def test_resampling_a_field_to_a_finer_covering_grid_keeps_it():
    field = rough_field(OBLIQUE)
    finer = field.resampled(OBLIQUE.resized((13, 15, 17)))
    np.testing.assert_allclose(
        finer.map(points_inside(OBLIQUE)), field.map(points_inside(OBLIQUE)), atol=1e-4
    )


@EVERY_GRID
def test_the_jacobian_of_an_affine_is_its_determinant(grid):
    for transform in (tilted_affine(1.1), AffineTransform(np.diag([-1.0, 2, 0.5, 1]))):
        jacobian = DisplacementField.from_affine(transform, grid).jacobian_determinant()
        assert jacobian.shape == SHAPE
        np.testing.assert_allclose(jacobian, np.linalg.det(transform.matrix[:3, :3]), atol=1e-4)


def test_the_jacobian_of_a_known_map():
    grid = Geometry((21, 22, 23), affine(spacing=(-0.2, 0.3, 0.25)))
    x, y, z = np.moveaxis(grid.world_grid() - grid.centre, -1, 0)
    field = DisplacementField(grid, 0.1 * np.stack([x * y, y * z, z * x], -1))
    a, b, c, d, e, f = 1 + 0.1 * y, 0.1 * x, 1 + 0.1 * z, 0.1 * y, 0.1 * z, 1 + 0.1 * x
    expected = a * (c * f) + b * (d * e)  # det [[a, b, 0], [0, c, d], [e, 0, f]]
    inside = (slice(1, -1),) * 3  # central differences of a quadratic are exact, those at the border not
    np.testing.assert_allclose(field.jacobian_determinant()[inside], expected[inside], atol=1e-3)


def test_the_jacobian_in_slabs_is_the_jacobian(monkeypatch):
    field = rough_field(OBLIQUE, mm=0.5)
    whole = field.jacobian_determinant()
    assert whole.min() < whole.max() - 0.1
    monkeypatch.setattr("RegCore.space.transforms.CHUNK", 100)
    np.testing.assert_array_equal(field.jacobian_determinant(), whole)


def test_the_jacobian_with_one_voxel_along_an_axis():
    flat = Geometry((7, 1, 9), OBLIQUE.affine)
    values = np.zeros((7, 1, 9, 3))
    values += np.arange(7)[:, None, None, None] * OBLIQUE.affine[:3, 0] * 0.5  # stretches the first axis
    np.testing.assert_allclose(DisplacementField(flat, values).jacobian_determinant(), 1.5, atol=1e-5)
