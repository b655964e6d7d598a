"""From segmentation nodes to label maps, with the segments of fixed and moving paired by name."""

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

from .reading import (
    affine_of_parents,
    array_of,
    hardened,
    image_of,
    matrix_of,
    transform_of_parents,
    volume,
)

BINARY_LABELMAP = "Binary labelmap"


@dataclass(frozen=True)
class Structures:
    """What the numbers in the label maps stand for.

    names: the names of the structures, as the user sees them.
    moving: segment id in the moving segmentation -> place in `names`.
    overlapping: False: structure n has the label n + 1. True: it is the channel n of a 4-D label map.
    metadata: segment id in the moving segmentation -> a vtkSegment with its name, colour and tags, as they
        were when the registration began.
    unpaired: names of the structures that only the fixed, and that only the moving segmentation has; none
        unless both are given.
    """

    names: tuple[str, ...]
    moving: dict[str, int]
    overlapping: bool
    metadata: dict[str, object]
    unpaired: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def name_of(self, label: int) -> str:
        """The name of a label, or of a channel."""
        place = label if self.overlapping else label - 1
        return self.names[place] if 0 <= place < len(self.names) else str(label)


@dataclass(frozen=True)
class SegmentNames:
    """The names of two segmentations' segments: those that both have, and those that only one has."""

    both: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()


def segment_names(fixed_node, moving_node) -> SegmentNames:
    """Which segments are pairs; either node, a segmentation or a label map volume, may be None."""
    nodes = [_segmentation_of(node) for node in (fixed_node, moving_node)]
    fixed, moving = (_spelt(node) for node in nodes)
    if len(fixed) == len(moving) == 1:  # a pair, whatever they are called
        moving = dict(zip(fixed, moving.values(), strict=True))
    return SegmentNames(
        tuple(name for key, name in fixed.items() if key in moving),
        tuple(name for key, name in fixed.items() if key not in moving),
        tuple(name for key, name in moving.items() if key not in fixed),
    )


def _spelt(node) -> dict[tuple[str, int], str]:
    """The key by which a segment is paired -> its name."""
    return {key: node.GetSegmentation().GetSegment(i).GetName() for i, key in _keys(node).items()}


def label_volumes(
    fixed_node, moving_node, below=None, left_out=()
) -> tuple[Volume | None, Volume | None, Structures]:
    """The two segmentations, either of which may be None, as label maps on their own reference grids.

    Label map volumes stand for segmentations whose segments have the names and colours of their labels.

    Segments of the same name get the same label, whatever their order. Where segments of one segmentation
    overlap, both label maps are 4-D, one channel per structure. `below`: see `affine_of_parents`.
    left_out: names of segments that are not read, whatever their case.
    Raises InputError if both are given and share no name, unless each has just one segment.
    """
    placed = (fixed_node, moving_node)
    nodes = [_segmentation_of(node) for node in placed]
    fixed_node, moving_node = nodes
    places = _paired(fixed_node, moving_node, {_folded(name) for name in left_out})
    layers = [
        node and _Layers(node, below if node is moving_node else None, place)
        for node, place in zip(nodes, placed, strict=True)
    ]
    names = _names(nodes, places)
    overlapping = any(one is not None and one.overlap(places[n]) for n, one in enumerate(layers))
    made = [one and one.merged(places[n], len(names), overlapping) for n, one in enumerate(layers)]
    alone = _unpaired(names, places) if fixed_node and moving_node else ((), ())
    return made[0], made[1], Structures(tuple(names), places[1], overlapping, _metadata(moving_node), alone)


def _segmentation_of(node):
    """The segmentation node itself; for a label map volume, one in no scene, in the volume's coordinates."""
    if node is None or node.IsA("vtkMRMLSegmentationNode"):
        return node
    if not node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(
            _("'{name}' is a {kind}; a segmentation or a label map is expected.").format(
                name=node.GetName(), kind=node.GetClassName()
            )
        )
    made, image, matrix = slicer.vtkMRMLSegmentationNode(), slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    made.SetName(node.GetName())
    image.ShallowCopy(node.GetImageData())
    node.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)
    colours = node.GetDisplayNode() and node.GetDisplayNode().GetColorNode()
    for label in (int(label) for label in np.unique(array_of(node.GetImageData())) if label):
        segment, name, colour = slicer.vtkSegment(), "", [0.5, 0.5, 0.5, 1.0]
        if colours:
            name = colours.GetColorName(label)
            colours.GetColor(label, colour)
        segment.SetName(name or f"Label {label}")
        segment.SetColor(*colour[:3])
        segment.SetLabelValue(label)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        made.GetSegmentation().AddSegment(segment, f"Label_{label}")
    converter = slicer.vtkSegmentationConverter
    name = converter.GetReferenceImageGeometryParameterName()
    made.GetSegmentation().SetConversionParameter(name, converter.SerializeImageGeometry(image))
    return made


