"""The rows of a study: what is to be registered to what, and the figures that come of it. Needs no torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RegCore.evaluation.figures import FIGURES, PAIRED, SINGLE
from RegCore.space.names import is_path
from RegCore.studies.folders import FAILED, Record

Files = dict[str, "Path | list[Path]"]
BETTER, SAME, MIXED, WORSE, DOUBTFUL, NO_RESULT = "better", "same", "mixed", "worse", "doubtful", "failed"
VERDICTS = (NO_RESULT, DOUBTFUL, WORSE, MIXED, SAME, BETTER)
"""From the worst to the best."""


@dataclass(frozen=True, slots=True)
class Row:
    """A pair to register.

    Args:
        id: its name, that of its folder as well.
        files: by role: "fixed", "moving" and those of `RegCore.registration.OPTIONAL`; "landmarks" may
            be a list of one file or two.
        method: a name, or the path of a model.
        settings: of the method.
        seed: of the random numbers.
        series: UIDs of DICOM series, see `RegCore.load`.
        plugins: Python files with parts of the user's.
        place: the folder for BIDS copies of the results and the beginning of their names, or "".
    """

    id: str
    files: Files
    method: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    series: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()
    place: str = ""


def inputs_of(row: Row) -> dict[str, Path]:
    """Every file that the result of a row depends on, by its role."""
    found: dict[str, Path] = {}
    for role, value in row.files.items():
        several = value if isinstance(value, list) else [value]
        for number, path in enumerate(several):
            if role != "initial" or str(path) != "centres":
                found[role if number == 0 else f"{role} {number + 1}"] = Path(path)
    if is_path(row.method):
        found["method"] = Path(row.method)
    found |= {f"plugin {number}": path for number, path in enumerate(row.plugins)}
    return found


def settings_of(row: Row) -> dict[str, Any]:
    """Everything else that the result of a row depends on, but for the kind of processor."""
    return {
        "method": "model" if is_path(row.method) else row.method,
        "settings": dict(row.settings),
        "seed": row.seed,
        "series": list(row.series),
        "initial": str(row.files["initial"]) if str(row.files.get("initial")) == "centres" else "",
    }


def figures_of(metrics: Mapping[str, Any], names: Mapping[int, str] | None = None) -> dict[str, float]:
    """The figures of a registration as flat names and finite numbers: "ncc_before", "dice_liver_after" …"""
    found: dict[str, float] = {}
    pairs = {key: metrics[key] for key in PAIRED if key in metrics}
    dice = metrics.get("dice") or {}
    for label in dice.get("after") or {}:
        name = (names or {}).get(int(label), f"label {label}")
        pairs[f"dice_{name}"] = {when: dice[when].get(label) for when in ("before", "after")}
    for key, pair in pairs.items():
        found |= {f"{key}_{when}": pair[when] for when in ("before", "after") if _is_number(pair.get(when))}
    found |= {key: metrics[key] for key in SINGLE if _is_number(metrics.get(key))}
    return {key: float(value) for key, value in found.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def verdict_of(figures: Mapping[str, float]) -> str:
    """Whether a registration helped, by landmarks and overlap where there are any, else by similarity."""
    for keys in (("tre_mm", "dice_mean"), ("nmi",), ("ncc",)):
        found = [
            FIGURES[key].verdict(figures[f"{key}_before"], figures[f"{key}_after"])
            for key in keys
            if f"{key}_before" in figures and f"{key}_after" in figures
        ]
        if found:
            up, down = max(found) > 0, min(found) < 0
            return MIXED if up and down else BETTER if up else WORSE if down else SAME
    return SAME


def summary_of(record: Record) -> dict[str, Any]:
    """What the table of a study says of a pair.

    Args:
        record: of its folder.

    Returns:
        "id", "status", "verdict", "error", "method", "notes" and the figures by their flat names. A pair
        whose registration has probably failed, see `RegCore.registration.doubts`, is doubtful whatever the
        figures say, and the notes begin with the reason.
    """
    figures, doubts = record.get("figures", {}), record.get("doubts", ())
    failed = record["status"] == FAILED
    return {
        "id": record["name"],
        "status": record["status"],
        "verdict": NO_RESULT if failed else DOUBTFUL if doubts else verdict_of(figures),
        "error": record.get("error", ""),
        "method": record.get("method", ""),
        "notes": " ".join((*doubts, *record.get("notes", ()))),
        **figures,
    }


def worst_first(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By verdict, failed ones first, then doubtful ones; then by the figure afterwards that says most."""
    return sorted(summaries, key=_badness)


def _badness(summary: Mapping[str, Any]) -> tuple:
    key = next((key for key in ("tre_mm", "dice_mean", "nmi") if f"{key}_after" in summary), "")
    value = FIGURES[key].better * summary[f"{key}_after"] if key else 0.0
    return VERDICTS.index(summary["verdict"]), value, summary["id"]


def columns_of(summaries: list[dict[str, Any]]) -> list[str]:
    """The columns that a table of these needs, in the order of the figures; structures by name."""
    present: dict[str, None] = {}
    for summary in summaries:
        present.update(dict.fromkeys(summary))
    known = ["id", "status", "verdict", "error", "method", "notes", *_figure_columns(present)]
    return [name for name in known if name in present]


def _figure_columns(present: Mapping[str, None]) -> Iterator[str]:
    for key in PAIRED:
        yield from (f"{key}_before", f"{key}_after")
    yield from SINGLE
    standard = {f"{key}_{when}" for key in PAIRED for when in ("before", "after")}
    others = [name for name in present if name.startswith("dice_") and name not in standard]
    yield from sorted(others, key=lambda name: (name.rpartition("_")[0], name.endswith("_after")))
