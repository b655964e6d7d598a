"""The configuration with which a prepared folder is trained on, as ``regcore slicreg train`` writes it."""

import math
from pathlib import Path
from typing import Any

from RegCore.slicreg.folder import read_settings
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name

STEPS_OF_EPOCH = 20  # about so many steps between two validations
LEARNING = {"norm": "batch", "background": 0.1}
"""Body voxels are learnt several times as fast as with neither."""
FEW = 0.5  # share of the cells below which nothing need be computed twice to save memory
SEEN = {"name": "affine-together", "spread": 0.07, "bending": 0.08, "contrast": 0.1}
"""Random changes of the scans. Published: spread alone; bodies that are bent as well teach much more."""
HALF = {"width": 0.5, "context": 64, "dropout": 0.0, "checkpointing": False}
SMALL: dict[str, dict[str, Any]] = {
    "deeplab": HALF,
    "unet": {"num_channel_initial": 8, "hidden": 16},
    "regression": HALF,
}
"""Half the channels. A small `deeplab` learns too little, not by heart: what is blanked and small steps only
slow it down, also as the backbone of the regression."""
RATE, RATE_OF_SMALL = 0.004, 0.016  # of Adam; the former as published
DEEPLAB = {"name": "deeplab", "width": 1.0, "context": 128, "hidden": 32, "checkpointing": True}
NETWORKS = {
    "deeplab": ("slicreg", {**DEEPLAB}),
    "unet": ("slicreg", {"name": "unet", "num_channel_initial": 16, "depth": 4, "hidden": 32}),
    "regression": ("slicreg-regression", {**DEEPLAB}),
}
"""Method and backbone of SLIC-Reg and of the two baselines that it was published with."""


def training_config(
    folder,
    *,
    network: str = "deeplab",
    small: bool = False,
    steps: int = 3000,
    batch_size: int = 4,
    share: float = 1.0,
    seed: int | None = None,
) -> dict:
    """Plain values of a configuration, see `RegCore.training.config`.

    Args:
        folder: made by `RegCore.slicreg.folder.prepare_folder`.
        network: a name of `NETWORKS`.
        small: half the channels: for few supervoxels, or where there is no GPU.
        steps: of the optimiser, about.
        batch_size: scans in a step.
        share: of the cells of a scan that a step learns from, at a random place; not for the regression.
        seed: of the training.

    Raises:
        InputError: an unknown network; a folder that is no preparation.
    """
    check_name(network, NETWORKS, "the network")
    folder, prepared = Path(folder), read_settings(folder)
    scans, settings = len(prepared["train"]), prepared["settings"]
    batch_size = min(batch_size, scans)
    repeats = math.ceil(STEPS_OF_EPOCH * batch_size / scans)
    per_epoch = repeats * scans // batch_size
    method, backbone = _network(network, small, share, alone=batch_size == 1)
    rate = RATE_OF_SMALL if small and network != "unet" and batch_size > 1 else RATE
    dataset = {"type": "supervoxels", "repeats": repeats, "workers": 0}
    for part in ("train", "valid"):
        if prepared[part]:
            dataset[part] = {"dir": str(folder / part), "format": "slicreg", "labeled": False}
    train = {
        "method": method,
        "backbone": backbone | {"layers": settings["layers"], "classes": settings["count"] + 1},
        "loss": {},
        "optimizer": {"name": "Adam", "learning_rate": rate},
        "preprocess": {
            "batch_size": batch_size,
            "shuffle_buffer_num_batch": 0,
            "data_augmentation": dict(SEEN),
        },
        "epochs": max(1, round(steps / per_epoch)),
        "save_period": max(1, round(steps / per_epoch / 10)),
        "learning_rate_schedule": {"name": "one_cycle"},
        "mixed_precision": "auto",
    }
    if seed is not None:
        train["seed"] = seed
    return {"dataset": dataset, "train": train}


def _network(name: str, small: bool, share: float, *, alone: bool) -> tuple[str, dict]:
    """Method and backbone; alone: a step has one scan, with which batch normalisation can compare nothing."""
    method, backbone = NETWORKS[name]
    if small:
        backbone = backbone | SMALL[name]
    backbone = backbone | (LEARNING if method == "slicreg" else {"norm": "batch"})
    if alone:
        backbone = backbone | {"norm": "group"}
    if share == 1:
        return method, backbone
    if method != "slicreg":
        raise InputError("share goes with networks that tell supervoxels, not with the regression")
    if share < FEW and backbone["name"] == "deeplab":
        backbone = backbone | {"checkpointing": False}
    return method, backbone | {"share": share}
