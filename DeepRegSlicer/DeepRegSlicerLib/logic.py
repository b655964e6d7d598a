"""Registers nodes: reads them, has the child process compute, and puts the result into the scene.

From Slicer's Python console:

    from DeepRegSlicerLib.logic import register_volumes
    result = register_volumes(fixed, moving)
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import slicer
from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from . import nodes, process
from .run import Run

RegistrationError = process.WorkerError
RegistrationCancelled = process.WorkerCancelled


@dataclass(frozen=True)
class RegistrationResult:
    """What a registration brought.

    transform: vtkMRMLLinearTransformNode or vtkMRMLGridTransformNode, world to world; with the moving volume
        under it, that volume lies on the fixed one. None if not made.
    warped_volume, warped_segmentation: nodes on the fixed volume's grid, None if not made.
    metrics: as `RegCore.evaluation.metrics.summary` says, Dice by the names of the segments.
    seconds: how long the computation took.
    applied: the moving nodes that are now under the transform.
    structures: name -> "dice", "hd95_mm", "centroid_mm" -> "before", "after"; empty without segmentations.
    landmark_errors: (name, mm before, mm after) of each pair.
    outside: percent of the fixed voxels that map out of the moving volume.
    device: "cpu", "cuda" or "mps", where it was computed.
    inverse, jacobian, displacement: nodes of the inverse transform and of the maps, None if not asked for.
    warped_along: nodes of the points and models that were warped.
    name: what the transform is called, or would be.
    """

    transform: object
    warped_volume: object
    warped_segmentation: object
    metrics: dict
    seconds: float
    applied: tuple = ()
    structures: dict = field(default_factory=dict)
    landmark_errors: tuple = ()
    outside: float = 0.0
    device: str = ""
    inverse: object = None
    jacobian: object = None
    displacement: object = None
    warped_along: tuple = ()
    name: str = ""

    def nodes(self) -> list:
        """What was made, the most important first."""
        made = (self.transform, self.warped_volume, self.warped_segmentation, self.inverse)
        return [n for n in (*made, self.jacobian, self.displacement, *self.warped_along) if n is not None]


@dataclass(frozen=True)
class _Order:
    """What was asked for, read from the nodes."""

    arguments: dict
    structures: nodes.Structures
    placement: nodes.Placement
    outputs: nodes.Outputs
    inputs: tuple  # fixed and moving volume, fixed and moving segmentation, initial transform
    notes: tuple[str, ...]
    points: tuple[str, ...]  # names of the pairs of landmarks


class RegistrationRun(Run):
    """A registration that is under way. Once `running` is false, `result` or `error` is set.

    `cancel` ends it within a second, with a RegistrationCancelled as its error.
    inputs: the nodes that it began with: `fixed`, `moving`, their segmentations, the initial transform.
    notes: sentences on what was left out of the input.
    """

    def __init__(self, order: _Order, worker, progress, done):
        """Starts at once. Raises RegistrationError if the process is busy or can't be started."""
        self._order, self._dropped = order, ""
        self.inputs, self.notes = order.inputs, order.notes
        self.fixed, self.moving = order.inputs[:2]
        super().__init__(worker, "register", order.arguments, progress, done)
        scene, events = (
            slicer.mrmlScene,
            (slicer.vtkMRMLScene.NodeRemovedEvent, slicer.vtkMRMLScene.EndCloseEvent),
        )
        self._observed = [(scene, scene.AddObserver(event, self._on_scene_changed)) for event in events]

    @property
    def mapping(self):
        """RegCore's transform, fixed -> moving, RAS mm, once there is a result."""
        return self._job.result["transform"]

    def _on_scene_changed(self, caller=None, event=None) -> None:
        """Stop where the result would have no place any more."""
        gone = self._order.placement.missing(slicer.mrmlScene)
        if gone and not self._dropped:
            text = _("The registration was stopped, because {names} left the scene. Nothing was changed.")
            if slicer.mrmlScene.IsClosing():
                text = _("The registration was stopped, because the scene was closed. Nothing was changed.")
            self._dropped = text.format(names=_(" and ").join(f"'{name}'" for name in gone))
            self._worker.cancel()

    def _prepare(self, found: dict) -> object:
        """The objects that become the result's nodes, or the error that they can't be made for."""
        order = self._order
        try:
            return nodes.prepare(*self._came(found), order.structures, order.placement, order.outputs)
        except Exception as error:
            return error

    @staticmethod
    def _came(found: dict) -> tuple:
        return found["transform"], found["warped"], found["warped_labels"]

    def _end(self, job) -> tuple[RegistrationResult | None, RegistrationError | None]:
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        if self._dropped:
            return None, RegistrationError(self._dropped)
        if job.error is not None:
            return None, job.error
        try:
            if isinstance(job.prepared, Exception):
                raise job.prepared
            return self._write(job.result, job.prepared), None
        except Exception as error:
            text = _("The result could not be put into the scene, which is as it was: {error}")
            return None, RegistrationError(text.format(error=error), traceback.format_exc())

    def _write(self, found: dict, prepared: nodes.Prepared) -> RegistrationResult:
        order = self._order
        asked = (order.structures, order.placement, order.outputs)
        written = nodes.write(*self._came(found), *asked, found, prepared)
        metrics = _with_names(found["metrics"], order.structures)
        made = (written.transform, written.volume, written.segmentation)
        measured = {
            order.structures.name_of(int(label)): figures
            for label, figures in (found.get("structures") or {}).items()
        }
        self.notes += _empty(order.structures, measured)
        errors = found.get("landmark_errors") or {"before": (), "after": ()}
        points = tuple(zip(order.points, errors["before"], errors["after"], strict=False))
        checks = (written.applied, measured, points, found.get("outside", 0.0), found.get("device", ""))
        more = [written.more.get(name) for name in ("inverse", "jacobian", "displacement", "along")]
        name = written.transform.GetName() if written.transform else order.placement.name
        return RegistrationResult(*made, metrics, found["seconds"], *checks, *more, name)


