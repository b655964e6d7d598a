"""Which voxels of an image are measurements: neither NaN nor padding of the field of view nor saturated."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from RegCore.space.volume import Volume

PADDED = 0.01  # share of the voxels that hold one extreme value, from which on it may be padding
LEAST_KNOWN = 0.05  # share of the voxels that padding leaves at least: else the value is the background
SATURATED = 8  # voxels at the largest value, far above all others, from which on it is saturation
AIR, TISSUE = (-1050.0, -950.0), (-200.0, 200.0)  # Hounsfield units, by which a CT is known
BELOW_AIR, ABOVE_TISSUE = -1100.0, 4000.0  # Hounsfield units that nothing in a patient has
LEVEL = 0.1  # robust ranges between padding and the air within the field of view at most
FEW_SLICES = 4  # in fewer, a border that is the same in all of them says nothing


@dataclass(frozen=True)
class Measured:
    """What is known of an image.

    Args:
        known: ``(I, J, K)`` bool, False where the image holds no measurement; None where all voxels do.
        low, high: the 0.5 and the 99.5 percentile of what it measures.
        reasons: why the others do not count, in a few words each.
    """

    known: np.ndarray | None
    low: float
    high: float
    reasons: tuple[str, ...] = ()

    def sentence(self, name: str) -> str | None:
        """One sentence for the user that begins with `name`; None where all voxels count."""
        if self.known is None:
            return None
        share = 100 * (1 - np.count_nonzero(self.known) / self.known.size)
        part = f"{share:.0f} %" if share >= 1 else "less than 1 %"
        why = ", ".join(self.reasons)
        return f"{name}: {part} of the voxels hold no measurement ({why}); they do not count"

    def filled(self, array: np.ndarray) -> np.ndarray:
        """The image with its low percentile where nothing is known, in its own dtype."""
        return array if self.known is None else np.where(self.known, array, array.dtype.type(self.low))


def sampled(array: np.ndarray) -> np.ndarray:
    """At most 64 voxels along each axis, in double precision."""
    return array[_steps(array)].astype(np.float64)


def _steps(array: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(None, None, -(-n // 64)) for n in array.shape)


def measured(volume: Volume) -> Measured:
    """Which voxels of an image are measurements.

    These are not: NaN and infinite ones; the padding value that the header names; one constant extreme value
    that at least a hundredth of the voxels hold, if it is further from all others than their range, if it is
    below air in Hounsfield units, or if it lies outside of a field of view that is the same in all slices;
    and the largest values, if they are few, constant and as far, or no tissue has them in Hounsfield units.
    A smallest value of 0 is a background and counts, unless it lies outside of such a field of view; a
    largest value is padding only if it holds half of the corners. In Hounsfield units a value above air that
    holds half of the corners is padding as well, such as the 0 of programs that resample.

    Args:
        volume: an image ``(I, J, K)`` with at least one finite voxel.
    """
    search = _Measuring(volume)
    search.padding(volume.padding)
    for side in (-1, 1, -1):
        search.extreme(side)
    search.corners()
    search.metal()
    return search.result()


class _Measuring:
    """An image, what is known of it so far, and why the rest is not."""

    def __init__(self, volume: Volume):
        self.array, self.sample = volume.array, sampled(volume.array)
        self.known: np.ndarray | None = None
        self.reasons: list[str] = []
        if not (np.isfinite(self.array.min()) and np.isfinite(self.array.max())):
            self.known = np.isfinite(self.array)
            self.reasons.append("NaN or infinite")

    def _there(self) -> np.ndarray:
        return np.ones(self.sample.shape, bool) if self.known is None else self.known[_steps(self.array)]

    def _leave_out(self, bad: np.ndarray, why: str) -> None:
        known = ~bad if self.known is None else self.known & ~bad
        if bad.any() and np.count_nonzero(known) >= LEAST_KNOWN * known.size:
            self.known = known
            self.reasons.append(why)

    def padding(self, value: float | None) -> None:
        """Leave out the value that the header names."""
        if value is not None:
            self._leave_out(self.array == value, f"padding of {value:g}, as the header says")

    def _rest(self, there: np.ndarray) -> tuple[np.ndarray, float, float]:
        """The values between the two extremes, and the range of nearly all of them."""
        values = self.sample[there]
        rest = values[(values != values.min()) & (values != values.max())] if values.size else values
        low, high = np.percentile(rest, [0.5, 99.5]) if rest.size else (0.0, 0.0)
        return rest, float(low), float(high)

    def extreme(self, side: int) -> None:
        """Leave out the smallest (side -1) or largest (1) value where it is padding."""
        there = self._there()
        rest, low, high = self._rest(there)
        if high <= low:
            return
        value = float(self.sample[there].min() if side < 0 else self.sample[there].max())
        at = there & (self.sample == value)
        if at.mean() < PADDED:
            return
        edge, why = (low if side < 0 else high), f"padding of {value:g}"
        gap = abs(value - edge) / (high - low)
        if side < 0 and value < -1024 and _hounsfield(rest):
            self._leave_out((self.array < BELOW_AIR) | (self.array == value), why)
        elif (side < 0 and gap > 1 and value != 0) or (side > 0 and gap > 0.5 and _at_corners(at)):
            beyond = (value + edge) / 2
            self._leave_out(self.array < beyond if side < 0 else self.array > beyond, why)
        elif side < 0 and (axis := self._same_in_all_slices(at, value, LEVEL * (high - low))) is not None:
            outside = self.array == value
            self._leave_out(outside & outside.all(axis, keepdims=True), why)

    def corners(self) -> None:
        """Leave out a value of tissue in the corners of a CT, where a scan has air: padding with 0."""
        there, ends = self._there(), self.sample[np.ix_(*[(0, -1)] * 3)]
        values, counts = np.unique(ends[np.isfinite(ends)], return_counts=True)
        if not counts.size or counts.max() < 4:
            return
        value = float(values[counts.argmax()])
        at = there & (self.sample == value)
        if value > AIR[1] and at.mean() >= PADDED and _hounsfield(self.sample[there & ~at]):
            outside = self.array == value
            numbered, _ = ndimage.label(outside)
            reached = np.unique(numbered[np.ix_(*[(0, -1)] * 3)])
            self._leave_out(np.isin(numbered, reached[reached > 0]), f"padding of {value:g}")

    def _same_in_all_slices(self, at: np.ndarray, value: float, level: float) -> int | None:
        """The axis across slices that all have one border of a value, with nearly the same just within it.

        Where air was cut at a value, the border follows the body: in most slices its rim holds that value.
        """
        for axis in range(3):
            outside = np.asarray(at.all(axis))
            if at.shape[axis] < FEW_SLICES or outside.mean() < PADDED or not _touches_border(outside):
                continue
            rim = ndimage.binary_dilation(outside, iterations=1) & ~outside
            values = np.moveaxis(self.sample, axis, 0)[:, rim]
            if values.size and np.mean(values == value) < 0.25 and abs(np.median(values) - value) < level:
                return axis
        return None

    def metal(self) -> None:
        """Leave out saturated voxels, and values that no tissue has."""
        values = self.sample[self._there()]
        low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 0.0)
        if high <= low:
            return
        array = self.array if self.known is None else self.array[self.known]
        top = float(array.max())
        if _hounsfield(values) and top > ABOVE_TISSUE:
            self._leave_out(self.array > ABOVE_TISSUE, f"above {ABOVE_TISSUE:g}")
        elif top - high > high - low and np.count_nonzero(array == array.max()) >= SATURATED:
            self._leave_out(self.array > (top + high) / 2, f"saturated at {top:g}")

    def result(self) -> Measured:
        there = self._there()
        values = self.sample[there]
        if not values.size:
            values = self.array[self.known].astype(np.float64)
        low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
        return Measured(self.known, low, high, tuple(dict.fromkeys(self.reasons)))


def _hounsfield(values: np.ndarray) -> bool:
    """Whether values look like Hounsfield units: there is air, and there is tissue."""
    counts = [np.count_nonzero((values >= low) & (values <= high)) for low, high in (AIR, TISSUE)]
    return bool(min(counts) > 0.02 * values.size)


def _at_corners(where: np.ndarray) -> bool:
    """Whether a mask ``(I, J, K)`` holds at least half of the corners."""
    return int(np.count_nonzero(where[np.ix_(*[(0, -1)] * 3)])) >= 4


def _touches_border(where: np.ndarray) -> bool:
    """Whether any voxel of a mask of any number of axes lies at the border."""
    return any(bool(where.take(end, axis).any()) for axis in range(where.ndim) for end in (0, -1))
