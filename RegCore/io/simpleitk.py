"""What SimpleITK reads: each format without a reader of its own here; writes .mha."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from RegCore.io.complete import check_complete, packed_voxels
from RegCore.io.files import (
    DEFLATE_LIMIT,
    FLIP,
    LPS,
    RawImage,
    atomic_write,
    check_names,
    fortran_blocks,
    in_words,
    shorten,
    stored_type,
)
from RegCore.io.h5 import check_all
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)
PADDING, SIGNED, SLOPE, OFFSET = "0028|0120", "0028|0103", "0028|1053", "0028|1052"  # DICOM tags
METAIMAGE = (".mha", ".mhd")
ELEMENT_TYPES = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT"}
ELEMENT_TYPES |= {"i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}


def read(path: Path) -> RawImage:
    """The voxels and the place of a file; three channels of real numbers are vectors in LPS."""
    reader, shape, affine = _header(path)
    array = None
    if path.suffix.lower() in METAIMAGE:
        array = packed_voxels(path, shape, _dtype(reader))
    array = voxels_of(executed(reader, path)) if array is None else array
    vector = len(shape) == 4 and shape[3] == 3 and array.dtype.kind == "f"
    declared = vector and reader.HasMetaDataKey("intent_code") and reader.GetMetaData("intent_code") == "1006"
    if reader.HasMetaDataKey("nifti_type") and reader.GetMetaData("nifti_type") == "0":
        log.warning("%s: an Analyze file does not say where it lies; it is placed as in Slicer", path)
    slope = float(reader.GetMetaData("scl_slope")) if reader.HasMetaDataKey("scl_slope") else 0.0
    vectors, padding = LPS if vector else None, padding_of(reader)
    return RawImage(array, affine, vectors, declared, rounding=abs(slope) / 2, padding=padding)


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape, channels last, and affine of a file, without its voxels."""
    return _header(path)[1:]


def _header(path: Path) -> tuple[sitk.ImageFileReader, tuple[int, ...], np.ndarray]:
    """A reader that knows its header, the shape with channels last, and the affine, index to RAS mm."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if path.suffix.lower() in METAIMAGE:
        check_names(path)
    check_all(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "determine ImageIO reader" in str(error):
            raise InputError("this is no image of a kind that can be read") from None
        raise InputError(f"it can't be read as an image ({reason(error, path)})") from None
    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in name or "label" in name:
        raise InputError(f"voxels of real numbers were expected, but they are of the type {name}")
    if len(size) < 3 or any(n != 1 for n in size[3:]):
        raise InputError(f"one 3-D volume was expected, but this is {len(size)}-D with shape {size}")
    direction = np.array(reader.GetDirection()).reshape(len(size), len(size))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    Geometry(size[:3], affine)
    count = int(np.prod([*size, channels], dtype=object))
    _check_promise(path, count * _dtype(reader).itemsize)
    bits = int(reader.GetMetaData("bitpix")) if reader.HasMetaDataKey("bitpix") else 0  # before scaling
    kind = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
    check_complete(path, kind, size, count * (bits // 8 or _dtype(reader).itemsize))
    if len(size) > 3:
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    return reader, (*size[:3], channels) if channels > 1 else size[:3], FLIP @ affine


def _dtype(reader: sitk.ImageFileReader) -> np.dtype:
    """The type of the numbers of the voxels that a reader gives."""
    import SimpleITK as sitk

    words = sitk.GetPixelIDValueAsString(reader.GetPixelID()).split()
    kind = "f" if "float" in words else "u" if "unsigned" in words else "i"
    bits = next((int(word.split("-")[0]) for word in words if word[0].isdigit()), 64)
    return np.dtype(f"{kind}{bits // 8}")


def _check_promise(path: Path, promised: int) -> None:
    """A header must not promise more voxels than its file, and those beside and below it, can hold."""
    found = path.stat().st_size
    if promised > found * DEFLATE_LIMIT:
        files = [*path.parent.glob("*"), *path.parent.glob("*/*")]
        found = sum(file.stat().st_size for file in files if file.is_file())
    if promised > found * DEFLATE_LIMIT:
        raise InputError(f"the header promises {in_words(promised)} of voxels, more than the file can hold")


def executed(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> sitk.Image:
    """The image that a reader reads.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"the file is cut short or damaged ({reason(error, path)})") from None


