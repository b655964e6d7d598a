"""How much memory a training takes, estimated before it begins, and the largest grid that fits.

The constants come from peaks of whole trainings on a processor (Testing/benchmarks/training_memory.py), from
which the estimate differs by 15 % at most. Imports no torch, so that Slicer's panel can say it in advance.
"""

from collections.abc import Callable, Mapping
from typing import Any

from RegCore.space.geometry import InputError
from RegCore.training.presets import NETWORKS, depth_for

PROGRAM = 325.0  # MiB of Python, its packages and what a training holds whatever its size
VOXEL = 350.0  # bytes for each voxel of a pair: images, field, losses
CHANNEL = 61.0  # bytes more for each voxel and channel of the first level
KEYPOINTS = 90.0  # the same of the network keypoints, which sees the two images one by one, at full size
WEIGHTS = 135.0  # weights of a network in units of channels^2 4^depth
WEIGHT = 16.0  # bytes: itself, its gradient, the two moments of Adam
HALF = 0.5  # of what voxels take, for a graphics card that may compute with 16 bits: assumed, not measured
MIB = 2.0**20
STEP = 8  # voxels by which proposed grids differ

Size = tuple[int, int, int]


def needed_mib(
    size: Size, channels: int, batch_size: int = 1, half: bool = False, network: str = "unet"
) -> float:
    """Memory that a training takes at its peak, MiB, for one of the networks of `TrainingPreset`.

    Args:
        size: voxels ``(I, J, K)`` of the images.
        channels: of the first level.
        batch_size: pairs in a step.
        half: for a graphics card that computes with 16 bits, without what the program itself takes.
        network: which of them.
    """
    voxels = size[0] * size[1] * size[2] * batch_size
    weights = WEIGHTS * channels**2 * 4 ** depth_for(size) * WEIGHT
    values = voxels * (VOXEL + (KEYPOINTS if network == "keypoints" else CHANNEL) * channels)
    return (weights + HALF * values) / MIB if half else PROGRAM + (weights + values) / MIB


def largest_size(size: Size, fits: Callable[[Size], bool]) -> Size | None:
    """The largest grid of about the same shape, in steps of 8 voxels, that fits; None if none does."""
    longest = max(size)
    for n in range(longest - longest % STEP, STEP, -STEP):
        one = tuple(max(STEP, round(side * n / longest / STEP) * STEP) for side in size)
        smaller = (one[0], one[1], one[2])
        if smaller != size and all(a <= b for a, b in zip(smaller, size, strict=True)) and fits(smaller):
            return smaller
    return None


def check_memory(train: Mapping[str, Any], size: Size, free_mib: float, half: bool = False) -> None:
    """Refuse a training that needs more memory than there is.

    Only the networks of `TrainingPreset` are known; others are let through.

    Args:
        train: the section ``train`` of a configuration.
        size: voxels of the fixed images.
        free_mib: what is there for it.
        half: see `needed_mib`.

    Raises:
        InputError: with the need, what there is, and the largest grid that fits.
    """
    backbone, batch = train["backbone"], int(train["preprocess"]["batch_size"])
    channels, name = backbone.get("num_channel_initial"), backbone["name"]
    if name not in NETWORKS or not isinstance(channels, int):
        return
    needed = needed_mib(size, channels, batch, half, name)
    if needed <= free_mib:
        return
    smaller = largest_size(size, lambda one: needed_mib(one, channels, batch, half, name) <= free_mib)
    way = "no grid of this shape fits" if smaller is None else f"the largest that fits is {_grid(smaller)}"
    pairs = f"{batch} pairs in a step" if batch > 1 else "a pair in a step"
    raise InputError(
        f"a training on {_grid(size)} voxels with {channels} channels and {pairs} needs about "
        f"{needed / 1024:.1f} GB of memory, but {free_mib / 1024:.1f} GB are free: {way}"
    )


def _grid(size: Size) -> str:
    return " x ".join(map(str, size))
