"""What propagates the template's supervoxels to the scans to train with: images, deeds, a trained model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RegCore.io import read_header
from RegCore.progress import Progress, part_of, silent
from RegCore.registration.affine import align
from RegCore.registration.deformable import Settings, deform
from RegCore.registration.pair import PairSide
from RegCore.resampler import affine_coordinates, sample
from RegCore.slicreg.folder import FolderSettings
from RegCore.slicreg.folder_making import Propagator, stem
from RegCore.slicreg.matching import SAME
from RegCore.slicreg.prediction import Method
from RegCore.slicreg.preparation import PreparedScan
from RegCore.slicreg.registration import (
    REFINEMENT,
    place_in_template,
    register_from_template,
    register_prepared,
    stays,
)
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

PROPAGATION = Settings(smoothness=0.6)
"""Softer than between two scans of one patient: the template meets other people."""


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
    settings: Settings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """A field made better by what the images show: Adam on MIND-SSC features from where the field is.

    Args:
        fixed, moving: prepared scans.
        field: x_moving = T(x_fixed), RAS mm.
        settings: of the deformable stage; `REFINEMENT` by default.
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
        settings=settings or Settings(**REFINEMENT),
        initial=field,
        device=device,
        progress=progress,
    )
    return found.resampled(fixed.image.geometry)


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
        ddf = read_deeds(*files(path), read_header(path)[1].shape)
        return DisplacementField.from_voxels(np.moveaxis(ddf, 0, -1), read_header(path)[1], moving)

    def files(path: Path) -> tuple[Path, Path]:
        return folder / f"{stem(path)}_displacements.dat", folder / f"{stem(path)}_matrix.txt"

    def check(path: Path, settings: FolderSettings) -> None:
        displacements, matrix = files(path)
        read_control_points(displacements, read_header(path)[1].shape)
        read_matrix(matrix)

    return Propagator("deeds", propagate, check, files)


def model_propagator(method: Method, device: str = "cpu", file: Path | None = None) -> Propagator:
    """A trained model, its result refined by the images: for a second round.

    The supervoxels of a template that is the model's are known, those of another one are predicted.

    Args:
        method: the model.
        device: torch device.
        file: of the model, so that what another one found is not taken for its work.
    """

    def propagate(
        path: Path, scan: PreparedScan, template: PreparedScan, progress: Progress
    ) -> DisplacementField:
        place = place_in_template(method, template)
        options: dict[str, Any] = {"device": device, "progress": part_of(progress, 0.0, 0.5)}
        if place is not None and stays(place):
            found = register_from_template(method, scan, **options)
        else:
            found = register_prepared(method, scan, template, **options)
        return refine_field(scan, template, found, device=device, progress=part_of(progress, 0.5, 1.0))

    def check(path: Path, settings: FolderSettings) -> None:
        spacing = float(method.supervoxels.geometry.spacing[0]) / 2
        if abs(settings.spacing / spacing - 1) > SAME:
            raise InputError(
                f"the model sees a common grid of {spacing:g} mm, but that of the preparation has "
                f"{settings.spacing:g} mm"
            )
        if settings.modality != method.modality:
            raise InputError(f"the model was trained for {method.modality}, not for {settings.modality}")

    return Propagator("model", propagate, check, lambda path: () if file is None else (file,))


# ---- what the program deeds writes -------------------------------------------------------------------------


def read_matrix(path) -> np.ndarray:
    """The 4×4 matrix of a `…_matrix.txt`: fixed voxel index to moving voxel index, columns (i, j, k, 1).

    The file holds its transpose: four rows of four numbers, the translation in the last row. Its last column
    is 0 0 0 1 within the accuracy of a fit in single precision, and is not used.

    Raises:
        InputError: the file can't be used; the message names it.
    """
    try:
        rows = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.split()]
        matrix = np.array(rows, dtype=np.float64)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: four lines of four numbers were expected ({error})") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(f"{path}: four lines of four finite numbers were expected, not {matrix.shape}")
    if not np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-2):
        raise InputError(
            f"{path}: the last column of the matrix must be 0 0 0 1, not {matrix[:, 3].tolist()}"
        )
    matrix[:, 3] = [0, 0, 0, 1]
    return matrix.T


def _spacing(shape, count: int, path) -> int:
    """Voxels between control points: g with (I // g) (J // g) (K // g) points."""
    guess = round((math.prod(shape) / max(count, 1)) ** (1 / 3))
    for step in sorted(range(1, min(shape) + 1), key=lambda g: (abs(g - guess), g)):
        if math.prod(n // step for n in shape) == count:
            return step
    raise InputError(f"{path}: holds {count} control points, which fit no grid for the shape {tuple(shape)}")


def read_control_points(path, shape) -> np.ndarray:
    """The control points of a `…_displacements.dat`, (3, I // g, J // g, K // g) float32 voxels, i j k.

    The file is three blocks of little-endian float32 with the first axis fastest: displacements along axis
    1, axis 0 and axis 2.

    Args:
        shape: (I, J, K) of the fixed image, array order as deeds read it from its NIfTI file.

    Raises:
        InputError: the file can't be used; the message names it.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    if len(raw) == 0 or len(raw) % 12:
        raise InputError(f"{path}: three blocks of 4-byte numbers were expected, not {len(raw)} bytes")
    step = _spacing(shape, len(raw) // 12, path)
    coarse = [n // step for n in shape]
    blocks = np.frombuffer(raw, "<f4").reshape(3, *coarse[::-1]).transpose(0, 3, 2, 1)
    if not np.isfinite(blocks).all():
        raise InputError(f"{path}: holds values that are NaN or infinite")
    return np.ascontiguousarray(blocks[[1, 0, 2]], dtype=np.float32)


def read_deeds(displacements, matrix, shape) -> np.ndarray:
    """The displacement that deeds found: moving index = fixed index + ddf, (3, I, J, K) float32 voxels.

    p_moving = A p + u(p). Control point c of axis a lies at voxel c n / (n // g); u is interpolated linearly
    between them and constant beyond the last one. `DisplacementField.from_voxels` puts it into millimetres.

    Args:
        displacements: path of `…_displacements.dat`.
        matrix: path of `…_matrix.txt`.
        shape: (I, J, K) of the fixed image.

    Raises:
        InputError: a file is missing, damaged or of another shape; the message names it.
    """
    control = read_control_points(displacements, shape)
    affine = read_matrix(matrix)
    ratio = np.diag([*(c / n for c, n in zip(control.shape[1:], shape, strict=True)), 1.0])
    field = sample(torch.from_numpy(control)[None], affine_coordinates(ratio, shape))
    return (field + affine_coordinates(affine - np.eye(4), shape))[0].numpy()
