"""Batches as a step of training gets them: on the device, several at a time."""

from collections.abc import Iterator, Mapping

import torch


def in_groups(batches: Iterator[dict], size: int) -> Iterator[list[dict]]:
    """Lists of so many batches; what is left over is dropped, unless it is all there is, as in a batch."""
    group, whole = [], False
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group, whole = [], True
    if group and not whole:
        yield group


def on_device(batch: Mapping, device: str) -> dict:
    """The batch with its tensors on the device; all else stays as it is."""
    if device == "cpu":
        return dict(batch)
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
