"""Whether files that SimpleITK reads hold all their voxels; and the packed voxels of MetaImage.

Where voxels are missing, or packed ones are damaged, ITK takes zeros in some formats, and what lies in memory
in others, and says nothing.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from RegCore.io.files import BLOCK, GzipReader, check_length, read_array, second_file
from RegCore.space.geometry import InputError

LONGEST_HEADER = 1 << 20
STARTS = {"GiplImageIO": 256, "MRCImageIO": 1024, "NiftiImageIO": 0}  # bytes before the voxels, at least
VTK_START = rb"(?m)^(?:LOOKUP_TABLE|VECTORS|NORMALS|TENSORS|COLOR_SCALARS)[^\n]*\n"


def check_complete(path: Path, kind: str, size: Sequence[int], promised: int) -> None:
    """Check that a file holds the voxels that its header promises, where ITK does not.

    Args:
        path: the file.
        kind: ITK's name of its reader.
        size: of each axis.
        promised: bytes of the voxels, unpacked.

    Raises:
        InputError: it holds fewer, or its packed voxels are damaged.
    """
    if kind == "MetaImageIO":
        _check_files(path, size, promised)
        return
    start = _start_of_vtk(path) if kind == "VTKImageIO" else STARTS.get(kind)
    voxels = path
    if kind == "NiftiImageIO":  # of a pair: the other one of the two
        voxels = path.with_name(re.sub(r"(?i)hdr(\.gz)?$", _image_for, path.name))
    if start is not None and voxels.is_file():
        packed = voxels.suffix.lower() == ".gz"
        found = _unpacked(voxels, start + promised) if packed else voxels.stat().st_size
        check_length(start + promised, found)


def _image_for(found: re.Match[str]) -> str:
    return ("IMG" if found[0].isupper() else "img") + (found[1] or "")


def _start_of_vtk(path: Path) -> int | None:
    """Where the voxels of a binary VTK file begin, or may begin at the earliest; None for one of text."""
    with open(path, "rb") as file:
        head = file.read(1 << 14)
    if b"BINARY" not in head[:600].upper():
        return None
    found = re.search(VTK_START, head) or re.search(rb"(?m)^SCALARS[^\n]*\n", head)
    return found.end() if found else 0


def _unpacked(path: Path, most: int) -> int:
    """The number of bytes that are packed in a file, counted up to a bound and a piece more.

    Raises:
        InputError: they are damaged.
    """
    buffer, count = memoryview(bytearray(BLOCK)), 0
    with open(path, "rb") as file:
        stream = GzipReader(file)
        while count <= most and (got := stream.readinto(buffer)):
            count += got
    return count


# ---- MetaImage ---------------------------------------------------------------------------------------------


def _fields(path: Path) -> tuple[dict[str, str], int, list[str]]:
    """The fields of a header by their names in lower case, where it ends, and the lines behind it."""
    with open(path, "rb") as file:
        head = file.read(LONGEST_HEADER)
    found = re.search(rb"(?im)^[ \t]*ElementDataFile[ \t]*[=:]([^\n]*)\n?", head)
    if found is None:
        raise InputError("the header does not say where the voxels are")
    lines = head[: found.end()].decode("utf-8", errors="replace").splitlines()
    pairs = (re.split(r"\s*[=:]\s*", line.strip(), maxsplit=1) for line in lines)
    fields = {pair[0].lower(): pair[1] for pair in pairs if len(pair) == 2}
    names = head[found.end() :].decode("utf-8", errors="replace").splitlines()
    return fields, found.end(), [name.strip() for name in names if name.strip()]


def _is_true(fields: dict[str, str], *names: str) -> bool:
    return any(fields.get(name, "")[:1].lower() in ("t", "1") for name in names)


def _check_files(path: Path, size: Sequence[int], promised: int) -> None:
    """Check that a header names as many files of voxels as it needs, and that packed ones are whole."""
    fields, _, lines = _fields(path)
    words = fields["elementdatafile"].split()
    if not words or not (words[0].upper() == "LIST" or "%" in words[0]):
        return
    axes, names = len(size) - 1, lines
    if words[0].upper() == "LIST":
        axes = int(words[1].upper().rstrip("D")) if len(words) > 1 else axes
    else:
        names = _numbered(words, size[-1])
    if not 0 < axes < len(size):
        raise InputError(f"the header lists files of {axes} axes each for a volume of {len(size)}")
    wanted = math.prod(size[axes:])
    if len(names) != wanted:
        raise InputError(f"{wanted} files of voxels were expected, but the header names {len(names)}")
    if _is_true(fields, "compresseddata"):
        for name in names:
            piece = promised // wanted
            check_length(piece, _unpacked(second_file(path, name), piece))


def _numbered(words: Sequence[str], count: int) -> list[str]:
    """The names of "slice%03d.raw 1 10 1"; without numbers they are 1 to `count`.

    Raises:
        InputError: the first word is no pattern of whole numbers; or there is no step to the last number, by
            which ITK would divide by zero.
    """
    if not re.fullmatch(r"[^%]*%0?\d{0,2}d[^%]*", words[0]):
        raise InputError(f"a pattern such as slice%03d.raw was expected, but the header has {words[0]!r}")
    if len(words) == 3 or len(words) > 3 and int(words[3]) < 1:
        raise InputError("the pattern of the files of voxels lacks a step of at least 1 after the last one")
    first, last, step = ([int(word) for word in words[1:4]] + [1, count, 1][len(words) - 1 :])[:3]
    return [words[0] % number for number in range(first, last + 1, step)[: count + 1]]


def packed_voxels(path: Path, shape: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
    """The packed voxels of a MetaImage, (I, J, K) or (I, J, K, C); None where they are not, or in many files.

    MetaIO takes no notice of damage in them.

    Args:
        path: the file.
        shape: of the volume, channels last.
        dtype: of the voxels.

    Raises:
        InputError: they are cut short or damaged.
    """
    fields, start, _ = _fields(path)
    name = fields["elementdatafile"]
    if not _is_true(fields, "compresseddata") or name.upper().startswith("LIST") or "%" in name:
        return None
    skipped = int(fields.get("headersize", "0"))
    if skipped < 0:
        raise InputError(f"HeaderSize is {skipped}, which packed voxels can't have")
    big = _is_true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    order = (*shape[3:], *shape[:3])  # the channels of a voxel stand together
    local = name.upper() == "LOCAL"
    voxels = path if local else second_file(path, name)
    with open(voxels, "rb") as file:
        file.seek(skipped or (start if local else 0))
        available = voxels.stat().st_size - file.tell()
        array = read_array(GzipReader(file), order, dtype.newbyteorder(">" if big else "<"), available)
    return np.moveaxis(array, 0, 3) if len(shape) == 4 else array
