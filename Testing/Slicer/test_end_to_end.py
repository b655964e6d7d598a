"""The whole way with RegCore itself in the child process: nodes, computation, nodes."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def answers(library, monkeypatch):
    """What came back from the child process, as it is written to the scene."""
    process, nodes = library("process"), library("nodes")
    monkeypatch.setattr(process, "worker_command", lambda: [sys.executable, "-m", "RegCore", "worker"])
    monkeypatch.setattr(process, "_shared", None)
    seen, write = [], nodes.write

    def record(*arguments):
        seen.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(nodes, "write", record)
    yield seen
    process.stop_shared_worker()


def choose(ui, made) -> None:
    """Select volumes, segmentations and landmarks of the synthetic phantom."""
    for name in ("fixed", "moving"):
        for kind, suffix in (("Volume", ""), ("Segmentation", "_segmentation"), ("Landmarks", "_landmarks")):
            getattr(ui, f"{name}{kind}Selector").setCurrentNode(getattr(made, name + suffix))


def register_in_panel(host, made):
    """Click Register and wait for the result; the stages have to be told on the way."""
    panel = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    choose(panel.ui, made)
    stages = set()
    panel.ui.registerButton.click()
    while panel.widget.panel.run is not None:
        host.spin(0.02)
        stages.add(panel.ui.statusLabel.text.split(" · ")[0])
    assert panel.ui.statusLabel.text.startswith("Done"), panel.ui.statusLabel.text
    assert any("eformable" in stage for stage in stages), stages
    return panel


@pytest.mark.slow
def test_the_panel_registers_with_regcore(host, library, answers):
    import RegCore
    from Testing.Slicer import scenes

    case = RegCore.make_phantom(fixed_shape=(30, 26, 24), moving_shape=(28, 27, 25), landmarks=40)
    made = library("nodes.phantom").add_phantom(case)
    bed, _ = scenes.linear_parent("Bed")
    for node in (made.fixed, made.fixed_segmentation, made.fixed_landmarks):
        scenes.under(node, bed)
    panel = register_in_panel(host, made)
    ui, parameters = panel.ui, panel.widget.panel.parameters
    transform, warped, labels = answers[0][:3]
    node = parameters.outputTransform
    assert node.GetClassName() == "vtkMRMLGridTransformNode"
    grid = library("nodes").volume(made.fixed).geometry
    points = grid.to_world(np.random.default_rng(0).uniform(0, 22, (1000, 3)))
    np.testing.assert_allclose(scenes.mapped_by(node, points), transform.map(points), atol=1e-4)
    np.testing.assert_array_equal(scenes.array(parameters.warpedVolume), warped.array)
    np.testing.assert_allclose(
        scenes.world_matrix(parameters.warpedVolume), scenes.world_matrix(made.fixed), atol=1e-6
    )
    spleen = made.moving_segmentation.GetSegmentation().GetSegmentIdBySegmentName("spleen")
    found = scenes.segment_mask(parameters.warpedSegmentation, spleen, made.fixed)
    np.testing.assert_array_equal(found, labels.array == answers[0][3].moving[spleen] + 1)
    table = {ui.resultTable.item(row, 0).text(): row for row in range(ui.resultTable.rowCount)}
    row = table["TRE of landmarks, mean"]
    before, after = (float(ui.resultTable.item(row, column).text().removesuffix(" mm")) for column in (1, 2))
    assert after < 0.5 * before
    mapped = scenes.mapped_by(
        node, library("nodes").landmarks(made.fixed_landmarks, made.moving_landmarks)[:, :3]
    )
    distance = np.linalg.norm(mapped - case.landmarks[:, 3:], axis=1).mean()
    assert distance == pytest.approx(after, abs=0.01)


@pytest.mark.slow
def test_a_moving_segmentation_alone_is_warped_by_the_transform(host, library, answers):
    import RegCore
    from Testing.Slicer import scenes

    case = RegCore.make_phantom(fixed_shape=(22, 20, 18), moving_shape=(21, 22, 19), landmarks=9)
    made = library("nodes.phantom").add_phantom(case)
    result = library("logic").register_volumes(
        made.fixed, made.moving, method="rigid", moving_segmentation=made.moving_segmentation
    )
    assert result.transform.GetClassName() == "vtkMRMLLinearTransformNode"
    transform, _, labels = answers[0][:3]
    index = case.moving.geometry.to_index(transform.map(case.fixed.geometry.world_grid()))
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= 0) & (nearest < case.moving.array.shape)).all(-1)
    expected = np.zeros(case.fixed.array.shape, int)
    expected[inside] = case.moving_labels.array[tuple(nearest[inside].T)]
    clear = (np.abs(index - np.floor(index) - 0.5) > 0.01).all(-1)  # no tie between two voxels
    np.testing.assert_array_equal(labels.array[clear], expected[clear])
    assert (
        scenes.segment_mask(
            result.warped_segmentation,
            result.warped_segmentation.GetSegmentation().GetNthSegmentID(3),
            made.fixed,
        ).sum()
        > 10
    )


@pytest.mark.slow
@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_an_empty_segment_is_named_and_the_others_are_measured(host, library, answers, side):
    import slicer

    import RegCore

    case = RegCore.make_phantom(fixed_shape=(24, 22, 20), moving_shape=(23, 24, 21), landmarks=9)
    made = library("nodes.phantom").add_phantom(case)
    node, volume = getattr(made, f"{side}_segmentation"), getattr(made, side)
    segment = node.GetSegmentation().GetSegmentIdBySegmentName("spleen")
    nothing = np.zeros_like(slicer.util.arrayFromVolume(volume), np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(nothing, node, segment, volume)
    panel = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    choose(panel.ui, made)
    panel.ui.presetSelector.currentIndex = panel.ui.presetSelector.findText("Rigid")
    panel.ui.registerButton.click()
    assert host.spin(120, until=lambda: panel.widget.panel.run is None)
    text = panel.ui.statusLabel.text
    assert text.startswith("Done in ") and "Empty in one segmentation or in both: 'spleen'." in text
    table = panel.widget.panel.checking.ui.structureTable
    names = [table.item(row, 0).text() for row in range(table.rowCount)]
    assert "liver" in names and "spleen" not in names


def label_map(name: str, labels):
    """A label map volume node with the labels of a volume."""
    import slicer

    from Testing.Slicer import scenes

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    voxels = labels.array.transpose(2, 1, 0).astype(np.int16)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(voxels))
    node.SetIJKToRASMatrix(scenes.vtk_matrix(labels.geometry.affine))
    return node


@pytest.mark.slow
@pytest.mark.parametrize("fixed_too", [False, True], ids=["to an image", "to a label map"])
def test_a_label_map_is_registered_and_warped_as_labels(host, library, answers, tmp_path, fixed_too):
    import slicer

    import RegCore
    from Testing.Slicer import scenes

    case = RegCore.make_phantom(fixed_shape=(26, 24, 22), moving_shape=(25, 26, 23), landmarks=9)
    fixed = library("nodes.phantom").add_phantom(case).fixed
    fixed = label_map("Fixed labels", case.fixed_labels) if fixed_too else fixed
    panel = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    ui = panel.ui
    ui.fixedVolumeSelector.setCurrentNode(fixed)
    ui.movingVolumeSelector.setCurrentNode(label_map("Labels", case.moving_labels))
    ui.presetSelector.currentIndex = ui.presetSelector.findText("Rigid")
    ui.interpolationSelector.currentIndex = ui.interpolationSelector.findText("Cubic")
    ui.registerButton.click()
    assert host.spin(120, until=lambda: panel.widget.panel.run is None)
    assert ui.statusLabel.text.startswith("Done in "), ui.statusLabel.text
    warped = ui.warpedVolumeSelector.currentNode()
    expected = RegCore.warp(case.moving_labels, answers[0][0], case.fixed.geometry)
    np.testing.assert_array_equal(scenes.array(warped), expected.array)
    assert warped.GetClassName() == "vtkMRMLLabelMapVolumeNode" and len(np.unique(expected.array)) > 3
    views = panel.widget.panel.checking.ui
    assert not views.checkerboardButton.enabled
    views.reportPath.currentPath = str(tmp_path)
    views.reportButton.click()
    assert host.spin(120, until=lambda: panel.widget.panel.run is None)
    assert ui.statusLabel.text.startswith("The report is in "), ui.statusLabel.text
    ui.swapButton.click()
    assert ui.fixedVolumeSelector.currentNode().GetName() == "Labels"
    assert slicer.util.getNode("Labels") and ui.registerButton.enabled


def test_regcores_own_sentence_reaches_the_user(host, library, answers):
    from Testing.Slicer import scenes

    fixed = scenes.volume("F")
    flat = scenes.volume("Flat", array=np.zeros((9, 8, 7), np.float32))
    before = scenes.inventory()
    logic = library("logic")
    with pytest.raises(logic.RegistrationError, match="constant"):
        logic.register_volumes(fixed, flat, method="rigid")
    with pytest.raises(logic.RegistrationError, match="teleport"):
        logic.register_volumes(fixed, flat, method="teleport")
    assert answers == []
    assert scenes.inventory() == before


@pytest.mark.slow
def test_the_shipped_self_test_passes(host, library, answers):
    """What "Reload and Test" runs."""
    module = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    module.file.DeepRegSlicerTest().runTest()
    assert len(answers) == 2


def test_the_self_test_says_that_it_needs_packages(host, library, answers, monkeypatch):
    monkeypatch.setattr(library("install"), "missing_packages", lambda: ["torch"])
    module = host.load_module(ROOT / "DeepRegSlicer" / "DeepRegSlicer.py")
    said = []
    test = module.file.DeepRegSlicerTest()
    test.delayDisplay = lambda text, *more: said.append(text)
    test.runTest()
    assert said == ["Not tested: these Python packages are missing: torch"] and answers == []
