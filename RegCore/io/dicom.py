"""DICOM: folders of slices, as a volume or as frames, and files with many; SimpleITK reads the voxels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from RegCore.io import enhanced, simpleitk
from RegCore.io.enhanced import SAME_PLACE, stacks_of, warn_of_gaps
from RegCore.io.files import FLIP, RawImage
from RegCore.io.simpleitk import OFFSET, SLOPE, executed, padding_of, tags_of, voxels_of
from RegCore.space.geometry import InputError

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)
Result = TypeVar("Result")
POSITION, ORIENTATION = "0020|0032", "0020|0037"  # DICOM tags
INSTANCE, SERIES, TITLE = "0008|0018", "0020|000e", "0008|103e"
TIMES = ("0020|0100", "0018|1060", "0008|0032", "0020|0012", "0020|0013")
"""DICOM tags that tell frames apart: temporal position, trigger time, acquisition time, numbers."""


@dataclass(frozen=True, eq=False)
class _SliceFile:
    """What the header of a slice says.

    Args:
        file: where it is.
        size: columns and rows.
        instance: what tells it from every other slice; the file where the header does not say it.
        place: the centre of its first voxel, (3,) LPS mm, or None.
        directions: unit vectors along its rows and columns, (2, 3) LPS, or None.
        scale: the type of the voxels that are read, and what they are scaled by.
        times: what may tell frames apart, as in `TIMES`.
    """

    file: str
    size: tuple[int, ...]
    instance: str
    place: np.ndarray | None
    directions: np.ndarray | None
    scale: tuple[object, ...]
    times: tuple[float, ...]


def read(path: Path) -> RawImage:
    """The voxels and the place of a file for which there is no reader of its own here, DICOM or not."""
    several = enhanced.read_volume([path]) if _holds_slices(path) else None
    return several or simpleitk.read(path)


def read_folder(folder: Path, series: Sequence[str] | None = None) -> RawImage:
    """The volume of a folder of DICOM slices, placed as ITK and Slicer place it.

    Args:
        folder: holds the files of one series, or of several; where it holds none, folders below it do.
        series: the UID of the series, or several, of which one is here; None where there is only one.

    Raises:
        InputError: there is no series, none of this UID, or the choice is open; the sentence lists them.
    """
    found = _series(folder)
    chosen = [uid for uid in found if series is None or uid in series or _uid(found[uid][0]) in series]
    if len(chosen) != 1:
        wrong = "" if series is None else f", {len(chosen) or 'none'} of them {' or '.join(series)}"
        raise InputError(
            f"the folder holds {len(found)} DICOM series{wrong}; choose one of: {_listed(found)}"
        )
    files = found[chosen[0]]
    several = enhanced.read_volume([Path(f) for f in files]) if _holds_slices(Path(files[0])) else None
    if several is not None or len(files) == 1:
        return several or simpleitk.read(Path(files[0]))
    slices = _in_space(folder, _of_one_grid(folder, files))
    array, affine = _stacked(folder, slices)
    return RawImage(array, affine, kind="image", padding=padding_of(tags_of(slices[0].file)))


def _of_one_grid(folder: Path, files: Sequence[str]) -> list[_SliceFile]:
    """The slices without copies of one, and without those of another size or direction.

    Such as a localiser in the series of the scan, which has fewer slices.

    Raises:
        InputError: no size and direction is that of most.
    """
    unique: dict[str, _SliceFile] = {}
    for file in files:
        one = _slice(file)
        unique.setdefault(one.instance, one)
    grids: dict[object, list[_SliceFile]] = {}
    for one in unique.values():
        lies = None if one.directions is None else tuple(np.round(one.directions, 2).ravel() + 0.0)
        grids.setdefault((one.size, lies), []).append(one)
    most = max(grids.values(), key=len)
    left_out = len(unique) - len(most)
    if left_out >= len(most):
        counts = ", ".join(str(len(some)) for some in grids.values())
        raise InputError(
            f"the series holds {len(grids)} volumes of different sizes or directions, of {counts} slices; "
            "put the files of one of them into a folder of their own"
        )
    if left_out:
        text = "%s: files of another size or direction, a localiser maybe, are left out: %d"
        log.warning(text, folder, left_out)
    return most


def _in_space(folder: Path, slices: list[_SliceFile]) -> list[_SliceFile]:
    """The slices of one volume from the lowest on.

    Raises:
        InputError: they are several frames of one.
    """
    places, heights = _places(slices)
    if places is None:
        log.warning("%s: the slices do not say where they lie; they are placed as in Slicer", folder)
        return slices
    order = np.argsort(heights, kind="stable")
    if len(slices) > 1 and np.diff(heights[order]).min() < SAME_PLACE:
        count = len(np.unique((heights / SAME_PLACE).round()))
        raise InputError(
            f"{len(slices)} slices lie at {count} places, so they are frames, which register-series takes"
        )
    return [slices[n] for n in order]


def _places(slices: Sequence[_SliceFile]) -> tuple[np.ndarray | None, np.ndarray]:
    """The centres of the first voxels, (N, 3) LPS mm, and how high they lie along the normal, (N,) mm.

    None where a file does not say it.
    """
    places = [one.place for one in slices if one.place is not None and one.directions is not None]
    if len(places) < len(slices) or slices[0].directions is None:
        return None, np.zeros(len(slices))
    return np.array(places), np.array(places) @ np.cross(*slices[0].directions)


def _stacked(folder: Path, slices: Sequence[_SliceFile]) -> tuple[np.ndarray, np.ndarray]:
    """The volume of slices in their order, and its affine, voxel index to RAS mm."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([one.file for one in slices])
    if len({one.scale for one in slices}) > 1:  # ITK takes the type of the first for all
        reader.SetOutputPixelType(sitk.sitkFloat64)
    image = _quietly(lambda: executed(reader, folder))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    places, _ = _places(slices)
    if places is not None and len(slices) > 1:
        affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
        warn_of_gaps(folder, np.diff(places, axis=0), np.cross(affine[:3, 0], affine[:3, 1]))
    return voxels_of(image), FLIP @ affine


