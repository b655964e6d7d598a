"""Warping volumes in space, against SimpleITK's linear and nearest resampling; slabs, threads, memory."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from RegCore.resampler import field_of, inverted, volumes, warp
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.paths import ROOT
from Testing.RegCore.grids import GRIDS, LEFT_HANDED, OBLIQUE, SHAPE, affine, rough_field, smooth_field
from Testing.RegCore.itk import resampled

IDENTITY = AffineTransform.identity()
MOVING = Geometry((11, 9, 10), affine((-0.3, 0.15, 0.5), (1.5, -1.2, 1.9), (0.0, 0.0, 0.0)))


def around(centre: np.ndarray, geometry: Geometry) -> Geometry:
    """The grid with its centre put somewhere else."""
    matrix = np.eye(4)
    matrix[:3, 3] = centre - geometry.centre
    return geometry.moved(matrix)


KINDS = ["identity", "affine", "field", "coarse field", "field of the same shape"]
ONTO = {name: around(MOVING.centre, grid) for name, grid in GRIDS.items()}


def tilt() -> AffineTransform:
    """An affine transform without symmetry that keeps the centre of `MOVING`."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[1.02, 0.2, -0.1], [-0.15, 0.93, 0.12], [0.07, -0.18, 1.05]]
    matrix[:3, 3] = MOVING.centre - matrix[:3, :3] @ MOVING.centre + [0.3, -0.8, 0.5]
    return AffineTransform(matrix)


def coarse_field(shape=(6, 7, 5)) -> DisplacementField:
    """Displacements on a coarse oblique grid that covers all of `ONTO`."""
    grid = around(MOVING.centre, Geometry(shape, affine((0.5, -0.2, 0.1), (-9.0, 8.0, 11.0))))
    return rough_field(grid, mm=1.5)


def transform_of(kind: str, onto: Geometry):
    if kind == "field":
        noise = np.random.default_rng(4).normal(size=(*onto.shape, 3))
        return DisplacementField(onto, noise + [0.5, -1.0, 0.7])
    if kind == "field of the same shape":
        return coarse_field(onto.shape)
    return {"affine": tilt, "coarse field": coarse_field, "identity": AffineTransform.identity}[kind]()


def scan(geometry: Geometry = MOVING, channels=(), seed=0) -> Volume:
    """Noise from 100 to 1100: every error of a voxel shows."""
    values = np.random.default_rng(seed).random((*geometry.shape, *channels)) * 1000 + 100
    return Volume(values.astype(np.float32), geometry)


def moving_index(transform, onto: Geometry) -> np.ndarray:
    """Where in `MOVING` each voxel of a grid falls, (I, J, K, 3), in double precision."""
    return MOVING.to_index(transform.map(onto.world_grid()))


def clear_of(index: np.ndarray, *fractions: float) -> np.ndarray:
    """Voxels whose moving index is not within rounding of a place where the value jumps."""
    return np.all([np.abs(index - np.floor(index) - f) > 1e-3 for f in fractions], (0, -1))


# ---- against SimpleITK -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ONTO)
def test_images_agree_with_linear_resampling_of_simpleitk(name, kind):
    onto, volume = ONTO[name], scan()
    transform = transform_of(kind, onto)
    found = warp(volume, transform, onto, fill=-50.0)
    expected = resampled(volume.array, MOVING, transform, onto, fill=-50.0)
    clear = clear_of(moving_index(transform, onto), 0.5)
    assert clear.mean() > 0.9 and 0.05 < (expected == -50)[clear].mean() < 0.9
    assert found.geometry == onto and found.kind == "image" and found.array.dtype == np.float32
    np.testing.assert_allclose(found.array[clear], expected[clear], rtol=0, atol=0.1)  # of a range of 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ONTO)
def test_labels_agree_with_nearest_resampling_of_simpleitk(name, kind):
    onto = ONTO[name]
    values = np.random.default_rng(1).integers(1, 200, MOVING.shape).astype(np.uint8)
    volume = Volume(values, MOVING, "labels")
    transform = transform_of(kind, onto)
    found = warp(volume, transform, onto)
    clear = clear_of(moving_index(transform, onto), 0.5)
    expected = resampled(volume.array, MOVING, transform, onto, nearest=True)
    assert 0.05 < (expected == 0)[clear].mean() < 0.9
    assert found.kind == "labels" and found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array[clear], expected[clear])


