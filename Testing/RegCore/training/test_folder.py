"""The folder of a training: one training at a time, none goes on as another, nothing half on a full disk."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml

from RegCore.cli import main
from RegCore.losses import IMAGE_LOSSES
from RegCore.networks.model_file import read_model
from RegCore.space.geometry import InputError
from RegCore.training import train
from RegCore.training.config import load_config
from Testing.paths import ROOT
from Testing.RegCore.training.runs import configuration, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


@pytest.fixture
def done(pairs, tmp_path):
    """A training of one epoch of two, and the configuration of both."""
    config = configuration(pairs, epochs=2)
    return train(config, log_dir=tmp_path, exp_name="run", max_epochs=1)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"optimizer": {"name": "SGD", "learning_rate": 0.01}}, "train.optimizer"),
        ({"optimizer": {"name": "Adam", "learning_rate": 0.5}}, "train.optimizer"),
        ({"method": "dvf"}, "train.method"),
        (
            {"backbone": {"name": "unet", "num_channel_initial": 2, "depth": 2, "pooling": False}},
            "train.backbone",
        ),
        ({"labeled": False}, "whether there are labels"),
    ],
)
def test_a_training_does_not_go_on_as_another(pairs, done, changes, what):
    """Weights of another method or grid may fit, and averages of another optimiser be taken, or ignored."""
    before = (done.folder / "save" / "last.pt").read_bytes(), (done.folder / "config.yaml").read_text()
    with pytest.raises(InputError, match=f"last.pt: {what} was .* when this training began.*--start-from"):
        train(configuration(pairs, **changes), log_dir=done.folder.parent, exp_name="run", resume=True)
    assert (
        (done.folder / "save" / "last.pt").read_bytes(),
        (done.folder / "config.yaml").read_text(),
    ) == before


def test_a_training_does_not_go_on_with_another_grid(pairs, done):
    other = configuration(pairs).to_dict()
    other["dataset"]["fixed_image_shape"] = [8, 8, 8]
    path = done.folder.parent / "other.yaml"
    path.write_text(yaml.safe_dump(other))
    with pytest.raises(InputError, match=r"the shape of fixed images was \[12, 10, 11\]"):
        train(load_config([path]), log_dir=done.folder.parent, exp_name="run", resume=True)


def test_what_may_change_is_written_down(pairs, done):
    train(configuration(pairs, epochs=2), log_dir=done.folder.parent, exp_name="run", resume=True)
    train(configuration(pairs, epochs=3), log_dir=done.folder.parent, exp_name="run", resume=True)
    assert load_config([done.folder / "config.yaml"]).train.epochs == 3
    assert read_model(done.folder / "save" / "last.pt").config["train"]["epochs"] == 3


def test_two_trainings_never_share_a_folder(pairs, tmp_path):
    """Neither is the folder of one that runs moved aside, nor is it resumed; a killed one leaves no lock."""
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(configuration(pairs, epochs=100_000).to_dict()))
    command = [sys.executable, "-m", "RegCore", "train", str(path), "--out", str(tmp_path / "run"), "--quiet"]
    running = subprocess.Popen([*command, "--workers", "1"], cwd=ROOT)
    try:
        last = tmp_path / "run" / "save" / "last.pt"
        while not last.is_file() and running.poll() is None:
            time.sleep(0.01)
        for resume in (False, True):
            with pytest.raises(InputError, match="run: another training is running in this folder"):
                train(configuration(pairs), log_dir=tmp_path, exp_name="run", resume=resume)
        assert running.poll() is None and not (tmp_path / "run-1").exists()
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    train(configuration(pairs, epochs=100_000), log_dir=tmp_path, exp_name="run", resume=True, max_epochs=1)
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".ended"]


@pytest.fixture
def full_disk():
    """Files of this process can't grow beyond 20 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_said_and_leaves_no_half_checkpoint(pairs, tmp_path, full_disk):
    with pytest.raises(InputError, match="last.pt: can't be written"):
        train(configuration(pairs), log_dir=tmp_path, exp_name="run")
    assert not list((tmp_path / "run" / "save").iterdir())


def test_a_loss_that_is_not_one_value_per_sample_is_refused(pairs, tmp_path, monkeypatch):
    def mean_of_all(fixed, warped):
        return (fixed - warped).square().mean()

    monkeypatch.setitem(IMAGE_LOSSES, "mean_of_all", mean_of_all)
    config = configuration(pairs, loss={"image": {"name": "mean_of_all"}})
    with pytest.raises(
        InputError, match=r"the loss mean_of_all must give one value per sample, the shape \(2,\)"
    ):
        train(config, log_dir=tmp_path, exp_name="run")


def test_too_large_a_grid_is_a_sentence(pairs, tmp_path, capsys):
    config = configuration(pairs, labeled=False).to_dict()
    config["dataset"]["fixed_image_shape"] = [100_000, 100_000, 100_000]
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(tmp_path / "large.yaml"), "--out", str(tmp_path / "run"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "voxels" in error and "of memory" in error and "the largest that fits is" in error


def test_a_training_stopped_at_once_says_where_its_checkpoint_is(pairs, tmp_path):
    """Also without a name: the folder is then the time of day."""
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(configuration(pairs, epochs=100_000).to_dict()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "RegCore", "train", str(path)]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    while "validated" not in (running.stderr.readline() or "validated"):
        pass
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]
    (folder,) = (tmp_path / "logs").iterdir()
    assert running.returncode == 130
    assert f"go on with: regcore train --resume logs/{folder.name}\n" in said


def test_an_earlier_run_stays_in_place_when_the_new_one_can_not_begin(pairs, done, monkeypatch):
    """Two processes for one pair, say, are found out only when the batches are planned."""

    def refuse(*arguments, **options):
        raise InputError("no batches")

    monkeypatch.setattr("RegCore.training.prepare._batches", refuse)
    with pytest.raises(InputError, match="no batches"):
        train(configuration(pairs), log_dir=done.folder.parent, exp_name="run")
    assert (done.folder / "save" / "last.pt").is_file() and not done.folder.with_name("run-1").exists()
