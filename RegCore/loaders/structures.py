"""Label maps as labels: which structures are in the files, and each of them as a channel of its own.

A label map is a 3-D file of whole numbers, as segmentation programs write it, or a ``.seg.nrrd`` of Slicer,
whose structures have names. What else a label can be, masks and soft labels in [0, 1] with a channel for each
structure, is left as it is.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from RegCore.io import load
from RegCore.loaders.sources import Name, Source
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import nearest
from RegCore.space.volume import Segment, Volume, distinct_values

log = logging.getLogger(__name__)
MOST = 256  # structures that are taken without being asked for
Wanted = str | Sequence[int] | Sequence[str] | None


@dataclass
class Structures:
    """The structures that all labels of a loader share; found when they are first asked for.

    Args:
        wanted: "all", values of label maps, or names. None: all, if the first file that can be told from
            masks is a label map, else the labels are left as they are.
        where: what stands before messages.
        maps: the labels of each side, see `LabelMaps`.
    """

    wanted: Wanted
    where: str
    maps: list["LabelMaps"] = field(default_factory=list)
    _names: list[str] | None = None
    _found: bool = False

    def opened(self, source: Source) -> "LabelMaps":
        """The labels of one more side."""
        self.maps.append(LabelMaps(source, self))
        return self.maps[-1]

    @property
    def names(self) -> list[str] | None:
        """Of the structures, in the order of the channels: names where files have them, else values.

        None where labels are left as they are.

        Raises:
            InputError: none of the files holds a structure that is wanted, or can be used.
        """
        if not self._found:
            self._names = self._chosen() if self._are_maps() else None
            self._found = True
        return self._names

    def counts(self, maps: "LabelMaps") -> str:
        """In how many images of a side each structure is, in words."""
        count = Counter(name for index in range(len(maps)) for name in maps.in_file(index))
        return ", ".join(f"{name} in {count[name]}" for name in self.names or ())

    def _are_maps(self) -> bool:
        if self.wanted is not None:
            return True
        for maps in self.maps:
            for index in range(len(maps)):
                try:
                    array, segments = _read(maps.source, index)
                except InputError:  # told when it is this file's turn
                    continue
                is_map = True if segments else _is_map(array)
                if is_map is not None:
                    return is_map
        return False

    def _chosen(self) -> list[str]:
        known: dict[str, set[int]] = {}
        for maps in self.maps:
            for index in range(len(maps)):
                for name, value in maps.in_file(index).items():
                    known.setdefault(name, set()).add(value)
        listed = sorted(known, key=lambda name: (min(known[name]), name))
        failed = [error for maps in self.maps for error in maps.failures]
        if not listed and failed:  # else the empty ones would be blamed
            raise failed[0]
        if not listed:
            raise InputError(f"{self.where}: the label maps are all empty, but a structure was expected")
        if self.wanted is None and len(listed) > MOST:
            raise InputError(
                f"{self.where}: the labels hold {len(listed)} values: are they images? "
                "dataset.labels names those that are structures (or all)"
            )
        if self.wanted is None or self.wanted == "all":
            return listed
        wanted = [self.wanted] if isinstance(self.wanted, str) else self.wanted
        return [self._matching(one, known, listed) for one in wanted]

    def _matching(self, wanted: int | str, known: dict[str, set[int]], listed: list[str]) -> str:
        """The structure of this value or name."""
        if isinstance(wanted, int):
            found = [name for name in listed if wanted in known[name]]
        else:
            found = [name for name in listed if name.casefold() == wanted.strip().casefold()]
        if len(found) == 1:
            return found[0]
        if found:
            names = " and ".join(repr(name) for name in found)
            raise InputError(f"{self.where}: the value {wanted} means {names} in the labels; give the name")
        close = nearest(str(wanted), listed) or f", there are {', '.join(listed[:20])}"
        raise InputError(
            f"{self.where}: dataset.labels names {wanted!r}, which is in none of the labels{close}"
        )


class LabelMaps(Source):
    """Label maps of a source with a channel for each of the `Structures`; or the source as it is.

    `read` gives (I, J, K) with the number of the channel, counted from 1, or, where structures of a file
    overlap, (I, J, K, C); `channel` takes one structure out of either.
    """

    def __init__(self, source: Source, structures: Structures):
        self.source, self.shared = source, structures
        self._contents: dict[Name, dict[str, int] | InputError] = {}

    @property
    def names(self) -> list[Name]:  # type: ignore[override]
        """Of the files, see `Source`."""
        return self.source.names

    @property
    def places(self) -> list:  # type: ignore[override]
        """Of the files, see `Source`."""
        return self.source.places

    @property
    def grouped(self) -> bool:  # type: ignore[override]
        """Whether there are groups."""
        return self.source.grouped

    @property
    def title(self) -> str:  # type: ignore[override]
        """What they are, for messages."""
        return self.source.title

    @property
    def structures(self) -> list[str] | None:
        """Names of the channels; None where labels are left as they are."""
        return self.shared.names

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all volumes but these."""
        self.source.keep(indices)

    def where(self, index: int) -> str:
        """The file of a label map, for messages."""
        return self.source.where(index)

    def close(self) -> None:
        """Close what is open."""
        self.source.close()

    def in_file(self, index: int) -> dict[str, int]:
        """The structures of a file by name: its values, or its channels where they overlap.

        None of a file that can't be used: that is told when it is asked for.
        """
        name = self.source.names[index]
        if name not in self._contents:
            try:
                self._contents[name] = self._structures_of(index)
            except InputError as error:
                self._contents[name] = error
        found = self._contents[name]
        return {} if isinstance(found, InputError) else found

    @property
    def failures(self) -> list[InputError]:
        """Why files can't be used, of those that were asked for."""
        return [found for found in self._contents.values() if isinstance(found, InputError)]

    def present(self, index: int) -> list[int] | None:
        """The channels that are not empty in a file; None where that is not known."""
        if self.structures is None:
            return None
        there = self.in_file(index)
        return [channel for channel, name in enumerate(self.structures) if name in there]

    def header(self, index: int) -> tuple[tuple[int, ...], Geometry]:
        """Shape (I, J, K, C), a channel for each structure, and grid."""
        shape, grid = self.source.header(index)
        if self.structures is None:
            return shape, grid
        self.in_file(index)
        failed = self._contents[self.source.names[index]]
        if isinstance(failed, InputError):
            raise failed
        return (*shape[:3], len(self.structures)), grid

    def read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The channels of a file, as the class says, and its grid."""
        if self.structures is None:
            return self.source.read(index)
        array, _ = _read(self.source, index)
        grid = self.source.header(index)[1]
        there = self.in_file(index)
        if array.ndim == 4:
            empty = np.zeros(array.shape[:3], np.uint8)
            channels = [array[..., there[name]] if name in there else empty for name in self.structures]
            return np.stack(channels, -1), grid
        numbers = np.zeros(array.shape, np.min_scalar_type(len(self.structures)))
        for number, name in enumerate(self.structures, start=1):
            if name in there:
                numbers[array == there[name]] = number
        return numbers, grid

    def channel(self, array: np.ndarray, channel: int) -> np.ndarray:
        """One structure (I, J, K) of what `read` gave."""
        if self.structures is None or array.ndim == 4:
            return super().channel(array, channel)
        return array == channel + 1

    def check(self, array: np.ndarray, index: int) -> None:
        """Nothing more: label maps were checked when their structures were found."""
        if self.structures is None:
            super().check(array, index)

    def volume(self, index: int) -> Volume | None:
        """A label map as its file holds it, with the names; None where labels are left as they are."""
        if self.structures is None:
            return None
        array, segments = _read(self.source, index)
        array = np.rint(array).astype(np.uint8 if array.ndim == 4 else np.int32)
        return Volume(array, self.source.header(index)[1], "labels", segments)

    def _structures_of(self, index: int) -> dict[str, int]:
        """The structures of a file by name. Raises InputError where it is no label map."""
        array, segments = _read(self.source, index)
        where = self.source.where(index)
        if array.ndim == 4:
            if not segments:
                raise InputError(
                    f"{where}: a label map has whole numbers in three dimensions, but this has "
                    f"{array.shape[3]} channels, which are labels already: leave out dataset.labels"
                )
            return {s.name: s.label for s in segments if array[..., s.label].any()}
        if not _is_whole(array):
            raise InputError(f"{where}: a label map must hold whole numbers, but these are others")
        named = {segment.label: segment.name for segment in segments}
        values = distinct_values(np.rint(array).astype(np.int64))
        return {named.get(value, str(value)): value for value in values if value}


def _read(source: Source, index: int) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """The voxels of a label file and, of a segmentation of Slicer, its structures."""
    place = source.places[index]
    if isinstance(place, Path) and place.name.lower().endswith(".nrrd"):
        volume = load(place)
        if isinstance(volume, Volume) and volume.segments:
            return volume.array, volume.segments
    return source.read(index)[0], ()


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or bool(np.isfinite(array).all() and (array == np.rint(array)).all())


def _is_map(array: np.ndarray) -> bool | None:
    """Whether the values are those of a label map, and of no soft label or channels.

    None where they can be either's: an empty one, and a mask of 0 and 1.
    """
    if array.ndim != 3 or not _is_whole(array) or array.min() < 0:
        return False
    return True if array.max() > 1 else None
