"""HDF5 files with one volume per key, as DeepReg's h5 data sets are laid out, opened anew in each process."""

import os
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, in_words, native, whole
from RegCore.space.geometry import Geometry, InputError

AFFINE = "affine"  # attribute of a dataset: 4×4, index to RAS mm; DeepReg's files have none


class H5File:
    """The volumes of an HDF5 file by their keys. Nothing is opened before it is asked for.

    A handle must not be shared by processes: a copy that was pickled or forked opens the file for itself.
    Each error is an InputError that names the file and, where one is concerned, the key.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._handle, self._owner = None, None

    def __getstate__(self):
        return {"path": self.path, "_handle": None, "_owner": None}

    def keys(self) -> list[str]:
        """The keys of the file as text, in HDF5's order (that of strings)."""
        return list(self._file())

    def header(self, key: str) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K) or (I, J, K, C) and grid of a volume; the unit grid where the file gives none."""
        dataset = self._dataset(key)
        return dataset.shape, self._geometry(key, dataset)

    def read(self, key: str) -> tuple[np.ndarray, Geometry]:
        """The voxels of a key, (I, J, K) or (I, J, K, C), and their grid."""
        dataset = self._dataset(key)
        try:
            return native(dataset[()]), self._geometry(key, dataset)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: the data of the key {key!r} are damaged ({error})") from error

    def close(self) -> None:
        """Close the file in this process; it is opened again when it is needed."""
        if self._handle is not None and self._owner == os.getpid():
            self._handle.close()
        self._handle = None

    def _file(self) -> h5py.File:
        if self._handle is None or self._owner != os.getpid():
            self._handle, self._owner = _opened(self.path), os.getpid()
        return self._handle

    def _dataset(self, key: str) -> h5py.Dataset:
        try:
            dataset = self._file()[key]
        except (KeyError, OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: the key {key!r} can't be read ({error})") from error
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{self.path}: a volume was expected at the key {key!r}, but it is a group")
        if dataset.dtype.kind not in "biuf":
            kind = dataset.dtype
            raise InputError(f"{self.path}: the key {key!r} must hold real numbers, but they are {kind}")
        if len(dataset.shape or ()) not in (3, 4) or 0 in dataset.shape:
            raise InputError(f"{self.path}: the key {key!r} must hold a 3-D volume, not {dataset.shape}")
        promised = dataset.size * dataset.dtype.itemsize
        if promised > self.path.stat().st_size * (DEFLATE_LIMIT if dataset.chunks else 1):
            text = f"promises {in_words(promised)}, more than the file can hold"
            raise InputError(f"{self.path}: the key {key!r} {text}")
        return dataset

    def _geometry(self, key: str, dataset: h5py.Dataset) -> Geometry:
        try:
            return Geometry(dataset.shape[:3], dataset.attrs.get(AFFINE, np.eye(4)))
        except InputError as error:
            raise InputError(f"{self.path}: the attribute 'affine' of the key {key!r}: {error}") from None


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if path.is_dir():
        raise InputError(f"{path}: a file was expected, but this is a folder")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not an HDF5 file, or a damaged one ({error})") from error


def write(path, volumes: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Write arrays (I, J, K) or (I, J, K, C) by their keys, each with its 4×4 affine or None, compressed.

    The file is made in memory first: HDF5 ends the whole process where a full disk keeps it from closing one.
    """
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, (array, affine) in volumes.items():
            dataset = file.create_dataset(key, data=array, compression="gzip", compression_opts=1)
            if affine is not None:
                dataset.attrs[AFFINE] = affine
    with whole(Path(path)) as side:
        side.write_bytes(buffer.getbuffer())
