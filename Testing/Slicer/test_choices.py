"""Where a registration starts and which segments take part, chosen in the panel."""

import json

import numpy as np
import pytest

from Testing.Slicer.test_outputs import Outputs
from Testing.Slicer.test_user_steps import save


@pytest.fixture
def panel(host, library, stand_in, monkeypatch):
    made = Outputs(host, library, monkeypatch).choose()
    made.ui.advancedSection.collapsed = False
    return made


def landmarks(panel, count=2) -> None:
    """Paired points, chosen in the panel."""
    import slicer

    for name, shift in (("fixed", 0.0), ("moving", 2.0)):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{name} points")
        for n in range(count):
            node.AddControlPoint((n + shift, -4.0 * n, 12.0 + n * n), f"P{n}")
        getattr(panel.ui, f"{name}LandmarksSelector").setCurrentNode(node)


def start(panel, text: str) -> None:
    place = panel.ui.startSelector.findText(text)
    assert place >= 0
    panel.ui.startSelector.currentIndex = place


# ---- the start ---------------------------------------------------------------------------------------------


def test_the_start_offers_what_regcore_knows(panel, library):
    from RegCore.cli.extras import STARTS

    parameters = library("parameters")
    assert [choice.value for choice in parameters.Start] == ["automatic", *STARTS]
    assert set(parameters.START_LABELS) == {"automatic", *STARTS}
    assert panel.ui.startSelector.currentText == "Automatic"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Automatic", None),
        ("As they lie", "header"),
        ("Centres of the volumes", "centres"),
        ("Centres of the bodies", "moments"),
    ],
)
def test_the_chosen_start_reaches_the_process(panel, requests, text, word):  # noqa: F811
    start(panel, text)
    panel.run()
    assert requests[-1]["initial"] == word


def test_a_start_from_landmarks_needs_some(panel, requests):  # noqa: F811
    start(panel, "Landmarks")
    assert not panel.ui.registerButton.enabled
    assert panel.ui.statusLabel.text == "Choose landmarks for both volumes to start from, or another start"
    landmarks(panel)
    assert panel.ui.registerButton.enabled
    panel.run()
    assert requests[-1]["initial"] == "landmarks" and requests[-1]["landmarks"].shape == (2, 6)


def test_a_chosen_transform_takes_the_place_of_the_start(panel, requests):  # noqa: F811
    start(panel, "Landmarks")
    node, matrix = panel.make.linear_parent("First")
    panel.ui.initialTransformSelector.setCurrentNode(node)
    assert not panel.ui.startSelector.enabled and panel.ui.registerButton.enabled
    panel.run()
    np.testing.assert_allclose(requests[-1]["initial"].matrix, np.linalg.inv(matrix), atol=1e-12)


# ---- segments ----------------------------------------------------------------------------------------------


def segmentations(panel) -> None:
    """A segmentation with liver, gut and heart, another one with gut, LIVER and spleen."""
    f, m = panel.make.boxes((14, 16, 12)), panel.make.boxes((11, 9, 13))
    heart, spleen = np.zeros_like(f), np.zeros_like(m)
    heart[10:13, 10:14, 8:11] = 1
    spleen[8:10, 6:8, 9:12] = 1
    fixed = panel.make.segmentation("FX", panel.fixed, {"Liver": f == 1, "Gut": f == 2, "Heart": heart})
    moving = panel.make.segmentation("MX", panel.moving, {"Gut": m == 2, "LIVER": m == 1, "Spleen": spleen})
    panel.ui.fixedSegmentationSelector.setCurrentNode(fixed)
    panel.ui.movingSegmentationSelector.setCurrentNode(moving)


def rows(panel) -> list[str]:
    found = panel.ui.segmentsList
    return [found.item(row).text() for row in range(found.count)]


def warped_names(node) -> list[str]:
    segments = node.GetSegmentation()
    return [segments.GetNthSegment(n).GetName() for n in range(segments.GetNumberOfSegments())]


def test_segments_are_listed_and_those_without_a_partner_are_named(panel):
    assert panel.ui.segmentsList.isHidden()
    segmentations(panel)
    assert not panel.ui.segmentsList.isHidden()
    assert rows(panel) == ["Liver", "Gut", "Spleen (warped only)"]
    assert panel.ui.segmentsNote.text == "Only in 'FX': 'Heart'. Only in 'MX': 'Spleen'."
    panel.run()
    said = "Segments without a partner do not guide: only 'FX' has 'Heart'; only 'MX' has 'Spleen'."
    assert said in panel.ui.statusLabel.text
    panel.ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    assert panel.ui.segmentsNote.text == "Each segment has a partner."


