"""The segment selector: which segments it offers, and what it tells in single and in multiple choice."""

import pytest


@pytest.fixture
def segmentation(host):
    node = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name.capitalize())
    return node


@pytest.fixture
def selector(host, segmentation):
    widget = host.slicer.qMRMLSegmentSelectorWidget()
    widget.noneEnabled = True
    widget.setMRMLScene(host.scene)
    yield widget
    widget.deleteLater()


def test_offers_the_segments_of_the_node(selector, segmentation):
    assert selector.currentNode() is None and selector.segmentIDs() == []
    selector.setCurrentNode(segmentation)
    assert selector.currentNodeID() == segmentation.GetID()
    assert selector.segmentIDs() == ["liver", "spleen"] and selector.currentSegmentID() == "liver"


def test_single_choice(selector, segmentation):
    told = []
    selector.setCurrentNode(segmentation)
    selector.connect("currentSegmentChanged(QString)", lambda segment: told.append(segment))
    selector.setCurrentSegmentID("spleen")
    selector.setSelectedSegmentIDs(["liver"])
    assert told == ["spleen"] and selector.currentSegmentID() == "spleen"
    assert selector.selectedSegmentIDs() == []


def test_multiple_choice(selector, segmentation):
    told = []
    selector.multiSelection = True
    selector.setCurrentNode(segmentation)
    selector.segmentSelectionChanged.connect(lambda segments: told.append(list(segments)))
    selector.setSelectedSegmentIDs(["liver", "spleen"])
    selector.setCurrentSegmentID("spleen")
    assert told == [["liver", "spleen"]] and selector.selectedSegmentIDs() == ["liver", "spleen"]
    assert selector.currentSegmentID() == ""


def test_follows_the_node(host, selector, segmentation):
    selector.setCurrentNode(segmentation)
    segmentation.GetSegmentation().AddEmptySegment("kidney", "Kidney")
    assert selector.segmentIDs() == ["liver", "spleen", "kidney"]
    segmentation.GetSegmentation().RemoveSegment("liver")
    assert selector.segmentIDs() == ["spleen", "kidney"] and selector.currentSegmentID() == "spleen"
    host.scene.RemoveNode(segmentation)
    assert selector.currentNode() is None and selector.segmentIDs() == []
