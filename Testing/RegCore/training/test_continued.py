"""What a training goes on from, for how long, and what each split is measured by."""

import csv
import logging
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from RegCore.io import load, save
from RegCore.networks.model_file import read_model
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.space.volume import reoriented
from RegCore.training import train
from RegCore.training.config import Config, load_config
from RegCore.training.state import RunningMeans, TrainingState
from Testing.RegCore.training.runs import configuration, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    return train(configuration(pairs), log_dir=tmp_path_factory.mktemp("logs"), exp_name="whole")


def test_a_continued_run_has_the_best_of_its_own_epochs(pairs, whole, tmp_path):
    """Steps far too large make it worse than what it began with; its best is its own all the same."""
    config = configuration(pairs, epochs=5, optimizer={"name": "Adam", "learning_rate": 3.0})
    run = train(config, log_dir=tmp_path, exp_name="more", start_from=whole.folder / "save" / "ckpt-3")
    losses = [row["val_loss"] for row in run.history]
    assert len(losses) == 5 and run.inherited == 3 and min(losses[3:]) > min(losses[:3])
    assert run.model.name == "best.pt" and run.best["val_loss"] == min(losses[3:])
    kept, file = read_model(run.model), run.folder / "save" / f"ckpt-{run.best['epoch']}.pt"
    if file.is_file():
        states = kept.network.state_dict(), read_model(file).network.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_more_epochs_than_configured_replace_them(pairs, tmp_path):
    """They are trained, written down, and the schedule reaches over all of them."""
    config = configuration(pairs, epochs=1, learning_rate_schedule={"name": "cosine"})
    run = train(config, log_dir=tmp_path, exp_name="run", max_epochs=3)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    rates = [row["learning_rate"] for row in run.history]
    assert rates[0] > rates[1] > rates[2] > 0
    assert load_config(run.folder / "config.yaml").train.epochs == 3
    resumed = train(load_config(run.folder / "config.yaml"), log_dir=tmp_path, exp_name="run", resume=True)
    assert resumed.history == run.history and resumed.model == run.model


def test_a_checkpoint_that_leaves_nothing_to_train_is_an_error(pairs, whole, tmp_path):
    checkpoint = whole.folder / "save" / "ckpt-3"
    with pytest.raises(InputError, match="ckpt-3: this checkpoint has 3 epochs behind it.*to have 2, so"):
        train(configuration(pairs), log_dir=tmp_path, exp_name="run", start_from=checkpoint, max_epochs=2)
    assert not (tmp_path / "run").exists()


def test_the_averages_of_another_optimiser_are_no_start(pairs, whole, tmp_path):
    config = configuration(pairs, epochs=5, optimizer={"name": "SGD"})
    with pytest.raises(InputError, match="ckpt-3.pt: it was trained with another optimiser"):
        train(config, log_dir=tmp_path, exp_name="run", start_from=whole.folder / "save" / "ckpt-3")


def split(config: Config, **labeled: bool) -> Config:
    """The configuration with other values of ``labeled``."""
    values = config.to_dict()
    for name, value in labeled.items():
        values["dataset"][name] = {**values["dataset"][name], "labeled": value}
    return Config.from_dict(values)


@pytest.mark.parametrize("labeled", [{"train": True, "valid": False}, {"train": False, "valid": True}])
def test_each_split_is_measured_by_its_own_labels(pairs, tmp_path, labeled):
    run = train(split(configuration(pairs, epochs=1), **labeled), log_dir=tmp_path, exp_name="run")
    (row,) = csv.DictReader((run.folder / "metrics.csv").open())
    for name, prefix in (("train", ""), ("valid", "val_")):
        terms = {k for k in row if k.startswith(f"{prefix}loss/") and k.endswith("_weighted")}
        assert (f"{prefix}loss/label_DiceScoreLoss_weighted" in terms) == labeled[name]
        assert (f"{prefix}metric/TRE" in row) == labeled[name]
        total = sum(float(row[term]) for term in terms)
        assert float(row[f"{prefix}loss"]) == pytest.approx(total, rel=1e-5)


