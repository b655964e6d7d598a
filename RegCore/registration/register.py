"""Registration of two volumes: the one entry point, `register`, and what it gives back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from RegCore.evaluation import metrics
from RegCore.evaluation.memory import peak_memory_mib
from RegCore.networks.device import choose_device
from RegCore.networks.model_file import Model
from RegCore.progress import Progress, part_of, silent
from RegCore.registration import METHODS
from RegCore.registration.checks import (
    apart,
    as_mask,
    check_landmarks,
    check_method,
    check_pair,
    check_start,
    check_types,
)
from RegCore.registration.doubts import doubts
from RegCore.registration.learned import load_model
from RegCore.registration.methods import Task, field_grid, trained_network
from RegCore.registration.pair import PairSide
from RegCore.resampler import inverted, warp
from RegCore.space.geometry import Geometry
from RegCore.space.names import is_path
from RegCore.space.segments import pair_segments
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume, unknown_voxels

SMALL = 100_000  # voxels of an image up to which one thread does the work
OVERLAPPING = 0.5  # mean Dice from which on structures say that a registration did not fail


@dataclass(frozen=True)
class Registration:
    """What a registration gives.

    Attributes:
        transform: x_moving = T(x_fixed), RAS mm; an `AffineTransform` for linear methods, else a
            `DisplacementField` on the fixed grid (on a coarser one over the same corners for very large
            images).
        moving_geometry: the grid of the moving image.
        inverse: x_fixed = T(x_moving), for fields on the moving grid; it is computed when it is first asked
            for.
        warped: the moving image on the fixed grid.
        warped_labels: the moving segmentation on the fixed grid, if one was given.
        metrics: of `RegCore.evaluation.metrics.summary`, with "method", "seconds" and "peak_memory_mib", and
            with "notes", sentences for the user, if there is something to say, and "doubts", sentences that
            say why it has probably failed, if it has.
        seconds: time of the whole registration.
    """

    transform: Transform
    moving_geometry: Geometry
    warped: Volume
    warped_labels: Volume | None
    metrics: dict
    seconds: float

    @cached_property
    def inverse(self) -> Transform:
        """x_fixed = T(x_moving), RAS mm, exact to 0.04 voxels."""
        if isinstance(self.transform, AffineTransform):
            return self.transform.inverse()
        return inverted(self.transform, field_grid(self.moving_geometry))


def _on_grid(volume: Volume | None, geometry: Geometry) -> Volume | None:
    """A mask or segmentation on the grid of its image."""
    if volume is None or volume.geometry.is_close(geometry):
        return volume
    return warp(volume, AffineTransform.identity(), geometry)


def register(
    fixed: Volume,
    moving: Volume,
    method: str | Path | Model = "auto",
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
            says; its setting ``refine``: true lets the method auto go on from there, with its settings, and
            then ``starts``: "both" keeps the better of this and a linear start. A network that registers
            in its own way may have more, such as ``match.smoothness`` of SLIC-Reg.
        fixed_labels, moving_labels: segmentations, both or none; they join the objective and are measured.
            Structures that have names are paired by these, see `pair_segments`, others by their numbers.
        fixed_mask, moving_mask: where the images count (not 0).
        landmarks: ``(N, 6)`` RAS mm, fixed and moving place of each; measured, and used by the deformable
            method if its setting ``landmark_weight`` is positive.
        initial: transform to start from, fixed -> moving, or the word ``centres`` for grid centre on grid
            centre, which is also the start without it where the volumes do not overlap in space.
        settings: of the method, by name.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        seed: fixes all randomness; the same inputs and seed give the same transform.
        progress: told of fraction, stage, iteration and loss; raising `Cancelled` in it stops.

    Returns:
        A `Registration`.

    Raises:
        InputError: one sentence that says what can't be used.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(24, 20, 18), moving_shape=(22, 21, 20))
        >>> result = RegCore.register(pair.fixed, pair.moving, landmarks=pair.landmarks, device="cpu")
        >>> result.metrics["tre_mm"]["after"] < result.metrics["tre_mm"]["before"]
        True
        >>> result.warped.array.shape
        (24, 20, 18)
    """
    began = time.perf_counter()
    labels, masks = (fixed_labels, moving_labels), (fixed_mask, moving_mask)
    check_types((fixed, moving), labels, masks, initial, settings, seed)
    fixed_labels, moving_labels = pair_segments(fixed_labels, moving_labels)
    trained = isinstance(method, Model) or is_path(method)
    name = "trained network" if isinstance(method, Model) else str(method)
    if not trained:
        check_method(method, METHODS)
    device = choose_device(device)
    fixed_side = PairSide(fixed, fixed_labels, as_mask(fixed_mask))
    moving_side = PairSide(moving, moving_labels, as_mask(moving_mask))
    check_pair(fixed_side, moving_side)
    landmarks = check_landmarks(landmarks)
    if initial is not None or not trained:
        initial = check_start(fixed.geometry, moving.geometry, initial)
    model = _model(method, device) if trained else None
    working = part_of(progress, 0.0, 0.85)
    task = Task(fixed_side, moving_side, landmarks, initial, settings or {}, device, seed, working)
    with _threads(max(fixed.geometry.voxels, moving.geometry.voxels)):
        transform = METHODS[name](task) if model is None else trained_network(task, model)
    notes = _notes_on_background(task) if trained else _notes(task)
    return _finish(task, name, transform, began, notes, part_of(progress, 0.85, 1.0))


