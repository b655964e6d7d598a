"""Which structures of two segmentations are the same, by their names; and label maps that say so."""

import re
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from RegCore.space.geometry import InputError
from RegCore.space.volume import Segment, Volume

GENERIC = re.compile(r"(segment|label|structure|region)?[ _-]*\d*", re.IGNORECASE)  # names that say nothing


def pair_segments(fixed: Volume | None, moving: Volume | None) -> tuple[Volume | None, Volume | None]:
    """Two label maps with the same label, or the same channel, for the same structure.

    Structures are the same if they have the same name, whatever its case; else the same terminology; else
    the same number, if one of them has no name or one that says nothing ("Segment_1"). The fixed label map
    keeps its numbers. Where one side has overlapping structures, both get one channel for each structure of
    either side.

    Args:
        fixed: the fixed segmentation, or None.
        moving: the moving segmentation, or None.

    Returns:
        Both; as they were where one of them has no names. To pair what is paired changes nothing.

    Raises:
        InputError: both have names, but they share no structure, and one has several.
    """
    if fixed is None or moving is None or not (fixed.segments and moving.segments):
        return fixed, moving
    of_fixed, of_moving = _structures(fixed), _structures(moving)
    pairs = _pairs(of_fixed, of_moving)
    if fixed.array.ndim == moving.array.ndim == 3:
        return fixed, _renumbered(moving, fixed, pairs)
    if fixed.array.ndim != moving.array.ndim:
        layered = fixed if fixed.array.ndim == 4 else moving
        if (layered.array.sum(-1, dtype=np.int64) <= 1).all():
            return pair_segments(one_layer(fixed), one_layer(moving))
    places = {segment: place for place, segment in enumerate(of_fixed)}
    alone = [segment for segment in of_moving if segment not in pairs]
    count = len(places) + len(alone)
    moved = {segment: places[partner] for segment, partner in pairs.items()}
    moved |= {segment: len(places) + n for n, segment in enumerate(alone)}
    return _channels(fixed, places, count), _channels(moving, moved, count)


def _structures(volume: Volume) -> tuple[Segment, ...]:
    """The segments, and one without a name for each label, or channel, that none of them tells of."""
    known = {segment.label for segment in volume.segments}
    there = range(volume.array.shape[3]) if volume.array.ndim == 4 else volume.labels()
    return volume.segments + tuple(Segment(label, "") for label in there if label not in known)


def _pairs(fixed: tuple[Segment, ...], moving: tuple[Segment, ...]) -> dict[Segment, Segment]:
    """The fixed structure that each moving one is, where it is one."""
    found: dict[Segment, Segment] = {}
    keys: tuple[Callable[[Segment], Hashable], ...] = (
        lambda s: s.name.strip().casefold(),
        lambda s: s.terminology,
        lambda s: s.label,
    )
    for key in keys:
        for segment in (segment for segment in moving if segment not in found):
            free = (partner for partner in fixed if partner not in found.values())
            for partner in free:
                alike = key(segment) not in ("", None) and key(segment) == key(partner)
                named = not (GENERIC.fullmatch(segment.name) or GENERIC.fullmatch(partner.name))
                if alike and not (key is keys[2] and named):
                    found[segment] = partner
                    break
    if not found:
        if len(fixed) > 1 or len(moving) > 1:
            listed = [", ".join(f"'{segment.name}'" for segment in side) for side in (fixed, moving)]
            raise InputError(
                "structures are paired by their names, but the segmentations share none: "
                f"the fixed one has {listed[0]}, the moving one {listed[1]}"
            )
        found = {moving[0]: fixed[0]}
    return found


def _renumbered(moving: Volume, fixed: Volume, pairs: dict[Segment, Segment]) -> Volume:
    """The moving 3-D label map with the fixed labels; what has no partner gets a label that is free."""
    new = {segment.label: partner.label for segment, partner in pairs.items()}
    taken = {*fixed.labels(), *(segment.label for segment in fixed.segments), *new.values()}
    for label in sorted({*moving.labels(), *(segment.label for segment in moving.segments)} - set(new)):
        new[label] = label if label not in taken else max(taken) + 1
        taken.add(new[label])
    segments = tuple(replace(segment, label=new[segment.label]) for segment in moving.segments)
    if all(old == value for old, value in new.items()):
        return replace(moving, segments=segments)
    largest = max(new.values())
    kept = moving.array.dtype.kind in "iu" and largest <= np.iinfo(moving.array.dtype).max
    out = np.zeros_like(moving.array, dtype=None if kept else np.int32)
    for old, value in new.items():
        out[moving.array == old] = value
    return replace(moving, array=out, segments=segments)


def one_layer(volume: Volume) -> Volume:
    """Channels that do not overlap as one 3-D label map, with the labels 1, 2, 3 …."""
    if volume.array.ndim == 3:
        return volume
    out = np.zeros(volume.array.shape[:3], np.int32)
    for channel in range(volume.array.shape[3]):
        out[volume.array[..., channel] != 0] = channel + 1
    segments = tuple(replace(segment, label=segment.label + 1) for segment in volume.segments)
    return replace(volume, array=out, segments=segments)


def _channels(volume: Volume, places: dict[Segment, int], count: int) -> Volume:
    """One binary channel for each of `count` structures, those of the volume at their places."""
    out = np.zeros((*volume.array.shape[:3], count), np.uint8)
    for segment, place in places.items():
        flat = volume.array.ndim == 3
        out[..., place] = volume.array == segment.label if flat else volume.array[..., segment.label]
    segments = tuple(replace(segment, label=places[segment]) for segment in volume.segments)
    return replace(volume, array=out, segments=segments)
