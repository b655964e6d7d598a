"""The Train panel with its shipped .ui file, used as a user does: fill in, train, watch, stop, resume."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from RegCore.networks.model_file import read_content
from RegCore.training.config import Config, load_config
from RegCore.training.presets import TrainingPreset
from Testing.RegCore.training.runs import configuration, write_pairs

MODULE = Path(__file__).resolve().parents[2] / "DeepRegSlicer" / "DeepRegSlicer.py"
STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in_worker.py"))]
REAL = [sys.executable, "-m", "RegCore", "worker"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_pairs(folder)
    return folder


class Train:
    """The open module with the tab Train before it, and results in a folder of the test."""

    def __init__(self, host, results: Path):
        self.host, self.results = host, results
        self.open()
        self.ui.resultsPath.currentPath = str(results)

    def open(self):
        self.module = self.host.load_module(MODULE)
        self.panel = self.module.widget.trainPanel
        self.ui, self.tabs = self.panel.ui, self.module.ui.tabs
        self.tabs.currentIndex = 1
        return self

    @property
    def status(self) -> str:
        return self.ui.trainStatusLabel.text

    def fill(self, pairs: Path, epochs: int = 4):
        """The form, for a network that learns in seconds."""
        ui = self.ui
        ui.trainPath.currentPath = str(pairs)
        for letter, size in zip("IJK", (12, 10, 11), strict=True):
            getattr(ui, f"size{letter}SpinBox").value = size
        ui.epochsSpinBox.value, ui.channelsSpinBox.value = epochs, 2
        ui.trainDeviceSelector.currentIndex = ui.trainDeviceSelector.findData("cpu")
        return self

    def until_epoch(self, number: int):
        run = self.panel.run
        assert self.host.spin(60, until=lambda: len(run.history) >= number or not run.running)
        assert run.running, self.status
        return self

    def finish(self, seconds: float = 60) -> str:
        assert self.host.spin(seconds, until=lambda: self.panel.run is None)
        return self.status

    def plots(self) -> dict[str, int]:
        """How many nodes of each kind the charts in the scene have."""
        kinds = ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode")
        return {kind[7:-4]: self.host.scene.GetNumberOfNodesByClass(kind) for kind in kinds}

    def rows(self) -> int:
        """How many epochs the first table in the scene holds."""
        return self.host.scene.GetFirstNodeByClass("vtkMRMLTableNode").GetNumberOfRows()


@pytest.fixture
def train(host, library, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(library("process"), "worker_command", lambda: STAND_IN)
    made = Train(host, tmp_path / "results")
    yield made
    for run in list(library("training")._running):
        run.detach()


@pytest.fixture
def real(train, library, monkeypatch):
    """The same with RegCore itself in the child processes."""
    monkeypatch.setattr(library("process"), "worker_command", lambda: REAL)
    monkeypatch.setattr(library("process"), "_shared", None)
    yield train
    library("process").stop_shared_worker()


def test_from_the_form_to_a_model_that_registers(real, pairs):
    """A real training in its process; stopped, resumed; then a real registration with what it learned."""
    from Testing.Slicer import scenes

    ui = real.fill(pairs, epochs=1000).ui
    ui.validPath.currentPath = str(pairs)
    ui.trainButton.click()
    assert not ui.trainButton.enabled and ui.trainButton.toolTip == "A training is running"
    real.until_epoch(2)
    assert ui.stopButton.enabled and not ui.resumeButton.enabled
    assert ui.epochValue.text.endswith("/ 1000") and float(ui.lossValue.text) and ":" in ui.leftValue.text
    assert "best" in ui.validationValue.text and real.tabs.tabText(1).startswith("Train (")
    assert real.plots() == {"PlotChart": 1, "PlotSeries": 2, "Table": 1}
    ui.stopButton.click()
    assert real.finish() == "Stopped. Resume goes on from the checkpoint."
    folder = real.results / "training-1"
    done = read_content(folder / "save" / "last.pt")["training"]["state"]["position"]["epoch"]
    written = load_config(folder / "config.yaml").to_dict()
    written["train"]["epochs"] = done + 2  # as a user may do by hand
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    assert ui.nameEdit.text == "training-1" and ui.resumeButton.enabled
    ui.resumeButton.click()
    assert real.finish().startswith("Finished. Epoch ") and f" of {done + 2} is the best" in real.status
    assert real.rows() == done + 2 and real.plots() == {"PlotChart": 1, "PlotSeries": 2, "Table": 1}
    assert real.tabs.tabText(1) == "Train" and not ui.trainProgressBar.visible
    ui.useModelButton.click()
    register = real.module.ui
    assert real.tabs.currentIndex == 0 and register.modelPath.currentPath == str(folder / "save" / "best.pt")
    register.fixedVolumeSelector.setCurrentNode(scenes.volume("F"))
    register.movingVolumeSelector.setCurrentNode(scenes.volume("M", (11, 9, 13), scenes.MOVING))
    register.registerButton.click()
    assert real.host.spin(60, until=lambda: real.module.widget.panel.run is None)
    assert register.statusLabel.text.startswith("Done in"), register.statusLabel.text
    node = real.module.widget.panel.parameters.outputTransform
    assert node.GetClassName() == "vtkMRMLGridTransformNode" and node.GetName() == "M to F"


def test_a_wrong_yaml_file_is_said_in_one_sentence_and_a_right_one_trains(real, pairs, tmp_path):
    ui = real.ui
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("yaml")
    assert ui.trainButton.toolTip == "Choose a YAML file"
    values = configuration(pairs, epochs=2).to_dict()
    values["dataset"]["train"]["dir"] = values["dataset"]["valid"]["dir"] = pairs.name
    values["train"]["epoch"] = values["train"].pop("epochs")
    file = pairs.parent / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    ui.yamlPath.currentPath = str(file)
    ui.trainButton.click()
    text = real.finish()
    assert text.startswith(f"{file}, line ") and text.endswith("did you mean epochs?")
    assert text in ui.trainLogText.plainText and not real.results.exists()
    assert ui.trainButton.enabled and not ui.resumeButton.enabled
    values["train"]["epochs"] = values["train"].pop("epoch")
    file.write_text(yaml.safe_dump(values))
    ui.maxEpochsSpinBox.value = 1
    ui.trainButton.click()
    assert real.finish().startswith("Finished. Epoch 1 of 1")
    assert load_config(real.results / "training-1" / "config.yaml").dataset.train.dir == str(pairs)


def test_train_says_what_it_waits_for(train, pairs):
    ui = train.ui
    assert not ui.trainButton.enabled and not ui.stopButton.enabled and not ui.resumeButton.enabled
    assert train.status == "Choose a folder of training data" == ui.trainButton.toolTip
    assert not ui.progressSection.visible and not ui.useModelButton.enabled
    ui.trainPath.currentPath = str(pairs)
    assert ui.trainButton.enabled
    ui.outputSelector.currentIndex = ui.outputSelector.findData("conditional")
    ui.labelsCheckBox.checked = False
    assert ui.trainButton.toolTip == "Only a training with labels can predict labels alone"
    ui.labelsCheckBox.checked = True
    ui.resultsPath.currentPath = ""
    assert ui.trainButton.toolTip == "Choose a folder for the results"


def test_a_fresh_form_has_the_defaults_of_the_preset(train):
    assert train.panel.form.preset() == TrainingPreset(train="")


def test_the_form_follows_what_the_folder_holds(train, pairs, tmp_path):
    ui = train.ui
    ui.trainPath.currentPath = str(pairs)
    assert ui.foundLabel.text == "Found: 5 pairs, with labels"
    assert ui.kindSelector.itemData(ui.kindSelector.currentIndex) == "paired" and ui.labelsCheckBox.checked
    for group in ("a", "b"):
        (tmp_path / "other" / "images" / group).mkdir(parents=True)
    ui.trainPath.currentPath = str(tmp_path / "other")
    assert ui.foundLabel.text == "Found: 2 groups, without labels"
    assert ui.kindSelector.itemData(ui.kindSelector.currentIndex) == "grouped"
    assert not ui.labelsCheckBox.checked
    ui.trainPath.currentPath = str(tmp_path)
    assert "neither images nor" in ui.foundLabel.text
    ui.trainPath.currentPath = ""
    assert ui.foundLabel.text == ""


def test_only_the_rows_of_the_chosen_settings_are_seen(train):
    ui = train.ui
    train.module.panel.show()
    form = (ui.trainPath, ui.kindSelector, ui.networkSection)
    assert all(widget.visible for widget in form) and not ui.yamlPath.visible
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("yaml")
    assert not any(widget.visible for widget in form) and ui.yamlPath.visible and ui.yamlPathLabel.visible


def test_the_panel_needs_the_height_of_the_tab_that_is_seen(train):
    train.module.panel.show()
    heights = []
    for place in (0, 1, 0):
        train.tabs.currentIndex = place
        train.host.spin(0.05)
        heights.append(train.module.panel.layout().minimumSize().height())
    assert heights[0] == heights[2] < heights[1] - 100


def test_a_network_brings_its_learning_rate_and_its_field(train):
    ui = train.ui
    for network, output, rate in (("global", "ddf", 2e-6), ("keypoints", "ddf", 4e-3), ("unet", "dvf", 4e-3)):
        ui.networkSelector.currentIndex = ui.networkSelector.findData(network)
        assert ui.rateSpinBox.value == pytest.approx(rate)
        assert ui.outputSelector.itemData(ui.outputSelector.currentIndex) == output


def test_what_the_form_says_is_what_is_asked_for(train, pairs, library, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        library("panels.train"), "train", lambda *given, **named: seen.update(given=given, **named)
    )
    ui = train.fill(pairs, epochs=9).ui
    ui.nameEdit.text = "liver"
    ui.startPath.currentPath = "/models/first.pt"
    ui.maxEpochsSpinBox.value = 3
    ui.smoothnessWeightSpinBox.value = 0.25
    ui.trainButton.click()
    config, folder = seen["given"]
    assert folder == train.results / "liver"
    assert (seen["start_from"], seen["max_epochs"], seen["device"]) == ("/models/first.pt", 3, "cpu")
    assert config["dataset"]["fixed_image_shape"] == [12, 10, 11] and config["train"]["epochs"] == 9
    assert config["dataset"]["train"] == {"dir": str(pairs), "format": "nifti", "labeled": True}
    assert config["train"]["loss"]["regularization"] == [{"name": "bending", "weight": 0.25}]


def test_the_command_line_makes_the_same_configuration(train, pairs, library, monkeypatch, tmp_path):
    from RegCore import cli

    seen, trained = [], []
    asked = lambda config, *more, **options: seen.append(config)  # noqa: E731
    monkeypatch.setattr(library("panels.train"), "train", asked)
    stopped = SimpleNamespace(best=None)
    record = lambda config, **more: trained.append(config) or stopped  # noqa: E731
    monkeypatch.setattr("RegCore.training.train", record, raising=False)
    ui = train.fill(pairs, epochs=9).ui
    ui.validPath.currentPath = str(pairs)
    ui.networkSelector.currentIndex = ui.networkSelector.findData("unet")
    ui.similaritySelector.currentIndex = ui.similaritySelector.findData("ssd")
    ui.augmentCheckBox.checked = False
    ui.trainButton.click()
    words = f"--data {pairs} --valid {pairs} --size 12 10 11 --epochs 9 --channels 2 --network unet"
    words += f" --similarity ssd --no-augment --quiet --out {tmp_path / 'run'}"
    assert cli.main(["train", *words.split()]) == 0
    assert trained[0].text() == Config.from_dict(seen[0]).text()


def test_every_training_gets_a_folder_of_its_own(train, pairs):
    ui = train.fill(pairs).ui
    assert ui.nameEdit.text == ""
    ui.trainButton.click()
    assert train.finish() == "Finished. Epoch 4 of 4 is the best, with a validation loss of 0.3500."
    assert ui.nameEdit.text == "training-1"
    ui.trainButton.click()
    train.finish()
    assert ui.nameEdit.text == "training-2"
    assert sorted(path.name for path in train.results.iterdir()) == ["training-1", "training-2"]
    assert train.plots()["PlotChart"] == 2


def test_the_chart_grows_by_every_epoch(train, pairs):
    ui = train.fill(pairs).ui
    ui.maxEpochsSpinBox.value = 30
    ui.trainButton.click()
    seen = set()
    while train.panel.run is not None:
        train.host.spin(0.02)
        seen.add(train.rows() if train.plots()["Table"] else 0)
    assert max(seen) == 30 and len(seen) > 5
    assert "epoch 30: loss 0.033333, val_loss 0.13333" in ui.trainLogText.plainText


def test_closing_the_scene_stops_nothing_and_the_chart_comes_back_on_demand(train, pairs):
    ui = train.fill(pairs).ui
    ui.maxEpochsSpinBox.value = 1000
    ui.trainButton.click()
    train.until_epoch(2)
    train.host.close_scene()
    before = len(train.panel.run.history)
    train.until_epoch(before + 3)
    assert train.plots() == {"PlotChart": 0, "PlotSeries": 0, "Table": 0}
    ui.showChartButton.click()
    now = len(train.panel.run.history)
    assert train.rows() == now
    train.until_epoch(now + 2)
    assert train.rows() > now
    assert ui.trainPath.currentPath == str(pairs)  # the settings belong to no scene
    ui.stopButton.click()
    train.finish()


def test_the_chart_of_an_earlier_training_can_be_looked_at(train, pairs):
    folder = train.results / "old"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,loss,val_loss\n1,0.5,0.6\n2,0.4,0.5\n")
    assert not train.ui.showChartButton.enabled
    train.ui.nameEdit.text = "old"
    train.ui.showChartButton.click()
    assert train.rows() == 2


def test_a_training_that_does_not_listen_is_ended_by_a_second_click(train, pairs):
    ui = train.fill(pairs).ui
    ui.nameEdit.text = "deaf"
    ui.trainButton.click()
    train.until_epoch(2)
    child = psutil.Process(train.panel.run._worker.process_id)
    ui.stopButton.click()
    assert ui.stopButton.text == "Stop now" and ui.stopButton.enabled
    assert train.status == "Stopping after the present step, a checkpoint is kept …"
    train.host.spin(0.3)
    ui.stopButton.click()
    assert train.finish(3) == "Stopped before there was anything to keep."
    assert ui.stopButton.text == "Stop" and ui.trainButton.enabled
    child.wait(timeout=3)


def test_a_process_that_dies_is_said_and_the_next_training_works(train, pairs):
    ui = train.fill(pairs).ui
    ui.maxEpochsSpinBox.value = 1000
    ui.trainButton.click()
    train.until_epoch(2)
    os.kill(train.panel.run._worker.process_id, signal.SIGKILL)
    text = train.finish(10)
    assert text.startswith("The computing process ended unexpectedly") and "resume the training" in text
    assert train.tabs.tabText(1) == "Train" and not ui.trainProgressBar.visible
    ui.maxEpochsSpinBox.value = 2
    ui.trainButton.click()
    assert train.finish().startswith("Finished")


def test_registering_goes_on_during_a_training(train, pairs, stand_in):
    from Testing.Slicer import scenes

    train.fill(pairs).ui.maxEpochsSpinBox.value = 1000
    train.ui.trainButton.click()
    train.until_epoch(1)
    register = train.module.ui
    register.fixedVolumeSelector.setCurrentNode(scenes.volume("F"))
    register.movingVolumeSelector.setCurrentNode(scenes.volume("M"))
    register.registerButton.click()
    assert train.host.spin(20, until=lambda: train.module.widget.panel.run is None)
    assert register.statusLabel.text.startswith("Done")
    assert train.panel.run is not None
    train.ui.stopButton.click()
    train.finish()


def test_closing_the_module_ends_the_training_with_its_checkpoint(train, pairs):
    train.fill(pairs).ui.maxEpochsSpinBox.value = 1000
    train.ui.trainButton.click()
    train.until_epoch(1)
    child = psutil.Process(train.panel.run._worker.process_id)
    train.host.close_module(train.module)
    child.wait(timeout=10)
    assert (train.results / "training-1" / "save" / "last.pt").is_file()
    again = train.open()
    assert again.ui.nameEdit.text == "training-1" and again.ui.resumeButton.enabled


def test_the_settings_outlive_the_module_and_unknown_ones_are_left_out(train, pairs, host):
    ui = train.fill(pairs, epochs=77).ui
    ui.similaritySelector.currentIndex = ui.similaritySelector.findData("gmi")
    ui.rateSpinBox.value = 0.005
    host.close_module(train.module)
    ui = train.open().ui
    assert ui.epochsSpinBox.value == 77 and ui.trainPath.currentPath == str(pairs)
    assert ui.similaritySelector.itemData(ui.similaritySelector.currentIndex) == "gmi"
    assert ui.rateSpinBox.value == pytest.approx(0.005)
    assert ui.validPath.currentPath == ui.startPath.currentPath == ""  # though others were used last
    host.close_module(train.module)
    for text in ("no JSON", "[]", '{"epochsSpinBox": "many", "kindSelector": "other", "gone": 1}'):
        host.qt.QSettings().setValue("DeepRegSlicer/Train", text)
        assert train.open().ui.epochsSpinBox.value == 100
        train.ui.trainPath.currentPath = ""
        host.qt.QSettings().remove("DeepRegSlicer/Train")
        host.close_module(train.module)
    train.open()


def test_missing_packages_hinder_training_too(train, pairs, host, library, monkeypatch):
    train.fill(pairs)
    monkeypatch.setattr(library("install"), "missing_packages", lambda: ["torch"])
    train.module.widget.enter()
    assert train.ui.trainButton.toolTip == "Install the missing packages first"
    assert not train.ui.trainButton.enabled
