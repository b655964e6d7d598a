"""NRRD files: one header of text, one block of voxels (raw or gzip), in the file or in a second one."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from RegCore.io import simpleitk
from RegCore.io.files import (
    FLIP,
    LAS,
    LPS,
    RAS,
    GzipReader,
    RawImage,
    atomic_write,
    byte_count,
    check_length,
    check_names,
    ends_after,
    fortran_blocks,
    read_array,
    read_bytes,
    second_file,
    shorten,
    stored_type,
)
from RegCore.io.segmentation import channels_of, fields_of, segments_of, unescaped
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

TYPES = {
    "int8": "signed char, int8, int8_t",
    "uint8": "uchar, unsigned char, uint8, uint8_t",
    "int16": "short, short int, signed short, signed short int, int16, int16_t",
    "uint16": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "int32": "int, signed int, int32, int32_t",
    "uint32": "uint, unsigned int, uint32, uint32_t",
    "int64": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "uint64": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "float32": "float",
    "float64": "double",
}
TYPE_OF = {name: dtype for dtype, names in TYPES.items() for name in names.split(", ")}
WRITTEN = {"uint8": "unsigned char", "int8": "signed char", "float32": "float", "float64": "double"}
SPACES = {  # the signs that take these coordinates to RAS; spaces that are not anatomical count as LPS
    "left-posterior-superior": LPS,
    "lps": LPS,
    "right-anterior-superior": RAS,
    "ras": RAS,
    "left-anterior-superior": LAS,
    "las": LAS,
    "scanner-xyz": LPS,
    "3d-right-handed": LPS,
    "3d-left-handed": LPS,
}
FIELDS = (
    "content, number, type, block size, dimension, space, space dimension, sizes, spacings, thicknesses, "
    "axis mins, axis maxs, space directions, centers, centerings, kinds, labels, units, min, max, old min, "
    "old max, endian, encoding, line skip, byte skip, sample units, space units, space origin, "
    "measurement frame, data file"
)
NAME_OF = {name.replace(" ", ""): name for name in FIELDS.split(", ")}  # teem knows both spellings
SPATIAL = ("domain", "space")  # kinds of axes
VECTORS = ("vector", "covariant-vector", "3-vector")
LONGEST_HEADER = 1 << 20
DISPLACEMENTS = "displacement field type:=resampling\nintent_code:=1006\n"  # by which Slicer knows them


def read(path: Path) -> RawImage:
    """The voxels and the place of a NRRD file; vectors are in the coordinates of its space.

    Raw and gzip voxels in one file are read here, all else (text, bzip2, lists of files) by SimpleITK.
    """
    with open(path, "rb") as file:
        fields = _read_header(file)
        if _is_for_simpleitk(path, fields):
            return simpleitk.read(path)
        shape = _numbers(fields, "sizes", int)
        kinds = fields.get("kinds", "").split()
        dtype = _type(fields)
        affine, channel = _place(fields, shape, kinds)
        if "data file" not in fields:
            array = _voxels(file, path, fields, shape, dtype)
        else:
            beside = second_file(path, fields["data file"])
            with open(beside, "rb") as second:
                array = _voxels(second, beside, fields, shape, dtype)
    segments = segments_of(fields)
    kind = "labels" if segments else None
    if channel is None:
        return RawImage(array, affine, kind=kind, segments=segments)
    array = np.moveaxis(array, channel, -1)
    if segments:
        segments = tuple(replace(segment, label=n) for n, segment in enumerate(segments))
        return RawImage(channels_of(array, fields), affine, kind=kind, segments=segments)
    marked = bool(kinds) and kinds[channel].lower() in VECTORS
    vector = shape[channel] == 3 and dtype.kind == "f" and (not kinds or marked)
    return RawImage(array, affine, _signs(fields) if vector else None, declared=vector and marked)


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape, channels last, and affine from the header; InputError as from `read`, or if it is cut short."""
    with open(path, "rb") as file:
        fields = _read_header(file)
        if _is_for_simpleitk(path, fields):
            return simpleitk.read_header(path)
        shape = _numbers(fields, "sizes", int)
        affine, channel = _place(fields, shape, fields.get("kinds", "").split())
        count = byte_count(shape, _type(fields))
        data = fields.get("data file")
        with open(path if data is None else second_file(path, data), "rb") as voxels:
            if fields["encoding"].lower() == "raw":
                check_length(count, voxels.seek(0, SEEK_END) - (file.tell() if data is None else 0))
            elif not ends_after(voxels, count):
                read(path)
    if channel is None:
        return shape, affine
    channels = shape[channel]
    channels = len(segments_of(fields)) or channels
    return (*shape[:channel], *shape[channel + 1 :], channels), affine


def read_fields(path: Path) -> dict[str, str]:
    """Fields and metadata of the header by their names in lower case.

    Raises:
        InputError: this is no NRRD file.
    """
    with open(path, "rb") as file:
        return _read_header(file)


