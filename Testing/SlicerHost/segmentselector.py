"""Slicer's segment selector for tests: qMRMLSegmentSelectorWidget, for segments of one segmentation node."""

import vtk

from . import qt
from .nodecombobox import forget, qMRMLNodeComboBox

Signal, Property = qt.Signal, qt.Property
SEGMENTATION = "vtkMRMLSegmentationNode"


@qt.stand_in
class qMRMLSegmentSelectorWidget(qt.QWidget):
    """A node selector with a list of the chosen node's segments under it.

    As in Slicer: `currentNodeID` is a method here; the segment methods of single choice answer nothing in
    multiple choice, and the other way round.
    """

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)
    segmentSelectionChanged = Signal("QStringList")
    _anyNodeChosen = Signal(bool)
    signatures = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_anyNodeChosen",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._nodes = qMRMLNodeComboBox()
        self._nodes.nodeTypes = [SEGMENTATION]
        self._nodes.addEnabled = self._nodes.removeEnabled = False
        self._segments = qt.QListWidget()
        self._multiple, self._observations = False, []
        observations = self._observations  # the widget itself can't be asked any more when it is destroyed
        self.destroyed.connect(lambda: forget(observations))
        column = qt.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._nodes)
        column.addWidget(self._segments)
        self._nodes.currentNodeChanged.connect(self._on_node)
        self._segments.itemSelectionChanged.connect(self._announce)

    def _set_multiple(self, multiple):
        self._multiple = bool(multiple)
        mode = qt.QAbstractItemView.MultiSelection if multiple else qt.QAbstractItemView.SingleSelection
        self._segments.setSelectionMode(mode)

    noneEnabled = Property(
        bool, lambda self: self._nodes.noneEnabled, lambda self, on: setattr(self._nodes, "noneEnabled", on)
    )
    editEnabled = Property(
        bool, lambda self: self._nodes.editEnabled, lambda self, on: setattr(self._nodes, "editEnabled", on)
    )
    segmentationNodeSelectorVisible = Property(
        bool, lambda self: not self._nodes.isHidden(), lambda self, on: self._nodes.setVisible(on)
    )
    multiSelection = Property(bool, lambda self: self._multiple, _set_multiple)

    def setMRMLScene(self, scene):
        """Offer the segmentations of this scene."""
        self._nodes.setMRMLScene(scene)

    def mrmlScene(self):
        """The scene in use."""
        return self._nodes.mrmlScene()

    def currentNode(self):
        """The chosen segmentation or None."""
        return self._nodes.currentNode()

    def currentNodeID(self):
        """Its ID, empty for none."""
        return self._nodes.currentNodeID

    def setCurrentNode(self, node):
        """Choose a segmentation."""
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id):
        """Choose a segmentation by ID."""
        self._nodes.setCurrentNodeID(node_id)

    def segmentIDs(self):
        """The IDs of all segments offered."""
        return [item.data(qt.Qt.UserRole) for item in self._items()]

    def currentSegmentID(self):
        """The chosen segment's ID, empty for none and in multiple choice."""
        chosen = self._chosen()
        return chosen[0] if chosen and not self._multiple else ""

    def selectedSegmentIDs(self):
        """The chosen segments' IDs in multiple choice."""
        return self._chosen() if self._multiple else []

    def setCurrentSegmentID(self, segment_id):
        """Choose one segment; nothing happens in multiple choice."""
        if not self._multiple:
            self._choose([segment_id])

    def setSelectedSegmentIDs(self, segment_ids):
        """Choose segments; nothing happens in single choice."""
        if self._multiple:
            self._choose(segment_ids)

    def _items(self):
        return [self._segments.item(row) for row in range(self._segments.count)]

    def _chosen(self):
        return [item.data(qt.Qt.UserRole) for item in self._items() if item.isSelected()]

    def _choose(self, segment_ids):
        before = self._segments.blockSignals(True)
        for item in self._items():
            item.setSelected(item.data(qt.Qt.UserRole) in segment_ids)
        self._segments.blockSignals(before)
        self._announce()

    def _announce(self):
        if self._multiple:
            self.segmentSelectionChanged.emit(self._chosen())
        else:
            self.currentSegmentChanged.emit(self.currentSegmentID())

    def _on_node(self, node):
        forget(self._observations)
        if node is not None:
            tag = node.AddObserver(vtk.vtkCommand.AnyEvent, lambda caller, event: self._fill())
            self._observations.append((node, tag))
        self._fill()
        self.currentNodeChanged.emit(node)
        self._anyNodeChosen.emit(node is not None)

    def _fill(self):
        """List the segments again if they or their names changed; keep what is chosen, else the first."""
        segmentation = self._observations[0][0].GetSegmentation() if self._observations else None
        ids = list(segmentation.GetSegmentIDs()) if segmentation is not None else []
        listed = [(segment_id, segmentation.GetSegment(segment_id).GetName()) for segment_id in ids]
        if listed == [(item.data(qt.Qt.UserRole), item.text()) for item in self._items()]:
            return
        chosen = self._chosen()
        before = self._segments.blockSignals(True)
        self._segments.clear()
        for segment_id, name in listed:
            self._segments.addItem(name)
            self._items()[-1].setData(qt.Qt.UserRole, segment_id)
        self._segments.blockSignals(before)
        kept = [segment_id for segment_id in chosen if segment_id in ids]
        self._choose(kept or ([] if self._multiple else ids[:1]))
