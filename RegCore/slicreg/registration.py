"""Registration by a trained model of SLIC-Reg: of any two scans, or of a scan to the template."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import numpy as np
import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.checks import take_settings
from RegCore.resampler import warp
from RegCore.resampler.pyramid import resample_to
from RegCore.slicreg.matching import MatchSettings, dense_field, match, unit_of
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.prediction import Method, predict_supervoxels, scores_of
from RegCore.slicreg.preparation import UNIT, PreparedScan, body_mask, downsample2, network_units, prepare
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)
REGRESSED = 2048  # places of the body at which a regression is believed
REGRESSED_SMOOTHING = 0.1  # of the spline through them: each by itself is uncertain
SAME, ALIKE = 0.99, 0.95  # correlation with the template within its body: it itself, or something like it
MOST_PASSES = 2  # of the network that a model chooses by itself: each takes as long as the first
SEEN = 0.3  # least share of the template's body that must be in a part of it
REFINEMENT: dict[str, Any] = {"smoothness": 0.6, "levels": 1, "symmetric": False}
"""Settings of the coarse stage where images go on from what a model of SLIC-Reg found: soft, since the bodies
differ, and one grid, since the supervoxels have brought everything near already."""


@dataclass(frozen=True)
class RegistrationSettings(MatchSettings):
    """How a trained model registers: those of the matching, and how often the network looks."""

    passes: int = 0
    """How often the network sees the moving scan: each time but the first as the last match has warped it,
    nearer to what it knows best. 0: as often as was best on scans of its training, see `best_passes`, for a
    further look spoils what a weak network says. Published: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes < 0:
            raise InputError(f"setting passes is {self.passes}, expected at least 0")


KINDS: dict[str, type] = get_type_hints(RegistrationSettings)
PREFIX = "match."  # of these settings where those of a refinement stand beside them


def settings_from(given: Mapping[str, Any], prefix: str = "") -> RegistrationSettings:
    """The settings that a user names, the others as they are.

    Args:
        given: names and values.
        prefix: that the names have.

    Raises:
        InputError: an unknown name, or a value that makes no sense.
    """
    kinds = {prefix + name: kind for name, kind in KINDS.items()}
    taken = take_settings(given, kinds, "slicreg")
    return RegistrationSettings(**{name.removeprefix(prefix): value for name, value in taken.items()})


def prepare_for_model(method: Method, volume: Volume, name: str = "the scan") -> PreparedScan:
    """A scan on the common grid of those that a model was trained with, of twice the network's resolution.

    Raises:
        InputError: the model was not trained, or `RegCore.slicreg.preparation.prepare` refuses the scan.
    """
    grid = method.supervoxels.geometry
    i, j, k = grid.shape
    shape = 2 * i, 2 * j, 2 * k
    return prepare(volume, shape, float(grid.spacing[0]) / 2, modality=method.modality, name=name)


