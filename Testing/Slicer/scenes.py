"""Nodes for the tests: volumes on odd grids, segmentations with colours and terminology, transforms."""

import numpy as np
import slicer
import vtk

OBLIQUE = np.array([[1.1, 0.2, 0.0, -7.0], [-0.3, 0.9, 0.1, 4.0], [0.0, 0.1, 2.5, 11.0], [0, 0, 0, 1.0]])
LEFT_HANDED = np.array([[-1.4, 0.0, 0.2, 9.0], [0.1, 1.2, 0.0, -3.0], [0.3, 0.0, 1.9, 2.0], [0, 0, 0, 1.0]])
TERMINOLOGY = "Segmentation category and type~SCT^85756007^Tissue~SCT^10200004^Liver~^^~~^^~^^"


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The matrix with its axes made orthogonal, lengths and handedness kept: what a volume node can hold."""
    out = matrix.copy()
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    u, _, v = np.linalg.svd(matrix[:3, :3] / lengths)
    out[:3, :3] = (u @ v) * lengths
    return out


FIXED, MOVING = orthogonal(OBLIQUE), orthogonal(LEFT_HANDED)


def vtk_matrix(matrix) -> vtk.vtkMatrix4x4:
    return slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=float))


def blobs(shape, seed=0) -> np.ndarray:
    """A smooth image (I, J, K) float32 without symmetry."""
    i, j, k = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return (100 * np.sin(3 * i + seed) * np.cos(2 * j) + 60 * k * i + 20 * j).astype(np.float32)


def volume(name: str, shape=(14, 16, 12), matrix=FIXED, array=None):
    """A scalar volume node with display node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    array = blobs(shape) if array is None else array
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0)))
    node.SetIJKToRASMatrix(vtk_matrix(matrix))
    node.CreateDefaultDisplayNodes()
    return node


def boxes(shape) -> np.ndarray:
    """A label map (I, J, K) with the labels 1 and 2."""
    labels = np.zeros(shape, np.uint8)
    a, b, c = (n // 4 for n in shape)
    labels[a : 2 * a, b : 3 * b, c : 3 * c] = 1
    labels[2 * a : 3 * a, b : 2 * b, c : 2 * c] = 2
    return labels


def segmentation(name: str, reference, masks: dict, colours=((0.8, 0.1, 0.2), (0.1, 0.7, 0.3), (0, 0, 1))):
    """A segmentation node with a segment per mask (I, J, K); the ids are "id-<name>"."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    for (segment, mask), colour in zip(masks.items(), colours, strict=False):
        made = node.GetSegmentation().AddEmptySegment(f"id-{segment}", segment, colour)
        array = np.ascontiguousarray(mask.astype(np.uint8).transpose(2, 1, 0))
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, made, reference)
        tag = slicer.vtkSegment.GetTerminologyEntryTagName()
        node.GetSegmentation().GetSegment(made).SetTag(tag, TERMINOLOGY)
    return node


def linear_parent(name="Bed", shear=0.0):
    """A linear transform node: a turn, a scale, a shift and, if asked for, a shear."""
    matrix = np.array([[0.96, -0.28, shear, 12], [0.28, 0.96, 0, -8], [0, 0, 1.1, 5], [0, 0, 0, 1.0]])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node, matrix


def bent_parent(name="Bend"):
    """A non-linear transform node: a grid of smooth displacements that covers all the test volumes."""
    from RegCore.space.geometry import Geometry
    from RegCore.space.transforms import DisplacementField

    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = -60
    geometry = Geometry((16, 16, 16), affine)
    x = geometry.world_grid() / 30
    field = DisplacementField(
        geometry, np.stack([np.sin(x[..., 1]), np.cos(x[..., 2]), np.sin(x[..., 0])], -1)
    )
    from DeepRegSlicerLib.nodes.writing import vtk_transform_of

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    node.SetAndObserveTransformFromParent(vtk_transform_of(field))
    return node


def under(node, parent):
    """The node, placed under the transform node."""
    node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def array(node) -> np.ndarray:
    """A volume node's voxels (I, J, K)."""
    return slicer.util.arrayFromVolume(node).transpose(2, 1, 0)


def world_matrix(node) -> np.ndarray:
    """Index to world RAS mm of a volume node under linear parents."""
    own, parents = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(own)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(node.GetParentTransformNode(), None, parents)
    return slicer.util.arrayFromVTKMatrix(parents) @ slicer.util.arrayFromVTKMatrix(own)


def mapped_by(node, points: np.ndarray) -> np.ndarray:
    """Points of the fixed volume, mapped to the moving one by a transform node."""
    transform = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(transform)
    return np.array([transform.TransformDoublePoint(*point) for point in points])


def segment_mask(node, segment_id: str, reference) -> np.ndarray:
    """Where a segment is on the grid of a volume node, (I, J, K)."""
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, reference)
    return mask.transpose(2, 1, 0) > 0


def inventory() -> dict:
    """All that the scene holds, as far as a registration could change it."""
    found = {}
    scene = slicer.mrmlScene
    for number in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(number)
        if node.IsA("vtkMRMLScriptedModuleNode") or node.IsA("vtkMRMLSubjectHierarchyNode"):
            continue
        state = [node.GetName(), node.GetClassName()]
        if node.IsA("vtkMRMLTransformableNode"):
            state += [node.GetTransformNodeID()]
        if node.IsA("vtkMRMLTransformNode"):
            state += [mapped_by(node, np.array([[1.0, 2.0, 3.0], [-9.0, 4.0, 7.0]])).tolist()]
            state += [
                node.GetNodeReferenceID(role)
                for role in ("spatialRegistrationFixed", "spatialRegistrationMoving")
            ]
        if node.IsA("vtkMRMLVolumeNode") and node.GetImageData():
            state += [node.GetImageData().__this__, float(array(node).sum()), world_matrix(node).tolist()]
        if node.IsA("vtkMRMLSegmentationNode"):
            state += [list(node.GetSegmentation().GetSegmentIDs()), node.GetSegmentation().__this__]
        found[node.GetID()] = state
    return found