def test_a_long_axis_costs_no_precision_that_matters():
    long = Geometry((500, 6, 5), affine((0.3, 0.2, -0.1), (0.4, -1.1, 2.0)))
    onto = Geometry((450, 5, 6), long.affine @ np.diag([1.1, 0.9, 0.7, 1.0]))
    volume = scan(long)
    shift = AffineTransform(np.vstack([np.eye(4)[:3] + np.array([0, 0, 0, 0.137]), [0, 0, 0, 1]]))
    expected = resampled(volume.array, long, shift, onto, fill=-50.0)
    index = long.to_index(shift.map(onto.world_grid()))
    clear = clear_of(index, 0.5)
    found = warp(volume, shift, onto, fill=-50.0)
    np.testing.assert_allclose(found.array[clear], expected[clear], rtol=0, atol=0.1)


# ---- the identity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", ["affine", "field"])
def test_the_identity_is_the_identity(geometry, kind):
    same = IDENTITY if kind == "affine" else DisplacementField(geometry, np.zeros((*SHAPE, 3)))
    volume = scan(geometry)
    labels = Volume(np.random.default_rng(2).integers(0, 9, SHAPE), geometry, "labels")
    np.testing.assert_allclose(warp(volume, same, geometry).array, volume.array, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(warp(labels, same, geometry).array, labels.array)


@pytest.mark.parametrize("shape", [(1, 8, 9), (7, 1, 1), (1, 1, 1)])
def test_the_identity_of_a_grid_of_one_slice_is_the_identity(shape):
    volume = scan(Geometry(shape, affine()))
    np.testing.assert_allclose(warp(volume, IDENTITY, volume.geometry).array, volume.array, rtol=0, atol=1e-3)


# ---- borders -----------------------------------------------------------------------------------------------


def test_an_edge_border_repeats_the_outermost_voxels():
    onto, volume = ONTO["left-handed"], scan()
    found = warp(volume, tilt(), onto, border="edge").array
    index = np.moveaxis(moving_index(tilt(), onto), -1, 0)
    expected = map_coordinates(volume.array.astype(float), index, order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("fill", [None, 0.0, 2000.5, float("nan")])
def test_beyond_the_image_comes_the_fill_value_or_the_smallest_of_the_image(fill):
    volume = scan()
    far = around(MOVING.centre + 500.0, OBLIQUE)
    expected = volume.array.min() if fill is None else fill
    np.testing.assert_array_equal(warp(volume, IDENTITY, far, fill=fill).array, np.float32(expected))


def test_beyond_a_label_map_comes_background_whatever_its_smallest_value():
    labels = Volume(np.full(MOVING.shape, 5, np.int16), MOVING, "labels")
    far = around(MOVING.centre + 500.0, OBLIQUE)
    assert not warp(labels, IDENTITY, far).array.any()
    assert (warp(labels, IDENTITY, far, border="edge").array == 5).all()


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match="'mirror', expected one of edge, constant"):
        warp(scan(), IDENTITY, OBLIQUE, border="mirror")


# ---- channels and dtypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "offset"), [(1e60, -2e60), (1e-60, 0.0), (1e-10, 5.0)])
@pytest.mark.parametrize("fill", [None, 0.25])
def test_values_that_float32_cannot_hold_are_warped_in_float64(factor, offset, fill):
    plain = Volume(scan().array.astype(np.float64), MOVING)
    extreme = Volume(plain.array * factor + offset, MOVING)
    onto = ONTO["oblique"]
    expected = warp(plain, tilt(), onto, fill=fill).array.astype(np.float64)
    found = warp(extreme, tilt(), onto, fill=None if fill is None else fill * factor + offset)
    assert found.array.dtype == np.float64
    np.testing.assert_allclose((found.array - offset) / factor, expected, atol=1e-4 * np.ptp(expected))


def test_values_that_are_not_finite_stay_where_they_are():
    array = scan().array.astype(np.float64)
    array[1, 2, 3], array[5, 5, 5] = np.nan, np.inf
    found = warp(Volume(array, MOVING), IDENTITY, MOVING).array
    assert np.isnan(found[1, 2, 3]) and not np.isfinite(found[5, 5, 5])
    assert np.isfinite(found[8:]).all()


def test_each_channel_of_an_image_is_warped_alike():
    onto, volume = ONTO["oblique"], scan(channels=(3,))
    found = warp(volume, tilt(), onto, fill=7.0).array
    assert found.shape == (*SHAPE, 3)
    for c in range(3):
        alone = warp(Volume(volume.array[..., c], MOVING), tilt(), onto, fill=7.0).array
        np.testing.assert_array_equal(found[..., c], alone)


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_overlapping_structures_are_cut_at_one_half_of_their_linear_values(dtype):
    array = np.random.default_rng(3).random((*MOVING.shape, 2)) > 0.4
    onto = ONTO["permuted"]
    found = warp(Volume(array.astype(dtype), MOVING, "labels"), tilt(), onto)
    assert found.kind == "labels" and found.array.dtype == dtype
    for c in range(2):
        linear = resampled(array[..., c], MOVING, tilt(), onto)
        clear = clear_of(moving_index(tilt(), onto), 0.5) & (np.abs(linear - 0.5) > 1e-3)
        assert 0.05 < (linear > 0.5).mean() < 0.9
        np.testing.assert_array_equal(found.array[..., c][clear], (linear > 0.5)[clear])


DTYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">u2", ">i4", ">u8"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_label_maps_keep_their_values_and_dtype(dtype):
    dtype = np.dtype(dtype)
    top = 1 if dtype.kind == "b" else min(np.iinfo(dtype).max, 2**62)
    array = np.random.default_rng(0).integers(0, top, SHAPE, endpoint=True, dtype=np.uint64).astype(dtype)
    array[0, 0, 0] = top
    found = warp(Volume(array, OBLIQUE, "labels"), IDENTITY, OBLIQUE).array
    assert found.dtype == dtype.newbyteorder("=") and found.dtype.isnative
    np.testing.assert_array_equal(found, array)


LAYOUTS = {
    "read-only": lambda a: _locked(a.copy()),
    "Fortran order": np.asfortranarray,
    "reversed axes": lambda a: a[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "every second voxel": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def _locked(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "dtype"), [("image", "f4"), ("image", "i2"), ("image", "f8"), ("labels", "u1")]
)
def test_how_an_array_lies_in_memory_changes_nothing(layout, kind, dtype):
    array = (np.random.default_rng(0).random(MOVING.shape) * 200).astype(dtype)
    other = LAYOUTS[layout](array)
    before = other.copy()
    onto = ONTO["oblique"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = warp(Volume(other, MOVING, kind), tilt(), onto).array
    np.testing.assert_array_equal(found, warp(Volume(array, MOVING, kind), tilt(), onto).array)
    np.testing.assert_array_equal(other, before)


def test_reading_a_read_only_array_takes_no_copy():
    array = _locked(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    tensor = volumes.tensor_of(array)
    assert tensor.data_ptr() == array.ctypes.data and not array.flags.writeable


# ---- slabs, threads, memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["affine", "field", "coarse field"])
def test_slabs_give_what_one_piece_gives(monkeypatch, kind):
    onto, volume = ONTO["oblique"], scan()
    transform = transform_of(kind, onto)
    labels = Volume((volume.array / 6).astype(np.uint8), MOVING, "labels")
    whole = warp(volume, transform, onto).array, warp(labels, transform, onto).array
    for voxels in (1, 3 * SHAPE[1] * SHAPE[2]):  # 7 slabs, and 3 of which the last is smaller
        monkeypatch.setattr(volumes, "SLAB_VOXELS", voxels)
        told = []
        pieces = warp(volume, transform, onto, progress=lambda f, text, _, told=told: told.append((f, text)))
        np.testing.assert_allclose(pieces.array, whole[0], rtol=0, atol=1e-2)
        np.testing.assert_array_equal(warp(labels, transform, onto).array, whole[1])
        count = 7 if voxels == 1 else 3
        assert len(told) == count and told == sorted(told) and told[-1] == (1.0, "warp")


def test_the_work_of_two_threads_is_that_of_one():
    onto = ONTO["oblique"].resized((19, 17, 21))
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(warp(scan(), transform_of("coarse field", onto), onto).array)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


MEMORY = """
import re, sys
import numpy as np
from RegCore.space.geometry import Geometry
from RegCore.resampler import warp
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

def now(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) / 1024

matrix = np.eye(4)
matrix[:3, 3] = 0.4, -3.3, 5.2
def run(shape):
    volume = Volume(np.ones(shape, np.int16), Geometry(shape, np.diag([0.8, -0.8, 1.2, 1])))
    before = now("VmRSS")
    warp(volume, AffineTransform(matrix), volume.geometry, fill=0)
    return now("VmHWM") - before
run((9, 8, 7))
print(run((192, 256, 256)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the memory figures of Linux")
def test_a_large_volume_is_warped_in_the_memory_of_input_output_and_a_slab():
    run = subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True)
    voxels = 192 * 256 * 256 / 2**20
    allowed = voxels * (4 + 4) + 100  # the image as float32, the result, a slab of 1 Mi voxels with its sums
    assert voxels * 8 < float(run.stdout) < allowed  # coordinates of all voxels alone would take 144 MiB


# ---- helpers of other rooms --------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [OBLIQUE, LEFT_HANDED], ids=["oblique", "left-handed"])
def test_the_field_of_an_affine_and_a_ddf_maps_as_they_do_in_turn(geometry, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 100)
    ddf = np.random.default_rng(0).normal(size=(1, 3, *SHAPE)).astype(np.float32)
    moved = geometry.to_world(geometry.index_grid() + np.moveaxis(ddf[0], 0, -1))
    field = field_of(tilt(), geometry, torch.from_numpy(ddf))
    np.testing.assert_allclose(field.map(geometry.world_grid()), tilt().map(moved), atol=1e-4)
    plain = field_of(tilt(), geometry)
    np.testing.assert_allclose(plain.map(geometry.world_grid()), tilt().map(geometry.world_grid()), atol=1e-4)


def test_a_smooth_field_and_its_inverse_bring_an_image_back():
    grid = Geometry((20, 22, 18), affine(spacing=(-1.1, 1.7, 2.3)))
    wave = np.sin(grid.index_grid() @ [0.3, 0.2, 0.25])
    field = smooth_field(grid, mm=3.0)
    there = warp(Volume(wave.astype(np.float32), grid), field, grid, border="edge")
    back = warp(there, field.inverse(), grid, border="edge").array
    inner = (slice(4, -4),) * 3
    assert np.abs(back - wave)[inner].max() < 0.1 < 0.3 < np.abs(there.array - wave)[inner].max()


@pytest.mark.parametrize("shape", [(7, 8, 9), (60, 50, 40), (1, 30, 20)])
def test_a_field_is_inverted_to_0_04_voxels_from_coarse_to_fine(shape, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 5000)
    grid = Geometry(shape, affine((-0.3, 0.15, 0.5), (-1.5, 1.2, 1.9), (20.0, -30.0, 5.0)))
    field = tilt().compose(smooth_field(grid, mm=4.0))
    onto, told = around(field.affine_part().map(grid.centre), grid), []
    back = inverted(field, onto, lambda fraction, stage, values: told.append(fraction))
    assert back.geometry == onto and told == sorted(told) and told[-1] == 1.0
    places = onto.world_grid()
    missed = grid.to_index(field.map(back.map(places))) - grid.to_index(places)
    assert np.linalg.norm(missed, axis=-1).max() < 0.0401
    apart = back.mm - field.inverse(onto, tolerance_voxels=1e-3).mm
    assert np.linalg.norm(apart, axis=-1).max() < 0.2


def test_a_field_that_folds_is_inverted_as_far_as_it_can_be():
    field = rough_field(Geometry((12, 11, 10), np.eye(4)))
    back = inverted(field, field.geometry)
    assert np.isfinite(back.mm).all()
