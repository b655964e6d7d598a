"""One objective for transforms that were found in different ways, so that the better one can be kept."""

from collections.abc import Sequence

import torch

from RegCore.registration.deformable import (
    DeformableTask,
    PairObjective,
    Settings,
    gathered,
    make_deformable_level,
)
from RegCore.registration.directions import start_ddf
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.transforms import DisplacementField, Transform

COMPARED = 200_000  # voxels of the grid on which transforms are compared


@torch.no_grad()
def common_cost(
    fixed: PairSide,
    moving: PairSide,
    transforms: Sequence[Transform],
    *,
    settings: Settings | None = None,
    encoding: LabelEncoding | None = None,
    device: str = "cpu",
) -> list[float]:
    """The objective of `RegCore.registration.deformable` of each transform, all on one grid: lower is better.

    Features are MIND-SSC alone (and the segmentations), so that no transform chooses them. What is mapped to
    where nothing is known costs the same for all: the most that an average voxel costs any of them without
    its displacement. The penalty counts what a field adds to its own affine part.

    Args:
        fixed, moving: image, and segmentation and mask if there are any.
        transforms: x_moving = T(x_fixed), RAS mm.
        settings: whose smoothness counts.
        encoding: of the structures that both segmentations hold.
        device: torch device.
    """
    settings = settings or Settings()
    grid = working_geometry(fixed.image.geometry, COMPARED)
    objectives, fields = [], []
    bent: DisplacementField | None
    for transform in transforms:
        if isinstance(transform, DisplacementField):
            bent, linear = transform, transform.affine_part()
        else:
            bent, linear = None, transform
        task = DeformableTask(fixed, moving, linear, settings, bent, encoding, device=device)
        level = make_deformable_level(task, grid, 0.0)
        objectives.append(PairObjective(level, settings))
        fields.append(gathered(level, start_ddf(bent, linear.matrix, grid, device)))
    unknown = max(objective.unknown for objective in objectives)
    found = []
    for objective, field in zip(objectives, fields, strict=True):
        objective.unknown = unknown
        found.append(float(objective(field)))
    return found
