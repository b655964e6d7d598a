"""Presets of trainings: what is recognised in folders, and the configurations that come of it."""

import itertools

import pytest
import torch

from RegCore.loaders import make_loader
from RegCore.networks.models import DDFModel
from RegCore.resampler import warp_image_ddf
from RegCore.training.config import Config
from RegCore.training.presets import LEARNING_RATES, TrainingPreset, depth_for, inspect_dataset
from Testing.RegCore.loaders import data


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("file_format", data.FORMATS)
@pytest.mark.parametrize("kind", data.KINDS)
def test_a_folder_is_recognised_by_its_names(tmp_path, kind, file_format, labeled):
    data.write(tmp_path, kind, file_format, channels=2 if labeled else 0)
    found = inspect_dataset(tmp_path)
    if kind == "grouped" and file_format == "h5":
        kind = "unpaired"  # the groups are in the keys, which are not read
    assert (found.kind, found.format, found.labeled) == (kind, file_format, labeled)
    counts = {"paired": 4, "unpaired": 4, "grouped": len(data.GROUP_SIZES)}
    assert found.count == (counts[kind] if file_format == "nifti" else 0)


def test_other_folders_are_not_taken_for_data(tmp_path):
    assert inspect_dataset(tmp_path / "nowhere") is None
    assert inspect_dataset(tmp_path) is None
    (tmp_path / "fixed_images").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert inspect_dataset(tmp_path) is None
    assert inspect_dataset(tmp_path / "file.txt") is None


SIZES = [(16, 16, 16), (64, 40, 33), (8, 9, 7), (200, 160, 128)]


@pytest.mark.parametrize("kind", data.KINDS)
def test_every_answer_gives_a_configuration_that_can_be_used(tmp_path, kind):
    offered = itertools.product(
        ("unet", "local", "keypoints", "global"), ("ddf", "dvf", "conditional"), SIZES
    )
    for number, (network, method, size) in enumerate(offered):
        if network in ("keypoints", "global") and method != "ddf":
            continue
        labeled = method == "conditional" or bool(number % 2)
        similarity = ("lncc", "ssd", "gmi")[number % 3]
        answers = {"kind": kind, "network": network, "method": method, "size": size, "labeled": labeled}
        made = TrainingPreset(str(tmp_path), "", **answers, similarity=similarity, channels=2)
        config = Config.from_dict(made.configuration())
        assert config.train.method == method and config.dataset.train.labeled == labeled
        assert config.dataset.valid is None
        used = [loss.name for loss in config.train.loss.image + config.train.loss.label]
        expected = [] if method == "conditional" else [similarity]
        assert used == expected + ["dice"] * labeled


@pytest.mark.parametrize("kind", data.KINDS)
def test_the_data_that_were_recognised_can_be_loaded(tmp_path, kind):
    data.write(tmp_path, kind, "nifti", channels=1)
    made = TrainingPreset(str(tmp_path), str(tmp_path), kind=kind, size=(16, 12, 10))
    values = made.configuration()
    for split in ("train", "valid"):
        loader = make_loader(values["dataset"], split)
        assert len(loader) and loader.labeled and tuple(loader.fixed_image_shape) == (16, 12, 10)


def test_what_a_preset_says_reaches_the_configuration():
    answers = {"epochs": 55, "learning_rate": 0.02, "batch_size": 3, "channels": 5, "augment": False}
    weights = {"image_weight": 0.0, "label_weight": 2.0, "smoothness_weight": 0.25}
    train = TrainingPreset("somewhere", method="ddf", **answers, **weights).configuration()["train"]
    assert (train["epochs"], train["save_period"]) == (55, 5)
    assert train["optimizer"] == {"name": "Adam", "learning_rate": 0.02}
    assert train["preprocess"]["batch_size"] == 3 and train["preprocess"]["data_augmentation"] is None
    assert train["backbone"]["num_channel_initial"] == 5
    assert "image" not in train["loss"]
    assert train["loss"]["label"]["weight"] == 2.0 and [
        part["weight"] for part in train["loss"]["regularization"]
    ] == [0.25, 2.5]


@pytest.mark.parametrize(
    ("size", "depth"),
    [
        ((8, 8, 8), 1),
        ((16, 99, 99), 1),
        ((31, 32, 33), 1),
        ((32, 40, 40), 2),
        ((64, 64, 64), 3),
        ((300,) * 3, 4),
    ],
)
def test_networks_halve_images_to_about_eight_voxels(size, depth):
    assert depth_for(size) == depth


@pytest.mark.parametrize("network", ["keypoints", "global"])
def test_the_first_steps_of_an_affine_network_leave_the_image_in_view(network):
    """The dense layer of a GlobalNet that halves as a U-Net does moves it out of view in three steps."""
    torch.manual_seed(0)
    made = TrainingPreset("", network=network, method="ddf", size=(40, 48, 40))
    model = DDFModel(made.configuration()["train"]["backbone"], made.size, made.size, labeled=False)
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATES[network])
    for _ in range(3):
        fixed, moving = torch.rand(2, 1, 1, *made.size)
        ddf = model(fixed, moving).ddf
        loss = (warp_image_ddf(moving, ddf) - fixed).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert 0 < model(fixed, moving).ddf.abs().max() < 10
