"""From a finished registration to MRML nodes: the transform, the warped volume, the warped segmentation.

Everything is built outside the scene first; the scene is then changed in one step, or not at all.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

from .more import MoreOutputs, Owner, as_type, fill_map, write_more
from .reading import affine_of_parents, array_of, image_of, is_under, matrix_of, vtk_matrix_of
from .segments import BINARY_LABELMAP, Structures
from .transaction import AUTOMATIC, SceneTransaction
from .transforms import vtk_transform_of


@dataclass(frozen=True)
class Outputs:
    """The nodes to write to, None for a new one, and what to do with them.

    images: False to write no warped volume, and no warped segmentation unless `more` says so. apply: put the
    moving nodes under the transform. more: what else is made, and how the warped volume is.
    """

    transform: object = None
    volume: object = None
    segmentation: object = None
    images: bool = True
    apply: bool = False
    more: MoreOutputs = MoreOutputs()

    @property
    def segments(self) -> bool:
        """Whether the warped segmentation is made."""
        return self.images if self.more.segmentation is None else self.more.segmentation

    def check(self, inputs: list) -> None:
        """Raise InputError where an output is an input too."""
        for node in (self.transform, self.volume, self.segmentation):
            if node is not None and any(node is one for one in inputs):
                raise InputError(
                    _("'{name}' can't be input and output at the same time.").format(name=node.GetName())
                )


@dataclass(frozen=True)
class Placement:
    """Where the fixed volume was when the registration began; the warped nodes are put there.

    The result has the fixed node's own grid and stands under the same parent transform, so it lies on the
    fixed volume and follows it. Under a parent that is not linear the fixed volume was resampled; then the
    result has that grid, in the world.
    """

    fixed: object
    moving: object
    moving_segmentation: object
    moving_landmarks: object
    dtype: np.dtype  # of the moving volume
    matrix: np.ndarray  # index -> RAS mm of the warped nodes, in the coordinates of `parent`
    parent: object  # transform node or None
    grid: Geometry  # of the fixed volume, in the world

    @classmethod
    def of(cls, fixed, moving, moving_segmentation, grid, output_transform, moving_landmarks=None):
        """grid: of the fixed volume as it was read.

        Raises InputError if the fixed volume is under the output transform.
        """
        if output_transform is not None and is_under(fixed, output_transform):
            raise InputError(
                _(
                    "The fixed volume '{fixed}' is under the transform '{output_transform}', which is to "
                    "be overwritten: choose another one."
                ).format(fixed=fixed.GetName(), output_transform=output_transform.GetName())
            )
        own = vtk.vtkMatrix4x4()
        fixed.GetIJKToRASMatrix(own)
        linear = affine_of_parents(fixed) is not None
        parent = fixed.GetParentTransformNode() if linear else None
        matrix = matrix_of(own) if linear else grid.affine
        dtype = array_of(moving.GetImageData()).dtype
        return cls(fixed, moving, moving_segmentation, moving_landmarks, dtype, matrix, parent, grid)

    @property
    def name(self) -> str:
        """What the transform is called."""
        return f"{self.moving.GetName()} to {self.fixed.GetName()}"

    def still_valid(self, scene) -> "Placement":
        """The same; in the world, if the parent transform left the scene since."""
        if self.parent is None or scene.IsNodePresent(self.parent):
            return self
        return replace(self, matrix=self.grid.affine, parent=None)

    def missing(self, scene) -> list[str]:
        """Names of the nodes that left the scene since."""
        nodes = (self.fixed, self.moving, self.moving_segmentation)
        return [n.GetName() for n in nodes if n is not None and not scene.IsNodePresent(n)]


@dataclass(frozen=True)
class Written:
    """The nodes that hold the result; None where none was asked for."""

    transform: object
    volume: object
    segmentation: object
    applied: tuple = ()  # the moving nodes that are now under the transform
    more: dict = field(default_factory=dict)  # see `write_more`


@dataclass(frozen=True)
class Prepared:
    """What a result becomes before the scene is touched, in any thread.

    transform: vtkTransform or vtkOrientedGridTransform. image: of the warped volume, segmentation: the warped
    one; None where none is made. placement: that they were made for.
    """

    transform: object
    image: object
    segmentation: object
    placement: Placement


def prepare(transform, warped, warped_labels, structures, placement: Placement, outputs: Outputs) -> Prepared:
    """Make of a result what its nodes will hold; arguments and errors as those of `write`."""
    for came in (warped, warped_labels):
        if came is not None and not came.geometry.is_close(placement.grid):
            raise InputError(
                _("the result {shape} does not lie on the fixed volume's grid").format(shape=came.array.shape)
            )
    image = segmentation = None
    if outputs.images:
        image = image_of(as_type(warped.array, outputs.more.voxel_type, placement.dtype))
    if outputs.segments and warped_labels is not None:
        segmentation = _segmentation(warped_labels, structures, placement)
    return Prepared(vtk_transform_of(transform), image, segmentation, placement)


def write(
    transform: AffineTransform | DisplacementField,
    warped: Volume,
    warped_labels: Volume | None,
    structures: Structures,
    placement: Placement,
    outputs: Outputs,
    more: dict | None = None,
    prepared: Prepared | None = None,
) -> Written:
    """Put the result of a registration into the scene, whole or not at all.

    An affine transform goes to a vtkMRMLLinearTransformNode, a field to a vtkMRMLGridTransformNode; an output
    node of another class is replaced by one of the right class with the same name. more: "inverse",
    "jacobian" and "displacement" as they came, where they were asked for. prepared: what `prepare` made of
    it, if it was called. Raises InputError if what came does not fit the fixed grid.
    """
    scene = slicer.mrmlScene
    placement = placement.still_valid(scene)
    if prepared is None or prepared.placement is not placement:
        prepared = prepare(transform, warped, warped_labels, structures, placement, outputs)
    image, segmentation = prepared.image, prepared.segmentation
    source, along = placement.moving_segmentation, [n for n in outputs.more.along if _present(scene, n)]
    chosen = _present(scene, outputs.transform) if outputs.more.transform else None
    with SceneTransaction(scene) as transaction:
        written = Written(
            _write_transform(transaction, prepared.transform, placement, chosen)
            if outputs.more.transform
            else None,
            image and _write_volume(transaction, image, placement, _present(scene, outputs.volume)),
            segmentation
            and _write_segmentation(
                transaction, segmentation, source, placement, _present(scene, outputs.segmentation)
            ),
        )
        owner = written.transform or written.volume or written.segmentation
        owned = Owner(written.transform, owner, chosen, prepared.transform)
        besides = write_more(transaction, {**(more or {}), "along": along}, placement, owned)
        applies = outputs.apply and outputs.more.transform
        applied = _apply(transaction, written.transform, placement) if applies else ()
        _retire(transaction, chosen, written.transform)
    return replace(written, applied=applied, more=besides)


def _apply(transaction: SceneTransaction, transform, placement: Placement) -> tuple:
    """Put the moving volume, its segmentation and landmarks under the transform; those that can be."""
    moving = (placement.moving, placement.moving_segmentation, placement.moving_landmarks)
    there = [node for node in moving if _present(transaction.scene, node) and not node.GetTransformNodeID()]
    for node in there:
        transaction.set_parent_transform(node, transform)
    return tuple(node for node in moving if node is not None and node.GetParentTransformNode() is transform)


def _present(scene, node):
    """The node, or None if it left the scene."""
    return node if node is not None and scene.IsNodePresent(node) else None


def _write_transform(transaction: SceneTransaction, transform, placement: Placement, node):
    """The transform, in world coordinates, with the references that other registration modules set too."""
    is_linear = transform.IsA("vtkTransform")
    wanted = "vtkMRMLLinearTransformNode" if is_linear else "vtkMRMLGridTransformNode"
    if node is None:
        node = transaction.add_node(wanted, placement.name)
        transaction.put_beside(node, placement.moving)
    elif node.GetClassName() != wanted:
        old, node = node, transaction.add_node(wanted, node.GetName())
        node.SetAttribute(AUTOMATIC, old.GetAttribute(AUTOMATIC))
        transaction.put_beside(node, old)
    before = getattr(slicer, wanted)()
    before.CopyContent(node, is_linear)  # a copy of the matrix, which is written in place, but not of a grid
    transaction.undo(lambda: node.CopyContent(before))
    transaction.set_parent_transform(node, None)
    if is_linear:
        node.SetMatrixTransformFromParent(transform.GetMatrix())
    else:
        node.SetAndObserveTransformFromParent(transform)
    transaction.set_reference(node, slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), placement.fixed)
    transaction.set_reference(
        node, slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), placement.moving
    )
    return node


def _retire(transaction: SceneTransaction, old, new) -> None:
    """Where the output transform had to be of another class, the new node takes the old one's place."""
    if old is None or old is new:
        return
    scene = transaction.scene
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLTransformableNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLTransformableNode")
        if node.GetParentTransformNode() is old:
            transaction.set_parent_transform(node, new)
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        _redirect(node, old, new)  # else its selectors go to any neighbour once the old one is removed
    name = old.GetName()
    new.SetName(name)
    scene.RemoveNode(old)  # last of all changes: nothing after it can fail


