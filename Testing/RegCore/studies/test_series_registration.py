"""Registration of series: known motion is found again, and the curves say what it was."""

import numpy as np
import pytest

import RegCore
from RegCore.registration.motion import is_rigid
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.series import Series
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.studies.series import register_series
from RegCore.studies.workers import LocalPool
from Testing.RegCore.grids import smooth_field
from Testing.RegCore.registration.blobs import centred
from Testing.RegCore.studies.frames import MIRRORED, OBLIQUE, rigid_motion, series_of


def errors(result, motions: list, grid: Geometry, start: AffineTransform) -> np.ndarray:
    """Mean distance in mm, over the grid, of where found and true transforms take points.

    start: takes the balls as they were to where the result begins.
    """
    points = grid.world_grid().reshape(-1, 3)
    back = start.inverse()
    pairs = zip(result.transforms, motions, strict=True)
    return np.array(
        [np.linalg.norm(t.map(points) - m.map(back.map(points)), axis=1).mean() for t, m in pairs]
    )


CASES = [("frame", OBLIQUE), ("mean", MIRRORED), ("neighbour", OBLIQUE)]


@pytest.mark.parametrize(("to", "grid"), CASES, ids=["frame", "mean, left-handed", "neighbour"])
def test_the_motion_of_each_frame_is_found_again(to, grid):
    motions = [rigid_motion(t) for t in range(5)]
    result = register_series(series_of(grid, motions), to, reference=2, device="cpu")
    start = motions[2]
    if to == "mean":  # which lies where the frames lie on average, not where frame 2 does
        start = AffineTransform(result.transforms[2].inverse().matrix @ motions[2].matrix)
    assert errors(result, motions, grid, start).max() < 0.03 * grid.spacing.mean()
    assert all(is_rigid(transform) for transform in result.transforms)
    assert result.motion["moved_mm"][[0, 4]].min() > 5
    assert (result.motion["ncc_after"] >= result.motion["ncc_before"] - 1e-3).all()
    assert result.motion["ncc_after"].min() > 0.97 > result.motion["ncc_before"].min()
    assert result.warped.times == ("0", "2", "4", "6", "8") and result.warped.unit == "s"
    np.testing.assert_allclose(result.mean.array, result.warped.array.mean(-1), rtol=1e-5, atol=1e-3)


def test_a_frame_beyond_recognition_spoils_no_other():
    motions = [rigid_motion(t) for t in range(4)]
    series = series_of(OBLIQUE, motions)
    series.array[..., 2] = np.random.default_rng(1).integers(0, 900, OBLIQUE.shape)
    result = register_series(series, reference=0, device="cpu")
    found = errors(result, motions, OBLIQUE, motions[0])
    assert found[[1, 3]].max() < 0.03 * OBLIQUE.spacing.mean()


def test_fields_are_composed_from_frame_to_frame():
    grid = centred((16, 15, 14), (0.1, -0.2, 0.15), (8.0, 8.5, 9.0))
    bend = smooth_field(grid, mm=9.0, sigma=3.0)
    motions = [DisplacementField(grid, bend.mm * np.float32(t)) for t in (0.0, 0.5, 1.0)]
    series = series_of(grid, motions, noise=0.002)
    settings = {"levels": 2, "iterations": 25, "symmetric": False}
    points = grid.world_grid()[3:-3, 3:-3, 3:-3]
    for to in ("frame", "neighbour"):
        result = register_series(series, to, "deformable", reference=0, settings=settings, device="cpu")
        before = np.linalg.norm(bend.map(points) - points, axis=-1).mean()
        after = np.linalg.norm(result.transforms[2].map(points) - bend.map(points), axis=-1).mean()
        assert after < 0.6 * before
        assert "shift_r_mm" not in result.motion and result.motion["fd_mm"].shape == (3,)
        assert isinstance(result.transforms[2], DisplacementField)


def test_workers_find_the_same_to_the_last_bit():
    series = series_of(OBLIQUE, [rigid_motion(t) for t in range(3)])
    with LocalPool(2, 1) as pool:
        results = [register_series(series, device="cpu", pool=chosen) for chosen in (None, pool)]
    assert results[0].reference == 1
    for one, other in zip(*(result.transforms for result in results), strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)


def test_progress_rises_and_cancels():
    series, told = series_of(OBLIQUE, [rigid_motion(t) for t in range(3)]), []

    def tell(fraction, stage, values):
        told.append(fraction)
        if stage.startswith("frame 2"):
            raise RegCore.Cancelled

    with pytest.raises(RegCore.Cancelled):
        register_series(series, reference=0, device="cpu", progress=tell)
    assert told == sorted(told) and 0.4 < told[-1] < 0.6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "median"}, "the target of a series is 'median', expected one of frame, mean, neighbour"),
        ({"reference": 3}, "the reference is frame 3, but the frames have the numbers 0 to 2"),
        ({"reference": -1}, "the reference is frame -1"),
        ({"rounds": 0}, "the number of rounds is 0, expected at least 1"),
        ({"method": "rigit"}, "frame 2: unknown method 'rigit'"),
        ({"settings": {"levels": 2}}, "method rigid has no setting 'levels'"),
    ],
)
def test_what_can_not_be_used_is_said(change, words):
    series = series_of(OBLIQUE, [rigid_motion(t) for t in range(3)])
    with pytest.raises(InputError, match=words):
        register_series(series, **({"device": "cpu"} | change))


def test_a_frame_without_contrast_is_named():
    series = series_of(OBLIQUE, [rigid_motion(t) for t in range(3)])
    series.array[..., 1] = 7
    with pytest.raises(InputError, match="frame 1: the image is constant"):
        register_series(series, device="cpu")
    one = Series(series.array[..., :1], OBLIQUE)
    with pytest.raises(InputError, match="at least two frames was expected"):
        register_series(one, device="cpu")


def test_without_noise_hardly_anything_is_left():
    motions = [rigid_motion(t) for t in range(2)]
    result = register_series(series_of(OBLIQUE, motions, noise=0.0), reference=0, device="cpu")
    assert errors(result, motions, OBLIQUE, motions[0]).max() < 0.004 * OBLIQUE.spacing.mean()
