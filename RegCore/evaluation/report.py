"""What a registration achieved, in words and aligned columns: the table that the command line prints."""

from collections.abc import Mapping
from typing import Any

from RegCore.evaluation.figures import FIGURES, PAIRED, SINGLE

HEADLINE = ("tre_mm", "dice_mean", "ncc", "fold_percent", "seconds")  # the figures that say most


def table(
    metrics: Mapping[str, Any], seconds: float | None = None, names: Mapping[int, str] | None = None
) -> str:
    """The figures of a registration as text of aligned columns: title, before, after.

    Args:
        metrics: as `RegCore.evaluation.metrics.summary` gives them, with "seconds" and "peak_memory_mib"
            where they are known. Absent figures are left out; a value that is not defined is a dash.
        seconds: computing time, if `metrics` does not hold it.
        names: of labels, by value.
    """
    rows = [("", "before", "after")]
    dice = metrics.get("dice", {})
    for label in dice.get("after", {}):
        name = (names or {}).get(int(label), f"label {label}")
        pair = {when: dice[when].get(label) for when in ("before", "after")}
        rows.append((FIGURES["dice"].title.format(name=name), *_texts("dice", pair)))
    rows += [(FIGURES[key].title, *_texts(key, metrics[key])) for key in PAIRED if key in metrics]
    single = _with_time(metrics, seconds)
    rows += [(FIGURES[key].title, *_texts(key, single[key])) for key in SINGLE if key in single]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines.insert(1, "-" * (sum(widths) + 4))
    return "\n".join(lines)


def headline(metrics: Mapping[str, Any], seconds: float | None = None) -> list[tuple[str, str]]:
    """The few figures that say most, as (title, text); those that are absent are left out."""
    known = _with_time(metrics, seconds)
    found = []
    for key in HEADLINE:
        if isinstance(known.get(key), Mapping):
            figure = FIGURES[key]
            before, after = known[key].get("before"), known[key].get("after")
            found.append((figure.title, f"{figure.text(before, unit=False)} → {figure.text(after)}"))
        elif known.get(key) is not None:
            found.append((FIGURES[key].title, FIGURES[key].text(known[key])))
    return found


def _with_time(metrics: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
    """The figures that are known, with the time."""
    found = {**metrics, "seconds": metrics.get("seconds") if seconds is None else seconds}
    return {key: value for key, value in found.items() if value is not None}


def _texts(key: str, value: Any) -> tuple[str, str]:
    """A figure before and after; one that has a single value stands in the second column."""
    if not isinstance(value, Mapping):
        return "", FIGURES[key].text(value)
    return FIGURES[key].text(value.get("before")), FIGURES[key].text(value.get("after"))
