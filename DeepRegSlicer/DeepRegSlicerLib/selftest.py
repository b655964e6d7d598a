"""The self test of the module, started by "Reload and Test" in Slicer."""

import slicer

import RegCore

from .install import missing
from .logic import register_volumes
from .nodes.phantom import add_phantom


def run(test) -> None:
    """Deformable registration has to halve the distance of a phantom's landmarks; it needs PyTorch.

    test: the ScriptedLoadableModuleTest, which asserts and speaks.
    """
    if missing():
        test.delayDisplay(f"Not tested: these Python packages are missing: {', '.join(missing())}")
        return
    slicer.mrmlScene.Clear()
    made = add_phantom(RegCore.make_phantom(fixed_shape=(40, 36, 32), moving_shape=(38, 40, 34)))
    landmarks = {"fixed_landmarks": made.fixed_landmarks, "moving_landmarks": made.moving_landmarks}
    result = register_volumes(made.fixed, made.moving, **landmarks)
    distance = result.metrics["tre_mm"]
    test.assertLess(distance["after"], 0.5 * distance["before"])
    test.delayDisplay(f"Landmarks: {distance['before']:.1f} mm before, {distance['after']:.1f} mm after")
