"""Registration by the images themselves: the template to the training scans, and a last refinement."""

import numpy as np

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.affine import align
from RegCore.registration.deformable import Settings, deform
from RegCore.registration.pair import PairSide
from RegCore.slicreg.preparation import PreparedScan
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

PROPAGATION = Settings(smoothness=0.6)
"""Softer than between two scans of one patient: the template meets other people."""
REFINEMENT = Settings(smoothness=0.6, levels=1, symmetric=False)
"""One grid, since the supervoxels have brought everything near already."""


def _side(prepared: PreparedScan) -> PairSide:
    """The image, and where it is known: border voxels repeated beyond the scan must not be matched."""
    mask = Volume(prepared.known.astype(np.uint8), prepared.image.geometry, "labels")
    return PairSide(prepared.image, mask=mask)


def template_to_scan(
    scan: PreparedScan,
    template: PreparedScan,
    *,
    settings: Settings = PROPAGATION,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field on a scan's grid that pulls the template onto it, affine then deformable; no labels are used.

    It takes the place of deeds in the published method: MIND-SSC features, block matching and Adam
    (`RegCore.registration`).

    Args:
        scan: prepared, the fixed side.
        template: prepared in the same way, the moving side.
        settings: of the deformable stage.
        device: torch device.
        progress: told of stage, iteration and loss.

    Returns:
        x_template = T(x_scan), RAS mm, on the grid of the prepared scan.
    """
    fixed, moving = _side(scan), _side(template)
    linear = align(fixed, moving, device=device, progress=part_of(progress, 0.0, 0.4))
    found = deform(
        fixed, moving, linear, settings=settings, device=device, progress=part_of(progress, 0.4, 1.0)
    )
    return found.resampled(scan.image.geometry)


def refine_field(
    fixed: PreparedScan,
    moving: PreparedScan,
    field: DisplacementField,
    *,
    settings: Settings = REFINEMENT,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """A field made better by what the images show: Adam on MIND-SSC features from where the field is.

    Args:
        fixed, moving: prepared scans.
        field: x_moving = T(x_fixed), RAS mm.
        settings: of the deformable stage.
        device: torch device.
        progress: told of iteration and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the grid of the prepared fixed scan; the given field where nothing
        better was found.
    """
    found = deform(
        _side(fixed),
        _side(moving),
        field.affine_part(),
        settings=settings,
        initial=field,
        device=device,
        progress=progress,
    )
    return found.resampled(fixed.image.geometry)
