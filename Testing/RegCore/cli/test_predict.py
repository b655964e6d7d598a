"""``regcore predict`` and ``deepreg_predict``: from the flags to the folder; a model as a method."""

import json

import numpy as np
import pytest

from RegCore.cli import deepreg, main
from RegCore.io import load, save
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.model_file import build, save_model
from RegCore.samples.phantom import make_phantom
from RegCore.space.volume import Volume
from Testing.RegCore.known_networks import Known, known
from Testing.RegCore.training.sets import configuration, figures, write_blobs

__all__ = ["known"]
UNET = {"name": "unet", "num_channel_initial": 1, "depth": 1}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder of a training as far as prediction needs it; the working directory is around it."""
    monkeypatch.chdir(tmp_path)
    write_blobs(tmp_path / "data")
    config = configuration(tmp_path / "data", backbone=UNET)
    (tmp_path / "logs" / "exp" / "save").mkdir(parents=True)
    config.dump(tmp_path / "logs" / "exp" / "config.yaml")
    sizes = config.dataset.fixed_image_shape, config.dataset.moving_image_shape
    save_model(tmp_path / "logs" / "exp" / "save" / "ckpt-2.pt", build(config.to_dict(), *sizes, True))
    return tmp_path


def test_deepregs_command_with_its_flags(trained, capsys):
    words = "-g= -k logs/exp/save/ckpt-2 --split test -n done --save_png --no_nifti -b 2"
    assert deepreg.predict(words.split()) == 0
    folder = trained / "logs" / "done" / "test"
    assert len(figures(folder / "metrics.csv")) == 4
    assert (folder / "pair_0" / "ddf" / "depth0_ddf.png").is_file() and not list(folder.rglob("*.nii.gz"))
    out = capsys.readouterr().out
    assert "logs/done/test: 2 pairs; Squared difference (SSD), mean: " in out
    assert "Dice on the network's grid: " in out


def test_our_command_with_a_configuration_of_other_data(trained, capsys):
    configuration(trained / "data", backbone=UNET, labeled=False).dump(trained / "other.yaml")
    words = (
        "predict logs/exp/save/ckpt-2.pt other.yaml --split valid --out results/first --device cpu --quiet"
    )
    assert main(words.split()) == 0
    folder = trained / "results" / "first" / "test"
    assert {line["label_index"] for line in figures(folder / "metrics.csv")} == {"-1"}
    assert (folder / "pair_1" / "transform.h5").is_file() and not list(folder.rglob("*.png"))
    assert capsys.readouterr().out == ""


def mine(folder, monkeypatch):
    """A model of the network that the plugin mine.py in the folder adds, which is not loaded yet."""
    monkeypatch.setitem(NETWORKS, "mine", Known)
    (folder / "mine.py").write_text(
        '"""A network."""\n'
        "from RegCore.training.plugins import register_backbone\n"
        "from Testing.RegCore.known_networks import Known\n"
        "register_backbone(name='mine', force=True)(Known)\n"
    )
    config = configuration(folder / "data", backbone={"name": "mine"})
    made = build(config.to_dict(), config.dataset.fixed_image_shape, config.dataset.moving_image_shape, True)
    monkeypatch.delitem(NETWORKS, "mine")
    return made


def test_parts_of_ones_own_come_from_a_plugin(trained, monkeypatch, capsys):
    save_model(trained / "model.pt", mine(trained, monkeypatch))
    words = "predict model.pt --out results/a --no-nifti --device cpu"
    assert main(words.split()) == 2
    assert "mine" in capsys.readouterr().err
    assert main([*words.split(), "--plugin", "mine.py"]) == 0


def test_complaints_are_one_sentence(trained, capsys):
    for words, sentence in {
        "predict logs/exp/save/ckpt-3": "logs/exp/save/ckpt-3: there is no such file",
        "predict logs/exp/save/ckpt-2 --split tset": "expected one of train, valid, test, did you mean test?",
        "predict logs/exp/save/ckpt-2 none.yaml": "none.yaml",
    }.items():
        assert main(words.split()) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert sentence.split(";")[0] in error, error


def test_a_conditional_model_without_labels_is_refused_in_one_sentence(trained, capsys):
    config = configuration(trained / "data", backbone=UNET, method="conditional")
    sizes = config.dataset.fixed_image_shape, config.dataset.moving_image_shape
    save_model(trained / "logs" / "exp" / "save" / "ckpt-2.pt", build(config.to_dict(), *sizes, True))
    text = config.text().replace("labeled: true", "labeled: false")
    (trained / "unlabeled.yaml").write_text(text)
    words = "-g= -k logs/exp/save/ckpt-2 --split test -n a -c unlabeled.yaml"
    code = deepreg.predict(words.split())
    lines = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    assert code == 2 and len(lines) == 1
    assert "the method conditional" in lines[0] and "label" in lines[0]
    assert not (trained / "logs" / "a").exists()


def test_register_takes_the_path_of_a_model_as_its_method(known, trained):
    save_model(trained / "model.pt", known())
    case = make_phantom(1, fixed_shape=(14, 12, 13), moving_shape=(13, 12, 14))
    for name in ("fixed", "moving"):
        save(getattr(case, name), trained / f"{name}.nii.gz")
    words = "register --fixed fixed.nii.gz --moving moving.nii.gz --device cpu --quiet"
    assert main([*words.split(), "--method", "model.pt", "--out", "out"]) == 0
    assert json.loads((trained / "out" / "metrics.json").read_text())["method"] == "model.pt"
    assert np.abs(load(trained / "out" / "transform.h5").mm).max() > 1


def test_register_loads_the_parts_that_a_model_needs_and_lays_box_on_box(trained, monkeypatch, capsys):
    save_model(trained / "model.pt", mine(trained, monkeypatch))
    case = make_phantom(1, fixed_shape=(14, 12, 13), moving_shape=(13, 12, 14))
    far = np.eye(4)
    far[0, 3] = 5000
    save(case.fixed, trained / "fixed.nii.gz")
    save(Volume(case.moving.array, case.moving.geometry.moved(far)), trained / "moving.nii.gz")
    words = "register --fixed fixed.nii.gz --moving moving.nii.gz --device cpu --quiet --out out"
    words += " --method ./model.pt"
    assert main(words.split()) == 2
    assert "mine" in capsys.readouterr().err
    assert main([*words.split(), "--plugin", "mine.py"]) == 0
    assert load(trained / "out" / "transform.h5").mm[..., 0].mean() > 4000
