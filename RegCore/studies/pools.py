"""Where jobs are done: on this machine, or on a Dask cluster that is already there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from RegCore.studies.cluster import ClusterPool
from RegCore.studies.jobs import Pool
from RegCore.studies.workers import LocalPool


@dataclass(frozen=True)
class Place:
    """Where jobs are to be done.

    Args:
        scheduler: address of a Dask scheduler, ``tcp://host:8786``.
        scheduler_file: the file that a Dask scheduler writes with its address.
    """

    scheduler: str = ""
    scheduler_file: Path | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether a cluster is named."""
        return bool(self.scheduler or self.scheduler_file)


@contextmanager
def open_pool(place: Place, folder: Path, workers: int = 1, threads: int = 1) -> Iterator[Pool]:
    """A pool of warm workers; they end with the ``with`` statement, those of a cluster stay.

    Args:
        place: this machine, if it names no scheduler.
        folder: of the results, which every worker of a cluster must see.
        workers: processes on this machine.
        threads: of each of them.

    Raises:
        InputError: the cluster can't be used.
    """
    pool: Pool = LocalPool(workers, threads)
    if place.is_cluster:
        pool = ClusterPool(place.scheduler, place.scheduler_file, folder)
    try:
        yield pool
    finally:
        pool.close()
