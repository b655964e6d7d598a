"""The end of a training: the table of validation pairs and the picture of the best and the worst."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from RegCore.cli import main
from RegCore.evaluation.pictures.words import write
from RegCore.io import load, save
from RegCore.registration.learned import load_model
from RegCore.registration.register import register
from RegCore.training import train
from RegCore.training.closing import MOST, Judged, _pair, close, table
from Testing.RegCore.training.runs import configuration, write_pairs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training and its data."""
    folder = tmp_path_factory.mktemp("closing")
    write_pairs(folder / "data", count=3)
    config = configuration(folder / "data", epochs=2)
    return folder / "data", config, train(config, log_dir=folder, exp_name="run", device="cpu")


def rows(folder):
    with (folder / "validation.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_are_those_of_a_registration_of_the_files(trained, tmp_path):
    data, config, done = trained
    text = close(done.model, config, tmp_path, device="cpu")
    model, found = load_model(done.model, device="cpu"), rows(tmp_path)
    assert sorted(row["pair"] for row in found) == ["case0", "case1", "case2"]
    for row in found:
        sides = ("fixed", "moving")
        images = [load(data / f"{side}_images" / f"{row['pair']}.nii.gz", "image") for side in sides]
        labels = [load(data / f"{side}_labels" / f"{row['pair']}.nii.gz", "labels") for side in sides]
        labels = [replace(volume, array=volume.array[..., None]) for volume in labels]  # one channel
        options = {"fixed_labels": labels[0], "moving_labels": labels[1], "device": "cpu"}
        metrics = register(*images, model, **options).metrics
        assert float(row["dice_mean"]) == pytest.approx(metrics["dice_mean"]["after"])
        assert float(row["dice_mean_before"]) == pytest.approx(metrics["dice_mean"]["before"])
        assert float(row["fold_percent"]) == pytest.approx(metrics["fold_percent"])
        assert f"{row['pair']} " in text and f"→ {float(row['dice_mean']):.3f}" in text
    mean = np.mean([float(row["dice_mean"]) for row in found])
    assert "mean of 3" in text and f"→ {mean:.3f}" in text.splitlines()[-1]
    one, width = Image.open(tmp_path / "overview.png"), 600
    assert one.height > width and one.width > width


def test_without_labels_correlation_is_compared(trained, tmp_path):
    data, _, done = trained
    text = close(done.model, configuration(data, labeled=False), tmp_path, device="cpu")
    assert "NCC" in text.splitlines()[0] and {"ncc", "ncc_before"} <= set(rows(tmp_path)[0])


def test_a_pair_whose_label_is_empty_has_no_dice_and_is_neither_best_nor_worst(trained, tmp_path):
    data, _, done = trained
    shutil.copytree(data, tmp_path / "data")
    place = tmp_path / "data" / "moving_labels" / "case1.nii.gz"
    drawn = load(place, "labels")
    save(replace(drawn, array=np.zeros_like(drawn.array)), place)
    text = close(done.model, configuration(tmp_path / "data"), tmp_path, device="cpu").splitlines()
    found = {row["pair"]: row for row in rows(tmp_path)}
    assert found["case1"]["dice_mean"] == "" and "ncc" not in found["case1"]
    mean = np.mean([float(found[name]["dice_mean"]) for name in ("case0", "case2")])
    assert "Dice" in text[0] and f"→ {mean:.3f}" in text[-1] and "mean of 3" in text[-1]
    assert ["– → –" in line for line in text if "case1" in line] == [True]
    whole = Image.open(tmp_path / "overview.png")
    assert whole.height > whole.width  # a best and a worst one


def test_titles_stand_beside_the_pictures_without_signs_that_the_font_lacks(trained, tmp_path, monkeypatch):
    _, config, done = trained
    red, written = (200, 0, 0), []
    monkeypatch.setattr("RegCore.training.closing.overview", lambda *_: Image.new("RGB", (300, 100), red))
    monkeypatch.setattr("RegCore.training.closing._pair", lambda *at: replace(_pair(*at), name="b → a"))
    monkeypatch.setattr(
        "RegCore.training.closing.write", lambda *at, **how: written.append(at[2]) or write(*at, **how)
    )
    close(done.model, config, tmp_path, device="cpu")
    whole = np.asarray(Image.open(tmp_path / "overview.png"))
    assert (whole == red).all(-1).sum() == 2 * 300 * 100
    assert written == ["best: b to a", "worst: b to a"]


def test_many_pairs_are_judged_by_some(trained, tmp_path, monkeypatch):
    _, config, done = trained
    monkeypatch.setattr("RegCore.training.closing.MOST", 2)
    assert "mean of 2 of 3" in close(done.model, config, tmp_path, device="cpu")
    assert len(rows(tmp_path)) == 2 < MOST


def test_without_validation_data_nothing_is_said(trained, tmp_path):
    data, _, done = trained
    assert close(done.model, configuration(data, valid=False), tmp_path, device="cpu") == ""
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_means_of_each_structure():
    two = [
        Judged("b → a", "dice_mean", 0.5, 0.7, 0.1, {"liver": (0.6, 0.8), "spleen": (0.4, 0.6)}),
        Judged("c", "dice_mean", 0.3, 0.9, 0.0, {"liver": (0.3, 0.9)}),
    ]
    lines = [line.split("  ") for line in table(two, 5).splitlines()]
    assert [[cell.strip() for cell in line if cell] for line in lines] == [
        ["validation pair", "Dice, mean", "Folded voxels"],
        ["b → a", "0.500 → 0.700", "0.10 %"],
        ["c", "0.300 → 0.900", "0.00 %"],
        ["mean of 2 of 5", "0.400 → 0.800", "0.05 %"],
        ["liver", "0.450 → 0.850"],
        ["spleen", "0.400 → 0.600"],
    ]


def test_regcore_train_ends_with_the_table(trained, tmp_path, capsys):
    data, config, _ = trained
    path = tmp_path / "config.yaml"
    config.dump(path)
    assert main(["train", str(path), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "validation pair" in out and "overview.png: the best and the worst" in out
    assert (tmp_path / "run" / "overview.png").is_file() and "finished, best epoch" in out.splitlines()[-1]
    assert main(["train", str(path), "--out", str(tmp_path / "quiet"), "--device", "cpu", "--quiet"]) == 0
    assert capsys.readouterr().out == "" and (tmp_path / "quiet" / "overview.png").is_file()
