"""What all formats share: reading no more than a header can rightly promise, writing whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from glob import escape
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from RegCore.space.geometry import InputError
from RegCore.space.volume import Segment

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS mm to LPS mm, and back
RAS, LPS, LAS = (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, 1.0)  # signs that take each to RAS
DEFLATE_LIMIT = 1100  # deflate can't shrink data by more than about 1032:1
BLOCK = 1 << 22  # bytes handled at a time
PIECE = 1 << 20  # bytes unpacked at a time: few enough to stay in the processor's cache
WITH_COMPANIONS = (".hdr", ".img", ".mhd", ".nhdr")  # headers whose voxels are in a file beside them


@dataclass(frozen=True)
class RawImage:
    """What a reader found in a file of voxels.

    Args:
        array: (I, J, K) or more axes, channels after the three of space, as stored.
        affine: 4×4, voxel index to RAS mm.
        vectors: if three channels are a vector, the signs that take its components to RAS, else None.
        declared: the file itself says that the vectors are displacements.
        kind: "image" or "labels" where the file says so.
        rounding: how far storing in integers with a scale factor may have moved a value.
        segments: what the file says of the structures of a label map.
        padding: the value that the file gives to voxels which were not measured.
    """

    array: np.ndarray
    affine: np.ndarray
    vectors: tuple[float, float, float] | None = None
    declared: bool = False
    kind: str | None = None
    rounding: float = 0.0
    segments: tuple[Segment, ...] = ()
    padding: float | None = None


class GzipReader:
    """A gzip or zlib stream, read forward; gzip may have several members.

    Raises:
        InputError: the stream is damaged.
    """

    def __init__(self, stream: BufferedReader, block: int = PIECE):
        self.stream, self.engine, self.pending = stream, zlib.decompressobj(47), b""
        self.block = block

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; return the number of bytes, fewer only at the end of the data."""
        done = 0
        while done < len(buffer):
            if self.engine.eof and not self._next_member():
                break
            piece = self._piece(min(len(buffer) - done, PIECE))
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _piece(self, most: int) -> bytes:
        self.pending = self.pending or self.stream.read(self.block)
        ended = not self.pending
        try:
            piece = self.engine.decompress(self.pending, most)
        except zlib.error as error:
            raise InputError(f"the compressed data are damaged, or are none at all ({error})") from None
        self.pending = self.engine.unconsumed_tail
        if ended and not piece and not self.engine.eof:
            raise InputError("the file is cut short: the compressed data end too early")
        return piece

    def _next_member(self) -> bool:
        rest = self.engine.unused_data + self.stream.read(2)
        if rest[:2] != b"\x1f\x8b":
            return False
        self.engine, self.pending = zlib.decompressobj(47), rest
        return True


Stream = BufferedReader | GzipReader


def read_bytes(stream: Stream, count: int) -> bytes:
    """Up to `count` bytes of a file or of an `GzipReader` stream."""
    buffer = bytearray(count)
    return bytes(buffer[: stream.readinto(memoryview(buffer))])


def ends_after(file: BufferedReader, count: int) -> bool:
    """Whether gzip data that end with the file hold so many bytes, as their last four bytes say."""
    file.seek(-4, os.SEEK_END)
    return int.from_bytes(file.read(4), "little") == count & 0xFFFFFFFF


def check_length(promised: int, found: int) -> None:
    """Check that a file holds as many bytes as its header promises.

    Raises:
        InputError: it holds fewer.
    """
    if found < promised:
        raise InputError(f"the file is cut short: {in_words(promised)} promised, {in_words(found)} found")


def byte_count(shape: Sequence[int], dtype: np.dtype) -> int:
    """Bytes of an array, in whole numbers of any size.

    Raises:
        InputError: an axis has no voxels.
    """
    total = dtype.itemsize
    for n in shape:
        if n < 1:
            raise InputError(f"the volume is empty: its shape is {tuple(int(n) for n in shape)}")
        total *= int(n)
    return total