def test_a_segment_that_is_not_ticked_takes_no_part(panel, requests):  # noqa: F811
    segmentations(panel)
    panel.tick(panel.ui.segmentsList, "Liver")
    made = panel.run()
    fixed, moving = requests[-1]["fixed_labels"], requests[-1]["moving_labels"]
    f, m = panel.make.boxes((14, 16, 12)), panel.make.boxes((11, 9, 13))
    np.testing.assert_array_equal(fixed.array == 1, f == 1)
    np.testing.assert_array_equal(moving.array == 1, m == 1)
    assert set(np.unique(moving.array)) == {0, 1}
    assert warped_names(made["MX registered"]) == ["LIVER"]
    panel.tick(panel.ui.segmentsList, "Liver", "Gut", "Spleen (warped only)")
    assert panel.parameters.leftOut == ""
    assert warped_names(panel.run()["MX registered"]) == ["Gut", "LIVER", "Spleen"]


def test_nothing_ticked_is_said(panel):
    segmentations(panel)
    panel.tick(panel.ui.segmentsList, "Spleen (warped only)")
    panel.ui.registerButton.click()
    text = panel.finish()
    assert text.startswith("Segments are paired by their names, but the two segmentations share none:")
    panel.tick(panel.ui.segmentsList)
    panel.ui.registerButton.click()
    assert panel.finish() == (
        "All segments of 'MX' are left out: tick one of them, or choose no segmentation."
    )


def test_segments_of_a_moving_segmentation_alone_can_be_chosen(panel):
    segmentations(panel)
    panel.ui.fixedSegmentationSelector.setCurrentNode(None)
    assert rows(panel) == [f"{name} (warped only)" for name in ("Gut", "LIVER", "Spleen")]
    panel.tick(panel.ui.segmentsList, "Spleen (warped only)")
    assert warped_names(panel.run()["MX registered"]) == ["Spleen"]


def test_a_label_map_is_listed_by_the_names_of_its_labels(panel):
    import slicer

    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "L")
    array = panel.make.boxes((11, 9, 13))
    slicer.util.updateVolumeFromArray(labels, np.ascontiguousarray(array.transpose(2, 1, 0)))
    labels.SetIJKToRASMatrix(panel.make.vtk_matrix(panel.make.MOVING))
    panel.ui.movingSegmentationSelector.setCurrentNode(labels)
    assert rows(panel) == ["Label 1 (warped only)", "Label 2 (warped only)"]


def test_two_single_segments_are_a_pair_whatever_they_are_called(panel, requests):  # noqa: F811
    f, m = panel.make.boxes((14, 16, 12)), panel.make.boxes((11, 9, 13))
    one = panel.make.segmentation("One", panel.fixed, {"Prostate": f == 1})
    two = panel.make.segmentation("Two", panel.moving, {"Gland": m == 1})
    panel.ui.fixedSegmentationSelector.setCurrentNode(one)
    panel.ui.movingSegmentationSelector.setCurrentNode(two)
    assert rows(panel) == ["Prostate"] and panel.ui.segmentsNote.text == "Each segment has a partner."
    panel.run()
    assert "without a partner" not in panel.ui.statusLabel.text
    np.testing.assert_array_equal(requests[-1]["moving_labels"].array == 1, m == 1)


def test_what_is_left_out_is_kept_with_the_scene(panel, tmp_path):
    segmentations(panel)
    panel.tick(panel.ui.segmentsList, "Liver", "Spleen (warped only)")
    url = save(tmp_path)
    panel.host.close_scene()
    assert panel.parameters.left_out() == ()
    panel.host.scene.SetURL(url)
    assert panel.host.scene.Import() and panel.host.errors == []
    assert json.loads(panel.parameters.leftOut) == ["Gut"]
    import qt

    found = panel.ui.segmentsList
    ticked = [found.item(n).text() for n in range(3) if found.item(n).checkState() == qt.Qt.Checked]
    assert ticked == ["Liver", "Spleen (warped only)"]
