"""The Models panel and the data set made from the scene, through their widgets."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from Testing.Slicer.test_panel import MODULE, Panel


def small_model(path, spacing=None, structures=None) -> None:
    """An untrained network in a model file; spacing and structures as of `Model`."""
    import RegCore
    from RegCore.networks.model_file import build
    from RegCore.training.presets import TrainingPreset

    config = TrainingPreset("livers", method="ddf", size=(8, 8, 8), channels=2).configuration()
    path.parent.mkdir(parents=True, exist_ok=True)
    made = build(config, (8, 8, 8), (8, 8, 8), labeled=True)
    RegCore.save_model(path, replace(made, spacing=spacing, structures=structures))


@pytest.fixture
def panel(host, library, monkeypatch, stand_in, tmp_path):
    import qt

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    qt.QSettings().setValue("DeepRegSlicer/Train", "{}")
    made = Panel(host, library, monkeypatch)
    yield made
    qt.QSettings().setValue("DeepRegSlicer/Train", "{}")


def models(panel):
    return panel.module.widget.tabs.models


def listed(panel) -> list[str]:
    """The names in the list, but for the last one, which the extension brings."""
    ui = models(panel).ui
    *names, shipped = [ui.modelList.item(row).text() for row in range(ui.modelList.count)]
    assert shipped == "general, of the extension"
    return names


def wait(panel) -> str:
    assert panel.host.spin(120, until=lambda: models(panel).run is None)
    return models(panel).ui.modelsStatusLabel.text


def test_a_model_is_imported_and_its_card_shown(panel, tmp_path):
    ui = models(panel).ui
    assert listed(panel) == [] and ui.cardLabel.text == "Choose a model."
    assert not (ui.exportButton.enabled or ui.deleteButton.enabled or ui.useButton.enabled)
    small_model(tmp_path / "mail" / "liver.pt")
    ui.modelFilePath.currentPath = str(tmp_path / "mail" / "liver.pt")
    ui.importButton.click()
    assert wait(panel) == "The model is in the list as 'liver'."
    own = tmp_path / "DeepRegSlicer" / "models" / "liver.pt"
    assert own.is_file() and (tmp_path / "mail" / "liver.pt").is_file() and listed(panel) == ["liver"]
    wait(panel)
    card = ui.cardLabel.text.splitlines()
    assert {"Network: unet", "Predicts: a displacement field", "Grid: 8 × 8 × 8", "Data: livers"} <= set(card)
    panel.ui.tabs.currentIndex = 0
    panel.ui.tabs.currentIndex = 2
    assert ui.cardLabel.text.splitlines() == card  # also for who comes back
    ui.importButton.click()  # the same again gets a name of its own
    assert wait(panel) and listed(panel) == ["liver", "liver-2"]


@pytest.mark.parametrize(
    ("spacing", "line"),
    [
        (None, None),
        ({"fixed": [1.5, 1.25, 3.0], "moving": [1.5, 1.25, 3.0]}, "Spacing: 1.5 × 1.25 × 3 mm"),
        (
            {"fixed": [0.7, 0.7, 5.0], "moving": [2, 2, 2]},
            "Spacing: 0.7 × 0.7 × 5 mm fixed, 2 × 2 × 2 mm moving",
        ),
    ],
)
def test_the_card_says_which_spacing_a_model_knows(panel, tmp_path, spacing, line):
    small_model(tmp_path / "DeepRegSlicer" / "models" / "liver.pt", spacing)
    panel.ui.tabs.currentIndex = 2
    models(panel).ui.modelList.setCurrentRow(0)
    wait(panel)
    card = models(panel).ui.cardLabel.text.splitlines()
    assert "Grid: 8 × 8 × 8" in card
    assert [text for text in card if text.startswith("Spacing")] == ([line] if line else [])


@pytest.mark.parametrize(
    ("structures", "line"),
    [(None, "Labels: took part in the training"), (["liver", "left kidney"], "Labels: liver, left kidney")],
)
def test_the_card_names_the_structures(panel, tmp_path, structures, line):
    small_model(tmp_path / "DeepRegSlicer" / "models" / "liver.pt", structures=structures)
    panel.ui.tabs.currentIndex = 2
    models(panel).ui.modelList.setCurrentRow(0)
    wait(panel)
    assert line in models(panel).ui.cardLabel.text.splitlines()


def test_a_model_is_exported_with_its_notes_and_deleted_after_a_question(panel, tmp_path, monkeypatch):
    import RegCore

    ui, folder = models(panel).ui, tmp_path / "DeepRegSlicer" / "models"
    small_model(folder / "liver.pt")
    models(panel).refresh()
    ui.modelList.setCurrentRow(0)
    wait(panel)
    ui.notesText.plainText = "Trained on 12 livers. CC BY 4.0"
    ui.modelFilePath.currentPath = str(tmp_path / "for a colleague")
    ui.exportButton.click()
    out = tmp_path / "for a colleague.pt"
    assert wait(panel) == f"The model 'liver' is written to {out}."
    RegCore.load_model(out)
    ui.exportButton.click()
    assert "there is a file of this name already" in ui.modelsStatusLabel.text
    ui.modelFilePath.currentPath = str(out)
    ui.importButton.click()
    wait(panel)
    wait(panel)
    assert ui.notesText.plainText == "Trained on 12 livers. CC BY 4.0"
    asked = []
    for agreed in (False, True):
        monkeypatch.setattr(
            panel.host.slicer.util,
            "confirmOkCancelDisplay",
            lambda text, yes=agreed: asked.append(text) or yes,
        )
        assert "for a colleague" in listed(panel)
        ui.deleteButton.click()
    kept = folder / "for a colleague.pt"
    assert asked == [f"Delete the model 'for a colleague' ({kept})?"] * 2 and not kept.exists()
    assert ui.modelsStatusLabel.text == "The model 'for a colleague' is deleted."
    assert listed(panel) == ["liver"] and out.is_file()
    assert ui.modelsStatusLabel.text == "The model 'for a colleague' is deleted."


def test_a_chosen_model_becomes_the_method_of_the_register_tab(panel, tmp_path):
    small_model(tmp_path / "DeepRegSlicer" / "models" / "liver.pt")
    panel.ui.tabs.currentIndex = 2
    assert listed(panel) == ["liver"]
    models(panel).ui.modelList.setCurrentRow(0)
    models(panel).ui.useButton.click()
    assert panel.ui.tabs.currentIndex == 0 and panel.ui.presetSelector.currentText == "Trained model"
    assert panel.parameters.chosen() == str(tmp_path / "DeepRegSlicer" / "models" / "liver.pt")


def test_a_model_is_fine_tuned_from_the_form_of_the_train_tab(panel, tmp_path, library, monkeypatch):
    """The form gets the model's network and grid; a real training begins with its weights."""
    from RegCore.networks.model_file import read_content
    from Testing.RegCore.training.runs import write_pairs

    model = tmp_path / "DeepRegSlicer" / "models" / "liver.pt"
    small_model(model)
    panel.ui.tabs.currentIndex = 2
    ui, train = models(panel).ui, panel.module.widget.trainPanel
    assert not ui.fineTuneButton.enabled
    ui.modelList.setCurrentRow(0)
    wait(panel)
    assert ui.fineTuneButton.enabled
    ui.fineTuneButton.click()
    assert panel.ui.tabs.currentIndex == 1
    assert train.ui.trainStatusLabel.text.startswith("The form is set to go on from 'liver'")
    preset = train.form.preset()
    assert (preset.network, preset.method, preset.size, preset.channels) == ("unet", "ddf", (8, 8, 8), 2)
    assert preset.learning_rate == pytest.approx(1e-3)
    write_pairs(tmp_path / "few")
    train.ui.trainPath.currentPath = str(tmp_path / "few")
    train.ui.epochsSpinBox.value, train.ui.rateSpinBox.value = 1, 1e-6
    command = [sys.executable, "-m", "RegCore", "worker"]
    monkeypatch.setattr(library("process"), "worker_command", lambda: command)
    train.ui.trainButton.click()
    assert panel.host.spin(120, until=lambda: train.run is None)
    assert train.ui.trainStatusLabel.text.startswith("Finished"), train.ui.trainStatusLabel.text
    before, after = (read_content(path)["state"] for path in (model, train.folder / "save" / "best.pt"))
    learnt = [name for name in before if name.endswith(("weight", "bias"))]  # not what was averaged
    assert max(float(abs(after[name] - before[name]).max()) for name in learnt) < 1e-4


