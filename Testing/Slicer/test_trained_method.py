"""The Register panel with a trained model as its method: chosen, used, remembered, refused in a sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import RegCore
from RegCore.networks.model_file import build, save_model
from Testing.RegCore.deepreg.bundles import write_checkpoint

MODULE = Path(__file__).resolve().parents[2] / "DeepRegSlicer" / "DeepRegSlicer.py"
REAL = [sys.executable, "-m", "RegCore", "worker"]
BACKBONES = {"unet": {"depth": 1}, "global": {"depth": 1}, "keypoints": {"depth": 1}}


def write_model(path: Path, method: str = "ddf", network: str = "unet") -> Path:
    """A network whose answer is not zero, for grids that are none of the volumes'."""
    backbone = {"name": network, "num_channel_initial": 2, **BACKBONES[network]}
    trained = build({"train": {"method": method, "backbone": backbone}}, (10, 12, 8), (9, 10, 11), True)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in trained.network.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=random)
    save_model(path, trained)
    return path


class Chosen:
    """The open module, two volumes with segmentations chosen, and a trained model as the method."""

    def __init__(self, host, folder: Path):
        from Testing.Slicer import scenes

        self.host, self.folder, self.make = host, folder, scenes
        self.module = host.load_module(MODULE)
        self.ui, self.panel = self.module.ui, self.module.widget.panel
        self.fixed = scenes.volume("F")
        self.moving = scenes.volume("M", (11, 9, 13), scenes.MOVING)
        f, m = scenes.boxes((14, 16, 12)), scenes.boxes((11, 9, 13))
        self.moving_segmentation = scenes.segmentation("MS", self.moving, {"Liver": m == 1, "Gut": m == 2})
        self.fixed_segmentation = scenes.segmentation("FS", self.fixed, {"Liver": f == 1, "Gut": f == 2})
        self.ui.fixedVolumeSelector.setCurrentNode(self.fixed)
        self.ui.movingVolumeSelector.setCurrentNode(self.moving)
        self.choose_trained()

    def choose_trained(self) -> None:
        words = "Trained model"
        self.ui.methodSelector.currentIndex = self.ui.methodSelector.findText(
            words, self.host.qt.Qt.MatchContains
        )

    def register(self, path="") -> str:
        """Type the path, click Register and wait for the end; the status line."""
        if path:
            self.ui.modelPath.currentPath = str(path)
        self.ui.registerButton.click()
        assert self.host.spin(60, until=lambda: self.panel.run is None)
        return self.ui.statusLabel.text


@pytest.fixture
def chosen(host, tmp_path):
    return Chosen(host, tmp_path)


@pytest.fixture
def real(chosen, library, monkeypatch):
    """The same with RegCore itself in the child process."""
    process = library("process")
    monkeypatch.setattr(process, "worker_command", lambda: REAL)
    monkeypatch.setattr(process, "_shared", None)
    yield chosen
    process.stop_shared_worker()


def test_a_model_registers_as_in_python_and_its_result_is_as_of_other_methods(real, library):
    """Twice with one warm process: a field, which becomes a grid transform, and an affine map."""
    ui, scenes = real.ui, real.make
    ui.fixedSegmentationSelector.setCurrentNode(real.fixed_segmentation)
    ui.movingSegmentationSelector.setCurrentNode(real.moving_segmentation)
    fixed, moving = (library("nodes").volume(node) for node in (real.fixed, real.moving))
    points = fixed.geometry.to_world(np.random.default_rng(0).uniform(1, 10, (200, 3)))
    for network, kind in (
        ("unet", "vtkMRMLGridTransformNode"),
        ("global", "vtkMRMLLinearTransformNode"),
        ("keypoints", "vtkMRMLLinearTransformNode"),
    ):
        path = write_model(real.folder / f"{network}.pt", network=network)
        assert real.register(path).startswith("Done in"), ui.statusLabel.text
        node = real.panel.parameters.outputTransform
        assert node.GetClassName() == kind and node.GetName() == "M to F"
        moving_now = library("nodes").volume(real.moving, node)
        np.testing.assert_allclose(moving_now.geometry.affine, moving.geometry.affine, atol=1e-6)
        expected = RegCore.register(fixed, moving, str(path), device="cpu").transform.map(points)
        assert np.abs(expected - points).max() > 0.1
        np.testing.assert_allclose(scenes.mapped_by(node, points), expected, atol=1e-3)
        names = ui.warpedSegmentationSelector.currentNode().GetSegmentation()
        assert [names.GetNthSegment(n).GetName() for n in range(2)] == ["Liver", "Gut"]
        measures = [ui.resultTable.item(row, 0).text() for row in range(ui.resultTable.rowCount)]
        table = real.panel.checking.ui.structureTable
        structures = [table.item(row, 0).text() for row in range(table.rowCount)]
        assert {"Dice, mean", "Folded voxels"} <= {*measures} and "Liver" in structures
    offered = [ui.modelPath.comboBox().itemText(row) for row in range(ui.modelPath.comboBox().count)]
    assert offered == [str(real.folder / f"{name}.pt") for name in ("keypoints", "global", "unet")]


