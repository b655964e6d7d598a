"""Presets: the settings that suit a task, each a YAML file, shipped with the module or saved by the user.

A file says a title, a description, and any of the keys of `KEYS`; what it leaves out has its default:

    title: Large motion
    method: auto
    smoothness: 0.6
"""

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from RegCore.io.files import atomic_write
from RegCore.space.geometry import InputError
from RegCore.space.names import not_among

from .parameters import SMOOTHNESS, Method, Quality, text_of
from .paths import resource

KEYS = {  # of a file -> the parameter that it sets
    "method": "method",
    "quality": "quality",
    "smoothness": "smoothness",
    "refine": "refine",
    "landmarks_guide": "landmarksGuide",
    "model": "modelFile",
    "settings": "moreSettings",
}
DEFAULTS = {  # of the parameters that a file sets
    "method": Method.auto,
    "quality": Quality.balanced,
    "smoothness": SMOOTHNESS,
    "refine": False,
    "landmarksGuide": False,
    "modelFile": "",
    "moreSettings": "",
}
NOT_COMPARED = ("quality", "modelFile")  # a task stays what it is with another quality or model
KINDS = {bool: "true or false", float: "a number", str: "a text"}
ENDING = ".yaml"


@dataclass(frozen=True)
class Preset:
    """The settings for a task.

    name: of its file, without the ending. title, description: for people. values: the parameters that the
    file sets, by the names of `RegisterParameters`.
    """

    name: str
    title: str
    description: str = ""
    values: dict = field(default_factory=dict)

    def apply(self, parameters) -> None:
        """Set the parameters: what the preset does not say gets its default, quality and model stay."""
        wanted = {name: value for name, value in DEFAULTS.items() if name not in NOT_COMPARED}
        with slicer.util.NodeModify(parameters):
            for name, value in (wanted | self.values).items():
                setattr(parameters, name, value)
            parameters.preset = self.name

    def fits(self, parameters) -> bool:
        """Whether the parameters are those of the preset."""
        compared = set(DEFAULTS) - set(NOT_COMPARED)
        wanted = DEFAULTS | self.values
        return all(getattr(parameters, name) == wanted[name] for name in compared)


def shipped_folder() -> Path:
    """Where the module's own presets are."""
    return resource("Presets/rigid.yaml").parent


def own_folder() -> Path:
    """Where the user's presets are; the folder need not exist."""
    return Path.home() / "DeepRegSlicer" / "presets"


def load_presets() -> tuple[list[Preset], list[str]]:
    """The shipped presets, then the user's, and a sentence for each file that can't be used.

    Without the package PyYAML, which has to be installed first, there are none.
    """
    found, complaints = [], []
    own = sorted(own_folder().glob(f"*{ENDING}")) if own_folder().is_dir() else []
    for path in [*_shipped(), *own]:
        try:
            found.append(read_preset(path))
        except ModuleNotFoundError:
            return [], []
        except InputError as error:
            complaints.append(str(error))
    return found, complaints


def _shipped() -> list[Path]:
    """The shipped files, from the simplest task to the most special one."""
    order = ("same-modality", "other-modality", "large-motion", "labels-guide", "rigid", "affine")
    folder = shipped_folder()
    first = [folder / f"{name}{ENDING}" for name in order]
    return first + sorted(set(folder.glob(f"*{ENDING}")) - set(first))


def read_preset(path: Path) -> Preset:
    """A preset of a file. Raises InputError for a file that is none; it names file and key."""
    from RegCore.io.yaml import read_yaml

    told, places = read_yaml(path)
    values = {}
    for key, value in told.items():
        if key in ("title", "description"):
            _check(places, key, value, str)
        elif key in KEYS:
            values[KEYS[key]] = _value(places, key, value)
        else:
            known = ["title", "description", *KEYS]
            text = _("{place}: a key {wrong}")
            raise InputError(text.format(place=places.of((key,)), wrong=not_among(key, known)))
    if "title" not in told or "method" not in told:
        raise InputError(_("{path}: a preset needs the keys title and method").format(path=path))
    return Preset(path.stem, told["title"], told.get("description", ""), values)


def _value(places, key: str, value):
    """The value of a key as the parameter has it."""
    if key == "settings":
        if not isinstance(value, dict):
            raise places.error((key,), f"is {value!r}, expected settings of the method by their names")
        return text_of(value)
    kind = type(DEFAULTS[KEYS[key]])
    if issubclass(kind, enum.Enum):
        choices = [member.value for member in kind]
        if value not in choices:
            raise places.error((key,), not_among(value, choices))
        return kind(value)
    _check(places, key, value, kind)
    if key == "smoothness" and not 0.1 <= value <= 10:
        raise places.error((key,), f"is {value}, expected 0.1 to 10")
    return kind(value)


def _check(places, key: str, value, kind: type) -> None:
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise places.error((key,), f"is {value!r}, expected {KINDS[kind]}")


def save_preset(path: Path, title: str, parameters) -> Preset:
    """Write the parameters as a preset for others. Raises InputError if the file can't be written."""
    import yaml

    told = {"title": title}
    for key, name in KEYS.items():
        value = getattr(parameters, name)
        if key == "method" or value != DEFAULTS[name]:
            told[key] = value.value if isinstance(value, enum.Enum) else value
    if "settings" in told:
        told["settings"] = parameters.more_settings()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as place:
            place.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise InputError(
            _("{path}: the preset can't be written ({reason})").format(
                path=path, reason=error.strerror or error
            )
        ) from error
    return read_preset(path)


def path_of(typed: str) -> Path:
    """The file that a user means with a path, or with a name of a preset of their own."""
    name = typed.strip()
    if not name:
        raise InputError(_("Type a name for the preset, or choose a file for it."))
    if re.search(r"[/\\]", name):
        return Path(name) if name.endswith((ENDING, ".yml")) else Path(f"{name}{ENDING}")
    return own_folder() / f"{name.removesuffix(ENDING)}{ENDING}"
