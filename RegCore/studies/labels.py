"""Segmentations of several scans: brought to one numbering of structures, and votes over them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from RegCore.space.geometry import InputError
from RegCore.space.segments import one_layer, pair_segments
from RegCore.space.volume import Segment, Volume, check_labels

SLAB = 1 << 20  # voxels whose votes are counted at a time


def common_numbering(maps: Sequence[Volume], names: Sequence[str]) -> list[Volume]:
    """Segmentations in which the same label means the same structure.

    Structures with names are paired by these, see `RegCore.space.segments.pair_segments`, others by their
    numbers; the first segmentation keeps its own. Where only some have names the others get one.

    Args:
        maps: label maps, each on its own grid; one channel per structure will do where none overlap.
        names: what errors call each.

    Returns:
        The same as (I, J, K), in order; each with the segments of all, where they have names.

    Raises:
        InputError: a segmentation is none, its structures overlap, or it shares none with those before.
    """
    flat = [_flat(volume, name) for volume, name in zip(maps, names, strict=True)]
    known = flat[0]
    out = [known]
    for volume, name in zip(flat[1:], names[1:], strict=True):
        try:
            _, paired = pair_segments(known, volume)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        paired = volume if paired is None else paired
        labels = {segment.label for segment in known.segments}
        new = tuple(segment for segment in paired.segments if segment.label not in labels)
        known = replace(known, segments=known.segments + new)
        out.append(paired)
    segments: tuple[Segment, ...] = known.segments
    return [replace(volume, segments=segments) for volume in out]


def _flat(volume: Volume, name: str) -> Volume:
    """A segmentation as (I, J, K) in which either all structures have names or none has."""
    check_labels(volume, name)
    if volume.array.ndim == 4:
        if (volume.array.sum(-1, dtype=np.int64) > 1).any():
            raise InputError(f"{name}: structures that overlap can't be put to the vote, but here some do")
        volume = one_layer(volume)
    if not volume.segments:
        return volume
    named = {segment.label for segment in volume.segments}
    others = tuple(Segment(label, f"label {label}") for label in volume.labels() if label not in named)
    return replace(volume, segments=volume.segments + others)


def vote(
    maps: Sequence[np.ndarray], weights: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The label that most maps hold at each voxel, the background among them.

    Args:
        maps: (I, J, K) of whole numbers each, on one grid.
        weights: (I, J, K) each, at least 0: how much each counts there; by default all count the same. Where
            all are 0 they count the same as well.

    Returns:
        The labels (I, J, K), the smallest where several have as many votes; and the share of the votes that
        it has, float32.
    """
    values = sorted({0, *(int(value) for labels in maps for value in np.unique(labels))})
    out = np.zeros(maps[0].shape, np.promote_types(np.int16, np.result_type(*maps)))
    share = np.zeros(maps[0].shape, np.float32)
    rows = max(1, SLAB // max(maps[0][0].size, 1))
    for start in range(0, len(out), rows):
        part = slice(start, start + rows)
        heavy = np.ones((len(maps), *out[part].shape))
        if weights is not None:
            heavy = np.stack([weight[part] for weight in weights]).astype(np.float64)
            heavy[:, heavy.sum(0) <= 0] = 1
        total, most = heavy.sum(0), np.full(out[part].shape, -1.0)
        for value in values:
            votes = sum(
                (heavy[n] * (labels[part] == value) for n, labels in enumerate(maps)), np.zeros(total.shape)
            )
            better = votes > most * (1 + 1e-12)
            out[part][better] = value
            most = np.where(better, votes, most)
        share[part] = most / total
    return out, share


def shares_of_labels(maps: Sequence[np.ndarray], values: Sequence[int]) -> np.ndarray:
    """The share of the maps that hold each value, (I, J, K, len(values)) float32."""
    out = np.zeros((*maps[0].shape, len(values)), np.float32)
    for labels in maps:
        for channel, value in enumerate(values):
            out[..., channel] += labels == value
    return out / np.float32(len(maps))
