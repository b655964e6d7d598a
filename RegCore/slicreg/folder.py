"""The folder that a training reads: a template divided into supervoxels, and these carried to every scan.

    settings.json      what was asked for; a preparation that was interrupted goes on only with the same
    template.npz       the template as the network sees it, and its supervoxels
    train/<scan>.npz   a scan as the network sees it, and the supervoxels that a registration of the template
    valid/<scan>.npz   to it gave it; the template itself is learnt from as well: its supervoxels are exact
    supervoxels.png    the template and a few scans to train with, to see whether all went well

Each file is there whole or not at all.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from RegCore.io import load, read_header
from RegCore.io.files import atomic_write, shorten, sweep_parts
from RegCore.io.scratch import in_turn
from RegCore.progress import Progress, part_of, silent
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.picture import Oversegmentation, supervoxel_picture
from RegCore.slicreg.preparation import (
    PreparedScan,
    body_mask,
    check_modality,
    common_shape,
    downsample2,
    network_units,
    prepare,
)
from RegCore.slicreg.supervoxels import Supervoxels, oversegment, propagate_supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

FORMAT, VERSION = "DeepRegSlicer supervoxels", 1
SETTINGS, TEMPLATE, PICTURE = "settings.json", "template.npz", "supervoxels.png"
SHOWN = 4  # scans in the picture
PARTS = ("train", "valid")
FEWEST = 2  # scans to train with


@dataclass(frozen=True)
class Propagator:
    """What propagates the template's supervoxels to a scan; `RegCore.slicreg.label_propagation` makes some.

    Args:
        name: kept with the settings, so that no folder is made by two of them.
        propagate: called as ``propagate(path, scan, template, progress)`` with the scan's file and both as
            they were prepared; gives x_template = T(x_scan), RAS mm.
    """

    name: str
    propagate: Callable[[Path, PreparedScan, PreparedScan, Progress], DisplacementField]


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

    def __post_init__(self):
        check_modality(self.modality)
        for name in ("spacing", "layers", "count"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"setting {name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.margin < float("inf"):
            raise InputError(f"setting margin is {self.margin}, expected at least 0 mm")
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


# ---- writing -----------------------------------------------------------------------------------------------


def prepare_folder(
    folder,
    template,
    train,
    valid=(),
    *,
    propagator: Propagator,
    settings: FolderSettings | None = None,
    progress: Progress = silent,
) -> Path:
    """Make the folder that a training reads. Called again after an interruption, it goes on.

    Args:
        folder: made if need be; what a finished part of the work left there is not made again.
        template: path of the scan that is divided into supervoxels.
        train, valid: paths of scans to learn from, and to watch the learning with. Their names without
            endings must differ.
        propagator: what brings the supervoxels to a scan.
        settings: see `FolderSettings`.
        progress: told of stage and scan; raising `Cancelled` in it leaves what is finished.

    Returns:
        The folder.

    Raises:
        InputError: too few scans, a file that can't be used (the sentence names it), or a folder that holds
            a preparation with other scans or settings.
    """
    folder, template = Path(folder).expanduser(), Path(template)
    scans = {"train": _by_name(train), "valid": _by_name(valid)}
    _check_scans(template, scans)
    scans["train"] = _by_name([*scans["train"].values(), template])
    settings = _with_shape(settings or FolderSettings(), list(scans["train"].values()))
    _begin(folder, _record(template, scans, settings, propagator.name))
    with in_turn(folder):
        sweep_parts(folder, *(folder / part for part in PARTS))
        prepared_template = _prepare(template, settings)
        divided = _template(folder, prepared_template, settings, part_of(progress, 0.0, 0.1))
        every = ((part, name, path) for part in PARTS for name, path in scans[part].items())
        todo = [item for item in every if not (folder / item[0] / f"{item[1]}.npz").exists()]
        for number, (part, name, path) in enumerate(todo):
            inner = part_of(progress, 0.1 + 0.9 * number / len(todo), 0.1 + 0.9 * (number + 1) / len(todo))
            inner(0.0, name, {"scan": number + 1, "scans": len(todo)})
            scan = _prepare(path, settings)
            if path == template:
                field = DisplacementField.from_affine(AffineTransform.identity(), scan.image.geometry)
            else:
                field = propagator.propagate(path, scan, prepared_template, inner)
            write_scan(folder / part / f"{name}.npz", scan, field, divided)
        if todo or not (folder / PICTURE).exists():
            _draw(folder)
        progress(1.0, "done", {})
    return folder


def write_scan(path: Path, scan: PreparedScan, field: DisplacementField, template: Supervoxels) -> None:
    """Write what a training needs of a scan.

    Args:
        scan: on the common grid.
        field: x_template = T(x_scan).
        template: supervoxels on the network's grid.
    """
    small = downsample2(scan)
    grid = small.image.geometry
    corner = tuple(range(0, n, STRIDE) for n in grid.shape)
    index = np.stack(np.meshgrid(*corner, indexing="ij"), -1)
    found = template.geometry.to_index(field.map(grid.to_world(index)))
    half = np.array(template.geometry.shape) / 2
    _write(
        path,
        {
            "image": network_units(small)[0, 0].numpy().astype(np.float16),
            "supervoxels": propagate_supervoxels(template, field, grid).labels,
            "places": np.moveaxis((found + 0.5) / half - 1, -1, 0).astype(np.float16),
            "affine": grid.affine,
        },
    )


def stem(path) -> str:
    """The name of a file without the endings of images."""
    name = Path(path).name
    for ending in (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".npz"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _by_name(paths) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if stem(path) in found:
            raise InputError(f"{path}: has the name of {found[stem(path)]}, which is prepared as well")
        found[stem(path)] = path
    return dict(sorted(found.items()))


def _check_scans(template: Path, scans: Mapping[str, Mapping[str, Path]]) -> None:
    if not template.is_file():
        raise InputError(f"{template}: the template is missing")
    if len(scans["train"]) < FEWEST:
        raise InputError(
            f"at least {FEWEST} scans to train with are needed besides the template, but "
            f"{len(scans['train'])} were given"
        )
    both = sorted(scans["train"].keys() & scans["valid"].keys())
    if both:
        raise InputError(f"{scans['valid'][both[0]]}: is named both for training and for validation")


def _with_shape(settings: FolderSettings, paths: list[Path]) -> FolderSettings:
    """The settings with a shape, chosen from the headers of the scans if none is given."""
    shape = settings.shape
    if shape is None:
        shape = common_shape([read_header(path)[1] for path in paths], settings.spacing)
    return FolderSettings(**asdict(settings) | {"shape": tuple(shape)})


def _record(template: Path, scans, settings: FolderSettings, propagator: str) -> dict:
    """All that the contents of the folder follow from, as plain values."""

    def file(path: Path) -> dict:
        try:
            return {"file": path.name, "bytes": path.stat().st_size}
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror or error})") from error

    parts = {part: {name: file(path) for name, path in scans[part].items()} for part in PARTS}
    plain = asdict(settings) | {"shape": list(settings.shape)}
    about = {"format": FORMAT, "version": VERSION, "propagator": propagator, "template": file(template)}
    return {**about, "settings": plain, **parts}


def _begin(folder: Path, record: dict) -> None:
    """The folder with its settings, unless it has others."""
    path = folder / SETTINGS
    if path.exists():
        there = read_settings(folder)
        for key, value in record.items():
            if there.get(key) != value:
                instead = f"{_short(there.get(key))} instead of {_short(value)}"
                why = f"this folder holds a preparation with another {key}: {instead}"
                raise InputError(f"{path}: {why}; choose another folder, or remove this one")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: this folder holds other things; choose a new one")
    try:
        for part in PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder can't be made ({error.strerror or error})") from error
    with atomic_write(path) as side:
        side.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _short(value) -> str:
    return shorten(", ".join(value) if isinstance(value, dict) and "file" not in value else str(value), 120)


def _prepare(path: Path, settings: FolderSettings) -> PreparedScan:
    volume = load(path, "image")
    return prepare(volume, settings.shape, settings.spacing, modality=settings.modality, name=str(path))


def _template(
    folder: Path, template: PreparedScan, settings: FolderSettings, progress: Progress
) -> Supervoxels:
    """The template's supervoxels, from the file if it was made before."""
    if (folder / TEMPLATE).exists():
        return read_template(folder).supervoxels
    small = downsample2(template)
    image = Volume(network_units(small)[0, 0].numpy(), small.image.geometry)
    mask = body_mask(small, settings.margin, "the template")
    found = oversegment(
        image, mask, layers=settings.layers, count=settings.count, seed=settings.seed, progress=progress
    )
    arrays = {"image": image.array.astype(np.float16), "supervoxels": found.labels}
    _write(folder / TEMPLATE, arrays | {"affine": image.geometry.affine})
    return found


def _draw(folder: Path) -> None:
    """The picture of what was made."""
    template = read_template(folder)
    shown = [Oversegmentation("template", template.image, template.supervoxels)]
    own = stem(read_settings(folder)["template"]["file"])
    for path in [path for path in scan_files(folder / "train") if path.stem != own][:SHOWN]:
        shown.append(read_oversegmentation(path, path.stem))
    layers = range(min(2, template.supervoxels.layers))
    with atomic_write(folder / PICTURE) as side:
        supervoxel_picture(shown, layers).save(side, format="PNG")


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with atomic_write(path) as side, open(side, "xb") as file:
        np.savez_compressed(file, **arrays)


# ---- reading -----------------------------------------------------------------------------------------------


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
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise InputError(f"{path}: was not made by this version of regcore slicreg prepare")
    if "teacher" in found:  # as earlier versions called it
        found["propagator"] = found.pop("teacher")
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
