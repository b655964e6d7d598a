"""Nodes of the scene put under a transform: volumes, segmentations, models, markups."""

import slicer

from .transaction import SceneTransaction

CLASSES = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode")


def transformable_nodes() -> list:
    """The nodes that a transform can be applied to, class by class."""
    found = []
    for name in CLASSES:
        nodes = slicer.util.getNodesByClass(name)
        found += [node for node in nodes if not node.GetHideFromEditors()]
    return found


def apply_transform(transform, chosen: list) -> tuple[list, list]:
    """Put nodes under the transform, in one step for Undo.

    Returns:
        The nodes that are under it now, and those that are not: they have left the scene, or are under
        another transform, from which only the user takes them.
    """
    scene = slicer.mrmlScene
    with SceneTransaction(scene) as transaction:
        for node in chosen:
            if scene.IsNodePresent(node) and node.GetParentTransformNode() is None:
                transaction.set_parent_transform(node, transform)
    applied = [node for node in chosen if node.GetParentTransformNode() is transform]
    return applied, [node for node in chosen if node not in applied]
