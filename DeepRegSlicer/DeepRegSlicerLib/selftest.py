"""The self test of the module, started by "Reload and Test" in Slicer: the walk of a user in the panel."""

import tempfile
import time
from pathlib import Path

import numpy as np
import slicer

import RegCore

from . import nodes
from .install import missing
from .nodes.phantom import add_phantom

TASKS = ("same-modality", "rigid")  # presets of the first and of the second pair
SHAPES = {"fixed_shape": (40, 36, 32), "moving_shape": (38, 40, 34)}
INPUTS = {"Volume": "", "Segmentation": "_segmentation", "Landmarks": "_landmarks"}


def run(test) -> None:
    """Two pairs are registered in the panel, a scene is saved and loaded again; it needs PyTorch.

    test: the ScriptedLoadableModuleTest, which asserts and speaks.
    """
    if missing():
        test.delayDisplay(f"Not tested: these Python packages are missing: {', '.join(missing())}")
        return
    slicer.mrmlScene.Clear()
    widget = slicer.util.getModuleWidget("DeepRegSlicer")
    widget.enter()
    distance = _register(widget, TASKS[0], seed=0).metrics["tre_mm"]
    test.assertLess(distance["after"], 0.5 * distance["before"])
    test.delayDisplay(f"Landmarks: {distance['before']:.1f} mm before, {distance['after']:.1f} mm after")
    _look(test, widget)
    _save_and_load(test, widget)
    first = widget.ui.outputTransformSelector.currentNode()
    before = _landmarks(first)
    _register(widget, TASKS[1], seed=1)
    test.assertIsNot(widget.ui.outputTransformSelector.currentNode(), first)
    test.assertTrue(np.array_equal(_landmarks(first), before))
    test.delayDisplay("A second pair left the first result as it was")


def _register(widget, task: str, seed: int):
    """Choose a made-up patient and a task, click Register and wait: the RegistrationResult."""
    ui, panel = widget.ui, widget.panel
    made = add_phantom(RegCore.make_phantom(seed, **SHAPES))
    for side in ("fixed", "moving"):
        for what, name in INPUTS.items():
            getattr(ui, f"{side}{what}Selector").setCurrentNode(getattr(made, side + name))
    ui.presetSelector.currentIndex = ui.presetSelector.findData(task)
    ui.registerButton.click()
    while panel.run is not None:
        slicer.app.processEvents()
        time.sleep(0.01)
    if panel.checking.shown is None:
        raise RuntimeError(ui.statusLabel.text)
    return panel.checking.shown.run.result


def _look(test, widget) -> None:
    """The tables are there, and one button each shows and hides."""
    views = widget.panel.checking.ui
    test.assertGreater(views.structureTable.rowCount, 0)
    test.assertGreater(views.landmarkTable.rowCount, 0)
    views.blendSlider.value = 0.25
    for button in (views.checkerboardButton, views.contoursButton, views.gridButton):
        button.click()
        test.delayDisplay(button.text)
        button.click()


def _save_and_load(test, widget) -> None:
    """The scene comes back while the module is open, with what is chosen in the panel."""
    ui, names = widget.ui, ("fixedVolume", "movingSegmentation", "outputTransform", "warpedVolume")
    chosen = [getattr(ui, f"{name}Selector").currentNode().GetName() for name in names]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "walk.mrb")
        test.assertTrue(slicer.util.saveScene(file))
        slicer.mrmlScene.Clear()
        test.assertIsNone(ui.fixedVolumeSelector.currentNode())
        slicer.util.loadScene(file)
    widget.enter()  # in a Slicer without windows nobody has entered the module
    again = [getattr(ui, f"{name}Selector").currentNode() for name in names]
    test.assertEqual([node and node.GetName() for node in again], chosen)
    test.delayDisplay("The scene was saved and loaded again")


def _landmarks(transform) -> np.ndarray:
    """Where a transform node takes the fixed landmarks of the first patient, (N, 3) RAS mm."""
    fixed = nodes.volume(transform.GetNodeReference(transform.GetFixedNodeReferenceRole()))
    return nodes.field_of(transform, fixed.geometry).map(RegCore.make_phantom(0, **SHAPES).landmarks[:, :3])
