"""Means of images: what they are where not every scan reaches, and sharpening."""

import numpy as np
from scipy.ndimage import gaussian_filter

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from RegCore.studies.averages import average, sharpened
from Testing.RegCore.grids import OBLIQUE, SHAPE


def test_scans_that_reach_less_far_count_where_they_are():
    """Two halves of a ramp: their mean is the ramp, not half of it where the other is not."""
    grid = Geometry((12, 6, 6), np.diag([2.0, 2.0, 2.0, 1.0]))
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], grid.shape).astype(np.float32)
    halves = [Volume(ramp[:8], grid.cropped((0, 0, 0), (8, 6, 6)))]
    halves.append(Volume(ramp[4:], grid.cropped((4, 0, 0), (12, 6, 6))))
    found = average(halves, [AffineTransform.identity()] * 2, grid)
    np.testing.assert_allclose(found.mean.array, ramp, atol=1e-5)
    np.testing.assert_allclose(found.spread, 0, atol=1e-3)


def test_sharpening_adds_what_a_gaussian_takes_off():
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    smooth = gaussian_filter(values.astype(float), 1.0, mode="nearest", truncate=3.0)
    found = sharpened(Volume(values, OBLIQUE), 0.5).array
    np.testing.assert_allclose(found, values + 0.5 * (values - smooth), atol=1e-4)
    assert sharpened(Volume(values, OBLIQUE), 0).array is values
