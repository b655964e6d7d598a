"""Changes to the scene that all happen or none does."""

import logging
from collections.abc import Callable

import slicer

AUTOMATIC = "DeepRegSlicer.automatic"  # attribute of a node that the program made because none was chosen

log = logging.getLogger(__name__)


def is_automatic(node) -> bool:
    """Whether a registration made the node because the user had chosen none."""
    return node.GetAttribute(AUTOMATIC) is not None


class SceneTransaction:
    """A context in which a scene is changed: one batch for the views, one step for Undo, all or nothing.

    What is changed is told with `undo`; if the context is left by an exception, the steps are taken back in
    reverse order.
    """

    def __init__(self, scene):
        self.scene = scene
        self._steps: list[Callable[[], object]] = []

    def __enter__(self) -> "SceneTransaction":
        self.scene.SaveStateForUndo()
        self.scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is not None:
                for step in reversed(self._steps):
                    step()
        finally:
            self.scene.EndState(slicer.vtkMRMLScene.BatchProcessState)

    def undo(self, step: Callable[[], object]) -> None:
        """How to take back the change that follows."""
        self._steps.append(step)

    def add_node(self, class_name: str, name: str):
        """A new node with a name like that, which no other node has."""
        node = self.scene.AddNewNodeByClass(class_name, self.scene.GenerateUniqueName(name))
        node.SetAttribute(AUTOMATIC, "1")
        self.undo(lambda: self._remove(node))
        return node

    def put_beside(self, node, other) -> None:
        """Place a new node in the folder, study or patient of another one in the subject hierarchy."""
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
        if hierarchy is None:
            return
        beside = hierarchy.GetItemByDataNode(other)
        if beside:
            hierarchy.CreateItem(hierarchy.GetItemParent(beside), node)  # or the one that it has, moved there

    def set_parent_transform(self, node, parent) -> None:
        """Place a node under a transform node, None for the world."""
        before = node.GetTransformNodeID()
        self.undo(lambda: node.SetAndObserveTransformNodeID(before))
        node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)

    def set_reference(self, node, role: str, other) -> None:
        """Set a node's reference in that role."""
        before = node.GetNodeReferenceID(role)
        self.undo(lambda: node.SetNodeReferenceID(role, before))
        node.SetNodeReferenceID(role, other.GetID())

    def ensure_display(self, node) -> bool:
        """Default display nodes, if the node has none; whether it had none."""
        if node.GetDisplayNode() is not None:
            return False
        self.undo(lambda: self._remove_display(node))
        node.CreateDefaultDisplayNodes()
        return True

    def _remove(self, node) -> None:
        self._remove_display(node)
        self.scene.RemoveNode(node)

    def _remove_display(self, node) -> None:
        displays = getattr(node, "GetDisplayNode", None)
        while displays is not None and (display := displays()) is not None:
            node.RemoveNthDisplayNodeID(0)
            self.scene.RemoveNode(display)
