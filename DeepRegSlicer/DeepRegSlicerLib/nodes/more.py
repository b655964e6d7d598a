"""What a registration writes on demand: the inverse transform, maps, warped points and models.

These nodes belong to the transform, or to what is made in its place: when a later run overwrites it, they are
overwritten too.
"""

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

from .reading import image_of, is_under, transform_of_parents, vtk_matrix_of
from .transaction import SceneTransaction, is_automatic
from .transforms import vtk_transform_of

OF = "DeepRegSlicerTransform"  # role of the reference from such a node to the node that it belongs to
SOURCE = "DeepRegSlicerSource"  # role of the reference from warped points and models to what was warped
WHAT = "DeepRegSlicer.what"  # attribute of such a node: a key of `NAMES`
NAMES = {
    "inverse": "{fixed} to {moving}",
    "jacobian": "{transform} Jacobian",
    "displacement": "{transform} displacement",
    "warped": "{source} registered",
}
WINDOWS = {"jacobian": (0.0, 2.0), "displacement": (0.0, 20.0)}  # in which a map is shown
NO_POINTS = ("vtkMRMLMarkupsROINode", "vtkMRMLMarkupsPlaneNode")  # markups that a deformation can't bend
VOXEL_TYPES = ("moving", "float32", "uint8", "int16", "uint16", "int32")


@dataclass(frozen=True)
class MoreOutputs:
    """What is made of a registration besides the warped volume, and how that volume is made.

    transform: whether the transform becomes a node. segmentation: whether the warped segmentation is made;
    None: if the warped volume is. inverse: the transform that leads back. jacobian, displacement: maps of the
    deformation, see `RegCore.cli.extras.maps_command`. along: markups and models to be warped, each to a new
    node. interpolation: of the warped volume, "linear", "nearest" or "cubic". fill: its value outside of the
    moving volume, None for the smallest one. voxel_type: one of `VOXEL_TYPES`; rounded and clipped if need
    be. full_field: keep a displacement field on the fixed grid, however large it is; else on one as fine as
    it was found on, which maps the same to 0.05 voxels.
    """

    transform: bool = True
    segmentation: bool | None = None
    inverse: bool = False
    jacobian: bool = False
    displacement: bool = False
    along: tuple = ()
    interpolation: str = "linear"
    fill: float | None = None
    voxel_type: str = "moving"
    full_field: bool = False

    def wanted(self) -> dict:
        """The part of it that the child process makes, see `RegCore.cli.extras.extras`."""
        names = ("inverse", "jacobian", "displacement", "interpolation", "fill")
        return {name: getattr(self, name) for name in names}


def as_type(array: np.ndarray, voxel_type: str, moving: np.dtype) -> np.ndarray:
    """Voxels in the type asked for, `moving` being that of the moving volume; rounded and clipped."""
    dtype = moving if voxel_type == "moving" else np.dtype(voxel_type)
    if dtype.kind not in "iu":
        return array.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(array), limits.min, limits.max).astype(dtype)


def warpable_nodes() -> list:
    """The markups and models of the scene that can be warped along, those with a form of their own."""
    found = slicer.util.getNodesByClass("vtkMRMLMarkupsNode") + slicer.util.getNodesByClass(
        "vtkMRMLModelNode"
    )
    return [node for node in found if not node.GetHideFromEditors() and node.GetClassName() not in NO_POINTS]


@dataclass(frozen=True)
class Owner:
    """What the nodes belong to.

    transform: the node of the result's transform, None if none is made. node: this, else another node of the
    result, else None. former: the node whose place it takes, if it is another one. mapping: the VTK transform
    from the fixed to the moving volume, in the world.
    """

    transform: object
    node: object
    former: object
    mapping: object


def write_more(transaction: SceneTransaction, found: dict, placement, owner: Owner) -> dict:
    """Write the nodes of `MoreOutputs`; those of an earlier run of the same owner are overwritten.

    found: "inverse", a transform; "jacobian" and "displacement", volumes; "along", nodes to be warped; what
    is absent or None is not written. placement: the `Placement`. Returns the nodes by name, "along" a tuple.
    """
    made: dict = {"along": tuple(_warp(transaction, owner, node, placement) for node in found["along"])}
    if found.get("inverse") is not None:
        made["inverse"] = _inverse(transaction, owner, found["inverse"], placement)
    for what in WINDOWS:
        if found.get(what) is not None:
            made[what] = _map(transaction, owner, what, found[what], placement)
    return made


