"""Labels of one template carried to many scans: segmentations, volumes, pictures, and which came out unlike.

    settings.json            what it was made with; an interrupted transfer goes on only with the same
    segmentations/<scan>.…   on the grid of the scan, .seg.nrrd with names and colours, or .nii.gz
    pictures/<scan>.png      three planes of the scan with the outlines
    figures/<scan>.json      volumes and the distance of the images; written last: the scan is done
    volumes.csv              a row for each scan, and whether it is unlike the others

Each file is there whole or not at all.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from RegCore.evaluation.pictures.panels import grey_panel, window_of
from RegCore.evaluation.pictures.sheets import make_sheets, outlines_of, values_at
from RegCore.evaluation.pictures.slices import COLOURS
from RegCore.evaluation.pictures.words import BACKGROUND, write
from RegCore.io import save
from RegCore.io.files import atomic_write
from RegCore.networks.model_file import Model
from RegCore.progress import Progress, part_of, silent
from RegCore.registration.common_cost import common_cost
from RegCore.registration.deformable import Settings
from RegCore.registration.methods import Task, trained_network
from RegCore.registration.pair import PairSide
from RegCore.resampler import warp
from RegCore.slicreg.folder import file_state, same_file
from RegCore.slicreg.folder_making import load_volume, stem
from RegCore.slicreg.prediction import Method
from RegCore.slicreg.registration import REFINEMENT, check_template, template_of
from RegCore.space.geometry import InputError
from RegCore.space.names import READABLE
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume, check_image, check_labels, extent

FORMAT, VERSION = "DeepRegSlicer transferred labels", 1
SETTINGS, TABLE = "settings.json", "volumes.csv"
FEWEST = 5  # scans from which on it can be said that one is unlike the others
UNLIKE = 3.5  # robust z-score of one that is (Iglewicz and Hoaglin 1993)
NORMAL = 1.4826  # standard deviation of a normal distribution per median absolute deviation
LEAST_SPREAD = 0.05  # relative differences smaller than this are never unlike
PIXELS, GAP, TITLE = 420, 6, 30  # of a picture


@dataclass(frozen=True)
class LabelSource:
    """What is carried.

    Args:
        model: a trained model of SLIC-Reg.
        template: the image that it was trained for; None takes that which the model holds, of half the
            resolution.
        labels: the template's segmentation.
        ending: of the files of segmentations, ".seg.nrrd" or ".nii.gz".
        about: what `settings.json` says of these: texts by name.
        refine: whether the images refine what SLIC-Reg found.
        settings: of `RegCore.slicreg.registration.RegistrationSettings`, as `trained_network` takes them.
        device: torch device.
    """

    model: Model
    template: Volume
    labels: Volume
    ending: str
    about: Mapping[str, str]
    refine: bool = True
    settings: Mapping[str, Any] | None = None
    device: str = "cpu"

    @property
    def names(self) -> dict[int, str]:
        """The structures by label."""
        known = {segment.label: segment.name for segment in self.labels.segments}
        return {label: known.get(label, f"label {label}") for label in self.labels.labels()}


@dataclass(frozen=True)
class Transferred:
    """What came of it.

    Args:
        names: of the structures.
        rows: of each scan that is done: ``scan``, ``distance`` and ``volumes``, ml by name of the structure.
        unlike: sentences on the scans that came out unlike the others.
        failed: a sentence on each scan that can't be used.
    """

    names: list[str]
    rows: list[dict[str, Any]]
    unlike: dict[str, list[str]]
    failed: list[str]


def read_source(
    model: Model,
    model_path: Path,
    labels_path: Path,
    template_path: Path | None = None,
    *,
    refine: bool = True,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> LabelSource:
    """The template, its segmentation and the model, checked to belong together.

    Args:
        model: a trained model of SLIC-Reg.
        model_path: its file.
        labels_path: segmentation of the template.
        template_path: the template as it was prepared; by default the model's own image.
        refine, settings, device: as in `LabelSource`.

    Raises:
        InputError: they do not belong together, or a file can't be used; the message names it.
    """
    network = model.network
    if not isinstance(network, Method):
        raise InputError(f"{model_path}: this model was not trained by regcore slicreg train")
    if template_path is not None:
        template = load_volume(template_path, "image")
        check_image(template, str(template_path))
        check_template(network, template, str(template_path), str(model_path))
    else:
        template = template_of(network)
    labels = load_volume(labels_path, "labels")
    check_labels(labels, str(labels_path))
    marked = extent(labels)
    if marked is None or not marked.overlaps(template.geometry):
        raise InputError(
            f"{labels_path}: what it marks does not lie in the template of the model {model_path}"
        )
    about = {"model": _digest_of(model_path), "template_seg": _digest_of(labels_path)}
    about["template"] = "of the model" if template_path is None else _digest_of(template_path)
    ending = ".seg.nrrd" if labels_path.name.lower().endswith(".seg.nrrd") else ".nii.gz"
    return LabelSource(model, template, labels, ending, about, refine, settings, device)


def transfer_labels(
    source: LabelSource, scans: Sequence[Path], folder: Path, progress: Progress = silent
) -> Transferred:
    """Carry the labels to every scan. Called again, it makes what is missing.

    Args:
        source: of `read_source`.
        scans: paths whose names without endings differ.
        folder: made if need be.
        progress: told of scan and stage; raising `Cancelled` in it leaves the scans that are done.

    Returns:
        A `Transferred`; a scan that can't be used stands in its `failed` and stops no other.

    Raises:
        InputError: the folder holds other things, or two scans have one name.
    """
    named: dict[str, Path] = {}
    for path in scans:
        if named.setdefault(stem(path), path) != path:
            raise InputError(
                f"{path}: has the name of {named[stem(path)]}, so their segmentations would, too"
            )
    _begin(folder, source)
    rows, failed = [], []
    for number, (name, path) in enumerate(named.items()):
        inner = part_of(progress, number / len(named), (number + 1) / len(named))
        inner(0.0, name, {"scan": number + 1, "scans": len(named)})
        try:
            rows.append(_done(folder, source, name, path) or _transfer(folder, source, name, path, inner))
        except InputError as error:
            text = str(error)
            failed.append(text if str(path) in text else f"{path}: {text}")
    names = list(source.names.values())
    unlike = find_unlike(rows, names)
    _write_table(folder / TABLE, names, rows, unlike)
    progress(1.0, "done", {})
    return Transferred(names, rows, unlike, failed)


def _transfer(folder: Path, source: LabelSource, name: str, path: Path, progress: Progress) -> dict[str, Any]:
    """All files of one scan; its row."""
    image, state = load_volume(path, "image"), file_state(path)
    check_image(image, str(path))
    transform = _registered(source, image, part_of(progress, 0.0, 0.9))
    labels = warp(source.labels, transform, image.geometry)
    settings = Settings(**REFINEMENT)
    sides = PairSide(image), PairSide(source.template)
    distance = common_cost(*sides, [transform], settings=settings, device=source.device)[0]
    voxel = abs(float(np.linalg.det(image.geometry.affine[:3, :3]))) / 1000
    volumes = {title: _count(labels, label) * voxel for label, title in source.names.items()}
    save(labels, folder / "segmentations" / f"{name}{source.ending}")
    with atomic_write(folder / "pictures" / f"{name}.png") as side:
        label_picture(image, labels, name).save(side, format="PNG")
    row = {"scan": name, **state, "distance": distance, "volumes": volumes}
    with atomic_write(folder / "figures" / f"{name}.json") as side:
        side.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row


def _registered(source: LabelSource, scan: Volume, progress: Progress) -> Transform:
    """x_template = T(x_scan): what ``regcore slicreg register --refine`` finds for scan and template."""
    wanted = {**(source.settings or {}), "refine": source.refine}
    sides = PairSide(scan), PairSide(source.template)
    return trained_network(Task(*sides, None, None, wanted, source.device, 0, progress), source.model)


def _count(labels: Volume, label: int) -> int:
    array = labels.array
    return int(np.count_nonzero(array[..., label] if array.ndim == 4 else array == label))


# ---- unlike the others -------------------------------------------------------------------------------------


def robust_scores(values: np.ndarray, least: float) -> np.ndarray:
    """By how many robust standard deviations each value is above the median (Iglewicz and Hoaglin 1993).

    Args:
        values: (N,) numbers.
        least: smallest standard deviation that is believed.
    """
    away = values - np.median(values)
    return away / max(NORMAL * float(np.median(np.abs(away))), least)


def find_unlike(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[str]]:
    """Which scans came out unlike the others, and in what, by name of the scan; none of fewer than five.

    By the distance of the images after the registration, if it is larger, and by the logarithm of each
    volume: a robust z-score beyond 3.5. A structure that a scan lacks and most others have counts as well.
    """
    found: dict[str, list[str]] = {}
    if len(rows) < FEWEST:
        return found
    distances = np.array([row["distance"] for row in rows])
    for row, score in zip(
        rows, robust_scores(distances, LEAST_SPREAD * float(np.median(distances))), strict=True
    ):
        if score > UNLIKE:
            words = f"the images agree less than those of the others (z {score:.1f})"
            found.setdefault(row["scan"], []).append(words)
    for name in names:
        volumes = np.array([row["volumes"][name] for row in rows])
        there = volumes > 0
        if there.mean() <= 0.5:
            continue
        scores = np.full(len(rows), np.nan)
        scores[there] = robust_scores(np.log(volumes[there]), LEAST_SPREAD)
        for row, volume, score in zip(rows, volumes, scores, strict=True):
            if volume == 0:
                found.setdefault(row["scan"], []).append(f"{name} is missing")
            elif abs(score) > UNLIKE:
                size = "large" if score > 0 else "small"
                found.setdefault(row["scan"], []).append(
                    f"{name} is {size}: {volume:.1f} ml (z {score:+.1f})"
                )
    return found


# ---- files -------------------------------------------------------------------------------------------------


def label_picture(image: Volume, labels: Volume, title: str) -> Image.Image:
    """The axial, coronal and sagittal plane of a scan through its structures, with their outlines, RGB."""
    window = window_of(image.array[tuple(slice(None, None, max(1, n // 100)) for n in image.array.shape)])
    panels: list[Image.Image] = []
    for sheet in make_sheets(image, labels if _marked(labels) else None, PIXELS):
        grey = grey_panel(values_at(image.array, sheet.index), window)
        edges = outlines_of(labels, sheet.world, sheet.pixel_mm)
        colours = np.array(COLOURS)[(edges - 1) % len(COLOURS)]
        painted = np.where(edges[..., None] > 0, 0.12 * grey + 0.88 * colours, grey)
        panels.append(Image.fromarray(painted.astype(np.uint8)))
    size = sum(panel.width + GAP for panel in panels), TITLE + max(panel.height for panel in panels)
    picture, left = Image.new("RGB", size, BACKGROUND), 0
    write(picture, (size[0] / 2, TITLE / 2), title)
    for panel in panels:
        picture.paste(panel, (left, TITLE))
        left += panel.width + GAP
    return picture


def _marked(labels: Volume) -> bool:
    return bool(labels.array.any())


def _digest_of(path: Path) -> str:
    """What a file is known by, wherever it lies."""
    return str(file_state(path)["sha256"])


def _begin(folder: Path, source: LabelSource) -> None:
    """The folder with its settings, unless it has others."""
    record: dict[str, Any] = {"format": FORMAT, "version": VERSION, **source.about}
    record |= {"refine": source.refine, "settings": dict(source.settings or {})}
    path = folder / SETTINGS
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: is damaged ({error})") from None
        for key, value in record.items():
            if not isinstance(there, dict) or there.get(key) != value:
                raise InputError(f"{path}: this folder was made with another {key}; choose a new one")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: this folder holds other things; choose a new one")
    try:
        for part in ("segmentations", "pictures", "figures"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder can't be made ({error.strerror or error})") from error
    with atomic_write(path) as side:
        side.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _done(folder: Path, source: LabelSource, name: str, path: Path) -> dict[str, Any] | None:
    """The row of a scan that an earlier call has done; None if it has not, or if the file is another now."""
    files = folder / "segmentations" / f"{name}{source.ending}", folder / "pictures" / f"{name}.png"
    try:
        row = json.loads((folder / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        same = same_file(row, file_state(path)) and set(row["volumes"]) == set(source.names.values())
    except (OSError, ValueError, LookupError, AttributeError, RecursionError):
        return None
    return row if same and all(file.exists() for file in files) else None


def _write_table(
    path: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], unlike: Mapping[str, Sequence[str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["scan", *(f"{name} (ml)" for name in names), "distance of the images", "unlike the others"]
    )
    for row in rows:
        volumes = [f"{row['volumes'][name]:.3f}" for name in names]
        words = "; ".join(unlike.get(row["scan"], []))
        writer.writerow([row["scan"], *volumes, f"{row['distance']:.4f}", words])
    with atomic_write(path) as side:
        side.write_text(text.getvalue(), encoding="utf-8", errors=READABLE)
