"""The table of results: how well the volumes match before and after."""

import qt
from slicer.i18n import tr as _

from RegCore.evaluation.figures import FIGURES, PAIRED

from .panel import Tone, colour

ROW_HEIGHT, COLUMN_WIDTH, FRAME = 24, 76, 2  # pixels
ROWS_SHOWN = 16  # more than these are scrolled

Row = tuple[str, str, str, int]
"""Name, text before, text after, and 1 if after is better, -1 if worse, 0 if there is nothing to compare."""


def titles() -> dict[str, str]:
    """The titles of `RegCore.evaluation.figures.FIGURES` in the user's language.

    The words stand here once more because the tools that collect them for translation read literals only; a
    test holds them to RegCore's.
    """
    return {
        "dice": _("Dice, {name}"),
        "dice_mean": _("Dice, mean"),
        "tre_mm": _("Landmark error (TRE), mean"),
        "ncc": _("Correlation (NCC)"),
        "nmi": _("Mutual information (NMI)"),
        "fold_percent": _("Folded voxels"),
        "seconds": _("Time"),
    }


def rows(metrics: dict, seconds: float) -> list[Row]:
    """The figures of `RegistrationResult.metrics` as rows of text; what was not measured has no row."""
    title, out = titles(), []
    dice = metrics.get("dice") or {}
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


def doubts(metrics: dict) -> list[str]:
    """Sentences on figures that speak against the result; none if there is nothing to doubt."""
    found = []
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
    table.setRowCount(len(table_rows))
    for number, (name, before, after, verdict) in enumerate(table_rows):
        for column, text in enumerate((name, before, after)):
            item = qt.QTableWidgetItem(text)
            if column > 0:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            if column == 2 and verdict:
                tone = Tone.good if verdict > 0 else Tone.bad
                item.setForeground(qt.QBrush(qt.QColor(colour(table, tone))))
            table.setItem(number, column, item)
    header = table.horizontalHeader()
    header.setFixedHeight(ROW_HEIGHT)
    for column in (0, 1, 2):
        side = qt.Qt.AlignLeft if column == 0 else qt.Qt.AlignRight
        table.horizontalHeaderItem(column).setTextAlignment(side | qt.Qt.AlignVCenter)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
    for column in (1, 2):
        header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
        header.resizeSection(column, COLUMN_WIDTH)
    table.setFixedHeight(ROW_HEIGHT * (min(len(table_rows), ROWS_SHOWN) + 1) + 2 * FRAME)
