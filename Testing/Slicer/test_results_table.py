"""The panel's table of figures: RegCore's titles and digits, a dash for what is not defined, its verdicts."""

from RegCore.evaluation.figures import DASH, FIGURES

OTHERS = ("sd_log_jacobian", "seconds")


def test_the_titles_for_translation_are_those_of_regcore(library):
    titles = library("panels.results").titles()
    assert titles == {key: FIGURES[key].title for key in titles}
    assert {"dice", "dice_mean", "tre_mm", "tre_p95_mm", "ncc", "nmi", "fold_percent", *OTHERS} == set(titles)


def test_rows_have_units_and_say_what_became_better(library):
    rows = library("panels.results").rows
    metrics = {
        "ncc": {"before": 0.5, "after": 0.4},
        "dice": {"before": {"Liver": None, "Gut": 0.25}, "after": {"Liver": None, "Gut": 0.75}},
        "tre_mm": {"before": 7.344, "after": 0.918},
        "fold_percent": 0.125,
        "method": "deformable",
    }
    assert rows(metrics, 12.34) == [
        ("Dice, Liver", "", DASH, 0),
        ("Dice, Gut", "0.250", "0.750", 1),
        ("TRE of landmarks, mean", "7.34 mm", "0.92 mm", 1),
        ("Correlation (NCC)", "0.500", "0.400", -1),
        ("Folded voxels", "", "0.12 %", -1),
        ("Time", "", "12.3 s", 0),
    ]
    assert rows({"fold_percent": 0.0}, 1.0)[0] == ("Folded voxels", "", "0.00 %", 0)
