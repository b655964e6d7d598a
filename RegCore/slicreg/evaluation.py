"""How well several methods bring labelled scans to a template: a table in the layout of the publication."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from RegCore.evaluation.figures import DASH, FIGURES
from RegCore.evaluation.metrics import dice, folding, mean_of_defined
from RegCore.networks.model_file import Model
from RegCore.progress import Progress, silent
from RegCore.registration.methods import Task, trained_network
from RegCore.registration.pair import PairSide
from RegCore.resampler import warp
from RegCore.slicreg.prediction import Method
from RegCore.slicreg.registration import (
    PREFIX,
    RegistrationSettings,
    prepare_for_model,
    register_to_template,
)
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, check_labels


@dataclass(frozen=True)
class LabelledScan:
    """A scan with a segmentation that measures, and the true map from the template to it where it is known.

    Args:
        truth: x_scan = T(x_template), RAS mm.
    """

    name: str
    image: Volume
    labels: Volume
    truth: Transform | None = None


RegistrationMethod = Callable[[LabelledScan, LabelledScan], Transform]
"""Called as ``register(template, scan)``; gives x_scan = T(x_template), RAS mm."""


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Args:
        methods: their names.
        structures: name of each label value.
        scans: their names.
        dice: (methods, scans, structures); NaN for a structure that neither the template nor the warped scan
            has, which means leave out, see `RegCore.evaluation.metrics.dice`.
        folds: (methods, scans) percent.
        seconds: (methods, scans).
    """

    methods: list[str]
    structures: dict[int, str]
    scans: list[str]
    dice: np.ndarray
    folds: np.ndarray
    seconds: np.ndarray

    def mean(self, method: str, labels: Sequence[int] | None = None) -> float:
        """Mean Dice over some structures, then over scans."""
        return mean_of_defined(self.each(method, labels))

    def each(self, method: str, labels: Sequence[int] | None = None) -> np.ndarray:
        """Mean Dice over some structures of each scan."""
        known = list(self.structures)
        columns = [known.index(label) for label in (known if labels is None else labels)]
        return np.array([mean_of_defined(row) for row in self.dice[self.methods.index(method)][:, columns]])

    def worse(self) -> dict[str, list[str]]:
        """The scans that a method, by name, leaves with a lower mean Dice than the first method gives."""
        first, found = self.each(self.methods[0]), {}
        for method in self.methods[1:]:
            lower = np.flatnonzero(self.each(method) < first)
            if lower.size:
                found[method] = [self.scans[column] for column in lower]
        return found

    def table(self, averages: Mapping[str, Sequence[int]] | None = None) -> str:
        """A line for each structure and a column for each method, Dice in percent, as Markdown.

        Args:
            averages: further lines of means over these labels, by title; that over all is always there.
        """
        lines = [f"| Dice | {' | '.join(self.methods)} |", "|---" * (len(self.methods) + 1) + "|"]
        groups = {f"{name} ({label})": [label] for label, name in self.structures.items()}
        groups |= averages or {}
        groups[f"Avg. {len(self.structures)}"] = list(self.structures)
        for title, labels in groups.items():
            cells = [_percent(self.mean(method, labels)) for method in self.methods]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        worst = [_percent(np.nanmin(self.each(method))) for method in self.methods]
        lines.append(f"| lowest of {len(self.scans)} scans | {' | '.join(worst)} |")
        folds, time = FIGURES["fold_percent"], FIGURES["seconds"]
        cells = [folds.text(row.max()) for row in self.folds]
        lines.append(f"| {folds.title}, most | {' | '.join(cells)} |")
        cells = [time.text(row.mean()) for row in self.seconds]
        lines.append(f"| {time.title} a scan | {' | '.join(cells)} |")
        if np.isnan(self.dice).any():
            lines.append(f"\n{DASH} and what means leave out: the structure is in neither segmentation.")
        return "\n".join(lines)

    def rows(self) -> list[dict]:
        """Plain figures, one dict for each method and scan."""
        found = []
        for method, overlaps, folds in zip(self.methods, self.dice, self.folds, strict=True):
            for scan, row, fold in zip(self.scans, overlaps, folds, strict=True):
                named = dict(zip(self.structures.values(), row.tolist(), strict=True))
                found.append({"method": method, "scan": scan, **named, "fold_percent": float(fold)})
        return found


