"""The model that the extension brings along: small, bound to no computer, a start for a training."""

import numpy as np
import pytest

import RegCore
from RegCore.evaluation.metrics import dice, mean_of_defined
from RegCore.networks.model_file import read_content
from RegCore.samples.shapes import make_shapes
from RegCore.training import train
from RegCore.training.config import Config
from RegCore.training.presets import TrainingPreset
from Testing.paths import ROOT

MODEL = ROOT / "Resources" / "Models" / "general.pt"


def test_it_is_small_and_names_nothing_but_what_it_is():
    assert MODEL.stat().st_size < 8e6
    content = read_content(MODEL)
    told = str({name: value for name, value in content.items() if name != "state"})
    assert (
        "/" not in content["config"]["dataset"]["train"]["dir"] and "home" not in told and "tmp" not in told
    )
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in content["state"].values())


def test_it_brings_shapes_together_that_it_never_saw():
    model, before, after = RegCore.load_model(MODEL, device="cpu"), [], []
    for case in make_shapes(4, first=2_000_000, size=64):
        fixed, fixed_labels, moving, moving_labels = case.volumes.values()
        done = RegCore.register(fixed, moving, model, device="cpu")
        assert done.metrics["fold_percent"] < 0.01
        for found, labels in (
            (before, moving_labels),
            (after, RegCore.warp(moving_labels, done.transform, fixed.geometry)),
        ):
            found.append(mean_of_defined(dice(fixed_labels, labels).values()))
    assert np.mean(after) > np.mean(before) + 0.1 and min(np.subtract(after, before)) > 0


def test_a_training_begins_with_it(tmp_path):
    from RegCore.samples.datasets import write_dataset

    write_dataset(tmp_path / "data", list(make_shapes(1, first=3_000_000, size=32)))
    preset = TrainingPreset(str(tmp_path / "data"), size=(32, 32, 32), epochs=1, learning_rate=1e-9)
    config = preset.configuration()
    config["train"]["backbone"] = read_content(MODEL)["config"]["train"]["backbone"]
    done = train(Config.from_dict(config), log_dir=tmp_path, exp_name="run", start_from=MODEL, device="cpu")
    kept, begun = read_content(done.model)["state"], read_content(MODEL)["state"]
    for name, tensor in begun.items():
        if name.endswith("weight") and tensor.ndim == 5:
            assert kept[name].float().numpy() == pytest.approx(tensor.float().numpy(), abs=1e-3)
