"""What a user does after the first result, and while one is on its way: every step through the widgets."""

import gc

import numpy as np
import pytest

from Testing.Slicer.test_panel import MODULE, Panel


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    return Panel(host, library, monkeypatch)


def pair_of(transform) -> tuple[str, str]:
    """The names of the volumes that a transform registers, fixed and moving."""
    roles = ("spatialRegistrationFixed", "spatialRegistrationMoving")
    return tuple(transform.GetNodeReference(role).GetName() for role in roles)


def transforms() -> dict[str, tuple[str, str]]:
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLTransformNode")
    nodes = [node for node in nodes if node.GetNodeReference("spatialRegistrationFixed")]
    return {
        node.GetName(): pair_of(node) for node in nodes if node.GetNodeReference("spatialRegistrationFixed")
    }


def layers() -> tuple[str, str]:
    """The names of the volumes in the background and in the foreground of the slice views."""
    import slicer

    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    ids = node.GetBackgroundVolumeID(), node.GetForegroundVolumeID()
    return tuple(slicer.mrmlScene.GetNodeByID(one).GetName() for one in ids)


# ---- outputs: those that the program chose and those that the user chose -----------------------------------


def test_a_second_pair_leaves_the_first_result_as_it_is(panel):
    panel.choose().register()
    first = panel.make.inventory()
    ui = panel.ui
    ui.fixedVolumeSelector.setCurrentNode(panel.make.volume("C"))
    assert ui.outputTransformSelector.currentNode() is None and ui.warpedVolumeSelector.currentNode() is None
    ui.movingVolumeSelector.setCurrentNode(panel.make.volume("D", (11, 9, 13), panel.make.MOVING))
    assert panel.register().startswith("Done")
    assert transforms() == {"M to F": ("F", "M"), "D to C": ("C", "D")}
    assert {key: panel.make.inventory()[key] for key in first} == first
    assert ui.warpedVolumeSelector.currentNode().GetName() == "D registered"


def test_swapping_the_volumes_gives_a_result_of_its_own(panel):
    panel.choose().register()
    panel.ui.fixedVolumeSelector.setCurrentNode(panel.moving)
    panel.ui.movingVolumeSelector.setCurrentNode(panel.fixed)
    panel.register()
    assert transforms() == {"M to F": ("F", "M"), "F to M": ("M", "F")}


def test_a_result_can_be_the_next_moving_volume(panel):
    panel.choose().register()
    panel.ui.movingVolumeSelector.setCurrentNode(panel.host.slicer.util.getNode("M registered"))
    assert panel.register().startswith("Done")
    assert transforms() == {"M to F": ("F", "M"), "M registered to F": ("F", "M registered")}


def test_a_result_can_be_the_next_initial_transform(panel):
    panel.choose().register()
    first = panel.host.slicer.util.getNode("M to F")
    points = np.array([[1.0, 2.0, 3.0], [-9.0, 4.0, 7.0]])
    before = panel.make.mapped_by(first, points)
    panel.ui.initialTransformSelector.setCurrentNode(first)
    panel.settings = {"play": "bend"}
    panel.ui.registerButton.click()
    panel.finish()
    assert panel.ui.initialTransformSelector.currentNode() is first
    np.testing.assert_array_equal(panel.make.mapped_by(first, points), before)
    assert panel.ui.outputTransformSelector.currentNode().GetClassName() == "vtkMRMLGridTransformNode"
    assert len(transforms()) == 2


def test_other_segmentations_give_a_warped_segmentation_of_their_own(panel):
    panel.choose()
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    panel.register()
    again = panel.make.segmentation("T", panel.moving, {"Tumour": panel.make.boxes((11, 9, 13)) == 1})
    panel.ui.movingSegmentationSelector.setCurrentNode(again)
    panel.register()
    names = [node.GetName() for node in panel.host.slicer.util.getNodesByClass("vtkMRMLSegmentationNode")]
    assert {"MS registered", "T registered"} <= set(names)


