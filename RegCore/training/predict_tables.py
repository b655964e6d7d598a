"""The tables of a prediction with DeepReg's columns and numbers, as text: each sample, each label, overall.

Numbers are single precision. Where DeepReg's tables show them as such they have as many digits as that needs;
`overall` shows what they are in double precision.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from RegCore.evaluation.figures import DEEPREG

INDICES = ("pair_index", "label_index")
NAME = "label_name"  # a further column where labels are structures of label maps, which have names


def samples(rows: Sequence[dict], names: Sequence[str] = DEEPREG) -> str:
    """One line for each sample: the figures, then the pair and the label that they belong to.

    Args:
        rows: figures by name, NaN or left out where there is none; ``pair_index`` a list of whole numbers,
            ``label_index`` one of them, -1 without labels; ``label_name`` if labels have names.
        names: of the figures.
    """
    named = any(NAME in row for row in rows)
    lines = [[*names, *INDICES, *[NAME] * named]]
    for row in rows:
        figures = [_short(np.float32(row.get(name, np.nan))) for name in names]
        last = [row.get(NAME, "")] * named
        lines.append([*figures, json.dumps(row["pair_index"]), row["label_index"], *last])
    return _text(lines)


def per_label(rows: Sequence[dict]) -> str:
    """Mean, median and standard deviation over the samples of each label; deviations need two samples."""
    kinds: dict[str, Callable] = {"mean": _mean, "median": np.median, "std": _deviation}
    label_names = {row["label_index"]: row[NAME] for row in rows if NAME in row}
    first = ["label_index", *[NAME] * bool(label_names)]
    lines = [[*first, *(f"{name}_{kind}" for name in DEEPREG for kind in kinds)]]
    for label in sorted({row["label_index"] for row in rows}):
        chosen = [row for row in rows if row["label_index"] == label]
        columns = [column(chosen, name) for name in DEEPREG]
        found = [reduce(values) if len(values) else np.nan for values in columns for reduce in kinds.values()]
        name = [label_names.get(label, "")] * bool(label_names)
        lines.append([label, *name, *(_short(np.float32(value)) for value in found)])
    return _text(lines)


def overall(rows: Sequence[dict]) -> str:
    """Count, mean, standard deviation, least, quartiles and greatest of each figure that any sample has."""
    columns = {name: values for name in DEEPREG if len(values := column(rows, name))}
    kinds: dict[str, Callable] = {
        "count": len,
        "mean": lambda x: x.sum() / np.float32(len(x)),
        "std": lambda x: np.sqrt(np.float32(_variance(x))),
        "min": np.min,
        "25%": partial(_quantile, share=0.25),
        "50%": partial(_quantile, share=0.5),
        "75%": partial(_quantile, share=0.75),
        "max": np.max,
    }
    lines = [["", *columns]]
    for kind, reduce in kinds.items():
        lines.append([kind, *(_long(float(reduce(values))) for values in columns.values())])
    return _text(lines)


def column(rows: Sequence[dict], name: str) -> np.ndarray:
    """The figures of one name that there are, float32."""
    values = np.array([row.get(name, np.nan) for row in rows], np.float32)
    return values[~np.isnan(values)]


def _mean(values: np.ndarray) -> np.float32:
    return np.float32(values.astype(np.float64).mean())


def _variance(values: np.ndarray) -> float:
    """Of a sample: n - 1 in the denominator, NaN for a single value."""
    return values.astype(np.float64).var(ddof=1) if len(values) > 1 else np.nan


def _deviation(values: np.ndarray) -> np.float32:
    return np.float32(np.sqrt(_variance(values)))


def _quantile(values: np.ndarray, share: float) -> float:
    """Linear between neighbours, from the nearer one; their difference is taken in single precision."""
    ordered = np.sort(values)
    place = share * (len(ordered) - 1)
    part, low = place % 1, int(place)
    high = min(low + 1, len(ordered) - 1)
    step = float(ordered[high] - ordered[low])
    return float(ordered[low]) + step * part if part < 0.5 else float(ordered[high]) - step * (1 - part)


def _short(value: np.float32) -> str:
    """As few digits as tell it from its neighbours in single precision; nothing for NaN."""
    return "" if np.isnan(value) else str(value)


def _long(value: float) -> str:
    return "" if np.isnan(value) else repr(value)


def _text(lines: Sequence[Sequence]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
