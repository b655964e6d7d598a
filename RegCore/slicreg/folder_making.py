"""Makes the folder that a training reads, see `RegCore.slicreg.folder`: scan by scan, kept scan by scan."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from RegCore.io import load, read_header
from RegCore.io.files import atomic_write, shorten, sweep_parts
from RegCore.io.scratch import in_turn
from RegCore.progress import Progress, part_of, silent
from RegCore.slicreg.folder import (
    FORMAT,
    PARTS,
    PICTURE,
    SETTINGS,
    TEMPLATE,
    VERSION,
    FolderSettings,
    file_state,
    read_oversegmentation,
    read_settings,
    read_template,
    same_file,
    scan_files,
)
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.picture import Oversegmentation, supervoxel_picture
from RegCore.slicreg.preparation import (
    PreparedScan,
    body_mask,
    common_shape,
    downsample2,
    network_units,
    prepare,
)
from RegCore.slicreg.registration import place_in, stays
from RegCore.slicreg.supervoxels import Supervoxels, oversegment, propagate_supervoxels
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

SHOWN = 4  # scans in the picture
FEWEST = 2  # scans to train with
OF_SLIC = ("layers", "count", "compactness", "iterations", "spread", "seed")


@dataclass(frozen=True)
class Propagator:
    """What propagates the template's supervoxels to a scan; `RegCore.slicreg.label_propagation` makes some.

    Args:
        name: kept with the settings, so that no folder is made by two of them.
        propagate: called as ``propagate(path, scan, template, progress)`` with the scan's file and both as
            they were prepared; gives x_template = T(x_scan), RAS mm.
        check: called as ``check(path, settings)`` for each scan before any work; raises an `InputError` where
            `propagate` would.
        files: called as ``files(path)``: the files that are read for a scan besides itself, so that it is
            made anew where they are others.
    """

    name: str
    propagate: Callable[[Path, PreparedScan, PreparedScan, Progress], DisplacementField]
    check: Callable[[Path, FolderSettings], None] | None = None
    files: Callable[[Path], Sequence[Path]] = lambda path: ()


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
    """Make the folder that a training reads.

    Called again, it makes what is missing: after an interruption, or with other scans than before. All scans
    are looked at before the first of them is registered, so that a bad one is told in the first minute.

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
        InputError: too few scans, files that can't be used (the sentence names each), or a folder that holds
            a preparation with another template or other settings.
    """
    folder, template = Path(folder).expanduser(), Path(template)
    scans = {"train": _by_name(train), "valid": _by_name(valid)}
    _check_scans(template, scans)
    scans["train"] = _by_name([*scans["train"].values(), template])
    settings = _with_shape(settings or FolderSettings(), folder, list(scans["train"].values()))
    record = _record(template, scans, settings, propagator)
    there = _existing(folder, record)
    todo = [
        (part, name, path)
        for part in PARTS
        for name, path in scans[part].items()
        if _made(folder, there, name, record[part][name]) is None
    ]
    if there is not None and (todo or there["template"] != record["template"]):
        _check_template(folder, template, settings)
    unseen = [template] if todo or not (folder / TEMPLATE).exists() else []
    unseen += [path for _, _, path in todo if path != template]
    _check_all(unseen, settings, propagator, part_of(progress, 0.0, 0.05))
    _begin(folder, there, record)
    with in_turn(folder):
        sweep_parts(folder, *(folder / part for part in PARTS))
        _make(folder, template, todo, settings, propagator, part_of(progress, 0.05, 1.0))
    progress(1.0, "done", {})
    return folder


def _make(
    folder: Path,
    template: Path,
    todo: list[tuple[str, str, Path]],
    settings: FolderSettings,
    propagator: Propagator,
    progress: Progress,
) -> None:
    """Divide the template and make the scans that are missing: part, name and file of each."""
    todo = [item for item in todo if not (folder / item[0] / f"{item[1]}.npz").exists()]  # by another process
    prepared_template = _prepare(template, settings)
    divided = _template(folder, prepared_template, settings, part_of(progress, 0.0, 0.1))
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
    write_arrays(
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
    if (count := len(scans["train"])) < FEWEST:
        raise InputError(
            f"at least {FEWEST} scans to train with are needed besides the template, but {count or 'none'}"
            f" {'was' if count < 2 else 'were'} given"
        )
    both = sorted(scans["train"].keys() & scans["valid"].keys())
    if both:
        raise InputError(f"{scans['valid'][both[0]]}: is named both for training and for validation")


def _with_shape(settings: FolderSettings, folder: Path, paths: list[Path]) -> FolderSettings:
    """The settings with a shape: if none is given that of the folder, else chosen from the scans' headers."""
    shape = settings.shape
    if shape is None and (folder / TEMPLATE).exists():
        shape = read_settings(folder)["settings"]["shape"]
    if shape is None:
        shape = common_shape([read_header(path)[1] for path in paths], settings.spacing)
    return FolderSettings(**asdict(settings) | {"shape": tuple(shape)})