def register_prepared(
    method: Method,
    fixed: PreparedScan,
    moving: PreparedScan,
    *,
    settings: RegistrationSettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field between two prepared scans by what the model tells of both; neither need be the template.

    Args:
        method: a trained model.
        fixed, moving: on their common grids, see `prepare_for_model`.
        settings: see `RegistrationSettings`; the regression does not use them.
        device: torch device.
        progress: told of stage and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the network's grid of the fixed scan.
    """
    fixed, moving = downsample2(fixed), downsample2(moving)
    if method.tells_supervoxels:
        known = _predict(method, fixed, device, part_of(progress, 0.0, 0.2))
        rest = part_of(progress, 0.2, 1.0)
        return _match(method, known, moving, settings or RegistrationSettings(), device, rest)
    return _to_regression(method, moving, device).compose(_from_regression(method, fixed, device))


def register_to_template(
    method: Method,
    scan: PreparedScan,
    *,
    settings: RegistrationSettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field from the template, whose supervoxels are known, to a prepared scan.

    Args:
        method: a trained model.
        scan: on its common grid, see `prepare_for_model`.
        settings: see `RegistrationSettings`; the regression does not use them.
        device: torch device.
        progress: told of stage and loss.

    Returns:
        x_scan = T(x_template), RAS mm, on the network's grid of the template.
    """
    moving = downsample2(scan)
    if not method.tells_supervoxels:
        return _to_regression(method, moving, device)
    wanted = settings or RegistrationSettings()
    return _match(method, method.supervoxels, moving, wanted, device, progress)


def register_from_template(
    method: Method,
    scan: PreparedScan,
    *,
    settings: RegistrationSettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field from a prepared scan to the template: the inverse of `register_to_template`.

    So each of several looks sees the scan as the template has it, which the network knows best. Arguments as
    there.

    Returns:
        x_template = T(x_scan), RAS mm, on the network's grid of the scan.

    Raises:
        InputError: as `RegCore.slicreg.matching.match`, or the network's scores are not finite.
    """
    if not method.tells_supervoxels:
        return _from_regression(method, downsample2(scan), device)
    found = register_to_template(method, scan, settings=settings, device=device, progress=progress)
    return found.inverse(downsample2(scan).image.geometry)


def _match(
    method: Method,
    known: Supervoxels,
    scan: PreparedScan,
    settings: RegistrationSettings,
    device: str,
    progress: Progress,
) -> DisplacementField:
    """The field from a scan whose supervoxels are known to another one, both on the network's grids."""
    settings = replace(settings, passes=settings.passes or int(method.passes))
    *_, field = _passes(method, known, scan, settings, device, progress)
    return field


def _passes(
    method: Method,
    known: Supervoxels,
    scan: PreparedScan,
    settings: RegistrationSettings,
    device: str,
    progress: Progress = silent,
) -> Iterator[DisplacementField]:
    """The field after each pass of the network; arguments as of `_match`."""
    field = None
    for n in range(settings.passes):
        inner = part_of(progress, n / settings.passes, (n + 1) / settings.passes)
        seen = scan if field is None else _warp_prepared(scan, field, known.geometry)
        there = _predict(method, seen, device, part_of(inner, 0.0, 0.3))
        step = match(known, there, settings=settings, device=device, progress=part_of(inner, 0.3, 1.0))
        field = step if field is None else field.compose(step)
        yield field


def best_passes(method: Method, scans: Sequence[PreparedScan], places: np.ndarray, device: str) -> int:
    """How many passes of the network bring the template nearest to some scans, `MOST_PASSES` at most.

    Args:
        method: a model in training.
        scans: on the network's grid.
        places: ``(N, 3, i, j, k)``, where in the template every second voxel of each scan belongs, as in
            `RegCore.slicreg.folder.TrainingScan`.
        device: torch device.

    Returns:
        The number with the least mean distance from these places, mm, over the template's body.

    Raises:
        InputError: as `RegCore.slicreg.matching.match`, or the network's scores are not finite.
    """
    known, settings = method.supervoxels, RegistrationSettings(passes=MOST_PASSES)
    grid, body = known.geometry, known.labels[0] > 0
    errors = []
    for scan, there in zip(scans, places, strict=True):
        index = (np.moveaxis(there, 0, -1) + 1) * np.array(grid.shape) / 2 - 0.5
        near = np.rint(index).astype(int).clip(0, np.array(grid.shape) - 1)
        inside = body[tuple(np.moveaxis(near, -1, 0))]
        goals = scan.image.geometry.to_world(STRIDE * np.argwhere(inside))
        points = grid.to_world(index[inside])
        fields = _passes(method, known, scan, settings, device)
        errors.append([np.linalg.norm(field.map(points) - goals, axis=1).mean() for field in fields])
    return 1 + int(np.mean(errors, axis=0).argmin())


def _warp_prepared(scan: PreparedScan, field: DisplacementField, onto: Geometry) -> PreparedScan:
    """A scan warped onto another grid."""
    return PreparedScan(warp(scan.image, field, onto), np.ones(onto.shape, bool), scan.source, scan.modality)


def register_scans(
    method: Method,
    fixed: Volume,
    moving: Volume,
    *,
    settings: RegistrationSettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field between two scans as they came.

    By `register_to_template` if the fixed scan is the template or a part of it, by `register_from_template`
    if the moving one is, else by `register_prepared`.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the network's grid.

    Raises:
        InputError: as `prepare_for_model`.
    """
    prepared_fixed = prepare_for_model(method, fixed, "the fixed image")
    prepared_moving = prepare_for_model(method, moving, "the moving image")
    options: dict[str, Any] = {"settings": settings, "device": device, "progress": progress}
    place = place_in_template(method, prepared_fixed, fixed)
    if place is not None:
        log.info("the fixed image is the template of the model: its supervoxels are known")
        found = register_to_template(method, prepared_moving, **options)
        return found.compose(place, downsample2(prepared_fixed).image.geometry)
    place = place_in_template(method, prepared_moving, moving)
    if place is not None:
        log.info("the moving image is the template of the model: its supervoxels are known")
        found = register_from_template(method, prepared_fixed, **options)
        points = found.geometry.world_grid()
        mm = place.inverse().map(points + found.mm) - points
        return DisplacementField(found.geometry, mm.astype(np.float32))
    return register_prepared(method, prepared_fixed, prepared_moving, **options)


def template_of(method: Method) -> Volume:
    """The template as a model keeps it: the image on the network's grid, in the unit of the scans."""
    values = method.image.float().cpu().numpy() * (UNIT if method.modality == "ct" else 1.0)
    return Volume(values, method.supervoxels.geometry)


def shows_template(method: Method, volume: Volume, name: str = "the scan") -> bool:
    """Whether a scan, called so in errors, is the template of a model or a part of it."""
    return place_in_template(method, prepare_for_model(method, volume, name), volume, warn=False) is not None


def place_in_template(
    method: Method, scan: PreparedScan, volume: Volume | None = None, *, warn: bool = True
) -> AffineTransform | None:
    """Where a prepared scan that shows the model's template lies in it: x_template = T(x_scan), RAS mm.

    As `place_in`; a warning if the scan is much like the template, but not the same.

    Args:
        method: a trained model.
        scan: on the common grid.
        volume: as it came: `template_of` is known by its values, for preparing it smooths it.
        warn: whether to.
    """
    own = template_of(method)
    if volume is not None and volume.geometry == own.geometry and np.array_equal(volume.array, own.array):
        return AffineTransform.identity()
    place, best = place_in(method.supervoxels, method.image.float().cpu().numpy(), scan)
    if warn and place is None and best >= ALIKE:
        log.warning(
            "an image is much like the template of the model, but not the same, so its supervoxels are "
            "predicted and not taken as known; give the template as it was prepared, or a part of it"
        )
    return place


def place_in(
    known: Supervoxels, image: np.ndarray, scan: PreparedScan
) -> tuple[AffineTransform | None, float]:
    """Where a prepared scan that shows a template lies in it, and how well they correlate there.

    That is so for the template itself, and for one that was cropped, resampled, or saved with another origin.

    Args:
        known: supervoxels of the template.
        image: of the template on the same grid, in the network's units.
        scan: on the common grid.

    Returns:
        x_template = T(x_scan), RAS mm, None for any other scan; the correlation within the template's body.
    """
    small = downsample2(scan)
    centred = AffineTransform(known.geometry.affine @ np.linalg.inv(small.image.geometry.affine))
    body = known.labels[0] > 0
    best = -1.0
    for place in (AffineTransform.identity(), centred):
        onto = known.geometry, np.linalg.inv(place.matrix)
        values, inside = resample_to(network_units(small), small.image.geometry, *onto)
        share, _ = resample_to(torch.from_numpy(small.known)[None, None].float(), small.image.geometry, *onto)
        there = body & (inside[0, 0].numpy() > 0) & (share[0, 0].numpy() > 0.99)
        if there.sum() < SEEN * body.sum():
            continue
        best = max(best, float(np.corrcoef(values[0, 0].numpy()[there], image[there])[0, 1]))
        if best >= SAME:
            return place, best
    return None, best


def stays(place: AffineTransform) -> bool:
    """Whether the place is that of the template itself."""
    return bool(np.allclose(place.matrix, np.eye(4)))


def check_template(method: Method, image: Volume, name: str, model: str) -> None:
    """Check that an image is the template that a model was trained for, or a part of it.

    Raises:
        InputError: it is another image, or no scan that the model could see.
    """
    place = place_in_template(method, prepare_for_model(method, image, name))
    if place is None or not stays(place):
        raise InputError(
            f"{name}: this is not the template of the model {model}, to which it brings all scans; give the "
            "file that was prepared with"
        )


def _predict(method: Method, scan: PreparedScan, device: str, progress: Progress) -> Supervoxels:
    """What the network tells of each cell; as published, cells lie between voxels, so all voxels are read."""
    return predict_supervoxels(
        method.network,
        scan,
        as_published=method.as_published,
        cells=not method.as_published,
        device=device,
        progress=progress,
    )


# ---- the baseline ------------------------------------------------------------------------------------------


def _regress(method: Method, scan: PreparedScan, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random voxels of the body and the voxels of the template that they belong to, (N, 3) float64 each."""
    network, training = method.network.to(device), method.network.training
    network.eval()
    try:
        places = scores_of(network, scan, device)[0, 0].double().cpu()
    finally:
        network.train(training)
    cells = np.argwhere(body_mask(scan)[::STRIDE, ::STRIDE, ::STRIDE])
    cells = cells[np.random.default_rng(0).permutation(len(cells))[:REGRESSED]]
    half = torch.tensor(method.supervoxels.geometry.shape) / 2
    found = (places[:, cells[:, 0], cells[:, 1], cells[:, 2]].T + 1) * half - 0.5
    return torch.from_numpy(STRIDE * cells).double(), found


def _to_regression(method: Method, scan: PreparedScan, device: str) -> DisplacementField:
    """x_scan = T(x_template): a spline through the places that the network tells."""
    points, places = _regress(method, scan, device)
    return _spline(places, points, method.supervoxels.geometry, scan.image.geometry)


def _from_regression(method: Method, scan: PreparedScan, device: str) -> DisplacementField:
    """x_template = T(x_scan)."""
    points, places = _regress(method, scan, device)
    return _spline(points, places, scan.image.geometry, method.supervoxels.geometry)


def _spline(points: torch.Tensor, goals: torch.Tensor, fixed, moving) -> DisplacementField:
    """The smooth field on the fixed grid that takes its voxels (N, 3) to those of the moving grid."""
    ddf = dense_field(points, goals - points, fixed, unit=unit_of(fixed), smoothing=REGRESSED_SMOOTHING)
    return DisplacementField.from_voxels(ddf[0].permute(1, 2, 3, 0).numpy(), fixed, moving)
