"""Configurations that can't be used: one sentence with place, key, value and what was expected.

The cases that DeepReg's recorded errors contain are marked with their names there.
"""

import json

import pytest

from RegCore.space.geometry import InputError
from RegCore.training.config import Config, load_config
from Testing.paths import DATA
from Testing.RegCore.training.config.samples import GROUPED, NOTHING, PAIRED, UNPAIRED, changed

RAISED = DATA / "golden" / "errors.json"
UNET = {"name": "unet", "num_channel_initial": 2}
GLOBAL = {"name": "global", "num_channel_initial": 2}
ODD = {"extract_levels": [0, 1], "encode_num_channels": [2, 3], "decode_num_channels": [2, 3]}
DVF = changed("train.method", "dvf")
CONDITIONAL = changed("train.method", "conditional")
ALL_PAIRS = changed("dataset.sample_image_in_group", False, GROUPED)
MANY = [{"name": "ssd"}, {"name": "lncc", "kernel": 5}]

# Name in DeepReg's recorded errors: key, value, configuration, parts of the sentence.
RECORDED = {
    "registry: unknown backbone": (
        ("train.backbone.name", "nope", UNPAIRED),
        ("'nope'", "unet, local, global", "--plugin"),
    ),
    "registry: unknown loss": (("train.loss.image.name", "mse", UNPAIRED), ("'mse'", "one of", "ssd")),
    "model: wrong loss name": (("train.loss.label.name", "mse", UNPAIRED), ("'mse'", "one of", "dice")),
    "registry: unknown model": (("train.method", "affine", UNPAIRED), ("'affine'", "ddf, dvf, conditional")),
    "registry: unknown data loader": (
        ("dataset.type", "other", UNPAIRED),
        ("'other'", "paired, unpaired, grouped"),
    ),
    "registry: config not a dict": (("train.backbone", [1], UNPAIRED), ("[1]", "keys with values")),
    "registry: config without name": (("train.loss.image.name", NOTHING, UNPAIRED), ("missing", "lncc")),
    "registry: wrong argument": (("train.backbone", UNET, UNPAIRED), ("backbone.depth is missing", "unet")),
    "registry: missing argument": (
        ("train.backbone.extract_levels", NOTHING, UNPAIRED),
        ("missing", "the network local needs", "a list, each a whole number"),
    ),
    "file format unknown": (("dataset.train.format", "dicom", UNPAIRED), ("'dicom'", "nifti, h5")),
    "labeled key missing": (("dataset.train.labeled", NOTHING, UNPAIRED), ("missing", "true or false")),
    "dataset.type missing": (("dataset.type", NOTHING, UNPAIRED), ("missing", "paired, unpaired, grouped")),
    "unpaired with extra key": (("dataset.foo", 1, UNPAIRED), ("is 1", "no such key", "image_shape")),
    "image_shape length 2": (("dataset.image_shape", [8, 8], UNPAIRED), ("[8, 8]", "a list of 3")),
    "paired with image_shape": (
        ("dataset.image_shape", [8, 8, 8], PAIRED),
        ("does not go with the type paired", "fixed_image_shape"),
    ),
    "paired shape length 2": (("dataset.moving_image_shape", [8, 8], PAIRED), ("[8, 8]", "a list of 3")),
    "DataLoader labeled": (("dataset.train.labeled", "yes", UNPAIRED), ("'yes'", "true or false")),
    "DataLoader sample_label": (("dataset.sample_label", "x", UNPAIRED), ("'x'", "sample or all")),
    "DataLoader seed": (("dataset.seed", 1.5, UNPAIRED), ("1.5", "a whole number")),
    "unet: extract level > depth": (("train.backbone.depth", 1, UNPAIRED), ("extract_levels", "depth 1")),
    "unet: add with different channels": (
        (
            "train.backbone",
            {**UNET, "depth": 1, "encode_num_channels": [2, 4], "decode_num_channels": [3, 4]},
            UNPAIRED,
        ),
        ("encode_num_channels", "decode_num_channels", "concat_skip"),
    ),
    "unet: encode_num_channels length": (
        ("train.backbone.encode_num_channels", [2, 3], UNPAIRED),
        ("encode_num_channels", "3 values", "[2, 3]"),
    ),
    "unet: kernel list length": (
        ("train.backbone.encode_kernel_sizes", [3, 3], UNPAIRED),
        ("encode_kernel_sizes", "3 values", "[3, 3]"),
    ),
    "unet: padding valid (forward)": (("train.backbone.padding", "valid", UNPAIRED), ("'same'", "'valid'")),
    "global: no depth": (("train.backbone", GLOBAL, UNPAIRED), ("global needs a depth",)),
    "local: odd channels additive upsampling": (
        ("train.backbone", {"name": "local", "num_channel_initial": 2, **ODD}, UNPAIRED),
        ("train.backbone", "additive upsampling", "3 channels"),
    ),
    "lncc kernel type": (
        ("train.loss.image.kernel_type", "box", UNPAIRED),
        ("'box'", "triangular, gaussian"),
    ),
    "lncc triangular even": (
        ("train.loss.image", {"name": "lncc", "kernel_type": "triangular", "kernel_size": 4}, UNPAIRED),
        ("kernel_size", "odd", "4"),
    ),
    "DiceScore background_weight 1.5": (
        ("train.loss.label.background_weight", 1.5, UNPAIRED),
        ("train.loss.label.background_weight", "between 0 and 1", "1.5"),
    ),
    "JaccardIndex background_weight -0.1": (
        ("train.loss.label", {"name": "jaccard", "background_weight": -0.1}, UNPAIRED),
        ("train.loss.label.background_weight", "between 0 and 1", "-0.1"),
    ),
    "CrossEntropy background_weight 1.5": (
        ("train.loss.label", {"name": "cross-entropy", "background_weight": 1.5}, UNPAIRED),
        ("train.loss.label.background_weight", "between 0 and 1", "1.5"),
    ),
    "affine scale 2": (
        ("train.preprocess.data_augmentation.scale", 2, UNPAIRED),
        ("train.preprocess.data_augmentation.scale", "between 0 and 1", "2"),
    ),
    "multiscale kernel": (("train.loss.label.kernel", "x", UNPAIRED), ("'x'", "gaussian, cauchy")),
    "conditional unlabeled": (
        ("dataset.train.labeled", False, CONDITIONAL),
        ("dataset.train.labeled is false", "conditional predicts labels"),
    ),
    "config: no train": (("train", NOTHING, UNPAIRED), ("train is missing",)),
    "config: no preprocess": (("train.preprocess", NOTHING, UNPAIRED), ("train.preprocess is missing",)),
    "config: no optimizer": (("train.optimizer", NOTHING, UNPAIRED), ("train.optimizer is missing", "Adam")),
    "optimizer unknown": (("train.optimizer.name", "Foo", UNPAIRED), ("'Foo'", "Adam", "RMSprop")),
    "optimizer lower-case": (("train.optimizer.name", "adam", UNPAIRED), ("'adam'", "did you mean Adam?")),
    "optimizer bad arg": (
        ("train.optimizer.foo", 1, UNPAIRED),
        ("the optimiser Adam has no such key", "beta_1"),
    ),
    "optimizer no name": (("train.optimizer.name", NOTHING, UNPAIRED), ("missing", "Adam, ")),
    "model: global dvf": (("train.backbone", {**GLOBAL, "depth": 2}, DVF), ("affine map", "method ddf")),
}
FURTHER = {
    "misspelt key": (("train.epoch", 3, UNPAIRED), ("train.epoch is 3", "did you mean epochs?")),
    "misspelt section": (("trian", {}, UNPAIRED), ("trian is {}", "did you mean train?")),
    "misspelt option": (
        ("train.backbone.num_chanel_initial", 3, UNPAIRED),
        ("train.backbone.num_chanel_initial is 3", "did you mean num_channel_initial?"),
    ),
    "misplaced key": (("train.batch_size", 3, UNPAIRED), ("it belongs to train.preprocess",)),
    "misindented section": (("train.backbone.loss", {}, UNPAIRED), ("it belongs to train",)),
    "misspelt augmentation": (
        ("train.preprocess.data_augmentation.name", "afine", UNPAIRED),
        ("did you mean affine?",),
    ),
    "option of one loss of many": (
        ("train.loss.image", MANY, UNPAIRED),
        ("train.loss.image[1].kernel is 5", "the loss lncc", "did you mean kernel_type?"),
    ),
    "text for a number": (("train.epochs", "two", UNPAIRED), ("'two'", "a whole number from 1 on")),
    "no epochs": (("train.epochs", 0, UNPAIRED), ("is 0", "from 1 on")),
    "null for what is needed": (("train.save_period", None, UNPAIRED), ("save_period is missing",)),
    "text for a truth": (("train.backbone.pooling", "yes", UNPAIRED), ("'yes'", "true or false")),
    "text for an option": (("train.loss.image.kernel_size", "big", UNPAIRED), ("'big'", "a whole number")),
    "weight that is none": (("train.loss.image.weight", "much", UNPAIRED), ("'much'", "a number")),
    "learning rate below zero": (("train.optimizer.learning_rate", -1, UNPAIRED), ("-1", "above 0")),
    "momentum above one": (("train.optimizer", {"name": "SGD", "momentum": 2}, UNPAIRED), ("from 0 to 1",)),
    "empty scales": (("train.loss.label.scales", [], UNPAIRED), ("train.loss.label.scales", "[]")),
    "two control points": (("train.backbone.control_points", [2, 2], UNPAIRED), ("[2, 2]", "a list of 3")),
    "control points, conditional": (("train.backbone.control_points", 4, CONDITIONAL), ("control_points",)),
    "probability above one": (("dataset.intra_group_prob", 1.5, GROUPED), ("1.5", "from 0 to 1")),
    "unknown direction": (("dataset.intra_group_option", "up", GROUPED), ("forward or backward",)),
    "mixed pairs, all of them": (("dataset.intra_group_prob", 0.5, ALL_PAIRS), ("sample_image_in_group",)),
    "groups without probability": (("dataset.intra_group_prob", NOTHING, GROUPED), ("missing", "grouped")),
    "groups without groups": (("dataset.intra_group_prob", 1, UNPAIRED), ("go with the type unpaired",)),
    "pairs without a shape": (("dataset.fixed_image_shape", NOTHING, PAIRED), ("missing", "paired needs")),
    "nothing to learn": (("train.loss", {"image": {"name": "ssd", "weight": 0}}, UNPAIRED), ("no loss",)),
    "nothing for conditional": (("train.loss.label", None, CONDITIONAL), ("no loss that the method cond",)),
    "conditional, valid unlabelled": (
        ("dataset.valid.labeled", False, CONDITIONAL),
        ("dataset.valid.labeled",),
    ),
    "unknown schedule": (("train.learning_rate_schedule", {"name": "cosin"}, UNPAIRED), ("mean cosine?",)),
    "unfinished schedule": (
        ("train.learning_rate_schedule", {"name": "step"}, UNPAIRED),
        ("every is missing",),
    ),
    "no patience": (("train.early_stopping", {"patience": 0}, UNPAIRED), ("patience is 0", "from 1 on")),
    "unknown precision": (("train.mixed_precision", "fp16", UNPAIRED), ("auto or off or bf16",)),
    "folder in place of a split": (("dataset.train", "data", UNPAIRED), ("keys dir, format, labeled",)),
    "number as a folder": (("dataset.train.dir", 7, UNPAIRED), ("dir is 7", "a text")),
    "two shapes": (("dataset.image_shape", [0, 8, 8], UNPAIRED), ("[0, 8, 8]", "from 1 on")),
    "old loss of unknown type": (
        ("train.loss.label", {"name": "multi_scale", "multi_scale": {"loss_type": "dicee"}}, UNPAIRED),
        ("'dicee'", "did you mean dice?"),
    ),
}


