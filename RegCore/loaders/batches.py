"""Samples in batches: shuffled, dealt to several processes of a training, read ahead by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from RegCore.loaders.cache import VolumeCache
from RegCore.loaders.loader import Loader, Sample, read_part
from RegCore.loaders.samplers import buffered_shuffle
from RegCore.space.geometry import InputError


def deal(
    samples: list[Sample],
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    start_at: int = 0,
) -> list[tuple[int, list[Sample]]]:
    """The batches of one of several processes.

    Each step takes the next ``world_size * batch_size`` samples and gives every process an equal run of them,
    so that all processes together see what one process with the larger batch would see. The rest at the end
    is shared out evenly; a process may get none of it.

    Args:
        samples: those of the epoch, in order.
        batch_size: samples of each process in a step.
        drop_last: leave out a step that is not full, unless it is the only one.
        start_at: number of samples of the epoch that were used already.

    Returns:
        For each step the number of samples used after it, by all processes, and this process's samples.
    """
    step = batch_size * world_size
    dealt = []
    for start in range(start_at, len(samples), step):
        part = samples[start : start + step]
        if drop_last and len(part) < step <= len(samples):
            break
        own = part[rank * len(part) // world_size : (rank + 1) * len(part) // world_size]
        dealt.append((start + len(part), own))
    return dealt


def collate(samples: list[dict]) -> dict | None:
    """Samples as a batch: tensors (B, 1, I, J, K), ``indices`` (B, n) int64, else lists; None for none."""
    if not samples:
        return None
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.tensor(values) if key == "indices" else values
    return batch


class Batches:
    """The batches of a loader, epoch after epoch; worker processes live until `close`.

    What comes out depends on the loader, epoch, seed and batch size alone: neither on the number of workers
    nor on the cache.

    Args:
        loader: where the samples come from.
        batch_size: samples in a batch of this process.
        workers: processes that read ahead; 0 reads in this process when a batch is asked for.
        prefetch: batches that each worker keeps ready.
        shuffle_buffer: samples among which the next is drawn, as in tf.data; 0 keeps the loader's order. The
            draws follow from seed and epoch.
        drop_last, rank, world_size: see `deal`.
        cache_bytes: memory in which images and labels on the network's grid are kept, shared by the workers.
        pin_memory: put batches into page-locked memory, for a GPU.
        start_method: of the worker processes: "fork", "spawn" or "forkserver"; None is the system's.

    Raises:
        InputError: a number makes no sense.
    """

    def __init__(
        self,
        loader: Loader,
        batch_size: int = 1,
        *,
        workers: int = 0,
        prefetch: int = 2,
        shuffle_buffer: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        cache_bytes: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
    ):
        _check_numbers(
            {"batch_size": batch_size, "prefetch": prefetch, "world_size": world_size},
            {"workers": workers, "shuffle_buffer": shuffle_buffer, "rank": rank, "cache_bytes": cache_bytes},
        )
        if rank >= world_size:
            raise InputError(f"rank must be less than world_size {world_size}, but it is {rank}")
        self.loader, self.shuffle_buffer = loader, shuffle_buffer
        self._deal = partial(
            deal, batch_size=batch_size, rank=rank, world_size=world_size, drop_last=drop_last
        )
        context = get_context(start_method) if workers else None
        store = VolumeCache(loader, cache_bytes, context) if cache_bytes else None
        self._reader = _Reader(loader, store)
        self._steps: list[tuple[int, list[Sample]]] = []
        self._ahead: DataLoader | None = None
        self._pin = pin_memory
        if workers:
            loader.close()  # no open file is handed to another process
            self._ahead = _read_ahead(self._reader, self._steps, workers, prefetch, pin_memory, context)

    def plan(self, epoch: int = 0, *, seed: int = 0, start_at: int = 0) -> list[tuple[int, list[Sample]]]:
        """What `epoch` will give: see `deal`. Its length is the number of batches."""
        samples = self.loader.samples(epoch, seed)
        samples = buffered_shuffle(samples, self.shuffle_buffer, Random(f"shuffle/{seed}/{epoch}"))
        return self._deal(samples, start_at=start_at)

    def epoch(
        self, epoch: int = 0, *, seed: int = 0, start_at: int = 0, most: int | None = None
    ) -> Iterator[dict | None]:
        """The batches of one epoch, see `collate`; the first `most` of them.

        Each has ``next_sample`` besides: the number of samples of the epoch used by then. Given as
        `start_at`, it makes the epoch go on behind this batch as if there had been no break. None stands for
        a last step of which this process gets nothing.

        Raises:
            InputError: a file can't be used; the message names it.
        """
        self._steps[:] = self.plan(epoch, seed=seed, start_at=start_at)[:most]
        steps = list(self._steps)
        found = self._read_by_workers() if self._ahead is not None else self._read_here(steps)
        for (next_sample, _), batch in zip(steps, found, strict=True):
            if isinstance(batch, _Failure):
                raise InputError(batch.sentence)
            if batch is not None:
                batch["next_sample"] = next_sample
            yield batch

    def close(self) -> None:
        """End the worker processes and close open files."""
        self._ahead = None
        self.loader.close()

    def _read_here(self, steps: list) -> Iterator:
        for _, samples in steps:
            batch = _checked_collate([self._reader[sample] for sample in samples])
            if self._pin and isinstance(batch, dict):
                batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            yield batch

    def _read_by_workers(self) -> Iterator:
        try:
            yield from self._ahead or ()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise RuntimeError(
                "a process that reads the data ended unexpectedly, perhaps for lack of memory; "
                "fewer workers need less"
            ) from error


def batches(
    loader: Loader,
    epoch: int = 0,
    batch_size: int = 1,
    *,
    seed: int = 0,
    start_at: int = 0,
    workers: int = 0,
    shuffle_buffer: int = 0,
    drop_last: bool = False,
) -> Iterator[dict | None]:
    """The batches of a single epoch, see `Batches`, whose worker processes end with it."""
    made = Batches(loader, batch_size, workers=workers, shuffle_buffer=shuffle_buffer, drop_last=drop_last)
    try:
        yield from made.epoch(epoch, seed=seed, start_at=start_at)
    finally:
        made.close()


@dataclass(frozen=True)
class _Failure:
    """What a worker sends in place of a batch: torch would wrap the sentence in a traceback."""

    sentence: str


class _Reader(Dataset):
    """Maps a `Sample` to what it holds."""

    def __init__(self, loader: Loader, store: VolumeCache | None):
        self.loader, self.store = loader, store

    def __getitem__(self, sample: Sample) -> dict | _Failure:
        try:
            return self.loader.load(sample, self.store.part if self.store else read_part)
        except InputError as error:
            return _Failure(str(error))


class _Steps:
    """The samples of each step, as the list stands when the iteration begins."""

    def __init__(self, steps: list):
        self.steps = steps

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter([samples for _, samples in self.steps])

    def __len__(self) -> int:
        return len(self.steps)


def _read_ahead(reader: _Reader, steps: list, workers: int, prefetch: int, pin: bool, context) -> DataLoader:
    return DataLoader(
        reader,
        batch_sampler=_Steps(steps),
        num_workers=workers,
        collate_fn=_checked_collate,
        prefetch_factor=prefetch,
        persistent_workers=True,
        multiprocessing_context=context,
        pin_memory=pin,
        generator=torch.Generator(),  # else each epoch would draw from torch's global one
    )


def _check_numbers(positive: dict[str, int], others: dict[str, int]) -> None:
    for least, numbers in ((1, positive), (0, others)):
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise InputError(f"{name} must be a whole number of at least {least}, but it is {number!r}")


def _checked_collate(samples: list) -> dict | _Failure | None:
    failures = [sample for sample in samples if isinstance(sample, _Failure)]
    return failures[0] if failures else collate(samples)
