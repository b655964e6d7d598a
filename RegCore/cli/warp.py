"""``regcore warp`` and ``deepreg_warp``: pull an image or a segmentation through a displacement field."""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from RegCore.cli.arguments import add_file, add_transform
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".npz")
DEFAULT_NAME = "warped.nii.gz"
MOVING = "moving_image.nii.gz"  # what a prediction writes beside the DDF
SLAB_VOXELS = 1 << 20  # output voxels worked on at a time
log = logging.getLogger(__name__)


def add_warp(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    fill_warp(commands.add_parser("warp", help="warp an image with a displacement field", description=ABOUT))


ABOUT = (
    "Warps an image or a segmentation: with a DDF as DeepReg writes it (NIfTI, (I, J, K, 3) voxels: moving "
    "index = fixed index + ddf), or with a transform in space (x_moving = T(x_fixed), RAS mm)."
)


def fill_warp(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    add_file(parser, "--image", "-i", required=True, help="image to warp, 3-D or with channels")
    by = parser.add_mutually_exclusive_group(required=True)
    add_file(by, "--ddf", "-d", help="displacement field in voxels, (I, J, K, 3)")
    add_transform(by, "--transform", help="transform in space, e.g. transform.h5 of a registration")
    what = f"file to write, by default {DEFAULT_NAME} here ({', '.join(ENDINGS)})"
    parser.add_argument("--out", "-o", default="", metavar="FILE", help=what)
    add_file(parser, "--reference", help="image whose grid the result is on")
    parser.add_argument("--labels", action="store_true", help="the image is a segmentation: keep its values")
    what = "blank what DeepReg blanks: index 0 of each axis and all that comes from outside the image"
    parser.add_argument("--deepreg", action="store_true", help=what)
    parser.set_defaults(run=_run_warp)


def _run_warp(arguments: argparse.Namespace) -> None:
    from RegCore.evaluation.results import prepared_folder
    from RegCore.io import save

    out = _out_path(arguments.out)
    if arguments.deepreg and arguments.ddf is None:
        raise InputError("argument --deepreg: it is for --ddf only")
    inputs = [arguments.image, arguments.ddf, arguments.reference, *(arguments.transform or [])]
    if any(path is not None and path.resolve() == out.resolve() for path in inputs):
        raise InputError(f"{out}: the result would take the place of what it is made of")
    with prepared_folder(out.parent):
        result = _by_transform(arguments) if arguments.ddf is None else _by_ddf(arguments)
        save(result, out)
    log.info(
        "%s: shape %s, spacing %s mm", out, result.array.shape, result.geometry.spacing.round(3).tolist()
    )


def _out_path(text: str) -> Path:
    """Where to write to; a name that can't be written is replaced, with a warning, as in DeepReg."""
    if text and text.lower().endswith(ENDINGS):
        return Path(text)
    folder = Path(text) if text.endswith(("/", "\\")) or Path(text).is_dir() else Path(text).parent
    out = folder / DEFAULT_NAME
    if text and folder != Path(text):
        log.warning("--out %s: the ending is none of %s; writing %s", text, ", ".join(ENDINGS), out)
    return out


def _by_transform(arguments: argparse.Namespace) -> Volume:
    """The image through a transform in space, on the grid of the reference or of the field."""
    from RegCore.io import load_chain, read_header
    from RegCore.resampler import warp

    transform = load_chain(arguments.transform)
    if arguments.reference is not None:
        onto = read_header(arguments.reference)[1]
    elif hasattr(transform, "geometry"):
        onto = transform.geometry
    else:
        raise InputError(
            f"{arguments.transform[-1]}: an affine transform has no grid; give one with --reference"
        )
    volume = _volume(arguments)
    if not onto.overlaps(volume.geometry, transform.map):
        raise InputError(
            f"{arguments.image}: with this transform nothing of it lies on the grid of the result"
        )
    return warp(volume, transform, onto)


def _by_ddf(arguments: argparse.Namespace) -> Volume:
    """The image through a DDF in voxels, on the grid of the DDF, placed by its header or by the reference."""
    from RegCore.io import load_voxels, read_header

    ddf, onto = load_voxels(arguments.ddf)
    if ddf.ndim != 4 or ddf.shape[3] != 3:
        raise InputError(f"{arguments.ddf}: a DDF of shape (I, J, K, 3) was expected, but it is {ddf.shape}")
    if not np.isfinite(ddf).all():
        raise InputError(f"{arguments.ddf}: the displacements must be finite, but some are NaN or infinite")
    if arguments.reference is not None:
        reference = read_header(arguments.reference)[1]
        if reference.shape != onto.shape:
            shapes = f"{reference.shape}, but the DDF has {onto.shape}"
            raise InputError(f"{arguments.reference}: the reference has the shape {shapes}")
        onto = reference
    volume = _volume(arguments)
    _check_moving_grid(arguments, volume.geometry)
    border = "zero_boundary" if arguments.deepreg else "edge"
    return _pulled(volume, ddf, onto, border)


def _check_moving_grid(arguments: argparse.Namespace, grid: Geometry) -> None:
    """Whether the image is on the grid that the network saw, if the prediction beside the DDF says which.

    Raises InputError for a scan itself, of which the DDF in voxels would take a corner.
    """
    from RegCore.io import read_header

    beside = arguments.ddf.with_name(MOVING)
    if not beside.is_file():
        return
    seen = read_header(beside)[1]
    placed = not any(np.array_equal(one.affine, np.eye(4)) for one in (seen, grid))
    apart = placed and seen.shape == grid.shape and not seen.is_close(grid, 0.1 * float(grid.spacing.min()))
    if seen.shape != grid.shape or apart:
        transform = arguments.ddf.with_name("transform.h5")
        where = (
            f"{grid.shape}, not {seen.shape}" if seen.shape != grid.shape else "of one shape but elsewhere"
        )
        raise InputError(
            f"{arguments.image}: this image is on another grid than the moving image of the network {beside} "
            f"({where}), in whose voxels the DDF is; warp a scan with --transform {transform}"
        )


def _volume(arguments: argparse.Namespace) -> Volume:
    from RegCore.io import load, load_voxels

    if arguments.labels:
        return load(arguments.image, "labels")
    return Volume(*load_voxels(arguments.image))


def _pulled(volume: Volume, ddf: np.ndarray, onto: Geometry, border: str) -> Volume:
    """out(i) = image(i + ddf(i)): linear, label maps nearest, one channel per structure cut at one half."""
    from RegCore.resampler import affine_coordinates, sample, tensor_of

    array = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    nearest = volume.kind == "labels" and volume.array.ndim == 3
    source = tensor_of(array.astype(np.int64 if nearest else np.float32)).permute(3, 0, 1, 2)[None]
    out = np.empty((*onto.shape, array.shape[3]), array.dtype if volume.kind == "labels" else np.float32)
    rows = max(1, SLAB_VOXELS // (onto.shape[1] * onto.shape[2]))
    for start in range(0, onto.shape[0], rows):
        part = np.ascontiguousarray(ddf[start : start + rows], np.float32)
        at = affine_coordinates(np.eye(4), part.shape[:3], start=(start, 0, 0))
        at += tensor_of(part).permute(3, 0, 1, 2)
        values = sample(source, at, border=border, nearest=nearest)[0].permute(1, 2, 3, 0).numpy()
        out[start : start + rows] = values > 0.5 if volume.kind == "labels" and not nearest else values
    return replace(volume, array=out.reshape(*onto.shape, *volume.array.shape[3:]), geometry=onto)