def register_volumes(
    fixed,
    moving,
    *,
    method: str = "auto",
    fixed_segmentation=None,
    moving_segmentation=None,
    fixed_landmarks=None,
    moving_landmarks=None,
    fixed_mask=None,
    moving_mask=None,
    left_out=(),
    initial_transform=None,
    output_transform=None,
    warped_volume=None,
    warped_segmentation=None,
    create_images: bool = True,
    apply_to_moving: bool = False,
    more: nodes.MoreOutputs | None = None,
    settings: dict | None = None,
    device: str = "auto",
    seed: int = 0,
    wait: bool = True,
    progress: Callable[[float, str, dict], None] | None = None,
    done: Callable[[RegistrationRun], None] | None = None,
    worker=None,
) -> RegistrationResult | RegistrationRun:
    """Register the moving volume node to the fixed one, as `RegCore.register` does, in the child process.

    fixed, moving: vtkMRMLScalarVolumeNode; a label map is warped as labels. Their parent transforms count.
    method: a name of `RegCore.METHODS`, or the path of a trained network's model file; settings: what it can
        be told beyond its defaults.
    fixed_segmentation, moving_segmentation: vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode; segments
        are paired by name and join the objective. The moving one alone is just warped.
    fixed_landmarks, moving_landmarks: vtkMRMLMarkupsFiducialNode, paired by label, or by order where they
        share none; they measure the result.
    fixed_mask, moving_mask: a segmentation, ROI, label map or volume node; where to look.
    left_out: names of segments that take no part: they neither guide, nor are measured or warped.
    initial_transform: a transform node that brings the moving volume near the fixed one, or a word of
        `RegCore.cli.extras.STARTS`; None lets the method choose.
    output_transform, warped_volume, warped_segmentation: nodes to write to; None: new ones.
    create_images: False to make no warped volume. apply_to_moving: put the moving volume, its segmentation
        and its landmarks under the transform. more: what else is made, and how the warped volume is, such as
        `MoreOutputs(inverse=True, along=(model,))`.
    wait: True returns the RegistrationResult when it is there, False at once a RegistrationRun.
    progress(fraction, stage, values) is told how far it is and may raise `RegCore.Cancelled`; done(run) is
    called at the end. worker: another child process than the shared one.
    Raises InputError for nodes that can't be used, RegistrationError if the computation brings no result;
    the scene is as it was then.
    """
    pairs = ((fixed, moving), (fixed_segmentation, moving_segmentation), (fixed_landmarks, moving_landmarks))
    inputs = _Inputs(*pairs, (fixed_mask, moving_mask), initial_transform, left_out)
    more = more or nodes.MoreOutputs()
    chosen = (output_transform if more.transform else None, warped_volume, warped_segmentation)
    outputs = nodes.Outputs(*chosen, create_images, apply_to_moving, more)
    asked = {"method": method, "settings": settings, "device": device, "seed": seed}
    run = RegistrationRun(_order(inputs, outputs, asked), worker or process.shared_worker(), progress, done)
    return run.wait() if wait else run


