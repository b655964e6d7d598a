"""Registers nodes: reads them, has the child process compute, and puts the result into the scene.

From Slicer's Python console:

    from DeepRegSlicerLib.logic import register_volumes
    result = register_volumes(fixed, moving)
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import slicer

from RegCore.space.geometry import InputError

from . import nodes, process
from .run import Run

RegistrationError = process.WorkerError
RegistrationCancelled = process.WorkerCancelled


@dataclass(frozen=True)
class RegistrationResult:
    """What a registration brought.

    transform: vtkMRMLLinearTransformNode or vtkMRMLGridTransformNode, world to world; with the moving volume
        under it, that volume lies on the fixed one.
    warpedVolume, warpedSegmentation: nodes on the fixed volume's grid, None if not made.
    metrics: as `RegCore.evaluation.metrics.summary` says, Dice by the names of the segments.
    seconds: how long the computation took.
    """

    transform: object
    warpedVolume: object
    warpedSegmentation: object
    metrics: dict
    seconds: float


@dataclass(frozen=True)
class _Order:
    """What was asked for, read from the nodes."""

    things: dict
    structures: nodes.Structures
    placement: nodes.Placement
    outputs: nodes.Outputs


class RegistrationRun(Run):
    """A registration that is under way. Once `running` is false, `result` or `error` is set.

    `cancel` ends it within a second, with a RegistrationCancelled as its error.
    """

    def __init__(self, order: _Order, worker, progress, done):
        """Starts at once. Raises RegistrationError if the process is busy or can't be started."""
        self._order, self._dropped = order, ""
        super().__init__(worker, "register", order.things, progress, done)
        scene, events = (
            slicer.mrmlScene,
            (slicer.vtkMRMLScene.NodeRemovedEvent, slicer.vtkMRMLScene.EndCloseEvent),
        )
        self._observed = [(scene, scene.AddObserver(event, self._on_scene_changed)) for event in events]

    def _on_scene_changed(self, caller=None, event=None) -> None:
        """Stop where the result would have no place any more."""
        gone = self._order.placement.missing(slicer.mrmlScene)
        if gone and not self._dropped:
            names = " and ".join(f"'{name}'" for name in gone)
            why = "the scene was closed" if slicer.mrmlScene.IsClosing() else f"{names} left the scene"
            self._dropped = f"The registration was stopped, because {why}. Nothing was changed."
            self._worker.cancel()

    def _end(self, job) -> tuple[RegistrationResult | None, RegistrationError | None]:
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        if self._dropped:
            return None, RegistrationError(self._dropped)
        if job.error is not None:
            return None, job.error
        try:
            return self._write(job.result), None
        except Exception as error:
            text = f"The result could not be put into the scene, which is as it was: {error}"
            return None, RegistrationError(text, traceback.format_exc())

    def _write(self, found: dict) -> RegistrationResult:
        order = self._order
        written = nodes.write(
            found["transform"],
            found["warped"],
            found["warped_labels"],
            order.structures,
            order.placement,
            order.outputs,
        )
        metrics = _with_names(found["metrics"], order.structures)
        return RegistrationResult(
            written.transform, written.volume, written.segmentation, metrics, found["seconds"]
        )


def register_volumes(
    fixedNode,
    movingNode,
    method: str = "deformable",
    fixedSegmentation=None,
    movingSegmentation=None,
    fixedLandmarks=None,
    movingLandmarks=None,
    fixedMask=None,
    movingMask=None,
    initialTransform=None,
    outputTransform=None,
    warpedVolume=None,
    warpedSegmentation=None,
    createImages: bool = True,
    settings: dict | None = None,
    device: str = "auto",
    seed: int = 0,
    wait: bool = True,
    progress: Callable[[float, str, dict], None] | None = None,
    done: Callable[[RegistrationRun], None] | None = None,
    worker=None,
) -> RegistrationResult | RegistrationRun:
    """Register the moving volume node to the fixed one, as `RegCore.register` does, in the child process.

    fixedNode, movingNode: vtkMRMLScalarVolumeNode. Their parent transforms count.
    method: a name of `RegCore.METHODS`, or the path of a trained network's model file; settings: what it can
        be told beyond its defaults.
    fixedSegmentation, movingSegmentation: vtkMRMLSegmentationNode; segments are paired by name and join the
        objective. The moving one alone is just warped.
    fixedLandmarks, movingLandmarks: vtkMRMLMarkupsFiducialNode, paired by order; they measure the result.
    fixedMask, movingMask: vtkMRMLSegmentationNode or volume node; where to look.
    initialTransform: a transform node that brings the moving volume near the fixed one.
    outputTransform, warpedVolume, warpedSegmentation: nodes to write to; None: new ones.
    createImages: False to make the transform alone.
    wait: True returns the RegistrationResult when it is there, False at once a RegistrationRun.
    progress(fraction, stage, values) is told how far it is and may raise `RegCore.Cancelled`; done(run) is
    called at the end. worker: another child process than the shared one.
    Raises InputError for nodes that can't be used, RegistrationError if the computation brings no result;
    the scene is as it was then.
    """
    _check_pair(fixedNode, movingNode, fixedLandmarks, movingLandmarks)
    outputs = nodes.Outputs(outputTransform, warpedVolume, warpedSegmentation, createImages)
    outputs.check([fixedNode, movingNode, fixedSegmentation, movingSegmentation, fixedMask, movingMask])
    things, structures = _read(fixedNode, movingNode, fixedSegmentation, movingSegmentation, outputTransform)
    grid = things["fixed"].geometry
    things |= {"method": method, "settings": settings, "device": device, "seed": seed}
    things |= {
        "fixed_mask": fixedMask and nodes.mask(fixedMask),
        "moving_mask": movingMask and nodes.mask(movingMask, outputTransform),
        "landmarks": fixedLandmarks and nodes.landmarks(fixedLandmarks, movingLandmarks, outputTransform),
        "initial": initialTransform and nodes.initial_transform(initialTransform, grid),
    }
    placement = nodes.Placement.of(fixedNode, movingNode, movingSegmentation, grid, outputTransform)
    order = _Order(things, structures, placement, outputs)
    run = RegistrationRun(order, worker or process.shared_worker(), progress, done)
    return run.wait() if wait else run


def _check_pair(fixed, moving, fixed_landmarks, moving_landmarks) -> None:
    for name, node in (("fixed", fixed), ("moving", moving)):
        if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):
            came = "none" if node is None else f"a {node.GetClassName()}"
            raise InputError(f"A scalar volume is expected as the {name} volume, but {came} was given.")
    if fixed is moving:
        raise InputError(f"'{fixed.GetName()}' is both the fixed and the moving volume; choose two.")
    if (fixed_landmarks is None) != (moving_landmarks is None):
        raise InputError("Landmarks are needed for both volumes, or for none.")


def _read(fixed, moving, fixed_segmentation, moving_segmentation, output) -> tuple[dict, nodes.Structures]:
    """The volumes and labels as arguments of `RegCore.register`."""
    fixed_labels, moving_labels, structures = nodes.label_volumes(
        fixed_segmentation, moving_segmentation, output
    )
    things = {
        "fixed": nodes.volume(fixed),
        "moving": nodes.volume(moving, output),
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
    }
    return things, structures


def _with_names(metrics: dict, structures: nodes.Structures) -> dict:
    """The metrics with the names of structures in place of their labels."""
    dice = metrics.get("dice")
    if not dice:
        return metrics
    named = {
        when: {structures.name_of(int(label)): value for label, value in values.items()}
        for when, values in dice.items()
    }
    return {**metrics, "dice": named}
