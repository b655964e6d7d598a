"""Tables of predictions: letter by letter those that DeepReg wrote; what has no figure is empty."""

import csv
import io
import json
import statistics

import numpy as np
import pytest

from RegCore.evaluation.figures import DEEPREG
from RegCore.training.predict import tables
from Testing.paths import DATA

RECORDED = json.loads((DATA / "golden" / "prediction.json").read_text(encoding="utf-8"))
WITH_TABLES = [name for name, case in RECORDED.items() if case["tables"]]


def rows_of(text: str) -> list[dict]:
    """What a recorded metrics.csv says, as `predict` would have measured it."""
    rows = []
    for line in csv.DictReader(io.StringIO(text)):
        figures = {name: float(line[name]) for name in DEEPREG if line[name]}
        indices = {"pair_index": json.loads(line["pair_index"]), "label_index": int(line["label_index"])}
        rows.append(figures | indices)
    return rows


@pytest.mark.parametrize("name", WITH_TABLES)
def test_tables_of_recorded_figures_are_the_recorded_ones(name):
    """Two pairs with three labels, one pair with three, one without: DeepReg's made by pandas."""
    recorded = RECORDED[name]["tables"]
    rows = rows_of(recorded["metrics.csv"])
    assert tables.samples(rows) == recorded["metrics.csv"]
    assert tables.per_label(rows) == recorded["metrics_stats_per_label.csv"]
    assert tables.overall(rows) == recorded["metrics_stats_overall.csv"]


def test_recorded_are_labelled_and_unlabelled_pairs():
    assert len(WITH_TABLES) == 3


def random_rows(pairs: int = 7) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        dict(zip(DEEPREG, rng.random(3).tolist(), strict=True)) | {"pair_index": [p], "label_index": k}
        for p in range(pairs)
        for k in (2, 0, 10)
    ]


def test_statistics_are_those_of_the_standard_library():
    rows = random_rows()
    lines = list(csv.DictReader(io.StringIO(tables.per_label(rows))))
    assert [int(line["label_index"]) for line in lines] == [0, 2, 10]
    for line in lines:
        for name in DEEPREG:
            values = [row[name] for row in rows if row["label_index"] == int(line["label_index"])]
            assert float(line[f"{name}_mean"]) == pytest.approx(statistics.fmean(values), rel=1e-6)
            assert float(line[f"{name}_median"]) == pytest.approx(statistics.median(values), rel=1e-6)
            assert float(line[f"{name}_std"]) == pytest.approx(statistics.stdev(values), rel=1e-6)
    found = {line[""]: line for line in csv.DictReader(io.StringIO(tables.overall(rows)))}
    for name in DEEPREG:
        values = [row[name] for row in rows]
        quartiles = statistics.quantiles(values, n=4, method="inclusive")
        assert float(found["count"][name]) == 21
        for what, value in zip(("25%", "50%", "75%"), quartiles, strict=True):
            assert float(found[what][name]) == pytest.approx(value, rel=1e-6)
        assert float(found["std"][name]) == pytest.approx(statistics.stdev(values), rel=1e-6)
        assert [float(found[what][name]) for what in ("min", "max")] == pytest.approx(
            [min(values), max(values)], rel=1e-6
        )


def test_what_has_no_figure_is_empty_and_passed_over():
    """An empty label has no distance, a conditional model no image."""
    rows = [{k: v for k, v in row.items() if k != "image_ssd"} for row in random_rows(2)]
    rows[0]["label_tre"] = float("nan")
    lines = list(csv.DictReader(io.StringIO(tables.samples(rows))))
    assert {line["image_ssd"] for line in lines} == {""} and lines[0]["label_tre"] == ""
    per_label = {line["label_index"]: line for line in csv.DictReader(io.StringIO(tables.per_label(rows)))}
    assert per_label["2"]["label_tre_std"] == "" == per_label["2"]["image_ssd_mean"]
    assert float(per_label["2"]["label_tre_mean"]) == pytest.approx(rows[3]["label_tre"])
    overall = {line[""]: line for line in csv.DictReader(io.StringIO(tables.overall(rows)))}
    assert "image_ssd" not in overall["count"]
    assert (overall["count"]["label_tre"], overall["count"]["label_binary_dice"]) == ("5.0", "6.0")


def test_a_table_without_any_figure_still_has_its_lines():
    rows = [{"pair_index": [0, 1], "label_index": -1}]
    assert tables.samples(rows).splitlines()[1] == ',,,"[0, 1]",-1'
    assert tables.overall(rows).splitlines()[0] == '""'
    assert tables.per_label(rows).splitlines()[1] == "-1" + 9 * ","