@dataclass(frozen=True)
class _Inputs:
    """The nodes to read; in pairs, the fixed one first."""

    volumes: tuple
    segmentations: tuple
    landmarks: tuple
    masks: tuple
    initial: object  # a transform node, a word of `RegCore.cli.extras.STARTS`, or None
    left_out: tuple  # names of segments

    @property
    def start(self):
        """The transform node to start from, None if there is none."""
        return None if isinstance(self.initial, str) else self.initial


def _order(inputs: _Inputs, outputs: nodes.Outputs, asked: dict) -> _Order:
    """Read the nodes as arguments of `RegCore.register`, beside those that were asked for as they are."""
    _check_pair(*inputs.volumes, *inputs.landmarks)
    _check_present(*inputs.volumes, *inputs.segmentations, *inputs.landmarks, *inputs.masks, inputs.start)
    _check_classes(inputs, outputs)
    outputs.check([*inputs.volumes, *inputs.segmentations, *inputs.masks])
    below = outputs.transform
    fixed_labels, moving_labels, structures = nodes.label_volumes(
        *inputs.segmentations, below, inputs.left_out
    )
    fixed, moving = nodes.volume(inputs.volumes[0]), nodes.volume(inputs.volumes[1], below)
    arguments = asked | {
        "fixed": fixed,
        "moving": moving,
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_mask": inputs.masks[0] and nodes.mask(inputs.masks[0], grid=fixed.geometry),
        "moving_mask": inputs.masks[1] and nodes.mask(inputs.masks[1], below, moving.geometry),
        "landmarks": inputs.landmarks[0] and nodes.landmarks(*inputs.landmarks, below),
        "initial": (
            nodes.initial_transform(inputs.start, fixed.geometry) if inputs.start else inputs.initial
        ),
        "full_field": outputs.more.full_field,
        "wanted": outputs.more.wanted(),
    }
    moving_nodes = (inputs.volumes[1], inputs.segmentations[1])
    placement = nodes.Placement.of(
        inputs.volumes[0], *moving_nodes, fixed.geometry, below, inputs.landmarks[1]
    )
    kept = (*inputs.volumes, *inputs.segmentations, inputs.start)
    notes = (*_left_out(*inputs.landmarks), *_unpaired(inputs.segmentations, structures))
    return _Order(arguments, structures, placement, outputs, kept, notes, _points(*inputs.landmarks))


def _check_present(*given) -> None:
    """Raise InputError for a node that left the scene, such as one that a batch comes to late."""
    for node in given:
        if node is not None and not slicer.mrmlScene.IsNodePresent(node):
            raise InputError(_("'{name}' is not in the scene.").format(name=node.GetName()))


