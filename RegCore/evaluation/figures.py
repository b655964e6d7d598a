"""The figures by which registrations are judged: title, unit, digits and which way is better."""

import math
from dataclasses import dataclass

DASH = "–"
"""What is shown for a figure that is not known or not defined."""


@dataclass(frozen=True)
class Figure:
    """How one figure is shown, wherever it is shown.

    Args:
        key: its name in `RegCore.evaluation.metrics.summary`, ``metrics.json`` and the tables of ``predict``.
        title: for people; "{name}" in it stands for a structure.
        unit: behind the number, "" for none.
        digits: after the decimal point.
        better: 1 if larger is better, -1 if smaller is, 0 if neither.
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    better: int = 0

    def text(self, value: float | None, unit: bool = True) -> str:
        """The number with its digits and its unit; a dash for None and NaN."""
        if value is None or math.isnan(value):
            return DASH
        return f"{value:.{self.digits}f}" + (f" {self.unit}" if unit and self.unit else "")

    def verdict(self, before: float | None, after: float | None) -> int:
        """1 if the second value is better, -1 if it is worse, 0 if it reads the same or can't be compared."""
        if before is None or after is None or not math.isfinite(after - before):
            return 0
        gain = (round(after, self.digits) - round(before, self.digits)) * self.better
        return (gain > 0) - (gain < 0)


FIGURES = {
    figure.key: figure
    for figure in (
        Figure("dice", "Dice, {name}", better=1),
        Figure("dice_mean", "Dice, mean", better=1),
        Figure("tre_mm", "TRE of landmarks, mean", "mm", 2, better=-1),
        Figure("tre_p95_mm", "TRE, 95th percentile", "mm", 2, better=-1),
        Figure("hd95_mm", "Surface distance (HD95)", "mm", 2, better=-1),
        Figure("centroid_mm", "Centroid distance", "mm", 2, better=-1),
        Figure("ncc", "Correlation (NCC)", better=1),
        Figure("nmi", "Mutual information (NMI)", better=1),
        Figure("fold_percent", "Folded voxels", "%", 2, better=-1),
        Figure("sd_log_jacobian", "SD of log Jacobian", better=-1),
        Figure("seconds", "Time", "s", 1, better=-1),
        Figure("peak_memory_mib", "Peak memory", "MiB", 0, better=-1),
        Figure("image_ssd", "Squared difference (SSD), mean", digits=4, better=-1),
        Figure("label_binary_dice", "Dice on the network's grid", digits=4, better=1),
        Figure("label_tre", "Centroid distance on the network's grid", "voxels", better=-1),
        Figure("label_dice", "Dice", better=1),
        Figure("label_tre_mm", "Centroid distance", "mm", 2, better=-1),
    )
}
"""Every figure by its key, in the order in which tables show them."""

PAIRED = ("dice_mean", "tre_mm", "tre_p95_mm", "ncc", "nmi")
"""Keys of the figures of a registration with one value before and one after."""
SINGLE = ("fold_percent", "sd_log_jacobian", "seconds", "peak_memory_mib")
"""Keys of those that have one value only: of the transform and of the work."""
DEEPREG = ("image_ssd", "label_binary_dice", "label_tre")
"""Keys of the figures in DeepReg's own tables, on the network's grid."""
IN_SPACE = ("label_dice", "label_tre_mm", "fold_percent")
"""Keys of the figures of a predicted pair on the original fixed grid."""
