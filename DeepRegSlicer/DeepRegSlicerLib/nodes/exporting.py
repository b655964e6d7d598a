"""What is written of the scene for work outside of Slicer: segmentations with names, and whose they are."""

from dataclasses import replace

import slicer
import vtk

from RegCore.space.volume import Segment, Volume

from .segments import label_volumes


def named_labels(node) -> Volume:
    """A segmentation, or a label map volume, as a label map that knows names, colours and terminology.

    Where segments overlap it is 4-D, one channel per segment.
    """
    volume, structures = label_volumes(None, node)[1:]
    segments = []
    for segment_id, place in structures.moving.items():
        known = structures.metadata[segment_id]
        tags, value = "", vtk.reference("")
        if known.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), value):
            tags = f"{slicer.vtkSegment.GetTerminologyEntryTagName()}:{value.get()}|"
        label = place if structures.overlapping else place + 1
        segments.append(Segment(label, known.GetName(), segment_id, tuple(known.GetColor()), tags))
    return replace(volume, segments=tuple(segments))


def segmentation_drawn_on(volume):
    """The segmentation of the scene that was drawn on a volume; None if there is none, of several one."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    found = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    there = (node for node in found if not node.GetHideFromEditors())
    return next((node for node in there if node.GetNodeReference(role) is volume), None)
