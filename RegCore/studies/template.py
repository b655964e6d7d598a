"""An unbiased mean of many scans: shapes and intensities averaged, with an atlas of their structures."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.motion import sampled_points
from RegCore.resampler import inverted, warp
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, check_image
from RegCore.studies.averages import average, figures_of_mean, in_one_range, sharpened
from RegCore.studies.jobs import Pool
from RegCore.studies.labels import common_numbering, shares_of_labels, vote
from RegCore.studies.many import How, doubts_of_each, pair_job, values_of
from RegCore.studies.means import centred_fields, centring, covering_grid
from RegCore.studies.steps import KeptStep, Steps

LINEAR_ROUNDS = 2  # the second one registers to the mean of the first
IDENTITY = AffineTransform.identity()


@dataclass(frozen=True)
class GroupTemplate:
    """What `build_template` gives.

    Attributes:
        image: the template: the mean of the scans brought together, sharpened.
        mean: the same without the sharpening.
        linear_mean: the mean after the affine alignment alone.
        transforms: x_scan = T(x_template) of each scan, RAS mm.
        linear: the same after the affine alignment alone.
        inverses: x_template = T(x_scan) of each, fields on the grid of the scan.
        labels: the structure that most scans have at each voxel, if segmentations were given.
        structures: labels that any segmentation has, in ascending order.
        probabilities: (I, J, K, C), the share of the scans that have each of `structures`.
        scan_labels: the segmentations in the numbering of `labels`, as they came.
        rounds: figures after the affine alignment (the first) and after each round: "changed_voxels", the
            mean length by which points of the template changed their places in the scans; "drift_mm", the
            mean length of the mean displacement that was taken out; "spread", the mean over the voxels of
            the standard deviation over the scans, and "sharpness", the root mean square of the gradient of
            the mean per voxel, both in shares of the range of the intensities.
        settled: whether the last round changed less than the tolerance.
        doubts: of each scan, sentences on why its registration to the mean has probably failed, see
            `RegCore.registration.doubts`; it is in the mean all the same.
        seconds: time of the whole.
    """

    image: Volume
    mean: Volume
    linear_mean: Volume
    transforms: tuple[Transform, ...]
    linear: tuple[AffineTransform, ...]
    inverses: tuple[Transform, ...]
    labels: Volume | None
    structures: tuple[int, ...]
    probabilities: Volume | None
    scan_labels: tuple[Volume, ...]
    rounds: tuple[dict[str, float], ...]
    settled: bool
    doubts: tuple[tuple[str, ...], ...]
    seconds: float


@dataclass(frozen=True)
class _Group:
    """The scans and how they are registered."""

    scans: Sequence[Volume]  # intensities in one range
    names: Sequence[str]
    how: How
    pool: Pool | None
    sharpen: float
    grid: Geometry | None
    steps: Steps | None

    def step(self, name: str, how: How) -> KeptStep | None:
        """What keeps the values of a step, which depend on every scan."""
        if self.steps is None:
            return None
        grid = None if self.grid is None else [list(self.grid.shape), self.grid.affine.tolist()]
        settings = {**how.about(), "sharpen": self.sharpen, "grid": grid, "scans": list(self.names)}
        return self.steps.step(name, settings, (*(f"scan {name}" for name in self.names), "method"))

    def registered(
        self, stage: str, target: Volume, starts: Sequence[Transform | None], how: How, progress: Progress
    ) -> list[Transform]:
        """The transform of each scan to an image."""
        jobs = [
            pair_job(name, target, scan, how, initial=start, step=self.step(f"{stage} {name}", how))
            for name, scan, start in zip(self.names, self.scans, starts, strict=True)
        ]
        return values_of(jobs, self.pool, progress)


def build_template(
    scans: Sequence[Volume],
    segmentations: Sequence[Volume] | None = None,
    method: str | Path = "auto",
    *,
    names: Sequence[str] | None = None,
    grid: Geometry | None = None,
    rounds: int = 6,
    tolerance: float = 0.1,
    sharpen: float = 0.5,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    pool: Pool | None = None,
    steps: Steps | None = None,
    progress: Progress = silent,
) -> GroupTemplate:
    """The mean shape and the mean appearance of scans (Avants et al., NeuroImage 49, 2010).

    All scans are aligned affinely, first to one of them, then to their mean, and the mean of these transforms
    is taken out. Then, in rounds, all are registered to the evolving mean, the mean of the displacements is
    taken out, and the scans are averaged anew, until the transforms stand still.

    Args:
        scans: at least two images of one kind, on any grids. Their intensities are brought linearly to one
            range.
        segmentations: of each scan; they make the atlas and take no part in the registration. Structures
            with names are paired by these.
        method: of the rounds, a name in `RegCore.METHODS` or a model file; of linear ones the alignment is
            all that is done.
        names: what errors and tables call the scans, by default "scan 1" ….
        grid: of the template; by default it has the axes and the spacing of the first scan, and covers it.
        rounds: at most so many; with 0 the affine alignment is all that is done.
        tolerance: voxels; a round that changes less is the last one.
        sharpen: share of the detail that is added to the mean, which averaging blurs; 0 for none.
        settings, device, seed: of the registrations in the rounds, as in `RegCore.register`.
        pool: workers for the registrations of a round; None is this process.
        steps: keep transforms and rounds, so that a later call goes on, also for more rounds; of the inputs
            "scan NAME" and "method".
        progress: told of fraction and stage; raising `Cancelled` in it stops.

    Returns:
        A `GroupTemplate`.

    Raises:
        InputError: one sentence that says what can't be used; it names the scan.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(16, 14, 12), moving_shape=(15, 14, 13))
        >>> made = RegCore.build_template([pair.fixed, pair.moving], rounds=0, device="cpu")
        >>> len(made.transforms), made.rounds[0]["spread"] < 0.5
        (2, True)
    """
    began = time.perf_counter()
    names = list(names or (f"scan {n + 1}" for n in range(len(scans))))
    _check(scans, segmentations, names, rounds, tolerance, sharpen)
    called = [f"segmentation of {name}" for name in names]
    maps = common_numbering(segmentations, called) if segmentations else []
    how = How(method, settings or {}, device, seed)
    group = _Group(in_one_range(scans), names, how, pool, sharpen, grid, steps)
    linear, chosen = _aligned(group, part_of(progress, 0.0, 0.2))
    state = _Evolving(group, chosen, linear)
    rounds = 0 if method in ("rigid", "affine") else rounds
    state.go_on(rounds, tolerance)
    while state.done < rounds and not state.settled(tolerance):
        share = 0.2 + 0.7 * state.done / rounds, 0.2 + 0.7 * (state.done + 1) / rounds
        state.advance(part_of(progress, *share))
    found = _finished(state, scans, maps, part_of(progress, 0.9, 1.0))
    settled = rounds == 0 or state.settled(tolerance)
    return replace(found, settled=settled, seconds=time.perf_counter() - began)


def _check(
    scans: Sequence[Volume],
    segmentations: Sequence[Volume] | None,
    names: Sequence[str],
    rounds: int,
    tolerance: float,
    sharpen: float,
) -> None:
    if len(scans) < 2:
        raise InputError(f"a template is the mean of at least two scans, but there are {len(scans)}")
    for what, given in (("segmentations", segmentations), ("names", names)):
        if given is not None and len(given) != len(scans):
            raise InputError(f"each of {len(scans)} scans needs one, but there are {len(given)} {what}")
    if len(set(names)) < len(names):
        raise InputError("the names of the scans must differ, but some are the same")
    for scan, name in zip(scans, names, strict=True):
        check_image(scan, name)
    for what, number in (("rounds", rounds), ("tolerance", tolerance), ("sharpen", sharpen)):
        if not 0 <= number < float("inf"):
            raise InputError(f"{what} is {number}, expected a number of at least 0")


def _aligned(group: _Group, progress: Progress) -> tuple[list[AffineTransform], Geometry]:
    """Affine transforms whose mean is the identity, and the grid of the template."""
    first = group.scans[0]
    target: Volume = first
    starts: Sequence[Transform | None] = [None] * len(group.scans)
    linear = "rigid" if group.how.method == "rigid" else "affine"
    how = replace(group.how, method=linear, settings={})
    found: list[AffineTransform] = []
    chosen = first.geometry if group.grid is None else group.grid
    for number in range(LINEAR_ROUNDS):
        part = part_of(progress, number / LINEAR_ROUNDS, (number + 1) / LINEAR_ROUNDS)
        each = group.registered(f"linear {number + 1}", target, starts, how, part)
        matrices = [transform for transform in each if isinstance(transform, AffineTransform)]
        back = centring(matrices)
        found = [AffineTransform(t.matrix @ back.matrix) for t in matrices]
        if group.grid is None:
            chosen = covering_grid(first.geometry if number == 0 else chosen, back.inverse())
        target, starts = average(group.scans, found, chosen).mean, found
    return found, chosen


class _Evolving:
    """A template from round to round: the first and the last of its means, and the transforms to it."""

    def __init__(self, group: _Group, grid: Geometry, linear: Sequence[AffineTransform]):
        self.group, self.grid, self.linear = group, grid, linear
        self.transforms: list[Transform] = list(linear)
        self.first = self.last = average(group.scans, linear, grid)
        self.figures = [figures_of_mean(self.first, 0.0, 0.0)]

    @property
    def done(self) -> int:
        """Rounds that are done."""
        return len(self.figures) - 1

    def settled(self, tolerance: float) -> bool:
        """Whether the last round changed less than that."""
        return self.done > 0 and self.figures[-1]["changed_voxels"] < tolerance

    def go_on(self, rounds: int, tolerance: float) -> None:
        """Take up the last of these rounds that an earlier run kept, if it would have come to it."""
        for number in range(rounds, 0, -1):
            step = self._step(number)
            values = None if step is None else step.read()
            if values is None:
                continue
            if all(row["changed_voxels"] >= tolerance for row in values["figures"][1:-1]):
                self._take(values)
                self.last = average(self.group.scans, self.transforms, self.grid)
                return

    def advance(self, progress: Progress) -> None:
        """One round."""
        target, number = sharpened(self.last.mean, self.group.sharpen), self.done + 1
        stage, how = f"round {number} scan", self.group.how
        found = self.group.registered(stage, target, self.transforms, how, progress)
        before = self.transforms
        self.transforms, drift = centred_fields(_on(found, self.grid), self.linear)
        self.last = average(self.group.scans, self.transforms, self.grid)
        changed = _changed(before, self.transforms, self.grid)
        self.figures.append(figures_of_mean(self.last, changed, drift))
        self._keep(number)

    def _step(self, number: int) -> KeptStep | None:
        return self.group.step(f"round {number}", self.group.how)

    def _keep(self, number: int) -> None:
        """Keep this round in place of its registrations and of the rounds before."""
        step, steps = self._step(number), self.group.steps
        if step is None or steps is None:
            return
        transforms = {f"transform {n}": transform for n, transform in enumerate(self.transforms)}
        self._take(step.write({"figures": self.figures, **transforms}))
        linear = [f"linear {n + 1} {name}" for n in range(LINEAR_ROUNDS) for name in self.group.names]
        steps.keep_only([step.folder.name, *linear])

    def _take(self, values: dict[str, Any]) -> None:
        self.figures = values["figures"]
        self.transforms = [values[f"transform {n}"] for n in range(len(self.group.scans))]


def _finished(
    state: _Evolving, scans: Sequence[Volume], maps: Sequence[Volume], progress: Progress
) -> GroupTemplate:
    """The template as it stands, with the inverses and the atlas."""
    labels, structures, probabilities = _atlas(maps, state.transforms, state.grid)
    return GroupTemplate(
        image=sharpened(state.last.mean, state.group.sharpen),
        mean=state.last.mean,
        linear_mean=state.first.mean,
        transforms=tuple(state.transforms),
        linear=tuple(state.linear),
        inverses=tuple(_inverses(state.transforms, scans, progress)),
        labels=labels,
        structures=structures,
        probabilities=probabilities,
        scan_labels=tuple(maps),
        rounds=tuple(state.figures),
        settled=False,
        doubts=doubts_of_each(state.last.mean, scans, state.transforms),
        seconds=0.0,
    )


def _on(transforms: Sequence[Transform], grid: Geometry) -> list[DisplacementField]:
    """All transforms as fields on the grid of the template."""
    return [
        t.resampled(grid) if isinstance(t, DisplacementField) else DisplacementField.from_affine(t, grid)
        for t in transforms
    ]


def _changed(before: Sequence[Transform], after: Sequence[Transform], grid: Geometry) -> float:
    """The mean distance between where two lists of transforms take the template, in its voxels."""
    points = sampled_points(grid)
    apart = [
        np.linalg.norm(a.map(points) - b.map(points), axis=1).mean()
        for a, b in zip(before, after, strict=True)
    ]
    return float(np.mean(apart) / grid.spacing.mean())


def _inverses(
    transforms: Sequence[Transform], scans: Sequence[Volume], progress: Progress
) -> list[Transform]:
    """Each scan to the template, fields on its grid."""
    out: list[Transform] = []
    for number, (transform, scan) in enumerate(zip(transforms, scans, strict=True)):
        part: Callable = part_of(progress, number / len(scans), (number + 1) / len(scans))
        if isinstance(transform, AffineTransform):
            out.append(transform.inverse())
        else:
            out.append(inverted(transform, scan.geometry, part))
    return out


def _atlas(
    maps: Sequence[Volume], transforms: Sequence[Transform], grid: Geometry
) -> tuple[Volume | None, tuple[int, ...], Volume | None]:
    """The vote of segmentations on a grid, their labels, and the share of them that has each label."""
    if not maps:
        return None, (), None
    warped = [warp(labels, t, grid).array for labels, t in zip(maps, transforms, strict=True)]
    values = sorted({value for volume in maps for value in volume.labels()})
    labels = Volume(vote(warped)[0], grid, "labels", maps[0].segments)
    return labels, tuple(values), Volume(shares_of_labels(warped, values), grid)
