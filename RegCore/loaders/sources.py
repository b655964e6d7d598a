"""Where volumes come from: folders of files, h5 files, memory. Each gives them in one order, with names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.io import load_voxels, read_header
from RegCore.io.h5 import H5File
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
ROUNDING = 1e-5  # by which a label scaled by its file's header may miss 0 and 1
Name = tuple[str, ...]


class Source:
    """Volumes in a fixed order. A file loader of one's own derives from it and defines `read`.

    Attributes:
        names: what tells the volumes apart: (folder, name), or (folder, group, name) where they are in
            groups. Images and their labels have the same names. Sorted, so that a group's volumes stand
            together.
        places: for each volume what `header` and `read` need to find it.
        grouped: whether there are groups: volumes whose names agree but for the last part.
        title: what they are, for messages: "images", "fixed labels".
        unknown_is_background: voxels of images that are NaN or infinite are taken for background, with a
            warning; else they are an error.
    """

    unknown_is_background = False

    def __init__(self, found: Mapping[Name, Any], grouped: bool, title: str):
        self.names, self.places = list(found), list(found.values())
        self.grouped, self.title = grouped, title.replace("_", " ")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> list[list[int]]:
        """The indices of the volumes of each group."""
        found: dict[Name, list[int]] = {}
        for index, name in enumerate(self.names):
            found.setdefault(name[:-1], []).append(index)
        return list(found.values())

    def keep(self, indices) -> None:
        """Forget all volumes but these."""
        self.names = [self.names[i] for i in indices]
        self.places = [self.places[i] for i in indices]

    def where(self, index: int) -> str:
        """The file (and the key in it) of a volume, for messages."""
        return str(self.places[index])

    def header(self, index: int) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K) or (I, J, K, C) and grid, quickly if can be.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        array, grid = self.read(index)
        return array.shape, grid

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The voxels (I, J, K) or (I, J, K, C) and their grid.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        raise NotImplementedError

    def channel(self, array: np.ndarray, channel: int) -> np.ndarray:
        """One label (I, J, K) of what `read` gave."""
        return array if array.ndim == 3 else array[..., channel]

    def present(self, index: int) -> list[int] | None:
        """The channels of a label that are not empty; None where that is not known."""
        return None

    def check(self, array: np.ndarray, index: int) -> None:
        """Check that the values of a label are in [0, 1].

        Raises:
            InputError: they are not; the message names the file.
        """
        check_label(array, self.where(index))

    def close(self) -> None:
        """Close what is open; it is opened again when it is needed."""


def check_label(array: np.ndarray, where: str) -> None:
    """Check that the values of a label are in [0, 1].

    Raises:
        InputError: they are not; the sentence begins with `where`.
    """
    low, high = array.min(), array.max()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        whole = array.ndim == 3 and bool((array == np.rint(array)).all())
        hint = " (dataset.labels: all takes whole numbers as structures)" if whole else ""
        raise InputError(
            f"{where}: a label must have values from 0 to 1, one channel for each structure, "
            f"but they go from {low:g} to {high:g}{hint}"
        )


class NiftiFiles(Source):
    """One volume in each file ``folder/name/**/<observation>.nii.gz``; .nii, .nrrd and .mha are read as well.

    A segmentation ``<observation>.seg.nrrd`` belongs to the image ``<observation>``.

    Grouped: the folders that hold files are the groups. Sorted by their paths, as text.

    Raises:
        InputError: a folder is missing or empty, or two files have one name.
    """

    def __init__(self, folders: list[str], name: str, grouped: bool = False):
        found: dict[Name, Path] = {}
        for folder in folders:
            top = Path(folder) / name
            if not top.is_dir():
                other = top.with_name(f"{name}.h5").is_file()
                hint = f", but {name}.h5 is there: is the format h5?" if other else ""
                words = name.replace("_", " ")
                raise InputError(f"{top}: the folder is missing, which should hold the {words}{hint}")
            before = len(found)
            for path in _files_below(top):
                observation = (folder, *_observation(path.relative_to(top), grouped, path))
                if observation in found:
                    raise InputError(f"{path}: has the same name as {found[observation].name} beside it")
                found[observation] = path
            if len(found) == before:
                raise InputError(f"{top}: there is no file {', '.join(ENDINGS)} in this folder")
        super().__init__(dict(sorted(found.items())), grouped, name)

    def header(self, index: int) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K) or (I, J, K, C) and grid, by the header alone."""
        return read_header(self.places[index])

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The voxels (I, J, K) or (I, J, K, C) and their grid."""
        return load_voxels(self.places[index])


def _files_below(top: Path) -> list[Path]:
    """Files of voxels in a folder and its subfolders, also linked ones, without hidden ones."""
    found = []
    for folder, inner, files in os.walk(top, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        names = (name for name in files if name.lower().endswith(ENDINGS) and not name.startswith("."))
        found += [Path(folder) / name for name in names]
    return sorted(found)


def _observation(path: Path, grouped: bool, full: Path) -> Name:
    """The name of a file below its top folder: (name,) with subfolders in it, or (group, name)."""
    ending = next(ending for ending in ENDINGS if path.name.lower().endswith(ending))
    name = path.name[: -len(ending)]
    if not grouped:
        return ((path.parent / name).as_posix(),)
    if len(path.parts) < 2:
        raise InputError(f"{full}: grouped images must lie in a folder for each group")
    return path.parent.as_posix(), name


class H5Files(Source):
    """Volumes by their keys in ``folder/name.h5``; in groups, the keys are ``group-<number>-<number>``.

    Sorted by key as text; groups and their images by number (DeepReg: as text, so that 10 comes before 2).

    Raises:
        InputError: a file is missing, damaged or empty, or a key has another form.
    """

    def __init__(self, folders: list[str], name: str, grouped: bool = False, *, deepreg: bool = False):
        found: dict[Name, tuple[H5File, str]] = {}
        for folder in folders:
            path = Path(folder) / f"{name}.h5"
            if not path.exists() and path.with_suffix("").is_dir():
                raise InputError(f"{path}: there is no such file, but a folder {name}: is the format nifti?")
            file = H5File(path)
            keys = file.keys()
            if not keys:
                raise InputError(f"{file.path}: the file holds no volume")
            for key in keys:
                found[(folder, *(_numbers(file, key) if grouped else (key,)))] = (file, key)
            file.close()
        by_number = grouped and not deepreg
        order = sorted(found, key=lambda key: (key[0], *map(int, key[1:])) if by_number else key)
        super().__init__({key: found[key] for key in order}, grouped, name)

    def where(self, index: int) -> str:
        """The file of a volume and its key in it, for messages."""
        file, key = self.places[index]
        return f"{file.path}: the key {key!r}"

    def header(self, index: int) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K) or (I, J, K, C) and grid of a key, without its voxels."""
        file, key = self.places[index]
        return file.header(key)

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The voxels (I, J, K) or (I, J, K, C) of a key, and their grid."""
        file, key = self.places[index]
        return file.read(key)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        for file in {id(file): file for file, _ in self.places}.values():
            file.close()


def _numbers(file: H5File, key: str) -> Name:
    match = re.fullmatch(r"group-(\d+)-(\d+)", key)
    if match is None:
        raise InputError(f"{file.path}: the keys of groups must be 'group-<number>-<number>', not {key!r}")
    return match.groups()


class Volumes(Source):
    """Volumes or arrays in memory.

    Args:
        volumes: `Volume` or array, (I, J, K) or, for labels, (I, J, K, C) with values in [0, 1]. A label map
            `Volume` (I, J, K) of whole numbers gets one channel for each of `structures`. An array lies on
            the unit grid.
        name: what they are, for messages.
        groups: the group of each volume, any text; None without groups.
        structures: the label values that become channels; None takes arrays as they are.
    """

    def __init__(self, volumes: list, name: str = "images", *, groups=None, structures=None):
        if not len(volumes):
            raise InputError(f"{name}: at least one volume was expected, but the list is empty")
        if groups is not None and len(groups) != len(volumes):
            raise InputError(f"{name}: {len(volumes)} volumes need as many groups, not {len(groups)}")
        self.name, self.structures = name, structures
        found = {}
        for index, volume in enumerate(volumes):
            group = () if groups is None else (str(groups[index]),)
            found[("memory", *group, str(index))] = _as_volume(volume, f"{name}[{index}]")
        super().__init__(found, groups is not None, name)

    def where(self, index: int) -> str:
        """What the volume is and its number, for messages."""
        return f"{self.name}[{self.names[index][-1]}]"

    def header(self, index: int) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K), or (I, J, K, C) with a channel for each structure, and grid."""
        volume = self.places[index]
        channels = () if self._as_they_are(volume) else (len(self.structures),)
        return (*volume.array.shape, *channels), volume.geometry

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The voxels as they are, or a mask (I, J, K, C) of a channel per structure, and their grid."""
        volume = self.places[index]
        if self._as_they_are(volume):
            return volume.array, volume.geometry
        return volume.array[..., None] == np.array(self.structures), volume.geometry

    def _as_they_are(self, volume: Volume) -> bool:
        return self.structures is None or volume.kind != "labels" or volume.array.ndim == 4


def _as_volume(volume, name: str) -> Volume:
    if isinstance(volume, Volume):
        return volume
    array = np.asarray(volume)
    try:
        return Volume(array, Geometry(array.shape[:3], np.eye(4)))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