def _check_classes(inputs: _Inputs, outputs: nodes.Outputs) -> None:
    """Raise InputError for a node of the wrong class.

    Masks and segmentations, which may be of several classes, are checked where they are read.
    """
    for node, wanted, what in (
        (inputs.landmarks[0], "vtkMRMLMarkupsNode", "a list of points"),
        (inputs.landmarks[1], "vtkMRMLMarkupsNode", "a list of points"),
        (inputs.start, "vtkMRMLTransformNode", "a transform"),
        *((node, "vtkMRMLTransformableNode", "a model or markups") for node in outputs.more.along),
        (outputs.transform, "vtkMRMLTransformNode", "a transform"),
        (outputs.volume, "vtkMRMLScalarVolumeNode", "a scalar volume"),
        (outputs.segmentation, "vtkMRMLSegmentationNode", "a segmentation"),
    ):
        if node is not None and not node.IsA(wanted):
            raise InputError(
                _("'{name}' is a {kind}; {what} is expected.").format(
                    name=node.GetName(), kind=node.GetClassName(), what=what
                )
            )
    for node in outputs.more.along:
        nodes.affine_of_parents(node)  # which it must be seen under
    labels, moving = "vtkMRMLLabelMapVolumeNode", inputs.volumes[1]
    if outputs.volume is not None and outputs.volume.IsA(labels) and not moving.IsA(labels):
        raise InputError(
            _(
                "'{volume}' is a label map, which the moving volume '{moving}' is not: choose "
                "another warped volume."
            ).format(volume=outputs.volume.GetName(), moving=moving.GetName())
        )


def _left_out(fixed_landmarks, moving_landmarks) -> tuple[str, ...]:
    """A sentence on the landmarks that have no partner, if there are any."""
    if fixed_landmarks is None:
        return ()
    names = nodes.paired_landmarks(fixed_landmarks, moving_landmarks)[1]
    listed = ", ".join(f"'{name}'" for name in names)
    text = _("Landmarks that are not set in both lists were left out: {names}.")
    return (text.format(names=listed),) if names else ()


def _unpaired(segmentations: tuple, structures: nodes.Structures) -> tuple[str, ...]:
    """A sentence on the segments that only one of two segmentations has, if there are any."""
    said = []
    for node, names in zip(segmentations, structures.unpaired, strict=True):
        listed = ", ".join(f"'{name}'" for name in names)
        said += [_("only '{node}' has {names}").format(node=node.GetName(), names=listed)] if names else []
    text = _("Segments without a partner do not guide: {names}.")
    return (text.format(names="; ".join(said)),) if said else ()


def _empty(structures: nodes.Structures, measured: dict) -> tuple[str, ...]:
    """A sentence on the pairs of segments that have no figures, because one of the two is empty."""
    alone = {name for names in structures.unpaired for name in names}
    empty = [name for name in structures.names if name not in alone and name not in measured]
    listed = ", ".join(f"'{name}'" for name in empty)
    text = _("Empty in one segmentation or in both: {names}.")
    return (text.format(names=listed),) if measured and empty else ()


def _points(fixed_landmarks, moving_landmarks) -> tuple[str, ...]:
    """What the pairs of landmarks are called."""
    if fixed_landmarks is None:
        return ()
    pairs = nodes.paired_landmarks(fixed_landmarks, moving_landmarks)[0]
    return tuple(fixed_landmarks.GetNthControlPointLabel(n) for n, _ in pairs)


def _check_pair(fixed, moving, fixed_landmarks, moving_landmarks) -> None:
    for name, node in (("fixed", fixed), ("moving", moving)):
        if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):
            came = "none" if node is None else f"a {node.GetClassName()}"
            raise InputError(
                _("A scalar volume is expected as the {name} volume, but {came} was given.").format(
                    name=name, came=came
                )
            )
    if fixed is moving:
        raise InputError(
            _("'{fixed}' is both the fixed and the moving volume; choose two.").format(fixed=fixed.GetName())
        )
    if (fixed_landmarks is None) != (moving_landmarks is None):
        raise InputError(_("Landmarks are needed for both volumes, or for none."))


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
