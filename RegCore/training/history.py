"""Which epoch of a training is the best, told by its rows of figures, those of ``metrics.csv``.

Needs no torch: Slicer's panel asks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def judged_by(row: Mapping[str, Any]) -> float:
    """``val_loss`` of an epoch, or ``loss`` without validation; the worst, infinite, if it is not finite.

    Raises:
        KeyError, ValueError: the row has neither, or no number there.
    """
    value = row.get("val_loss")
    loss = float(row["loss"] if value in (None, "") else value)
    return loss if math.isfinite(loss) else math.inf


def best_epoch(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row of the best epoch, of equal ones the last; None without epochs. Raises as `judged_by`."""
    return min(reversed(rows), key=judged_by, default=None)
