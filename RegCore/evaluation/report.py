"""What a registration achieved, in words and aligned columns: the table that the command line prints."""

from typing import Any

DASH = "–"


def table(metrics: dict, seconds: float | None = None, names: dict[int, str] | None = None) -> str:
    """The figures of a registration as text of aligned columns: name, before, after.

    metrics: as `RegCore.evaluation.metrics.summary` gives them, with "seconds" and "peak_memory_mib" where
    they are known; figures that are absent are left out. names: of labels, by value.
    """
    rows = [("", "before", "after")]
    dice = metrics.get("dice", {})
    for label in dice.get("after", {}):
        title = (names or {}).get(int(label), f"label {label}")
        before, after = (_number(dice[when].get(label), 3) for when in ("before", "after"))
        rows.append((f"Dice, {title}", before, after))
    rows += _pairs(metrics)
    rows += _singles(metrics, seconds)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
    lines.insert(1, "-" * (sum(widths) + 4))
    return "\n".join(lines)


def _pairs(metrics: dict) -> list[tuple[str, str, str]]:
    """Figures that have a value before and one after."""
    kinds = (
        ("dice_mean", "Dice, mean", 3, ""),
        ("tre_mm", "landmark error (TRE), mean", 2, " mm"),
        ("tre_p95_mm", "landmark error, 95th percentile", 2, " mm"),
        ("ncc", "correlation (NCC)", 3, ""),
        ("nmi", "mutual information (NMI)", 3, ""),
    )
    rows = []
    for key, title, digits, unit in kinds:
        if key in metrics:
            pair = metrics[key] if isinstance(metrics[key], dict) else {"after": metrics[key]}
            before, after = (_number(pair.get(when), digits, unit) for when in ("before", "after"))
            rows.append((title, before, after))
    return rows


def _singles(metrics: dict, seconds: float | None) -> list[tuple[str, str, str]]:
    """Figures of the transform and of the work."""
    time = metrics.get("seconds") if seconds is None else seconds
    kinds = (
        ("folded voxels", _number(metrics.get("fold_percent"), 2, " %")),
        ("spread of log Jacobian (SD)", _number(metrics.get("sd_log_jacobian"), 3)),
        ("time", _number(time, 1, " s")),
        ("peak memory", _number(metrics.get("peak_memory_mib"), 0, " MiB")),
    )
    return [(title, "", text) for title, text in kinds if text != DASH]


def _number(value: Any, digits: int, unit: str = "") -> str:
    return DASH if value is None else f"{float(value):.{digits}f}{unit}"


def headline(metrics: dict, seconds: float | None = None) -> list[tuple[str, str]]:
    """The few figures that say most, as (name, text); those that are absent are left out."""
    found = []
    pairs = (
        ("Landmark error", "tre_mm", 2, " mm"),
        ("Dice", "dice_mean", 3, ""),
        ("Correlation", "ncc", 3, ""),
    )
    for title, key, digits, unit in pairs:
        if key in metrics:
            before, after = (_number(metrics[key].get(when), digits) for when in ("before", "after"))
            found.append((title, f"{before} → {after}{unit}"))
    if "fold_percent" in metrics:
        found.append(("Folds", _number(metrics["fold_percent"], 2, " %")))
    if seconds is not None:
        found.append(("Time", _number(seconds, 1, " s")))
    return found
