"""Whatever unit intensities have, an image is registered alike: nothing over- or underflows on the way."""

import warnings

import numpy as np
import pytest

from RegCore.registration.register import Registration, register
from RegCore.samples.phantom import PhantomPair, make_phantom
from RegCore.space.volume import Volume

METHODS = {
    "rigid": {},
    "deformable": {"iterations": 10, "levels": 1},
    "classical-affine": {"max_iter": 10, "working_size": 12},
}
UNITS = {  # name: dtype, factor, offset of intensities of about 0..1000
    "large": ("f4", 1e30, 0.0),
    "beyond float32": ("f8", 1e60, -3e60),
    "small": ("f4", 1e-25, 0.0),
    "below float32": ("f8", 1e-60, 0.0),
    "all nearly alike": ("f8", 1e-12, 5.0),
}


@pytest.fixture(scope="module")
def case() -> PhantomPair:
    return make_phantom(3, fixed_shape=(18, 16, 17), moving_shape=(17, 18, 16), displacement_mm=12.0)


def registered(case: PhantomPair, method: str, change=lambda array: array) -> Registration:
    images = [Volume(change(v.array.astype(np.float64)), v.geometry) for v in (case.fixed, case.moving)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return register(*images, method, settings=METHODS[method], device="cpu")


@pytest.fixture(scope="module")
def usual(case):
    return {method: registered(case, method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_the_intensities_does_not_matter(case, usual, method, unit):
    dtype, factor, offset = UNITS[unit]
    found = registered(case, method, lambda array: (array * factor + offset).astype(dtype))
    points = case.landmarks[:, :3]
    apart = np.linalg.norm(found.transform.map(points) - usual[method].transform.map(points), axis=1)
    start = np.linalg.norm(usual[method].transform.map(points) - points, axis=1)
    assert start.max() > 1 and apart.max() < 0.02
    for figure in ("ncc", "nmi"):
        assert found.metrics[figure] == pytest.approx(usual[method].metrics[figure], abs=2e-3)
    expected = usual[method].warped.array.astype(np.float64) * factor + offset
    assert np.abs(found.warped.array - expected).max() < 0.02 * np.ptp(expected)
