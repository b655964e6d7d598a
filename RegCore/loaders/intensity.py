"""From intensities of scans to the numbers in [0, 1] that networks and losses get: `INTENSITIES` by name.

Each is called as ``(array, where)``: the array ``(I, J, K)`` of any dtype, and what it is, for messages. It
gives float32 in [0, 1] of the same shape, and raises InputError where a voxel is not finite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from RegCore.resampler.pyramid import foreground, normalize_array, robust_range
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FAR = 0.2  # a quantile that lies so far outside of the range in the training is far outside


@dataclass(frozen=True)
class MinMax:
    """From the smallest value of an image to its largest, as DeepReg: one bright voxel darkens all others."""

    def __call__(self, array: np.ndarray, where: str) -> np.ndarray:
        return normalize_array(array, where=where)


@dataclass(frozen=True)
class IntensityWindow:
    """The same window for all images, for scans with a unit: CT in Hounsfield units."""

    low: float
    """The value that becomes 0, and all below it."""
    high: float
    """The value that becomes 1, and all above it."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"high is {self.high}, but a window must end above its beginning {self.low}")

    def __call__(self, array: np.ndarray, where: str) -> np.ndarray:
        return normalize_array(array, self.low, self.high, where=where)


@dataclass(frozen=True)
class Percentiles:
    """From one percentile of an image to another: a few very bright or dark voxels change nothing."""

    low: float = 0.5
    """The percentile that becomes 0, with all below it."""
    high: float = 99.5
    """The percentile that becomes 1, with all above it."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise InputError(f"low and high must be 0 <= low < high <= 100, but are {self.low}, {self.high}")

    def __call__(self, array: np.ndarray, where: str) -> np.ndarray:
        low, high = robust_range(array, self.low, self.high)
        return normalize_array(array, low, high, where=where) if high > low else MinMax()(array, where)


@dataclass(frozen=True)
class ZScore:
    """Mean and standard deviation of the body, told from the background by Otsu's threshold."""

    deviations: float = 3.0
    """So many below the mean become 0, so many above it 1."""

    def __post_init__(self) -> None:
        if not self.deviations > 0:
            raise InputError(f"deviations must be greater than 0, but it is {self.deviations}")

    def __call__(self, array: np.ndarray, where: str) -> np.ndarray:
        if np.isfinite(array.min()) and np.isfinite(array.max()):
            body = array[foreground(array)].astype(np.float64)
            mean, margin = (body.mean(), self.deviations * body.std()) if body.size else (0.0, 0.0)
            if margin > 0:
                return normalize_array(array, mean - margin, mean + margin, where=where)
        return MinMax()(array, where)


Intensity = MinMax | IntensityWindow | Percentiles | ZScore
INTENSITIES: dict[str, type] = {
    "minmax": MinMax,
    "window": IntensityWindow,
    "percentiles": Percentiles,
    "zscore": ZScore,
}


def intensity_of(dataset: Mapping | None) -> Intensity:
    """What a configuration's ``dataset`` section says of intensities; min-max, as DeepReg, if nothing.

    Raises:
        InputError: the sentence names the key.
    """
    given = dict((dataset or {}).get("intensity") or {"name": "minmax"})
    name = given.pop("name", None)
    check_name(name, INTENSITIES, "dataset.intensity:")
    cls = INTENSITIES[name]
    for key in given:
        check_name(key, [field.name for field in fields(cls)], f"dataset.intensity: the key of {name}")
    try:
        return cls(**given)
    except (InputError, TypeError) as error:
        raise InputError(f"dataset.intensity: {error}") from None


def quantiles(image: np.ndarray) -> list[float]:
    """The `QUANTILES` of an image in [0, 1]."""
    return [float(value) for value in np.quantile(image, QUANTILES)]


def is_unlike(image: np.ndarray, seen: Sequence[Sequence[float]]) -> bool:
    """Whether intensities in [0, 1] are distributed otherwise than in all images of the training.

    Args:
        image: as the network gets it, any shape.
        seen: the smallest and the largest of each of the `QUANTILES` among those images.
    """
    low, high = (np.asarray(values) for values in seen)
    found = np.array(quantiles(image))
    return bool(((found < low - FAR) | (found > high + FAR)).any())