def test_the_model_of_the_extension_begins_a_training_and_is_not_deleted(panel, library, tmp_path, requests):
    ui, train = models(panel).ui, panel.module.widget.trainPanel
    panel.ui.tabs.currentIndex = 2
    ui.modelList.setCurrentRow(0)
    wait(panel)
    card = ui.cardLabel.text.splitlines()
    assert {
        "Network: unet",
        "Predicts: a velocity field",
        "Grid: 64 × 64 × 64",
        "Data: random shapes",
    } <= set(card)
    assert ui.notesText.plainText.startswith("Trained by regcore train-general on 400 pairs of random shapes")
    assert ui.useButton.enabled and ui.exportButton.enabled and not ui.deleteButton.enabled
    (entry,) = library("library").models(tmp_path / "none")
    with pytest.raises(library("library").InputError, match="'general' comes with the extension"):
        library("library").delete(entry)
    ui.fineTuneButton.click()
    assert panel.ui.tabs.currentIndex == 1 and train.ui.startPath.currentPath == str(entry.path)
    assert train.ui.channelsSpinBox.value == 16 and train.ui.rateSpinBox.value == pytest.approx(0.001)
    ui.modelFilePath.currentPath = str(tmp_path / "copy.pt")
    ui.exportButton.click()
    assert wait(panel).startswith("The model 'general' is written to") and entry.path.is_file()


