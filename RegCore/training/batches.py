"""Batches as a step of training gets them: on the device, augmented, several at a time."""

from collections.abc import Iterator, Mapping
from random import Random

import torch

from RegCore.loaders.augmentation import in_turn


def augmented(batch: dict, augmentations: list, keys: list[str]) -> dict:
    """Each sample by itself, so that what is drawn for it does not depend on the size of the batch."""
    changed = []
    for i, key in enumerate(keys):
        generator = torch.Generator().manual_seed(Random(key).getrandbits(63))
        sample = {k: v[i : i + 1] for k, v in batch.items() if isinstance(v, torch.Tensor) and k != "indices"}
        changed.append(in_turn(augmentations)(sample, generator))
    return batch | {key: torch.cat([sample[key] for sample in changed]) for key in changed[0]}


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
    if device == "cpu":
        return dict(batch)
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }
