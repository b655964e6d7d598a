"""Registration of two volumes: the one entry point, `register`, and what it gives back."""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from RegCore.evaluation import metrics
from RegCore.evaluation.memory import peak_memory_mib
from RegCore.networks.model_file import TrainedModel
from RegCore.progress import Progress, part_of, silent
from RegCore.registration import classical
from RegCore.registration.affine import align, align_simply, given_position
from RegCore.registration.checks import (
    as_mask,
    check_landmarks,
    check_method,
    check_pair,
    check_start,
    check_types,
    choose_device,
    take_settings,
)
from RegCore.registration.deformable import Settings, deform
from RegCore.registration.learned import find_model, predicted_transform
from RegCore.registration.pair import Codes, Side
from RegCore.resampler import inverted, warp
from RegCore.space.geometry import Geometry
from RegCore.space.names import is_path
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume

FIELD_VOXELS = 2**24  # a field on more voxels than this is kept on a coarser grid over the same corners


@dataclass(frozen=True)
class Registration:
    """What a registration gives.

    transform: x_moving = T(x_fixed), RAS mm; an `AffineTransform` for linear methods, else a
        `DisplacementField` on the fixed grid (on a coarser one over the same corners for very large images).
    inverse: x_fixed = T(x_moving), for fields on the moving grid.
    warped: the moving image on the fixed grid.
    warped_labels: the moving segmentation on the fixed grid, if one was given.
    metrics: of `RegCore.evaluation.metrics.summary`, with "method", "seconds" and "peak_memory_mib".
    seconds: time of the whole registration.
    """

    transform: Transform
    inverse: Transform
    warped: Volume
    warped_labels: Volume | None
    metrics: dict
    seconds: float


@dataclass(frozen=True)
class Task:
    """All that a method may use; the volumes are checked."""

    fixed: Side
    moving: Side
    landmarks: np.ndarray | None
    initial: Transform | None
    settings: dict
    device: str
    seed: int
    progress: Progress
    model: TrainedModel | None = None

    def codes(self, weight: float) -> Codes | None:
        """Channels of the structures that both segmentations hold, if there are segmentations."""
        if self.fixed.labels is None or weight == 0:
            return None
        return Codes.of(self.fixed.labels, self.moving.labels, weight, self.seed)


# ---- methods -----------------------------------------------------------------------------------------------


DEFORMABLE = {field.name: field.type for field in fields(Settings)}


def _linear_start(initial: Transform | None) -> AffineTransform | None:
    return initial.affine_part() if isinstance(initial, DisplacementField) else initial


def _linear(task: Task, rigid: bool) -> AffineTransform:
    """Starts, block matching and refinement on MIND-SSC; see `RegCore.registration.affine.align`."""
    settings = Settings(
        **take_settings(task.settings, {"label_weight": float}, "rigid" if rigid else "affine")
    )
    return align(
        task.fixed,
        task.moving,
        rigid=rigid,
        initial=_linear_start(task.initial),
        codes=task.codes(settings.label_weight),
        device=task.device,
        progress=task.progress,
    )


def _rigid(task: Task) -> AffineTransform:
    """Rotation and translation."""
    return _linear(task, rigid=True)


def _affine(task: Task) -> AffineTransform:
    """Twelve parameters."""
    return _linear(task, rigid=False)


def _deformable(task: Task) -> DisplacementField:
    """Linear, then a smooth displacement field from coarse to fine; `Settings` lists what can be set.

    A displacement field as the initial transform takes the place of the linear stage.
    """
    settings = Settings(**take_settings(task.settings, DEFORMABLE, "deformable"))
    start = task.initial
    if not isinstance(start, DisplacementField):
        start = align_simply(
            task.fixed,
            task.moving,
            initial=start,
            codes=task.codes(settings.label_weight),
            device=task.device,
            progress=part_of(task.progress, 0.0, 0.25),
        )
    return _deformed(task, settings, start, part_of(task.progress, 0.25, 1.0))


def _deformed(task: Task, settings: Settings, start: Transform, progress: Progress) -> DisplacementField:
    """The field that the deformable stage makes of a transform."""
    field = start if isinstance(start, DisplacementField) else None
    found = deform(
        task.fixed,
        task.moving,
        start if field is None else field.affine_part(),
        settings=settings,
        initial=field,
        codes=task.codes(settings.label_weight),
        landmarks=task.landmarks,
        device=task.device,
        progress=progress,
    )
    return found.resampled(_field_grid(task.fixed.image.geometry))


def _network(task: Task) -> Transform:
    """A trained network; with the setting ``refine`` the deformable stage goes on from what it found.

    The settings of the deformable method then count as well.
    """
    kinds = {"refine": bool} | (DEFORMABLE if task.settings.get("refine") else {})
    settings = take_settings(task.settings, kinds, "trained network")
    refine = settings.pop("refine", False)
    found = predicted_transform(
        task.model,
        task.fixed.image,
        task.moving.image,
        initial=task.initial,
        onto=_field_grid(task.fixed.image.geometry),
        progress=part_of(task.progress, 0.0, 0.3 if refine else 1.0),
    )
    if not refine:
        return found
    return _deformed(task, Settings(**settings), found, part_of(task.progress, 0.3, 1.0))


def _field_grid(geometry: Geometry) -> Geometry:
    """The grid on which a field is given back: that of the fixed image unless it is huge."""
    if geometry.voxels <= FIELD_VOXELS:
        return geometry
    factor = (geometry.voxels / FIELD_VOXELS) ** (1 / 3)
    return geometry.resized(tuple(max(2, int(n / factor)) for n in geometry.shape))


_CLASSICAL = {
    "image_loss": dict,
    "learning_rate": float,
    "max_iter": int,
    "optimizer": str,
    "border": str,
    "working_size": int,
}


def _classical_start(task: Task) -> Transform:
    """The initial transform, or a position that is no mirror image (DeepReg lays array on array)."""
    return task.initial or given_position(task.fixed, task.moving, task.device)


def _classical_affine(task: Task) -> AffineTransform:
    """DeepReg's classical affine registration: gradient descent on the 12 parameters."""
    return classical.register_classical_affine(
        task.fixed.image,
        task.moving.image,
        **take_settings(task.settings, _CLASSICAL, "classical-affine"),
        initial=_linear_start(_classical_start(task)),
        device=task.device,
        progress=task.progress,
    )


def _classical_nonrigid(task: Task) -> DisplacementField:
    """DeepReg's classical non-rigid registration: Adam on a free DDF."""
    kinds = {**_CLASSICAL, "deform_loss": dict, "weight_deform_loss": float}
    return classical.register_classical_nonrigid(
        task.fixed.image,
        task.moving.image,
        **take_settings(task.settings, kinds, "classical-nonrigid"),
        initial=_classical_start(task),
        device=task.device,
        seed=task.seed,
        progress=task.progress,
    )


METHODS = {
    "rigid": _rigid,
    "affine": _affine,
    "deformable": _deformable,
    "classical-affine": _classical_affine,
    "classical-nonrigid": _classical_nonrigid,
}
"""Name -> function of a `Task` that gives the transform; a new method is one more entry."""


# ---- the whole ---------------------------------------------------------------------------------------------


def _on_grid(volume: Volume | None, geometry: Geometry) -> Volume | None:
    """A mask or segmentation on the grid of its image."""
    if volume is None or volume.geometry.is_close(geometry):
        return volume
    return warp(volume, AffineTransform.identity(), geometry)


def register(
    fixed: Volume,
    moving: Volume,
    method: str | Path | TrainedModel = "deformable",
    *,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    landmarks: np.ndarray | None = None,
    initial: Transform | str | None = None,
    settings: dict | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Registration:
    """Register the moving volume to the fixed one.

    Args:
        fixed, moving: images ``(I, J, K)`` on any grids.
        method: a name in `METHODS`; or a trained network: its model file, a checkpoint, or what
            `RegCore.load_model` gave. A network sees what `RegCore.registration.learned.predicted_transform`
            says; its only setting is ``refine``: true lets the deformable method go on from there, with its
            settings.
        fixed_labels, moving_labels: segmentations, both or none; they join the objective and are measured.
        fixed_mask, moving_mask: where the images count (not 0).
        landmarks: ``(N, 6)`` RAS mm, fixed and moving place of each; measured, and used by the deformable
            method if its setting ``landmark_weight`` is positive.
        initial: transform to start from, fixed -> moving, or the word ``centres`` for grid centre on grid
            centre; without it the volumes must overlap in space.
        settings: of the method, by name.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: fixes all randomness; the same inputs and seed give the same transform.
        progress: told of fraction, stage, iteration and loss; raising `Cancelled` in it stops.

    Returns:
        A `Registration`.

    Raises:
        InputError: one sentence that says what can't be used.
    """
    began = time.perf_counter()
    labels, masks = (fixed_labels, moving_labels), (fixed_mask, moving_mask)
    check_types((fixed, moving), labels, masks, initial, settings, seed)
    trained = isinstance(method, TrainedModel) or is_path(method)
    if not trained:
        check_method(method, METHODS)
    device = choose_device(device)
    still = Side(fixed, fixed_labels, as_mask(fixed_mask))
    other = Side(moving, moving_labels, as_mask(moving_mask))
    check_pair(still, other)
    landmarks = check_landmarks(landmarks)
    if initial is not None or not trained:
        initial = check_start(fixed.geometry, moving.geometry, initial)
    model = _model(method, device) if trained else None
    working = part_of(progress, 0.0, 0.85)
    task = Task(still, other, landmarks, initial, settings or {}, device, seed, working, model)
    transform = (_network if trained else METHODS[method])(task)
    name = "trained network" if isinstance(method, TrainedModel) else str(method)
    return _finish(task, name, transform, began, part_of(progress, 0.85, 1.0))


def _model(method: str | Path | TrainedModel, device: str) -> TrainedModel:
    """A trained network on the device; one that is in memory is moved there."""
    if not isinstance(method, TrainedModel):
        return find_model(method, device=device)
    method.network.to(device).eval()
    return method


def _finish(task: Task, method: str, transform: Transform, began: float, progress: Progress) -> Registration:
    """Warp, invert and measure."""
    fixed, moving = task.fixed, task.moving
    warped = warp(moving.image, transform, fixed.image.geometry, progress=part_of(progress, 0.0, 0.3))
    labels = None
    if moving.labels is not None:
        labels = warp(moving.labels, transform, fixed.image.geometry)
    if isinstance(transform, AffineTransform):
        inverse = transform.inverse()
    else:
        inverse = inverted(transform, _field_grid(moving.image.geometry), part_of(progress, 0.3, 0.8))
    progress(0.8, "figures", {})
    found = metrics.summary(
        transform,
        fixed.image,
        moving.image,
        warped,
        fixed_labels=_on_grid(fixed.labels, fixed.image.geometry),
        moving_labels=moving.labels,
        warped_labels=labels,
        landmarks=task.landmarks,
        fixed_mask=_on_grid(fixed.mask, fixed.image.geometry),
    )
    seconds = time.perf_counter() - began
    extra = {"method": method, "seconds": seconds, "peak_memory_mib": peak_memory_mib()}
    progress(1.0, "done", {})
    return Registration(transform, inverse, warped, labels, extra | found, seconds)
