"""Registration by a trained model of SLIC-Reg: of any two scans, or of a scan to the template."""

import numpy as np
import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.resampler import warp
from RegCore.slicreg.densify import dense_field
from RegCore.slicreg.matching import MatchSettings, match, unit_of
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.prediction import predict_supervoxels
from RegCore.slicreg.preparation import PreparedScan, body_mask, downsample2, network_units, prepare
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.slicreg.template import Method
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

PASSES = 2  # the scan is seen again where the first match has put it, nearer to what the network knows best
REGRESSED = 2048  # places of the body at which a regression is believed
REGRESSED_SMOOTHING = 0.1  # of the spline through them: each by itself is uncertain
SAME_PLACE = 0.05  # voxels between two grids of one scan
SAME_IMAGE = 0.005  # mean difference of intensities between two readings of one scan, network's units


def prepare_for_model(method: Method, volume: Volume, name: str = "the scan") -> PreparedScan:
    """A scan on the common grid of those that a model was trained with, of twice the network's resolution.

    Raises:
        InputError: the model was not trained, or `RegCore.slicreg.preparation.prepare` refuses the scan.
    """
    grid = method.supervoxels.geometry
    shape = tuple(2 * n for n in grid.shape)
    return prepare(volume, shape, float(grid.spacing[0]) / 2, modality=method.modality, name=name)


def register_prepared(
    method: Method,
    fixed: PreparedScan,
    moving: PreparedScan,
    *,
    passes: int = PASSES,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field between two prepared scans by what the model tells of both; neither need be the template.

    Args:
        passes: see `register_to_template`.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the network's grid of the fixed scan.
    """
    fixed, moving = downsample2(fixed), downsample2(moving)
    if method.tells_supervoxels:
        known = _predict(method, fixed, device, part_of(progress, 0.0, 0.2))
        inner = part_of(progress, 0.2, 1.0)
        return _match(method, known, moving, MatchSettings(), passes, device, inner)
    inner, outer = _from_regression(method, fixed, device), _to_regression(method, moving, device)
    return outer.compose(inner)


def register_to_template(
    method: Method,
    scan: PreparedScan,
    *,
    settings: MatchSettings | None = None,
    passes: int = PASSES,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The field from the template, whose supervoxels are known, to a prepared scan.

    Args:
        method: a trained model.
        scan: on its common grid, see `prepare_for_model`.
        settings: of the matching; not used by the regression.
        passes: how often the network sees the scan: each time but the first as the last match has warped it.
            Published: 1.
        device: torch device.
        progress: told of stage and loss.

    Returns:
        x_scan = T(x_template), RAS mm, on the network's grid of the template.
    """
    moving = downsample2(scan)
    if not method.tells_supervoxels:
        return _to_regression(method, moving, device)
    settings = settings or MatchSettings()
    return _match(method, method.supervoxels, moving, settings, passes, device, progress)


def _match(
    method: Method,
    known: Supervoxels,
    scan: PreparedScan,
    settings: MatchSettings,
    passes: int,
    device: str,
    progress: Progress,
) -> DisplacementField:
    """The field from a scan whose supervoxels are known to another one, both on the network's grids."""
    field, seen = None, scan
    for n in range(passes):
        inner = part_of(progress, n / passes, (n + 1) / passes)
        told = _predict(method, seen, device, part_of(inner, 0.0, 0.3))
        step = match(known, told, settings=settings, device=device, progress=part_of(inner, 0.3, 1.0))
        field = step if field is None else field.compose(step)
        if n + 1 < passes:
            seen = _warp_prepared(scan, field, known.geometry)
    return field


def _warp_prepared(scan: PreparedScan, field: DisplacementField, onto: Geometry) -> PreparedScan:
    """A scan warped onto another grid."""
    return PreparedScan(warp(scan.image, field, onto), np.ones(onto.shape, bool), scan.source, scan.modality)


def register_scans(
    method: Method, fixed: Volume, moving: Volume, *, device: str = "cpu", progress: Progress = silent
) -> DisplacementField:
    """The field between two scans as they came.

    By `register_to_template` if the fixed scan is the template, else by `register_prepared`.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the network's grid.

    Raises:
        InputError: as `prepare_for_model`.
    """
    prepared_fixed = prepare_for_model(method, fixed, "the fixed image")
    prepared_moving = prepare_for_model(method, moving, "the moving image")
    if is_template(method, prepared_fixed):
        return register_to_template(method, prepared_moving, device=device, progress=progress)
    return register_prepared(method, prepared_fixed, prepared_moving, device=device, progress=progress)


def is_template(method: Method, scan: PreparedScan) -> bool:
    """Whether a prepared scan is the very one that the model's supervoxels were made from."""
    small, known = downsample2(scan), method.supervoxels.geometry
    if not small.image.geometry.is_close(known, SAME_PLACE * float(known.spacing[0])):
        return False
    difference = network_units(small)[0, 0] - method.image.float().cpu()
    return float(difference.abs().mean()) < SAME_IMAGE


def _predict(method: Method, scan: PreparedScan, device: str, progress: Progress):
    return predict_supervoxels(
        method.network, scan, as_published=method.as_published, device=device, progress=progress
    )


# ---- the baseline ------------------------------------------------------------------------------------------


def _regress(method: Method, scan: PreparedScan, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random voxels of the body and the voxels of the template that they belong to, (N, 3) float64 each."""
    network, training = method.network.to(device), method.network.training
    network.eval()
    with torch.no_grad():
        places = network(network_units(scan).to(device))[0, 0].double().cpu()
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
