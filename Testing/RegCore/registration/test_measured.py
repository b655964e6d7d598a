"""What is no measurement does not count: padding, NaN and saturated voxels are found and move no result."""

from dataclasses import replace

import numpy as np
import pytest

from RegCore.registration.measured import measured
from RegCore.registration.pair import PairSide, make_feature_image
from RegCore.registration.register import register
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, MOVING, density, motion

GRID = Geometry((24, 22, 12), np.diag([3.0, 3.0, 4.0, 1.0]))


def hounsfield(geometry: Geometry, mapping=None, seed: int = 0) -> np.ndarray:
    """A body of soft balls in air, in Hounsfield units as scanners clip them."""
    points = geometry.world_grid()
    inside = density(points if mapping is None else mapping(points))
    noise = np.random.default_rng(seed).normal(size=geometry.shape) * 8
    values = -1000 + 1040 * np.clip(4 * inside, 0, 1) + 150 * inside + noise
    return np.clip(np.rint(values), -1024, 3071)


def outside(geometry: Geometry, share: float = 0.47) -> np.ndarray:
    """What lies outside of the circle of a scanner's field of view, alike in all slices."""
    i, j, _ = np.moveaxis(geometry.index_grid() / (np.array(geometry.shape) - 1) - 0.5, -1, 0)
    return i**2 + j**2 > share**2


