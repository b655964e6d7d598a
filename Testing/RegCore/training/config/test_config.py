"""Configurations as a whole: what is read is what was written, every file of DeepReg is understood."""

import copy
import json
import logging
import pickle
import random

import pytest
import torch
import yaml

from RegCore.space.geometry import InputError
from RegCore.training.config import (
    Component,
    Config,
    Cosine,
    EarlyStopping,
    Loss,
    OneCycle,
    Split,
    load_config,
)
from Testing.paths import DEEPREG, RECORDED
from Testing.RegCore.training.config.samples import GROUPED, PAIRED, UNPAIRED, changed

CASES = json.loads((RECORDED / "config.json").read_text(encoding="utf-8"))
LOWER_CASE = "optimizer lower-case flat (unchanged)"  # read by DeepReg, which then fails at the optimiser


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_configurations_are_read_as_deepreg_reads_them(case, tmp_path):
    if case["name"] == LOWER_CASE:
        with pytest.raises(InputError, match="did you mean Adam"):
            Config.from_dict(case["config"])
        return
    config = Config.from_dict(case["config"])
    assert config.to_dict() == case["parsed"]
    config.dump(tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config and again.to_dict() == case["parsed"] and not again.changes


@pytest.mark.parametrize("base", [UNPAIRED, PAIRED, GROUPED])
def test_what_was_given_comes_out_again_and_nothing_else(base, tmp_path):
    given = copy.deepcopy(base)
    config = Config.from_dict(given)
    assert config.to_dict() == base == given
    config.to_dict()["train"]["epochs"] = 99
    assert config.to_dict() == base
    assert yaml.load(config.text(), yaml.FullLoader) == base  # the loader of DeepReg
    assert pickle.loads(pickle.dumps(config)) == config


def test_sections_are_values_with_names():
    config = Config.from_dict(UNPAIRED)
    assert config.dataset.train == Split("somewhere/train", "nifti", True)
    assert config.dataset.image_shape == (16, 16, 16) and config.dataset.sample_label is None
    options = {"num_channel_initial": 2, "extract_levels": [0, 1, 2]}
    assert config.train.backbone == Component("local", options)
    assert config.train.loss.label == (Loss("dice", 1.0, {"scales": [0, 1, 2]}),)
    assert config.train.preprocess.data_augmentation == (Component("affine"),)
    assert (config.train.accumulate, config.train.mixed_precision, config.train.seed) == (1, "off", None)
    with pytest.raises(AttributeError):
        config.train.epochs = 3


def test_keys_that_deepreg_lacks():
    values = changed("train.learning_rate_schedule", {"name": "cosine", "warmup_epochs": 2})
    values["train"] |= {
        "early_stopping": {"patience": 3},
        "mixed_precision": False,
        "seed": 7,
        "accumulate": 2.0,
    }
    values["dataset"] |= {"cache": 1.5, "workers": 2, "skip_bad_files": True}
    config = Config.from_dict(values)
    assert config.train.learning_rate_schedule == Cosine(2, 0.0)
    assert config.train.early_stopping == EarlyStopping(3, 0.0)
    assert config.train.mixed_precision == "off", "the word off without quotes is read as false by YAML"
    assert (config.train.seed, config.train.accumulate) == (7, 2)
    assert (config.dataset.cache, config.dataset.workers, config.dataset.skip_bad_files) == (1.5, 2, True)
    assert Config.from_dict(yaml.safe_load(config.text())) == config
    assert config.to_dict()["train"]["mixed_precision"] == "off"
    one = Config.from_dict(changed("train.learning_rate_schedule", {"name": "one_cycle"}))
    assert one.train.learning_rate_schedule == OneCycle()


def test_files_that_say_the_same_are_equal(tmp_path):
    spelt_out = changed("train.update_freq", "epoch")
    spelt_out["train"]["preprocess"]["num_parallel_calls"] = -1
    spelt_out["dataset"]["seed"] = None
    assert Config.from_dict(spelt_out, "one") == Config.from_dict(UNPAIRED, "other")
    assert Config.from_dict(changed("train.epochs", 3)) != Config.from_dict(UNPAIRED)


def test_one_loss_or_a_list_and_null_for_none():
    values = changed("train.loss.image", [{"name": "ssd"}, {"name": "lncc", "weight": 2}])
    values["train"]["loss"]["label"] = None
    values["train"]["preprocess"]["data_augmentation"] = None
    config = Config.from_dict(values)
    assert config.train.loss.image == (Loss("ssd"), Loss("lncc", 2))
    assert config.train.loss.label == () and config.train.preprocess.data_augmentation == ()
    assert config.to_dict() == values and not config.changes


def test_any_loss_of_two_images_goes_with_images_and_labels():
    values = changed("train.loss.image", {"name": "jaccard"})
    values["train"]["loss"]["label"] = {"name": "lncc", "kernel_size": 3}
    assert Config.from_dict(values).train.loss.image == (Loss("jaccard"),)


@pytest.mark.parametrize("split", [None, {}, {"dir": None, "labeled": True}, {"dir": "", "format": "h5"}])
def test_a_split_without_a_folder_is_skipped(split):
    config = Config.from_dict(changed("dataset.valid", split))
    assert config.dataset.valid is None
    with pytest.raises(InputError, match="dataset.valid.dir is missing"):
        config.split("valid")
    assert config.split("train").dir == "somewhere/train"
    with pytest.raises(InputError, match="train, valid, test"):
        config.split("val")


def test_labels_are_asked_for_where_they_are_needed():
    values = changed("train.method", "conditional")
    values["dataset"]["test"]["labeled"] = False
    config = Config.from_dict(values)
    assert config.split("train").labeled
    with pytest.raises(InputError, match="dataset.test.labeled is false"):
        config.split("test")


def test_label_losses_without_labels_are_a_warning(caplog):
    with caplog.at_level(logging.INFO):
        Config.from_dict(changed("dataset.train.labeled", False))
        assert "the loss dice of labels is used in validation only" in caplog.text
        Config.from_dict(changed("train.method", "conditional"))
        assert "the image loss lncc is not used by the method conditional" in caplog.text


def test_reading_draws_no_random_numbers():
    torch.manual_seed(3), random.seed(3)
    before = torch.random.get_rng_state(), random.getstate()
    Config.from_dict(UNPAIRED)
    assert torch.equal(torch.random.get_rng_state(), before[0]) and random.getstate() == before[1]


def test_a_dump_is_whole_or_not_at_all(tmp_path):
    config = Config.from_dict(UNPAIRED)
    with pytest.raises(InputError, match="must end in .yaml"):
        config.dump(tmp_path / "config.txt")
    with pytest.raises(InputError, match="no folder"):
        config.dump(tmp_path / "none" / "config.yaml")
    config.dump(str(tmp_path / "config.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert "image_shape: [16, 16, 16]" in (tmp_path / "config.yaml").read_text(encoding="utf-8")


# ---- DeepReg's own files -----------------------------------------------------------------------------------


def test_every_demo_and_example_of_deepreg_loads():
    paths = [*DEEPREG.glob("demos/*.yaml"), *DEEPREG.glob("trained/*/train/config.yaml")]
    paths += [DEEPREG / "config" / "unpaired_labeled_ddf.yaml"]
    assert len(paths) == 14
    for path in paths:
        config = load_config(path)
        assert config.to_dict() == yaml.safe_load(path.read_text(encoding="utf-8"))
        assert not config.changes


LOADED = [f"{kind}_{form}" for kind in ("paired", "unpaired", "grouped") for form in ("h5", "nifti")]
LOADED += ["unpaired_nifti_multi_dirs", "unpaired_nifti_no_valid"]


@pytest.mark.parametrize("data", LOADED)
def test_every_merge_of_deepregs_test_files_loads(data):
    methods = [["ddf"], ["ddf", "dvf"], ["affine"], ["ddf", "conditional"]]
    for method in methods:
        for labels in ("labeled", "unlabeled"):
            paths = [DEEPREG / "config" / "test" / f"{name}.yaml" for name in (data, *method, labels)]
            if labels == "unlabeled" and method[-1] == "conditional":
                with pytest.raises(
                    InputError, match="unlabeled.yaml, line 3: dataset.train.labeled is false"
                ):
                    load_config(paths)
                continue
            config = load_config(paths)
            assert config.train.method == ("ddf" if method == ["affine"] else method[-1])
            assert config.dataset.train.labeled == (labels == "labeled")
            assert (config.dataset.valid is None) == (data == "unpaired_nifti_no_valid")


def test_an_old_file_is_upgraded_and_nothing_is_written_beside_it(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_bytes((DEEPREG / "config" / "test" / "grouped_mr_heart_v011.yaml").read_bytes())
    config = load_config(path)
    assert config.to_dict() == CASES[0]["parsed"] and len(config.changes) >= 6
    assert yaml.safe_load(config.text()) == CASES[0]["parsed"]
    assert [found.name for found in tmp_path.iterdir()] == ["old.yaml"]


def test_spacing_of_a_regulariser_may_be_that_of_the_image():
    for spacing in ("image", [1.5, 1.5, 3.0], None):
        loss = {"name": "bending", "spacing": spacing}
        config = Config.from_dict(changed("train.loss.regularization", loss))
        assert config.train.loss.regularization[0].options["spacing"] in (spacing, tuple(spacing or ()))
    with pytest.raises(
        InputError, match="regularization.spacing is 'grid', but a list, each a number or image"
    ):
        Config.from_dict(changed("train.loss.regularization", {"name": "bending", "spacing": "grid"}))


# ---- files of both forms, one over the other ---------------------------------------------------------------

FOLDS = """
dataset:
    dir:
        train:
        - "fold0"
        - "fold1"
        valid: "fold2" # validation data set
        test: ""
"""


def test_folders_of_the_older_form_over_a_file_of_the_present_one(tmp_path):
    """As cv_run1.yaml in the manual of DeepReg."""
    base, run = tmp_path / "base.yaml", tmp_path / "cv_run1.yaml"
    base.write_text(yaml.dump(PAIRED))
    run.write_text(FOLDS)
    config = load_config([base, run])
    assert config.dataset.train == Split(("fold0", "fold1"), "nifti", True)
    assert config.dataset.valid == Split("fold2", "nifti", True) and config.dataset.test is None
    assert [change for change in config.changes if "dataset.dir" in change] == list(config.changes)
    with pytest.raises(InputError, match=r"cv_run1.yaml, line 4: dataset.train.dir is 3"):
        run.write_text("dataset:\n  type: paired\n  dir:\n    train: 3\n")
        load_config([base, run])


def test_a_later_file_wins_whatever_the_forms(tmp_path):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    both = copy.deepcopy(PAIRED)
    for split in ("train", "valid", "test"):
        del both["dataset"][split]
    both["dataset"] |= {"dir": {"train": "a", "valid": "b"}, "format": "h5", "labeled": False}
    old.write_text(yaml.dump(both))
    new.write_text(yaml.dump({"dataset": {"train": {"dir": "c", "format": "nifti", "labeled": True}}}))
    over = load_config([old, new]).dataset
    assert (over.train, over.valid) == (Split("c", "nifti", True), Split("b", "h5", False))
    under = load_config([new, old]).dataset
    assert (under.train, under.valid) == (Split("a", "h5", False), Split("b", "h5", False))
    changed_all = load_config([old, new], overrides={"dataset": {"labeled": True, "format": "h5"}}).dataset
    assert (changed_all.train, changed_all.valid) == (Split("c", "h5", True), Split("b", "h5", True))
