"""A bounded store of volumes as the network gets them, in memory that the worker processes share."""

import logging
import shutil
from contextlib import nullcontext
from itertools import accumulate
from math import prod
from pathlib import Path

import torch

from RegCore.loaders.images import RoleImages
from RegCore.loaders.loader import Loader, read_part

log = logging.getLogger(__name__)
SHARED = Path("/dev/shm")  # where Linux keeps shared memory; a container may have little of it


class VolumeCache:
    """Images and labels of a loader, each read once and then kept as far as there is room.

    Args:
        loader: whose volumes these are.
        limit: bytes to be used at most.
        context: of multiprocessing, if worker processes use the store; None for this process alone.
    """

    def __init__(self, loader: Loader, limit: int, context=None):
        if context is not None and SHARED.is_dir():
            free = shutil.disk_usage(SHARED).free // 2
            if free < limit:
                log.warning("the cache gets %d MB: %s has no room for more", free >> 20, SHARED)
            limit = min(limit, free)
        wanted = [4 * prod(side.shape) * _volumes(side) for side in loader.sides]
        share = min(1.0, limit / sum(wanted))
        self.shelves = {
            side.name: _Shelf(side, int(share * size), context)
            for side, size in zip(loader.sides, wanted, strict=True)
        }

    def part(self, side: RoleImages, index: int, channel: int | None) -> torch.Tensor:
        """An image (channel None) or a label of it (1, I, J, K), from memory or from its file."""
        return self.shelves[side.name].part(side, index, channel)


class _Shelf:
    """The volumes of one side: first the images, then the labels of each image, as far as they have room."""

    def __init__(self, side: RoleImages, limit: int, context):
        slots = min(limit // (4 * prod(side.shape)), _volumes(side))
        self.first_label = list(accumulate(side.channels, initial=len(side)))
        self.values = torch.empty((slots, *side.shape))
        self.there = torch.zeros(slots, dtype=torch.bool)
        self.lock = nullcontext()
        if context is not None:
            self.values.share_memory_()
            self.there.share_memory_()
            self.lock = context.Lock()  # what one process wrote is whole before another one sees the mark

    def part(self, side: RoleImages, index: int, channel: int | None) -> torch.Tensor:
        slot = index if channel is None else self.first_label[index] + channel
        if slot >= len(self.there):
            return read_part(side, index, channel)
        with self.lock:
            there = bool(self.there[slot])
        if not there:
            self.values[slot] = read_part(side, index, channel)[0]
            with self.lock:
                self.there[slot] = True
        return self.values[slot][None]


def _volumes(side: RoleImages) -> int:
    return len(side) + sum(side.channels)
