"""What Slicer asks of a registration besides `RegCore.register`: a start by name, and more outputs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from RegCore.progress import Progress, silent
from RegCore.registration.compact import compacted
from RegCore.registration.fits import fit_rigid
from RegCore.space.geometry import InputError
from RegCore.space.names import not_among
from RegCore.space.transforms import (
    AffineTransform,
    DisplacementField,
    Transform,
    determinants,
    jacobians,
)
from RegCore.space.volume import Volume

if TYPE_CHECKING:
    from RegCore.registration.register import Registration

STARTS = ("header", "centres", "moments", "landmarks")
"""Where a registration can be told to begin: as the volumes lie, with the centres of their grids on each
other, with the centres of what is seen in them, with paired landmarks fitted by a rigid transform."""
IN_LINE = 1e-3  # the second singular value of points, in shares of the first, below which they are in line
MAPS = ("jacobian", "displacement")  # what `maps_command` makes
LOOKED_AT = 2_000_000  # voxels at most of which the foreground's centre is the mean


def named_start(word: str, fixed: Volume, moving: Volume, landmarks: Any = None) -> AffineTransform:
    """The transform that a word of `STARTS` stands for.

    Args:
        word: of `STARTS`.
        fixed, moving: images ``(I, J, K)``.
        landmarks: ``(N, 6)`` RAS mm, fixed and moving place of each, or None.

    Returns:
        fixed -> moving, RAS mm.

    Raises:
        InputError: another word, or landmarks are asked for and there are none.
    """
    matrix = np.eye(4)
    if word == "centres":
        matrix[:3, 3] = moving.geometry.centre - fixed.geometry.centre
    elif word == "moments":
        matrix[:3, 3] = _centre_of_foreground(moving) - _centre_of_foreground(fixed)
    elif word == "landmarks":
        matrix = _fitted(landmarks)
    elif word != "header":
        raise InputError(f"the start {not_among(word, STARTS)}")
    return AffineTransform(matrix)


def _fitted(landmarks: Any) -> np.ndarray:
    """A turn and a shift, fixed -> moving; a shift alone for fewer than three points or points in line."""
    points = np.empty((0, 6)) if landmarks is None else np.asarray(landmarks, float)
    if len(points) == 0:
        raise InputError("a registration that starts from landmarks needs a pair of them")
    fixed, moving = points[:, :3], points[:, 3:]
    sizes = np.linalg.svd(fixed - fixed.mean(0), compute_uv=False)
    if len(points) >= 3 and sizes[1] > IN_LINE * max(sizes[0], 1e-9):
        return fit_rigid(fixed, moving, np.ones(len(points)))
    matrix = np.eye(4)
    matrix[:3, 3] = (moving - fixed).mean(0)
    return matrix


def _centre_of_foreground(image: Volume) -> np.ndarray:
    """RAS mm, (3,); that of the grid where nothing stands out."""
    from RegCore.resampler.pyramid import foreground

    step = max(1, int(np.ceil((image.array.size / LOOKED_AT) ** (1 / 3))))
    inside = np.argwhere(foreground(np.nan_to_num(image.array[::step, ::step, ::step].astype(np.float32))))
    if len(inside) == 0:
        return image.geometry.centre
    return image.geometry.to_world(inside.mean(0) * step)


def as_image(volume: Volume) -> Volume:
    """A label map that is to be registered by what it looks like, as an image; an image as it is."""
    return volume if volume.kind == "image" else Volume(volume.array, volume.geometry, "image")


def extras(
    wanted: Mapping[str, Any],
    moving: Volume,
    done: "Registration",
    full: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """What is made of a registration on demand.

    Args:
        wanted: ``inverse``, ``jacobian``, ``displacement``: True for the inverse transform and for the maps
            of `maps_command`; ``interpolation`` and ``fill`` of the warped image, as for `RegCore.warp`.
        moving: the moving image, or a label map, which is always warped as labels.
        done: the registration.
        full: keep an inverse field as large as it is; else see `compacted`.
        progress: told how far the work is.

    Returns:
        "warped", and of "inverse", "jacobian" and "displacement" those that are wanted.
    """
    import RegCore

    found: dict[str, Any] = {"warped": done.warped}
    how, fill = wanted.get("interpolation", "linear"), wanted.get("fill")
    if (how != "linear" or fill is not None) and moving.kind == "image":
        grid = done.warped.geometry
        found["warped"] = RegCore.warp(
            moving, done.transform, grid, fill=fill, interpolation=how, progress=progress
        )
    if wanted.get("inverse"):
        found["inverse"] = small(done.inverse, full)
    kinds = [kind for kind in MAPS if wanted.get(kind)]
    if kinds:
        maps = maps_command({"transform": done.transform, "fixed": done.warped}, progress)
        found |= {kind: maps[kind] for kind in kinds}
    return found


def maps_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The Jacobian determinant (1 keeps volumes, 0 and less folds) and the length in mm of each displacement.

    Args:
        arguments: ``transform``, and ``fixed``, an image whose grid is taken for an affine transform.
        progress: told how far the work is.
    """
    transform, fixed = arguments["transform"], arguments["fixed"]
    if isinstance(transform, AffineTransform):
        grid = fixed.geometry
        determinant = float(np.linalg.det(transform.matrix[:3, :3]))
        jacobian = np.full(grid.shape, determinant, np.float32)
        points = grid.world_grid()
        lengths = np.linalg.norm(transform.map(points.reshape(-1, 3)) - points.reshape(-1, 3), axis=1)
        lengths = lengths.reshape(grid.shape)
    else:
        grid = transform.geometry
        jacobian = np.empty(grid.shape, np.float32)
        for part, slab in jacobians(transform):
            jacobian[part] = determinants(slab)
            progress(part.stop / grid.shape[0], "measuring the deformation", {})
        lengths = np.linalg.norm(transform.mm, axis=-1)
    return {
        "jacobian": Volume(jacobian, grid, "image"),
        "displacement": Volume(lengths.astype(np.float32), grid, "image"),
    }


def small(transform: Transform, full: bool = False) -> Transform:
    """The transform as it is sent: a field as fine as it was found, unless it is to be kept in full."""
    return compacted(transform) if isinstance(transform, DisplacementField) and not full else transform
