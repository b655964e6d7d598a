"""The short form of a training: what a folder of data holds, and the configuration that the answers make."""

import os
from dataclasses import dataclass
from pathlib import Path

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")
RATES = {"local": 1e-3, "unet": 1e-3, "global": 1e-5}  # learning rates to begin with, by network


@dataclass(frozen=True)
class Found:
    """What lies in a folder of data, by its names alone.

    kind: "paired", "unpaired" or "grouped". format: "nifti" or "h5". labeled: whether there are labels.
    count: pairs, images or groups; 0 where only reading the files would tell.
    """

    kind: str
    format: str
    labeled: bool
    count: int


def what_is_in(folder: Path) -> Found | None:
    """What lies in a folder that is laid out as DeepReg has it; None if it is none such.

    paired: fixed_images, moving_images, fixed_labels, moving_labels; else images, labels, with a folder for
    each group if they are grouped. Folders of volumes, or h5 files of these names.
    """
    for form, ending in (("nifti", ""), ("h5", ".h5")):
        there = {name.removesuffix(ending) for name in _names(folder) if name.endswith(ending)}
        if {"fixed_images", "moving_images"} <= there:
            labeled = {"fixed_labels", "moving_labels"} <= there
            return Found("paired", form, labeled, _volumes(folder / "fixed_images") if form == "nifti" else 0)
        if "images" in there and form == "nifti":
            inside = folder / "images"
            volumes = _volumes(inside)
            groups = sum((inside / name).is_dir() for name in _names(inside)) if not volumes else 0
            return Found("grouped" if groups else "unpaired", form, "labels" in there, groups or volumes)
        if "images" in there:
            return Found("unpaired", form, "labels" in there, 0)
    return None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _volumes(folder: Path) -> int:
    return sum(name.lower().endswith(VOLUMES) for name in _names(folder))


@dataclass(frozen=True)
class Form:
    """The answers. Defaults are those of the panel."""

    train: str
    """Folder of the data to learn from."""
    valid: str = ""
    """Folder of the data to watch the training with; "" for none."""
    kind: str = "paired"
    """Which images meet: "paired", "unpaired" or "grouped"."""
    labeled: bool = True
    """Whether the labels in the folders are used."""
    network: str = "local"
    """"local", "unet" or "global"."""
    method: str = "ddf"
    """What the network says: "ddf", "dvf" or "conditional"."""
    size: tuple[int, int, int] = (64, 64, 64)
    """Voxels (I, J, K) that the images are resized to."""
    epochs: int = 100
    """How often all data are seen."""
    learning_rate: float = 1e-3
    """Of Adam."""
    similarity: str = "lncc"
    """Image loss: "lncc", "ssd", "gmi" …"""
    image_weight: float = 1.0
    label_weight: float = 1.0
    smoothness_weight: float = 0.5
    """Weights of the losses; 0 leaves one out."""
    batch_size: int = 2
    """Pairs in a step."""
    channels: int = 8
    """Of the first level of the network; they double from level to level."""
    augment: bool = True
    """Whether pairs are moved and sheared at random."""

    def configuration(self) -> dict:
        """What a YAML file would say, for `RegCore.training.config.Config.from_dict`."""
        dataset = {"train": self._split(self.train), "type": self.kind, **self._grid()}
        if self.valid:
            dataset["valid"] = self._split(self.valid)
        if self.kind == "grouped":
            dataset |= {"intra_group_prob": 1, "intra_group_option": "unconstrained"}
            dataset["sample_image_in_group"] = True
        return {"dataset": dataset | {"cache": 1.0}, "train": self._train()}

    def _split(self, folder: str) -> dict:
        found = what_is_in(Path(folder))
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
        preprocess = {"batch_size": self.batch_size, "shuffle_buffer_num_batch": 1}
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
        }

    def _backbone(self) -> dict:
        depth = levels(self.size)
        backbone = {"name": self.network, "num_channel_initial": self.channels}
        if self.network == "local":
            return {**backbone, "extract_levels": list(range(depth + 1))}
        return {**backbone, "depth": depth}

    def _loss(self) -> dict:
        loss = {}
        if self.image_weight and self.method != "conditional":
            loss["image"] = {"name": self.similarity, "weight": self.image_weight}
        if self.label_weight and self.labeled:
            loss["label"] = {"name": "dice", "weight": self.label_weight, "scales": [0, 1, 2, 4]}
        if self.smoothness_weight and self.method != "conditional":
            loss["regularization"] = {"name": "bending", "weight": self.smoothness_weight}
        return loss


def levels(size: tuple[int, int, int]) -> int:
    """Halvings of an image until its shortest axis has about 8 voxels, from 1 to 4."""
    return max(1, min(4, (min(size) // 8).bit_length() - 1))
