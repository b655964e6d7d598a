"""HDF5 files: writing that survives a full disk, and data sets with one volume per key as in DeepReg."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, atomic_write, check_length, check_regular, in_words, native
from RegCore.space.geometry import Geometry, InputError

if TYPE_CHECKING:
    import h5py

LONGEST_TEXT = 1000
DEFLATE, SHUFFLE, FLETCHER, LZF = 1, 2, 3, 32000  # numbers of filters
PIPELINES = ((), (DEFLATE,), (SHUFFLE,), (SHUFFLE, DEFLATE), (LZF,), (SHUFFLE, LZF))  # but for checksums
MOST_MEMBERS = 10_000  # of a file that another library reads
SMALLEST = 1 << 16  # bytes that a dataset may always be taken to hold: one that was never written holds none
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
        self._sound: set[str] = set()  # keys whose pieces were unpacked once within bounds

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_handle": None, "_owner": None, "_sound": set()}

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
        geometry = self._geometry(key, dataset)
        try:
            if key not in self._sound:
                check_pieces(dataset)
                self._sound.add(key)
            return native(dataset[()]), geometry
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{self.path}: the data of the key {key!r} are damaged ({error})") from error

    def close(self) -> None:
        """Close the file in this process; it is opened again when it is needed."""
        if self._handle is not None and self._owner == os.getpid():
            self._handle.close()
        self._handle, self._sound = None, set()

    def _file(self) -> h5py.File:
        if self._handle is None or self._owner != os.getpid():
            self._handle, self._owner = _opened(self.path), os.getpid()
        return self._handle

    def _dataset(self, key: str) -> h5py.Dataset:
        file = self._file()
        try:
            dataset = dataset_at(self.path, file, key)
            kind, shape = dataset.dtype, dataset.shape
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            text = str(error).removeprefix(f"{self.path}: ")
            raise InputError(f"{self.path}: the key {key!r} can't be read ({text})") from error
        if kind.kind not in "biuf":
            raise InputError(f"{self.path}: the key {key!r} must hold real numbers, but they are {kind}")
        if len(shape) not in (3, 4) or 0 in shape:
            raise InputError(f"{self.path}: the key {key!r} must hold a 3-D volume, not {shape}")
        return dataset

    def _geometry(self, key: str, dataset: h5py.Dataset) -> Geometry:
        try:
            if AFFINE not in dataset.attrs:
                return Geometry(dataset.shape[:3], np.eye(4))
            stored = dataset.attrs.get_id(AFFINE)
            if stored.dtype.kind not in "iuf" or stored.shape != (4, 4):
                raise InputError("4×4 numbers were expected")
            return Geometry(dataset.shape[:3], dataset.attrs[AFFINE])
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: the attribute 'affine' of the key {key!r}: {error}") from None


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if path.is_dir():
        raise InputError(f"{path}: a file was expected, but this is a folder")
    import h5py

    try:
        check_regular(path)
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: not an HDF5 file, or a damaged one ({error})") from error


def dataset_at(path: Path, group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset that lies in the file itself and promises no more than that can hold.

    Links are not followed, nor is any other file opened: one that is a pipe would never be read to its end.

    Args:
        path: the file.
        group: a group in it.
        name: of the dataset, or its path from the group on.

    Raises:
        InputError: there is no such dataset, or it is not of this kind.
    """
    import h5py

    found = member(group, name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        kind = "a group" if isinstance(found, h5py.Group) else "empty, or no dataset"
        raise InputError(f"numbers or a text were expected at {name!r}, but it is {kind}")
    stored = found.id.get_create_plist()
    if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
        raise InputError(f"the data of {name!r} lie in another file, which is not opened")
    promised, room = math.prod(found.shape) * found.dtype.itemsize, path.stat().st_size
    if found.chunks:
        if tuple(_filters(found)) not in PIPELINES:
            raise InputError(
                f"the data of {name!r} were packed by filters other than gzip, LZF and shuffle (szip, say); "
                "pack them anew, by h5repack -f GZIP=4 say"
            )
        piece = _bytes_of_piece(found)
        sizes = {part.byte_offset: part.size for part in _pieces(found)}
        if max(sizes.values(), default=0) > 1.01 * piece + 64:
            raise InputError(f"{name!r} is damaged: a packed piece is larger than an unpacked one")
        promised, room = max(promised, piece), max(min(sum(sizes.values()), room), SMALLEST) * DEFLATE_LIMIT
    if promised > room:
        raise InputError(f"{name!r} promises {in_words(promised)}, more than the file can hold")
    return found


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | h5py.Datatype:
    """What is in a group, by its name or its path from there on; links are not followed.

    Raises:
        InputError: there is nothing, or a link.
    """
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not has(group, part):
            raise InputError(f"{name!r} is missing")
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise InputError(f"{name!r} is a link, which is not followed")
        group = group[part]
    return group


def has(group: h5py.Group, name: str) -> bool:
    """Whether a group has a member of that name; h5py's own way to ask opens the files that links name."""
    return bool(name) and group.id.links.exists(name.encode())


def check_all(path: Path) -> None:
    """Check everything in a file of HDF5 that another library is going to read; other files pass.

    Raises:
        InputError: a member is a link, lies in another file, promises too much or is damaged.
    """
    import h5py

    if not h5py.is_hdf5(str(path)):
        return
    try:
        with h5py.File(path, "r") as file:
            seen: set[int] = set()
            left: list[tuple[h5py.Group, str]] = [(file, name) for name in file]
            while left:
                group, name = left.pop()
                found = member(group, name)
                place = h5py.h5o.get_info(found.id).addr
                if place in seen:
                    continue
                seen.add(place)
                if len(seen) > MOST_MEMBERS:
                    raise InputError(f"the file has more than {MOST_MEMBERS} members")
                if any(found.attrs.get_id(key).dtype.kind == "O" for key in found.attrs):
                    raise InputError(f"{name!r} has texts of variable length, which are not read")
                if isinstance(found, h5py.Group):
                    left += [(found, key) for key in found]
                elif dataset_at(path, group, name).dtype.kind == "O":
                    text_of(path, found)
                else:
                    check_pieces(found)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the file is damaged ({error})") from None


def check_pieces(dataset: h5py.Dataset) -> None:
    """Hold what the pieces of a dataset unpack to against their size, which HDF5 does not.

    It takes as much memory as they unpack to, and where that is too little what lies in memory for voxels.

    Raises:
        InputError: a piece is damaged, or holds more or less than it should.
    """
    if not dataset.chunks:
        return
    filters, wanted = _filters(dataset, checksums=True), _bytes_of_piece(dataset)
    for piece in _pieces(dataset):
        used = [number for n, number in enumerate(filters) if not piece.filter_mask >> n & 1]
        length = piece.size
        if DEFLATE in used or LZF in used:
            raw = dataset.id.read_direct_chunk(piece.chunk_offset)[1]
            packed = raw[: length - 4 * (FLETCHER in used)]
            length = _inflated(raw, wanted + 5) if DEFLATE in used else _length_of_lzf(packed)
        if length not in (wanted, wanted + 4 * (FLETCHER in used)):  # a checksum has 4 bytes
            raise InputError(f"a piece of the data holds {length} bytes where {wanted} were expected")


def _inflated(raw: bytes, most: int) -> int:
    """The number of bytes to which data unpack, counted up to a bound."""
    try:
        return len(zlib.decompressobj().decompress(raw, most))
    except zlib.error as error:
        raise InputError(f"the compressed data are damaged ({error})") from None


def _length_of_lzf(raw: bytes) -> int:
    """The number of bytes to which data of LZF unpack: runs of bytes, and copies of what came before."""
    place = length = 0
    while place + 2 <= len(raw):
        head = raw[place]
        if head < 32:
            place, length = place + head + 2, length + head + 1
        elif head < 224:
            place, length = place + 2, length + (head >> 5) + 2
        else:
            place, length = place + 3, length + raw[place + 1] + 9
    return length


def _filters(dataset: h5py.Dataset, checksums: bool = False) -> list[int]:
    """The numbers of the filters of a dataset in the order of writing."""
    stored = dataset.id.get_create_plist()
    numbers = [stored.get_filter(n)[0] for n in range(stored.get_nfilters())]
    return [number for number in numbers if checksums or number != FLETCHER]


def _bytes_of_piece(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.chunks) * dataset.dtype.itemsize


def _pieces(dataset: h5py.Dataset) -> list[h5py.h5d.StoreInfo]:
    """Where each piece of a dataset in pieces ("chunks") lies."""
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    return found


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
        check_pieces(dataset)
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
        try:
            with h5py.File(stream, "w") as file:
                yield file
        finally:  # what HDF5 says of it is no reason that a user understands
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
