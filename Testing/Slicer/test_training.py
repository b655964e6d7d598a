"""Trainings started from Slicer's console: in a process of their own, stopped, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from RegCore.networks.model_file import read_content, read_model
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.training.history import best_epoch
from Testing.RegCore.training.runs import configuration, write_pairs

STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in_worker.py"))]
REAL = [sys.executable, "-m", "RegCore", "worker"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


@pytest.fixture
def training(library, monkeypatch):
    """The module under test; its processes are stand-ins, real ones with `training.real()`."""
    process = library("process")
    monkeypatch.setattr(process, "worker_command", lambda: STAND_IN)
    made = library("training")
    monkeypatch.setattr(
        made, "real", lambda: monkeypatch.setattr(process, "worker_command", lambda: REAL), raising=False
    )
    yield made
    for run in list(made._running):
        run.detach()


class Told:
    """What a training told on its way."""

    def __init__(self, stop_after: int = 0):
        self.events, self.stop_after = [], stop_after

    def __call__(self, fraction, stage, values):
        self.events.append((fraction, stage, values))
        if self.stop_after and len(self.epochs()) >= self.stop_after:
            raise Cancelled

    def epochs(self) -> list[int]:
        return [values["epoch"] for _, _, values in self.events if "learning_rate" in values]


def pid_of(run) -> int:
    return run._worker.process_id


def test_a_real_training_from_files_stopped_by_its_progress_and_resumed(host, training, pairs, tmp_path):
    """Two YAML files, merged; the second call goes on with what the first kept."""
    training.real()
    values = configuration(pairs, epochs=5, save_period=5).to_dict()
    for name in ("dataset", "train"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({name: values[name]}))
    files = [tmp_path / "dataset.yaml", tmp_path / "train.yaml"]
    told = Told(stop_after=2)
    with pytest.raises(training.TrainingStopped):
        training.train(files, tmp_path / "run", progress=told, device="cpu")
    done = len(told.epochs())
    assert done < 5 and training.can_resume(tmp_path / "run")
    assert [row["epoch"] for row in training.read_history(tmp_path / "run")] == told.epochs()
    again = Told()
    result = training.train(None, tmp_path / "run", resume=True, progress=again, device="cpu")
    assert told.epochs() + again.epochs() == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5] and result.ended == "finished"
    assert result.folder == tmp_path / "run" and result.method == "ddf"
    assert result.model == training.model_in(tmp_path / "run")
    assert read_model(result.model).labeled
    kept = training.read_history(result.folder)
    assert [row["val_loss"] for row in kept] == pytest.approx([row["val_loss"] for row in result.history])
    assert best_epoch(kept)["val_loss"] == min(row["val_loss"] for row in kept)


def test_an_error_of_the_configuration_is_its_sentence(host, training, tmp_path):
    training.real()
    (tmp_path / "bad.yaml").write_text("dataset: {type: piared}\ntrain: {}\n")
    with pytest.raises(training.TrainingError, match="bad.yaml, line 1: dataset.type is 'piared'.*paired"):
        training.train(tmp_path / "bad.yaml", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_makes_no_sense_is_refused_at_once(host, training, tmp_path):
    with pytest.raises(InputError, match="needs a configuration"):
        training.train(None, tmp_path / "run")
    run = training.train({}, tmp_path / "run", wait=False)
    with pytest.raises(InputError, match="a training is under way in this folder"):
        training.train({}, tmp_path / "run", wait=False)
    other = training.train({}, tmp_path / "other", wait=False)
    assert run.wait().ended == other.wait().ended == "finished"


def test_the_process_goes_when_the_training_is_over(host, training, tmp_path):
    run = training.train({}, tmp_path / "run", wait=False)
    child = psutil.Process(pid_of(run))
    run.wait()
    child.wait(timeout=5)
    assert training._running == []


def test_stopping_waits_for_the_step(host, training, tmp_path):
    told, ends = Told(), []
    run = training.train({}, tmp_path / "run", max_epochs=1000, wait=False, progress=told, done=ends.append)
    assert host.spin(20, until=lambda: len(run.history) >= 2)
    run.stop()
    assert host.spin(10, until=lambda: not run.running)
    assert isinstance(run.error, training.TrainingStopped) and ends == [run]
    assert training.can_resume(run.folder)
    assert [row["epoch"] for row in run.history] == told.epochs()


def test_a_training_that_does_not_listen_is_ended_by_the_second_stop(host, training, tmp_path):
    run = training.train({}, tmp_path / "deaf-1", wait=False)
    assert host.spin(20, until=lambda: len(run.history) >= 2)
    time.sleep(0.2)
    child = psutil.Process(pid_of(run))
    run.stop()
    assert not host.spin(1.5, until=lambda: not run.running)  # a registration would be over by now
    run.stop()
    assert isinstance(run.error, training.TrainingStopped)
    child.wait(timeout=3)


@pytest.mark.parametrize("how", ["crash-1", "kill"])
def test_a_training_whose_process_dies_says_so_and_what_is_left(host, training, tmp_path, how):
    run = training.train({}, tmp_path / how, max_epochs=1000, wait=False)
    assert host.spin(20, until=lambda: len(run.history) >= 2)
    if how == "kill":
        os.kill(pid_of(run), signal.SIGKILL)
    assert host.spin(10, until=lambda: not run.running)
    text = str(run.error)
    assert text.startswith("The computing process ended unexpectedly")
    assert text.endswith("resume the training to go on from it.")


def test_who_leaves_a_training_finds_its_checkpoint_later(host, training, pairs, tmp_path):
    """As when Slicer quits: nobody waits, the real process finishes its step and ends by itself."""
    training.real()
    config = configuration(pairs, epochs=1000, save_period=1000).to_dict()
    run = training.train(config, tmp_path / "run", wait=False, device="cpu", done=lambda run: 1 / 0)
    assert host.spin(60, until=lambda: len(run.history) >= 1)
    child = psutil.Process(pid_of(run))
    run.detach()
    assert not run.running
    child.wait(timeout=20)
    state = read_content(tmp_path / "run" / "save" / "last.pt")["training"]["state"]
    assert state["position"]["epoch"] >= 1


def test_a_training_that_stays_goes_on_and_is_found_again(host, training, pairs, tmp_path):
    """As when Slicer is closed and started again: only the folder knows of it; then it is asked to stop."""
    training.real()
    config = configuration(pairs, epochs=100_000, save_period=1000).to_dict()
    run = training.train(config, tmp_path / "run", wait=False, device="cpu", stays=True)
    assert host.spin(60, until=lambda: len(run.history) >= 1)
    child = psutil.Process(pid_of(run))
    run.detach()
    assert not run.running and training._running == []
    with pytest.raises(training.TrainingError, match="another training is running in this folder"):
        training.train(config, tmp_path / "run", device="cpu", resume=True)
    told, ends = Told(), []
    found = training.follow(tmp_path / "run", progress=told, done=ends.append)
    assert training.follow(tmp_path / "run") is None  # one who looks after it is enough
    with pytest.raises(InputError, match="under way in this folder"):
        training.train(config, tmp_path / "run", device="cpu")
    before = len(found.history)
    assert host.spin(60, until=lambda: len(told.epochs()) >= 2) and child.is_running()
    assert len(found.history) > before >= 1
    assert all(values["epochs"] == 100_000 for _, _, values in told.events)
    found.stop()
    assert host.spin(60, until=lambda: not found.running)
    assert isinstance(found.error, training.TrainingStopped) and ends == [found]
    assert training.can_resume(found.folder) and training.follow(found.folder) is None
    child.wait(timeout=20)
    assert training._running == []


def test_a_training_that_is_followed_ends_with_its_model_or_a_sentence(host, training, pairs, tmp_path):
    training.real()
    config = configuration(pairs, epochs=100_000, save_period=1000).to_dict()

    def followed(name, config, most=None):
        run = training.train(config, tmp_path / name, wait=False, device="cpu", max_epochs=most, stays=True)
        assert host.spin(60, until=lambda: len(run.history) >= 1)
        process = pid_of(run)
        run.detach()
        found = training.follow(tmp_path / name)
        assert found is not None
        return found, process

    found, _ = followed("whole", config, 150)
    assert host.spin(100, until=lambda: not found.running)
    assert found.result.ended == "finished" and len(found.result.history) == 150
    assert read_model(found.result.model) is not None
    found, process = followed("killed", config)
    os.killpg(process, signal.SIGKILL)
    assert host.spin(20, until=lambda: not found.running)
    assert str(found.error) == f"The training failed. {training.AFTER_DEATH}"


def test_a_training_of_the_command_line_is_followed_too(host, training, pairs, tmp_path):
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(configuration(pairs, epochs=100_000).to_dict()))
    words = ["train", tmp_path / "long.yaml", "--out", tmp_path / "run", "--quiet", "--device", "cpu"]
    command = subprocess.Popen([*REAL[:3], *map(str, words)], stderr=-1, text=True)
    try:
        assert host.spin(60, until=lambda: training.read_history(tmp_path / "run"))
        found = training.follow(tmp_path / "run", progress=Told(stop_after=1))
        assert host.spin(60, until=lambda: not found.running)
        assert isinstance(found.error, training.TrainingStopped)
        assert "go on with: regcore train --resume" in command.communicate(timeout=30)[1]
        assert command.returncode == 130
    finally:
        command.kill()
        command.communicate()


def test_a_new_training_never_gets_the_folder_of_another(training, tmp_path):
    assert training.unused_folder(tmp_path / "liver") == tmp_path / "liver"
    (tmp_path / "liver").mkdir()
    assert training.unused_folder(tmp_path / "liver") == tmp_path / "liver"
    (tmp_path / "liver" / "config.yaml").touch()
    assert training.unused_folder(tmp_path / "liver") == tmp_path / "liver-2"
    (tmp_path / "liver-2").write_text("a file")
    assert (
        training.unused_folder(tmp_path / "liver")
        == training.unused_folder(tmp_path / "liver-2")
        == tmp_path / "liver-3"
    )


def test_a_damaged_table_of_figures_is_no_history(training, tmp_path):
    assert training.read_history(tmp_path) == []
    for text in ("epoch,loss\n1,x\n", "a,b\n1,2\n", "epoch,loss\n,2\n", "epoch\n1\n"):
        (tmp_path / "metrics.csv").write_text(text)
        assert training.read_history(tmp_path) == []
    (tmp_path / "metrics.csv").write_text("epoch,loss,val_loss\n1,0.5,\n2,0.4,0.3\n")
    assert training.read_history(tmp_path) == [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": 0.4, "val_loss": 0.3},
    ]
