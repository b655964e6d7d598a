"""From MRML nodes to volumes, landmarks and transforms in world coordinates (RAS mm). Changes no node."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

FLAT = 1e-12  # the determinant below which a linear transform is taken for one without an inverse
SAMPLES = 128  # voxels per axis at most at which a non-linear initial transform is sampled


def matrix_of(vtk_matrix) -> np.ndarray:
    """A vtkMatrix4x4 as a NumPy array."""
    return np.array([[vtk_matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix_of(matrix) -> vtk.vtkMatrix4x4:
    """A 4×4 array as a vtkMatrix4x4."""
    out = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            out.SetElement(row, column, matrix[row][column])
    return out


def _parents(node, below=None) -> list:
    """The transform nodes above a node, the nearest first; those from `below` on left out, if it is there.

    Raises InputError if one of them can't be inverted, so that nothing could be seen under it.
    """
    parents, parent = [], node.GetParentTransformNode()
    while parent is not None:
        parents.append(parent)
        parent = parent.GetParentTransformNode()
    places = [place for place, one in enumerate(parents) if one is below]
    parents = parents[: places[0]] if places else parents
    for parent in parents:
        if _is_flat(parent):
            raise InputError(
                _("'{name}' is under the transform '{parent}', which can't be inverted.").format(
                    name=node.GetName(), parent=parent.GetName()
                )
            )
    return parents


def _is_flat(transform_node) -> bool:
    """Whether a linear transform has no inverse, or holds what is no number."""
    if not transform_node.IsLinear():
        return False
    matrix = vtk.vtkMatrix4x4()
    transform_node.GetMatrixTransformToParent(matrix)
    linear = matrix_of(matrix)[:3]
    return not np.isfinite(linear).all() or abs(np.linalg.det(linear[:, :3])) < FLAT


def is_under(node, transform_node) -> bool:
    """Whether the transform node is among the node's parents."""
    return any(parent is transform_node for parent in _parents(node))


def affine_of_parents(node, below=None) -> np.ndarray | None:
    """The matrix from the node's own coordinates to the world; None if a parent is not linear.

    below: a transform node. Where it is among the parents, it and those above it do not count. So a volume
    that shows the last result is read as it was before, when that result is to be replaced.
    """
    product, matrix = np.eye(4), vtk.vtkMatrix4x4()
    for parent in _parents(node, below):
        if not parent.IsLinear():
            return None
        parent.GetMatrixTransformToParent(matrix)
        product = matrix_of(matrix) @ product
    return product


def transform_of_parents(node, below=None) -> vtk.vtkGeneralTransform:
    """As `affine_of_parents`, for parents that need not be linear."""
    _parents(node, below)  # which it can be seen under
    target = below if below is not None and is_under(node, below) else None
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(node.GetParentTransformNode(), target, transform)
    return transform


def volume(node, below=None) -> Volume:
    """A volume node where the user sees it, a label map as labels; its voxels are not copied where possible.

    Linear parent transforms are folded into the affine. Under another one the volume is resampled, as
    Slicer's "Harden transform" does, on a copy. Raises InputError if the node holds no 3-D scalar image.
    """
    image = node.GetImageData()
    name = node.GetName()
    if image is None or min(image.GetDimensions()) < 1:
        raise InputError(_("The volume '{name}' holds no image.").format(name=name))
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            _("The volume '{name}' has {components} values per voxel; a volume with one is expected.").format(
                name=name, components=components
            )
        )
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parents = affine_of_parents(node, below)
    if parents is None:
        return hardened(image, matrix_of(matrix), transform_of_parents(node, below), node.GetClassName())
    array = array_of(image)
    kind = "labels" if node.IsA("vtkMRMLLabelMapVolumeNode") else "image"
    return Volume(array, Geometry(array.shape, parents @ matrix_of(matrix)), kind)


def array_of(image) -> np.ndarray:
    """The voxels of a vtkImageData with one component, (I, J, K), a view."""
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    return flat.reshape(image.GetDimensions()[::-1]).transpose(2, 1, 0)


def image_of(array: np.ndarray) -> vtk.vtkImageData:
    """A vtkImageData with the voxels (I, J, K) or (I, J, K, components), copied."""
    components = array.shape[3] if array.ndim == 4 else 1
    if array.dtype == bool:
        array = array.astype(np.uint8)
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[:3])
    image.AllocateScalars(vtk.util.numpy_support.get_vtk_array_type(array.dtype), components)
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    axes = (2, 1, 0, 3) if array.ndim == 4 else (2, 1, 0)
    ordered = array.transpose(axes)
    flat.reshape(ordered.shape)[...] = ordered
    return image


def hardened(image, matrix: np.ndarray, transform, class_name: str) -> Volume:
    """An image resampled through a non-linear transform by Slicer, in a scene of its own."""
    scene = slicer.vtkMRMLScene()
    copy, parent = getattr(slicer, class_name)(), slicer.vtkMRMLTransformNode()
    parent.SetAndObserveTransformToParent(transform)
    scene.AddNode(parent)
    copy.SetIJKToRASMatrix(vtk_matrix_of(matrix))
    copy.SetAndObserveImageData(image)
    scene.AddNode(copy)
    copy.SetAndObserveTransformNodeID(parent.GetID())
    copy.HardenTransform()
    moved = vtk.vtkMatrix4x4()
    copy.GetIJKToRASMatrix(moved)
    array = array_of(copy.GetImageData()).copy()
    kind = "labels" if class_name == "vtkMRMLLabelMapVolumeNode" else "image"
    return Volume(array, Geometry(array.shape, matrix_of(moved)), kind)


