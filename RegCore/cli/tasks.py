"""What Slicer's panels ask the child process for besides registering and training; see `RegCore.cli.worker`.

Each command is a function (arguments, progress) -> result of values that `RegCore.io.messages` can write.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.cli.extras import MAPS, as_image, extras, named_start
from RegCore.cli.failures import load_torch
from RegCore.progress import Progress, part_of
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume, common_labels
from RegCore.training.history import best_epoch

FIGURES = ("loss", "val_loss")  # columns of a training's table that a model's card shows
PAIRED = ("fixed_images", "moving_images", "fixed_labels", "moving_labels")  # DeepReg's folders of pairs


def checked(arguments: dict[str, Any], moving: Volume, done: Any) -> dict[str, Any]:
    """What tells how good a registration is, beyond its metrics.

    Args:
        arguments: of the request to register.
        moving: the moving image.
        done: the `Registration`.

    Returns:
        "structures", see `structure_figures`, None without two segmentations; "landmark_errors", mm by
        "before" and "after", None without landmarks; "outside", see `outside`.
    """
    import RegCore
    from RegCore.evaluation.metrics import IDENTITY, tre
    from RegCore.evaluation.structures import structure_figures

    before = arguments.get("initial") or IDENTITY
    fixed_labels, moving_labels = arguments.get("fixed_labels"), arguments.get("moving_labels")
    landmarks, grid = arguments.get("landmarks"), done.warped.geometry
    structures = errors = None
    if fixed_labels is not None and moving_labels is not None:
        on_grid = RegCore.warp(fixed_labels, IDENTITY, grid)
        structures = structure_figures(on_grid, moving_labels, done.warped_labels, before)
    if landmarks is not None:
        ways = {"before": before, "after": done.transform}
        errors = {when: tre(way, np.asarray(landmarks)).tolist() for when, way in ways.items()}
    return {
        "structures": structures,
        "landmark_errors": errors,
        "outside": outside(done.transform, grid, moving),
    }


def outside(transform: Transform, grid: Any, moving: Volume) -> float:
    """The share of a grid's points that a transform takes out of the moving image, in percent.

    Of a large grid a regular part is looked at.
    """
    step = max(1, round((grid.voxels / 200_000) ** (1 / 3)))
    index = np.stack(np.meshgrid(*(np.arange(0, n, step) for n in grid.shape), indexing="ij"), -1)
    place = moving.geometry.to_index(transform.map(grid.to_world(index.reshape(-1, 3))))
    seen = ((place >= -0.5) & (place <= np.array(moving.geometry.shape) - 0.5)).all(-1)
    return float(100 * (1 - seen.mean()))


def report_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write a page with pictures, figures and settings of a registration as PNG and PDF.

    Args:
        arguments: ``fixed``, ``moving`` volumes, ``transform``, optionally ``fixed_labels`` and
            ``moving_labels``; ``title``, ``tables`` (pairs of a title and rows of text), ``notes``; ``path``
            of the files without an ending; ``method``, ``metrics``, ``seconds``.
        progress: told how far the work is.
    """
    load_torch(progress)
    import RegCore
    from RegCore.evaluation.overview import overview
    from RegCore.evaluation.page import page, save_page

    fixed, moving = as_image(arguments["fixed"]), as_image(arguments["moving"])
    transform = arguments["transform"]
    labels, onto = arguments.get("moving_labels"), fixed.geometry
    progress(0.1, "drawing the report", {})
    done = RegCore.Registration(
        transform,
        moving.geometry,
        RegCore.warp(moving, transform, onto),
        None if labels is None else RegCore.warp(labels, transform, onto),
        {**arguments["metrics"], "method": arguments["method"]},
        arguments["seconds"],
    )
    picture = overview(done, fixed, moving, arguments.get("fixed_labels"), labels)
    progress(0.8, "writing the report", {})
    sheet = page(arguments["title"], picture, arguments["tables"], arguments["notes"])
    return {"files": [str(path) for path in save_page(sheet, Path(arguments["path"]))]}