@pytest.mark.parametrize("name", [*RECORDED, *FURTHER])
def test_each_error_is_one_sentence_with_key_and_value(name):
    (key, value, base), words = (RECORDED | FURTHER)[name]
    with pytest.raises(InputError) as caught:
        Config.from_dict(changed(key, value, base), "my.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("my.yaml: ") and "\n" not in sentence
    assert key.split(".")[0] in sentence
    for word in words:
        assert word in sentence


def test_every_recorded_error_of_the_configuration_is_among_these():
    raised = {case["case"] for case in json.loads(RAISED.read_text(encoding="utf-8")) if case["raised"]}
    of_configurations = (
        "registry:",
        "config:",
        "optimizer",
        "unet:",
        "global:",
        "local:",
        "model:",
        "DataLoader",
    )
    no_such_thing_here = {
        "registry: unknown category",  # each kind of part has a decorator of its own
        "registry: metric_class is not known category",
        "registry: duplicate key",  # see test_plugins.py
        "DataLoader num_indices",  # no option
        "config: missing file",  # see test_reading.py
    }
    missing = {name for name in raised if name.startswith(of_configurations)} - set(RECORDED)
    assert missing == no_such_thing_here


def test_the_line_of_a_file_is_named(tmp_path):
    data, network = tmp_path / "data.yaml", tmp_path / "network.yaml"
    base = Config.from_dict(UNPAIRED)
    text = base.text()
    data.write_text(text, encoding="utf-8")
    network.write_text("train:\n  # ours\n  backbone:\n    num_chanel_initial: 4\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config([data, network])
    assert str(caught.value).startswith(f"{network}, line 4: train.backbone.num_chanel_initial is 4, but ")
    network.write_text("train:\n  epochs: null\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"{network}, line 2: train.epochs is missing"):
        load_config([data, network])
    with pytest.raises(InputError, match="overrides: train.epochs is 0"):
        load_config(data, overrides={"train": {"epochs": 0}})
    with pytest.raises(InputError, match="no configuration was given"):
        load_config([])


def test_the_line_of_an_old_file_is_named(tmp_path):
    old = tmp_path / "old.yaml"
    values = changed("train.backbone")
    text = Config.from_dict(UNPAIRED).text().split("train:\n  method")[0]
    model = (
        "train:\n  model:\n    method: ddf\n    backbone: local\n    local:\n      num_chanel_initial: 4\n"
    )
    old.write_text(text + model, encoding="utf-8")
    line = len((text + model).splitlines())
    with pytest.raises(InputError, match=f"old.yaml, line {line}: train.backbone.num_chanel_initial is 4"):
        load_config(old, overrides={"train": values["train"] | {"method": "ddf"}})
