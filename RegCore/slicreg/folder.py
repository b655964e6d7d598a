"""The folder that a training reads: a template divided into supervoxels, and these carried to every scan.

    settings.json      what was asked for, and the file of each scan with a digest of its contents
    template.npz       the template as the network sees it, and its supervoxels
    train/<scan>.npz   a scan as the network sees it, and the supervoxels that a registration of the template
    valid/<scan>.npz   to it gave it; the template itself is learnt from as well: its supervoxels are exact
    supervoxels.png    the template and a few scans to train with, to see whether all went well

Each file is there whole or not at all.
"""

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from RegCore.io.files import digest
from RegCore.slicreg.picture import Oversegmentation
from RegCore.slicreg.preparation import check_modality
from RegCore.slicreg.supervoxels import COMPACTNESS, ITERATIONS, SPREAD, Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

FORMAT, VERSION = "DeepRegSlicer supervoxels", 1
SETTINGS, TEMPLATE, PICTURE = "settings.json", "template.npz", "supervoxels.png"
PARTS = ("train", "valid")


@dataclass(frozen=True)
class FolderSettings:
    """How scans and supervoxels are made."""

    spacing: float = 2.0
    """Of the common grid, mm; the network's voxels are twice as large."""
    shape: tuple[int, int, int] | None = None
    """Voxels of the common grid, even numbers; None: what holds the middle sized of the scans."""
    modality: str = "ct"
    """"ct": Hounsfield units; "mr": any other."""
    layers: int = 16
    """Over-segmentations of the template."""
    count: int = 127
    """Supervoxels of each."""
    margin: float = 20.0
    """Millimetres around the template's body that are divided as well."""
    seed: int = 0
    """Of the over-segmentations."""
    compactness: float = COMPACTNESS
    """Of SLIC: larger makes supervoxels rounder and cares less for intensities."""
    iterations: int = ITERATIONS
    """Of SLIC's k-means."""
    spread: float = SPREAD
    """By how much the layers differ: standard deviation of the entries of a random affine matrix, in half
    extents of the grid."""

    def __post_init__(self) -> None:
        check_modality(self.modality)
        for name in ("spacing", "layers", "count", "compactness", "iterations"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"setting {name} is {getattr(self, name)}, expected more than 0")
        for name in ("margin", "spread"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"setting {name} is {getattr(self, name)}, expected at least 0")
        shape = self.shape
        if shape is not None and (len(shape) != 3 or any(n < 16 or n % 2 for n in shape)):
            raise InputError(f"setting shape is {list(shape)}, expected three even numbers of at least 16")


@dataclass(frozen=True)
class Template:
    """The template as the network sees it: image in its units, supervoxels on the same grid, of CT or MR."""

    image: Volume
    supervoxels: Supervoxels
    modality: str


@dataclass(frozen=True)
class TrainingScan:
    """A scan to learn from.

    Args:
        image: (I, J, K) float32 in the network's units.
        supervoxels: (L, I, J, K) uint8 or uint16.
        places: (3, i, j, k) float32, where in the template every second voxel belongs, in half extents of its
            grid from its middle.
    """

    image: np.ndarray
    supervoxels: np.ndarray
    places: np.ndarray


def file_state(path: Path, others: Iterable[Path] = ()) -> dict:
    """What tells whether a file is still the one that something was made of, as plain values.

    Args:
        path: of the file.
        others: files that it was made with besides; one that is missing says nothing.

    Raises:
        InputError: it can't be read.
    """
    try:
        found = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest(path)}
        more = [digest(other) for other in others if other.is_file()]
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    return {**found, "with": more} if more else found


def same_file(known: Mapping | None, now: Mapping) -> bool:
    """Whether two of `file_state` are of one file; earlier versions kept its name and size alone."""
    return known is not None and all(known.get(key, value) == value for key, value in now.items())


def read_settings(folder) -> dict:
    """What was asked for: ``settings.json``.

    Raises:
        InputError: it is no such folder; the message names it.
    """
    path = Path(folder) / SETTINGS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{folder}: a folder made by regcore slicreg prepare was expected, but {SETTINGS} is missing"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise InputError(f"{path}: was not made by this version of regcore slicreg prepare")
    if "teacher" in found:  # as earlier versions called it
        found["propagator"] = found.pop("teacher")
    plain = asdict(FolderSettings())
    found["settings"] = {key: found["settings"].get(key, value) for key, value in plain.items()}
    return found


def read_template(folder) -> Template:
    """The template of a prepared folder.

    Raises:
        InputError: the file can't be used; the message names it.
    """
    settings = read_settings(folder)["settings"]
    path = Path(folder) / TEMPLATE
    image, supervoxels, affine = _read(path, ("image", "supervoxels", "affine"))
    grid = Geometry(image.shape, affine)
    layers = Supervoxels(supervoxels, grid, settings["count"])
    return Template(Volume(image.astype(np.float32), grid), layers, settings["modality"])


def read_scan(path) -> TrainingScan:
    """A scan of a prepared folder; errors as for `read_template`."""
    image, supervoxels, places = _read(Path(path), ("image", "supervoxels", "places"))
    return TrainingScan(image.astype(np.float32), supervoxels, places.astype(np.float32))


def read_oversegmentation(path, title: str) -> Oversegmentation:
    """A scan of a prepared folder as it can be shown; errors as for `read_template`."""
    image, labels, affine = _read(Path(path), ("image", "supervoxels", "affine"))
    grid = Geometry(image.shape, affine)
    count = read_settings(Path(path).parents[1])["settings"]["count"]
    return Oversegmentation(title, Volume(image.astype(np.float32), grid), Supervoxels(labels, grid, count))


def scan_files(folder) -> list[Path]:
    """The files of a part of a prepared folder (``prepared/train``), in the order of their names.

    Raises:
        InputError: the preparation is not finished, or there are none.
    """
    folder = Path(folder)
    settings = read_settings(folder.parent)
    if folder.name not in PARTS:
        raise InputError(f"{folder}: one of the folders {' or '.join(PARTS)} of a preparation was expected")
    paths = [folder / f"{name}.npz" for name in settings[folder.name]]
    there = [path for path in paths if path.is_file()]
    if len(there) < len(paths) or not (folder.parent / TEMPLATE).is_file():
        there_are = f"{len(there)} of {len(paths)} scans of {folder.name} are there"
        how = "call regcore slicreg prepare as before, and it goes on"
        raise InputError(f"{folder.parent}: the preparation was interrupted, {there_are}; {how}")
    if paths:
        return paths
    raise InputError(f"{folder}: the preparation had no scans for this part")


def _read(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except KeyError as error:
        raise InputError(f"{path}: is no file of a preparation, there is no {error} in it") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