def series_files(folder: Path, series: str | None = None) -> list[str]:
    """The files of a DICOM series.

    Args:
        folder: holds the files of one series, or of several; where it holds none, folders below it do.
        series: the UID of the series; None where there is only one.

    Raises:
        InputError: there is no series, none of this UID, or the choice is open.
    """
    found: dict[str, list[str]] = {}
    for files in _series(folder).values():
        found.setdefault(_uid(files[0]), []).extend(files)
    chosen = [uid for uid in found if series in (None, uid)]
    if len(chosen) != 1:
        raise InputError(f"the folder holds {len(found)} DICOM series; choose one of: {_listed(found)}")
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
    slices = _frames(_of_one_grid(folder, listed))
    frames = [_stacked(folder, frame) for frame in slices]
    padding = padding_of(tags_of(slices[0][0].file))
    return RawImage(np.stack([array for array, _ in frames], -1), frames[0][1], kind="image", padding=padding)


def _frames(slices: Sequence[_SliceFile]) -> list[list[_SliceFile]]:
    """The slices of each frame in the order of their places."""
    places, heights = _places(slices)
    if places is None:
        raise InputError("the slices do not say where they lie, so frames can't be told from places")
    stacks = [[slices[n] for n in stack] for stack in stacks_of(heights)]
    count = len(stacks[0])
    for n in range(len(TIMES)):
        times = [[one.times[n] for one in stack] for stack in stacks]
        if all(len(set(of_stack)) == count for of_stack in times):
            ordered = [[stack[n] for n in np.argsort(t)] for stack, t in zip(stacks, times, strict=True)]
            return [[stack[frame] for stack in ordered] for frame in range(count)]
    raise InputError("the slices of one place do not say which comes first")


# ---- headers -----------------------------------------------------------------------------------------------


def _series(folder: Path) -> dict[str, list[str]]:
    """The files of each series of a folder by ITK's name for it, or of the folders below where it has none.

    Raises:
        InputError: there is none.
    """
    found = _series_in(folder)
    if not found:
        for below in sorted(path for path in folder.rglob("*") if path.is_dir()):
            for uid, files in _series_in(below).items():
                found.setdefault(uid, []).extend(files)
    if not found:
        raise InputError("this is a folder, but there is no DICOM series in it")
    return found


def _series_in(folder: Path) -> dict[str, list[str]]:
    import SimpleITK as sitk

    reader, place = sitk.ImageSeriesReader, str(folder)
    uids = _quietly(lambda: reader.GetGDCMSeriesIDs(place))
    return {uid: list(reader.GetGDCMSeriesFileNames(place, uid)) for uid in uids}


def _quietly(action: Callable[[], Result]) -> Result:
    """What an action of SimpleITK gives, without the warnings that ITK prints; our own say the same."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return action()
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _listed(found: dict[str, list[str]]) -> str:
    heads = [(tags_of(files[0]), len(files)) for files in found.values()]
    return "; ".join(
        f"{_tag(head, SERIES)} ({_tag(head, TITLE) or 'no description'}, {count} files)"
        for head, count in heads
    )


def _uid(file: str) -> str:
    """The UID of the series as DICOM has it: ITK adds to it where one series holds several volumes."""
    return _tag(tags_of(file), SERIES)


def _tag(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip(" \0") if header.HasMetaDataKey(tag) else ""


def _numbers(header: sitk.ImageFileReader, tag: str, count: int) -> np.ndarray | None:
    """The numbers of a tag, or None where there are not so many of them."""
    words = _tag(header, tag).split("\\")
    return np.array(words, float) if len(words) == count else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _slice(file: str) -> _SliceFile:
    header = tags_of(file)
    directions = _numbers(header, ORIENTATION, 6)
    return _SliceFile(
        file,
        header.GetSize()[:2],
        _tag(header, INSTANCE) or file,
        _numbers(header, POSITION, 3),
        None if directions is None else directions.reshape(2, 3),
        (header.GetPixelID(), _tag(header, SLOPE), _tag(header, OFFSET)),
        tuple(_number(_tag(header, tag)) for tag in TIMES),
    )


def _holds_slices(path: Path) -> bool:
    """Whether a file is one of DICOM with several slices."""
    try:
        return enhanced.is_dicom(path) and tags_of(str(path)).GetSize()[2:] > (1,)
    except RuntimeError:  # no image: who reads it will say so
        return False
