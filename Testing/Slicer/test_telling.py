"""What the module tells besides: Slicer's status bar, the device, the detailed log, files that are kept."""

import re
from pathlib import Path

import pytest

from Testing.Slicer.test_panel import Panel


@pytest.fixture
def panel(host, library, stand_in, monkeypatch):
    return Panel(host, library, monkeypatch).choose()


def test_the_status_bar_says_how_far_it_is_and_how_it_ended(panel, status_bar):
    panel.settings = {"steps": 20, "seconds": 0.02}
    panel.ui.registerButton.click()
    panel.finish()
    shown = [re.fullmatch(r"DeepRegSlicer: (\d+) %, stage \w+", text) for text in status_bar]
    percents = [int(match[1]) for match in shown if match]
    assert len(percents) > 3 and percents == sorted(percents)
    assert status_bar[-1].startswith("DeepRegSlicer: Done in")
    panel.start()
    panel.ui.cancelButton.click()
    panel.finish()
    assert status_bar[-1] == "DeepRegSlicer: Cancelled. The scene is as it was."


def test_it_says_nothing_of_a_module_that_was_closed(panel, status_bar):
    panel.start()
    assert panel.host.spin(10, until=lambda: status_bar)
    panel.host.close_module(panel.module)
    panel.host.spin(0.2)
    assert status_bar[-1] == ""


def test_it_says_when_a_map_or_a_card_is_there(panel, status_bar, tmp_path):
    panel.register()
    panel.module.widget.panel.checking.ui.mapsButton.click()
    panel.finish()
    assert status_bar[-1].startswith("DeepRegSlicer: The maps are 'M to F Jacobian'")
    models = panel.module.widget.tabs.models
    models.ui.modelFilePath.currentPath = str(tmp_path / "none.pt")
    models.ui.importButton.click()
    assert panel.host.spin(60, until=lambda: models.run is None)
    assert re.fullmatch(r"DeepRegSlicer: \d+ %, .+", status_bar[-2]) and "none.pt" in status_bar[-1]


def test_without_a_main_window_nothing_is_missed(panel):
    assert panel.register().startswith("Done")


def test_the_device_in_use_is_said(panel):
    assert re.match(r"Done in \d+\.\d s \(CPU\)\. The result is in 'M to F'\.", panel.register())
    assert "Device: CPU" in panel.ui.logText.plainText
    told = panel.module.widget.panel.checking.shown.settings
    assert ("Computed on", "CPU") in told and ("Device", "Automatic") in told


def test_what_the_process_prints_is_in_the_log_if_it_is_asked_for(panel):
    panel.settings = {"say": "a word from a package"}
    panel.ui.registerButton.click()
    panel.finish()
    assert "a word from a package" not in panel.ui.logText.plainText
    panel.ui.detailedLogCheckBox.checked = True
    panel.settings = {"say": "another word"}
    panel.ui.registerButton.click()
    panel.finish()
    text = panel.ui.logText.plainText
    assert "another word" in text and "a word from a package" not in text


@pytest.mark.parametrize("play", ["shift", "input"])
def test_files_are_kept_if_it_is_asked_for(panel, library, tmp_path, monkeypatch, play):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    panel.settings = {"play": play}
    panel.ui.registerButton.click()
    panel.finish()
    assert list(tmp_path.iterdir()) == []
    panel.ui.keepFilesCheckBox.checked = True
    panel.ui.registerButton.click()
    panel.finish()
    (folder,) = tmp_path.iterdir()
    assert folder.name == "DeepRegSlicer files 1"
    assert f"The temporary files are kept in {folder}" in panel.ui.logText.plainText
    from RegCore.io import messages

    assert messages.read(folder / "request.npz")["fixed"].array.shape == (14, 16, 12)
    assert (folder / "result.npz").is_file() == (play == "shift")
    assert not (folder / "lock").exists()
    panel.ui.keepFilesCheckBox.checked = False
    panel.ui.registerButton.click()
    panel.finish()
    assert list(Path(tmp_path).iterdir()) == [folder]
