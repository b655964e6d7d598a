"""A training that goes on without Slicer, or that another program does: the Train panel finds it."""

import subprocess
import sys

import psutil
import pytest

from Testing.Slicer.test_train_panel import REAL, STAND_IN, Train


@pytest.fixture
def train(host, library, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library("process"), "worker_command", lambda: STAND_IN)
    yield Train(host, tmp_path / "results")
    for run in list(library("training")._running):
        run.detach()


@pytest.fixture
def real(train, library, monkeypatch):
    monkeypatch.setattr(library("process"), "worker_command", lambda: REAL)
    return train


def test_a_training_that_goes_on_without_slicer_is_shown_when_the_module_opens_again(real, pairs):
    ui = real.fill(pairs, epochs=100_000).ui
    ui.staysCheckBox.checked = True
    ui.trainButton.click()
    real.until_epoch(1)
    child = psutil.Process(real.panel.run._worker.process_id)
    real.host.close_module(real.module)
    real.host.close_scene()
    again = real.open()
    ui, epoch = again.ui, len(again.panel.run.history)
    assert again.status == "The training 'training-1' goes on." and child.is_running()
    assert ui.trainButton.toolTip == "A training is running" and not ui.trainButton.enabled
    assert ui.stopButton.enabled and not ui.resumeButton.enabled and ui.staysCheckBox.checked
    again.until_epoch(epoch + 1)
    assert again.rows() > epoch and again.tabs.tabText(1).startswith("Train (")
    assert int(ui.epochValue.text.split(" / ")[0]) > epoch and ui.epochValue.text.endswith(" / 100000")
    ui.stopButton.click()
    assert not ui.stopButton.enabled and ui.stopButton.text == "Stop"
    assert again.finish() == "Stopped. Resume goes on from the checkpoint."
    assert ui.resumeButton.enabled and ui.trainButton.enabled
    child.wait(timeout=20)
    real.host.close_module(again.module)
    assert real.open().status.startswith("The training 'training-1' was stopped after")


def test_a_name_under_which_a_training_runs_elsewhere_shows_it(train, pairs):
    (folder := train.results / "other").mkdir(parents=True)
    words = "held = presence.Presence(Path(sys.argv[1])); print(0, flush=True); input(); held.release('odd')"
    code = f"import sys; from pathlib import Path; from RegCore.training import presence; {words}"
    other = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=-1, stdout=-1)
    try:
        other.stdout.readline()
        ui = train.fill(pairs).ui
        assert ui.trainButton.enabled
        ui.nameEdit.text = "other"
        assert train.status == "The training 'other' goes on." and not ui.trainButton.enabled
        other.communicate(b"\n", timeout=10)
        assert train.finish() == (
            "odd What was trained until the last checkpoint is kept: resume the training to go on from it."
        )
        assert ui.trainButton.enabled
    finally:
        other.kill()
        other.communicate()