def test_models_of_trainings_are_listed_but_not_deleted(panel, library, tmp_path):
    small_model(tmp_path / "DeepRegSlicer" / "lungs" / "save" / "best.pt")
    (tmp_path / "DeepRegSlicer" / "lungs" / "metrics.csv").write_text("epoch,loss,val_loss\n1,0.5,0.25\n")
    panel.ui.tabs.currentIndex = 2
    assert listed(panel) == ["lungs, trained here"]
    models(panel).ui.modelList.setCurrentRow(0)
    wait(panel)
    assert not models(panel).ui.deleteButton.enabled and models(panel).ui.exportButton.enabled
    entry = library("library").models(tmp_path / "DeepRegSlicer")[0]
    with pytest.raises(library("library").InputError, match="belongs to a training"):
        library("library").delete(entry)
    models(panel).ui.modelFilePath.currentPath = str(entry.path)
    models(panel).ui.importButton.click()
    wait(panel)
    assert listed(panel) == ["lungs", "lungs, trained here"]
    assert models(panel).chosen().own
    wait(panel)
    figures = "Figures: epoch 1 of 1: loss 0.5, val_loss 0.25"
    assert figures in models(panel).ui.cardLabel.text.splitlines()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "there is no such file"), (b"no model", "this is not a model file, or it was cut off")],
)
def test_a_wrong_model_file_is_said(panel, tmp_path, content, sentence):
    file = tmp_path / "odd.pt"
    if content is not None:
        file.write_bytes(content)
    models(panel).ui.modelFilePath.currentPath = str(file)
    models(panel).ui.importButton.click()
    text = wait(panel)
    assert text == f"{file}: {sentence}" and listed(panel) == []
    assert not (tmp_path / "DeepRegSlicer" / "models" / "odd.pt").exists()
    assert models(panel).ui.importButton.enabled and models(panel).ui.modelsProgressBar.isHidden()


def test_a_busy_process_is_said(panel, tmp_path):
    small_model(tmp_path / "DeepRegSlicer" / "models" / "liver.pt")
    panel.choose().start()
    panel.ui.tabs.currentIndex = 2
    models(panel).ui.modelList.setCurrentRow(0)
    text = "A computation is already running: wait for its end or cancel it."
    assert models(panel).ui.modelsStatusLabel.text == text and panel.running()
    assert models(panel).run is None and models(panel).ui.modelsProgressBar.isHidden()
    panel.ui.cancelButton.click()
    panel.finish()


def train(panel):
    return panel.module.widget.trainPanel


def add(panel) -> str:
    ui = train(panel).ui
    ui.addPairButton.click()
    assert panel.host.spin(120, until=lambda: ui.addPairButton.enabled)
    return ui.trainStatusLabel.text


def test_pairs_of_the_scene_become_a_data_set(panel, tmp_path):
    import RegCore

    ui = train(panel).ui
    assert add(panel) == "Choose a fixed and a moving volume in the Register tab first."
    panel.choose()
    panel.ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    assert add(panel) == "Choose segmentations for both volumes, or for none."
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    folder = tmp_path / "DeepRegSlicer" / "data" / "train"
    assert add(panel) == f"The pair 'M_to_F' is in {folder}."
    assert ui.trainPath.currentPath == str(folder) and ui.trainButton.enabled
    assert ui.foundLabel.text == "Found: 1 pairs, with labels"
    moving = RegCore.load(folder / "moving_images" / "M_to_F.nii.gz", "image")
    assert np.allclose(moving.array, panel.make.array(panel.moving))
    assert np.allclose(moving.geometry.affine, panel.make.MOVING, atol=1e-4)
    labels = RegCore.load(folder / "fixed_labels" / "M_to_F.nii.gz", "labels")
    liver = panel.make.segment_mask(panel.fixed_segmentation, "id-Liver", panel.fixed)
    assert labels.array.shape[3] == 2 and np.array_equal(labels.array[..., 0] == 1, liver)
    assert "a pair of this name is in the data set already" in add(panel)
    panel.ui.swapButton.click()
    assert add(panel) == f"The pair 'F_to_M' is in {folder}."
    assert ui.foundLabel.text == "Found: 2 pairs, with labels"


def test_a_training_that_was_stopped_is_found_when_the_panel_opens(panel, host, tmp_path):
    folder = tmp_path / "DeepRegSlicer" / "training-1"
    (folder / "save").mkdir(parents=True)
    (folder / "save" / "last.pt").touch()
    (folder / "config.yaml").write_text("a: 1")
    (folder / "metrics.csv").write_text("epoch,loss,learning_rate\n1,0.5,0.1\n2,0.25,0.1\n")
    host.close_all()
    module = host.load_module(MODULE)
    ui = module.widget.trainPanel.ui
    text = "The training 'training-1' was stopped after 2 epochs: Resume goes on."
    assert ui.trainStatusLabel.text == text and ui.resumeButton.enabled and ui.showChartButton.enabled
    host.close_all()
    shutil.rmtree(folder)
    assert host.load_module(MODULE).widget.trainPanel.ui.trainStatusLabel.text != text
