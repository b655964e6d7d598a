"""How well several methods bring labelled scans to a template: a table in the layout of the publication."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from RegCore.evaluation.metrics import folding
from RegCore.progress import Progress, silent
from RegCore.resampler import warp
from RegCore.space.geometry import InputError
from RegCore.space.transforms import DisplacementField, Transform
from RegCore.space.volume import Volume, check_labels

DASH = "–"


@dataclass(frozen=True)
class Labelled:
    """A scan with a segmentation that measures, and the true map from the template to it where it is known.

    truth: x_scan = T(x_template), RAS mm.
    """

    name: str
    image: Volume
    labels: Volume
    truth: Transform | None = None


Way = Callable[[Labelled, Labelled], Transform]
"""Called as ``way(template, scan)``; gives x_scan = T(x_template), RAS mm."""


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    ways: names of the methods. structures: name of each label value. scans: their names.
    dice: (ways, scans, structures); NaN for a structure that neither the template nor the warped scan has.
    folds: (ways, scans) percent. seconds: (ways, scans).
    """

    ways: list[str]
    structures: dict[int, str]
    scans: list[str]
    dice: np.ndarray
    folds: np.ndarray
    seconds: np.ndarray

    def mean(self, way: str, labels: Sequence[int] | None = None) -> float:
        """Mean Dice over some structures, then over scans."""
        return _mean(self.each(way, labels))

    def each(self, way: str, labels: Sequence[int] | None = None) -> np.ndarray:
        """Mean Dice over some structures of each scan."""
        known = list(self.structures)
        columns = [known.index(label) for label in (known if labels is None else labels)]
        return np.array([_mean(row) for row in self.dice[self.ways.index(way)][:, columns]])

    def table(self, averages: Mapping[str, Sequence[int]] | None = None) -> str:
        """A line for each structure and a column for each method, Dice in percent, as Markdown.

        averages: further lines of means over these labels, by title; that over all is always there.
        """
        lines = [f"| Dice | {' | '.join(self.ways)} |", "|---" * (len(self.ways) + 1) + "|"]
        groups = {f"{name} ({label})": [label] for label, name in self.structures.items()}
        groups |= averages or {}
        groups[f"Avg. {len(self.structures)}"] = list(self.structures)
        for title, labels in groups.items():
            cells = [_percent(self.mean(way, labels)) for way in self.ways]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        worst = [_percent(np.nanmin(self.each(way))) for way in self.ways]
        lines.append(f"| lowest of {len(self.scans)} scans | {' | '.join(worst)} |")
        lines.append(f"| folds, most | {' | '.join(f'{row.max():.3f} %' for row in self.folds)} |")
        lines.append(f"| seconds a scan | {' | '.join(f'{row.mean():.1f}' for row in self.seconds)} |")
        return "\n".join(lines)

    def rows(self) -> list[dict]:
        """Plain figures, one dict for each method and scan."""
        found = []
        for way, dice, folds in zip(self.ways, self.dice, self.folds, strict=True):
            for scan, row, fold in zip(self.scans, dice, folds, strict=True):
                named = {
                    name: float(value) for name, value in zip(self.structures.values(), row, strict=True)
                }
                found.append({"method": way, "scan": scan, **named, "fold_percent": float(fold)})
        return found


def _mean(values: np.ndarray) -> float:
    """Mean of what is there; NaN if nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")


def _percent(part: float) -> str:
    return DASH if np.isnan(part) else f"{100 * part:.1f} %"


def overlap(template: Volume, scan: Volume, transform: Transform, labels: Sequence[int]) -> list[float]:
    """Dice of structures of a scan that is warped onto the template; NaN where neither has the structure.

    template, scan: segmentations. transform: x_scan = T(x_template).
    """
    a, b = template.array, warp(scan, transform, template.geometry).array
    found = []
    for label in labels:
        first, second = a == label, b == label
        total = int(first.sum()) + int(second.sum())
        found.append(2 * int((first & second).sum()) / total if total else float("nan"))
    return found


def evaluate(
    template: Labelled,
    scans: Sequence[Labelled],
    ways: Mapping[str, Way],
    structures: Mapping[int, str],
    progress: Progress = silent,
) -> Evaluation:
    """Bring each scan to the template by each method and measure the overlap of the structures.

    Args:
        template: where the overlap is measured, on the grid of its segmentation.
        scans: the others.
        ways: the methods by name.
        structures: name of each label value that counts.
        progress: told after each registration.

    Raises:
        InputError: no scan, no method, or segmentations without the structures.
    """
    if not scans or not ways or not structures:
        raise InputError("an evaluation needs at least one scan, one method and one structure")
    for case in (template, *scans):
        check_labels(case.labels, f"the segmentation of {case.name}")
    dice = np.full((len(ways), len(scans), len(structures)), np.nan)
    folds, seconds = np.zeros(dice.shape[:2]), np.zeros(dice.shape[:2])
    for column, scan in enumerate(scans):
        for row, (name, way) in enumerate(ways.items()):
            progress((column + row / len(ways)) / len(scans), f"{scan.name}: {name}", {})
            began = time.perf_counter()
            found = way(template, scan)
            seconds[row, column] = time.perf_counter() - began
            dice[row, column] = overlap(template.labels, scan.labels, found, list(structures))
            folds[row, column] = folding(found)
    if np.isnan(dice).all():
        names = ", ".join(f"{label} ({name})" for label, name in structures.items())
        raise InputError(f"neither the template nor the scans have any of the structures {names}")
    progress(1.0, "done", {})
    return Evaluation(list(ways), dict(structures), [scan.name for scan in scans], dice, folds, seconds)


def best_affine(template: Labelled, scan: Labelled) -> Transform:
    """The affine map nearest to the true one, which no affine registration can know: a bound for them.

    Raises InputError for a scan whose true map is not known.
    """
    if scan.truth is None:
        raise InputError(f"{scan.name}: the true map from the template is not known")
    known = scan.truth
    return known.affine_part() if isinstance(known, DisplacementField) else known
