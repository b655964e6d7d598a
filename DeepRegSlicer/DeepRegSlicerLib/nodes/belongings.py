"""What belongs to a volume without having been chosen: the segmentation that was drawn on it, its mask."""

import re

import slicer

MASKS = ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode", "vtkMRMLMarkupsROINode")
ENDING = re.compile(r"[ _-]mask$", re.IGNORECASE)  # of the name of a volume's mask, after that of the volume


def segmentation_drawn_on(volume):
    """The segmentation of the scene that was drawn on a volume and is no mask; None, or of several one."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    found = [node for node in _seen("vtkMRMLSegmentationNode") if not ENDING.search(node.GetName())]
    return next((node for node in found if node.GetNodeReference(role) is volume), None)


def mask_called_after(volume):
    """The segmentation, label map or ROI that is called like the volume, with "mask" at the end; or None."""
    found = (node for name in MASKS for node in _seen(name) if ENDING.search(node.GetName()))
    wanted = volume.GetName().casefold()
    return next((node for node in found if ENDING.sub("", node.GetName()).casefold() == wanted), None)


def _seen(class_name: str) -> list:
    return [node for node in slicer.util.getNodesByClass(class_name) if not node.GetHideFromEditors()]
