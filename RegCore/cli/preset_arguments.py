"""The arguments of ``regcore train --data``: a folder of data and a few options in place of a YAML file."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from RegCore.cli.arguments import add_choice, add_number, real, whole_number
from RegCore.space.geometry import InputError
from RegCore.training.presets import (
    KINDS,
    LEARNING_RATES,
    METHODS,
    NETWORKS,
    SIMILARITIES,
    TrainingPreset,
)

SWITCHES = {"labeled": "--no-labels", "augment": "--no-augment"}


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add ``--data`` and the options of `TrainingPreset` to a parser; none of the latter has a default."""
    group = parser.add_argument_group("without a YAML file", "a configuration made of a folder and options")
    what = "folder of training data, laid out as DeepReg has it: fixed_images, moving_images …, or images …"
    group.add_argument("--data", type=Path, metavar="DIR", help=what)
    group.add_argument("--valid", type=Path, metavar="DIR", help="folder of validation data")
    for name, names, what in (
        ("kind", KINDS, "which images are registered to which"),
        ("network", NETWORKS, "backbone"),
        ("method", METHODS, "what the network predicts"),
        ("similarity", SIMILARITIES, "image loss"),
    ):
        add_choice(group, f"--{name}", choices=tuple(names), help=what)
    what = "voxels I, J, K that the images are resized to"
    group.add_argument("--size", nargs=3, type=whole_number(1), metavar=("I", "J", "K"), help=what)
    add_number(group, "--epochs", help="passes over the training data")
    add_number(group, "--batch-size", help="pairs in a step")
    add_number(group, "--channels", help="channels of the network's first level")
    group.add_argument("--learning-rate", type=real, metavar="RATE", help="of Adam")
    for loss in ("image", "label", "smoothness"):
        what = f"weight of the {loss} loss; 0 leaves it out"
        group.add_argument(f"--{loss}-weight", type=real, metavar="WEIGHT", help=what)
    for name, flag in SWITCHES.items():
        what = {"labeled": "do not use the labels", "augment": "do not move and shear the images at random"}
        group.add_argument(flag, dest=name, action="store_const", const=False, help=what[name])


def preset_of(arguments: argparse.Namespace) -> TrainingPreset | None:
    """The preset that the arguments describe; None where no ``--data`` was given.

    Raises:
        InputError: options without ``--data``; a folder that is laid out in no known way.
    """
    names = [field.name for field in fields(TrainingPreset) if field.name not in ("train", "valid")]
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.data is None:
        if given or arguments.valid is not None:
            name = next(iter(given), "valid")
            flag = SWITCHES.get(name, f"--{name.replace('_', '-')}")
            raise InputError(f"{flag} goes with --data; a YAML file says such things itself")
        return None
    if "network" in given:
        given.setdefault("learning_rate", LEARNING_RATES[given["network"]])
        given.setdefault("method", TrainingPreset.method_for(given["network"]))
    if "size" in given:
        given["size"] = tuple(given["size"])
    return replace(TrainingPreset.for_folder(str(arguments.data), str(arguments.valid or "")), **given)
