"""What the Register panel remembers in the scene: inputs, method, outputs and advanced settings."""

import enum
import json
from pathlib import Path
from typing import Annotated

import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from RegCore.cli.arguments import settings_of
from RegCore.cli.extras import STARTS
from RegCore.registration import METHODS
from RegCore.space.names import DEVICES, INTERPOLATIONS

from .nodes.more import VOXEL_TYPES
from .paths import typed_path

SMOOTHNESS = 1.25  # RegCore's own default
LANDMARK_WEIGHT = 0.1  # mm^-2, of landmarks that guide
ALONG = "DeepRegSlicerAlong"  # role of the references to what is warped along

METHOD_LABELS = {
    "auto": _("Automatic"),
    "rigid": _("Rigid: shift and turn"),
    "affine": _("Affine: scale and shear"),
    "deformable": _("Deformable: self-similarity"),
    "classical-affine": _("DeepReg classical affine"),
    "classical-nonrigid": _("DeepReg classical non-rigid"),
    "trained": _("Trained model"),
}
QUALITY_LABELS = {
    "fast": _("Fast"),
    "balanced": _("Balanced"),
    "best": _("Best"),
}
# What a quality sets of the method `deformable`; `auto` has a setting of that name.
DEFORMABLE_QUALITIES = {"fast": {"symmetric": False, "iterations": 20}, "best": {"iterations": 80}}
DEVICE_LABELS = {
    "auto": _("Automatic"),
    "cpu": _("CPU"),
    "cuda": _("Graphics card (CUDA)"),
    "mps": _("Apple graphics (MPS)"),
}
START_LABELS = {
    "automatic": _("Automatic"),
    "header": _("As they lie"),
    "centres": _("Centres of the volumes"),
    "moments": _("Centres of the bodies"),
    "landmarks": _("Landmarks"),
}
INTERPOLATION_LABELS = {"linear": _("Linear"), "nearest": _("Nearest voxel"), "cubic": _("Cubic")}
TYPE_LABELS = {
    "moving": _("As the moving volume"),
    "float32": _("Float, 32 bit"),
    "uint8": _("Whole numbers from 0 to 255"),
    "int16": _("Whole numbers, 16 bit"),
    "uint16": _("Whole numbers from 0, 16 bit"),
    "int32": _("Whole numbers, 32 bit"),
}


def _choice(name: str, values, labels: dict[str, str]) -> type[enum.Enum]:
    """An enum of names that RegCore knows; `label` gives what the panel shows."""
    members = {value.replace("-", "_"): value for value in values}
    made = enum.Enum(name, members, module=__name__)
    made.label = lambda member: labels.get(member.value, member.value)
    return made


# What `RegCore.register` offers, and a network of the user's; where to compute.
Method = _choice("Method", [*METHODS, "trained"], METHOD_LABELS)
Device = _choice("Device", DEVICES, DEVICE_LABELS)
Quality = _choice("Quality", QUALITY_LABELS, QUALITY_LABELS)
# Where to start, and how the warped volume is made.
Start = _choice("Start", ["automatic", *STARTS], START_LABELS)
Interpolation = _choice("Interpolation", INTERPOLATIONS, INTERPOLATION_LABELS)
VoxelType = _choice("VoxelType", VOXEL_TYPES, TYPE_LABELS)


# Slicer keeps None in a parameter of several classes only where None is one of them.
Image = vtkMRMLScalarVolumeNode | vtkMRMLLabelMapVolumeNode | None
Labels = vtkMRMLSegmentationNode | vtkMRMLLabelMapVolumeNode | None
Mask = vtkMRMLSegmentationNode | vtkMRMLLabelMapVolumeNode | vtkMRMLMarkupsROINode | None


