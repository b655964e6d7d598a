"""How many workers a machine has room for, and how many threads and how much memory each may have."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from RegCore.evaluation.memory import available_memory_mib
from RegCore.io import read_header
from RegCore.space.geometry import InputError
from RegCore.studies.rows import Row

AT_REST = 600.0  # MiB of a worker: Python, PyTorch and the working grids of the methods
PER_VOXEL = 300.0  # bytes besides, for each voxel of the larger image of a pair
LOOKED_AT = 48  # files of each kind, the largest, whose headers are read: to read 100 000 would take minutes


@dataclass(frozen=True)
class Shares:
    """The parts of a machine.

    Args:
        workers: number of processes.
        threads: of each.
        memory_mib: that the largest pair is expected to need.
        note: a sentence where fewer workers than asked for, or than there are processors, have room; or "".
    """

    workers: int
    threads: int
    memory_mib: float
    note: str = ""


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shares_of(rows: Iterable[Row], jobs: int, workers: int | None = None) -> Shares:
    """Share out this machine.

    Args:
        rows: whose images are looked at for their sizes, the largest files by their headers.
        jobs: number of those that are to be done; there are not more workers than these.
        workers: that the user asked for; None for one a processor.

    Raises:
        InputError: there is not memory enough for a single worker.
    """
    there, need, free = processors(), memory_of(largest_voxels(rows)), available_memory_mib()
    room = int(free // need) if free < float("inf") else there
    wanted = workers or there
    if room < 1:
        raise InputError(
            f"the largest pair needs about {need:.0f} MiB of memory, but only {free:.0f} MiB are free;"
            " crop or resample the images, or use another machine"
        )
    chosen = max(1, min(wanted, room, jobs))
    note = ""
    if chosen < min(wanted, jobs):
        note = f"{chosen} of {wanted} workers: each needs up to {need:.0f} MiB, {free:.0f} MiB are free"
    return Shares(chosen, max(1, there // chosen), need, note)


def memory_of(voxels: int) -> float:
    """Memory in MiB that the registration of images of at most so many voxels is expected to need."""
    return AT_REST + PER_VOXEL * voxels / 2**20


def largest_voxels(rows: Iterable[Row]) -> int:
    """Voxels of the largest image, by the headers of the largest files; 0 if none can be read."""
    sizes: dict[Path, int] = {}
    for row in rows:
        for role in ("fixed", "moving"):
            path = row.files[role]
            if isinstance(path, Path) and path not in sizes:
                sizes[path] = path.stat().st_size if path.is_file() else 0
    kinds: dict[str, list[Path]] = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        kinds.setdefault(path.suffix, []).append(path)
    return max((_voxels(path) for paths in kinds.values() for path in paths[:LOOKED_AT]), default=0)


def _voxels(path: Path) -> int:
    """Of a file whose header can't be read there are none: its pair will say why."""
    try:
        return read_header(path)[1].voxels
    except InputError:
        return 0
