"""The methods of `register`, each a function of a `Task`: the volumes and all that may be used with them.

`RegCore.METHODS` names them; a new method is one more entry there, also one of a plugin.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_type_hints

import numpy as np

from RegCore.networks.model_file import Model
from RegCore.progress import Progress, part_of
from RegCore.registration import classical
from RegCore.registration.affine import align, align_simply, given_position
from RegCore.registration.auto import AutoSettings, deform_automatically
from RegCore.registration.checks import check_not_negative, take_settings
from RegCore.registration.common_cost import common_cost
from RegCore.registration.deformable import DeformableTask, Settings, deform, same_modality
from RegCore.registration.intensity_refinement import refined_where_explained
from RegCore.registration.learned import predicted_transform
from RegCore.registration.pair import LABEL_WEIGHT, LabelEncoding, PairSide
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, finite

log = logging.getLogger(__name__)
STARTS = ("network", "both")
WAY_VOXELS = 500_000  # of the grid on which a field by way of a third image begins a refinement
FIELD_VOXELS = 2**24  # a field on more voxels than this is kept on a coarser grid over the same corners


@dataclass(frozen=True)
class Task:
    """All that a method may use; the volumes are checked."""

    fixed: PairSide
    moving: PairSide
    landmarks: np.ndarray | None
    initial: Transform | None
    settings: dict
    device: str
    seed: int
    progress: Progress

    def label_encoding(self, weight: float) -> LabelEncoding | None:
        """Channels of the structures that both segmentations hold, if there are segmentations."""
        if self.fixed.labels is None or self.moving.labels is None or weight == 0:
            return None
        return LabelEncoding.of(self.fixed.labels, self.moving.labels, weight, self.seed)


DEFORMABLE: dict[str, type] = get_type_hints(Settings)
AUTO: dict[str, type] = get_type_hints(AutoSettings)


def _linear_start(initial: Transform | None) -> AffineTransform | None:
    return initial.affine_part() if isinstance(initial, DisplacementField) else initial


def _linear(task: Task, rigid: bool) -> AffineTransform:
    """Starts, block matching and refinement on MIND-SSC, then on intensities where these explain the pair.

    See `RegCore.registration.affine.align` and `refined_where_explained`. Segmentations that take part have
    the last word.
    """
    name = "rigid" if rigid else "affine"
    settings = take_settings(task.settings, {"label_weight": float}, name)
    weight = settings.get("label_weight", LABEL_WEIGHT)
    check_not_negative("label_weight", weight)
    encoding = task.label_encoding(weight)
    found = align(
        task.fixed,
        task.moving,
        rigid=rigid,
        initial=_linear_start(task.initial),
        encoding=encoding,
        device=task.device,
        progress=part_of(task.progress, 0.0, 0.9),
    )
    if encoding is not None:
        return found
    tick = partial(task.progress, 0.9, f"{name}: intensities", {})
    return refined_where_explained(task.fixed, task.moving, found, rigid=rigid, device=task.device, tick=tick)


def rigid(task: Task) -> AffineTransform:
    """Rotation and translation."""
    return _linear(task, rigid=True)


def affine(task: Task) -> AffineTransform:
    """Twelve parameters."""
    return _linear(task, rigid=False)


def deformable(task: Task) -> DisplacementField:
    """Linear, then a smooth displacement field from coarse to fine.

    Args:
        task: `RegCore.registration.deformable.Settings` lists what can be set. A displacement field as the
            initial transform takes the place of the linear stage.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the grid of the fixed image unless that is huge.

    Raises:
        InputError: a wrong setting.
    """
    settings = Settings(**take_settings(task.settings, DEFORMABLE, "deformable"))
    start = _deformable_start(task, settings.label_weight)
    linear, field = (start.affine_part(), start) if isinstance(start, DisplacementField) else (start, None)
    found = deform(
        task.fixed,
        task.moving,
        linear,
        settings=settings,
        initial=field,
        encoding=task.label_encoding(settings.label_weight),
        landmarks=task.landmarks,
        device=task.device,
        progress=part_of(task.progress, 0.25, 1.0),
    )
    return found.resampled(field_grid(task.fixed.image.geometry))


def _deformable_start(task: Task, label_weight: float) -> Transform:
    """Where a deformation begins: the field that is given, or what the linear stage finds."""
    if isinstance(task.initial, DisplacementField):
        return task.initial
    return align_simply(
        task.fixed,
        task.moving,
        initial=task.initial,
        encoding=task.label_encoding(label_weight),
        device=task.device,
        progress=part_of(task.progress, 0.0, 0.25),
    )


def auto(task: Task) -> DisplacementField:
    """Linear, then coarse by self-similarity, then fine by local correlation where that is sound.

    Args:
        task: `RegCore.registration.auto.AutoSettings` lists what can be set. A displacement field as the
            initial transform takes the place of the linear stage.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the grid of the fixed image unless that is huge.

    Raises:
        InputError: a wrong setting.
    """
    settings = AutoSettings(**take_settings(task.settings, AUTO, "auto"))
    start = _deformable_start(task, settings.label_weight)
    return _in_two_stages(task, settings, {}, start, part_of(task.progress, 0.25, 1.0))


def _in_two_stages(
    task: Task, settings: AutoSettings, first: Mapping[str, Any], start: Transform, progress: Progress
) -> DisplacementField:
    """The field that the method ``auto`` makes of a transform; ``first`` sets its coarse stage alone."""
    coarse, fine = settings.stages()
    coarse = replace(coarse, **first)
    linear, field = (start.affine_part(), start) if isinstance(start, DisplacementField) else (start, None)
    encoding = task.label_encoding(coarse.label_weight)
    if encoding is not None and "dense_voxels" not in first:  # structures may be small
        coarse = replace(coarse, dense_voxels=Settings.dense_voxels)
    pair = DeformableTask(
        task.fixed, task.moving, linear, coarse, field, encoding, task.landmarks, task.device
    )
    if settings.quality != "fast" and "symmetric" not in first and not same_modality(pair):
        pair = replace(pair, settings=replace(coarse, symmetric=True))
    found = deform_automatically(pair, fine, progress)
    return found.resampled(field_grid(task.fixed.image.geometry))


def trained_network(task: Task, model: Model) -> Transform:
    """A trained network.

    Args:
        task: its setting ``refine`` lets the two stages of the method auto go on from what the network found;
            the settings of the methods auto and deformable then count as well, the latter for the first
            stage, where the network has no others for its own fields.
            ``starts``: ``both`` lets the method auto begin from a linear registration, too, and keeps
            what has the lower `RegCore.registration.common_cost`: for pairs that may be too far apart for one
            of the two. A network that registers in a way of its own may have settings for that. If it has
            a method ``stopover``, what is refined is what it finds by way of the image that this names.
        model: the network.

    Returns:
        x_moving = T(x_fixed), RAS mm.

    Raises:
        InputError: a wrong setting, and as `RegCore.registration.learned.predicted_transform`.
    """
    own_kinds = getattr(model.network, "own_settings", {})
    refine = task.settings.get("refine")
    kinds = {"refine": bool, **own_kinds} | ({"starts": str, **AUTO, **DEFORMABLE} if refine else {})
    settings = take_settings(task.settings, kinds, "trained network")
    refine, starts = settings.pop("refine", False), settings.pop("starts", STARTS[0])
    if starts not in STARTS:
        raise InputError(f"setting starts is {starts!r}, expected {' or '.join(STARTS)}")
    own = {name: settings.pop(name) for name in own_kinds if name in settings}
    ends = (0.3, 0.6) if starts == "both" else (0.3, 1.0)
    begin = part_of(task.progress, 0.0, ends[0] if refine else 1.0)
    predict = partial(_predicted, model=model, settings=own)
    if not refine:
        return predict(replace(task, progress=begin))
    automatic = AutoSettings(**{name: settings[name] for name in AUTO if name in settings})
    first = {name: settings[name] for name in DEFORMABLE if name in settings}
    refinement = {**getattr(model.network, "refinement", {}), **first}

    def refined_from(task: Task, start: Transform, progress: Progress) -> DisplacementField:
        return _in_two_stages(task, automatic, refinement, start, progress)

    between = _stopover(task, model)
    if between is None:
        found = predict(replace(task, progress=begin))
    else:
        found = _by_way_of(between, replace(task, progress=begin), predict, refined_from)
    refined = refined_from(task, found, part_of(task.progress, *ends))
    if starts != "both":
        return refined
    start = _deformable_start(task, automatic.label_weight)
    other = _in_two_stages(task, automatic, first, start, part_of(task.progress, ends[1], 1.0))
    encoding = task.label_encoding(automatic.label_weight)
    both, weights = [refined, other], Settings(**refinement)
    costs = common_cost(
        task.fixed, task.moving, both, settings=weights, encoding=encoding, device=task.device
    )
    log.info("objective from the network %.4f, from a linear registration %.4f: the lower is kept", *costs)
    return both[costs.index(min(costs))]


def _predicted(task: Task, *, model: Model, settings: Mapping[str, Any]) -> Transform:
    """What a network finds; its progress is that of the task."""
    return predicted_transform(
        model,
        finite(task.fixed.image),
        finite(task.moving.image),
        initial=task.initial,
        onto=field_grid(task.fixed.image.geometry),
        settings=settings,
        progress=task.progress,
    )


def _stopover(task: Task, model: Model) -> Volume | None:
    """The image that a network registers with either of a pair better than these with each other, if any.

    None with a transform to start from, which lies between these.
    """
    stopover = getattr(model.network, "stopover", None)
    if stopover is None or task.initial is not None:
        return None
    return stopover(finite(task.fixed.image), finite(task.moving.image))


def _by_way_of(
    between: Volume,
    task: Task,
    predict: Callable[[Task], Transform],
    refined_from: Callable[[Task, Transform, Progress], DisplacementField],
) -> DisplacementField:
    """Both images registered with a third one, refined, and joined: x_moving = T(x_fixed), RAS mm."""
    found = []
    for n, side in enumerate((task.fixed, task.moving)):
        moving, half = PairSide(side.image, mask=side.mask), part_of(task.progress, n / 2, (n + 1) / 2)
        leg = replace(task, fixed=PairSide(between), moving=moving, landmarks=None)
        start = predict(replace(leg, progress=part_of(half, 0.0, 0.5)))
        found.append(refined_from(leg, start, part_of(half, 0.5, 1.0)))
    to_fixed, to_moving = found
    return to_moving.compose(to_fixed.inverse(working_geometry(task.fixed.image.geometry, WAY_VOXELS)))


def field_grid(geometry: Geometry) -> Geometry:
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


def _filled(task: Task) -> list[Volume]:
    """The two images, what is no measurement being replaced."""
    sides = (task.fixed, task.moving)
    return [replace(side.image, array=side.measured.filled(side.image.array)) for side in sides]


def _classical_start(task: Task) -> Transform:
    """The initial transform, or a position that is no mirror image (DeepReg lays array on array)."""
    return task.initial or given_position(task.fixed, task.moving, task.device)


def classical_affine(task: Task) -> AffineTransform:
    """DeepReg's classical affine registration: gradient descent on the 12 parameters."""
    return classical.register_classical_affine(
        *_filled(task),
        **take_settings(task.settings, _CLASSICAL, "classical-affine"),
        initial=_linear_start(_classical_start(task)),
        device=task.device,
        progress=task.progress,
    )


def classical_nonrigid(task: Task) -> DisplacementField:
    """DeepReg's classical non-rigid registration: Adam on a free DDF."""
    kinds = {**_CLASSICAL, "deform_loss": dict, "weight_deform_loss": float}
    return classical.register_classical_nonrigid(
        *_filled(task),
        **take_settings(task.settings, kinds, "classical-nonrigid"),
        initial=_classical_start(task),
        device=task.device,
        seed=task.seed,
        progress=task.progress,
    )
