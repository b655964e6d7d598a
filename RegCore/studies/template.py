"""An unbiased mean of many scans: shapes and intensities averaged, with an atlas of their structures."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.motion import sampled_points
from RegCore.resampler import gaussian_smooth, inverted, warp
from RegCore.resampler.pyramid import as_tensor, robust_range
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, check_image
from RegCore.studies.jobs import Pool
from RegCore.studies.labels import common_numbering, shares_of_labels, vote
from RegCore.studies.many import How, pair_job, values_of
from RegCore.studies.means import centred_fields, centring, covering_grid

SIGMA = 1.0  # voxels of the Gaussian that is taken off where a template is sharpened
LINEAR_ROUNDS = 2  # the second one registers to the mean of the first
COVERED = 1e-3  # share of a scan from which on it counts at a voxel
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
    seconds: float


@dataclass(frozen=True)
class _Group:
    """The scans and how they are registered."""

    scans: Sequence[Volume]  # intensities in one range
    names: Sequence[str]
    how: How
    pool: Pool | None
    sharpen: float

    def registered(
        self, target: Volume, starts: Sequence[Transform | None], how: How, progress: Progress
    ) -> list[Transform]:
        """The transform of each scan to an image."""
        triples = zip(self.names, self.scans, starts, strict=True)
        jobs = [pair_job(name, target, scan, how, initial=start) for name, scan, start in triples]
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
    group = _Group(_in_one_range(scans), names, How(method, settings or {}, device, seed), pool, sharpen)
    linear, chosen = _aligned(group, grid, part_of(progress, 0.0, 0.2))
    state = _Evolving(group, chosen, linear)
    rounds = 0 if method in ("rigid", "affine") else rounds
    for number in range(rounds):
        share = 0.2 + 0.7 * number / rounds, 0.2 + 0.7 * (number + 1) / rounds
        if state.advance(part_of(progress, *share)) < tolerance:
            break
    found = _finished(state, scans, maps, part_of(progress, 0.9, 1.0))
    settled = rounds == 0 or state.figures[-1]["changed_voxels"] < tolerance
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


def _in_one_range(scans: Sequence[Volume]) -> list[Volume]:
    """The scans with their robust ranges brought linearly to the median of all, float32."""
    ranges = [robust_range(scan.array) for scan in scans]
    low, high = np.median(ranges, axis=0)
    out = []
    for scan, (own_low, own_high) in zip(scans, ranges, strict=True):
        factor = (high - low) / (own_high - own_low)
        array = (scan.array.astype(np.float32) - np.float32(own_low)) * np.float32(factor) + np.float32(low)
        out.append(replace(scan, array=array))
    return out


def _aligned(
    group: _Group, grid: Geometry | None, progress: Progress
) -> tuple[list[AffineTransform], Geometry]:
    """Affine transforms whose mean is the identity, and the grid of the template."""
    first = group.scans[0]
    target: Volume = first
    starts: Sequence[Transform | None] = [None] * len(group.scans)
    linear = "rigid" if group.how.method == "rigid" else "affine"
    how = replace(group.how, method=linear, settings={})
    found: list[AffineTransform] = []
    chosen = first.geometry if grid is None else grid
    for number in range(LINEAR_ROUNDS):
        part = part_of(progress, number / LINEAR_ROUNDS, (number + 1) / LINEAR_ROUNDS)
        matrices = [t for t in group.registered(target, starts, how, part) if isinstance(t, AffineTransform)]
        back = centring(matrices)
        found = [AffineTransform(t.matrix @ back.matrix) for t in matrices]
        if grid is None:
            chosen = covering_grid(first.geometry if number == 0 else chosen, back.inverse())
        target, starts = _average(group, found, chosen).mean, found
    return found, chosen


@dataclass(frozen=True)
class _Average:
    """The mean of the scans through their transforms, and how far they are from it."""

    mean: Volume
    spread: np.ndarray = field(repr=False)  # (I, J, K), standard deviation over the scans


def _average(group: _Group, transforms: Sequence[Transform], grid: Geometry) -> _Average:
    """Each voxel is the mean of the scans that reach it; where none does, the smallest mean."""
    total, squares, count = (np.zeros(grid.shape) for _ in range(3))
    for scan, transform in zip(group.scans, transforms, strict=True):
        values = warp(scan, transform, grid, border="edge").array.astype(np.float64)
        inside = Volume(np.ones(scan.geometry.shape, np.float32), scan.geometry)
        weight = warp(inside, transform, grid, fill=0.0).array.astype(np.float64)
        total += weight * values
        squares += weight * values**2
        count += weight
    seen = count > COVERED
    mean = np.divide(total, count, out=np.zeros(grid.shape), where=seen)
    mean[~seen] = mean[seen].min() if seen.any() else 0.0
    variance = np.divide(squares, count, out=np.zeros(grid.shape), where=seen) - np.where(seen, mean, 0) ** 2
    return _Average(Volume(mean.astype(np.float32), grid), np.sqrt(np.maximum(variance, 0)))


def sharpened(image: Volume, share: float) -> Volume:
    """An image to which a share of its detail is added: what a Gaussian of one voxel takes off.

    Args:
        image: ``(I, J, K)``.
        share: 0 leaves it as it is.
    """
    if share == 0:
        return image
    values = as_tensor(image)
    with torch.no_grad():
        out = values + share * (values - gaussian_smooth(values, SIGMA))
    return replace(image, array=out[0, 0].numpy())


class _Evolving:
    """A template from round to round: the first and the last of its means, and the transforms to it."""

    def __init__(self, group: _Group, grid: Geometry, linear: Sequence[AffineTransform]):
        self.group, self.grid, self.linear = group, grid, linear
        self.transforms: list[Transform] = list(linear)
        self.first = self.last = _average(group, linear, grid)
        self.figures = [_figures(self.first, 0.0, 0.0)]

    def advance(self, progress: Progress) -> float:
        """One round; the voxels by which it changed the transforms."""
        target = sharpened(self.last.mean, self.group.sharpen)
        found = self.group.registered(target, self.transforms, self.group.how, progress)
        before = self.transforms
        self.transforms, drift = centred_fields(_on(found, self.grid), self.linear)
        self.last = _average(self.group, self.transforms, self.grid)
        changed = _changed(before, self.transforms, self.grid)
        self.figures.append(_figures(self.last, changed, drift))
        return changed


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
        seconds=0.0,
    )


def _figures(average: _Average, changed: float, drift: float) -> dict[str, float]:
    """The figures of a round, see `GroupTemplate`."""
    low, high = robust_range(average.mean.array)
    span = high - low if high > low else 1.0
    array = average.mean.array.astype(np.float64)
    steps = np.stack([np.gradient(array, axis=axis) for axis in range(3)], -1)
    return {
        "changed_voxels": changed,
        "drift_mm": drift,
        "spread": float(average.spread.mean()) / span,
        "sharpness": float(np.sqrt((steps**2).sum(-1).mean())) / span,
    }


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