def _read_header(file: BinaryIO) -> dict[str, str]:
    """Fields and metadata (key:=value) by their names in lower case; ends behind the empty line."""
    if not file.read(8).startswith((b"NRRD000", b"NRRD00.0")):
        raise InputError("not an image: this is not a NRRD file")
    file.readline()
    fields: dict[str, str] = {}
    while file.tell() < LONGEST_HEADER:
        line = file.readline(LONGEST_HEADER)
        text = line.decode("utf-8", errors="replace").strip()
        if not text:
            return fields
        if text.startswith("#"):
            continue
        name, separator, value = text.partition(":")
        key = name.strip().lower()
        if value.startswith("="):
            value = unescaped(value[1:])  # blanks before it belong to it
        elif key.replace(" ", "") in NAME_OF:
            key, value = NAME_OF[key.replace(" ", "")], value.strip()
        else:
            raise InputError(f"a line of the NRRD header is no field of the format: {shorten(text)!r}")
        fields.setdefault(key, value)
        if key == "data file" and value.upper().startswith("LIST"):
            return fields  # the rest of the header names files
    raise InputError("the NRRD header does not end")


def _is_for_simpleitk(path: Path, fields: dict[str, str]) -> bool:
    """Whether these are voxels that SimpleITK reads: text, compressed otherwise, in several files."""
    data = fields.get("data file", "")
    several = data.upper().startswith("LIST") or "%" in data
    odd = _field(fields, "encoding").lower() not in ("raw", "gzip", "gz")
    if several or odd:
        check_names(path)
    return several or odd


