"""The end of a training: what its best model makes of validation pairs, as a table and as a picture."""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from RegCore.evaluation.figures import FIGURES
from RegCore.evaluation.metrics import mean_of_defined
from RegCore.evaluation.overview import overview
from RegCore.evaluation.pictures.words import BACKGROUND, write
from RegCore.io.files import atomic_write
from RegCore.loaders import Loader, Sample, make_loader
from RegCore.networks.model_file import Model
from RegCore.networks.models import ConditionalModel
from RegCore.progress import Progress, silent
from RegCore.registration.learned import load_model
from RegCore.registration.register import Registration, register
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume
from RegCore.training.config import Config
from RegCore.training.records import write_table

log = logging.getLogger(__name__)
MOST = 8  # pairs that are registered, spread over the validation data
TITLE, MARGIN = 44, 52  # height of the line above a picture, and where it begins, pixels
PICTURE, TABLE = "overview.png", "validation.csv"


@dataclass(frozen=True)
class Judged:
    """How a validation pair is registered.

    Args:
        name: of the fixed and of the moving image.
        key: "dice_mean", or "ncc" without labels, of `FIGURES`.
        before, after: that figure.
        fold_percent: folded voxels.
        structures: Dice before and after by the name of the structure.
    """

    name: str
    key: str
    before: float
    after: float
    fold_percent: float
    structures: dict[str, tuple[float, float]]


def close(
    model: str | Path, config: Config, folder: Path, *, device: str = "auto", progress: Progress = silent
) -> str:
    """Register validation pairs with a model as `RegCore.register` does, on their own grids; say how well.

    Writes ``validation.csv``, a line for each pair, and ``overview.png``, the best pair above the worst one.

    Args:
        model: the file of the best epoch.
        config: of the training.
        folder: of the run.
        device: as for `RegCore.train`.
        progress: told after each pair; raising `Cancelled` ends the work.

    Returns:
        The table as text; "" where there are no validation data, or for a method that gives no transform.

    Raises:
        InputError: a file can't be used or written; the message names it.
    """
    dataset, deepreg = config.to_dict()["dataset"], config.train.deepreg
    trained = load_model(model, device=device)
    loader = make_loader(dataset, "valid", deepreg=deepreg, axes=trained.axes)
    if not isinstance(loader, Loader) or isinstance(trained.network, ConditionalModel):
        return ""
    pairs = list({sample.indices: sample for sample in loader.samples()}.values())
    chosen = [pairs[n] for n in np.unique(np.linspace(0, len(pairs) - 1, MOST).round().astype(int))]
    judged = []
    for number, sample in enumerate(chosen):
        progress(number / (len(chosen) + 2), "validation pairs", {})
        judged.append(_judged(_pair(loader, sample), trained, device))
    judged = _alike(judged)
    order = [n for n in np.argsort([pair.after for pair in judged]) if not math.isnan(judged[n].after)] or [0]
    named = {"best": int(order[-1])} | ({"worst": int(order[0])} if len(order) > 1 else {})
    _write_picture({what: _pair(loader, chosen[n]) for what, n in named.items()}, trained, folder, device)
    write_table(folder / TABLE, [_row(pair) for pair in judged])
    loader.close()
    progress(1.0, "validation pairs", {})
    return table(judged, len(pairs))


@dataclass(frozen=True)
class ValidationPair:
    """A validation pair as its files hold it; labels have a channel for each structure of both images."""

    name: str
    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None
    moving_labels: Volume | None
    structures: list[str]

    def registered(self, trained: Model, device: str) -> Registration:
        """Registered by a trained network."""
        labels = self.fixed_labels, self.moving_labels
        return register(
            self.fixed,
            self.moving,
            trained,
            fixed_labels=labels[0],
            moving_labels=labels[1],
            device=device,
        )


