"""``regcore train --data``: a folder of data and options in place of a YAML file."""

import pytest

from RegCore import cli
from RegCore.training import loop, presets
from Testing.RegCore.training.runs import write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_pairs(folder)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What the command asks `RegCore.training.train` for: the configuration and the options."""
    seen = []

    def train(config, **options):
        seen.append((config, options))
        return loop.Trained(None, None, [], "finished")

    monkeypatch.setattr("RegCore.training.train", train, raising=False)
    return seen


def test_a_folder_alone_is_enough(pairs, asked, tmp_path):
    assert cli.main(["train", "--data", str(pairs), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    config, options = asked[0]
    assert config.to_dict() == presets.TrainingPreset(str(pairs)).configuration()
    assert (options["log_dir"], options["exp_name"]) == (tmp_path, "run")


def test_every_option_reaches_the_configuration(pairs, asked):
    words = f"train --quiet --data {pairs} --valid {pairs} --kind unpaired --no-labels --network global"
    words += " --method ddf --size 12 10 11 --epochs 7 --similarity gmi --image-weight 2 --label-weight 3"
    words += " --smoothness-weight 0.25 --batch-size 3 --channels 5 --no-augment"
    assert cli.main(words.split()) == 0
    expected = presets.TrainingPreset(
        train=str(pairs),
        valid=str(pairs),
        kind="unpaired",
        labeled=False,
        network="global",
        method="ddf",
        size=(12, 10, 11),
        epochs=7,
        learning_rate=2e-6,
        similarity="gmi",
        image_weight=2.0,
        label_weight=3.0,
        smoothness_weight=0.25,
        batch_size=3,
        channels=5,
        augment=False,
    )
    assert asked[0][0].to_dict() == expected.configuration()


@pytest.mark.parametrize("network", ["unet", "local", "keypoints", "global"])
def test_a_network_alone_brings_what_suits_it(pairs, asked, network):
    assert cli.main(["train", "--quiet", "--data", str(pairs), "--network", network, "--size", *"888"]) == 0
    train = asked[0][0].train
    assert train.method == ("ddf" if network in ("keypoints", "global") else "dvf")
    assert train.optimizer.options["learning_rate"] == presets.LEARNING_RATES[network]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "a folder of --data"),
        ("--epochs 3", "--epochs goes with --data"),
        ("mine.yaml --no-labels", "--no-labels goes with --data"),
        ("--data {pairs} mine.yaml", "neither YAML files nor --resume"),
        ("--data {pairs}/fixed_images", "holds neither images nor fixed_images"),
        ("--data {pairs} --valid {pairs}/nowhere", "nowhere: this folder holds neither"),
        ("--data {pairs} --network unte", "did you mean unet?"),
    ],
)
def test_what_can_not_be_used_is_said_in_one_sentence(pairs, asked, capsys, words, sentence):
    assert cli.main(["train", *words.format(pairs=pairs).split()]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not asked