def body(seed: int = 0) -> np.ndarray:
    """Air with noise around a block of tissue with bone, which changes from slice to slice."""
    rng = np.random.default_rng(seed)
    array = -1000 + 10 * rng.normal(size=GRID.shape)
    for k in range(GRID.shape[2]):
        array[4 + k // 3 : 18, 5 : 14 + k // 4, k] = 40 + 100 * rng.random((14 - k // 3, 9 + k // 4))
    array[8:10, 8:10] = 900
    return np.clip(np.rint(array), -1024, 3071)


@pytest.mark.parametrize("value", [-1024, -1500, -2000, -3024, -32768, 3071 + 500, 30000])
def test_padding_around_the_field_of_view_of_a_ct_is_found(value):
    array, around = body(), outside(GRID)
    found = measured(Volume(np.where(around, value, array).astype(np.int16), GRID))
    np.testing.assert_array_equal(found.known, ~around)
    assert found.reasons == (f"padding of {value}",)
    assert -1024 <= found.low < -980 and 100 < found.high < 1000
    assert found.sentence("the fixed volume") == (
        f"the fixed volume: {100 * around.mean():.0f} % of the voxels hold no measurement "
        f"(padding of {value}); they do not count"
    )


@pytest.mark.parametrize("value", [0, 40, -300])
@pytest.mark.parametrize("shape", ["circle", "box"])
def test_padding_of_a_ct_with_a_value_of_tissue_is_found(value, shape):
    """0 is what programs put outside of what they resampled; the same value inside of the body counts."""
    array, around = body(), outside(GRID)
    if shape == "box":
        around = np.ones(GRID.shape, bool)
        around[2:-2, 3:-1, 1:] = False
    array[12, 10, 6] = value
    found = measured(Volume(np.where(around, value, array).astype(np.int16), GRID))
    np.testing.assert_array_equal(found.known, ~around)
    assert found.reasons == (f"padding of {value}",)


def test_the_border_of_a_field_that_was_resampled_is_left_out_as_well():
    array, around = body(), outside(GRID)
    blurred = np.where(around, -3024.0, array)
    blurred[:-1] = 0.5 * (blurred[:-1] + blurred[1:])
    known = measured(Volume(blurred, GRID)).known
    pure = ~around
    pure[:-1] &= pure[1:]
    assert not known[around].any() and np.mean(known[pure]) > 0.99


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(body(), id="a CT"),
        pytest.param(np.maximum(body(), -1000), id="a CT whose air was cut"),
        pytest.param(np.clip(body(), -1000, 300), id="a CT cut to a window"),
        pytest.param(np.where(body() < -500, 0, body() + 300), id="tissue on a background of zeros"),
        pytest.param(np.where(outside(GRID), 0, 500 + body(1) / 20), id="a cylinder on zeros"),
        pytest.param(np.abs(body() + 1000), id="magnitudes"),
        pytest.param(np.minimum(body() + 1024, 255), id="bright parts cut, as in 8 bits"),
        pytest.param(np.where(body() > 500, 1.0, 0.0), id="two values"),
    ],
)
def test_all_of_it_counts(array):
    found = measured(Volume(array.astype(np.float32), GRID))
    assert found.known is None and found.sentence("x") is None
    np.testing.assert_array_equal(found.filled(array), array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_and_infinite_voxels_do_not_count(dtype):
    array = (body() / 10).astype(dtype)
    array[:3], array[-1, -1, -1] = np.nan, np.inf
    found = measured(Volume(array, GRID))
    np.testing.assert_array_equal(found.known, np.isfinite(array))
    filled = found.filled(array)
    assert filled.dtype == dtype and np.isfinite(filled).all()


def test_saturated_metal_does_not_count_and_bright_voxels_do():
    array = body()
    array[10:13, 8:11, 4:6] = 30000
    np.testing.assert_array_equal(measured(Volume(array, GRID)).known, array < 30000)
    magnitudes = np.abs(body() + 1024)
    magnitudes[10:13, 8:11, 4:6] = 32767  # as many voxels at one value, not in Hounsfield units
    found = measured(Volume(magnitudes, GRID))
    np.testing.assert_array_equal(found.known, magnitudes < 32767)
    assert found.reasons == ("saturated at 32767",)
    magnitudes[10:13, 8:11, 4:6] = np.linspace(9000, 32767, 18).reshape(3, 3, 2)  # a hot spot, no saturation
    assert measured(Volume(magnitudes, GRID)).known is None


def test_the_padding_value_that_a_header_names_does_not_count():
    array = body().astype(np.int16)
    array[:2, :2, :2] = -77
    found = measured(Volume(array, GRID, padding=-77.0))
    np.testing.assert_array_equal(found.known, array != -77)
    assert measured(Volume(array, GRID)).known is None


def test_no_edge_is_seen_where_measurements_end():
    grid = GRID
    image = 100 + 10 * np.random.default_rng(0).normal(size=grid.shape)
    padded = image.astype(np.float32)
    padded[:8] = np.nan
    reduced = make_feature_image(PairSide(Volume(padded, grid)), grid, np.eye(4), None, "cpu")
    values = reduced.image.values[0, 0].numpy()
    assert np.isfinite(values).all() and np.abs(np.diff(values[:10], axis=0)).max() < 1.0
    assert values[:8].min() >= values[8:].min() and values[:8].max() <= values[8:].max()
    features, known = reduced.resampled(grid, np.eye(4), 3.0)
    assert features.isfinite().all() and not known[0, 0, :8].any() and known[0, 0, 8:].all()


# ---- registered --------------------------------------------------------------------------------------------

TRUTH = motion(rigid=True)


def pair() -> tuple[Volume, Volume]:
    arrays = hounsfield(FIXED, TRUTH.map), hounsfield(MOVING, seed=1)
    return tuple(Volume(a.astype(np.int16), g) for a, g in zip(arrays, (FIXED, MOVING), strict=True))


def spoilt(volume: Volume, kind: str) -> Volume:
    """The volume with voxels that are no measurement."""
    array, around = volume.array.copy(), outside(volume.geometry)
    if kind == "metal":
        far = ((volume.geometry.world_grid() - volume.geometry.centre - [10, -8, 6]) ** 2).sum(-1)
        array[far < 12**2] = 30000
        return replace(volume, array=array)
    array = np.where(around, np.nan if kind == "NaN" else int(kind), array)
    return replace(volume, array=array.astype(np.float32 if kind == "NaN" else np.int16))


KINDS = [
    ("-2000", "-2000"),
    ("0", "0"),
    ("-3024", "-2000"),
    ("3600", "3600"),
    ("NaN", "NaN"),
    ("plain", "-3024"),
]


def places() -> np.ndarray:
    """Points in the body and in view."""
    points = FIXED.world_grid()[~outside(FIXED, 0.38)]
    return points[density(TRUTH.map(points)) > 0.3]


@pytest.mark.parametrize("kinds", [*KINDS, ("plain", "metal")], ids="/".join)
def test_a_linear_registration_is_as_near_as_without(kinds):
    sides = [v if kind == "plain" else spoilt(v, kind) for v, kind in zip(pair(), kinds, strict=True)]
    found = register(*sides, "rigid", device="cpu")
    points = places()
    apart = np.linalg.norm(found.transform.map(points) - TRUTH.map(points), axis=1)
    assert apart.mean() < 1.5  # mm; voxels have 6, and the start is 25 off
    notes = found.metrics["notes"]
    assert len(notes) == 2 - kinds.count("plain") and all("no measurement" in note for note in notes)
    assert found.metrics["ncc"]["after"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deformable", "auto"])
@pytest.mark.parametrize("kinds", [("-2000", "-2000"), ("NaN", "-3024"), ("metal", "plain")], ids="/".join)
def test_a_deformation_is_as_near_as_without(method, kinds):
    plain = pair()
    sides = [v if kind == "plain" else spoilt(v, kind) for v, kind in zip(plain, kinds, strict=True)]
    points, apart = places(), []
    for volumes in (plain, sides):
        found = register(*volumes, method, initial=TRUTH, device="cpu").transform
        apart.append(np.linalg.norm(found.map(points) - TRUTH.map(points), axis=1).mean())
    assert apart[1] < apart[0] + 0.6  # mm; voxels have 6


def test_without_a_mask_for_it_classical_methods_get_no_padding_either():
    settings = {"max_iter": 2, "working_size": 12}
    found = register(*(spoilt(v, "NaN") for v in pair()), "classical-affine", settings=settings, device="cpu")
    assert np.isfinite(found.transform.matrix).all()