def test_an_output_of_the_users_choice_stays_chosen(panel):
    mine, _ = panel.make.linear_parent("Mine")
    panel.choose()
    panel.ui.outputTransformSelector.setCurrentNode(mine)
    panel.register()
    panel.ui.fixedVolumeSelector.setCurrentNode(panel.make.volume("C"))
    assert panel.ui.outputTransformSelector.currentNode() is mine
    panel.settings = {"play": "bend"}  # a field, which another class of node has to hold
    panel.ui.registerButton.click()
    panel.finish()
    assert panel.ui.outputTransformSelector.currentNode().GetName() == "Mine"
    panel.ui.movingVolumeSelector.setCurrentNode(panel.make.volume("D"))
    assert panel.ui.outputTransformSelector.currentNode().GetName() == "Mine"


# ---- during a run ------------------------------------------------------------------------------------------


@pytest.fixture
def views(host):
    host.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")


def slow(panel):
    """Click Register with a run that takes a moment, and wait until it is under way."""
    panel.settings = {"steps": 60}
    panel.ui.registerButton.click()
    assert panel.host.spin(20, until=lambda: "iteration" in panel.ui.statusLabel.text)


def test_a_run_shows_its_own_nodes_whatever_is_chosen_meanwhile(panel, views):
    other = panel.make.volume("OTHER")
    slow(panel.choose())
    panel.ui.fixedVolumeSelector.setCurrentNode(other)
    assert panel.finish(60).startswith("Done")
    assert layers() == ("F", "M registered")
    assert panel.ui.outputTransformSelector.currentNode() is None  # OTHER has no result yet
    slow(panel)
    panel.ui.fixedVolumeSelector.setCurrentNode(None)
    assert panel.finish(60).startswith("Done")
    assert layers() == ("OTHER", "M registered_1")


def test_an_output_chosen_during_a_run_is_not_deselected(panel):
    mine, _ = panel.make.linear_parent("Mine")
    slow(panel.choose())
    panel.ui.outputTransformSelector.setCurrentNode(mine)
    assert panel.finish(60).startswith("Done")
    assert panel.ui.outputTransformSelector.currentNode() is mine
    assert "M to F" in transforms()


def test_a_segment_that_is_removed_during_a_run_is_in_the_result(panel):
    panel.choose()
    panel.ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    slow(panel)
    panel.moving_segmentation.GetSegmentation().RemoveSegment("id-Liver")
    assert panel.finish(60).startswith("Done")
    found = panel.ui.warpedSegmentationSelector.currentNode().GetSegmentation()
    assert [found.GetNthSegment(n).GetName() for n in range(2)] == ["Liver", "Gut"]
    assert found.GetSegment("id-Liver").GetColor() == pytest.approx((0.8, 0.1, 0.2))


# ---- what the status line says -----------------------------------------------------------------------------


def test_the_status_is_about_what_is_chosen_now(panel):
    ui = panel.choose().ui
    assert panel.register().startswith("Done")
    ui.movingVolumeSelector.setCurrentNode(None)
    assert ui.statusLabel.text == "Choose a fixed and a moving volume"
    ui.movingVolumeSelector.setCurrentNode(panel.moving)
    assert ui.statusLabel.text == "Ready"
    panel.settings = {"play": "input"}
    ui.registerButton.click()
    assert "the image is constant" in panel.finish()
    ui.seedSpinBox.value = 3
    assert ui.statusLabel.text == "Ready"


