"""The folder of a training: one training at a time, none goes on as another, nothing half on a full disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import yaml

from RegCore.cli import main
from RegCore.losses import IMAGE_LOSSES
from RegCore.networks.model_file import read_model
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.training import train
from RegCore.training.config import load_config
from RegCore.training.predict import predict
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


class Noon:
    """In place of `datetime`: it is always the same moment."""

    @staticmethod
    def now():
        return datetime(2026, 3, 1, 12, 0, 0)


@pytest.fixture
def at_noon(monkeypatch):
    monkeypatch.setattr("RegCore.io.files.datetime", Noon)


def test_trainings_and_predictions_of_one_moment_get_folders_of_their_own(pairs, tmp_path, at_noon):
    """The second one while the first is running, the third when both have ended."""
    config, others = configuration(pairs, epochs=1), []

    def begin_another(fraction, text, values):
        if not others:
            others.append(None)
            others[0] = train(config, log_dir=tmp_path)

    first = train(config, log_dir=tmp_path, progress=begin_another)
    third = train(config, log_dir=tmp_path)
    names = [run.folder.name for run in (first, others[0], third)]
    assert names == ["20260301-120000", "20260301-120000-1", "20260301-120000-2"]
    assert all((tmp_path / name / "save" / "best.pt").is_file() for name in names)
    for number in (3, 4):
        done = predict(first.model, config, split="valid", log_dir=tmp_path, save_nifti=False)
        assert done.folder == tmp_path / f"20260301-120000-{number}" / "test"


def test_what_fails_without_a_name_leaves_no_folder(pairs, done, tmp_path, at_noon):
    with pytest.raises(InputError, match="there is no such checkpoint"):
        train(configuration(pairs), log_dir=tmp_path / "logs", start_from=tmp_path / "none")
    with pytest.raises(InputError, match="no interrupted training here"):
        train(configuration(pairs), log_dir=tmp_path / "logs", resume=True)
    with pytest.raises(Cancelled):
        predict(done.model, split="valid", log_dir=tmp_path / "logs", progress=raising(Cancelled))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (tmp_path / "logs").write_text("")
    for start in (train, partial(predict, done.model, split="valid")):
        with pytest.raises(InputError, match="logs/20260301-120000: the folder can't be made"):
            start(config=configuration(pairs), log_dir=tmp_path / "logs")


def raising(error):
    def raised(*event):
        raise error

    return raised


def test_the_command_names_the_folder_that_it_has(pairs, tmp_path, at_noon, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(configuration(pairs, epochs=1).to_dict()))
    for name in ("20260301-120000", "20260301-120000-1"):
        assert main(["train", "run.yaml", "--device", "cpu"]) == 0
        assert f"logs/{name}: finished" in capsys.readouterr().out
    assert main(["train", "run.yaml", "--start-from", "none", "--quiet"]) == 2
    assert sorted(path.name for path in Path("logs").iterdir()) == ["20260301-120000", "20260301-120000-1"]


BEGIN = """
import sys, time
from pathlib import Path
from RegCore.training import folder
hold = folder.RunFolder._hold
folder.RunFolder._hold = lambda self: (time.sleep(0.5), hold(self))  # what may happen meanwhile, happens
run = folder.RunFolder(Path(sys.argv[1]), folder.Group("cpu"))
print("ready", flush=True)
sys.stdin.readline()
try:
    run.make()
    print("made", flush=True)
except folder.InputError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def test_of_two_trainings_that_begin_at_once_in_one_folder_the_second_is_refused(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BEGIN, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        said = sorted(process.stdout.readline() for process in both)
    finally:
        for process in both:
            process.communicate("\n")
    assert "another training is running in this folder" in said[0] and said[1] == "made\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