def pair_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Add a pair to a data set of pairs in DeepReg's layout.

    Args:
        arguments: ``folder`` of the data set, ``name`` of the pair, ``fixed``, ``moving``, and both or none
            of ``fixed_labels`` and ``moving_labels``.
        progress: told how far the work is.
    """
    from RegCore.io import save

    folder, name = Path(arguments["folder"]), arguments["name"]
    labels = arguments.get("fixed_labels"), arguments.get("moving_labels")
    volumes = [arguments["fixed"], arguments["moving"], *_channels(*labels)]
    labeled = (folder / PAIRED[2]).is_dir()
    if (folder / PAIRED[0]).is_dir() and labeled != (volumes[2] is not None):
        has, came = ("with", "without") if labeled else ("without", "with")
        raise InputError(
            f"{folder}: the pairs in this data set come {has} segmentations, this one {came} them"
        )
    targets = [folder / kind / f"{name}.nii.gz" for kind in PAIRED]
    if there := [target for target in targets if target.exists()]:
        raise InputError(f"{there[0]}: a pair of this name is in the data set already")
    written: list[Path] = []
    try:
        for place, (volume, target) in enumerate(zip(volumes, targets, strict=True)):
            if volume is None:
                continue
            progress(place / len(targets), f"writing {target.name}", {})
            target.parent.mkdir(parents=True, exist_ok=True)
            save(volume, target)
            written.append(target)
    except OSError as error:
        _remove(written)
        raise InputError(f"{folder}: the pair can't be written ({error.strerror or error})") from error
    except BaseException:
        _remove(written)
        raise
    return {"files": [str(path) for path in written]}


def _channels(fixed: Volume | None, moving: Volume | None) -> tuple[Volume | None, Volume | None]:
    """Both label maps as trainings read them: ``(I, J, K, C)``, a channel for each structure of both."""
    if fixed is None or moving is None or fixed.array.ndim == 4:
        return fixed, moving
    labels = common_labels(fixed, moving, "fixed", "moving")
    stacks = [np.stack([side.array == label for label in labels], -1) for side in (fixed, moving)]
    made = [
        Volume(stack.astype(np.uint8), side.geometry, "labels")
        for stack, side in zip(stacks, (fixed, moving), strict=True)
    ]
    return made[0], made[1]


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def save_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write a volume and what belongs to it into a folder.

    Args:
        arguments: ``stem``, the path without an ending; ``volume``; optionally ``labels`` with names,
            ``mask``, and ``initial``, a transform or a word of `STARTS`, for "moments" with ``fixed``, the
            path of the image that the volume is to be registered to.
        progress: told how far the work is.

    Returns:
        The names of the files by "volume", "labels", "mask" and "initial", "" where there is none; the word
        "centres", which ``regcore`` knows, stays a word.
    """
    from RegCore.io import load, save

    stem, initial = Path(arguments["stem"]), arguments.get("initial")
    given: dict[str, Any] = {name: arguments.get(name) for name in ("volume", "labels", "mask")}
    if isinstance(initial, str) and initial != "centres":
        load_torch(progress)
        fixed: Any = load(arguments["fixed"], "image") if "fixed" in arguments else given["volume"]
        initial = named_start(initial, fixed, given["volume"])
    given["initial"] = initial
    endings = {"volume": "nii.gz", "labels": "seg.nrrd", "mask": "mask.nii.gz"}
    endings["initial"] = "start.tfm" if isinstance(initial, AffineTransform) else "start.h5"
    files = {
        name: f"{stem.name}.{ending}" if given[name] is not None else "" for name, ending in endings.items()
    }
    if initial == "centres":
        files["initial"] = given.pop("initial")
    for name, value in given.items():
        if value is not None:
            progress(0.0, f"writing {files[name]}", {})
            save(value, stem.parent / files[name])
    return files