def in_words(count: float) -> str:
    """A number of bytes for people: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def read_array(stream: Stream, shape: Sequence[int], dtype: np.dtype, available: int) -> np.ndarray:
    """The next voxels of a stream as an array in Fortran order (first axis fastest), native byte order.

    Nothing is allocated before the header's promise has been held against what the file holds.

    Args:
        stream: put before the first voxel.
        shape: any number of axes.
        dtype: the stored type, of either byte order.
        available: bytes that the file still holds.

    Raises:
        InputError: there are too few bytes, or there is not enough memory.
    """
    wanted = byte_count(shape, dtype)
    limit = available * DEFLATE_LIMIT if isinstance(stream, GzipReader) else available
    if wanted > limit:
        raise InputError(
            f"the header promises {in_words(wanted)} of voxels, but the file holds {in_words(available)}"
        )
    try:
        array = np.empty(tuple(int(n) for n in shape), dtype, order="F")
    except MemoryError:
        raise InputError(f"the volume needs {in_words(wanted)}, more than the free memory") from None
    target = memoryview(cast("bytearray", array.reshape(-1, order="F").view(np.uint8)))
    got = stream.readinto(target)
    check_length(wanted, got)
    if isinstance(stream, GzipReader):
        read_bytes(stream, BLOCK)  # reaches the checksum at the end, which tells damaged data
    return native(array)


def native(array: np.ndarray) -> np.ndarray:
    """The same numbers in the byte order of this machine; swapped in place."""
    if array.dtype.isnative:
        return array
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def fortran_blocks(array: np.ndarray, dtype: np.dtype | None = None) -> Iterator[bytes]:
    """The bytes of an array, first axis fastest, little-endian, in pieces of bounded size."""
    dtype = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("<")
    if array.ndim > 3:
        for last in range(array.shape[-1]):
            yield from fortran_blocks(array[..., last], dtype)
        return
    depth = max(1, BLOCK // max(1, array[..., 0].size * dtype.itemsize))
    for start in range(0, array.shape[-1], depth):
        yield array[..., start : start + depth].astype(dtype, copy=False).tobytes(order="F")


def stored_type(array: np.ndarray) -> np.dtype:
    """The type in which files hold an array: booleans as uint8, half floats as float32."""
    if array.dtype == bool:
        return np.dtype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return np.dtype(np.float32)
    return array.dtype


def second_file(path: Path, name: str) -> Path:
    """The file of the voxels that the header in `path` names; it must lie in the folder or below it."""
    beside = path.parent / name
    if not name or PurePosixPath(name).is_absolute() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"the voxels must lie in the folder of the header or below it, not in {name!r}")
    if not beside.is_file():
        raise InputError(f"the file of its voxels, {name}, is missing")
    return beside


def check_names(path: Path) -> list[str]:
    """Check that a header of text names no file of voxels outside of its own folder.

    Nor may a MetaImage name more axes than MetaIO has room for: it would write beyond its memory.

    Returns:
        The names of the files of voxels.

    Raises:
        InputError: it names such a file, or too many axes.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 20).decode("utf-8", errors="replace")
    axes = re.search(r"(?im)^\s*NDims\s*[=:]\s*(\S*)", head)
    if axes and axes[1] not in [str(count) for count in range(1, 11)]:
        raise InputError(f"the header is damaged: it speaks of {shorten(axes[1])!r} axes")
    keys = r"ElementDataFile\s*[=:]|data ?file\s*:|Displacement_Volume\s*="
    names: list[str] = []
    for found in re.finditer(rf"(?im)^\s*(?:{keys})(.*)", head):
        name = found[1].strip(" \t\r;")
        names += head[found.end() :].split() if name.upper().startswith("LIST") else [name]
    for name in names:
        if name.startswith(("/", "\\", "~")) or name[1:2] == ":" or ".." in re.split(r"[/\\]", name):
            raise InputError(f"the voxels must lie in the folder of the header or below it, not in {name!r}")
    return names


def shorten(text: str, length: int = 60) -> str:
    """A text for a message: printable, and not longer than this."""
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def check_regular(path: Path) -> None:
    """Check that what is there is a file or a folder: a device or a pipe may never end.

    Raises:
        OSError: it is something else.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a device or a pipe, and no file")


def digest(path: Path) -> str:
    """The SHA-256 of all that is read of an input: a file, those of a folder, a header and the voxels beside.

    What was read once is not read again while its size and its time stay.

    Raises:
        OSError: it can't be read.
    """
    return _digest(str(path), *size_and_time(path))


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and time of change (ns) of an input; of several files the sums, which every change changes.

    Raises:
        OSError: it can't be read.
    """
    found = path.stat()
    if path.suffix.lower() not in WITH_COMPANIONS and not stat.S_ISDIR(found.st_mode):
        return found.st_size, found.st_mtime_ns
    states = [file.stat() for file in _files_of(path)]
    return sum(state.st_size for state in states), sum(state.st_mtime_ns for state in states)


def _files_of(path: Path) -> list[Path]:
    """The file itself; those of a folder; those that share the name of a header."""
    if path.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    elif path.suffix.lower() in WITH_COMPANIONS:
        found = list(path.parent.glob(f"{escape(path.name[: -len(path.suffix)])}.*"))
    else:
        found = [path]
    return sorted(file for file in found if file.is_file())  # a device or a pipe may never end


@lru_cache(maxsize=1024)
def _digest(path: str, size: int, time: int) -> str:
    """The digest of an input of this size and time, with the names where it is several files."""
    found, files = hashlib.sha256(), _files_of(Path(path))
    for file in files:
        if len(files) > 1:
            found.update(os.fsencode(file.name) + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(PIECE):
                found.update(block)
    return found.hexdigest()


def sweep_parts(*folders: Path) -> None:
    """Remove the side files that killed runs left in folders in which nobody else is writing."""
    for folder in folders:
        for path in folder.glob(".*.part"):
            path.unlink(missing_ok=True)


def remove_empty(folders: list[Path]) -> None:
    """Remove these folders, innermost first, up to the first that holds something."""
    with suppress(OSError):  # another run may be at work there
        for path in folders:
            if not path.is_dir() or any(path.iterdir()):
                return
            path.rmdir()


@contextmanager
def timed_folder(parent: Path) -> Iterator[Path]:
    """A new folder, made here and named by the time of day; what another run makes then has a number besides.

    If it is empty in the end, it goes again, with those above it that were made for it.

    Args:
        parent: the folder that it is made in, which is made if need be.

    Raises:
        InputError: it can't be made.
    """
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    folder, number = parent / datetime.now().strftime("%Y%m%d-%H%M%S"), 0
    try:
        while True:
            new = folder.with_name(f"{folder.name}-{number}") if number else folder
            try:
                new.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        remove_empty(made)
        raise InputError(f"{folder}: the folder can't be made ({error.strerror or error})") from error
    try:
        yield new
    finally:
        remove_empty([new, *made])


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a side file in the folder of `path` to write to; it becomes `path` when all went well.

    On any error the side file is removed and what `path` was stays.

    Raises:
        InputError: the folder can't be written to or is full.
    """
    side = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    if not path.parent.is_dir():
        raise InputError(f"{path}: can't be written, there is no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"{path}: can't be written, it is a folder")
    try:
        yield side
        os.replace(side, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # on a file system that takes no files there is nothing to remove
            side.unlink(missing_ok=True)
