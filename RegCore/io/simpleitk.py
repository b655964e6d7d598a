"""What SimpleITK reads: each format without a reader of its own here, and folders of DICOM; writes .mha."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
POSITION, SERIES, TITLE = "0020|0032", "0020|000e", "0008|103e"  # DICOM tags
PADDING, SIGNED, SLOPE, OFFSET = "0028|0120", "0028|0103", "0028|1053", "0028|1052"
ORIENTATION = "0020|0037"
TIMES = ("0020|0100", "0018|1060", "0008|0032", "0020|0012", "0020|0013")
"""DICOM tags that tell frames apart: temporal position, trigger time, acquisition time, numbers."""
GIPL_HEADER = 256  # bytes
UNEVEN = 0.01  # mm: slices further from even steps along their normal are worth a warning
ELEMENT_TYPES = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT"}
ELEMENT_TYPES |= {"i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}


def read(path: Path) -> RawImage:
    """The voxels and the place of a file; three channels of real numbers are vectors in LPS."""
    reader, shape, affine = _header(path)
    array = _voxels(_executed(reader, path))
    vector = len(shape) == 4 and shape[3] == 3 and array.dtype.kind == "f"
    declared = vector and reader.HasMetaDataKey("intent_code") and reader.GetMetaData("intent_code") == "1006"
    if reader.HasMetaDataKey("nifti_type") and reader.GetMetaData("nifti_type") == "0":
        log.warning("%s: an Analyze file does not say where it lies; it is placed as in Slicer", path)
    slope = float(reader.GetMetaData("scl_slope")) if reader.HasMetaDataKey("scl_slope") else 0.0
    vectors, padding = LPS if vector else None, _padding(reader)
    return RawImage(array, affine, vectors, declared, rounding=abs(slope) / 2, padding=padding)


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape, channels last, and affine of a file, without its voxels."""
    return _header(path)[1:]


