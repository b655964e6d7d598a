"""Older configurations brought to the present form, held against what DeepReg makes of them."""

import copy
import json

import pytest

from RegCore.deepreg.upgrade import upgraded
from Testing.paths import DATA
from Testing.RegCore.training.config.samples import UNPAIRED, changed

RECORDED = DATA / "golden" / "config.json"
CASES = json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_upgrade_is_that_of_deepreg(case):
    given = copy.deepcopy(case["config"])
    up = upgraded(given)
    assert up.values == case["parsed"]
    assert given == case["config"], "what was given must stay as it was"
    assert bool(up.changes) == (case["parsed"] != case["config"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_is_upgraded_needs_no_second_upgrade(case):
    again = upgraded(upgraded(case["config"]).values)
    assert again.values == case["parsed"] and not again.changes


def test_options_of_multi_scale_losses_are_kept():
    old = {"loss_type": "dice_generalized", "loss_scales": [0, 1], "kernel": "cauchy", "neg_weight": 0.2}
    loss = {"name": "multi_scale", "weight": 2.0, "multi_scale": old}
    up = upgraded(changed("train.loss.label", loss))
    assert up.values["train"]["loss"]["label"] == {
        "name": "dice",
        "weight": 2.0,
        "scales": [0, 1],
        "kernel": "cauchy",
        "background_weight": 0.2,
    }


def test_what_is_not_used_is_told():
    model = {"method": "ddf", "backbone": "unet", "unet": {"depth": 2}, "local": {"depth": 3}}
    values = changed("train.backbone")
    values["train"]["model"] = model
    up = upgraded(values)
    assert up.values["train"]["backbone"] == {"name": "unet", "depth": 2}
    assert any("train.model.local" in change for change in up.changes)


@pytest.mark.parametrize("junk", [None, 3, "text", [1], {}, {"name": 3}, {"name": ["a"]}, [[{}]]])
@pytest.mark.parametrize(
    "key",
    [
        "dataset",
        "dataset.dir",
        "train",
        "train.model",
        "train.loss",
        "train.loss.dissimilarity",
        "train.loss.image",
        "train.loss.label",
        "train.loss.regularization",
        "train.optimizer",
        "train.preprocess",
    ],
)
def test_nonsense_is_left_for_the_checks(key, junk):
    """The upgrade must not stumble over a file that is of no form at all."""
    section, *rest = key.split(".")
    values = upgraded(changed(key, junk)).values
    assert (values[section] == junk) if not rest else isinstance(values[section], dict)


def test_a_present_file_is_left_alone():
    up = upgraded(UNPAIRED)
    assert up.values == UNPAIRED and not up.changes and not up.moved


def test_spellings_of_the_manual_are_understood():
    """Its list of label losses says generalised_dice, its comment on sample_label None."""
    given = {
        "dataset": {"type": "paired", "sample_label": "None"},
        "train": {"loss": {"label": {"name": "generalised_dice", "weight": 2.0}}},
    }
    up = upgraded(given)
    assert up.values["dataset"]["sample_label"] is None
    assert up.values["train"]["loss"]["label"] == {"name": "generalised-dice", "weight": 2.0}
    assert len(up.changes) == 2 and given["dataset"]["sample_label"] == "None"
