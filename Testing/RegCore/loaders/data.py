"""Small data sets as DeepReg lays them out, written to disk by nibabel and h5py, and what they hold."""

from pathlib import Path

import h5py
import nibabel
import numpy as np
from scipy.ndimage import map_coordinates

from Testing.RegCore.grids import affine

SHAPE = (7, 8, 9)
GROUP_SIZES = (2, 3)
KINDS = ("paired", "unpaired", "grouped")
FORMATS = ("nifti", "h5")
SHAPES = {  # the network's grid, none of its sizes that of the files
    "paired": {"fixed_image_shape": [5, 6, 4], "moving_image_shape": [4, 10, 5]},
    "unpaired": {"image_shape": [5, 6, 4]},
    "grouped": {"image_shape": [5, 6, 4]},
}
GROUPED = {"intra_group_prob": 1, "intra_group_option": "forward", "sample_image_in_group": False}


def names(kind: str, count: int = 4) -> list[str]:
    """Names of the observations, with subfolders for groups."""
    if kind != "grouped":
        return [f"obs{n}" for n in range(count)]
    return [f"{g}/{n}" for g, size in enumerate(GROUP_SIZES, 1) for n in range(1, size + 1)]


def image(seed, shape=SHAPE) -> np.ndarray:
    """Noise whose range is not [0, 1]."""
    return (np.random.default_rng(seed).normal(size=shape) * 40 + 10).astype(np.float32)


def label(seed, channels: int, shape=SHAPE) -> np.ndarray:
    """Binary channels (I, J, K, C), or (I, J, K) for one channel."""
    array = (np.random.default_rng(seed).random((*shape, channels)) > 0.5).astype(np.uint8)
    return array[..., 0] if channels == 1 else array


def tops(kind: str, labeled: bool) -> list[str]:
    """Names of the top folders or h5 files of a data set."""
    if kind == "paired":
        return ["fixed_images", "moving_images", *(["fixed_labels", "moving_labels"] if labeled else [])]
    return ["images", *(["labels"] if labeled else [])]


def write(folder: Path, kind: str, form: str, *, channels: int = 0, count: int = 4, seed: int = 0) -> dict:
    """Write a data set; returns its arrays by (top folder, name)."""
    arrays = {}
    for number, top in enumerate(tops(kind, channels > 0)):
        for name in names(kind, count):
            key = [seed, number, *name.encode()]
            arrays[top, name] = label(key, channels) if "label" in top else image(key)
    for (top, name), array in arrays.items():
        put(folder, form, top, name, array)
    return arrays


def put(folder: Path, form: str, top: str, name: str, array: np.ndarray, matrix=None) -> Path:
    """Write one volume into a data set; returns its file."""
    if form == "nifti":
        path = folder / top / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine() if matrix is None else matrix), path)
        return path
    path = folder / f"{top}.h5"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        file["group-" + name.replace("/", "-") if "/" in name else name] = array
    return path


def dataset(kind: str, form: str, folders, *, labeled: bool, split: str = "train", **more) -> dict:
    """The dataset section of a configuration with one split."""
    options = {**SHAPES[kind], **(GROUPED if kind == "grouped" else {}), **more}
    place = [str(f) for f in folders] if isinstance(folders, list) else str(folders)
    return {"type": kind, split: {"dir": place, "format": form, "labeled": labeled}, **options}


def scaled(array: np.ndarray) -> np.ndarray:
    """An image from 0 to 1."""
    array = array.astype(np.float64)
    return (array - array.min()) / (array.max() - array.min())


def half_pixel(array: np.ndarray, shape) -> np.ndarray:
    """Linear resize about half-pixel centres by SciPy, edges repeated."""
    ticks = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(array.shape, shape, strict=True)]
    at = np.meshgrid(*ticks, indexing="ij")
    return map_coordinates(array.astype(np.float64), at, order=1, mode="nearest")
