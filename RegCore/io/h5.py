"""HDF5 files: writing that survives a full disk, and data sets with one volume per key as in DeepReg."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, atomic_write, in_words, native
from RegCore.space.geometry import Geometry, InputError

if TYPE_CHECKING:
    import h5py

AFFINE = "affine"  # attribute of a dataset: 4×4, index to RAS mm; DeepReg's files have none


class H5File:
    """The volumes of an HDF5 file by their keys. Nothing is opened before it is asked for.

    A handle must not be shared by processes: a copy that was pickled or forked opens the file for itself.
    Each error is an InputError that names the file and, where one is concerned, the key.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._handle: h5py.File | None = None
        self._owner: int | None = None

    def __getstate__(self) -> dict[str, Any]:
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
        import h5py

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
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: not an HDF5 file, or a damaged one ({error})") from error


def write(path: str | os.PathLike, volumes: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Write volumes to an HDF5 file, gzip-compressed, whole or not at all.

    Args:
        path: the file to write.
        volumes: arrays (I, J, K) or (I, J, K, C) by their keys, each with its 4×4 affine, index to RAS mm,
            or None.

    Raises:
        InputError: the file can't be written.
    """
    with create_h5(Path(path)) as file:
        for key, (array, affine) in volumes.items():
            dataset = file.create_dataset(key, data=array, compression="gzip", compression_opts=1)
            if affine is not None:
                dataset.attrs[AFFINE] = affine


@contextmanager
def create_h5(path: Path) -> Iterator[h5py.File]:
    """Give an empty HDF5 file to fill; it becomes `path` when all went well.

    Raises:
        InputError: the folder can't be written to or is full.
    """
    import h5py

    with atomic_write(path) as side, _DeferredErrorFile(side, "x+") as stream:
        with h5py.File(stream, "w") as file:
            yield file
        if stream.failure is not None:
            raise stream.failure


class _DeferredErrorFile(io.FileIO):
    """A file that keeps its first failure to write for later, and takes what comes after for written.

    HDF5 can't close a file that a full disk kept it from writing: it ends the whole process.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.failure is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return self.tell() if size is None else size
