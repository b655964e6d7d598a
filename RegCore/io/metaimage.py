"""MetaImage files: .mha (one file), .mhd (voxels in a second one), plain or zlib; LPS mm."""

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
    fortran_blocks,
    read_array,
    second_file,
    stored_type,
)
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume

TYPE_OF = {
    "MET_CHAR": "int8",
    "MET_UCHAR": "uint8",
    "MET_SHORT": "int16",
    "MET_USHORT": "uint16",
    "MET_INT": "int32",
    "MET_UINT": "uint32",
    "MET_LONG_LONG": "int64",
    "MET_ULONG_LONG": "uint64",
    "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}
NAME_OF = {dtype: name for name, dtype in TYPE_OF.items()}
LONGEST_LINE = 1 << 16


def read(path: Path) -> RawImage:
    """The voxels and the place of a MetaImage; three channels are vectors in LPS."""
    with open(path, "rb") as file:
        fields = _read_header(file)
        shape, channels = _shape(fields)
        name = fields["ElementDataFile"]
        if name.upper() == "LOCAL":
            array = _voxels(file, path, fields, shape, channels)
        else:
            beside = second_file(path, name)
            with open(beside, "rb") as second:
                array = _voxels(second, beside, fields, shape, channels)
    affine = FLIP @ _affine(fields)
    declared = channels == 3 and fields.get("intent_code") == "1006"
    return RawImage(array, affine, LPS if channels == 3 else None, declared)


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape, channels last, and affine from the header; InputError as from `read`, or if it is cut short."""
    with open(path, "rb") as file:
        fields = _read_header(file)
        shape, channels = _shape(fields)
        affine = FLIP @ _affine(fields)
        name = fields["ElementDataFile"]
        local = name.upper() == "LOCAL"
        beside = path if local else second_file(path, name)
        if not _true(fields, "CompressedData"):
            available = beside.stat().st_size - (file.tell() if local else 0)
            check_length(byte_count((*shape, channels), _type(fields)), available)
    return (shape if channels == 1 else (*shape, channels)), affine


def _read_header(file) -> dict[str, str]:
    """The fields up to ElementDataFile, which ends the header."""
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = file.readline(LONGEST_LINE)
        key, separator, value = line.decode("utf-8", errors="replace").partition("=")
        if not separator:
            raise InputError("not an image: this is not a MetaImage file")
        fields[key.strip()] = value.strip()
    return fields


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int, default) -> list[float]:
    """The first of the fields that is there; MetaImage has several names for the same thing."""
    for name in names:
        if name in fields:
            try:
                values = [float(word) for word in fields[name].split()]
            except ValueError:
                values = []
            if len(values) != count:
                raise InputError(f"the field {name} must hold {count} numbers, but it is {fields[name]!r}")
            return values
    if default is None:
        raise InputError(f"the MetaImage header lacks the field {names[0]}")
    return default


def _shape(fields: dict[str, str]) -> tuple[tuple[int, ...], int]:
    count = int(_numbers(fields, ("NDims",), 1, None)[0])
    shape = tuple(int(n) for n in _numbers(fields, ("DimSize",), count, None))
    if count != 3 and not (count == 4 and shape[3] == 1):
        raise InputError(f"one 3-D volume was expected, but this is {count}-D with shape {shape}")
    if min(shape) < 1:
        raise InputError(f"the volume is empty: its shape is {shape}")
    return shape, int(_numbers(fields, ("ElementNumberOfChannels",), 1, [1])[0])


def _affine(fields: dict[str, str]) -> np.ndarray:
    count = int(fields["NDims"])
    unit = list(np.eye(count).flat)
    rows = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), count**2, unit)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), count, [0.0] * count)
    spacing = _numbers(fields, ("ElementSpacing",), count, [1.0] * count)
    affine = np.eye(4)
    axes = np.array(rows).reshape(count, count)[:3, :3]  # row a: the direction of voxel axis a
    affine[:3, :3], affine[:3, 3] = axes.T * spacing[:3], origin[:3]
    return affine


def _true(fields: dict[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1") for name in names)


def _type(fields: dict[str, str]) -> np.dtype:
    name = fields.get("ElementType", "")
    if name not in TYPE_OF:
        raise InputError(f"voxels of real numbers were expected, but the element type is {name!r}")
    if "BinaryData" in fields and not _true(fields, "BinaryData"):
        raise InputError("binary voxels were expected, but they are text (BinaryData = False)")
    swapped = _true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype(TYPE_OF[name]).newbyteorder("big" if swapped else "little")


def _voxels(file, path: Path, fields: dict[str, str], shape: tuple, channels: int) -> np.ndarray:
    dtype = _type(fields)
    stored = (channels, *shape) if channels != 1 else shape
    skip = int(_numbers(fields, ("HeaderSize",), 1, [0])[0])
    size = path.stat().st_size
    if skip == -1:
        skip = max(0, size - int(np.prod([int(n) for n in stored], dtype=object)) * dtype.itemsize)
        file.seek(skip)
    elif skip > 0:
        file.seek(skip, 1)
    stream = GzipReader(file) if _true(fields, "CompressedData") else file
    array = read_array(stream, stored, dtype, size - file.tell())
    return np.moveaxis(array, 0, -1) if channels != 1 else array


def write_volume(path: Path, volume: Volume) -> None:
    """A volume in one file, not compressed; channels of a voxel stand together."""
    array, dtype = volume.array, stored_type(volume.array)
    lps = FLIP @ volume.geometry.affine
    spacing = volume.geometry.spacing
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        f"TransformMatrix = {_text((lps[:3, :3] / spacing).T.ravel())}",
        f"Offset = {_text(lps[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_text(spacing)}",
        f"DimSize = {' '.join(str(n) for n in array.shape[:3])}",
    ]
    if array.ndim == 4:
        lines.append(f"ElementNumberOfChannels = {array.shape[3]}")
        array = np.moveaxis(array, 3, 0)
    lines += [f"ElementType = {NAME_OF[dtype.name]}", "ElementDataFile = LOCAL"]
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
        file.writelines(fortran_blocks(array, dtype))


def _text(values) -> str:
    return " ".join(repr(float(x) + 0.0) for x in values)
