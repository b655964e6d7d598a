"""SLIC-Reg in Slicer: trained in the Train panel from its YAML file, then a method of the Register panel."""

import sys
from pathlib import Path

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.registration.learned import load_model
from Testing.RegCore.slicreg import synthetic
from Testing.Slicer import scenes

MODULE = Path(__file__).resolve().parents[2] / "DeepRegSlicer" / "DeepRegSlicer.py"
SHIFT = np.array([7.0, -5.0, 3.0])  # mm from one scan to the next


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    """The YAML file that `regcore slicreg train --write` leaves for a prepared folder."""
    (tmp_path / "scans").mkdir()
    synthetic.prepare(monkeypatch, tmp_path / "prepared", synthetic.files(tmp_path / "scans", RegCore.save))
    path = tmp_path / "slicreg.yaml"
    command = [
        "slicreg",
        "train",
        str(tmp_path / "prepared"),
        "--small",
        "--steps",
        "110",
        "--batch-size",
        "2",
    ]
    assert main([*command, "--seed", "0", "--write", str(path)]) == 0
    return path


@pytest.fixture
def module(host, library, monkeypatch, tmp_path):
    """The open module with RegCore itself in the child processes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    process = library("process")
    monkeypatch.setattr(process, "worker_command", lambda: [sys.executable, "-m", "RegCore", "worker"])
    monkeypatch.setattr(process, "_shared", None)
    yield host.load_module(MODULE)
    process.stop_shared_worker()


def volume(n: int):
    """The node of a scan."""
    made = synthetic.ball(n * SHIFT, n)
    return scenes.volume(f"Scan{n}", matrix=made.geometry.affine, array=made.array)


def test_it_trains_from_its_yaml_file_and_registers_any_two_scans(module, host, configuration, tmp_path):
    ui, train = module.widget.trainPanel.ui, module.widget.trainPanel
    module.ui.tabs.currentIndex = 1
    ui.resultsPath.currentPath = str(tmp_path / "results")
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("yaml")
    ui.yamlPath.currentPath = str(configuration)
    ui.trainButton.click()
    assert host.spin(120, until=lambda: train.run is None)
    assert ui.trainStatusLabel.text.startswith("Finished. Epoch "), ui.trainStatusLabel.text
    assert host.scene.GetFirstNodeByClass("vtkMRMLTableNode").GetNumberOfRows() > 1
    ui.useModelButton.click()
    register, panel = module.ui, module.widget.panel
    assert register.tabs.currentIndex == 0 and register.modelPath.currentPath.endswith("best.pt")
    network = load_model(register.modelPath.currentPath).network
    assert synthetic.share_right(network, synthetic.ball(5 * SHIFT, 5)) > 0.7  # it learnt what it should
    for fixed, moving in ((0, 2), (3, 1)):  # from the template, and between two scans
        register.fixedVolumeSelector.setCurrentNode(volume(fixed))
        register.movingVolumeSelector.setCurrentNode(volume(moving))
        register.registerButton.click()
        assert host.spin(60, until=lambda: panel.run is None)
        assert register.statusLabel.text.startswith("Done in"), register.statusLabel.text
        node = panel.parameters.outputTransform
        assert node.GetClassName() == "vtkMRMLGridTransformNode"
        points = fixed * SHIFT + 30 * np.eye(3)
        error = scenes.mapped_by(node, points) - points - (moving - fixed) * SHIFT
        assert np.linalg.norm(error, axis=1).max() < 2 * synthetic.SPACING


# ---- prepared and trained from the form --------------------------------------------------------------------


@pytest.fixture
def form(module, library, monkeypatch, tmp_path):
    """The Train panel with SLIC-Reg chosen, its child process preparing small scans; the scans are files."""
    worker = Path(__file__).with_name("slicreg_worker.py")
    monkeypatch.setattr(library("process"), "worker_command", lambda: [sys.executable, str(worker)])
    (tmp_path / "scans").mkdir()
    synthetic.files(tmp_path / "scans", RegCore.save)
    (tmp_path / "watched").mkdir()
    (tmp_path / "scans" / "scan3.nii.gz").rename(tmp_path / "watched" / "scan3.nii.gz")
    ui = module.widget.trainPanel.ui
    module.ui.tabs.currentIndex = 1
    ui.resultsPath.currentPath, ui.nameEdit.text = str(tmp_path / "results"), "livers"
    ui.settingsSelector.currentIndex = ui.settingsSelector.findData("slicreg")
    return ui


def test_the_form_says_what_slicreg_needs(form, module, tmp_path):
    assert not form.slicregSection.isHidden() and form.networkSection.isHidden()
    assert form.trainPath.isHidden() and form.yamlPath.isHidden() and form.addPairButton.isHidden()
    assert form.trainStatusLabel.text == "Choose the file of a template" and not form.trainButton.enabled
    form.templatePath.currentPath = str(tmp_path / "scans" / "scan0.nii.gz")
    assert form.trainStatusLabel.text == "Choose a folder of scans"
    form.scansPath.currentPath = str(tmp_path / "nowhere")
    assert not form.trainButton.enabled
    form.scansPath.currentPath = str(tmp_path / "scans")
    assert form.trainButton.enabled
    form.settingsSelector.currentIndex = 0
    assert form.slicregSection.isHidden() and not form.networkSection.isHidden()


def test_it_is_prepared_and_trained_from_a_template_and_a_folder(form, module, host, tmp_path):
    train = module.widget.trainPanel
    form.templatePath.currentPath = str(tmp_path / "scans" / "scan0.nii.gz")
    form.scansPath.currentPath = str(tmp_path / "scans")
    form.watchPath.currentPath = str(tmp_path / "watched")
    form.stepsSpinBox.value = 40
    form.trainButton.click()
    assert host.spin(120, until=lambda: train.run is None)
    assert form.trainStatusLabel.text.startswith("Finished. Epoch "), form.trainStatusLabel.text
    prepared = tmp_path / "results" / "scan0-ct-prepared"
    names = {part: {path.name for path in (prepared / part).iterdir()} for part in ("train", "valid")}
    assert names["valid"] == {"scan3.npz"} and {"scan1.npz", "scan2.npz"} <= names["train"]
    assert form.useModelButton.enabled
    form.useModelButton.click()
    network = load_model(module.ui.modelPath.currentPath).network
    assert synthetic.share_right(network, synthetic.ball(5 * SHIFT, 5)) > 0.3  # chance is one eighth
    made = {path: path.stat().st_mtime_ns for path in prepared.rglob("*.npz")}
    form.stepsSpinBox.value = 3
    form.trainButton.click()  # again, in another folder: what is prepared is used
    assert host.spin(120, until=lambda: train.run is None)
    assert form.trainStatusLabel.text.startswith("Finished"), form.trainStatusLabel.text
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*.npz")} == made


def test_a_scan_that_can_not_be_used_is_said(form, module, host, tmp_path):
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"nothing")
    form.templatePath.currentPath = str(tmp_path / "scans" / "scan0.nii.gz")
    form.scansPath.currentPath = str(tmp_path / "scans")
    form.trainButton.click()
    assert host.spin(120, until=lambda: module.widget.trainPanel.run is None)
    assert "broken.nii.gz" in form.trainStatusLabel.text and form.trainButton.enabled