def _record(template: Path, scans, settings: FolderSettings, propagator: Propagator) -> dict:
    """All that the contents of the folder follow from, as plain values."""

    def state(path: Path) -> dict:
        return file_state(path, () if path == template else propagator.files(path))

    parts = {part: {name: state(path) for name, path in scans[part].items()} for part in PARTS}
    plain = asdict(settings) | {"shape": list(settings.shape or ())}
    about = {"format": FORMAT, "version": VERSION, "propagator": propagator.name, "template": state(template)}
    return {**about, "settings": plain, **parts}


def _existing(folder: Path, record: dict) -> dict | None:
    """What an earlier call left in the folder, if that can be gone on with; None for a new folder."""
    path = folder / SETTINGS
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: this folder holds other things; choose a new one")
        return None
    there = read_settings(folder)
    if not (folder / TEMPLATE).exists():
        return None  # nothing was made yet
    for key in ("propagator", "settings"):
        if there.get(key) != record[key]:
            raise InputError(
                f"{path}: this folder holds a preparation with another {key}: {_short(there.get(key))} "
                f"instead of {_short(record[key])}; choose another folder, or remove this one"
            )
    return there


def _check_template(folder: Path, template: Path, settings: FolderSettings) -> None:
    """Check that a scan shows what a folder was prepared with, however it was saved.

    Raises:
        InputError: it shows something else, or lies elsewhere.
    """
    known = read_template(folder)
    place, _ = place_in(known.supervoxels, known.image.array, _prepare(template, settings))
    if place is None or not stays(place):
        file = read_settings(folder)["template"]["file"]
        raise InputError(
            f"{template}: this is not the template that {folder} was prepared with, {file} as it was then; "
            "choose another folder, or remove this one"
        )


def _made(folder: Path, there: dict | None, name: str, file: dict) -> Path | None:
    """Where a scan was made of this file, in whichever part."""
    if there is None:
        return None
    for part in PARTS:
        path = folder / part / f"{name}.npz"
        if same_file(there[part].get(name), file) and path.exists():
            return path
    return None


def _check_all(
    paths: list[Path], settings: FolderSettings, propagator: Propagator, progress: Progress
) -> None:
    """Check every scan that is to be made, so that no hours are spent before a bad one is found."""
    wrong = []
    for number, path in enumerate(paths):
        progress(number / len(paths), f"looking at {stem(path)}", {"scan": number + 1, "scans": len(paths)})
        try:
            _prepare(path, settings)
            if propagator.check is not None and number:  # the template comes first
                propagator.check(path, settings)
        except InputError as error:
            wrong.append(str(error))
    if len(wrong) > 1:
        raise InputError(f"{len(wrong)} of {len(paths)} scans can't be used: {'; '.join(wrong)}")
    if wrong:
        raise InputError(wrong[0])


def _begin(folder: Path, there: dict | None, record: dict) -> None:
    """The folder with its settings; what was made of other files than these is removed."""
    try:
        for part in PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder can't be made ({error.strerror or error})") from error
    for part in PARTS:
        for name, file in record[part].items():
            made, wanted = _made(folder, there, name, file), folder / part / f"{name}.npz"
            if made is None:
                wanted.unlink(missing_ok=True)
            elif made != wanted:
                made.replace(wanted)
    if there is not None and any(there[part] != record[part] for part in PARTS):
        (folder / PICTURE).unlink(missing_ok=True)
    with atomic_write(folder / SETTINGS) as side:
        side.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _short(value) -> str:
    return shorten(", ".join(value) if isinstance(value, dict) and "file" not in value else str(value), 120)


def _prepare(path: Path, settings: FolderSettings) -> PreparedScan:
    if settings.shape is None:
        raise InputError("the settings of a preparation have no shape")
    volume = load_volume(path, "image")
    return prepare(volume, settings.shape, settings.spacing, modality=settings.modality, name=str(path))


def load_volume(path: Path, kind: str) -> Volume:
    """An image or a label map of a file.

    Raises:
        InputError: the file can't be used, or holds a transform; the message names it.
    """
    found = load(path, kind)
    if not isinstance(found, Volume):
        raise InputError(f"{path}: an image was expected, but this is a transform")
    return found


def _template(
    folder: Path, template: PreparedScan, settings: FolderSettings, progress: Progress
) -> Supervoxels:
    """The template's supervoxels, from the file if it was made before."""
    if (folder / TEMPLATE).exists():
        return read_template(folder).supervoxels
    small = downsample2(template)
    image = Volume(network_units(small)[0, 0].numpy(), small.image.geometry)
    mask = body_mask(small, settings.margin, "the template")
    plain = asdict(settings)
    wanted = {name: plain[name] for name in OF_SLIC}
    found = oversegment(image, mask, **wanted, progress=progress)
    arrays = {"image": image.array.astype(np.float16), "supervoxels": found.labels}
    write_arrays(folder / TEMPLATE, arrays | {"affine": image.geometry.affine})
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


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an .npz file, compressed, whole or not at all."""
    with atomic_write(path) as side, open(side, "xb") as file:
        np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]
