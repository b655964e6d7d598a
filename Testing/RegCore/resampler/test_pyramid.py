"""Working grids: their bounds, and that what is put on them stays where it was in space."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from RegCore.resampler import pyramid
from RegCore.resampler.pyramid import (
    as_tensor,
    downsample,
    foreground,
    normalize_array,
    padded,
    resample_to,
    rescale_percentiles,
    spacing_along,
    working_geometry,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.grids import GRIDS, OBLIQUE, SHAPE, affine, corners, tilted_affine
from Testing.RegCore.itk import resampled

LARGE = {name: Geometry((23, 26, 29), grid.affine) for name, grid in GRIDS.items()}
SLOPE = np.array([0.7, -1.3, 0.4])


def ramp(geometry: Geometry) -> np.ndarray:
    """A linear function of RAS mm at the voxel centres."""
    return geometry.world_grid() @ SLOPE + 11.0


def ramp_tensor(geometry: Geometry) -> torch.Tensor:
    """The same as an image ``(1, 1, I, J, K)``."""
    return torch.from_numpy(ramp(geometry).astype(np.float32))[None, None]


# ---- working_geometry --------------------------------------------------------------------------------------

SCANS = {
    "CT": Geometry((512, 512, 300), affine(spacing=(0.7, -0.7, 1.25))),
    "thick slices": Geometry((320, 320, 24), affine(spacing=(0.5, 0.5, 6.0))),
    "small": Geometry((100, 84, 72), affine()),
    "few slices": Geometry((256, 256, 5), affine(spacing=(0.9, 0.9, 8.0))),
}


@pytest.mark.parametrize("most", [5_000, 64_000, 1_500_000])
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_a_working_grid_covers_the_same_box_with_no_more_voxels_than_asked(scan, most):
    grid = working_geometry(scan, most)
    np.testing.assert_allclose(corners(grid), corners(scan), atol=1e-6)
    assert grid.voxels <= max(most, 8**3)
    assert all(n <= m and n >= min(8, m) for n, m in zip(grid.shape, scan.shape, strict=True))
    if scan.voxels > most:
        assert grid.voxels > 0.6 * most, "much resolution is given away"


def test_a_grid_that_is_small_enough_stays_itself():
    assert working_geometry(OBLIQUE, OBLIQUE.voxels) is OBLIQUE


@pytest.mark.parametrize("scan", [SCANS["CT"], SCANS["thick slices"]], ids=["CT", "thick slices"])
def test_a_working_grid_is_isotropic_as_far_as_the_scan_allows(scan):
    grid = working_geometry(scan, 50_000)
    free = np.array(grid.shape) < np.array(scan.shape)  # the others are as fine as the scan is
    assert free.any()
    assert grid.spacing[free].max() / grid.spacing[free].min() < 1.15
    assert (grid.spacing[~free] > 0.95 * grid.spacing[free].max()).all()


def test_no_axis_gets_too_short():
    flat = Geometry((200, 200, 12), affine(spacing=(1.0, 1.0, 1.0)))
    assert working_geometry(flat, 2_000).shape[2] == 8
    assert working_geometry(flat, 2_000, min_size=4).shape[2] == 4


# ---- downsample --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.3, 2.0, 2.6, 3.0, (1.0, 2.0, 4.4)])
@pytest.mark.parametrize("geometry", LARGE.values(), ids=LARGE)
def test_a_linear_function_of_space_stays_itself_on_a_coarser_grid(geometry, factor):
    image, grid = downsample(ramp_tensor(geometry), geometry, geometry.spacing * factor)
    assert image.shape == (1, 1, *grid.shape)
    index = geometry.to_index(grid.world_grid())
    # smoothing bends it at the edges
    inner = ((index >= 6) & (index <= np.array(geometry.shape) - 7)).all(-1)
    assert inner.sum() >= 20
    np.testing.assert_allclose(image[0, 0].numpy()[inner], ramp(grid)[inner], atol=1e-3)


@pytest.mark.parametrize("factor", [1.3, 2.0, 2.6, (1.0, 2.0, 4.4)])
def test_a_coarser_grid_has_about_the_spacing_asked_and_covers_about_the_same_box(factor):
    geometry = LARGE["left-handed"]
    _, grid = downsample(ramp_tensor(geometry), geometry, geometry.spacing * factor)
    np.testing.assert_allclose(grid.spacing, geometry.spacing * factor, rtol=0.2)
    np.testing.assert_allclose(grid.direction, geometry.direction, atol=1e-9)
    # whole factors are block means: the corner voxels move inwards by half a block, and a remainder is cut
    assert np.linalg.norm(corners(grid) - corners(geometry), axis=1).max() < 4.4 * geometry.spacing.sum()
    assert np.abs(geometry.to_index(grid.centre) - (np.array(geometry.shape) - 1) / 2).max() <= 2


def test_block_means_are_the_means_of_blocks():
    geometry = LARGE["oblique"]
    array = np.random.default_rng(0).random(geometry.shape).astype(np.float32)
    image, grid = downsample(torch.from_numpy(array)[None, None], geometry, geometry.spacing * (2, 1, 3))
    expected = array[:22, :, :27].reshape(11, 2, 26, 9, 3).mean((1, 4))
    np.testing.assert_allclose(image[0, 0].numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(grid.to_world([3, 5, 4]), geometry.to_world([6.5, 5, 13]))


@pytest.mark.parametrize("factor", [1.3, 1.8, 2.0, 2.6, 3.5])
def test_noise_is_averaged_as_the_voxels_grow_not_merely_sampled(factor):
    geometry = Geometry((48, 46, 44), np.diag([1.0, 1.0, 1.0, 1.0]))
    noise = torch.randn((1, 1, *geometry.shape), generator=torch.Generator().manual_seed(0))
    image, _ = downsample(noise, geometry, (factor,) * 3)
    ideal = factor**-1.5  # the standard deviation of means over cubes of side `factor`
    assert 0.5 * ideal < float(image.std()) < 1.2 * ideal


@pytest.mark.parametrize("spacing", [(0.1, 0.1, 0.1), (1.1, 1.7, 2.3), (1.12, 1.72, 2.33)])
def test_nothing_is_done_for_a_spacing_that_is_finer_or_nearly_the_same(spacing):
    image = ramp_tensor(OBLIQUE)
    found, grid = downsample(image, OBLIQUE, spacing)
    assert found is image and grid is OBLIQUE


def test_no_axis_gets_fewer_voxels_than_it_must_keep():
    geometry = LARGE["oblique"]
    _, grid = downsample(ramp_tensor(geometry), geometry, (100.0, 100.0, 100.0))
    assert min(grid.shape) >= 4
    thin = Geometry((2, 30, 30), affine())
    assert downsample(ramp_tensor(thin), thin, (100.0, 100.0, 100.0))[1].shape[0] == 2


def test_channels_stay_apart():
    image = torch.cat([ramp_tensor(OBLIQUE), -2 * ramp_tensor(OBLIQUE)], 1)
    found, _ = downsample(image, OBLIQUE, OBLIQUE.spacing * 1.6)
    torch.testing.assert_close(found[:, 1], -2 * found[:, 0])


# ---- resample_to and small helpers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_an_image_is_pulled_onto_a_grid_as_simpleitk_does(name):
    moving, target = LARGE[name], Geometry((9, 11, 10), affine((0.1, -0.2, 0.3), (3.1, 2.4, 2.9)))
    turn = tilted_affine(1.1).matrix[:3, :3]
    transform = AffineTransform(np.vstack([np.c_[turn, moving.centre - turn @ target.centre], [0, 0, 0, 1]]))
    image = torch.from_numpy(np.random.default_rng(0).random(moving.shape).astype(np.float32))[None, None]
    values, inside = resample_to(image, moving, target, transform.matrix)
    assert values.shape == inside.shape == (1, 1, *target.shape)
    expected = resampled(image[0, 0].numpy(), moving, transform, target, fill=-9.0)
    lies_in = inside[0, 0].numpy() == 1
    assert 0.05 < lies_in.mean() < 1
    np.testing.assert_array_equal(lies_in, expected != -9)
    np.testing.assert_allclose(values[0, 0].numpy()[lies_in], expected[lies_in], atol=1e-4)


def test_beyond_an_image_its_edges_are_repeated_and_the_mask_is_zero():
    far = np.eye(4)
    far[:3, 3] = OBLIQUE.direction @ (OBLIQUE.spacing * (20, 0, 0))  # twenty voxels along i
    image = torch.from_numpy(np.random.default_rng(0).random(OBLIQUE.shape))[None, None].float()
    values, inside = resample_to(image, OBLIQUE, OBLIQUE, far)
    assert not inside.any()
    last = image[:, :, -1:].expand_as(image)
    torch.testing.assert_close(values, last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("geometry", GRIDS.values(), ids=GRIDS)
def test_spacing_along_the_own_axes_is_the_spacing(geometry):
    np.testing.assert_allclose(spacing_along(geometry, geometry.direction), geometry.spacing)


def test_spacing_along_a_diagonal_counts_voxels_crossed():
    grid = Geometry((5, 5, 5), np.diag([2.0, 2.0, 2.0, 1.0]))
    diagonal = np.array([[1.0, 1, 1]]).T / np.sqrt(3)
    # one mm along it is 0.5 voxels long in index space, wherever it points
    np.testing.assert_allclose(spacing_along(grid, diagonal), [2.0])


@pytest.mark.parametrize("geometry", GRIDS.values(), ids=GRIDS)
def test_a_padded_grid_keeps_the_voxels_it_had(geometry):
    wide = padded(geometry, 3)
    assert wide.shape == tuple(n + 6 for n in geometry.shape)
    np.testing.assert_allclose(wide.world_grid()[3:-3, 3:-3, 3:-3], geometry.world_grid(), atol=1e-9)


@pytest.mark.parametrize("dtype", ["f4", "i2", ">f4", "f8", "u1"])
def test_an_array_becomes_a_tensor_without_a_word_and_unchanged(dtype):
    array = (np.random.default_rng(0).random(OBLIQUE.shape) * 100).astype(dtype)
    array.setflags(write=False)
    for laid in (array, np.asfortranarray(array), array[::-1]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tensor = as_tensor(Volume(laid, OBLIQUE))
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        np.testing.assert_array_equal(tensor[0, 0].numpy(), laid.astype(np.float32))


# ---- intensities in their own units ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u1", "f2", "f4", "f8", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_intensities_are_put_in_units_of_their_percentiles(monkeypatch, dtype, order):
    monkeypatch.setattr(pyramid, "BLOCK", 150)  # two planes and a rest
    array = np.asarray(np.random.default_rng(0).random(SHAPE) * 100 + 20, dtype, order=order)
    low, high = np.percentile(array.astype(float), [0.5, 99.5])
    kept = array.copy()
    found = rescale_percentiles(array)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, (array.astype(float) - low) / (high - low), atol=2e-6)
    np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize(("factor", "offset"), [(1e60, 3e60), (1e-60, 0), (1e-12, 5)])
def test_no_unit_is_too_large_or_too_small(factor, offset):
    array = np.random.default_rng(0).random(SHAPE)
    np.testing.assert_allclose(
        rescale_percentiles(array * factor + offset), rescale_percentiles(array), atol=1e-3
    )


def test_one_huge_value_leaves_the_others_apart_and_can_still_be_squared():
    array = np.random.default_rng(0).random(SHAPE)
    array[3, 4, 5] = 1e60
    found = rescale_percentiles(array)
    assert np.isfinite(found**2).all() and found[3, 4, 5] == found.max()
    assert 0.9 < np.ptp(found[:3]) < 1.2


def test_a_few_bright_voxels_on_an_even_ground_keep_their_contrast():
    array = np.zeros((20, 20, 20))
    array[5, 5, 5:7] = 3, 6
    np.testing.assert_allclose(rescale_percentiles(array), array / 6, rtol=1e-6)


def test_units_of_int16_need_one_copy_in_single_precision():
    array = np.arange(160**3, dtype=np.int16).reshape(160, 160, 160)
    tracemalloc.start()
    try:
        rescale_percentiles(array)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * array.size + 20 * pyramid.BLOCK


# ---- foreground --------------------------------------------------------------------------------------------


def body(inside: float, outside: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ellipsoid and where it is."""
    index = np.indices((30, 28, 26)) - np.array([14, 13, 12]).reshape(3, 1, 1, 1)
    truth = ((index / np.array([9, 7, 8]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    noise = np.random.default_rng(0).normal(size=truth.shape) * sd
    return np.where(truth, inside, outside) + noise, truth


@pytest.mark.parametrize(("inside", "outside"), [(40, -1000), (300, 0), (1e-3, 0)])
def test_the_foreground_is_what_is_bright(inside, outside):
    image, truth = body(inside, outside, 0.08 * (inside - outside))
    found = foreground(image.astype(np.float32))
    assert found.dtype == bool and (found == truth).mean() > 0.999


def test_a_few_extreme_voxels_do_not_move_the_threshold():
    image, truth = body(40, -1000, 30)
    image[0, 0, :3] = 30_000  # metal
    assert (foreground(image) == truth).mean() > 0.999


def test_the_foreground_of_two_values_is_the_larger():
    image, truth = body(1, 0, 0)
    np.testing.assert_array_equal(foreground(image), truth)


def test_everything_is_foreground_where_nothing_stands_out():
    image = np.zeros((20, 20, 20), np.float32)
    image[3, 4, 5] = 1.0
    assert foreground(image).all()


# ---- normalize_array ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "<i4", ">u4", "f2", "<f4", ">f8"])
def test_intensities_go_from_zero_to_one_whatever_their_dtype(dtype):
    array = (np.random.default_rng(0).random((7, 8, 9)) * 200 + 20).astype(dtype)
    exact = (array.astype(float) - float(array.min())) / (float(array.max()) - float(array.min()))
    found = normalize_array(array)
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1
    np.testing.assert_allclose(found, exact, atol=2e-7)


@pytest.mark.parametrize("unit", [1e-300, 1e-35, 1e35, 1e300])
def test_ranges_that_single_precision_cannot_hold_are_normalised_too(unit):
    array = np.array([-3.0, 0.0, 5.0]) * unit
    np.testing.assert_allclose(normalize_array(array), [0, 0.375, 1], atol=1e-7)


def test_a_window_cuts_what_lies_beyond_it_and_the_image_is_left_alone():
    array = np.array([[[-900.0, -100, 0, 100, 3000]]], np.float32)
    found = normalize_array(array, v_min=-100, v_max=300)
    np.testing.assert_allclose(found, [[[0, 0, 0.25, 0.5, 1]]])
    np.testing.assert_allclose(normalize_array(array, v_max=300)[0, 0, -2:], [1000 / 1200, 1])
    assert array.min() == -900 and array.max() == 3000


def test_an_image_of_one_value_and_a_window_without_width_are_zero():
    assert not normalize_array(np.full((2, 3, 4), 7, np.uint8)).any()
    assert not normalize_array(np.arange(24.0).reshape(2, 3, 4), 5, 5).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad):
    array = np.ones((2, 3, 4))
    array[1, 1, 1] = bad
    for window in ((None, None), (0, 1)):
        with pytest.raises(InputError, match="lung.nii: all voxels must be finite"):
            normalize_array(array, *window, where="lung.nii")
    with pytest.raises(InputError, match="the window goes from 3 to 1"):
        normalize_array(np.ones((2, 3, 4)), 3, 1)
