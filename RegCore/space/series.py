"""A volume in time: frames on one grid, with the time of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume


@dataclass(frozen=True, eq=False)
class Series:
    """The frames of a 4-D image; a value: neither the array nor the geometry is to be changed.

    Args:
        array: (I, J, K, T), frames last, real numbers.
        geometry: the grid of each frame.
        times: where each frame lies along the axis of time, as text, as Slicer's sequences have it; by
            default the numbers 0, 1, 2 ….
        axis: what is told there, for example "time".
        unit: of the times, for example "s"; "" where it is unknown.

    Raises:
        InputError: these do not fit together, or there is no frame.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> grid = RegCore.Geometry((4, 5, 6), np.eye(4))
        >>> series = RegCore.Series(np.zeros((4, 5, 6, 3), np.float32), grid)
        >>> len(series), series.times, series.frame(2).array.shape
        (3, ('0', '1', '2'), (4, 5, 6))
    """

    array: np.ndarray
    geometry: Geometry
    times: Sequence[str] = ()
    axis: str = "frame"
    unit: str = ""

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        object.__setattr__(self, "array", array)
        if array.ndim != 4 or array.shape[:3] != self.geometry.shape:
            raise InputError(
                f"a series is an array (I, J, K, frames) on the grid {self.geometry.shape}, not {array.shape}"
            )
        if array.dtype.kind not in "biuf":
            raise InputError(f"the voxels of a series are real numbers, not {array.dtype}")
        if not array.shape[3]:
            raise InputError("a series has at least one frame, but this one has none")
        times = tuple(str(time) for time in self.times) or tuple(str(t) for t in range(array.shape[3]))
        object.__setattr__(self, "times", times)
        if len(times) != array.shape[3]:
            raise InputError(f"a series of {array.shape[3]} frames has as many times, not {len(times)}")

    def __len__(self) -> int:
        return self.array.shape[3]

    def frame(self, number: int) -> Volume:
        """A frame as an image, without a copy of its voxels."""
        return Volume(self.array[..., number], self.geometry)

    def step(self) -> float | None:
        """The time between neighbouring frames where it is a number and everywhere the same, else None."""
        try:
            steps = np.diff([float(time) for time in self.times])
        except ValueError:
            return None
        if not len(steps) or not np.isfinite(steps).all() or steps[0] <= 0:
            return None
        return float(steps.mean()) if np.allclose(steps, steps.mean(), rtol=1e-3) else None