def _redirect(node, old, new) -> None:
    """Let a parameter node refer to a new node wherever it refers to an old one."""
    roles = [node.GetNthNodeReferenceRole(place) for place in range(node.GetNumberOfNodeReferenceRoles())]
    places = [(role, place) for role in roles for place in range(node.GetNumberOfNodeReferences(role))]
    changed = [which for which in places if node.GetNthNodeReferenceID(*which) == old.GetID()]
    with slicer.util.NodeModify(node):
        for which in changed:
            node.SetNthNodeReferenceID(*which, new.GetID())
    if changed:
        node.Modified()  # see `parameters.refresh`


def _write_volume(transaction: SceneTransaction, image, placement: Placement, node):
    moving = placement.moving
    wanted = moving.GetClassName() if moving.IsA("vtkMRMLLabelMapVolumeNode") else "vtkMRMLScalarVolumeNode"
    if node is None:
        node = transaction.add_node(wanted, f"{moving.GetName()} registered")
        transaction.put_beside(node, moving)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    old_image = node.GetImageData()
    transaction.undo(lambda: node.SetAndObserveImageData(old_image))
    transaction.undo(lambda: node.SetIJKToRASMatrix(matrix))
    _display_as(transaction, node, moving.GetDisplayNode())
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(vtk_matrix_of(placement.matrix))
    _write_units(transaction, node, moving)
    transaction.set_parent_transform(node, placement.parent)
    return node


