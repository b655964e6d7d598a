"""Intensities as networks get them: window, percentiles, mean and deviation; what is unlike all seen."""

import numpy as np
import pytest

from RegCore.loaders import images_from_volumes
from RegCore.loaders.intensity import (
    IntensityWindow,
    MinMax,
    Percentiles,
    ZScore,
    intensity_of,
    is_unlike,
    quantiles,
)
from RegCore.space.geometry import InputError
from RegCore.training.config import Config
from RegCore.training.presets import TrainingPreset
from Testing.RegCore.training.config.samples import UNPAIRED

SHAPE = (17, 18, 19)


def scan(seed=0):
    """A bright body with noise in a dark background."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, SHAPE)
    image[4:13, 3:14, 5:15] = rng.normal(100, 10, (9, 11, 10))
    return image.astype(np.float32)


def spotted(image):
    """The same with a bright spot of 2 x 2 x 2 voxels in a corner."""
    made = image.copy()
    made[:2, :2, :2] = 3 * image.max()
    return made


def test_a_window_is_that_of_all_images():
    image = np.array([-2000, -1000, -500, 0, 250, 3000], np.int16).reshape(1, 2, 3)
    np.testing.assert_allclose(IntensityWindow(-1000, 1000)(image, "a").ravel(), [0, 0, 0.25, 0.5, 0.625, 1])


@pytest.mark.parametrize(("low", "high"), [(0.5, 99.5), (0, 100), (10, 80)])
def test_percentiles_are_those_of_numpy(low, high):
    image = scan()
    first, last = np.percentile(image.astype(np.float64), [low, high])
    wanted = np.clip((image - first) / (last - first), 0, 1)
    np.testing.assert_allclose(Percentiles(low, high)(image, "a"), wanted, atol=1e-5)


def test_deviations_are_those_of_the_body():
    """The body is known: its mean becomes one half, and so many deviations more become one."""
    image = scan()
    body = image[4:13, 3:14, 5:15].astype(np.float64)
    wanted = np.clip(0.5 + (image - body.mean()) / (2 * 2.5 * body.std()), 0, 1)
    np.testing.assert_allclose(ZScore(2.5)(image, "a"), wanted, atol=1e-5)


@pytest.mark.parametrize("intensity", [Percentiles(), IntensityWindow(-10, 130)])
def test_a_bright_spot_changes_the_rest_little(intensity):
    """Min-max takes the body from about 0.75 to a third of it."""
    image, body = scan(), (slice(4, 13), slice(3, 14), slice(5, 15))
    change = np.abs(intensity(spotted(image), "a") - intensity(image, "a"))[body]
    assert change.max() < 0.05
    assert np.abs(MinMax()(spotted(image), "a") - MinMax()(image, "a"))[body].min() > 0.3


@pytest.mark.parametrize("intensity", [MinMax(), Percentiles(), ZScore(), IntensityWindow(0, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_what_comes_out_is_float32_from_0_to_1(intensity, dtype):
    found = intensity(np.clip(scan(), 0, 200).astype(dtype), "a")
    assert found.dtype == np.float32 and found.shape == SHAPE and found.min() >= 0 and found.max() <= 1
    assert np.isfinite(intensity(np.full((3, 4, 5), 7, dtype), "a")).all()


@pytest.mark.parametrize("intensity", [MinMax(), Percentiles(), ZScore(), IntensityWindow(0, 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_not_finite_is_an_error(intensity, value):
    image = scan()
    image[3, 4, 5] = value
    with pytest.raises(InputError, match="a.nii: all voxels must be finite"):
        intensity(image, "a.nii")


def test_only_what_is_far_from_all_of_the_training_is_unlike_it():
    loader = images_from_volumes([scan(n) for n in range(4)], image_shape=[8, 9, 10])
    seen = loader.fixed.intensity_range()
    assert np.shape(seen) == (2, 5)
    for make, unlike in ((lambda x: x, False), (spotted, True), (lambda x: -x, True)):
        other = images_from_volumes([make(scan(9)), scan(8)], image_shape=[8, 9, 10])
        assert is_unlike(other.fixed.image(0).numpy(), seen) is unlike
    assert quantiles(np.linspace(0, 1, 101)) == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95])


def configured(intensity) -> Config:
    return Config.from_dict({**UNPAIRED, "dataset": {**UNPAIRED["dataset"], "intensity": intensity}})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, MinMax()),
        ({"name": "window", "low": -200, "high": 300}, IntensityWindow(-200, 300)),
        ({"name": "percentiles"}, Percentiles(0.5, 99.5)),
        ({"name": "zscore", "deviations": 2}, ZScore(2.0)),
    ],
)
def test_the_configuration_says_which(given, wanted):
    config = configured(given)
    assert (config.dataset.intensity or MinMax()) == wanted
    assert intensity_of(config.to_dict()["dataset"]) == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "windows"}, "did you mean .*window"),
        ({"name": "window", "low": 5}, "high.* is missing"),
        ({"name": "window", "low": 5, "high": 5}, "a window must end above its beginning"),
        ({"name": "percentiles", "low": 60, "high": 40}, "0 <= low < high <= 100"),
        ({"name": "zscore", "deviations": 0}, "deviations must be greater than 0"),
        ({"name": "minmax", "low": 1}, "there is no such key"),
    ],
)
def test_what_can_not_be_is_said_with_its_key(given, said):
    with pytest.raises(InputError, match=f"dataset.intensity.*{said}"):
        configured(given)


def test_new_configurations_are_robust(tmp_path):
    assert TrainingPreset(str(tmp_path)).configuration()["dataset"]["intensity"] == {"name": "percentiles"}
