"""Registration of the frames of a series: to one of them, to their mean, or each to its neighbour."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.evaluation.metrics import ncc
from RegCore.progress import Progress, part_of, silent
from RegCore.registration.motion import motion_of
from RegCore.resampler import warp
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, check_name
from RegCore.space.series import Series
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume, check_image
from RegCore.studies.jobs import Job, Pool
from RegCore.studies.many import How, doubts_of_each, pair_job, registered, values_of
from RegCore.studies.steps import KeptStep, Steps, kept

TARGETS = ("frame", "mean", "neighbour")
"""What each frame is registered to: one frame, the mean of all, or the frame beside it."""
IDENTITY = AffineTransform.identity()


@dataclass(frozen=True)
class SeriesRegistration:
    """What `register_series` gives.

    Attributes:
        transforms: x_frame = T(x_reference) of each frame, RAS mm; of the reference frame the identity, but
            with the target "mean".
        warped: every frame on the grid of the series, float32.
        mean: of the warped frames.
        motion: columns (T,) of `RegCore.registration.motion.motion_of`, and "ncc_before" and "ncc_after",
            the correlation of each frame with the reference (with the mean, if that is the target).
        reference: number of the frame whose place all others take, from 0.
        doubts: of each frame, sentences on why its registration has probably failed, see
            `RegCore.registration.doubts`; it is in the mean all the same.
        seconds: time of the whole.
    """

    transforms: tuple[Transform, ...]
    warped: Series
    mean: Volume
    motion: dict[str, np.ndarray]
    reference: int
    doubts: tuple[tuple[str, ...], ...]
    seconds: float


@dataclass(frozen=True)
class _SeriesTask:
    """What `register_series` was given, checked."""

    series: Series
    reference: int
    mask: Volume | None
    how: How
    pool: Pool | None
    steps: Steps | None

    def step(self, stage: str, number: int) -> KeptStep | None:
        """What keeps the transform of a frame."""
        if self.steps is None:
            return None
        settings = {**self.how.about(), "reference": self.reference}
        return self.steps.step(f"{stage} {number:04}", settings, ("frames", "mask", "method"))

    def job(self, stage: str, number: int, fixed: Volume, initial: Transform) -> Job:
        """The registration of a frame to an image."""
        name, moving, step = f"frame {number}", self.series.frame(number), self.step(stage, number)
        return pair_job(name, fixed, moving, self.how, initial=initial, mask=self.mask, step=step)

    def sides(self) -> list[list[int]]:
        """The frames after the reference and those before it, each from the reference outwards."""
        after, before = range(self.reference + 1, len(self.series)), range(self.reference - 1, -1, -1)
        return [list(side) for side in (after, before) if len(side)]


def register_series(
    series: Series,
    to: str = "frame",
    method: str | Path = "rigid",
    *,
    reference: int | None = None,
    mask: Volume | None = None,
    settings: Mapping[str, Any] | None = None,
    rounds: int = 1,
    exact: bool = True,
    device: str = "auto",
    seed: int = 0,
    pool: Pool | None = None,
    steps: Steps | None = None,
    progress: Progress = silent,
) -> SeriesRegistration:
    """Bring the frames of a series together.

    Args:
        series: the frames, at least two.
        to: ``frame``: each frame is registered to the reference frame, beginning with the transform of its
            neighbour. ``mean``: then all are registered to the mean of what came out, `rounds` times.
            ``neighbour``: each is registered to its neighbour, and the transforms are composed.
        method: a name in `RegCore.METHODS`, or a model file.
        reference: number of the reference frame, from 0; by default the middle one.
        mask: where the reference frame counts (not 0).
        settings, device, seed: as in `RegCore.register`.
        rounds: registrations to the mean.
        exact: make the transforms of linear methods exact on the intensities, as the frames of a series are
            images of one kind.
        pool: workers for what does not depend on each other; None is this process.
        steps: keep the transforms, so that a later call goes on; of the inputs "frames", "mask", "method".
        progress: told of fraction and stage; raising `Cancelled` in it stops.

    Returns:
        A `SeriesRegistration`.

    Raises:
        InputError: one sentence that says what can't be used; it names the frame.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(16, 14, 12), moving_shape=(11, 12, 10))
        >>> frames = np.stack([pair.fixed.array, np.roll(pair.fixed.array, 1, axis=0)], -1)
        >>> series = RegCore.Series(frames, pair.fixed.geometry)
        >>> result = RegCore.register_series(series, reference=0, device="cpu")
        >>> result.motion["moved_mm"].round(-1).tolist()  # one voxel is 17.9 mm
        [0.0, 20.0]
        >>> result.warped.array.shape
        (16, 14, 12, 2)
    """
    began = time.perf_counter()
    check_name(to, TARGETS, "the target of a series")
    how = How(method, settings or {}, device, seed, exact)
    task = _SeriesTask(series, _checked_reference(series, reference), mask, how, pool, steps)
    if rounds < 1:
        raise InputError(f"the number of rounds is {rounds}, expected at least 1")
    for number in range(len(series)):
        check_image(series.frame(number), f"frame {number}")
    share = 0.95 if to != "mean" else 0.95 / (1 + rounds)
    first = part_of(progress, 0.0, share)
    transforms = _chained(task, first) if to == "neighbour" else _followed(task, first)
    target = series.frame(task.reference)
    for number in range(rounds if to == "mean" else 0):
        target = _mean(_warped(series, transforms, silent))
        stage = f"mean {number + 1} frame"
        jobs = [task.job(stage, t, target, transforms[t]) for t in range(len(series))]
        transforms = values_of(jobs, pool, part_of(progress, share * (number + 1), share * (number + 2)))
    warped = _warped(series, transforms, part_of(progress, 0.95, 1.0))
    motion = motion_of(transforms, series.geometry) | _likeness(series, warped, target)
    doubts = doubts_of_each(target, (series.frame(t) for t in range(len(series))), transforms)
    seconds = time.perf_counter() - began
    mean, reference = _mean(warped), task.reference
    return SeriesRegistration(tuple(transforms), warped, mean, motion, reference, doubts, seconds)


def _checked_reference(series: Series, reference: int | None) -> int:
    count = len(series)
    if count < 2:
        raise InputError("a series of at least two frames was expected, but it has one")
    if reference is None:
        return count // 2
    if not 0 <= reference < count:
        raise InputError(
            f"the reference is frame {reference}, but the frames have the numbers 0 to {count - 1}"
        )
    return int(reference)


def _followed(task: _SeriesTask, progress: Progress) -> list[Transform]:
    """Each frame to the reference frame, from there outwards; both sides may be done at the same time."""
    jobs, fixed = [], task.series.frame(task.reference)
    for side in task.sides():
        frames = [(number, task.series.frame(number), task.step("frame", number)) for number in side]
        arguments = {"fixed": fixed, "frames": frames, "how": task.how, "mask": task.mask}
        function = Lazy("RegCore.studies.series", "follow_job")
        jobs.append(Job(f"frames {side[0]} to {side[-1]}", function, arguments))
    found: dict[int, Transform] = {task.reference: IDENTITY}
    for side, transforms in zip(task.sides(), values_of(jobs, task.pool, progress), strict=True):
        found |= dict(zip(side, transforms, strict=True))
    return [found[number] for number in range(len(task.series))]


def follow_job(arguments: dict[str, Any], progress: Progress) -> list[Transform]:
    """Register frames to an image one after the other, each beginning where the one before it ended.

    Args:
        arguments: "fixed", "how", "mask", and "frames": (number, image, step that keeps it or None) of each.
        progress: told of fraction and stage.

    Returns:
        x_frame = T(x_fixed) of each, RAS mm.

    Raises:
        InputError: a frame can't be registered.
    """
    frames: Sequence[tuple[int, Volume, KeptStep | None]] = arguments["frames"]
    fixed, how, mask = (arguments[name] for name in ("fixed", "how", "mask"))
    found: list[Transform] = [IDENTITY]
    for done, (number, moving, step) in enumerate(frames):
        part = part_of(progress, done / len(frames), (done + 1) / len(frames))

        def follow(number: int = number, moving: Volume = moving, part: Progress = part) -> Transform:
            start = _better_start(fixed, moving, found[-1])
            return registered(f"frame {number}", fixed, moving, how, initial=start, mask=mask, progress=part)

        found.append(kept(step, follow))
    return found[1:]


def _better_start(fixed: Volume, moving: Volume, start: Transform) -> Transform:
    """The transform or the identity, whichever makes the images more alike: a bad frame spoils no other."""
    if start is IDENTITY:
        return start
    likeness = [ncc(fixed, warp(moving, transform, fixed.geometry)) for transform in (start, IDENTITY)]
    return start if likeness[0] >= likeness[1] else IDENTITY


def _chained(task: _SeriesTask, progress: Progress) -> list[Transform]:
    """Each frame to its neighbour, and the transforms composed from the reference outwards."""
    neighbour = {number: number + (1 if number < task.reference else -1) for number in sum(task.sides(), [])}
    frames = {number: task.series.frame(other) for number, other in neighbour.items()}
    jobs = [task.job("neighbour", number, fixed, IDENTITY) for number, fixed in frames.items()]
    found: dict[int, Transform] = {task.reference: IDENTITY}
    for number, step in zip(neighbour, values_of(jobs, task.pool, progress), strict=True):
        found[number] = step.compose(found[neighbour[number]])
    return [found[number] for number in range(len(task.series))]


def _warped(series: Series, transforms: Sequence[Transform], progress: Progress) -> Series:
    """All frames through their transforms."""
    out = np.empty(series.array.shape, np.float32, order="F")
    for number, transform in enumerate(transforms):
        out[..., number] = warp(series.frame(number), transform, series.geometry).array
        progress((number + 1) / len(series), "warp", {})
    return replace(series, array=out)


def _mean(series: Series) -> Volume:
    total = np.zeros(series.geometry.shape, np.float64)
    for number in range(len(series)):
        total += series.array[..., number]
    return Volume((total / len(series)).astype(np.float32), series.geometry)


def _likeness(series: Series, warped: Series, target: Volume) -> dict[str, np.ndarray]:
    pairs = (("ncc_before", series), ("ncc_after", warped))
    return {name: np.array([ncc(target, part.frame(t)) for t in range(len(series))]) for name, part in pairs}