def _header(path: Path) -> tuple[sitk.ImageFileReader, tuple[int, ...], np.ndarray]:
    """A reader that knows its header, the shape with channels last, and the affine, index to RAS mm."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if path.suffix.lower() in (".mhd", ".mha"):
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
    bits = next((int(word.split("-")[0]) for word in name.split() if word[0].isdigit()), 64)
    _check_promise(path, int(np.prod([*size, channels], dtype=object)) * bits // 8)
    if len(size) > 3:
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    return reader, (*size[:3], channels) if channels > 1 else size[:3], FLIP @ affine


def _check_promise(path: Path, promised: int) -> None:
    """A header must not promise more voxels than its file, and those beside and below it, can hold."""
    found = path.stat().st_size
    # of a cut .gipl file ITK would fill the rest with anything
    if path.suffix.lower() == ".gipl" and GIPL_HEADER + promised > found:
        found = max(0, found - GIPL_HEADER)
        raise InputError(f"the file is cut short: {in_words(promised)} promised, {in_words(found)} found")
    if promised > found * DEFLATE_LIMIT:
        files = [*path.parent.glob("*"), *path.parent.glob("*/*")]
        found = sum(file.stat().st_size for file in files if file.is_file())
    if promised > found * DEFLATE_LIMIT:
        raise InputError(f"the header promises {in_words(promised)} of voxels, more than the file can hold")


def _executed(reader: sitk.ImageFileReader | sitk.ImageSeriesReader, path: Path) -> sitk.Image:
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


def _voxels(image: sitk.Image) -> np.ndarray:
    """(I, J, K) or (I, J, K, C), the first axis fastest but for channels."""
    array = np.asarray(_Buffer(image))
    return array.transpose(2, 1, 0, 3) if array.ndim == 4 else array.T


# ---- DICOM -------------------------------------------------------------------------------------------------


def read_folder(folder: Path, series: Sequence[str] | None = None) -> RawImage:
    """The volume of a folder of DICOM slices, placed as ITK and Slicer place it.

    Args:
        folder: holds the files of one series, or of several.
        series: the UID of the series, or several, of which one is here; None where there is only one.

    Raises:
        InputError: there is no series, none of this UID, or the choice is open; the sentence lists them.
    """
    import SimpleITK as sitk

    found = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid) for uid in _series(folder)}
    if not found:
        raise InputError("this is a folder, but there is no DICOM series in it")
    chosen = [uid for uid in found if series is None or uid in series or _uid(found[uid][0]) in series]
    if len(chosen) != 1:
        kinds = [(_uid(files[0]), _title(files[0]), len(files)) for files in found.values()]
        listed = "; ".join(f"{uid} ({title}, {count} files)" for uid, title, count in kinds)
        wrong = "" if series is None else f", {len(chosen) or 'none'} of them {' or '.join(series)}"
        raise InputError(f"the folder holds {len(found)} DICOM series{wrong}; choose one of: {listed}")
    files = found[chosen[0]]
    if len(files) == 1:
        return read(Path(files[0]))
    array, affine = _stacked(folder, files)
    return RawImage(array, affine, kind="image", padding=_padding(_tags(files[0])))


def _stacked(folder: Path, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The volume of slices in their order, and its affine, voxel index to RAS mm."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    image = _executed(reader, folder)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    places = _slice_places(files)
    if places is not None:
        affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
        warn_of_gaps(folder, np.diff(places, axis=0), np.cross(affine[:3, 0], affine[:3, 1]))
    return _voxels(image), FLIP @ affine


def read_slices(file: Path) -> tuple[np.ndarray, float | None]:
    """The slices of a DICOM file in its order, (I, J, N), wherever they lie; and the value of padding."""
    try:
        reader = _tags(str(file))
    except RuntimeError as error:
        raise InputError(f"it can't be read as an image ({reason(error, file)})") from None
    _check_promise(file, int(np.prod(reader.GetSize(), dtype=object)))
    array = _voxels(_executed(reader, file))
    if array.ndim != 3:
        raise InputError(f"frames of one channel were expected, but the array is {array.shape}")
    return array, _padding(reader)


def series_files(folder: Path, series: str | None = None) -> list[str]:
    """The files of a DICOM series.

    Args:
        folder: holds the files of one series, or of several.
        series: the UID of the series; None where there is only one.

    Raises:
        InputError: there is no series, none of this UID, or the choice is open.
    """
    import SimpleITK as sitk

    found: dict[str, list[str]] = {}
    for uid in _series(folder):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        found.setdefault(_uid(files[0]), []).extend(files)
    if not found:
        raise InputError("this is a folder, but there is no DICOM series in it")
    chosen = [uid for uid in found if series in (None, uid)]
    if len(chosen) != 1:
        listed = "; ".join(f"{uid} ({_title(files[0])}, {len(files)} files)" for uid, files in found.items())
        raise InputError(f"the folder holds {len(found)} DICOM series; choose one of: {listed}")
    return found[chosen[0]]


def read_frames(folder: Path, listed: Sequence[str]) -> RawImage:
    """The frames of DICOM slices, each of which occurs once for each frame, (I, J, K, T).

    Slices of one place are put in order by the first of `TIMES` that tells them apart.

    Args:
        folder: that errors and warnings name.
        listed: the files of a series, see `series_files`.

    Raises:
        InputError: a place lacks a frame, or a slice does not say where it lies.
    """
    files = _frames(listed)
    frames = [_stacked(folder, frame) for frame in files]
    padding = _padding(_tags(files[0][0]))
    return RawImage(np.stack([array for array, _ in frames], -1), frames[0][1], kind="image", padding=padding)


def _frames(files: Sequence[str]) -> list[list[str]]:
    """The files of each frame in the order of their places."""
    places = _slice_places(files)
    if places is None:
        raise InputError("the slices do not say where they lie, so frames can't be told from places")
    row, column = np.array(_tag(files[0], ORIENTATION).split("\\"), float).reshape(2, 3)
    stacks = [[files[n] for n in stack] for stack in stacks_of(places @ np.cross(row, column))]
    count = len(stacks[0])
    for tag in TIMES:
        times = [[_number(_tag(file, tag)) for file in stack] for stack in stacks]
        if all(len(set(of_stack)) == count for of_stack in times):
            ordered = [[stack[n] for n in np.argsort(t)] for stack, t in zip(stacks, times, strict=True)]
            return [[stack[frame] for stack in ordered] for frame in range(count)]
    raise InputError("the slices of one place do not say which comes first")


def stacks_of(heights: np.ndarray) -> list[list[int]]:
    """The numbers of the slices of each place of a series of frames, from the lowest place on.

    Args:
        heights: of each slice along the normal, mm.

    Raises:
        InputError: a place lacks a frame, or there is just one place or one frame.
    """
    steps = (heights / UNEVEN).round().astype(int)
    stacks = [np.flatnonzero(steps == step).tolist() for step in np.unique(steps)]
    counts = sorted({len(stack) for stack in stacks})
    if len(counts) > 1:
        raise InputError(f"each place needs as many slices as there are frames, but they have {counts}")
    if len(stacks) < 2 or counts[0] < 2:
        raise InputError(
            f"a series of frames was expected, but there are {counts[0]} at {len(stacks)} places"
        )
    return stacks


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _series(folder: Path) -> tuple[str, ...]:
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it prints that there is none
    try:
        return sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _tags(file: str) -> sitk.ImageFileReader:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _title(file: str) -> str:
    return _tag(file, TITLE) or "no description"


def _uid(file: str) -> str:
    """The UID of the series as DICOM has it: ITK adds to it where one series holds several volumes."""
    return _tag(file, SERIES)


def _tag(file: str, tag: str) -> str:
    tags = _tags(file)
    return tags.GetMetaData(tag).strip(" \0") if tags.HasMetaDataKey(tag) else ""


def _padding(header: sitk.ImageFileReader) -> float | None:
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


def _slice_places(files: Sequence[str]) -> np.ndarray | None:
    """The centre of the first voxel of each slice, (N, 3) LPS mm; None where the files do not say it."""
    headers = [_tags(file) for file in files]
    if not all(header.HasMetaDataKey(POSITION) for header in headers):
        return None
    return np.array([[float(x) for x in header.GetMetaData(POSITION).split("\\")] for header in headers])


def warn_of_gaps(folder: Path, steps: np.ndarray, normal: np.ndarray) -> None:
    """Say where slices are missing, which all readers take for evenly spaced, or shifted by a gantry tilt."""
    normal = normal / np.linalg.norm(normal)
    heights = steps @ normal
    if np.ptp(heights) > UNEVEN:
        text = "%s: the slices are %.3g to %.3g mm apart, some may be missing; all are taken as evenly spaced"
        log.warning(text, folder, heights.min(), heights.max())
    aside = np.linalg.norm(steps - heights[:, None] * normal, axis=1).max()
    if aside > UNEVEN:
        text = "%s: each slice is shifted by up to %.3g mm in its plane (gantry tilt), so the grid is sheared"
        log.warning(text, folder, aside)


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
