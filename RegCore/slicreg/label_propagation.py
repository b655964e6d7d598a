"""What propagates the template's supervoxels to the scans to train with: images, deeds, a trained model."""

from pathlib import Path

import numpy as np

from RegCore.io import read_header
from RegCore.progress import Progress, part_of
from RegCore.slicreg.alignment import refine_field, template_to_scan
from RegCore.slicreg.deeds import read_deeds
from RegCore.slicreg.folder import Propagator, stem
from RegCore.slicreg.preparation import PreparedScan
from RegCore.slicreg.registration import register_prepared
from RegCore.slicreg.template import Method
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField


def image_propagator(device: str = "cpu") -> Propagator:
    """Affine and deformable registration of the images; nothing else is needed."""

    def propagate(
        path: Path, scan: PreparedScan, template: PreparedScan, progress: Progress
    ) -> DisplacementField:
        return template_to_scan(scan, template, device=device, progress=progress)

    return Propagator("images", propagate)


def deeds_propagator(folder, template) -> Propagator:
    """What the program deeds found: ``<scan>_matrix.txt`` and ``<scan>_displacements.dat`` of each scan.

    Args:
        folder: of these files.
        template: the file that deeds had as its moving image; the scan was the fixed one.

    Raises:
        InputError: the folder is missing.
    """
    folder, moving = Path(folder), read_header(template)[1]
    if not folder.is_dir():
        raise InputError(f"{folder}: a folder of what deeds found was expected, but there is none")

    def propagate(
        path: Path, scan: PreparedScan, template: PreparedScan, progress: Progress
    ) -> DisplacementField:
        fixed = read_header(path)[1]
        displacements, matrix = (
            folder / f"{stem(path)}_{end}" for end in ("displacements.dat", "matrix.txt")
        )
        ddf = read_deeds(displacements, matrix, fixed.shape)
        return DisplacementField.from_voxels(np.moveaxis(ddf, 0, -1), fixed, moving)

    return Propagator("deeds", propagate)


def model_propagator(method: Method, device: str = "cpu") -> Propagator:
    """A trained model of the same template, its result refined by the images: for a second round."""

    def propagate(
        path: Path, scan: PreparedScan, template: PreparedScan, progress: Progress
    ) -> DisplacementField:
        found = register_prepared(method, scan, template, device=device, progress=part_of(progress, 0.0, 0.5))
        return refine_field(scan, template, found, device=device, progress=part_of(progress, 0.5, 1.0))

    return Propagator("model", propagate)