def _pair(loader: Loader, sample: Sample) -> ValidationPair:
    sides = (loader.fixed, sample.fixed), (loader.moving, sample.moving)
    fixed, moving = (side.image_volume(index) for side, index in sides)
    first, second = ("/".join(side.images.names[index][1:]) for side, index in sides)
    name = first if first == second else f"{second} → {first}"
    if not loader.labeled:
        return ValidationPair(name, fixed, moving, None, None, [])
    masks: list[list[np.ndarray]] = []
    grids: list[Geometry] = []
    for side, index in sides:
        volumes = [side.label_volume(index, channel) for channel in range(side.channels[index])]
        masks.append([volume.array >= 0.5 for volume in volumes])
        grids.append(volumes[0].geometry)
    drawn = [n for n, both in enumerate(zip(*masks, strict=True)) if both[0].any() and both[1].any()]
    if not drawn:
        return ValidationPair(name, fixed, moving, None, None, [])
    names = loader.structures or [f"label {n}" for n in range(len(masks[0]))]
    first_labels, second_labels = (
        Volume(np.stack([side[n] for n in drawn], -1).astype(np.uint8), grid, "labels")
        for side, grid in zip(masks, grids, strict=True)
    )
    return ValidationPair(name, fixed, moving, first_labels, second_labels, [names[n] for n in drawn])


def _judged(pair: ValidationPair, trained: Model, device: str) -> Judged:
    metrics = pair.registered(trained, device).metrics
    key = "dice_mean" if "dice_mean" in metrics else "ncc"
    overlap = metrics.get("dice", {"before": {}, "after": {}})
    dice = {pair.structures[n]: (overlap["before"][n], after) for n, after in overlap["after"].items()}
    found = metrics[key]
    return Judged(pair.name, key, found["before"], found["after"], metrics["fold_percent"], dice)


def _alike(judged: list[Judged]) -> list[Judged]:
    """The pairs by one figure: by Dice where any has labels; a pair whose labels are empty has none then."""
    if all(pair.key == judged[0].key for pair in judged):
        return judged
    return [
        pair if pair.structures else replace(pair, key="dice_mean", before=math.nan, after=math.nan)
        for pair in judged
    ]


def _row(pair: Judged) -> dict:
    """A line of ``validation.csv``; what is not defined stays empty."""
    before, after = ("" if math.isnan(value) else value for value in (pair.before, pair.after))
    row = {"pair": pair.name, f"{pair.key}_before": before, pair.key: after}
    for name, (before, after) in pair.structures.items():
        row |= {f"dice_before {name}": before, f"dice {name}": after}
    return row | {"fold_percent": pair.fold_percent}


def table(judged: list[Judged], pairs: int) -> str:
    """The pairs, their means, and the means of each structure, as text in columns.

    Args:
        judged: of at least one pair.
        pairs: how many there are in all.
    """
    figure, folds = FIGURES[judged[0].key], FIGURES["fold_percent"]

    def line(name: str, before: float, after: float, fold: float | None = None) -> list[str]:
        text = f"{figure.text(before)} → {figure.text(after)}"
        return [name, text, "" if fold is None else folds.text(fold)]

    lines = [["validation pair", figure.title, folds.title]]
    lines += [line(pair.name, pair.before, pair.after, pair.fold_percent) for pair in judged]
    before, after = (mean_of_defined(getattr(pair, what) for pair in judged) for what in ("before", "after"))
    count = str(pairs) if len(judged) == pairs else f"{len(judged)} of {pairs}"
    lines.append(
        line(f"mean of {count}", before, after, mean_of_defined(pair.fold_percent for pair in judged))
    )
    names = dict.fromkeys(name for pair in judged for name in pair.structures)
    for name in names if len(names) > 1 else ():
        both = [pair.structures[name] for pair in judged if name in pair.structures]
        lines.append(line(f"  {name}", *(mean_of_defined(values) for values in zip(*both, strict=True))))
    widths = [max(len(cells[n]) for cells in lines) for n in range(3)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() for cells in lines
    )


def _write_picture(chosen: dict[str, ValidationPair], trained: Model, folder: Path, device: str) -> None:
    """One overview above the other, each under its title."""
    pictures = []
    for pair in chosen.values():
        labels = pair.fixed_labels, pair.moving_labels
        pictures.append(overview(pair.registered(trained, device), pair.fixed, pair.moving, *labels))
    width, height = max(p.width for p in pictures), sum(p.height + TITLE for p in pictures)
    whole, top = Image.new("RGB", (width, height), BACKGROUND), 0
    for (title, pair), picture in zip(chosen.items(), pictures, strict=True):
        name = pair.name.replace("→", "to")  # the font has no arrow
        write(whole, (MARGIN, top + TITLE // 2), f"{title}: {name}", 18, anchor="lm")
        whole.paste(picture, (0, top + TITLE))
        top += TITLE + picture.height
    with atomic_write(folder / PICTURE) as side:
        whole.save(side, "PNG")
