"""HDF5 files: writing that survives a full disk, and data sets with one volume per key as in DeepReg."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, atomic_write, check_length, in_words, native
from RegCore.space.geometry import Geometry, InputError

if TYPE_CHECKING:
    import h5py

LONGEST_TEXT = 1000
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
        try:
            return list(self._file())
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: the keys of the file are damaged ({error})") from error

    def header(self, key: str) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K) or (I, J, K, C) and grid of a volume; the unit grid where the file gives none."""
        dataset = self._dataset(key)
        return dataset.shape, self._geometry(key, dataset)

    def read(self, key: str) -> tuple[np.ndarray, Geometry]:
        """The voxels of a key, (I, J, K) or (I, J, K, C), and their grid."""
        dataset = self._dataset(key)
        try:
            return native(dataset[()]), self._geometry(key, dataset)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
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
            if AFFINE not in dataset.attrs:
                return Geometry(dataset.shape[:3], np.eye(4))
            if dataset.attrs.get_id(AFFINE).dtype.kind not in "iuf":
                raise InputError("numbers were expected")
            return Geometry(dataset.shape[:3], dataset.attrs[AFFINE])
        except (OSError, RuntimeError, InputError) as error:
            raise InputError(f"{self.path}: the attribute 'affine' of the key {key!r}: {error}") from None


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if path.is_dir():
        raise InputError(f"{path}: a file was expected, but this is a folder")
    import h5py

    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not an HDF5 file, or a damaged one ({error})") from error


def text_of(path: Path, dataset: h5py.Dataset) -> str:
    """The one short text of a dataset, of fixed or of variable length.

    HDF5 itself may never return from a text of variable length in a damaged file, or allocate gigabytes for
    it; so the global heap that holds it is read here, within bounds.

    Raises:
        InputError: there is no such text, or the file is damaged.
    """
    if dataset.size != 1:
        raise InputError(f"one text was expected at {dataset.name}, but there are {dataset.size}")
    if dataset.dtype.kind == "S" and dataset.dtype.itemsize <= LONGEST_TEXT:
        return bytes(np.ravel(dataset[()])[0]).decode("ascii", errors="replace")
    offset = dataset.id.get_offset()
    if dataset.dtype.kind != "O" or offset is None:
        raise InputError(f"a text was expected at {dataset.name}")
    with open(path, "rb") as file:
        file.seek(offset)
        length, address, index = struct.unpack("<IQI", _exactly(file, 16))
        file.seek(min(address, path.stat().st_size))
        head = _exactly(file, 16)
        if head[:5] != b"GCOL\x01":
            raise InputError("the file is damaged: it has no heap of texts where it should be")
        size = struct.unpack("<Q", head[8:])[0]
        heap = file.read(min(size, 1 << 20))
    place = 0
    while place + 16 <= len(heap):
        number, bytes_of_it = struct.unpack("<H6xQ", heap[place : place + 16])
        if number == index and index > 0 and length <= min(bytes_of_it, LONGEST_TEXT):
            return heap[place + 16 : place + 16 + length].rstrip(b"\0").decode("ascii", errors="replace")
        place += 16 + -(-bytes_of_it // 8) * 8
    raise InputError(f"the file is damaged: the text at {dataset.name} is not there")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    check_length(count, len(data))
    return data


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
