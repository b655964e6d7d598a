"""Enhanced DICOM: many slices in one file, whose places and times stand in nested groups of the header.

SimpleITK reads the voxels, in the order of the file, but does not tell the groups; they are read here.
"""

import logging
import mmap
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.io import simpleitk
from RegCore.io.files import FLIP, RawImage
from RegCore.space.geometry import InputError

log = logging.getLogger(__name__)
UNEVEN = 0.01  # mm: slices further from even steps along their normal are worth a warning
SAME_PLACE = 1e-3  # mm: slices less apart are frames of one place
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END, PIXELS = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE0
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # kinds with four bytes for the length
DEEPEST, LONGEST = 16, 1024  # nested sequences, and bytes of a value that is kept
TRANSFER_SYNTAX = 0x00020010
UNREADABLE = {"1.2.840.10008.1.2.2": "big-endian", "1.2.840.10008.1.2.1.99": "deflated"}
IMPLICIT = "1.2.840.10008.1.2"
COUNT, SHARED, FRAMES = 0x00280008, 0x52009229, 0x52009230
CONTENT, POSITION, ORIENTATION, SCALE = 0x00209111, 0x00209113, 0x00209116, 0x00289145
CARDIAC, TEMPORAL, INDICES, MEASURES = 0x00189118, 0x00209310, 0x00209157, 0x00289110
NESTED = frozenset((SHARED, FRAMES, CONTENT, POSITION, ORIENTATION, SCALE, CARDIAC, TEMPORAL, MEASURES))

NOWHERE = "its slices do not say where they lie, so frames can't be told from places"

Group = dict[int, Any]
"""Elements by their tags: bytes, or a list of groups."""


class _Parser:
    """Reads elements; what is not as it should be is an `InputError`."""

    def __init__(self, data: Any, explicit: bool):
        self.data, self.explicit = data, explicit

    def number(self, at: int, size: int) -> int:
        part = self.data[at : at + size]
        if len(part) < size:
            raise InputError("the file is cut short within its header")
        return int.from_bytes(part, "little")

    def head(self, at: int) -> tuple[int, bytes, int, int]:
        """Tag, kind (b"" where the file does not say it) and length of an element, and where it begins."""
        tag = self.number(at, 2) << 16 | self.number(at + 2, 2)
        if not self.explicit or tag >> 16 == 0xFFFE:
            return tag, b"", self.number(at + 4, 4), at + 8
        kind = self.data[at + 4 : at + 6]
        if kind in LONG:
            return tag, kind, self.number(at + 8, 4), at + 12
        return tag, kind, self.number(at + 6, 2), at + 8

    def group(self, at: int, end: int, depth: int = 0, only: int | None = None) -> tuple[Group, int]:
        """The elements from one place to another, or to a delimiter; and where they end.

        only: the group number of a part of the file, which ends with it.
        """
        found: Group = {}
        while at < end:
            before = at
            tag, kind, length, at = self.head(at)
            if tag in (ITEM_END, SEQUENCE_END) or (depth == 0 and tag >> 16 == PIXELS):
                return found, at
            if only is not None and tag >> 16 != only:
                return found, before
            if length == UNDEFINED or kind == b"SQ" or (not kind and tag in NESTED):
                items, at = self.sequence(at, length, depth + 1, tag >> 16 == PIXELS)
                found[tag] = items
                continue
            if at + length > end:
                raise InputError("the file is cut short within its header")
            if length <= LONGEST:
                found[tag] = self.data[at : at + length]
            at += length
        return found, at

    def sequence(self, at: int, length: int, depth: int, skip: bool) -> tuple[list[Group], int]:
        """The items of a sequence; and where it ends."""
        end = len(self.data) if length == UNDEFINED else at + length
        if depth > DEEPEST or end > len(self.data):
            raise InputError("the header is damaged: a sequence in it does not end")
        items: list[Group] = []
        while at < end:
            tag, _, size, at = self.head(at)
            if tag == SEQUENCE_END:
                break
            stop = end if size == UNDEFINED else at + size
            if tag != ITEM or stop > end:
                raise InputError("the header is damaged: a sequence in it has no items")
            item, stop = ({}, stop) if skip else self.group(at, stop, depth)
            items.append(item)
            at = stop if size == UNDEFINED else at + size
        return items, at


