"""The table of results: how well the volumes match before and after."""

from dataclasses import replace

import qt
from slicer.i18n import tr as _

from RegCore.evaluation.figures import FIGURES, PAIRED

from .panel import Tone, colour

ROW_HEIGHT, COLUMN_WIDTH, FRAME = 24, 76, 2  # pixels
ROWS_SHOWN = 16  # more than these are scrolled

Row = tuple[str, str, str, int]
"""Name, text before, text after, and 1 if after is better, -1 if worse, 0 if there is nothing to compare."""


Cell = tuple[str, int]
"""A text, and 1 if it says something good, -1 if bad, 0 if neither."""


def titles() -> dict[str, str]:
    """The titles of `RegCore.evaluation.figures.FIGURES` in the user's language.

    The words stand here once more because the tools that collect them for translation read literals only; a
    test holds them to RegCore's.
    """
    return {
        "dice": _("Dice, {name}"),
        "dice_mean": _("Dice, mean"),
        "tre_mm": _("TRE of landmarks, mean"),
        "tre_p95_mm": _("TRE, 95th percentile"),
        "ncc": _("Correlation (NCC)"),
        "nmi": _("Mutual information (NMI)"),
        "fold_percent": _("Folded voxels"),
        "sd_log_jacobian": _("SD of log Jacobian"),
        "seconds": _("Time"),
    }


def rows(metrics: dict, seconds: float, each: bool = True) -> list[Row]:
    """The figures of `RegistrationResult.metrics` as rows of text; what was not measured has no row.

    each: whether the overlap of each structure is among them.
    """
    title, out = titles(), []
    dice = (metrics.get("dice") if each else None) or {}
    for name, after in dice.get("after", {}).items():
        pair = {"before": dice.get("before", {}).get(name), "after": after}
        out.append(_row("dice", title["dice"].format(name=name), pair))
    known = {**metrics, "seconds": seconds, "dice": None}
    return out + [_row(key, title[key], known[key]) for key in title if known.get(key) is not None]


def _row(key: str, title: str, value: dict | float) -> Row:
    """One figure; a single value has no verdict, except that any folding is bad."""
    figure = FIGURES[key]
    if isinstance(value, dict):
        before, after = value.get("before"), value.get("after")
        first = "" if before is None else figure.text(before)
        return title, first, figure.text(after), figure.verdict(before, after)
    return title, "", figure.text(value), -1 if key == "fold_percent" and value > 0 else 0


MUCH_OUTSIDE = 40.0  # percent of the fixed voxels that map out of the moving volume


def doubts(metrics: dict, outside: float = 0.0) -> list[str]:
    """Sentences on figures that speak against the result; none if there is nothing to doubt.

    outside: percent of the fixed voxels that map out of the moving volume.
    """
    said = (*metrics.get("doubts", ()), *metrics.get("notes", ()))
    found = [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in said]
    if outside > MUCH_OUTSIDE:
        text = _("{share:.0f} % of the fixed volume lie outside of the moving one.")
        found.append(text.format(share=outside))
    folds = metrics.get("fold_percent") or 0.0
    if folds > 0:
        found.append(_("{share} of the voxels fold.").format(share=FIGURES["fold_percent"].text(folds)))
    dice, figure = metrics.get("dice") or {}, FIGURES["dice"]
    before = dice.get("before", {})
    worse = [n for n, after in dice.get("after", {}).items() if figure.verdict(before.get(n), after) < 0]
    if worse:
        found.append(_("The overlap became worse: {names}.").format(names=", ".join(map(str, worse))))
    pairs = {key: metrics[key] for key in PAIRED if isinstance(metrics.get(key), dict)}
    verdicts = [FIGURES[key].verdict(pair.get("before"), pair.get("after")) for key, pair in pairs.items()]
    if verdicts and max(verdicts) <= 0:
        found.append(_("No figure improved."))
    return found


def fill(table, table_rows: list[Row]) -> None:
    """Show the rows in a QTableWidget of three columns, as high as they are."""
    put(table, [[(name, 0), (before, 0), (after, verdict)] for name, before, after, verdict in table_rows])


STRUCTURE = ("dice", "hd95_mm", "centroid_mm")  # the figures of a structure, in the order of the columns


def structure_rows(structures: dict[str, dict]) -> list[list[Cell]]:
    """The figures of each structure as `RegistrationResult.structures` has them: "0.41 → 0.93"."""
    out = []
    for name, figures in structures.items():
        row = [(name, 0)]
        for key in STRUCTURE:
            figure, pair = FIGURES[key], figures[key]
            before, after = pair.get("before"), pair.get("after")
            short = replace(figure, digits=figure.digits - 1, unit="")  # for the narrow columns
            text = f"{short.text(before)} → {short.text(after)}"
            row.append((text, figure.verdict(before, after)))
        out.append(row)
    return out


def landmark_rows(errors: list[tuple[str, float, float]]) -> list[list[Cell]]:
    """The distance of each pair of landmarks before and after, mm."""
    figure = FIGURES["tre_mm"]
    return [
        [(name, 0), (figure.text(before), 0), (figure.text(after), figure.verdict(before, after))]
        for name, before, after in errors
    ]


def put(table, cells: list[list[Cell]], width: int = COLUMN_WIDTH, shown: int = ROWS_SHOWN) -> None:
    """Show rows of cells in a QTableWidget, as high as they are, but at most `shown` of them.

    width: pixels of all columns but the first, which gets what is left.
    """
    table.setRowCount(len(cells))
    for number, row in enumerate(cells):
        for column, (text, verdict) in enumerate(row):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            if column > 0:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            if verdict:
                tone = Tone.good if verdict > 0 else Tone.bad
                item.setForeground(qt.QBrush(qt.QColor(colour(table, tone))))
            table.setItem(number, column, item)
    header = table.horizontalHeader()
    header.setFixedHeight(ROW_HEIGHT)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for column in range(table.columnCount):
        side = qt.Qt.AlignLeft if column == 0 else qt.Qt.AlignRight
        table.horizontalHeaderItem(column).setTextAlignment(side | qt.Qt.AlignVCenter)
        if column > 0:
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            header.resizeSection(column, width)
    table.setFixedHeight(ROW_HEIGHT * (min(len(cells), shown) + 1) + 2 * FRAME)