def _metadata(node) -> dict:
    """Segment id -> a vtkSegment with what the segment is called and looks like, without its voxels."""
    copies = {}
    for segment_id in _segment_ids(node):
        copies[segment_id] = slicer.vtkSegment()
        copies[segment_id].DeepCopyMetadata(node.GetSegmentation().GetSegment(segment_id))
    return copies


def mask(node, below=None, grid: Geometry | None = None) -> Volume:
    """Where a mask is on: in any segment of a segmentation, in a ROI, where a volume is not 0.

    Args:
        node: vtkMRMLSegmentationNode, vtkMRMLMarkupsROINode, or a scalar or label map volume node.
        below: see `affine_of_parents`.
        grid: on which a ROI, which has no voxels, is drawn.
    """
    if node.IsA("vtkMRMLMarkupsROINode"):
        return _inside_roi(node, grid)
    if not node.IsA("vtkMRMLSegmentationNode") and not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(
            _("'{name}' is a {kind}; a mask is a segmentation, a volume or a ROI.").format(
                name=node.GetName(), kind=node.GetClassName()
            )
        )
    if node.IsA("vtkMRMLSegmentationNode"):
        segments = dict.fromkeys(_segment_ids(node), 0)
        if not segments:
            raise InputError(_("The segmentation '{name}' has no segment.").format(name=node.GetName()))
        return _Layers(node, below).merged(segments, 1, False)
    read = volume(node, below)
    return Volume((read.array != 0).astype(np.uint8), read.geometry, "labels")


def _inside_roi(node, grid: Geometry) -> Volume:
    """The voxels of a grid whose centres lie in a ROI, which may be turned."""
    matrix = vtk.vtkMatrix4x4()
    transform_of_parents(node)  # which it must be seen under
    vtk.vtkMatrix4x4.Invert(node.GetObjectToWorldMatrix(), matrix)
    to_roi, half = matrix_of(matrix) @ grid.affine, np.array(node.GetSize()) / 2
    index = np.ogrid[tuple(slice(n) for n in grid.shape)]
    inside = np.ones(grid.shape, bool)
    for row in range(3):
        place = sum(to_roi[row, axis] * index[axis] for axis in range(3)) + to_roi[row, 3]
        inside &= abs(place) <= half[row]
    if not inside.any():
        where = "lies outside of the volume that it is to mask, or between its voxels"
        raise InputError(_("The ROI '{name}' {where}.").format(name=node.GetName(), where=where))
    return Volume(inside.astype(np.uint8), grid, "labels")


def _segment_ids(node) -> list[str]:
    return list(node.GetSegmentation().GetSegmentIDs()) if node else []


def _folded(name: str) -> str:
    return name.strip().casefold()


def _keys(node) -> dict[str, tuple[str, int]]:
    """Segment id -> its name without regard to case, and how often that name came before."""
    keys, seen = {}, {}
    for segment_id in _segment_ids(node):
        name = _folded(node.GetSegmentation().GetSegment(segment_id).GetName())
        seen[name] = seen.get(name, -1) + 1
        keys[segment_id] = (name, seen[name])
    return keys


def _paired(fixed_node, moving_node, left_out: set[str]) -> tuple[dict[str, int], dict[str, int]]:
    """For each segmentation: segment id -> number of the structure."""
    fixed, moving = (_chosen(node, left_out) for node in (fixed_node, moving_node))
    if fixed and moving and not set(fixed.values()) & set(moving.values()):
        if max(len(_segment_ids(node)) for node in (fixed_node, moving_node)) > 1:
            listed = [", ".join(f"'{name}'" for name, _ in keys.values()) for keys in (fixed, moving)]
            raise InputError(
                _(
                    "Segments are paired by their names, but the two segmentations share none: "
                    "'{fixed_node}' has {listed_0}; '{moving_node}' has {listed_1}."
                ).format(
                    fixed_node=fixed_node.GetName(),
                    listed_0=listed[0],
                    moving_node=moving_node.GetName(),
                    listed_1=listed[1],
                )
            )
        moving = dict.fromkeys(moving, next(iter(fixed.values())))
    order = {key: place for place, key in enumerate(dict.fromkeys([*fixed.values(), *moving.values()]))}
    return {i: order[key] for i, key in fixed.items()}, {i: order[key] for i, key in moving.items()}


def _chosen(node, left_out: set[str]) -> dict[str, tuple[str, int]]:
    """As `_keys`, without the segments that are left out."""
    keys = _keys(node)
    if node and not keys:
        raise InputError(_("The segmentation '{name}' has no segment.").format(name=node.GetName()))
    chosen = {segment_id: key for segment_id, key in keys.items() if key[0] not in left_out}
    if node and not chosen:
        raise InputError(
            _("All segments of '{name}' are left out: tick one of them, or choose no segmentation.").format(
                name=node.GetName()
            )
        )
    return chosen