@parameterNodeWrapper
class RegisterParameters:
    """The parameter node; each field is bound to the widget whose SlicerParameterName is its name."""

    fixedVolume: Image
    movingVolume: Image
    fixedSegmentation: Labels
    movingSegmentation: Labels
    preset: str = ""
    quality: Quality = Quality.balanced
    method: Method = Method.auto
    modelFile: str = ""
    refine: bool = False
    outputTransform: vtkMRMLTransformNode
    warpedVolume: Image
    warpedSegmentation: vtkMRMLSegmentationNode
    fixedMask: Mask
    movingMask: Mask
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    leftOut: str = ""
    initialTransform: vtkMRMLTransformNode
    start: Start = Start.automatic
    device: Device = Device.auto
    seed: Annotated[int, WithinRange(0, 99999)] = 0
    smoothness: Annotated[float, WithinRange(0.1, 10.0)] = SMOOTHNESS
    landmarksGuide: bool = False
    moreSettings: str = ""
    createTransform: bool = True
    createImages: bool = True
    createSegmentation: bool = True
    createInverse: bool = False
    createJacobian: bool = False
    createDisplacement: bool = False
    interpolation: Interpolation = Interpolation.linear
    outside: str = ""
    voxelType: VoxelType = VoxelType.moving
    fullField: bool = False
    applyToMoving: bool = True
    detailedLog: bool = False
    keepFiles: bool = False

    def starting(self) -> str | None:
        """Where to start as `register_volumes` takes it, None for the method's own choice."""
        return None if self.start is Start.automatic else self.start.value

    def left_out(self) -> tuple[str, ...]:
        """The names of the segments that take no part."""
        try:
            return tuple(json.loads(self.leftOut))
        except ValueError:
            return ()

    def leave_out(self, names) -> None:
        """Let the segments of these names, and no others, take no part."""
        self.leftOut = json.dumps(list(names), ensure_ascii=False) if names else ""

    def along(self) -> list:
        """The points and models of the moving patient that are to be warped along."""
        node = self.parameterNode
        found = [node.GetNthNodeReference(ALONG, n) for n in range(node.GetNumberOfNodeReferences(ALONG))]
        return [one for one in found if one is not None]

    def warp_along(self, nodes: list) -> None:
        """Choose the points and models to be warped along."""
        with slicer.util.NodeModify(self.parameterNode):  # one change for those who watch
            self.parameterNode.RemoveNodeReferenceIDs(ALONG)
            for node in nodes:
                self.parameterNode.AddNodeReferenceID(ALONG, node.GetID())

    def chosen(self) -> str:
        """The method as `RegCore.register` takes it: its name, or the path of the trained model."""
        if self.method is not Method.trained:
            return self.method.value
        return str(Path(typed_path(self.modelFile)).absolute())

    def deforms(self) -> bool:
        """Whether a method that deforms takes part, whose smoothness can be set."""
        if self.method is Method.trained:
            return self.refine
        return self.method in (Method.deformable, Method.auto)

    def more_settings(self) -> dict:
        """The further settings of the method as they were typed. Raises InputError if they can't be read."""
        return settings_of(self.moreSettings.split(), _("Further settings")) or {}

    def settings(self) -> dict | None:
        """The settings of the method that differ from RegCore's own; None: none does.

        Raises InputError if the further settings can't be read.
        """
        settings = {"refine": True} if self.method is Method.trained and self.refine else {}
        if self.method is Method.deformable:
            settings |= DEFORMABLE_QUALITIES.get(self.quality.value, {})
        elif self.deforms() and self.quality is not Quality.balanced:
            settings["quality"] = self.quality.value
        if self.deforms() and abs(self.smoothness - SMOOTHNESS) > 1e-6:
            settings["smoothness"] = self.smoothness
        if self.deforms() and self.landmarksGuide and self.fixedLandmarks is not None:
            settings["landmark_weight"] = LANDMARK_WEIGHT
        return (settings | self.more_settings()) or None


def text_of(settings: dict) -> str:
    """Settings as the field for further settings has them: "label_weight=2 symmetric=false"."""
    texts = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in settings.items())
    return " ".join(f"{key}={text.replace(' ', '')}" for key, text in texts)


CHOSEN = "DeepRegSlicer.chosen"  # attribute of the parameter node that the panel shows


def chosen(nodes: list):
    """Of the parameter nodes of the module, the one that was chosen last; None if none was."""
    return next((node for node in nodes if node.GetAttribute(CHOSEN)), None)


def choose(node, nodes: list) -> None:
    """Make one of the parameter nodes the chosen one, also once the scene is loaded again."""
    for other in nodes:
        if other is not node:
            other.RemoveAttribute(CHOSEN)
    node.SetAttribute(CHOSEN, "1")


_wrappers: list[RegisterParameters] = []


def parameters_of(node) -> RegisterParameters:
    """The one wrapper of a parameter node.

    It is kept for good: Slicer 5.10 leaves an observer of a wrapper behind, and crashes when Python collected
    the wrapper and the node changes.
    """
    known = next((wrapper for wrapper in _wrappers if wrapper.parameterNode is node), None)
    if known is None:
        known = RegisterParameters(node)
        _wrappers.append(known)
    return known


def refresh(parameters: RegisterParameters) -> None:
    """Have the wrapper and the widgets read the node again.

    A node that was loaded can follow its references without an event. The wrapper keeps values and tells the
    widgets, in any order: at the second event the widgets get what it read at the first.
    """
    parameters.Modified()
    parameters.Modified()
