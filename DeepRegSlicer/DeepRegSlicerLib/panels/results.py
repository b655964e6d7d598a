"""The table of results: how well the volumes match before and after."""

import qt
from slicer.i18n import tr as _

BETTER = "#1b7837"  # colour of figures that improved
WORSE = "#c62828"
ROW_HEIGHT, COLUMN_WIDTH, FRAME = 24, 76, 2  # pixels
ROWS_SHOWN = 16  # more than these are scrolled

Row = tuple[str, str, str, int]
"""Name, text before, text after, and 1 if after is better, -1 if worse, 0 if there is nothing to compare."""


def rows(metrics: dict, seconds: float) -> list[Row]:
    """The figures of `RegistrationResult.metrics` as rows of text; what was not measured has no row."""
    out: list[Row] = []
    dice = metrics.get("dice") or {}
    for name in dice.get("after", {}):
        before = dice.get("before", {}).get(name)
        out.append(
            _compared(_("Dice of {name}").format(name=name), before, dice["after"][name], 3, more=True)
        )
    for key, name, digits, more in (
        ("dice_mean", _("Dice, mean"), 3, True),
        ("tre_mm", _("Landmark distance, mean (mm)"), 2, False),
        ("ncc", _("Correlation"), 3, True),
        ("nmi", _("Mutual information"), 3, True),
    ):
        pair = metrics.get(key)
        if isinstance(pair, dict) and pair.get("after") is not None:
            out.append(_compared(name, pair.get("before"), pair["after"], digits, more))
    if metrics.get("fold_percent") is not None:
        folds = metrics["fold_percent"]
        out.append((_("Folded voxels (%)"), "", f"{folds:.2f}", 0 if folds == 0 else -1))
    out.append((_("Computing time (s)"), "", f"{seconds:.1f}", 0))
    return out


def _compared(name: str, before, after: float, digits: int, more: bool) -> Row:
    """more: whether a larger figure is better."""
    if before is None:
        return name, "", f"{after:.{digits}f}", 0
    gain = (after - before) * (1 if more else -1)
    verdict = 0 if abs(gain) < 0.5 * 10**-digits else (1 if gain > 0 else -1)
    return name, f"{before:.{digits}f}", f"{after:.{digits}f}", verdict


def fill(table, table_rows: list[Row]) -> None:
    """Show the rows in a QTableWidget of three columns, as high as they are."""
    table.setRowCount(len(table_rows))
    for number, (name, before, after, verdict) in enumerate(table_rows):
        for column, text in enumerate((name, before, after)):
            item = qt.QTableWidgetItem(text)
            if column > 0:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            if column == 2 and verdict:
                item.setForeground(qt.QBrush(qt.QColor(BETTER if verdict > 0 else WORSE)))
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
