"""The transform on other nodes of the scene, swapped volumes, and what is said of a doubtful result."""

import numpy as np
import pytest

from Testing.Slicer.test_panel import Panel


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    return Panel(host, library, monkeypatch)


def names(ui) -> dict[str, bool]:
    """The nodes in the list, and whether each is ticked."""
    items = [ui.applyList.item(row) for row in range(ui.applyList.count)]
    return {item.text(): item.checkState() == _checked() for item in items}


def _checked():
    import qt

    return qt.Qt.Checked


def tick(ui, *wanted) -> None:
    for row in range(ui.applyList.count):
        if ui.applyList.item(row).text() in wanted:
            ui.applyList.item(row).setCheckState(_checked())


def test_the_transform_is_applied_to_the_ticked_nodes_in_one_step(panel):
    import slicer

    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Tumour")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    other = panel.make.volume("PET", (11, 9, 13), panel.make.MOVING)
    bed, _ = panel.make.linear_parent("Bed")
    elsewhere = panel.make.under(panel.make.volume("CT"), bed)
    ui = panel.ui
    assert ui.applySection.collapsed and not ui.applyButton.enabled
    panel.choose().register()
    assert names(ui) == dict.fromkeys(
        ("F", "M", "PET", "CT", "M registered", "FS", "MS", "Tumour", "Points"), False
    )
    tick(ui, "Tumour", "Points", "PET", "CT")
    ui.applyButton.click()
    transform = ui.outputTransformSelector.currentNode()
    for node in (model, points, other):
        assert node.GetParentTransformNode() is transform
    assert elsewhere.GetParentTransformNode() is bed and panel.moving.GetParentTransformNode() is None
    text = "The transform 'M to F' is applied to 'PET', 'Tumour', 'Points'."
    assert ui.statusLabel.text == f"{text} Under another transform, or gone: 'CT'."
    assert [name for name, ticked in names(ui).items() if ticked] == ["PET", "Tumour", "Points"]


def test_a_node_that_is_gone_is_said(panel):
    panel.make.volume("PET")
    panel.choose().register()
    tick(panel.ui, "PET", "M")
    panel.host.scene.RemoveNode(panel.host.slicer.util.getNode("PET"))
    panel.ui.applyButton.click()
    assert panel.ui.statusLabel.text.endswith("applied to 'M'. Under another transform, or gone: 'PET'.")


def test_the_section_follows_the_chosen_transform(panel):
    ui = panel.ui
    mine, _ = panel.make.linear_parent("Mine")
    panel.make.under(panel.moving, mine)
    ui.outputTransformSelector.setCurrentNode(mine)
    ui.applySection.collapsed = False
    assert [name for name, ticked in names(ui).items() if ticked] == ["M"]
    ui.outputTransformSelector.setCurrentNode(None)
    ui.applySection.collapsed = True
    assert names(ui) == {} and not ui.applyButton.enabled


def test_one_click_swaps_all_that_is_fixed_and_moving(panel):
    import slicer

    ui = panel.choose().ui
    lists = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in "ab"]
    ui.fixedLandmarksSelector.setCurrentNode(lists[0])
    ui.movingLandmarksSelector.setCurrentNode(lists[1])
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    ui.fixedMaskSelector.setCurrentNode(panel.fixed_segmentation)
    ui.initialTransformSelector.setCurrentNode(panel.make.linear_parent("Start")[0])
    for node in lists:
        node.AddControlPoint(1, 2, 3)
    ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    panel.register()
    ui.swapButton.click()
    current = {name: getattr(ui, f"{name}Selector").currentNode() for name in ("fixedVolume", "movingVolume")}
    assert current == {"fixedVolume": panel.moving, "movingVolume": panel.fixed}
    assert ui.fixedSegmentationSelector.currentNode() is panel.moving_segmentation
    assert ui.movingSegmentationSelector.currentNode() is panel.fixed_segmentation
    assert ui.fixedMaskSelector.currentNode() is None
    assert ui.movingMaskSelector.currentNode() is panel.fixed_segmentation
    assert ui.fixedLandmarksSelector.currentNode() is lists[1]
    assert ui.initialTransformSelector.currentNode() is None
    assert ui.outputTransformSelector.currentNode() is None  # the first result stays as it is
    assert panel.register().startswith("Done")
    panel.start()
    assert not ui.swapButton.enabled
    ui.cancelButton.click()
    panel.finish()


def test_landmarks_guide_if_it_is_wished(panel, stand_in, monkeypatch):
    import slicer

    seen = {}
    request = type(stand_in).request

    def record(self, command, arguments, *rest):
        seen.update(arguments)
        return request(self, command, arguments, *rest)

    monkeypatch.setattr(type(stand_in), "request", record)
    ui = panel.choose().ui
    assert not ui.guideCheckBox.enabled
    for side in ("fixed", "moving"):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", side)
        node.AddControlPoint(1, 2, 3)
        getattr(ui, f"{side}LandmarksSelector").setCurrentNode(node)
    panel.register()
    assert ui.guideCheckBox.enabled and "landmark_weight" not in (seen["settings"] or {})
    ui.guideCheckBox.checked = True
    panel.register()
    assert seen["settings"]["landmark_weight"] > 0
    ui.methodSelector.currentIndex = ui.methodSelector.findText("Rigid: shift and turn")
    assert not ui.guideCheckBox.enabled
    panel.register()
    assert "landmark_weight" not in (seen["settings"] or {})


@pytest.mark.parametrize(
    ("metrics", "sentences"),
    [
        ({"dice_mean": {"before": 0.4, "after": 0.9}, "fold_percent": 0.0}, []),
        ({"ncc": {"before": 0.4, "after": 0.9}, "fold_percent": 0.31}, ["0.31 % of the voxels fold."]),
        (
            {"ncc": {"before": 0.4, "after": 0.9}, "dice": {"before": {"Gut": 0.8}, "after": {"Gut": 0.7}}},
            ["The overlap became worse: Gut."],
        ),
        (
            {"ncc": {"before": 0.4, "after": 0.4}, "tre_mm": {"before": 3, "after": 4}},
            ["No figure improved."],
        ),
        ({"dice": {"before": {}, "after": {"Gut": np.nan}}}, []),
        ({"doubts": ["it failed"], "notes": ["it lay apart"]}, ["It failed.", "It lay apart."]),
    ],
)
def test_what_speaks_against_a_result_is_said_in_words(library, metrics, sentences):
    assert library("panels.results").doubts(metrics) == sentences