def _display_as(transaction: SceneTransaction, node, source) -> None:
    """Show a volume as another one is shown, by its display node `source`; before it gets its voxels.

    A window of its own is not looked for, since that would go through all voxels.
    """
    if not transaction.ensure_display(node) or source is None:
        return
    display = node.GetDisplayNode()
    with slicer.util.NodeModify(display):
        display.CopyContent(source)
        if hasattr(display, "SetAutoWindowLevel"):  # a label map has none
            display.SetAutoWindowLevel(False)
    display.SetAndObserveColorNodeID(source.GetColorNodeID())


def _write_units(transaction: SceneTransaction, node, source) -> None:
    """What the voxels measure and in which unit, such as HU."""
    before = node.GetVoxelValueQuantity(), node.GetVoxelValueUnits()

    def take_back():
        node.SetVoxelValueQuantity(before[0])
        node.SetVoxelValueUnits(before[1])

    transaction.undo(take_back)
    node.SetVoxelValueQuantity(source.GetVoxelValueQuantity())
    node.SetVoxelValueUnits(source.GetVoxelValueUnits())


def _segmentation(labels: Volume, structures: Structures, placement: Placement):
    """A vtkSegmentation with the moving segments' ids, names, colours, terminology, and the warped voxels."""
    made = slicer.vtkSegmentation()
    made.SetSourceRepresentationName(BINARY_LABELMAP)
    geometry = slicer.vtkSegmentationConverter
    array = _small(labels.array)
    shared = None if structures.overlapping else _oriented(array, placement.matrix)
    for segment_id, place in structures.moving.items():
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(structures.metadata[segment_id])
        if shared is None:
            segment.SetLabelValue(1)
            image = _oriented(array[..., place], placement.matrix)
        else:
            segment.SetLabelValue(place + 1)
            image = shared
        segment.AddRepresentation(BINARY_LABELMAP, image)
        made.AddSegment(segment, segment_id)
    text = geometry.SerializeImageGeometry(image)
    made.SetConversionParameter(geometry.GetReferenceImageGeometryParameterName(), text)
    return made


def _small(labels: np.ndarray) -> np.ndarray:
    """Labels in the smallest type that holds them."""
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16, copy=False)


def _oriented(array: np.ndarray, matrix: np.ndarray):
    """A label map (I, J, K) as a vtkOrientedImageData in its place."""
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(image_of(array))
    image.SetImageToWorldMatrix(vtk_matrix_of(matrix))
    return image


def _write_segmentation(transaction: SceneTransaction, segmentation, source, placement: Placement, node):
    if node is None:
        node = transaction.add_node("vtkMRMLSegmentationNode", f"{source.GetName()} registered")
        transaction.put_beside(node, source)
    old = node.GetSegmentation()
    transaction.undo(lambda: node.SetAndObserveSegmentation(old))
    node.SetAndObserveSegmentation(segmentation)
    transaction.set_parent_transform(node, placement.parent)
    transaction.set_reference(node, node.GetReferenceImageGeometryReferenceRole(), placement.fixed)
    display = source.GetDisplayNode()
    is_new = transaction.ensure_display(node)
    if is_new and display is not None and display.IsA(node.GetDisplayNode().GetClassName()):
        node.GetDisplayNode().CopyContent(display)
    return node


def add_map(volume: Volume, name: str, beside, window: tuple[float, float]):
    """A map of a result, such as its Jacobian, as a new volume node in the world, beside another node."""
    with SceneTransaction(slicer.mrmlScene) as transaction:
        node = transaction.add_node("vtkMRMLScalarVolumeNode", name)
        transaction.put_beside(node, beside)
        fill_map(node, volume, window)
    return node