def test_training_without_labels_in_validation_is_that_with_them(pairs, whole, tmp_path):
    """The weights after the last epoch are the same: validation has no part in them."""
    run = train(split(configuration(pairs), valid=False), log_dir=tmp_path, exp_name="run")
    one, other = (read_model(r.folder / "save" / "last.pt").network for r in (run, whole))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert [row["loss"] for row in run.history] == [row["loss"] for row in whole.history]


def test_smoothness_alone_never_chooses_the_model(pairs, tmp_path, caplog):
    config = split(configuration(pairs, epochs=1), valid=False)
    with caplog.at_level(logging.WARNING):
        train(config, log_dir=tmp_path, exp_name="image")
    assert "val_loss and the best epoch lack the loss of labels" in caplog.text
    values = config.to_dict()
    del values["train"]["loss"]["image"]
    with pytest.raises(InputError, match="valid.labeled is false, but train.loss compares labels alone"):
        train(Config.from_dict(values), log_dir=tmp_path, exp_name="labels")


def test_labels_that_are_empty_are_left_out_of_means_and_counted(pairs, tmp_path, caplog):
    """Of five labels in validation two were never drawn: one fixed, one moving."""
    shutil.copytree(pairs, tmp_path / "valid")
    for place in ("fixed_labels/case1.nii.gz", "moving_labels/case3.nii.gz"):
        drawn = load(tmp_path / "valid" / place, "labels")
        save(replace(drawn, array=np.zeros_like(drawn.array)), tmp_path / "valid" / place)
    values = configuration(pairs, epochs=2).to_dict()
    values["dataset"]["valid"]["dir"] = str(tmp_path / "valid")
    with caplog.at_level(logging.WARNING):
        run = train(Config.from_dict(values), log_dir=tmp_path, exp_name="some")
    said = "2 of 5 labels are empty in the fixed or the moving image and count nowhere"
    assert [m for m in caplog.messages if "count nowhere" in m] == [f"dataset.valid: {said}"]
    for place in ("case1.nii.gz", "case3.nii.gz"):
        for folder in (tmp_path / "valid").iterdir():
            (folder / place).unlink()
    alone = train(Config.from_dict(values), log_dir=tmp_path, exp_name="alone")
    name = "val_loss/label_DiceScoreLoss"
    assert run.history[1][name] == pytest.approx(alone.history[1][name], rel=1e-4)
    assert run.history[1][name] < -0.05
    for row in run.history:
        parts = [value for key, value in row.items() if key.startswith("val_loss/") and "_weighted" in key]
        assert len(parts) == 3 and row["val_loss"] == pytest.approx(sum(parts), rel=1e-6)


def test_a_sample_without_a_label_does_not_count_as_one_whose_label_costs_nothing():
    """Else the smoothness would choose the model where few labels are drawn."""
    nothing = math.nan

    def mean(labels, smoothness, loss):
        names = "loss", "loss/label_dice_weighted", "loss/regularization_bending_weighted"
        return RunningMeans.of(dict(zip(names, map(torch.tensor, (loss, labels, smoothness)), strict=True)))

    better = mean([-0.8, nothing], [0.3, 0.3], [-0.5, 0.3]).plus(mean([nothing], [0.3], [0.3]))
    worse = mean([-0.6, nothing], [0.15, 0.15], [-0.45, 0.15]).plus(mean([nothing], [0.15], [0.15]))
    assert better.values()["loss"] == pytest.approx(-0.5) and worse.values()["loss"] == pytest.approx(-0.45)
    none = mean([nothing], [0.4], [0.4]).values()
    assert none["loss"] == pytest.approx(0.4) and math.isnan(none["loss/label_dice_weighted"])
    assert mean([-0.8, -0.4], [0.5, 0.1], [-0.3, -0.3]).values()["loss"] == pytest.approx(-0.3)
    for broken in (nothing, math.inf):  # a loss that is not finite still ends the training
        assert not math.isfinite(mean([nothing, -0.5], [0.1, 0.1], [broken, -0.4]).values()["loss"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "conditional"}, "train.method was ddf, but is conditional"),
        ({"backbone": {"name": "unet", "num_channel_initial": 2, "depth": 3}}, "depth was 2, but is 3"),
        (
            {"backbone": {"name": "unet", "num_channel_initial": 5, "depth": 2}},
            "channel_initial was 2, but is 5",
        ),
    ],
)
def test_weights_of_another_network_are_refused_with_what_differs(pairs, whole, tmp_path, changed, words):
    with pytest.raises(InputError) as refused:
        train(configuration(pairs, **changed), log_dir=tmp_path, exp_name="run", start_from=whole.model)
    assert words in str(refused.value) and "state_dict" not in str(refused.value)
    assert "best.pt: its weights do not fit" in str(refused.value) and not (tmp_path / "run").exists()