def _percent(part: float) -> str:
    return DASH if np.isnan(part) else f"{100 * part:.1f} %"


def overlap(template: Volume, scan: Volume, transform: Transform, labels: Sequence[int]) -> list[float]:
    """Dice of structures of a scan that is warped onto the template; NaN where neither has the structure.

    Args:
        template, scan: segmentations.
        transform: x_scan = T(x_template).
    """
    return list(dice(template, warp(scan, transform, template.geometry), labels).values())


def evaluate(
    template: LabelledScan,
    scans: Sequence[LabelledScan],
    methods: Mapping[str, RegistrationMethod],
    structures: Mapping[int, str],
    progress: Progress = silent,
) -> Evaluation:
    """Bring each scan to the template by each method and measure the overlap of the structures.

    Args:
        template: where the overlap is measured, on the grid of its segmentation.
        scans: the others.
        methods: by name.
        structures: name of each label value that counts.
        progress: told after each registration.

    Raises:
        InputError: no scan, no method, or segmentations without the structures.
    """
    if not scans or not methods or not structures:
        raise InputError("an evaluation needs at least one scan, one method and one structure")
    for case in (template, *scans):
        check_labels(case.labels, f"the segmentation of {case.name}")
    overlaps = np.full((len(methods), len(scans), len(structures)), np.nan)
    folds, seconds = np.zeros(overlaps.shape[:2]), np.zeros(overlaps.shape[:2])
    for column, scan in enumerate(scans):
        for row, (name, register) in enumerate(methods.items()):
            progress((column + row / len(methods)) / len(scans), f"{scan.name}: {name}", {})
            began = time.perf_counter()
            found = register(template, scan)
            seconds[row, column] = time.perf_counter() - began
            overlaps[row, column] = overlap(template.labels, scan.labels, found, list(structures))
            folds[row, column] = folding(found)
    if np.isnan(overlaps).all():
        wanted = ", ".join(f"{label} ({name})" for label, name in structures.items())
        raise InputError(f"neither the template nor the scans have any of the structures {wanted}")
    progress(1.0, "done", {})
    names = [scan.name for scan in scans]
    return Evaluation(list(methods), dict(structures), names, overlaps, folds, seconds)


def best_affine(template: LabelledScan, scan: LabelledScan) -> Transform:
    """The affine map nearest to the true one, which no affine registration can know: a bound for them.

    Raises:
        InputError: the true map of the scan is not known.
    """
    if scan.truth is None:
        raise InputError(f"{scan.name}: the true map from the template is not known")
    known = scan.truth
    return known.affine_part() if isinstance(known, DisplacementField) else known


def initial_alignment(method: Method) -> RegistrationMethod:
    """Both bodies in the middle of their common grids: where every method starts."""

    def register(template: LabelledScan, scan: LabelledScan) -> AffineTransform:
        grids = [prepare_for_model(method, case.image, case.name).image.geometry for case in (template, scan)]
        return AffineTransform(grids[1].affine @ np.linalg.inv(grids[0].affine))

    return register


def slicreg_method(
    method: Method, device: str = "cpu", settings: RegistrationSettings | None = None
) -> RegistrationMethod:
    """A trained model alone, the template's supervoxels known."""

    def register(template: LabelledScan, scan: LabelledScan) -> DisplacementField:
        moving = prepare_for_model(method, scan.image, scan.name)
        return register_to_template(method, moving, settings=settings, device=device)

    return register


def refined_method(
    method: Method, device: str = "cpu", settings: RegistrationSettings | None = None
) -> RegistrationMethod:
    """A trained model and a refinement by the images: what ``regcore slicreg register --refine`` does."""
    size = tuple(method.image.shape)
    model = Model({}, size, size, False, method)
    wanted: dict[str, Any] = {"refine": True}
    wanted |= {PREFIX + name: value for name, value in asdict(settings or RegistrationSettings()).items()}

    def register(template: LabelledScan, scan: LabelledScan) -> Transform:
        sides = PairSide(template.image), PairSide(scan.image)
        return trained_network(Task(*sides, None, None, wanted, device, 0, silent), model)

    return register
