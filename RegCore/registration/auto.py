"""The default registration: self-similarity finds the way, local correlation ends it where that is sound."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.checks import check_not_negative
from RegCore.registration.compositional import CorrelationSettings, raise_correlation
from RegCore.registration.deformable import (
    DeformableLevel,
    DeformableTask,
    DirectionResult,
    Settings,
    deform_task,
    gathered,
)
from RegCore.registration.directions import averaged, start_ddf
from RegCore.registration.folds import mended_folds
from RegCore.registration.pair import LABEL_WEIGHT
from RegCore.resampler import (
    field_of,
    inverted,
    reference_grid,
    resample_ddf,
    sample,
    voxel_jacobian,
)
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField

MIND_CHANNELS = 12
RISE = 1.25  # factor by which the second stage may raise the MIND-SSC distance that the first one left
ROUGHEST = 0.5  # standard deviation of the log Jacobian beyond which a field is not believed
LOOSER = 0.75  # factor of the Gaussian that smooths the field where both images are of one modality
FIXED_PULL = 0.35  # weight of the fixed image's gradient in the steps of the second stage there

COARSE = Settings(symmetric=False, iterations=20, dense_voxels=100_000)
QUALITIES = {
    "fast": (
        replace(COARSE, iterations=10),
        CorrelationSettings(working_voxels=1_500_000, iterations=25, work=20_000_000, wide_iterations=30),
    ),
    "balanced": (COARSE, CorrelationSettings()),
    "best": (Settings(symmetric=True), CorrelationSettings(iterations=60, work=100_000_000, symmetric=True)),
}
"""Quality -> settings of the two stages. ``best`` registers in both directions in both of them, ``balanced``
only in the first, and only where the images differ in contrast."""


@dataclass(frozen=True)
class AutoSettings:
    """What can be set of the method ``auto``."""

    quality: str = "balanced"
    """``fast``, ``balanced`` or ``best``: from half the time to some four times as much."""
    smoothness: float = Settings.smoothness
    """Weight of the squared gradient of the displacement in the first stage; the variance of the Gaussian of
    the second grows with it."""
    label_weight: float = LABEL_WEIGHT
    """Weight of the segmentations, if both are given."""
    landmark_weight: float = 0.0
    """Weight of the landmarks, mm^-2; at 0 they only measure."""

    def __post_init__(self) -> None:
        if self.quality not in QUALITIES:
            raise InputError(f"setting quality is {self.quality!r}, expected one of {', '.join(QUALITIES)}")
        for name in ("smoothness", "label_weight", "landmark_weight"):
            check_not_negative(name, getattr(self, name))

    def stages(self) -> tuple[Settings, CorrelationSettings]:
        """The settings of the two stages."""
        coarse, fine = QUALITIES[self.quality]
        coarse = replace(
            coarse,
            smoothness=self.smoothness,
            label_weight=self.label_weight,
            landmark_weight=self.landmark_weight,
        )
        wider = (self.smoothness / Settings.smoothness) ** 0.5
        return coarse, replace(fine, field_smoothing=fine.field_smoothing * wider)


def feature_distances(level: DeformableLevel, ddf: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of each feature ``(C,)`` under a DDF of a level, where both images are known."""
    at = reference_grid(level.fixed.shape[2:], device=ddf.device) + level.margin / level.stride
    values = sample(level.moving, at + gathered(level, ddf))
    known = values[:, -1:] * level.weight
    distance = (level.fixed - values[:, :-1]).square_().mul_(known)
    return distance.sum(dim=(0, 2, 3, 4)) / known.sum().clamp_min(1e-6)


def roughness(ddf: torch.Tensor) -> float:
    """Standard deviation of log det(I + forward differences) of a DDF ``(1, 3, I, J, K)`` without folds."""
    if min(ddf.shape[2:]) < 2:
        return 0.0
    return float(voxel_jacobian(ddf).clamp_min_(1e-3).log_().std())


def _sound(result: DirectionResult, ddf: torch.Tensor) -> bool:
    """Whether what the correlation made of a field may stay, judged by what it did not look at.

    Correlation can be had where two contrasts run along each other by chance. So the MIND-SSC distance must
    not rise above both what the linear stage left and a quarter more than what the first field did.
    Structures must not get further apart, nor landmarks that have a weight.
    """
    level, landmark_weight = result.level, result.objective.settings.landmark_weight
    before, after = feature_distances(level, result.ddf), feature_distances(level, ddf)
    linear = feature_distances(level, torch.zeros_like(ddf))
    mind = [float(d[:MIND_CHANNELS].sum()) for d in (linear, before, after)]
    if mind[2] > max(mind[0], RISE * mind[1]):
        return False
    channels = level.label_channels
    if channels and float(after[-channels:].sum()) > float(before[-channels:].sum()):
        return False
    if landmark_weight == 0:
        return True
    apart = [float(level.landmark_distance(gathered(level, u))) for u in (result.ddf, ddf)]
    return apart[1] <= apart[0]


def _correlated(
    task: DeformableTask, result: DirectionResult, settings: CorrelationSettings, progress: Progress
) -> tuple[torch.Tensor, Geometry]:
    """The second stage: from the field of the first one, in one direction or both."""
    both, matrix, start, grid = settings.symmetric, task.linear.matrix, result.ddf, result.level.grid
    if result.level.label_channels or result.objective.settings.landmark_weight:  # these lead the way
        settings = replace(settings, wide_iterations=0)
    climb = partial(raise_correlation, settings=settings, device=task.device)
    part = part_of(progress, 0.0, 0.45 if both else 1.0)
    forward, fixed = climb(task.fixed, task.moving, matrix, start, grid, progress=part)
    if not both:
        return forward, fixed
    back = task.linear.inverse()
    moving = working_geometry(task.moving.image.geometry, task.settings.working_voxels)
    inverse = inverted(field_of(task.linear, grid, start), moving, part_of(progress, 0.45, 0.5))
    start = start_ddf(inverse, back.matrix, moving, task.device)
    part = part_of(progress, 0.5, 0.95)
    backward, moving = climb(task.moving, task.fixed, back.matrix, start, moving, progress=part)
    part = part_of(progress, 0.95, 1.0)
    return averaged(forward, fixed, backward, moving, task.linear, stride=2, progress=part), fixed


def deform_automatically(
    task: DeformableTask, settings: CorrelationSettings, progress: Progress = silent
) -> DisplacementField:
    """A field from the two stages, the second of which is kept where it is sound.

    First `RegCore.registration.deformable.deform`: self-similarity and diffusion on a coarse grid, which
    bridges large motion and differences of contrast. Then `raise_correlation`: local correlation and composed
    steps up to the resolution of the images.

    Args:
        task: the pair in one direction, with the settings of the first stage.
        settings: of the second.
        progress: told of stage, iteration and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the finest grid that was worked on.
    """
    result = deform_task(task, part_of(progress, 0.0, 0.5))
    if result.alike:
        settings = replace(settings, looser=LOOSER, fixed_pull=FIXED_PULL)
    best, grid = result.ddf, result.level.grid
    found, finer = _correlated(task, result, settings, part_of(progress, 0.5, 1.0))
    mended = mended_folds(found, finer)
    if (
        mended is not None
        and roughness(mended) < ROUGHEST
        and _sound(result, resample_ddf(mended, finer, grid))
    ):
        best, grid = mended, finer
    else:
        mended = mended_folds(best, grid)
        best = best if mended is None else mended
    field = field_of(task.linear, grid, best)
    return DisplacementField(field.geometry, field.mm, task.linear)
