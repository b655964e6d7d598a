"""More of what a user does: other kinds of inputs, and changes of nodes during a run and after it."""

import numpy as np
import pytest

from Testing.Slicer.test_panel import Panel


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    return Panel(host, library, monkeypatch).choose()


def label_map(panel, name: str, array: np.ndarray, matrix):
    """A label map volume node of labels (I, J, K)."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(panel.make.vtk_matrix(matrix))
    return node


def test_a_region_and_a_label_map_can_be_chosen_as_masks(panel, requests):
    import slicer

    region = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Region")
    grid = panel.make.FIXED
    centre = grid[:3, :3] @ [6, 7, 5] + grid[:3, 3]
    region.SetCenter(*centre)
    region.SetSize(8, 8, 8)
    boxes = panel.make.boxes((11, 9, 13))
    panel.ui.fixedMaskSelector.setCurrentNode(region)
    panel.ui.movingMaskSelector.setCurrentNode(label_map(panel, "Where", boxes, panel.make.MOVING))
    assert panel.register().startswith("Done")
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (14, 16, 12)), indexing="ij"), -1)
    away = np.abs(index @ grid[:3, :3].T + grid[:3, 3] - centre).max(-1)
    found = requests[0]["fixed_mask"].array > 0
    assert found.sum() > 50 and np.array_equal(
        found[np.abs(away - 4) > 1e-6], (away < 4)[np.abs(away - 4) > 1e-6]
    )
    np.testing.assert_array_equal(requests[0]["moving_mask"].array > 0, boxes > 0)


def test_label_maps_can_be_chosen_as_segmentations(panel, requests):
    shapes = {"fixed": ((14, 16, 12), panel.make.FIXED), "moving": ((11, 9, 13), panel.make.MOVING)}
    for side, (shape, matrix) in shapes.items():
        node = label_map(panel, f"{side} labels", panel.make.boxes(shape), matrix)
        getattr(panel.ui, f"{side}SegmentationSelector").setCurrentNode(node)
    assert panel.register().startswith("Done")
    for side, (shape, _matrix) in shapes.items():
        np.testing.assert_array_equal(requests[0][f"{side}_labels"].array, panel.make.boxes(shape))
    warped = panel.ui.warpedSegmentationSelector.currentNode()
    assert (
        warped.GetName() == "moving labels registered" and warped.GetSegmentation().GetNumberOfSegments() == 2
    )


def test_the_moving_volume_can_be_placed_by_hand_before(panel, requests):
    """A transform that the user turned by hand stands above the moving volume, and as the initial one."""
    hand, matrix = panel.make.linear_parent("Hand")
    own = asked_affine(panel, requests)
    panel.make.under(panel.moving, hand)
    assert np.allclose(asked_affine(panel, requests), matrix @ own)  # where it is seen
    panel.ui.initialTransformSelector.setCurrentNode(hand)
    panel.ui.outputTransformSelector.setCurrentNode(hand)
    panel.settings = {"play": "bend"}
    panel.ui.registerButton.click()
    panel.finish()
    assert np.allclose(requests[-1]["moving"].geometry.affine, own)  # once, not twice
    assert np.allclose(requests[-1]["initial"].matrix, np.linalg.inv(matrix))
    result = panel.ui.outputTransformSelector.currentNode()
    assert (result.GetName(), result.GetClassName()) == ("Hand", "vtkMRMLGridTransformNode")
    assert panel.moving.GetParentTransformNode() is result


def test_an_output_of_another_class_takes_the_place_of_the_former_one_in_the_selectors(panel):
    """Other transforms lie before and behind it in the list; the next run must not get at them."""
    others = [panel.make.linear_parent(name)[0] for name in ("A", "Z")]
    for play in ("shift", "bend", "shift"):
        panel.settings = {"play": play}
        panel.ui.registerButton.click()
        panel.finish()
        chosen = panel.ui.outputTransformSelector.currentNode()
        wanted = "vtkMRMLGridTransformNode" if play == "bend" else "vtkMRMLLinearTransformNode"
        assert (chosen.GetName(), chosen.GetClassName()) == ("M to F", wanted)
    assert all(panel.host.scene.IsNodePresent(node) for node in others)


def asked_affine(panel, requests) -> np.ndarray:
    """Where the moving volume of a registration lies."""
    assert panel.register().startswith("Done")
    return requests[-1]["moving"].geometry.affine


def test_nodes_that_are_renamed_during_a_run_give_the_result_its_name(panel):
    panel.start()
    panel.moving.SetName("Tuesday")
    panel.ui.cancelButton.click()
    panel.finish()
    panel.settings = {"steps": 20}
    panel.ui.registerButton.click()
    panel.fixed.SetName("Monday")
    assert panel.finish(60).endswith("The result is in 'Tuesday to Monday'.")


def test_an_input_that_is_removed_after_a_run_takes_nothing_of_the_result(panel):
    import slicer

    panel.register()
    transform = panel.ui.outputTransformSelector.currentNode()
    before = panel.make.mapped_by(transform, np.array([[1.0, 2.0, 3.0]]))
    slicer.mrmlScene.RemoveNode(panel.moving)
    assert panel.ui.movingVolumeSelector.currentNode() is None
    assert not panel.ui.registerButton.enabled
    assert panel.ui.statusLabel.text == "Choose a fixed and a moving volume"
    checking = panel.module.widget.panel.checking.ui
    checking.reportButton.click()
    assert panel.ui.statusLabel.text == "'M' is not in the scene any more: register again."
    np.testing.assert_array_equal(panel.make.mapped_by(transform, np.array([[1.0, 2.0, 3.0]])), before)
    assert not panel.running()


def test_a_run_from_the_console_is_named_as_the_reason_to_wait(panel, library):
    logic = library("logic")
    run = logic.register_volumes(panel.fixed, panel.moving, settings={"steps": 3000}, wait=False)
    text = panel.register()
    assert text == "A computation is already running: wait for its end or cancel it."
    run.cancel()
    assert panel.host.spin(20, until=lambda: not run.running)
    assert panel.register().startswith("Done")


def test_a_fixed_volume_under_a_bent_transform_gives_a_result_in_the_world(panel, requests):
    bend = panel.make.bent_parent()
    panel.make.under(panel.fixed, bend)
    assert panel.register().startswith("Done")
    warped = panel.ui.warpedVolumeSelector.currentNode()
    grid = requests[0]["fixed"].geometry
    assert warped.GetParentTransformNode() is None and panel.fixed.GetParentTransformNode() is bend
    assert panel.make.array(warped).shape == grid.shape
    assert np.allclose(panel.make.world_matrix(warped), grid.affine)


SELECTORS = {
    "fixedMask": "vtkMRMLSegmentationNode",
    "movingMask": "vtkMRMLMarkupsROINode",
    "fixedSegmentation": "vtkMRMLSegmentationNode",
    "fixedLandmarks": "vtkMRMLMarkupsFiducialNode",
    "initialTransform": "vtkMRMLGridTransformNode",
    "outputTransform": "vtkMRMLLinearTransformNode",
    "warpedVolume": "vtkMRMLScalarVolumeNode",
    "warpedSegmentation": "vtkMRMLSegmentationNode",
}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_chosen_node_that_is_deleted_gives_way_to_none_and_not_to_a_neighbour(panel, name, place):
    import slicer

    made = [slicer.mrmlScene.AddNewNodeByClass(SELECTORS[name], f"{name} {n}") for n in range(3)]
    selector = getattr(panel.ui, f"{name}Selector")
    selector.setCurrentNode(made[place])
    assert getattr(panel.parameters, name) is made[place]
    slicer.mrmlScene.RemoveNode(made[place])
    assert selector.currentNode() is None and getattr(panel.parameters, name) is None


def test_after_a_result_is_deleted_the_next_one_is_new(panel):
    """The volumes beside it in the selector are the user's own."""
    import slicer

    others = [panel.make.volume(name) for name in ("CT of last year", "Z")]
    before = [panel.make.array(node).copy() for node in others]
    panel.register()
    for name in ("M registered", "M to F"):
        slicer.mrmlScene.RemoveNode(slicer.util.getNode(name))
    assert panel.register().startswith("Done in ")
    for node, array in zip(others, before, strict=True):
        np.testing.assert_array_equal(panel.make.array(node), array)
    names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")]
    assert {"M registered_1", "M to F_1"} <= set(names)
