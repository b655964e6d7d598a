"""Prediction of what is odd: labels that were never drawn."""

import pytest

from RegCore.training.config import Config
from Testing.RegCore.known_networks import known
from Testing.RegCore.training.sets import configuration, figures
from Testing.RegCore.training.test_predict import pairs, run

__all__ = ["known", "pairs"]


def test_an_empty_label_counts_nowhere_and_is_said(known, pairs, tmp_path, caplog):
    """The second structure of the first fixed image was never drawn: no figures, and not in the means."""
    done = run(configuration(pairs), tmp_path)
    for table, columns in (
        ("metrics", ("label_binary_dice", "label_tre")),
        ("metrics_mm", ("label_dice", "label_tre_mm")),
    ):
        rows = {(row["pair_index"], row["label_index"]): row for row in figures(done.folder / f"{table}.csv")}
        for key, row in rows.items():
            assert [bool(row[column]) for column in columns] == [key != ("[0]", "1")] * 2
    means = {row["label_index"]: row for row in figures(done.folder / "metrics_stats_per_label.csv")}
    (drawn,) = (row for row in done.metrics if row["pair_index"] == [1] and row["label_index"] == 1)
    assert float(means["1"]["label_binary_dice_mean"]) == pytest.approx(drawn["label_binary_dice"], rel=1e-6)
    assert (
        "1 labels are empty in the fixed or the moving image and count nowhere (pair_0, label 1)"
        in caplog.text
    )


def test_with_deepreg_an_empty_label_counts_as_there(known, pairs, tmp_path):
    config = configuration(pairs)
    values = config.to_dict()
    values["train"]["deepreg"] = True
    done = run(Config.from_dict(values), tmp_path)
    rows = {(tuple(row["pair_index"]), row["label_index"]): row for row in done.metrics}
    assert rows[(0,), 1]["label_binary_dice"] < 1e-3 and rows[(0,), 1]["label_tre"] >= 0