def landmarks(fixed_node, moving_node, below=None) -> np.ndarray:
    """Pairs of points (N, 6), world RAS mm, fixed then moving; see `paired_landmarks`.

    Raises InputError if there is no pair, or if lists without shared labels differ in length.
    """
    pairs, _ = paired_landmarks(fixed_node, moving_node)
    fixed, moving = zip(*pairs, strict=True)
    to_world = transform_of_parents(moving_node, below)
    return np.concatenate(
        [
            mapped(_positions(fixed_node, fixed), transform_of_parents(fixed_node)),
            mapped(_positions(moving_node, moving), to_world),
        ],
        1,
    )


def paired_landmarks(fixed_node, moving_node) -> tuple[list[tuple[int, int]], list[str]]:
    """Places of the points that are pairs, in the fixed and in the moving list, and the names of the others.

    Where the lists share labels, and no label occurs twice in one, points of the same label are a pair; else
    those of the same place in the lists. Points that are not set in both lists are left out.
    """
    names = f"'{fixed_node.GetName()}' and '{moving_node.GetName()}'"
    fixed, moving = _labels(fixed_node), _labels(moving_node)
    shared = set(fixed) & set(moving)
    if shared and len(set(fixed)) == len(fixed) and len(set(moving)) == len(moving):
        pairs = {label: (fixed.index(label), moving.index(label)) for label in fixed if label in shared}
        out = [label for label in dict.fromkeys([*fixed, *moving]) if label not in shared]
    elif len(fixed) == len(moving) > 0:
        pairs = {str(n + 1): (n, n) for n in range(len(fixed))}
        out = []
    else:
        raise InputError(
            _(
                "Landmarks that their labels do not pair are paired by their order: '{fixed_node}' "
                "has {count} points and '{moving_node}' has {count2}; the same number, at least one, "
                "is expected."
            ).format(
                fixed_node=fixed_node.GetName(),
                count=len(fixed),
                moving_node=moving_node.GetName(),
                count2=len(moving),
            )
        )
    both = {k: (n, m) for k, (n, m) in pairs.items() if _is_set(fixed_node, n) and _is_set(moving_node, m)}
    if not both:
        raise InputError(_("No landmark is set in both {names}.").format(names=names))
    return list(both.values()), out + [label for label in pairs if label not in both]


def _positions(node, places: list[int]) -> np.ndarray:
    return np.array([node.GetNthControlPointPosition(n) for n in places], dtype=np.float64)


def _labels(node) -> list[str]:
    return [node.GetNthControlPointLabel(n) for n in range(node.GetNumberOfControlPoints())]


def _is_set(node, n: int) -> bool:
    return node.GetNthControlPointPositionStatus(n) == slicer.vtkMRMLMarkupsNode.PositionDefined


def mapped(points: np.ndarray, transform) -> np.ndarray:
    """Points (N, 3) mapped by a VTK transform, in double precision."""
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    before.SetDataTypeToDouble()
    after.SetDataTypeToDouble()
    before.SetData(vtk.util.numpy_support.numpy_to_vtk(np.ascontiguousarray(points), deep=True))
    transform.TransformPoints(before, after)
    return vtk_to_numpy(after.GetData()).copy()


def field_of(node, fixed: Geometry) -> AffineTransform | DisplacementField:
    """As `initial_transform`, but a grid of displacements in the world is read voxel by voxel, as it is."""
    grid = node.GetTransformFromParent() if node.IsA("vtkMRMLGridTransformNode") else None
    image = grid.GetDisplacementGrid() if grid is not None and grid.IsA("vtkOrientedGridTransform") else None
    if image is None or node.GetParentTransformNode() is not None or grid.GetDisplacementScale() != 1:
        return initial_transform(node, fixed)
    affine = matrix_of(grid.GetGridDirectionMatrix())
    affine[:3, :3] *= image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    voxels = vtk_to_numpy(image.GetPointData().GetScalars())
    mm = voxels.reshape(*image.GetDimensions()[::-1], 3).transpose(2, 1, 0, 3)
    return DisplacementField(Geometry(mm.shape[:3], affine), mm)


def initial_transform(node, fixed: Geometry) -> AffineTransform | DisplacementField:
    """A transform node as x_moving = T(x_fixed): with the moving volume under it, the two would fit.

    A non-linear one is sampled on the fixed grid, or on a coarser one of the same extent. Raises InputError
    for one without an inverse.
    """
    _parents(node)
    if _is_flat(node):
        raise InputError(_("The transform '{name}' can't be inverted.").format(name=node.GetName()))
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node, transform)
    if node.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        node.GetMatrixTransformFromWorld(matrix)
        return AffineTransform(matrix_of(matrix))
    grid = fixed.resized(tuple(min(n, SAMPLES) for n in fixed.shape))
    points = grid.world_grid().reshape(-1, 3)
    field = (mapped(points, transform) - points).reshape(*grid.shape, 3)
    return DisplacementField(grid, field)
