"""What is written of the scene for work outside of Slicer: segmentations with names."""

from dataclasses import replace

import slicer
import vtk

from RegCore.space.volume import Segment, Volume

from .segments import label_volumes


def named_labels(node, left_out=()) -> Volume:
    """A segmentation, or a label map volume, as a label map that knows names, colours and terminology.

    Where segments overlap it is 4-D, one channel per segment. left_out: names of segments that are not in it.
    """
    volume, structures = label_volumes(None, node, left_out=left_out)[1:]
    segments = []
    for segment_id, place in structures.moving.items():
        known = structures.metadata[segment_id]
        tags, value = "", vtk.reference("")
        if known.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), value):
            tags = f"{slicer.vtkSegment.GetTerminologyEntryTagName()}:{value.get()}|"
        label = place if structures.overlapping else place + 1
        segments.append(Segment(label, known.GetName(), segment_id, tuple(known.GetColor()), tags))
    return replace(volume, segments=tuple(segments))
