"""Deformable registration by optimisation: Adam on a smooth displacement field, from coarse to fine."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.deformable_level import (
    DeformableLevel,
    DeformableTask,
    Settings,
    gathered,
    make_deformable_level,
    smooth,
    spread,
)
from RegCore.registration.directions import averaged, start_ddf
from RegCore.registration.folds import mended_folds
from RegCore.registration.minimise import Adam, minimise
from RegCore.registration.objective import PairObjective
from RegCore.registration.pair import (
    LabelEncoding,
    PairSide,
    local_agreement,
    make_feature_image,
)
from RegCore.resampler import (
    field_of,
    folding_fraction,
    resample_ddf,
)
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField

SAME_MODALITY = 0.5  # agreement of local contrasts from which on intensities are compared as well
FOLDED = 1e-4  # share of folded voxels from which on the finest grid is done again, stiffer


def descend(
    level: DeformableLevel, start: torch.Tensor, iterations: int, settings: Settings, progress: Progress
) -> torch.Tensor:
    """Adam on the parameters of one level.

    Args:
        level: the pair on a working grid.
        start: ``(1, 3, i, j, k)`` displacements in strides.
        iterations: number of steps.
        settings: rate, smoothness and the weight of the landmarks.
        progress: told after each step.

    Returns:
        The displacements with the lowest objective that was seen, those of the start included.
    """
    objective = PairObjective(level, settings)
    parameters = start.clone().requires_grad_(True)
    adam = Adam(parameters, settings.rate)
    stage = f"deformable: {'x'.join(f'{s:.1f}' for s in level.grid.spacing)} mm"

    def tell(n: int, value: float) -> None:
        progress(n / iterations, stage, {"iteration": n, "loss": value})

    descent = minimise(parameters, lambda: objective(smooth(parameters)), adam, iterations, tell)
    with torch.no_grad():
        best, last = smooth(descent.best), smooth(descent.last)
        seen = [(float(objective(start)), start), (descent.lowest, best), (float(objective(last)), last)]
    return min(seen, key=lambda pair: pair[0])[1]


def _grids(geometry: Geometry, settings: Settings) -> list[Geometry]:
    """Working grids, coarse to fine; grids that would repeat the next one are left out."""
    finest = working_geometry(geometry, settings.working_voxels)
    grids = [finest]
    for n in range(1, settings.levels):
        grid = working_geometry(geometry, max(finest.voxels // 8**n, 512))
        if grid.voxels < 0.7 * grids[-1].voxels:
            grids.append(grid)
    return grids[::-1]


@dataclass(frozen=True)
class DirectionResult:
    """What came of one direction."""

    ddf: torch.Tensor  # (1, 3, I, J, K) in voxels of the finest grid
    level: DeformableLevel
    objective: PairObjective
    start_cost: float  # of the start at the finest level
    alike: bool  # whether both images are of one modality

    def cost(self, ddf: torch.Tensor) -> float:
        """The objective of a DDF on the finest grid."""
        with torch.no_grad():
            return float(self.objective(gathered(self.level, ddf)))


def _one_direction(task: DeformableTask, progress: Progress) -> DirectionResult:
    """From coarse to fine in one direction."""
    settings = task.settings
    grids = _grids(task.fixed.image.geometry, settings)
    alike = same_modality(task)
    contrast = settings.contrast if alike else 0.0
    start = start_ddf(task.initial, task.linear.matrix, grids[-1], task.device)
    ddf, grid = start, grids[-1]
    work = np.cumsum([0.0, *(g.voxels + 40_000 for g in grids)])
    work /= 1.3 * work[-1]  # the rest is for a second attempt, should the field fold
    drawn = task.drawn_together()
    for n, new in enumerate(grids):
        finest = n == len(grids) - 1
        guided = task if finest else drawn
        tick = partial(progress, work[n], "deformable: preparing", {})
        level = make_deformable_level(guided, new, contrast, finest=finest, tick=tick)
        iterations = settings.iterations if finest else -(-2 * settings.iterations // 3)
        begin = gathered(level, resample_ddf(ddf, grid, new))
        u = descend(level, begin, iterations, guided.settings, part_of(progress, work[n], work[n + 1]))
        ddf, grid = spread(level, u), new
    for n in range(3):
        if folding_fraction(ddf) < FOLDED:
            break
        settings = replace(settings, smoothness=2 * settings.smoothness)
        again = part_of(progress, work[-1] + 0.07 * n, work[-1] + 0.07 * (n + 1))
        u = descend(level, smooth(u), -(-settings.iterations // 3), settings, again)
        ddf = spread(level, u)
    result = DirectionResult(ddf, level, PairObjective(level, settings), 0.0, alike)
    start_cost = result.cost(start)
    return replace(result, start_cost=start_cost, ddf=ddf if result.cost(ddf) < start_cost else start)


def deform_task(task: DeformableTask, progress: Progress = silent) -> DirectionResult:
    """`deform`, before its result becomes a field in mm."""
    result = _in_directions(task, progress)
    if folding_fraction(result.ddf) == 0:
        return result
    mended = mended_folds(result.ddf, result.level.grid)
    if mended is None or result.cost(mended) >= result.start_cost:
        return result
    return replace(result, ddf=mended)


def _in_directions(task: DeformableTask, progress: Progress) -> DirectionResult:
    """From fixed to moving, and back where that is asked for."""
    symmetric = task.settings.symmetric
    share = 0.48 if symmetric else 1.0
    forward = _one_direction(task, part_of(progress, 0.0, share))
    if not symmetric:
        return forward
    backward = _one_direction(task.reversed(), part_of(progress, share, 2 * share))
    grids = forward.level.grid, backward.level.grid
    part = part_of(progress, 2 * share, 1.0)
    stride = forward.level.stride
    mean = averaged(forward.ddf, grids[0], backward.ddf, grids[1], task.linear, stride=stride, progress=part)
    worst = max(FOLDED, folding_fraction(forward.ddf))
    if forward.cost(mean) < forward.start_cost and folding_fraction(mean) <= worst:
        return replace(forward, ddf=mean)
    return forward


def deform(
    fixed: PairSide,
    moving: PairSide,
    linear: AffineTransform,
    *,
    settings: Settings | None = None,
    initial: DisplacementField | None = None,
    encoding: LabelEncoding | None = None,
    landmarks: np.ndarray | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """A smooth field that brings the moving volume, seen through a linear transform, onto the fixed one.

    The squared distance of MIND-SSC features is minimised together with the squared gradient of the
    displacement, as in the instance optimisation of Siebert, Hansen and Heinrich (MICCAI workshop 2021), on
    a pyramid of working grids. Where the local contrasts of the images agree after the linear stage, they
    join the features; segmentations join them as well. It is done in both directions, and the mean of the
    one field and the inverse of the other is taken, which is more accurate and smoother than either.

    Args:
        fixed: image, and segmentation and mask if there are any.
        moving: the same of the moving volume, on any grid.
        linear: fixed -> moving, RAS mm.
        settings: see `Settings`.
        initial: a displacement field to start from, of which ``linear`` is the affine part.
        encoding: of the structures that both segmentations hold.
        landmarks: ``(N, 6)`` RAS mm, used if ``settings.landmark_weight`` is positive.
        device: torch device.
        progress: told of stage, iteration and loss.

    Returns:
        x_moving = T(x_fixed) in RAS mm on the finest working grid. It is ``linear`` (or ``initial``) where
        nothing with a lower objective was found.
    """
    settings = settings or Settings()
    task = DeformableTask(fixed, moving, linear, settings, initial, encoding, landmarks, device)
    result = deform_task(task, progress)
    field = field_of(linear, result.level.grid, result.ddf)
    return DisplacementField(field.geometry, field.mm, linear)


def same_modality(task: DeformableTask) -> bool:
    """Whether local contrasts agree well enough, at a coarse resolution, to be compared directly."""
    grid, matrix = working_geometry(task.fixed.image.geometry, 20_000), task.linear.matrix
    fixed = make_feature_image(task.fixed, grid, np.eye(4), None, task.device)
    moving = make_feature_image(task.moving, grid, matrix, None, task.device)
    return local_agreement(fixed, moving, grid, matrix) >= SAME_MODALITY
