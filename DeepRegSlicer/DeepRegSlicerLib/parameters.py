"""What the Register panel remembers in the scene: inputs, method, outputs and advanced settings."""

import enum
from typing import Annotated

from slicer import (
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

SMOOTHNESS = 1.25  # RegCore's own default


class Method(enum.Enum):
    """The methods of `RegCore.METHODS` in the order of the panel."""

    deformable = "deformable"
    affine = "affine"
    rigid = "rigid"
    classicalAffine = "classical-affine"
    classicalNonRigid = "classical-nonrigid"

    def label(self) -> str:
        """What the panel shows."""
        return {
            "deformable": _("Deformable: organs bend and move"),
            "affine": _("Affine: shift, turn, scale and shear"),
            "rigid": _("Rigid: shift and turn"),
            "classical-affine": _("DeepReg classical affine"),
            "classical-nonrigid": _("DeepReg classical non-rigid"),
        }[self.value]


class Device(enum.Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"

    def label(self) -> str:
        """What the panel shows."""
        return {
            "auto": _("Automatic"),
            "cpu": _("CPU"),
            "cuda": _("NVIDIA or AMD graphics card (CUDA)"),
            "mps": _("Apple graphics (MPS)"),
        }[self.value]


@parameterNodeWrapper
class RegisterParameters:
    """The parameter node; each field is bound to the widget whose SlicerParameterName is its name."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedSegmentation: vtkMRMLSegmentationNode
    movingSegmentation: vtkMRMLSegmentationNode
    method: Method = Method.deformable
    outputTransform: vtkMRMLTransformNode
    warpedVolume: vtkMRMLScalarVolumeNode
    warpedSegmentation: vtkMRMLSegmentationNode
    fixedMask: vtkMRMLSegmentationNode
    movingMask: vtkMRMLSegmentationNode
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    initialTransform: vtkMRMLTransformNode
    device: Device = Device.auto
    seed: Annotated[int, WithinRange(0, 99999)] = 0
    smoothness: Annotated[float, WithinRange(0.1, 10.0)] = SMOOTHNESS
    createImages: bool = True

    def settings(self) -> dict | None:
        """The settings of the method that differ from RegCore's own; None: none does."""
        changed = abs(self.smoothness - SMOOTHNESS) > 1e-6
        return {"smoothness": self.smoothness} if changed and self.method is Method.deformable else None
