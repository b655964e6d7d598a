"""RegCore's synthetic phantom as nodes: two volumes, their segmentations and their landmarks."""

from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

import RegCore
from RegCore.samples.phantom import LABELS
from RegCore.space.volume import Volume

from .reading import image_of, vtk_matrix_of
from .segments import BINARY_LABELMAP

# Colours of the structures, (R, G, B) in 0..1, in the order of their labels.
COLOURS = (
    (0.42, 0.68, 0.84),
    (0.62, 0.79, 0.88),
    (0.80, 0.20, 0.22),
    (0.70, 0.42, 0.30),
    (0.93, 0.69, 0.41),
    (0.55, 0.34, 0.62),
    (0.35, 0.63, 0.38),
    (0.62, 0.78, 0.45),
    (0.93, 0.89, 0.75),
)


@dataclass(frozen=True)
class PhantomNodes:
    """The nodes of one synthetic pair."""

    fixed: object
    moving: object
    fixed_segmentation: object
    moving_segmentation: object
    fixed_landmarks: object
    moving_landmarks: object


def add_phantom(case=None) -> PhantomNodes:
    """Put a case of `RegCore.make_phantom` (None: the default one) into the scene."""
    case = RegCore.make_phantom() if case is None else case
    fixed = _volume(case.fixed, _("Phantom fixed"))
    moving = _volume(case.moving, _("Phantom moving"))
    return PhantomNodes(
        fixed,
        moving,
        _segmentation(case.fixed_labels, fixed, _("Phantom fixed organs")),
        _segmentation(case.moving_labels, moving, _("Phantom moving organs")),
        _landmarks(case.landmarks[:, :3], _("Phantom fixed landmarks")),
        _landmarks(case.landmarks[:, 3:], _("Phantom moving landmarks")),
    )


def _volume(volume: Volume, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(vtk_matrix_of(volume.geometry.affine))
    node.SetAndObserveImageData(image_of(volume.array))
    node.CreateDefaultDisplayNodes()
    low, high = np.percentile(volume.array, (40, 99.5))
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(float(low), float(high))
    return node


def _segmentation(labels: Volume, reference, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(image_of(labels.array.astype(np.uint8)))
    image.SetImageToWorldMatrix(vtk_matrix_of(labels.geometry.affine))
    segmentation = node.GetSegmentation()
    for label, colour in zip(labels.labels(), COLOURS, strict=False):
        segment = slicer.vtkSegment()
        segment.SetName(LABELS[label])
        segment.SetColor(*colour)
        segment.SetLabelValue(label)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        segmentation.AddSegment(segment)
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    node.CreateDefaultDisplayNodes()
    return node


def _landmarks(points: np.ndarray, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    slicer.util.updateMarkupsControlPointsFromArray(node, points)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    return node
