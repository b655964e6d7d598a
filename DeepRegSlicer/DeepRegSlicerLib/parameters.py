"""What the Register panel remembers in the scene: inputs, method, outputs and advanced settings."""

import enum
from pathlib import Path
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
    """The methods of `RegCore.METHODS` in the order of the panel, and a trained network."""

    deformable = "deformable"
    affine = "affine"
    rigid = "rigid"
    classicalAffine = "classical-affine"
    classicalNonRigid = "classical-nonrigid"
    trained = "trained"

    def label(self) -> str:
        """What the panel shows."""
        return {
            "deformable": _("Deformable: organs bend and move"),
            "affine": _("Affine: shift, turn, scale and shear"),
            "rigid": _("Rigid: shift and turn"),
            "classical-affine": _("DeepReg classical affine"),
            "classical-nonrigid": _("DeepReg classical non-rigid"),
            "trained": _("Trained model: a network of your own"),
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
    modelFile: str = ""
    refine: bool = False
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

    def chosen(self) -> str:
        """The method as `RegCore.register` takes it: its name, or the path of the trained model."""
        if self.method is not Method.trained:
            return self.method.value
        return str(Path(self.modelFile).expanduser().absolute())

    def deforms(self) -> bool:
        """Whether the deformable method takes part."""
        return self.method is Method.deformable or (self.method is Method.trained and self.refine)

    def settings(self) -> dict | None:
        """The settings of the method that differ from RegCore's own; None: none does."""
        settings = {"refine": True} if self.method is Method.trained and self.refine else {}
        if self.deforms() and abs(self.smoothness - SMOOTHNESS) > 1e-6:
            settings["smoothness"] = self.smoothness
        return settings or None
