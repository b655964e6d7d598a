"""NRRD files: one header of text, one block of voxels (raw or gzip), in the file or in a second one."""

import gzip
import re
from os import SEEK_END
from pathlib import Path

import numpy as np

from RegCore.io.files import (
    FLIP,
    LPS,
    GzipReader,
    RawImage,
    atomic_write,
    byte_count,
    check_length,
    ends_after,
    fortran_blocks,
    read_array,
    read_bytes,
    second_file,
    stored_type,
)
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
SPACES = {  # what takes these coordinates to RAS
    "left-posterior-superior": FLIP,
    "lps": FLIP,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]),
    "las": np.diag([-1.0, 1, 1, 1]),
}
SPATIAL = ("domain", "space")  # kinds of axes
VECTORS = ("vector", "covariant-vector", "3-vector")
LONGEST_HEADER = 1 << 20


def read(path: Path) -> RawImage:
    """The voxels and the place of a NRRD file; vectors are taken in the coordinates of its space (LPS)."""
    with open(path, "rb") as file:
        fields = _read_header(file)
        shape = _numbers(fields, "sizes", int)
        kinds = fields.get("kinds", "").split()
        dtype = _type(fields)
        affine, channel = _place(fields, shape, kinds)
        data = fields.get("data file") or fields.get("datafile")
        if data is None:
            array = _voxels(file, path, fields, shape, dtype)
        else:
            beside = second_file(path, data)
            with open(beside, "rb") as second:
                array = _voxels(second, beside, fields, shape, dtype)
    kind = "labels" if "segment0_labelvalue" in fields else None
    if channel is None:
        return RawImage(array, affine, kind=kind)
    array = np.moveaxis(array, channel, -1)
    if kind == "labels":
        return RawImage(_segments(array, fields), affine, kind=kind)
    vector = shape[channel] == 3 and (not kinds or kinds[channel] in VECTORS)
    if vector and _space(fields) is not FLIP:
        raise InputError("vectors are read in the space left-posterior-superior only")
    return RawImage(array, affine, LPS if vector else None, declared=vector and bool(kinds))


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape, channels last, and affine from the header; InputError as from `read`, or if it is cut short."""
    with open(path, "rb") as file:
        fields = _read_header(file)
        shape = _numbers(fields, "sizes", int)
        affine, channel = _place(fields, shape, fields.get("kinds", "").split())
        count = byte_count(shape, _type(fields))
        data = fields.get("data file") or fields.get("datafile")
        with open(path if data is None else second_file(path, data), "rb") as voxels:
            if _encoding(fields) == "raw":
                check_length(count, voxels.seek(0, SEEK_END) - (file.tell() if data is None else 0))
            elif not ends_after(voxels, count):
                read(path)
    if channel is None:
        return shape, affine
    channels = shape[channel]
    if "segment0_labelvalue" in fields:
        channels = sum(bool(re.fullmatch(r"segment\d+_labelvalue", name)) for name in fields)
    return (*shape[:channel], *shape[channel + 1 :], channels), affine


def _read_header(file) -> dict[str, str]:
    """Fields and metadata (key:=value) by their names in lower case; ends behind the empty line."""
    if not file.read(8).startswith(b"NRRD000"):
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
        key, separator, value = text.partition(":=" if ":=" in text.partition(": ")[0] else ": ")
        if separator:
            fields.setdefault(key.strip().lower(), value.strip())
    raise InputError("the NRRD header does not end")


def _field(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise InputError(f"the NRRD header lacks the field '{name}'")
    return fields[name]


def _numbers(fields: dict[str, str], name: str, convert=float) -> tuple:
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
    if dtype.itemsize == 1:
        return dtype
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise InputError(f"the NRRD field 'endian' must be little or big, but it is {endian!r}")
    return dtype.newbyteorder(endian)


def _space(fields: dict[str, str]) -> np.ndarray:
    name = fields.get("space", "left-posterior-superior").lower()
    if name not in SPACES:
        raise InputError(f"the NRRD space {name!r} is not one of LPS, RAS, LAS")
    return SPACES[name]


def _vectors(text: str) -> list[np.ndarray | None]:
    """The vectors '(x,y,z)' and 'none' of a field."""
    found: list[np.ndarray | None] = []
    for word in re.findall(r"none|\([^)]*\)", text):
        try:
            found.append(None if word == "none" else np.array([float(x) for x in word[1:-1].split(",")]))
        except ValueError:
            raise InputError(f"a vector of the NRRD header must hold numbers, but it is {word!r}") from None
    if any(vector is not None and vector.shape != (3,) for vector in found):
        raise InputError(f"vectors of 3 numbers were expected in the NRRD header, but it holds {text!r}")
    return found


def _place(fields: dict[str, str], shape: tuple, kinds: list[str]) -> tuple[np.ndarray, int | None]:
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
        affine[:3, :3] = np.stack([vectors[axis] for axis in spatial], 1)
    else:
        spatial = [axis for axis in range(count) if count == 3 or kinds and kinds[axis] in SPATIAL]
        if len(spatial) != 3:
            raise InputError("the NRRD header does not say which 3 axes are those of space")
        steps = _numbers(fields, "spacings") if "spacings" in fields else (1.0,) * count
        affine[:3, :3] = np.diag([steps[axis] for axis in spatial]) if len(steps) == count else 0
    if "space origin" in fields:
        origin = _vectors(fields["space origin"])
        if len(origin) != 1 or origin[0] is None:
            raise InputError("the NRRD field 'space origin' must be one vector")
        affine[:3, 3] = origin[0]
    others = [axis for axis in range(count) if axis not in spatial]
    return _space(fields) @ affine, others[0] if others else None


def _segments(layers: np.ndarray, fields: dict[str, str]) -> np.ndarray:
    """One binary channel for each segment of a segmentation that Slicer spread over layers (I, J, K, L)."""
    channels = []
    while (name := f"segment{len(channels)}") + "_labelvalue" in fields:
        (value,), (layer,) = (
            _numbers(fields, f"{name}_labelvalue", int),
            _numbers(fields, f"{name}_layer", int),
        )
        if not 0 <= layer < layers.shape[3]:
            raise InputError(f"the header puts {name} in layer {layer}, but there are {layers.shape[3]}")
        channels.append(layers[..., layer] == value)
    return np.stack(channels, -1).astype(np.uint8)


def _skipped(fields: dict[str, str], name: str) -> int:
    """What lies between header and voxels; teem knows the name with and without the space."""
    for key in (name, name.replace(" ", "")):
        if key in fields:
            return min(_numbers(fields, key, int)[0], LONGEST_HEADER)
    return 0


def _encoding(fields: dict[str, str]) -> str:
    encoding = _field(fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"the NRRD encoding must be raw or gzip, but it is {encoding!r}")
    return encoding


def _voxels(file, path: Path, fields: dict[str, str], shape: tuple, dtype: np.dtype) -> np.ndarray:
    encoding = _encoding(fields)
    lines, skip = _skipped(fields, "line skip"), _skipped(fields, "byte skip")
    for _ in range(lines):
        file.readline(LONGEST_HEADER)
    available = path.stat().st_size - file.tell()
    stream = file if encoding == "raw" else GzipReader(file)
    if skip == -1 and encoding == "raw":
        skip = max(0, available - int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize)
        file.seek(skip, 1)
    elif skip < 0 or len(read_bytes(stream, skip)) < skip:
        raise InputError(f"the NRRD field 'byte skip' is {skip}, which is no place for the voxels")
    return read_array(stream, shape, dtype, available - (skip if encoding == "raw" else 0))


def write_volume(path: Path, volume: Volume) -> None:
    """A volume, gzip, in LPS; channels come first, as Slicer and ITK lay them out."""
    array, dtype = volume.array, stored_type(volume.array)
    if array.ndim == 4:
        array = np.moveaxis(array, 3, 0)
    head = _header(array.shape, dtype, volume.geometry.affine, "list", "gzip")
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(head)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            for block in fortran_blocks(array, dtype):
                stream.write(block)


def write_field(path: Path, field: DisplacementField) -> None:
    """A displacement field as Slicer reads it: kinds vector, domain ×3; LPS mm; float32, raw."""
    marks = "displacement field type:=resampling\nintent_code:=1006\n"
    shape = (3, *field.geometry.shape)
    head = _header(shape, np.dtype(np.float32), field.geometry.affine, "vector", "raw", marks)
    sign = np.array([-1, -1, 1], np.float32)
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(head)
        for k in range(field.geometry.shape[2]):
            file.writelines(fortran_blocks(np.moveaxis(field.mm[:, :, k] * sign, 2, 0)))


def _header(shape, dtype: np.dtype, affine: np.ndarray, other: str, encoding: str, marks: str = "") -> bytes:
    lps = FLIP @ affine + 0.0  # + 0.0: no -0 in the text
    extra = len(shape) - 3
    directions = ["none"] * extra + [_vector(lps[:3, axis]) for axis in range(3)]
    lines = [
        "NRRD0005",
        f"type: {WRITTEN.get(dtype.name, dtype.name)}",
        f"dimension: {len(shape)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in shape)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join([other] * extra + ['domain'] * 3)}",
        "endian: little",
        f"encoding: {encoding}",
        f"space origin: {_vector(lps[:3, 3])}",
    ]
    return ("\n".join(lines) + "\n" + marks + "\n").encode("ascii")


def _vector(values) -> str:
    return "(" + ",".join(repr(float(x)) for x in values) + ")"
