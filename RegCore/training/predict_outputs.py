"""The files of a predicted pair: tensors on the network's grid as DeepReg has them, results in space."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from RegCore.io import save
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume


@dataclass(frozen=True)
class Formats:
    """What is written beside the tables and ``affine.txt``: NIfTI files and transforms, PNG slices."""

    nifti: bool
    png: bool


def pair_name(indices) -> str:
    """DeepReg's name of the folder of a pair: pair_3, pair_0_1 (moving, fixed), pair_0_2_0_1 (groups)."""
    return "_".join(["pair", *map(str, indices)])


def write_tensors(
    folder: Path, tensors: Mapping[str, torch.Tensor | None], grids: Mapping[str, Geometry], formats: Formats
) -> None:
    """Tensors of one pair as ``<name>.nii.gz``, float32, and as ``<name>/depth<k>_<name>.png``.

    Args:
        tensors: by name, ``(1, C, I, J, K)``; fields stay in voxels, channels i, j, k. None is passed over.
        grids: of the fixed and the moving side; a name that begins with "moving" lies on that of the moving
            one.
    """
    folder.mkdir(exist_ok=True, parents=True)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        array = tensor[0].movedim(0, -1).float().numpy()
        array = array[..., 0] if array.shape[-1] == 1 else array
        if formats.nifti:
            side = "moving" if name.startswith("moving") else "fixed"
            save(Volume(array, grids[side]), folder / f"{name}.nii.gz")
        if formats.png:
            write_slices(folder / name, array, as_it_is=name.endswith("label"))


def write_slices(folder: Path, array: np.ndarray, *, as_it_is: bool) -> None:
    """The slices along the last axis of space as PNG files, grey for an image, three colours for a field.

    Args:
        array: (I, J, K) or (I, J, K, 3). Rows run along i.
        as_it_is: values are from 0 to 1; else the smallest becomes black and the largest white.
    """
    folder.mkdir(exist_ok=True)
    if not as_it_is:
        low, high = array.min(), array.max()
        array = (array - low) / (high - low) if high > low else np.zeros_like(array)
    colours = array.ndim == 4
    shades = np.clip(array * np.float32(255 if colours else 256), 0, 255).astype(np.uint8)
    for k in range(array.shape[2]):
        plane = shades[:, :, k] if colours else np.repeat(shades[:, :, k, None], 3, -1)
        opaque = np.full((*plane.shape[:2], 1), 255, np.uint8)
        picture = Image.fromarray(np.concatenate([plane, opaque], -1))
        picture.save(folder / f"depth{k}_{folder.name}.png")


def write_affine(folder: Path, theta: torch.Tensor) -> None:
    """The affine map (4, 3), moving index = [i j k 1] @ theta, as comma-separated text."""
    np.savetxt(folder / "affine.txt", theta.numpy(), delimiter=",")


def write_in_space(folder: Path, transform: Transform, warped: Volume) -> None:
    """The transform in mm as Slicer reads it, and the original moving image on the original fixed grid."""
    save(transform, folder / "transform.h5")
    save(warped, folder / "warped.nii.gz")
