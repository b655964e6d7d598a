"""Scenes as users make them: flat transforms, nodes chosen twice, scenes in scenes, deleted results."""

import numpy as np
import pytest

from Testing.Slicer.test_panel import Panel
from Testing.Slicer.test_user_steps import save


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    return Panel(host, library, monkeypatch).choose()


def parent(panel, matrix, name="Flat"):
    """A linear transform node that takes its children to the world by this matrix."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(panel.make.vtk_matrix(np.array(matrix, float)))
    return node


def points(panel, side: str):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{side} points")
    for place in ((0, 0, 0), (1, 2, 3), (4, -2, 5)):
        node.AddControlPoint(place)
    return node


FLAT = [[1, 0, 0, 3], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
NO_NUMBER = np.diag([1.0, np.nan, 1.0, 1.0])


@pytest.mark.parametrize("matrix", [FLAT, NO_NUMBER], ids=["flat", "no number"])
@pytest.mark.parametrize("deep", [False, True], ids=["above", "far above"])
@pytest.mark.parametrize(
    "what",
    [
        "fixedVolume",
        "movingVolume",
        "fixedSegmentation",
        "movingSegmentation",
        "fixedMask",
        "movingMask",
        "fixedLandmarks",
        "movingLandmarks",
        "initialTransform",
    ],
)
def test_what_stands_under_a_transform_without_an_inverse_is_named(panel, what, matrix, deep):
    import slicer

    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    region.SetSize(500, 500, 500)
    chosen = {
        "fixedSegmentation": panel.fixed_segmentation,
        "movingSegmentation": panel.moving_segmentation,
        "fixedMask": region,
        "movingMask": panel.make.segmentation("Mask", panel.moving, {"all": np.ones((11, 9, 13))}),
        "fixedLandmarks": points(panel, "fixed"),
        "movingLandmarks": points(panel, "moving"),
        "initialTransform": parent(panel, np.eye(4), "Guess"),
    }
    for name, node in chosen.items():
        getattr(panel.ui, f"{name}Selector").setCurrentNode(node)
    assert panel.register().startswith("Done in ")
    before = panel.make.inventory()
    node, above = (
        {**chosen, "fixedVolume": panel.fixed, "movingVolume": panel.moving}[what],
        parent(panel, matrix),
    )
    if deep:
        between = panel.make.under(parent(panel, np.eye(4), "Between"), above)
        panel.make.under(node, between)
    else:
        panel.make.under(node, above)
    assert panel.register() == f"'{node.GetName()}' is under the transform 'Flat', which can't be inverted."
    node.SetAndObserveTransformNodeID(None)
    for one in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode"):
        if one.GetName() in ("Flat", "Between"):
            slicer.mrmlScene.RemoveNode(one)
    assert panel.make.inventory() == before


def test_what_is_to_be_warped_along_is_looked_at_before_the_work_begins(panel, requests):
    vessels = panel.make.under(points(panel, "Vessel"), parent(panel, FLAT))
    panel.parameters.warp_along([vessels])
    text = "'Vessel points' is under the transform 'Flat', which can't be inverted."
    assert panel.register() == text and requests == []


def test_an_initial_transform_without_an_inverse_is_named(panel):
    panel.ui.initialTransformSelector.setCurrentNode(parent(panel, FLAT))
    assert panel.register() == "The transform 'Flat' can't be inverted."


def test_a_region_that_holds_no_voxel_is_named(panel):
    import slicer

    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    region.SetSize(0, 0, 0)
    panel.ui.fixedMaskSelector.setCurrentNode(region)
    text = "The ROI 'Region' lies outside of the volume that it is to mask, or between its voxels."
    assert panel.register() == text


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("Segmentation", "Choose two different segmentations"),
        ("Landmarks", "Choose two different lists of landmarks"),
    ],
)
def test_one_node_for_both_sides_is_said(panel, what, sentence):
    node = panel.fixed_segmentation if what == "Segmentation" else points(panel, "both")
    for side in ("fixed", "moving"):
        getattr(panel.ui, f"{side}{what}Selector").setCurrentNode(node)
    assert not panel.ui.registerButton.enabled and panel.ui.statusLabel.text == sentence


def test_one_mask_may_be_that_of_both_sides(panel):
    for side in ("fixed", "moving"):
        getattr(panel.ui, f"{side}MaskSelector").setCurrentNode(panel.fixed_segmentation)
    assert panel.register().startswith("Done in ")


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_an_inverse_above_an_input_is_not_overwritten(panel, side):
    import slicer

    panel.ui.createInverseCheckBox.checked = True
    panel.register()
    inverse, node = slicer.util.getNode("F to M"), getattr(panel, side)
    inverse.SetMatrixTransformFromParent(panel.make.vtk_matrix(np.diag([1.0, 1, 2, 1])))
    panel.make.under(node, inverse)
    assert panel.register().startswith("Done in ") and node.GetParentTransformNode() is inverse
    where = panel.make.mapped_by(inverse, np.array([[1.0, 2.0, 3.0]]))
    np.testing.assert_array_equal(where, [[1.0, 2.0, 6.0]])
    assert slicer.util.getNode("F to M_1").GetClassName() == "vtkMRMLLinearTransformNode"


def test_a_scene_that_is_loaded_into_another_one_is_shown_with_its_own_outputs(panel, tmp_path):
    import slicer

    panel.register()
    url = save(tmp_path)
    first = {name: slicer.util.getNode(name) for name in ("F", "M", "M to F", "M registered")}
    voxels = panel.make.array(first["M registered"]).copy()
    slicer.mrmlScene.SetURL(url)
    assert slicer.mrmlScene.Import()  # the same scene once more, beside the first one
    names = {
        "fixedVolume": "F",
        "movingVolume": "M",
        "outputTransform": "M to F",
        "warpedVolume": "M registered",
    }
    for name, title in names.items():
        node = getattr(panel.ui, f"{name}Selector").currentNode()
        assert node.GetName() == title and node is not first[title]
    panel.settings = {"play": "bend"}
    panel.ui.registerButton.click()
    assert panel.finish().startswith("Done in ")
    np.testing.assert_array_equal(panel.make.array(first["M registered"]), voxels)
    assert first["M to F"].GetScene() is slicer.mrmlScene
    assert first["M to F"].GetClassName() == "vtkMRMLLinearTransformNode"


def test_an_output_that_is_deleted_during_a_run_is_replaced_in_the_selector(panel):
    import slicer

    chosen = parent(panel, np.eye(4), "Mine")
    panel.ui.outputTransformSelector.setCurrentNode(chosen)
    panel.settings = {"steps": 40, "seconds": 0.02}
    panel.ui.registerButton.click()
    slicer.mrmlScene.RemoveNode(chosen)
    assert panel.finish().startswith("Done in ")
    made = panel.ui.outputTransformSelector.currentNode()
    assert made.GetName() == "M to F"
    panel.register()
    assert panel.ui.outputTransformSelector.currentNode() is made


def test_an_input_that_is_deleted_during_a_run_releases_the_outputs(panel):
    import slicer

    guess = parent(panel, np.eye(4), "Guess")
    panel.ui.initialTransformSelector.setCurrentNode(guess)
    panel.settings = {"steps": 40, "seconds": 0.02}
    panel.ui.registerButton.click()
    slicer.mrmlScene.RemoveNode(guess)
    assert panel.finish().startswith("Done in ")
    assert panel.ui.outputTransformSelector.currentNode() is None