def test_a_model_that_can_not_be_used_says_why(real):
    before = real.make.inventory()
    conditional = write_model(real.folder / "conditional.pt", method="conditional")
    damaged = real.folder / "damaged.pt"
    whole = write_model(real.folder / "whole.pt").read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    text = real.folder / "notes.pt"
    text.write_text("not a model")
    write_checkpoint(real.folder / "ckpt-2", {"a": np.zeros(3, np.float32)})
    for path, sentence in (
        (conditional, "predicts labels, not a transform"),
        (damaged, "damaged.pt: this is not a model file, or it was cut off"),
        (text, "notes.pt: this is not a model file"),
        (real.folder / "nowhere.pt", "nowhere.pt: there is no such file"),
        (real.folder / "ckpt-2.index", "ckpt-2"),
    ):
        found = real.register(path)
        assert sentence in found and "Traceback" not in found, found
        assert found in real.ui.logText.plainText
    assert real.make.inventory() == before
    assert real.ui.modelPath.comboBox().count == 0  # none of them is worth remembering


def test_what_belongs_to_the_model_is_seen_with_it_only(chosen):
    ui = chosen.ui
    chosen.module.panel.show()
    assert ui.modelPath.visible and ui.modelPathLabel.visible and ui.refineCheckBox.visible
    assert ui.registerButton.toolTip == "Choose the file of a trained model"
    ui.modelPath.currentPath = "somewhere/ckpt-2"  # of no ending that the file dialog knows
    assert ui.registerButton.enabled and chosen.panel.parameters.modelFile == "somewhere/ckpt-2"
    assert not ui.smoothnessSlider.enabled
    ui.refineCheckBox.checked = True
    assert ui.smoothnessSlider.enabled
    ui.methodSelector.currentIndex = 0
    assert not ui.modelPath.visible and not ui.refineCheckBox.visible


def test_what_is_asked_for_is_the_path_and_the_refinement(chosen, stand_in, monkeypatch):
    seen = {}
    request = type(stand_in).request

    def record(self, command, arguments, *rest):
        seen.update(arguments)
        return request(self, command, arguments, *rest)

    monkeypatch.setattr(type(stand_in), "request", record)
    assert chosen.register("~/here/best.pt").startswith("Done")
    assert (seen["method"], seen["settings"]) == (str(Path("~/here/best.pt").expanduser()), None)
    chosen.ui.refineCheckBox.checked = True
    chosen.ui.smoothnessSlider.value = 2.0
    chosen.register("best.pt")
    assert seen["method"] == str(Path.cwd() / "best.pt")
    assert seen["settings"] == {"refine": True, "smoothness": 2.0}
    chosen.ui.qualitySelector.currentIndex = chosen.ui.qualitySelector.findText("Best")
    chosen.register("best.pt")
    assert seen["settings"] == {"refine": True, "quality": "best", "smoothness": 2.0}


def test_models_used_last_are_offered_again_and_the_scene_keeps_the_chosen_one(chosen, stand_in, host):
    chosen.register("/models/first.pt")
    chosen.register("/models/second.pt")
    chosen.ui.modelPath.currentPath = "/models/third.pt"
    host.close_module(chosen.module)
    again = host.load_module(MODULE)
    assert again.ui.modelPath.currentPath == "/models/third.pt"
    combo = again.ui.modelPath.comboBox()
    assert [combo.itemText(row) for row in range(combo.count)] == ["/models/second.pt", "/models/first.pt"]
    host.close_scene()
    assert again.ui.modelPath.currentPath == "/models/third.pt"
    host.close_module(again)
    host.close_scene()
    assert host.load_module(MODULE).ui.modelPath.currentPath == "/models/second.pt"