def test_landmarks_that_are_left_out_are_said(panel):
    import slicer

    lists = []
    for side in ("fixed", "moving"):
        lists.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side))
        for k in range(3):
            lists[-1].AddControlPoint(k, k, k)
        getattr(panel.ui, f"{side}LandmarksSelector").setCurrentNode(lists[-1])
    lists[0].UnsetNthControlPointPosition(1)
    text = panel.choose().register()
    assert text.endswith("Landmarks that are not set in both lists were left out: '2'.")
    assert text.startswith("Done") and "left out: '2'" in panel.ui.logText.plainText


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "The computer has too little memory for this"),
        (PermissionError("no"), "This failed unexpectedly (PermissionError: no)."),
    ],
)
def test_no_exception_leaves_the_panel_busy(panel, library, monkeypatch, error, sentence):
    def fail(*given, **more):
        raise error

    ui = panel.choose().ui
    with monkeypatch.context() as patched:
        patched.setattr(library("panels.register"), "register_volumes", fail)
        ui.registerButton.click()
    assert ui.statusLabel.text.startswith(sentence)
    assert ui.registerButton.enabled and not ui.cancelButton.enabled and not ui.progressBar.visible
    assert panel.register().startswith("Done")


def test_a_result_that_can_not_be_shown_leaves_the_panel_usable(panel, library, monkeypatch):
    def fail(*given):
        raise ValueError("no views")

    monkeypatch.setattr(library("panels.register"), "show_over", fail)
    assert "ValueError: no views" in panel.choose().register()
    assert panel.ui.registerButton.enabled and not panel.ui.progressBar.visible


# ---- the transform alone -----------------------------------------------------------------------------------


def moving_landmarks(panel):
    for side in ("fixed", "moving"):
        node = panel.host.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side)
        node.AddControlPoint(1, 2, 3)
        getattr(panel.ui, f"{side}LandmarksSelector").setCurrentNode(node)
    return node


def test_without_a_warped_volume_the_moving_nodes_show_the_result(panel, views):
    ui, landmarks = panel.choose().ui, moving_landmarks(panel)
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    assert ui.applyCheckBox.checked and not ui.applyCheckBox.enabled
    ui.createImagesCheckBox.checked = False
    assert ui.applyCheckBox.enabled and not ui.warpedVolumeSelector.enabled
    panel.register()
    transform = ui.outputTransformSelector.currentNode()
    for node in (panel.moving, panel.moving_segmentation, landmarks):
        assert node.GetParentTransformNode() is transform
    assert layers() == ("F", "M")


@pytest.mark.parametrize("why", ["switched off", "under another transform"])
def test_the_moving_nodes_stay_where_they_are(panel, why):
    ui = panel.choose().ui
    ui.createImagesCheckBox.checked = False
    parent = None
    if why == "switched off":
        ui.applyCheckBox.checked = False
    else:
        parent, _ = panel.make.linear_parent("Bed")
        panel.make.under(panel.moving, parent)
    assert panel.register().startswith("Done")
    assert panel.moving.GetParentTransformNode() is parent


# ---- what the result looks like ----------------------------------------------------------------------------


def test_the_warped_volume_has_the_moving_ones_type_unit_and_place(panel):
    import slicer

    voxels = (panel.make.blobs((11, 9, 13)) * 900).astype(np.int16)
    moving = panel.make.volume("CT", matrix=panel.make.MOVING, array=voxels)
    quantity, unit = slicer.vtkCodedEntry(), slicer.vtkCodedEntry()
    quantity.SetValueSchemeMeaning("112031", "DCM", "Attenuation Coefficient")
    unit.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    moving.SetVoxelValueQuantity(quantity)
    moving.SetVoxelValueUnits(unit)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = tree.CreateStudyItem(tree.GetSceneItemID(), "Study")
    tree.CreateItem(study, moving)  # Slicer makes the items by itself
    ui = panel.choose().ui
    ui.movingVolumeSelector.setCurrentNode(moving)
    panel.register()
    warped = ui.warpedVolumeSelector.currentNode()
    assert panel.make.array(warped).dtype == np.int16
    assert warped.GetVoxelValueUnits().GetCodeMeaning() == "Hounsfield unit"
    assert warped.GetVoxelValueQuantity().GetCodeValue() == "112031"
    for node in (warped, ui.outputTransformSelector.currentNode()):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study
    rounded = panel.make.array(warped).copy()
    ui.voxelTypeSelector.currentIndex = ui.voxelTypeSelector.findText("Float, 32 bit")
    panel.register()
    exact = panel.make.array(warped)
    assert exact.dtype.kind == "f" and (exact != np.rint(exact)).any()
    np.testing.assert_array_equal(np.clip(np.rint(exact), -32768, 32767).astype(np.int16), rounded)