@contextmanager
def _threads(voxels: int) -> Iterator[None]:
    """One thread for small images: several would spend their time waiting for each other."""
    count = torch.get_num_threads()
    torch.set_num_threads(1 if voxels <= SMALL else count)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def _notes(task: Task) -> list[str]:
    """What the user should know of a pair: that it lies apart, and which voxels do not count."""
    fixed, moving = task.fixed, task.moving
    found = [apart(fixed.image.geometry, moving.image.geometry) if task.initial is None else None]
    found += [fixed.measured.sentence("the fixed volume"), moving.measured.sentence("the moving volume")]
    return [sentence for sentence in found if sentence]


def _notes_on_background(task: Task) -> list[str]:
    """What the user should know of the voxels that a network can't know of."""
    counts = {
        "fixed": unknown_voxels(task.fixed.image.array),
        "moving": unknown_voxels(task.moving.image.array),
    }
    text = "voxels that are NaN or infinite count as background"
    return [f"the {side} volume: {text}: {count}" for side, count in counts.items() if count]


def _model(method: str | Path | Model, device: str) -> Model:
    """A trained network on the device; one that is in memory is moved there."""
    if not isinstance(method, Model):
        return load_model(method, device=device)
    method.network.to(device).eval()
    return method


def _finish(
    task: Task, method: str, transform: Transform, began: float, notes: list[str], progress: Progress
) -> Registration:
    """Warp and measure."""
    fixed, moving = task.fixed, task.moving
    warped = warp(moving.image, transform, fixed.image.geometry, progress=part_of(progress, 0.0, 0.4))
    labels = None
    if moving.labels is not None:
        labels = warp(moving.labels, transform, fixed.image.geometry)
    progress(0.4, "figures", {})
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
        known=(fixed.measured.known, moving.measured.known),
    )
    overlap = found.get("dice_mean", {}).get("after") or 0.0
    unsure = doubts(fixed, moving, transform) if overlap < OVERLAPPING else []
    seconds = time.perf_counter() - began
    found |= {"doubts": unsure} if unsure else {}
    found |= {"notes": notes} if notes else {}
    extra = {"method": method, "seconds": seconds, "peak_memory_mib": peak_memory_mib()}
    progress(1.0, "done", {})
    return Registration(transform, moving.image.geometry, warped, labels, extra | found, seconds)