def _names(nodes, places) -> list[str]:
    """The name of each structure, in its place; the fixed segmentation's spelling comes first."""
    names: dict[int, str] = {}
    for node, of_segment in zip(nodes, places, strict=True):
        for segment_id, place in of_segment.items():
            names.setdefault(place, node.GetSegmentation().GetSegment(segment_id).GetName())
    return [names[place] for place in range(len(names))]


def _unpaired(names: list[str], places) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what only the one and only the other segmentation has."""
    fixed, moving = (set(of_segment.values()) for of_segment in places)
    return tuple(tuple(names[n] for n in sorted(alone)) for alone in (fixed - moving, moving - fixed))


class _Layers:
    """The label maps that a segmentation consists of, brought onto one grid; each may hold many segments."""

    def __init__(self, node, below, place=None):
        """place: the node whose parents say where it is, if it is another one."""
        self.node, self.below, self.place = node, below, place or node
        self.segmentation = _with_labelmaps(node)
        self.reference = self._reference()
        self._arrays: dict[int, np.ndarray] = {}  # by the number of the layer

    def _reference(self):
        """The grid: the reference geometry, enlarged where segments reach beyond it."""
        text = self.segmentation.DetermineCommonLabelmapGeometry(
            slicer.vtkSegmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS_AND_REFERENCE_GEOMETRY, None
        )
        image = slicer.vtkOrientedImageData()
        if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
            raise InputError(
                _("The segmentation '{name}' holds nothing to be read as a label map.").format(
                    name=self.node.GetName()
                )
            )
        return image

    def mask(self, segment_id: str) -> np.ndarray:
        """Where a segment is, (I, J, K) of booleans on the common grid."""
        segment = self.segmentation.GetSegment(segment_id)
        layer = segment.GetRepresentation(BINARY_LABELMAP)
        key = self.segmentation.GetLayerIndex(segment_id)
        if key not in self._arrays:
            image = slicer.vtkOrientedImageData()
            resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
            if layer is None or not resample(layer, self.reference, image, False):
                raise InputError(
                    _("The segment '{segment}' of '{name}' can't be read.").format(
                        segment=segment.GetName(), name=self.node.GetName()
                    )
                )
            self._arrays[key] = array_of(image)
        return self._arrays[key] == segment.GetLabelValue()

    def overlap(self, places: dict[str, int]) -> bool:
        """Whether two of the segments share a voxel. Those of one layer can't."""
        if len({self.segmentation.GetLayerIndex(segment_id) for segment_id in places}) < 2:
            return False
        taken = None
        for segment_id in places:
            mask = self.mask(segment_id)
            if taken is not None and (taken & mask).any():
                return True
            taken = mask if taken is None else taken | mask
        return False

    def merged(self, places: dict[str, int], count: int, overlapping: bool) -> Volume:
        """The label map in world coordinates: 3-D with labels place + 1, or 4-D with `count` channels."""
        shape = self.reference.GetDimensions()
        if overlapping:
            array = np.zeros((*shape, count), np.uint8)
            for segment_id, place in places.items():
                array[..., place][self.mask(segment_id)] = 1
        else:
            array = np.zeros(shape, np.uint8 if count < 256 else np.uint16)
            for segment_id, place in places.items():
                array[self.mask(segment_id)] = place + 1
        return self._placed(array)

    def _placed(self, array: np.ndarray) -> Volume:
        matrix = vtk.vtkMatrix4x4()
        self.reference.GetImageToWorldMatrix(matrix)
        own = matrix_of(matrix)
        own[:3, 3] += own[:3, :3] @ np.array(self.reference.GetExtent()[::2])  # index 0 is the first voxel
        parents = affine_of_parents(self.place, self.below)
        if parents is not None:
            return Volume(array, Geometry(array.shape[:3], parents @ own), "labels")
        transform = transform_of_parents(self.place, self.below)
        channels = array[..., None] if array.ndim == 3 else array
        moved = [
            hardened(image_of(channel), own, transform, "vtkMRMLLabelMapVolumeNode")
            for channel in np.moveaxis(channels, -1, 0)
        ]
        voxels = np.stack([one.array for one in moved], -1) if array.ndim == 4 else moved[0].array
        return Volume(voxels, moved[0].geometry, "labels")


def _with_labelmaps(node):
    """The node's vtkSegmentation, or a copy with label maps where it holds surfaces only."""
    segmentation = node.GetSegmentation()
    if segmentation.ContainsRepresentation(BINARY_LABELMAP):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if not copy.CreateRepresentation(BINARY_LABELMAP):
        raise InputError(
            _("The segmentation '{name}' can't be converted to a label map.").format(name=node.GetName())
        )
    return copy
