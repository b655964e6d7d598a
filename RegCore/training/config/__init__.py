"""Configurations: YAML files in, checked before any data is read; what was used out again as YAML.

`load_config` is the way in. `RegCore.training.config.schema` documents every key.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from RegCore.deepreg.upgrade import SPLIT_SECTIONS, split_sections, upgraded
from RegCore.io.files import atomic_write
from RegCore.io.yaml import Key, Places, plain, read_files
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name
from RegCore.training.config.consistency import check
from RegCore.training.config.parser import Reader
from RegCore.training.config.schema import (
    SCHEDULES,
    SPLITS,
    Component,
    Cosine,
    Dataset,
    EarlyStopping,
    Loss,
    Losses,
    OneCycle,
    Plateau,
    Preprocess,
    Split,
    Step,
    Train,
)

__all__ = [
    "SCHEDULES",
    "SPLITS",
    "Config",
    "Cosine",
    "Dataset",
    "EarlyStopping",
    "Loss",
    "Losses",
    "OneCycle",
    "Component",
    "Plateau",
    "Preprocess",
    "Split",
    "Step",
    "Train",
    "in_present_sections",
    "load_config",
]


@dataclass(frozen=True)
class Config:
    """A configuration that was read and checked; made by `load_config` or `Config.from_dict`.

    Two are equal if they say the same, whether or not one of them spells out defaults.
    """

    dataset: Dataset
    """Which images meet, and on which grid."""
    train: Train
    """The network, what it learns by, and how long."""
    source: str = field(compare=False)
    """The files that it came from."""
    changes: tuple[str, ...] = field(compare=False)
    """A sentence for each thing that was brought from an older form of DeepReg to the present one."""
    values: dict = field(compare=False, repr=False)
    """What was given, merged and in the present form; `to_dict` gives a copy."""

    @staticmethod
    def from_dict(values: Mapping, source: str = "the configuration") -> "Config":
        """The configuration that plain values describe, the sections ``dataset`` and ``train``.

        Args:
            values: as a YAML file would give them, in any form that `load_config` knows; not changed.
            source: what to call them in messages.

        Raises:
            InputError: as `load_config`, with `source` instead of file and line.
        """
        places = Places(source)
        return _checked(plain(values, places), places)

    def to_dict(self) -> dict:
        """What was given, as dicts, lists, texts and numbers: what DeepReg understands, where it was so.

        A deep copy without defaults; keys that DeepReg lacks are there only if they were given.
        """
        return copy.deepcopy(self.values)

    def text(self) -> str:
        """The same as YAML, which `load_config` reads back to an equal configuration."""
        return yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

    def dump(self, path) -> None:
        """Write `text` to a .yaml file, whole or not at all.

        Raises:
            InputError: that can't be done.
        """
        path = Path(path)
        if path.suffix.lower() not in (".yaml", ".yml"):
            raise InputError(f"{path}: the name of a configuration must end in .yaml")
        with atomic_write(path) as side:
            side.write_text(self.text(), encoding="utf-8")

    def split(self, name: str) -> Split:
        """The section ``dataset.train``, ``valid`` or ``test``, for work that can't do without it.

        Raises:
            InputError: the section is absent or names no folder, or the method needs labels that it has not.
        """
        check_name(name, SPLITS, "the split")
        split = getattr(self.dataset, name)
        if split is None:
            raise InputError(f"{self.source}: dataset.{name}.dir is missing, so there are no data to use")
        if self.train.method == "conditional" and not split.labeled:
            sentence = "is false, but the method conditional predicts labels and needs labelled data"
            raise InputError(f"{self.source}: dataset.{name}.labeled {sentence}")
        return split


def load_config(paths, *, overrides: Mapping | None = None) -> Config:
    """The configuration of one or several YAML files, checked as far as can be done without the data.

    Args:
        paths: a file or files; values of later ones replace those of earlier ones: dicts are merged, lists
            and all else replaced, null replaces what was there.
        overrides: plain values, merged last: ``{"train": {"epochs": 2}}``.

    Returns:
        The configuration. Files of DeepReg 0.1.1 are brought to the present form; `Config.changes` says what
        was changed and `Config.text` is the result, which is written nowhere.

    Raises:
        InputError: a file that can't be read, a key that is unknown or missing, a value that does not fit,
            parts that do not go together. The sentence names file, line, key, value and the nearest that
            would do.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    if not paths:
        raise InputError("no configuration was given; at least one YAML file was expected")
    return _checked(*read_files(paths, overrides, in_present_sections))


def in_present_sections(values: dict) -> tuple[dict, dict[Key, Key]]:
    """The values of one of several files with a section for each split, and which keys that moved.

    Args:
        values: of a file as it was written.

    Returns:
        The values in which files can be merged, and `RegCore.io.yaml.Places.moved`.
    """
    up = split_sections(values)
    return up.values, up.moved


def _checked(values: dict, places: Places) -> Config:
    up = upgraded(values)
    if places.moved:  # before the files were merged
        up.changes.insert(0, SPLIT_SECTIONS)
    places.moved |= up.moved
    dataset, train = Reader(places).configuration(up.values)
    check(dataset, train, up.values, places)
    return Config(dataset, train, places.default, tuple(up.changes), up.values)


class _Dumper(yaml.SafeDumper):
    """Writes a list of plain values in one line, as people do, and what occurs twice twice."""

    def ignore_aliases(self, data: object) -> bool:
        """Whether a value that occurs again is written again."""
        return True


def _one_line(dumper: yaml.SafeDumper, items: list):
    simple = not any(isinstance(item, dict | list | str) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=simple)


_Dumper.add_representer(list, _one_line)