def test_a_label_map_is_warped_as_labels(panel):
    import slicer

    labels = np.array([0, 3, 7], np.int16)[panel.make.boxes((11, 9, 13))]
    moving = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    slicer.util.updateVolumeFromArray(moving, np.ascontiguousarray(labels.transpose(2, 1, 0)))
    moving.SetIJKToRASMatrix(panel.make.vtk_matrix(panel.make.MOVING))
    panel.choose().ui.movingVolumeSelector.setCurrentNode(moving)
    for _run in range(2):  # the second one overwrites the first
        assert panel.register().startswith("Done in ")
        warped = panel.ui.warpedVolumeSelector.currentNode()
        assert (warped.GetName(), warped.GetClassName()) == ("Labels registered", "vtkMRMLLabelMapVolumeNode")
        array = panel.make.array(warped)
        assert array.dtype == np.int16 and set(np.unique(array)) == {0, 3, 7}
    panel.ui.movingVolumeSelector.setCurrentNode(panel.moving)
    panel.ui.warpedVolumeSelector.setCurrentNode(warped)
    text = "'Labels registered' is a label map, which the moving volume 'M' is not: choose another"
    assert panel.register() == f"{text} warped volume." and set(np.unique(panel.make.array(warped))) == {
        0,
        3,
        7,
    }


# ---- scenes and reloads ------------------------------------------------------------------------------------


def save(folder) -> str:
    """Write the scene with all that it holds; the path of its file."""
    import slicer

    scene = slicer.mrmlScene
    for number in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(number)
        if node.IsA("vtkMRMLStorableNode") and node.GetSaveWithScene() and node.AddDefaultStorageNode():
            storage = node.GetStorageNode()
            storage.SetFileName(str(folder / f"{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"))
            storage.WriteData(node)
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Commit()
    return scene.GetURL()


def test_a_scene_that_is_loaded_while_the_module_is_open_is_seen(panel, tmp_path):
    ui = panel.choose().ui
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    ui.seedSpinBox.value = 7
    panel.register()
    url = save(tmp_path)
    panel.host.close_scene()
    assert ui.fixedVolumeSelector.currentNode() is None and ui.seedSpinBox.value == 0
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import() and panel.host.errors == []
    names = {
        "fixedVolumeSelector": "F",
        "movingVolumeSelector": "M",
        "movingSegmentationSelector": "MS",
        "outputTransformSelector": "M to F",
        "warpedVolumeSelector": "M registered",
        "warpedSegmentationSelector": "MS registered",
    }
    found = {name: getattr(ui, name).currentNode() for name in names}
    assert {name: node and node.GetName() for name, node in found.items()} == names
    assert ui.seedSpinBox.value == 7 and ui.registerButton.enabled and ui.statusLabel.text == "Ready"
    assert panel.register().startswith("Done")
    assert list(transforms()) == ["M to F"]  # the same pair: its result is written anew


def test_a_module_that_was_closed_leaves_nothing_that_the_scene_could_call(panel):
    node = panel.parameters.parameterNode
    panel.choose()
    for _ in range(3):
        panel.host.close_module(panel.module)
        panel.module = None
        gc.collect()
        node.Modified()
        panel.module = panel.host.load_module(MODULE)
        assert panel.module.logic.getParameterNode() is panel.module.logic.getParameterNode()
    for _ in range(3):
        panel.host.close_scene()
        gc.collect()
        node.Modified()
    assert panel.parameters is not None
