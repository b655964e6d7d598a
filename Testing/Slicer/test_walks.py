"""Two users from beginning to end, through the widgets, with RegCore's own worker."""

import re

import numpy as np
import pytest

from Testing.Slicer.test_check import layers
from Testing.Slicer.test_panel import MODULE
from Testing.Slicer.test_user_steps import save

SHAPES = {"fixed_shape": (24, 20, 18), "moving_shape": (22, 21, 20)}


@pytest.fixture
def module(host, library, monkeypatch, tmp_path):
    """The open module of a user whose home folder is empty."""
    import qt
    import slicer

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    process = library("process")
    monkeypatch.setattr(process, "_shared", None)
    for key in ("Train", "Batch"):
        qt.QSettings().setValue(f"DeepRegSlicer/{key}", "{}")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    yield host.load_module(MODULE)
    process.stop_shared_worker()
    for key in ("Train", "Batch"):
        qt.QSettings().setValue(f"DeepRegSlicer/{key}", "{}")


def phantom(library, seed=0):
    import RegCore

    return library("nodes.phantom").add_phantom(RegCore.make_phantom(seed, **SHAPES))


def choose(ui, made) -> None:
    for side in ("fixed", "moving"):
        getattr(ui, f"{side}VolumeSelector").setCurrentNode(getattr(made, side))
        getattr(ui, f"{side}SegmentationSelector").setCurrentNode(getattr(made, f"{side}_segmentation"))


def task(ui, title: str) -> None:
    ui.presetSelector.currentIndex = ui.presetSelector.findText(title)


def finish(host, panel) -> str:
    assert host.spin(300, until=lambda: panel.run is None)
    return panel.ui.statusLabel.text


def overlaps(table) -> list[str]:
    """Dice before and after, structure by structure."""
    return [table.item(row, 1).text() for row in range(table.rowCount)]


def test_the_walk_of_a_clinician(module, host, library, tmp_path):
    import slicer

    ui, panel, made = module.ui, module.widget.panel, phantom(library)
    choose(ui, made)
    task(ui, "Rigid")
    ui.registerButton.click()
    assert finish(host, panel).startswith("Done in ")
    views, dice = panel.checking.ui, overlaps(panel.checking.ui.structureTable)
    better = [float(after) > float(before) for before, after in (text.split(" → ") for text in dice)]
    assert len(better) == 9 and sum(better) >= 5
    views.blendSlider.value = 0.25
    assert layers() == ("Phantom fixed", "Phantom moving registered", 0.25)
    views.checkerboardButton.click()
    assert layers()[0] == "Phantom moving registered checkerboard"
    views.checkerboardButton.click()
    first = ui.outputTransformSelector.currentNode()
    matrix = slicer.util.arrayFromTransformMatrix(first)
    url = save(tmp_path)
    host.close_scene()
    assert ui.fixedVolumeSelector.currentNode() is None and ui.resultSection.isHidden()
    slicer.mrmlScene.SetURL(url)
    assert slicer.mrmlScene.Import()
    shown = {
        "fixedVolumeSelector": "Phantom fixed",
        "movingSegmentationSelector": "Phantom moving organs",
        "outputTransformSelector": "Phantom moving to Phantom fixed",
        "warpedVolumeSelector": "Phantom moving registered",
    }
    assert {name: getattr(ui, name).currentNode().GetName() for name in shown} == shown
    assert ui.presetSelector.currentText == "Rigid" and ui.registerButton.enabled
    assert overlaps(views.structureTable) == dice and not ui.resultSection.isHidden()
    other = phantom(library, seed=3)
    choose(ui, other)
    ui.registerButton.click()
    assert finish(host, panel).startswith("Done in ")
    transforms = slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")
    assert len(transforms) == 2 and ui.outputTransformSelector.currentNode().GetName() != first.GetName()
    kept = next(node for node in transforms if node.GetName() == "Phantom moving to Phantom fixed")
    assert np.allclose(slicer.util.arrayFromTransformMatrix(kept), matrix)


def trained_to(ui, count: int):
    return lambda: int((ui.epochValue.text or "0").split(" /")[0]) >= count


def write_data_set(host, library, ui, form) -> None:
    """Two pairs of the scene become training data."""
    for seed in (0, 1):
        made = phantom(library, seed)
        made.fixed.SetName(f"Patient {seed} before")
        choose(ui, made)
        form.addPairButton.click()
        assert host.spin(300, until=lambda: form.addPairButton.enabled)
        assert form.trainStatusLabel.text.startswith("The pair '"), form.trainStatusLabel.text
    assert form.foundLabel.text == "Found: 2 pairs, with labels"


def train_and_stop(host, train, button, epochs: int) -> None:
    """Begin or go on with the button, until so many epochs are done."""
    form = train.ui
    button.click()
    assert host.spin(300, until=trained_to(form, epochs)), form.trainStatusLabel.text
    form.stopButton.click()
    assert host.spin(300, until=lambda: train.run is None)
    assert form.trainStatusLabel.text == "Stopped. Resume goes on from the checkpoint."


def import_and_use(host, ui, models, path) -> None:
    """Import a model file and make it the method."""
    ui.tabs.currentIndex = 2
    models.ui.modelFilePath.currentPath = str(path)
    models.ui.importButton.click()
    assert host.spin(
        300, until=lambda: models.run is None and "Grid: 16 × 16 × 16" in models.ui.cardLabel.text
    )
    models.ui.useButton.click()


def test_the_walk_of_a_researcher(module, host, library, tmp_path):
    import slicer

    form = module.widget.tabs.train.ui
    write_data_set(host, library, module.ui, form)
    for name in ("sizeISpinBox", "sizeJSpinBox", "sizeKSpinBox"):
        getattr(form, name).value = 16
    form.channelsSpinBox.value, form.epochsSpinBox.value, form.nameEdit.text = 2, 400, "livers"
    train_and_stop(host, module.widget.tabs.train, form.trainButton, 3)
    host.close_all()
    module = host.load_module(MODULE)
    ui, tabs = module.ui, module.widget.tabs
    done = len(tabs.train.history())
    assert done >= 2 and tabs.train.ui.trainStatusLabel.text.startswith("The training 'livers' was stopped")
    train_and_stop(host, tabs.train, tabs.train.ui.resumeButton, done + 2)
    epochs = [row["epoch"] for row in tabs.train.history()]
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) > done
    import_and_use(host, ui, tabs.models, tmp_path / "DeepRegSlicer" / "livers" / "save" / "best.pt")
    assert re.search(r"^Spacing: [\d.]+ × [\d.]+ × [\d.]+ mm", tabs.models.ui.cardLabel.text, re.MULTILINE)
    choose(ui, phantom(library, 5))
    ui.registerButton.click()
    assert finish(host, tabs.register).startswith("Done in ")
    assert ui.outputTransformSelector.currentNode().GetClassName() == "vtkMRMLGridTransformNode"
    batch = tabs.batch
    ui.tabs.currentIndex = 3
    batch.ui.sourceSelector.currentIndex = batch.ui.sourceSelector.findData("files")
    batch.ui.folderPath.currentPath = tabs.train.ui.trainPath.currentPath
    batch.ui.startButton.click()
    assert host.spin(300, until=lambda: batch.run is None)
    assert batch.ui.batchStatusLabel.text == "2 of 2 are registered."
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    batch.ui.batchTable.selectRow(1)
    assert layers()[1].endswith(" registered")