def change_data(data, change: str) -> None:
    """What somebody does to a folder of `write_pairs` while its training is interrupted."""
    for path in sorted(data.glob("*/*.nii.gz")):
        volume = load(path, "labels" if "labels" in path.parent.name else "image")
        if change == "turned":
            save(reoriented(volume, "PLS"), path)
        if change == "brighter" and path.parent.name == "moving_images":
            save(replace(volume, array=np.sqrt(volume.array.clip(0))), path)
        if change == "fewer" and path.name != "case1.nii.gz":
            path.unlink()
        if change == "one removed" and path.name == "case3.nii.gz":
            path.unlink()
        if change == "renamed" and path.name == "case2.nii.gz":
            path.rename(path.with_name("other.nii.gz"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nothing", ""),
        ("brighter", "intensities"),
        ("turned", "directions of voxel axes"),
        ("fewer", "intensities, images of dataset.train, 1 in place of 4, images of dataset.valid, 1 in"),
        ("one removed", "other: images of dataset.train, 3 in place of 4, images of dataset.valid, 3 in pla"),
        ("renamed", "other: names of images of dataset.train, names of images of dataset.valid)"),
    ],
)
def test_a_resumed_training_tells_that_its_data_are_others(tmp_path, caplog, change, words):
    data = tmp_path / "pairs"
    write_pairs(data, count=3)
    for path in data.glob("*/case2.nii.gz"):  # a pair that nothing but its name tells from the others
        shutil.copy(path, path.with_name("case3.nii.gz"))
    options = {"log_dir": tmp_path, "exp_name": "run", "device": "cpu"}
    train(configuration(data, epochs=2), max_epochs=1, **options)
    change_data(data, change)
    config = configuration(data, epochs=2)
    with caplog.at_level(logging.WARNING, "RegCore"):
        resumed = train(config, resume=True, **options)
    assert resumed.ended == "finished" and len(resumed.history) == 2
    told = [r.getMessage() for r in caplog.records if "not those that this training began" in r.getMessage()]
    assert len(told) == (change != "nothing") and all(words in text for text in told)


def test_data_that_shrank_within_an_epoch_are_told_and_the_training_goes_on(tmp_path, caplog):
    """It had used more of the epoch than there is now; and the folder may be another one by now."""
    write_pairs(tmp_path / "pairs", count=6)
    options = {"log_dir": tmp_path, "exp_name": "run", "device": "cpu"}

    def stop(fraction, text, values):
        if values["epoch"] == 1 and fraction > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(configuration(tmp_path / "pairs", epochs=2), progress=stop, **options)
    (tmp_path / "pairs").rename(tmp_path / "elsewhere")
    config = configuration(tmp_path / "elsewhere", epochs=2)
    for path in [path for n in (2, 3, 4, 5) for path in tmp_path.glob(f"elsewhere/*/case{n}.nii.gz")]:
        path.unlink()
    with caplog.at_level(logging.WARNING, "RegCore"):
        resumed = train(config, resume=True, **options)
    assert "images of dataset.train, 2 in place of 6" in caplog.text and len(resumed.history) == 2
    content = torch.load(tmp_path / "run" / "save" / "last.pt", weights_only=True)["training"]["state"]
    assert content["data"]["train"][0] == 2  # and not the names, which may be those of patients
    del content["data"]  # as earlier versions wrote it
    assert TrainingState.from_dict(content).other_data(TrainingState.new(0).with_data({"train": ["a"]})) == []