def read_groups(path: Path) -> Group:
    """The header of a DICOM file, up to its voxels.

    Raises:
        InputError: it is damaged, or of a form that is not read here.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[128:132] != b"DICM":
            raise InputError("this is no DICOM file")
        meta, at = _Parser(data, True).group(132, len(data), only=2)
        syntax = _text(meta.get(TRANSFER_SYNTAX, b""))
        if syntax in UNREADABLE:
            raise InputError(f"this DICOM file is {UNREADABLE[syntax]}, which is not read here")
        return _Parser(data, syntax != IMPLICIT).group(at, len(data))[0]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as one of DICOM."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


# ---- frames ------------------------------------------------------------------------------------------------


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def _decimals(value: bytes | None) -> tuple[float, ...]:
    return tuple(float(part) for part in _text(value).split("\\")) if value else ()


def _whole(value: bytes) -> float:
    return float(int.from_bytes(value, "little"))


def _double(value: bytes) -> float:
    return float(struct.unpack("<d", value)[0])


TIMES: tuple[tuple[int | None, int, Callable[[bytes], float]], ...] = (
    (CONTENT, 0x00209128, _whole),  # temporal position index
    (TEMPORAL, 0x0020930D, _double),  # temporal position time offset
    (CARDIAC, 0x00209153, _double),  # nominal cardiac trigger delay time
    (
        CONTENT,
        0x00189074,
        lambda value: float(_text(value).partition("+")[0]),
    ),  # acquisition date and time
    (CONTENT, 0x00209156, _whole),  # frame acquisition number
    (None, 0x00200012, lambda value: float(_text(value))),  # of the whole file: acquisition number
    (None, 0x00200013, lambda value: float(_text(value))),  # instance number
)
"""What tells the frames of a place apart: sequence, tag in it, and how it is read."""


@dataclass(frozen=True)
class _Slice:
    """A slice of a file: where it is, LPS mm, how it lies and is scaled, and all that may be its time."""

    place: tuple[float, ...]
    lies: tuple[float, ...]  # directions of rows and columns, and the distances of the rows and in them, mm
    scale: tuple[float, ...]
    times: dict[Any, float]


def _slices(header: Group) -> list[_Slice]:
    """The slices of a file in its order.

    Raises:
        InputError: a slice does not say where it lies.
    """
    shared = (header.get(SHARED) or [{}])[0]
    found = []
    for own in header.get(FRAMES) or []:

        def value(sequence: int | None, tag: int, own: Group = own) -> bytes | None:
            if sequence is None:
                return header.get(tag)
            group = (own.get(sequence) or shared.get(sequence) or [{}])[0]
            return group.get(tag)

        try:
            place, turned = _decimals(value(POSITION, 0x00200032)), _decimals(value(ORIENTATION, 0x00200037))
            apart = _decimals(value(MEASURES, 0x00280030))
            if (len(place), len(turned), len(apart)) != (3, 6, 2):
                raise InputError(NOWHERE)
            scale = _decimals(value(SCALE, 0x00281053)) + _decimals(value(SCALE, 0x00281052))
            times: dict[Any, float] = {}
            for sequence, tag, read in TIMES:
                if given := value(sequence, tag):
                    times[sequence, tag] = read(given)
            indices = value(CONTENT, INDICES) or b""
            times |= {n: _whole(indices[4 * n : 4 * n + 4]) for n in range(len(indices) // 4)}
            found.append(_Slice(place, turned + apart, scale, times))
        except (ValueError, struct.error) as error:
            raise InputError(f"a number in its header can't be read ({error})") from None
    return found


def holds_frames(path: Path) -> bool:
    """Whether a DICOM file holds several slices.

    Raises:
        InputError: it is damaged, or of a form that is not read here.
    """
    count = _text(read_groups(path).get(COUNT, b"1")) or "1"
    return count.isdigit() and int(count) > 1


def read_frames(files: Sequence[Path]) -> RawImage:
    """The frames of Enhanced DICOM in which every place occurs once for each frame, (I, J, K, T).

    Args:
        files: one with all frames, or one for each frame, say.

    Raises:
        InputError: the slices do not say where they lie or which comes first, lie in different ways, or a
            place lacks a frame.
    """
    each = [_slices(read_groups(file)) for file in files]
    if not all(each):
        raise InputError(NOWHERE)
    slices = [one for some in each for one in some]
    stacks = _stacks(slices)
    voxels, padding = _voxels(files, each)
    array = np.stack([voxels[:, :, [stack[t] for stack in stacks]] for t in range(len(stacks[0]))], -1)
    return _placed(files[0], array, slices, [stack[0] for stack in stacks], padding)


def read_volume(files: Sequence[Path]) -> RawImage | None:
    """The volume of Enhanced DICOM, (I, J, K), whose slices may stand in any order.

    Args:
        files: one with all slices, or several.

    Returns:
        The volume; None where the files do not say where each slice lies, or not in a form that is read here.

    Raises:
        InputError: slices lie in different ways, or several at one place.
    """
    try:
        each = [_slices(read_groups(file)) for file in files]
    except InputError:
        return None
    slices = [one for some in each for one in some]
    if not all(each):
        return None
    heights = _heights(slices)
    order = np.argsort(heights, kind="stable").tolist()
    if len(order) > 1 and np.diff(heights[order]).min() < SAME_PLACE:
        count = len(np.unique((heights / SAME_PLACE).round()))
        raise InputError(
            f"{len(slices)} slices lie at {count} places, so they are frames, which register-series takes"
        )
    voxels, padding = _voxels(files, each)
    return _placed(files[0], voxels[:, :, order], slices, order, padding)


def _voxels(files: Sequence[Path], each: Sequence[Sequence[_Slice]]) -> tuple[np.ndarray, float | None]:
    """The voxels of all slices in the order of the files, (I, J, N), and the value of padding.

    SimpleITK scales all slices of a file as the first: where they differ this is undone.
    """
    images = [simpleitk.read_slices(file) for file in files]
    arrays = []
    for (array, _), slices in zip(images, each, strict=True):
        if array.shape[2] != len(slices):
            raise InputError(f"it has {array.shape[2]} slices, but {len(slices)} say where they lie")
        if len({one.scale for one in slices}) > 1:
            scales = np.array([one.scale or (1.0, 0.0) for one in slices])
            slope, offset = scales[0]
            if slope == 0:
                raise InputError("its voxels are scaled by 0")
            array = (array - offset) / slope * scales[:, 0] + scales[:, 1]
        arrays.append(array)
    return np.concatenate(arrays, 2), images[0][1]


def _placed(
    path: Path, array: np.ndarray, slices: Sequence[_Slice], order: Sequence[int], padding: float | None
) -> RawImage:
    """An image of slices in the given order, the lowest first."""
    if np.ptp([one.lies for one in slices], axis=0).max() > 1e-4:
        raise InputError("its slices lie in different directions, so they are not those of one volume")
    places = np.array([slices[n].place for n in order])
    affine, (rows, columns) = np.eye(4), slices[0].lies[6:]
    affine[:3, 0], affine[:3, 1] = (np.array(slices[0].lies[n : n + 3]) for n in (0, 3))
    affine[:3, 2], affine[:3, 3] = np.cross(affine[:3, 0], affine[:3, 1]), places[0]
    affine[:3, :2] *= (columns, rows)
    if len(places) > 1:
        affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
        warn_of_gaps(path, np.diff(places, axis=0), np.cross(affine[:3, 0], affine[:3, 1]))
    return RawImage(array, FLIP @ affine, kind="image", padding=padding)


def _heights(slices: Sequence[_Slice]) -> np.ndarray:
    """How high slices lie along their normal, (N,) mm."""
    row, column = np.array(slices[0].lies[:6]).reshape(2, 3)
    return np.array([one.place for one in slices]) @ np.cross(row, column)


def _stacks(slices: Sequence[_Slice]) -> list[list[int]]:
    """The numbers of the slices of each place, along the normal, in the order of their times."""
    stacks = stacks_of(_heights(slices))
    for key in dict.fromkeys(key for one in slices for key in one.times):
        times = [[slices[n].times.get(key) for n in stack] for stack in stacks]
        if all(None not in some and len(set(some)) == len(stacks[0]) for some in times):
            return [sorted(stack, key=lambda n, key=key: slices[n].times[key]) for stack in stacks]  # type: ignore
    raise InputError("the slices of one place do not say which comes first")


# ---- places, of all kinds of DICOM -------------------------------------------------------------------------


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
