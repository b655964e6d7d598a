"""Grids in space: against nibabel's and SimpleITK's arithmetic, and at their edges."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from RegCore.space.geometry import Geometry, InputError, apply_affine
from Testing.RegCore.grids import GRIDS, LPS, OBLIQUE, SHEARED, affine, tilted_affine


@pytest.mark.parametrize("name", GRIDS)
def test_indices_and_places_as_simpleitk_has_them(name):
    grid = GRIDS[name]
    image = sitk.Image(list(grid.shape), sitk.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin * LPS)
    image.SetDirection((LPS[:, None] * grid.direction).ravel())
    for index in np.random.default_rng(0).uniform(-3, 12, (20, 3)):
        place = np.array(image.TransformContinuousIndexToPhysicalPoint(index)) * LPS
        np.testing.assert_allclose(grid.to_world(index), place, atol=1e-9)
        np.testing.assert_allclose(grid.to_index(place), index, atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_directions_of_anatomy_as_nibabel_names_them(seed):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.4, 4, 3) * rng.choice([-1, 1], 3)
    matrix = affine(rng.uniform(-0.6, 0.6, 3), spacing)[:, [*rng.permutation(3), 3]]
    grid = Geometry((7, 8, 9), matrix)
    assert grid.axis_codes == "".join(nibabel.aff2axcodes(matrix))


def test_a_grid_at_any_angle_has_three_directions():
    grid = Geometry((2, 3, 4), affine((np.pi / 4, np.pi / 4, np.pi / 4)))
    assert all(sum(code in pair for code in grid.axis_codes) == 1 for pair in ("RL", "AP", "SI"))


def test_parts_of_a_grid_as_nibabel_has_them():
    grid = Geometry((7, 8, 9), affine(spacing=(-1.1, 1.7, 2.3)))
    np.testing.assert_allclose(grid.spacing, nibabel.affines.voxel_sizes(grid.affine))
    np.testing.assert_allclose(grid.spacing, [1.1, 1.7, 2.3])
    np.testing.assert_allclose(grid.direction * grid.spacing, grid.affine[:3, :3])
    np.testing.assert_array_equal(grid.origin, [30, -50, 90])
    np.testing.assert_allclose(grid.centre, nibabel.affines.apply_affine(grid.affine, [3, 3.5, 4]))
    assert grid.voxels == 504


def test_grids_of_points():
    index = OBLIQUE.index_grid()
    assert index.shape == (7, 8, 9, 3)
    np.testing.assert_array_equal(index[6, 2, 5], [6, 2, 5])
    np.testing.assert_allclose(OBLIQUE.world_grid()[6, 2, 5], (OBLIQUE.affine @ [6, 2, 5, 1])[:3])


@pytest.mark.parametrize("shape", [(7, 8, 9), (14, 3, 20), (2, 2, 2)])
@pytest.mark.parametrize("grid", [*GRIDS.values(), SHEARED], ids=[*GRIDS, "sheared"])
def test_resized_keeps_the_corner_voxels_in_place(grid, shape):
    resized = grid.resized(shape)
    assert resized.shape == shape
    for corner in np.ndindex(2, 2, 2):
        old = grid.to_world(np.array(corner) * (np.array(grid.shape) - 1))
        np.testing.assert_allclose(resized.to_world(np.array(corner) * (np.array(shape) - 1)), old, atol=1e-9)


def test_resizing_axes_of_one_voxel_keeps_the_centre():
    flat = Geometry((7, 1, 9), OBLIQUE.affine)
    for shape in ((7, 4, 9), (7, 1, 9)):
        resized = flat.resized(shape)
        np.testing.assert_allclose(resized.centre, flat.centre, atol=1e-9)
        np.testing.assert_allclose(resized.spacing, flat.spacing)
    np.testing.assert_allclose(OBLIQUE.resized((7, 1, 9)).centre, OBLIQUE.centre, atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 8, 9), (14, 3, 20), (1, 2, 1)])
@pytest.mark.parametrize("grid", [*GRIDS.values(), SHEARED], ids=[*GRIDS, "sheared"])
def test_a_resized_box_is_the_same_box_in_other_voxels(grid, shape):
    new = grid.resized_box(shape)
    assert new.shape == shape
    for corner in np.ndindex(2, 2, 2):
        old = grid.to_world(np.array(corner) * np.array(grid.shape) - 0.5)
        np.testing.assert_allclose(new.to_world(np.array(corner) * np.array(shape) - 0.5), old, atol=1e-9)
    np.testing.assert_allclose(new.centre, grid.centre, atol=1e-9)
    np.testing.assert_allclose(new.spacing * shape, grid.spacing * grid.shape)


def test_cropped_keeps_every_voxel_in_place():
    part = OBLIQUE.cropped((2, 0, 3), (6, 8, 5))
    assert part.shape == (4, 8, 2)
    np.testing.assert_allclose(part.world_grid(), OBLIQUE.world_grid()[2:6, 0:8, 3:5], atol=1e-9)
    larger = OBLIQUE.cropped((-2, -1, 0), (8, 9, 9))
    np.testing.assert_allclose(larger.world_grid()[2:9, 1:9], OBLIQUE.world_grid(), atol=1e-9)


def test_moved_moves_every_voxel():
    moved = OBLIQUE.moved(tilted_affine().matrix)
    np.testing.assert_allclose(moved.world_grid(), tilted_affine().map(OBLIQUE.world_grid()), atol=1e-9)


def test_closeness_and_equality():
    shifted = affine()
    shifted[0, 3] += 5e-4
    assert OBLIQUE.is_close(Geometry((7, 8, 9), shifted))
    assert Geometry((7, 8, 9), shifted) != OBLIQUE
    assert Geometry((7, 8, 9), affine()) == OBLIQUE
    assert hash(Geometry([7, 8, 9], affine())) == hash(OBLIQUE)
    assert not OBLIQUE.is_close(Geometry((7, 8, 10), affine()))
    turned = affine(angles=(0.2, 0.3, -0.4 + 1e-3))  # same origin, the far corner is 0.02 mm away
    assert not OBLIQUE.is_close(Geometry((7, 8, 9), turned))


def test_a_grid_can_not_be_changed_from_outside():
    matrix = affine()
    grid = Geometry((7, 8, 9), matrix)
    matrix[0, 3] = 1000
    grid.origin[0] = 1000
    assert grid == OBLIQUE
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 1


def _affine_with(**entries) -> np.ndarray:
    matrix = affine()
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


@pytest.mark.parametrize(
    ("shape", "matrix", "sentence"),
    [
        ((7, 8), affine(), "3 axes.*has 2"),
        ((7, 0, 9), affine(), "at least one voxel"),
        ((7, -8, 9), affine(), "at least one voxel"),
        ((7, 8.5, 9), affine(), "at least one voxel"),
        ((7, 8, 9), np.eye(3), "4×4"),
        ((7, 8, 9), _affine_with(m03=np.nan), "not finite"),
        ((7, 8, 9), _affine_with(m31=0.5), "0 0 0 1"),
        ((7, 8, 9), affine(spacing=(1, 0, 1)), "axis J is 0 mm"),
        (
            (7, 8, 9),
            affine() @ np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
            "span a volume",
        ),
    ],
)
def test_what_is_no_grid_is_refused_with_a_sentence(shape, matrix, sentence):
    with pytest.raises(InputError, match=sentence):
        Geometry(shape, matrix)


def test_a_tiny_or_huge_grid_is_a_grid():
    for scale in (1e-6, 1e6):
        assert Geometry((2, 2, 2), np.diag([scale, scale, scale, 1])).spacing[0] == pytest.approx(scale)


def test_apply_affine_takes_any_leading_axes():
    points = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    mapped = apply_affine(affine(), points)
    assert mapped.dtype == np.float64
    np.testing.assert_allclose(mapped[1, 4], (affine() @ [*points[1, 4], 1])[:3])


def test_grids_overlap_where_their_boxes_meet():
    one = Geometry((7, 8, 9), np.diag([1.0, 2.0, 3.0, 1.0]))
    beside = one.moved(np.array([[1, 0, 0, 6.9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    apart = one.moved(np.array([[1, 0, 0, 7.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert one.overlaps(beside)
    assert beside.overlaps(one)
    assert not one.overlaps(apart)
    assert one.overlaps(apart, lambda points: points + [7.1, 0, 0])