def reason(error: Exception, path: Path) -> str:
    """What ITK says, without the file's name and the places in its source and in memory."""
    junk = r"^Exception thrown.*|^Reason: No such file.*|(ITK|sitk::)\s?ERROR: |\w+\(0x\w+\): "
    return shorten(" ".join(re.sub(junk, "", str(error), flags=re.M).replace(str(path), "it").split()), 200)


class _Buffer:
    """The voxels of an image of SimpleITK for NumPy, not copied; keeps the image alive that owns them."""

    def __init__(self, image: sitk.Image):
        import SimpleITK as sitk

        self.image = image
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def voxels_of(image: sitk.Image) -> np.ndarray:
    """(I, J, K) or (I, J, K, C), the first axis fastest but for channels."""
    array = np.asarray(_Buffer(image))
    return array.transpose(2, 1, 0, 3) if array.ndim == 4 else array.T


# ---- DICOM -------------------------------------------------------------------------------------------------


def read_slices(file: Path) -> tuple[np.ndarray, float | None]:
    """The slices of a DICOM file in its order, (I, J, N), wherever they lie; and the value of padding."""
    try:
        reader = tags_of(str(file))
    except RuntimeError as error:
        raise InputError(f"it can't be read as an image ({reason(error, file)})") from None
    _check_promise(file, int(np.prod(reader.GetSize(), dtype=object)))
    array = voxels_of(executed(reader, file))
    if array.ndim != 3:
        raise InputError(f"frames of one channel were expected, but the array is {array.shape}")
    return array, padding_of(reader)


def tags_of(file: str) -> sitk.ImageFileReader:
    """A reader that knows the header of a file.

    Raises:
        RuntimeError: it is no image.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def padding_of(header: sitk.ImageFileReader) -> float | None:
    """The value of voxels that were not measured, as the header names it, in the unit of the voxels read."""
    named, signed, slope, offset = (
        float(header.GetMetaData(tag)) if header.HasMetaDataKey(tag) else otherwise
        for tag, otherwise in ((PADDING, None), (SIGNED, 0.0), (SLOPE, 1.0), (OFFSET, 0.0))
    )
    if named is None or slope is None or offset is None:
        return None
    if signed and named >= 1 << 15:  # the tag has two types, which some writers mix up
        named -= 1 << 16
    return named * slope + offset


# ---- writing -----------------------------------------------------------------------------------------------


def write_mha(path: Path, volume: Volume) -> None:
    """A volume as MetaImage in one file, not compressed, LPS mm; the channels of a voxel stand together."""
    array, dtype = volume.array, stored_type(volume.array)
    affine, spacing = FLIP @ volume.geometry.affine, volume.geometry.spacing
    fields: dict[str, object] = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": _text((affine[:3, :3] / spacing).T.ravel()),
        "Offset": _text(affine[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _text(spacing),
        "DimSize": " ".join(str(n) for n in array.shape[:3]),
    }
    if array.ndim == 4:
        fields["ElementNumberOfChannels"] = array.shape[3]
        array = np.moveaxis(array, 3, 0)
    fields |= {"ElementType": f"MET_{ELEMENT_TYPES[dtype.str[1:]]}", "ElementDataFile": "LOCAL"}
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write("".join(f"{key} = {value}\n" for key, value in fields.items()).encode("ascii"))
        file.writelines(fortran_blocks(array, dtype))


def _text(values: np.ndarray) -> str:
    return " ".join(repr(float(x) + 0.0) for x in values)
