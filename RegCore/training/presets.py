"""A configuration from a folder of data and a few options: for the Train panel and ``regcore train --data``.

Imports neither torch nor a reader of YAML files, so that Slicer's panel can use it before they are installed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from RegCore.space.geometry import InputError

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
KINDS = ("paired", "unpaired", "grouped")
NETWORKS = ("unet", "local", "keypoints", "global")
METHODS = ("ddf", "dvf", "conditional")
SIMILARITIES = ("lncc", "ssd", "gmi")
"""What the options below can be: which images are registered to which, backbone, output, image loss."""
LEARNING_RATES = {"unet": 4e-3, "local": 4e-3, "keypoints": 4e-3, "global": 2e-6}
"""The largest learning rate, by network."""
AFFINE = ("keypoints", "global")
"""The networks that find an affine map."""
HALVED_FROM = 32  # voxels of the shortest axis from which on the field is found at half resolution
FOLDS = 10.0  # weight of folded volume in units of that of the bending energy, of displacements
DEEPER = (3, 5)  # GlobalNet: a step of all weights of its dense layer moves the image by voxels, so keep few
WARM_UP = 20  # the learning rate rises during this fraction of the epochs, 1 / 20


@dataclass(frozen=True)
class DatasetLayout:
    """How a folder of data is laid out, told from the names in it alone."""

    kind: str
    """One of `KINDS`."""
    format: str
    """"nifti" or "h5"."""
    labeled: bool
    """Whether there are labels."""
    count: int
    """Pairs, images or groups; 0 where only reading the files would tell."""


def inspect_dataset(folder: Path) -> DatasetLayout | None:
    """How a folder is laid out, if it is one of DeepReg's layouts.

    Paired data: ``fixed_images``, ``moving_images`` and, if there are labels, ``fixed_labels`` and
    ``moving_labels``. Otherwise ``images`` and ``labels``, with a folder for each group if they are grouped.
    Each is a folder of volumes or an h5 file of that name.

    Args:
        folder: to look into; no file is read.

    Returns:
        The layout, or None for a folder that has none of them or can't be listed.
    """
    for file_format, ending in (("nifti", ""), ("h5", ".h5")):
        there = {name.removesuffix(ending) for name in _names(folder) if name.endswith(ending)}
        if {"fixed_images", "moving_images"} <= there:
            labeled = {"fixed_labels", "moving_labels"} <= there
            count = _volumes(folder / "fixed_images") if file_format == "nifti" else 0
            return DatasetLayout("paired", file_format, labeled, count)
        if "images" in there and file_format == "nifti":
            inside = folder / "images"
            volumes = _volumes(inside)
            groups = sum((inside / name).is_dir() for name in _names(inside)) if not volumes else 0
            kind = "grouped" if groups else "unpaired"
            return DatasetLayout(kind, file_format, "labels" in there, groups or volumes)
        if "images" in there:
            return DatasetLayout("unpaired", file_format, "labels" in there, 0)
    return None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _volumes(folder: Path) -> int:
    return sum(name.lower().endswith(VOLUMES) for name in _names(folder))


@dataclass(frozen=True)
class TrainingPreset:
    """The options of a training; `configuration` makes all else of them. The defaults are the panel's."""

    train: str
    """Folder of the training data."""
    valid: str = ""
    """Folder of the validation data; "" for none."""
    kind: str = "paired"
    """Which images are registered to which: one of `KINDS`."""
    labeled: bool = True
    """Whether the labels in the folders are used."""
    network: str = "unet"
    """The backbone: one of `NETWORKS`."""
    method: str = "dvf"
    """What the network predicts: one of `METHODS`."""
    size: tuple[int, int, int] = (64, 64, 64)
    """Voxels (I, J, K) that the images are resized to."""
    epochs: int = 100
    """Passes over the training data."""
    learning_rate: float = 4e-3
    """Of Adam at its largest: it rises at first, then falls to 0 along a cosine."""
    similarity: str = "lncc"
    """The image loss: one of `SIMILARITIES`."""
    image_weight: float = 1.0
    """Weight of the image loss; 0 leaves it out."""
    label_weight: float = 1.0
    """Weight of the Dice loss of the labels; 0 leaves it out."""
    smoothness_weight: float = 0.5
    """Weight of the bending energy and, of displacements, 10 times it that of folds; 0 leaves both out."""
    batch_size: int = 1
    """Pairs in a step."""
    channels: int = 16
    """Of the network's first level; they double from level to level."""
    augment: bool = True
    """Whether the images are moved and sheared at random."""

    @staticmethod
    def for_folder(train: str, valid: str = "") -> "TrainingPreset":
        """The defaults that suit the data in a folder.

        Raises:
            InputError: if a folder has none of the layouts of `inspect_dataset`.
        """
        found = _inspected(train)
        if valid:
            _inspected(valid)
        return TrainingPreset(train, valid, kind=found.kind, labeled=found.labeled)

    @staticmethod
    def method_for(network: str, method: str = "dvf") -> str:
        """The method to propose with a network, one of `NETWORKS`, where another one had ``method``.

        An affine map is no velocity; all other networks find one, which does not fold, or labels if wished.
        """
        return method if method == "conditional" else "ddf" if network in AFFINE else "dvf"

    def configuration(self) -> dict:
        """What a YAML file would say, for `RegCore.training.config.Config.from_dict`."""
        dataset = {"train": self._split(self.train), "type": self.kind, **self._grid()}
        if self.valid:
            dataset["valid"] = self._split(self.valid)
        if self.kind == "grouped":
            dataset |= {"intra_group_prob": 1, "intra_group_option": "unconstrained"}
            dataset["sample_image_in_group"] = True
        return {
            "dataset": dataset | {"intensity": {"name": "percentiles"}, "cache": 1.0},
            "train": self._train(),
        }

    def _split(self, folder: str) -> dict:
        found = inspect_dataset(Path(folder))
        return {
            "dir": folder,
            "format": "nifti" if found is None else found.format,
            "labeled": self.labeled,
        }

    def _grid(self) -> dict:
        size = list(self.size)
        if self.kind == "paired":
            return {"fixed_image_shape": size, "moving_image_shape": list(size)}
        return {"image_shape": size}

    def _train(self) -> dict:
        preprocess: dict[str, object] = {"batch_size": self.batch_size, "shuffle_buffer_num_batch": 1}
        preprocess["data_augmentation"] = {"name": "affine"} if self.augment else None
        return {
            "method": self.method,
            "backbone": self._backbone(),
            "loss": self._loss(),
            "optimizer": {"name": "Adam", "learning_rate": self.learning_rate},
            "preprocess": preprocess,
            "epochs": self.epochs,
            "save_period": max(1, self.epochs // 10),
            "seed": 0,
            "learning_rate_schedule": {"name": "cosine", "warmup_epochs": self.epochs // WARM_UP},
            "mixed_precision": "auto",
        }

    def _backbone(self) -> dict:
        """A field is found at half resolution where there is enough of it: for less work, and smoother."""
        depth = depth_for(self.size, *DEEPER if self.network == "global" else ())
        finest = int(self.method != "conditional" and min(self.size) >= HALVED_FROM)
        backbone: dict[str, object] = {"name": self.network, "num_channel_initial": self.channels}
        if self.method == "dvf" and finest:
            backbone["integration_scale"] = 0.5
        if self.network == "local":
            return {**backbone, "extract_levels": list(range(finest, depth + 1))}
        if self.network == "unet" and finest:
            backbone["extract_levels"] = [finest]
        return {**backbone, "depth": depth}

    def _loss(self) -> dict[str, object]:
        loss: dict[str, object] = {}
        if self.image_weight and self.method != "conditional":
            loss["image"] = {"name": self.similarity, "weight": self.image_weight}
        if self.label_weight and self.labeled:
            loss["label"] = {"name": "dice", "weight": self.label_weight, "scales": [0, 1, 2, 4]}
        if self.smoothness_weight and self.method != "conditional":
            weight = self.smoothness_weight
            may_fold = self.method == "ddf" and self.network not in AFFINE
            folds = [{"name": "jacobian", "weight": FOLDS * weight}] if may_fold else []
            loss["regularization"] = [{"name": "bending", "weight": weight}, *folds]
        return loss


def depth_for(size: tuple[int, int, int], least: int = 8, most: int = 4) -> int:
    """How often a network halves an image: 1 to `most` times, to about `least` voxels on an axis."""
    return max(1, min(most, (min(size) // least).bit_length() - 1))


def _inspected(folder: str) -> DatasetLayout:
    found = inspect_dataset(Path(folder))
    if found is None:
        raise InputError(f"{folder}: this folder holds neither images nor fixed_images and moving_images")
    return found
