"""What can carry the template's supervoxels to the scans to train with: images, deeds, a trained model."""

from pathlib import Path

import numpy as np

from RegCore.io import read_header
from RegCore.progress import Progress, part_of
from RegCore.slicreg.alignment import refined, template_to_scan
from RegCore.slicreg.deeds import read_deeds
from RegCore.slicreg.folder import Teacher, stem
from RegCore.slicreg.preparation import Prepared
from RegCore.slicreg.registration import between
from RegCore.slicreg.template import Method
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField


def by_images(device: str = "cpu") -> Teacher:
    """Affine and deformable registration of the images; nothing else is needed."""

    def carry(path: Path, scan: Prepared, template: Prepared, progress: Progress) -> DisplacementField:
        return template_to_scan(scan, template, device=device, progress=progress)

    return Teacher("images", carry)


def by_deeds(folder, template) -> Teacher:
    """What the program deeds found: ``<scan>_matrix.txt`` and ``<scan>_displacements.dat`` of each scan.

    folder: of these files. template: the file that deeds had as its moving image; the scan was the fixed one.
    Raises InputError if the folder is missing.
    """
    folder, moving = Path(folder), read_header(template)[1]
    if not folder.is_dir():
        raise InputError(f"{folder}: a folder of what deeds found was expected, but there is none")

    def carry(path: Path, scan: Prepared, template: Prepared, progress: Progress) -> DisplacementField:
        fixed = read_header(path)[1]
        displacements, matrix = (
            folder / f"{stem(path)}_{end}" for end in ("displacements.dat", "matrix.txt")
        )
        ddf = read_deeds(displacements, matrix, fixed.shape)
        return DisplacementField.from_voxels(np.moveaxis(ddf, 0, -1), fixed, moving)

    return Teacher("deeds", carry)


def by_model(method: Method, device: str = "cpu") -> Teacher:
    """A trained model of the same template, its result refined by the images: for a second round."""

    def carry(path: Path, scan: Prepared, template: Prepared, progress: Progress) -> DisplacementField:
        found = between(method, scan, template, device=device, progress=part_of(progress, 0.0, 0.5))
        return refined(scan, template, found, device=device, progress=part_of(progress, 0.5, 1.0))

    return Teacher("model", carry)
