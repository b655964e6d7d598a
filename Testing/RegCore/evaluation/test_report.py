"""The table of figures is complete, aligned and silent about what was not measured."""

from RegCore.evaluation.figures import DASH, FIGURES, Figure
from RegCore.evaluation.report import headline, table

FULL = {
    "dice": {"before": {1: 0.5, 12: 0.25}, "after": {1: 0.9, 12: 0.875}},
    "dice_mean": {"before": 0.375, "after": 0.8875},
    "tre_mm": {"before": 7.344, "after": 0.918},
    "tre_p95_mm": {"before": 12.0, "after": 1.5},
    "ncc": {"before": -0.1, "after": 0.97},
    "nmi": {"before": 1.04, "after": 1.2},
    "fold_percent": 0.0,
    "sd_log_jacobian": 0.12345,
    "peak_memory_mib": 812.4,
}


def test_the_table_shows_every_figure_before_and_after_in_columns():
    text = table(FULL, seconds=12.34, names={1: "liver"})
    lines = text.splitlines()
    assert lines[0].split() == ["before", "after"] and set(lines[1]) == {"-"}
    widest = max(len(figure.title) for figure in FIGURES.values() if figure.key in (*FULL, "seconds"))
    found = {line[:widest].strip(): line[widest:].split() for line in lines[2:]}
    assert found["Dice, liver"] == ["0.500", "0.900"]
    assert found["Dice, label 12"] == ["0.250", "0.875"]
    assert found["TRE of landmarks, mean"] == ["7.34", "mm", "0.92", "mm"]
    assert found["Correlation (NCC)"] == ["-0.100", "0.970"]
    assert found["Folded voxels"] == ["0.00", "%"]
    assert found["Time"] == ["12.3", "s"] and found["Peak memory"] == ["812", "MiB"]
    ends = {len(line) for line in lines[2:] if line}
    assert max(ends) - min(ends) <= 0  # right-aligned: every line ends in the same column


def test_what_was_not_measured_is_not_shown():
    text = table({"fold_percent": 0.25})
    assert len(text.splitlines()) == 3 and text.splitlines()[2].split() == ["Folded", "voxels", "0.25", "%"]


def test_a_label_that_only_one_of_the_volumes_has_gets_a_dash():
    text = table({"dice": {"before": {}, "after": {3: 0.5}}})
    assert text.splitlines()[-1].split() == ["Dice,", "label", "3", "–", "0.500"]


def test_the_headline_holds_the_few_figures_that_say_most():
    assert headline(FULL, 12.34) == [
        ("TRE of landmarks, mean", "7.34 → 0.92 mm"),
        ("Dice, mean", "0.375 → 0.887"),
        ("Correlation (NCC)", "-0.100 → 0.970"),
        ("Folded voxels", "0.00 %"),
        ("Time", "12.3 s"),
    ]
    assert headline({}) == []


def test_a_dice_that_is_not_defined_is_a_dash():
    text = table({"dice": {"before": {3: float("nan")}, "after": {3: 0.5}}})
    assert text.splitlines()[-1].split()[-2:] == [DASH, "0.500"]


def test_a_figure_tells_its_unit_and_which_way_is_better():
    error, overlap = FIGURES["tre_mm"], FIGURES["dice_mean"]
    assert error.text(3.14159) == "3.14 mm" and error.text(3.14159, unit=False) == "3.14"
    assert error.text(None) == error.text(float("nan")) == DASH
    assert (error.verdict(3.0, 2.0), error.verdict(2.0, 3.0), error.verdict(2.0, 2.004)) == (1, -1, 0)
    assert (overlap.verdict(0.5, 0.9), overlap.verdict(0.9, 0.5)) == (1, -1)
    assert overlap.verdict(None, 0.5) == overlap.verdict(float("nan"), 0.5) == 0
    assert Figure("size", "Size").verdict(1.0, 2.0) == 0