def _place(transaction: SceneTransaction, owner: Owner, what: str, class_name: str, placement, source=None):
    """The node of an earlier run, kept for Undo, or a new one beside the source, or the transform."""
    for node in slicer.util.getNodesByClass(class_name):
        theirs = node.GetNodeReference(OF)
        mine = theirs is not None and (theirs is owner.node or theirs is owner.former)
        same = node.GetAttribute(WHAT) == what and node.GetNodeReference(SOURCE) is source
        above = any(
            is_under(one, node) for one in (placement.fixed, placement.moving)
        )  # it holds one of them
        if mine and same and is_automatic(node) and node.GetClassName() == class_name and not above:
            _keep(transaction, node)
            break
    else:
        pair = {"fixed": placement.fixed.GetName(), "moving": placement.moving.GetName()}
        name = placement.name if owner.transform is None else owner.transform.GetName()
        names = {**pair, "transform": name, "source": source and source.GetName()}
        node = transaction.add_node(class_name, NAMES[what].format(**names))
        transaction.put_beside(node, source or owner.transform or placement.moving)
    if owner.node is not None:
        transaction.set_reference(node, OF, owner.node)
    node.SetAttribute(WHAT, what)
    return node


def _keep(transaction: SceneTransaction, node) -> None:
    """Tell how to restore what a node holds; markups and matrices alone are written in place."""
    if node.IsA("vtkMRMLVolumeNode"):
        image = node.GetImageData()  # itself, not one of the same voxels
        transaction.undo(lambda: node.SetAndObserveImageData(image))
    before = getattr(slicer, node.GetClassName())()
    before.CopyContent(node, node.IsA("vtkMRMLMarkupsNode") or node.IsA("vtkMRMLLinearTransformNode"))
    transaction.undo(lambda: node.CopyContent(before))


def _inverse(transaction: SceneTransaction, owner: Owner, transform: Transform, placement):
    """The transform that leads back, with the references of a registration that does."""
    made = vtk_transform_of(transform)
    linear = made.IsA("vtkTransform")
    name = "vtkMRMLLinearTransformNode" if linear else "vtkMRMLGridTransformNode"
    node = _place(transaction, owner, "inverse", name, placement)
    if linear:
        node.SetMatrixTransformFromParent(made.GetMatrix())
    else:
        node.SetAndObserveTransformFromParent(made)
    roles = slicer.vtkMRMLTransformNode
    transaction.set_reference(node, roles.GetFixedNodeReferenceRole(), placement.moving)
    transaction.set_reference(node, roles.GetMovingNodeReferenceRole(), placement.fixed)
    return node


def _map(transaction: SceneTransaction, owner: Owner, what: str, volume: Volume, placement):
    node = _place(transaction, owner, what, "vtkMRMLScalarVolumeNode", placement)
    fill_map(node, volume, WINDOWS[what])
    transaction.ensure_display(node)
    return node


def fill_map(node, volume: Volume, window: tuple[float, float]) -> None:
    """Show a map, such as a Jacobian, in a volume node in the world."""
    node.SetAndObserveImageData(image_of(volume.array))
    node.SetIJKToRASMatrix(vtk_matrix_of(volume.geometry.affine))
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(*window)


def _warp(transaction: SceneTransaction, owner: Owner, source, placement):
    """A copy of points or of a model of the moving patient, where they lie on the fixed volume."""
    node = _place(transaction, owner, "warped", source.GetClassName(), placement, source)
    attributes = {name: node.GetAttribute(name) for name in node.GetAttributeNames()}
    node.CopyContent(source)
    for name, value in attributes.items():
        node.SetAttribute(name, value)
    transaction.set_reference(node, SOURCE, source)
    whole, back = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(transform_of_parents(source, owner.transform))
    whole.Concatenate(owner.mapping.GetInverse())
    if placement.parent is not None:
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, placement.parent, back)
        whole.Concatenate(back)
    node.ApplyTransform(whole)
    transaction.set_parent_transform(node, placement.parent)
    display = source.GetDisplayNode()
    if transaction.ensure_display(node) and display is not None:
        node.GetDisplayNode().CopyContent(display)
    return node