def _field(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise InputError(f"the NRRD header lacks the field '{name}'")
    return fields[name]


@overload
def _numbers(fields: dict[str, str], name: str) -> tuple[float, ...]: ...
@overload
def _numbers(fields: dict[str, str], name: str, convert: type[int]) -> tuple[int, ...]: ...
def _numbers(fields: dict[str, str], name: str, convert: type = float) -> tuple:
    text = _field(fields, name)
    try:
        return tuple(convert(word) for word in text.split())
    except ValueError:
        raise InputError(f"the NRRD field '{name}' must hold numbers, but it is {text!r}") from None


def _type(fields: dict[str, str]) -> np.dtype:
    name = _field(fields, "type").lower()
    if name not in TYPE_OF:
        raise InputError(f"voxels of one real number each were expected, but the NRRD type is {name!r}")
    dtype = np.dtype(TYPE_OF[name])
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise InputError(f"the NRRD field 'endian' must be little or big, but it is {endian!r}")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _signs(fields: dict[str, str]) -> tuple[float, float, float]:
    name = fields.get("space", "left-posterior-superior").lower()
    if name not in SPACES:
        raise InputError(f"the NRRD space {name!r} is not one of {', '.join(SPACES)}")
    return SPACES[name]


def _vectors(text: str) -> list[np.ndarray | None]:
    """The vectors '(x,y,z)' of a field; None for 'none' and for one of NaN, which some writers put there."""
    found: list[np.ndarray | None] = []
    for word in re.findall(r"none|\([^)]*\)", text):
        try:
            vector = None if word == "none" else np.array([float(x) for x in word[1:-1].split(",")])
        except ValueError:
            raise InputError(f"a vector of the NRRD header must hold numbers, but it is {word!r}") from None
        if vector is not None and vector.shape != (3,):
            raise InputError(f"vectors of 3 numbers were expected in the NRRD header, but it holds {text!r}")
        found.append(None if vector is None or np.isnan(vector).all() else vector)
    return found


def _place(fields: dict[str, str], shape: tuple[int, ...], kinds: list[str]) -> tuple[np.ndarray, int | None]:
    """The affine to RAS mm, and the axis that is none of space (None if there is none)."""
    count = len(shape)
    if (count,) != _numbers(fields, "dimension", int) or len(kinds) not in (0, count):
        raise InputError(f"the NRRD fields 'dimension' and 'kinds' do not fit the sizes {shape}")
    if count not in (3, 4):
        raise InputError(f"one 3-D volume was expected, but this is {count}-D with shape {shape}")
    affine = np.eye(4)
    if "space directions" in fields:
        vectors = _vectors(fields["space directions"])
        spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
        if len(vectors) != count or len(spatial) != 3:
            raise InputError(f"the NRRD field 'space directions' must name 3 of the {count} axes")
        affine[:3, :3] = np.stack([vector for vector in vectors if vector is not None], 1)
    else:
        spatial = [axis for axis in range(count) if count == 3 or kinds and kinds[axis] in SPATIAL]
        if len(spatial) != 3:
            raise InputError("the NRRD header does not say which 3 axes are those of space")
        affine[:3, :3], affine[:3, 3] = _axis_by_axis(fields, shape, spatial)
    if "space origin" in fields:
        origin = _vectors(fields["space origin"])
        if len(origin) != 1 or origin[0] is None:
            raise InputError("the NRRD field 'space origin' must be one vector")
        affine[:3, 3] = origin[0]
    others = [axis for axis in range(count) if axis not in spatial]
    return np.diag([*_signs(fields), 1.0]) @ affine, others[0] if others else None


def _axis_by_axis(
    fields: dict[str, str], shape: tuple[int, ...], spatial: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Directions and origin from what a header without 'space directions' says of each axis, as teem does.

    The origin comes from 'axis mins' where 'spacings' or 'axis maxs' tell the step: half a step beyond the
    lowest border of the cells, unless 'centers' says that the nodes lie on the borders.
    """
    if "spacings" in fields and "space" in fields:
        raise InputError("the NRRD header names a space, but 'spacings' in place of 'space directions'")
    given = {name: _per_axis(fields, name, len(shape)) for name in ("spacings", "axis mins", "axis maxs")}
    nodes = (fields.get("centers") or fields.get("centerings") or "cell " * len(shape)).lower().split()
    steps, origin = np.ones(3), np.zeros(3)
    for row, axis in enumerate(spatial):
        step, low, high = (given[name][axis] for name in given)
        if np.isfinite(step):
            steps[row] = step
        node = len(nodes) == len(shape) and nodes[axis] == "node"
        spread = step if np.isfinite(step) else (high - low) / max(1, shape[axis] - node)
        origin[row] = low + (0 if node else spread / 2)
    return np.diag(steps), origin if np.isfinite(origin).all() else np.zeros(3)


def _per_axis(fields: dict[str, str], name: str, count: int) -> tuple[float, ...]:
    if name not in fields:
        return (np.nan,) * count
    values = _numbers(fields, name)
    if len(values) != count:
        raise InputError(f"the NRRD field '{name}' must hold {count} numbers, but it is {fields[name]!r}")
    return values


def _voxels(
    file: BufferedReader, path: Path, fields: dict[str, str], shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    raw = fields["encoding"].lower() == "raw"
    lines, skip = (
        min(_numbers(fields, name, int)[0], LONGEST_HEADER) if name in fields else 0
        for name in ("line skip", "byte skip")
    )
    for _ in range(lines):
        file.readline(LONGEST_HEADER)
    available = path.stat().st_size - file.tell()
    stream = file if raw else GzipReader(file)
    if skip == -1 and raw:
        skip = max(0, available - byte_count(shape, dtype))
        file.seek(skip, 1)
    elif skip < 0 or len(read_bytes(stream, skip)) < skip:
        raise InputError(f"the NRRD field 'byte skip' is {skip}, which is no place for the voxels")
    return read_array(stream, shape, dtype, available - (skip if raw else 0))


def write_volume(path: Path, volume: Volume) -> None:
    """A volume, gzip, in LPS; channels come first, as Slicer lays them out; segments as in .seg.nrrd."""
    array, dtype = volume.array, stored_type(volume.array)
    if array.ndim == 4:
        array = np.moveaxis(array, 3, 0)
    marks = fields_of(volume) if volume.segments else ""
    kinds = "list domain domain domain" if array.ndim == 4 else "domain domain domain"
    write_gzip(
        path, array, dtype, make_header(array.shape, dtype, volume.geometry.affine, kinds, "gzip", marks)
    )


def write_gzip(path: Path, array: np.ndarray, dtype: np.dtype, head: bytes) -> None:
    """A header and the voxels behind it, first axis fastest, gzip.

    Raises:
        InputError: the file can't be written.
    """
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(head)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            for block in fortran_blocks(array, dtype):
                stream.write(block)


def write_field(path: Path, field: DisplacementField) -> None:
    """A displacement field as Slicer reads it: kinds vector, domain ×3; LPS mm; float32, raw."""
    shape = (3, *field.geometry.shape)
    kinds = "vector domain domain domain"
    head = make_header(shape, np.dtype(np.float32), field.geometry.affine, kinds, "raw", DISPLACEMENTS)
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(head)
        file.writelines(displacement_blocks(field))


def displacement_blocks(field: DisplacementField) -> Iterator[bytes]:
    """The displacements as they are stored: component first, LPS mm, plane by plane."""
    sign = np.array([-1, -1, 1], np.float32)
    for k in range(field.geometry.shape[2]):
        yield from fortran_blocks(np.moveaxis(field.mm[:, :, k] * sign, 2, 0))


def make_header(
    shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray, kinds: str, encoding: str, marks: str = ""
) -> bytes:
    """The header of an array in LPS mm.

    Args:
        shape: sizes of the axes, the fastest first.
        dtype: of the voxels, written little-endian.
        affine: 4×4, voxel index to RAS mm.
        kinds: one word for each axis; those called domain are the axes of space.
        encoding: raw or gzip.
        marks: further lines of the header.
    """
    lps = FLIP @ affine + 0.0  # + 0.0: no -0 in the text
    vectors = (_vector(lps[:3, axis]) for axis in range(3))
    directions = [next(vectors) if kind == "domain" else "none" for kind in kinds.split()]
    lines = [
        "NRRD0005",
        f"type: {WRITTEN.get(dtype.name, dtype.name)}",
        f"dimension: {len(shape)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in shape)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {kinds}",
        "endian: little",
        f"encoding: {encoding}",
        f"space origin: {_vector(lps[:3, 3])}",
    ]
    return ("\n".join(lines) + "\n" + marks + "\n").encode()


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(repr(float(x)) for x in values) + ")"
