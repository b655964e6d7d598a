"""Several processes that train one network: started by torchrun, on one machine or on several.

Each takes its part of every batch. Gradients are those of the loss summed over all parts, and batch
normalisation sees them all, so that a step equals that of one process with the whole batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from RegCore.networks.layers import BatchNorm3d
from RegCore.space.geometry import InputError


@dataclass(frozen=True)
class Group:
    """The processes of a training and which of them this is; alone by default.

    Args:
        device: what this process computes on, ``cuda:1`` say.
    """

    device: str
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model, or one that adds up its gradients over the processes."""
        if self.size == 1:
            return model
        for module in model.modules():
            if isinstance(module, BatchNorm3d):
                module.synchronised = True
        where = [torch.device(self.device)] if self.device.startswith("cuda") else None
        return DistributedDataParallel(model, device_ids=where, broadcast_buffers=False)

    def total(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sums over the processes, which must all ask for the same names."""
        if self.size == 1:
            return dict(numbers)
        names = sorted(numbers)
        kind = torch.float32 if self.device == "mps" else torch.float64
        values = torch.tensor([numbers[name] for name in names], dtype=kind, device=self.device)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether a process says yes."""
        return self.total({"yes": float(flag)})["yes"] > 0 if self.size > 1 else flag

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def processes(device: str) -> Iterator[Group]:
    """The processes that torchrun started, known by its environment variables; one alone without them.

    Args:
        device: ``cpu`` or ``cuda``; each process of a machine takes a graphics card of its own.

    Raises:
        InputError: a machine has fewer cards than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        alone = not dist.is_initialized()
        yield Group(device) if alone else Group(device, dist.get_rank(), dist.get_world_size())
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun starts a process {local + 1} on this machine, which has only"
                f" {torch.cuda.device_count()} graphics cards; start fewer, or choose the device cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Group(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
