"""MRML nodes to RegCore's values and back; the only place of the module that touches MRML's data.

World coordinates are RAS mm. A node's parent transforms count: what is read is where the user sees it.
"""

from .applying import apply_transform, transformable_nodes
from .more import MoreOutputs, warpable_nodes
from .reading import affine_of_parents, field_of, initial_transform, landmarks, paired_landmarks, volume
from .segments import SegmentNames, Structures, label_volumes, mask, segment_names
from .transaction import is_automatic
from .writing import Outputs, Placement, Prepared, Written, add_map, prepare, write

__all__ = [
    "MoreOutputs",
    "Outputs",
    "Placement",
    "Prepared",
    "SegmentNames",
    "Structures",
    "Written",
    "add_map",
    "affine_of_parents",
    "apply_transform",
    "field_of",
    "initial_transform",
    "is_automatic",
    "label_volumes",
    "landmarks",
    "mask",
    "paired_landmarks",
    "prepare",
    "segment_names",
    "transformable_nodes",
    "volume",
    "warpable_nodes",
    "write",
]