def files_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Register a file to another one and write what `write_results` writes into a folder.

    Args:
        arguments: ``fixed`` and ``moving``, paths; optionally ``fixed_labels`` and ``moving_labels``,
            ``fixed_mask`` and ``moving_mask``, paths; ``out``, the folder; ``method``, ``settings``,
            ``device``, ``seed``; optionally ``initial``, a word of `STARTS` but for landmarks, and
            ``wanted``, as `extras` takes it: maps are written too.
        progress: told how far the work is.
    """
    load_torch(progress)
    import RegCore
    from RegCore.evaluation.results import prepared_folder, write_results
    from RegCore.io import load, save
    from RegCore.space.segments import pair_segments

    fixed: Any = load(arguments["fixed"], "image")
    moving: Any = load(arguments["moving"], "image")
    paths = [arguments.get(name) for name in ("fixed_labels", "moving_labels")]
    read: list[Any] = [path and load(path, "labels") for path in paths]
    labels = pair_segments(*read)
    paths = [arguments.get(name) for name in ("fixed_mask", "moving_mask")]
    masks: list[Any] = [path and load(path, "labels") for path in paths]
    options = {name: arguments[name] for name in ("method", "settings", "device", "seed")}
    start, wanted = arguments.get("initial"), arguments.get("wanted") or {}
    with prepared_folder(Path(arguments["out"])) as folder:
        done = RegCore.register(
            fixed,
            moving,
            fixed_labels=labels[0],
            moving_labels=labels[1],
            fixed_mask=masks[0],
            moving_mask=masks[1],
            initial=None if start is None else named_start(start, fixed, moving),
            **options,
            progress=part_of(progress, 0.0, 0.9),
        )
        wanted = {**wanted, "inverse": False}  # which is always written
        more = extras(wanted, moving, done, progress=part_of(progress, 0.9, 0.95))
        about = {"method": options["method"], "fixed": arguments["fixed"], "moving": arguments["moving"]}
        done = replace(done, warped=more["warped"])
        written = write_results(folder, done, fixed, moving, *labels, about)
        for kind in MAPS:
            if kind in more:
                written.append(folder / f"{kind}.nii.gz")
                save(more[kind], written[-1])
    return {"metrics": done.metrics, "seconds": done.seconds, "files": [str(path) for path in written]}


def model_command(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """What a model file says of itself; with ``to``, a copy of it without what only its training needs.

    Args:
        arguments: ``path`` of the file; optionally ``notes``, a text on what it was trained on and under
            which licence, which the copy ``to`` holds in place of the former one.
        progress: told how far the work is.

    Raises:
        InputError: the file can't be read, or the copy not be written.
    """
    load_torch(progress)
    from RegCore.networks.model_file import read_content, write_content

    content = read_content(Path(arguments["path"]))
    content.pop("training", None)
    content["figures"] = str(content.get("figures") or _figures_beside(Path(arguments["path"])))
    if arguments.get("to"):
        content["notes"] = str(arguments.get("notes", content.get("notes", "")))
        target = Path(arguments["to"])
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent}: the folder can't be made ({error.strerror})") from None
        write_content(target, content)
    train = content["config"].get("train", {})
    data = content["config"].get("dataset", {})
    return {
        "method": str(train.get("method", "")),
        "network": str((train.get("backbone") or {}).get("name", "")),
        "fixed_size": list(content["fixed_size"]),
        "moving_size": list(content["moving_size"]),
        "channels": int((train.get("backbone") or {}).get("num_channel_initial") or 0),
        "labeled": bool(content["labeled"]),
        "axes": list(content.get("axes", ())),
        "spacing": content.get("spacing", {}),
        "structures": list(content.get("structures", ())),
        "data": str((data.get("train") or {}).get("dir", "")),
        "kind": str(data.get("type", "")),
        "epochs": int(train.get("epochs", 0)),
        "weights": int(sum(tensor.numel() for tensor in content["state"].values())),
        "figures": content["figures"],
        "notes": str(content.get("notes", "")),
    }


def _figures_beside(path: Path) -> str:
    """The figures of the best epoch in words, of a model in the folder of its training; else ""."""
    table = path.parent.parent / "metrics.csv"
    if path.parent.name != "save" or not table.is_file():
        return ""
    try:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        best = best_epoch(rows)
        if best is None:
            return ""
        figures = ", ".join(f"{name} {float(best[name]):.4g}" for name in FIGURES if best.get(name))
    except (OSError, ValueError, KeyError):
        return ""
    return f"epoch {best['epoch']} of {len(rows)}: {figures}"
