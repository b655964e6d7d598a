"""Labels of several atlases onto one scan: each is registered, then they are put to the vote."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RegCore.evaluation.metrics import ncc
from RegCore.progress import Progress, part_of, silent
from RegCore.resampler import box_mean, warp
from RegCore.resampler.pyramid import as_tensor, rescale_percentiles
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name
from RegCore.space.transforms import AffineTransform, Transform
from RegCore.space.volume import Volume, check_image
from RegCore.studies.jobs import Pool
from RegCore.studies.labels import common_numbering, vote
from RegCore.studies.many import How, doubts_of_each, pair_job, values_of
from RegCore.studies.steps import Steps

FUSIONS = ("local", "majority")
"""How votes count: by the local likeness of atlas and scan, or all the same."""
RADIUS = 2  # voxels of the window in which atlas and scan are compared
GAIN = 4.0  # power of the local correlation by which a vote counts
FLOOR = 1e-3  # the least that a vote counts: where nothing is alike all count the same
FLAT = 1e-4  # variance, in shares of the squared range of an image, below which a window shows nothing
IDENTITY = AffineTransform.identity()


@dataclass(frozen=True)
class Propagation:
    """What `propagate` gives.

    Attributes:
        labels: the structures of the scan, on its grid, in the numbering and with the names of the atlases.
        agreement: the share of the votes that the label of each voxel has, 0 to 1.
        transforms: x_atlas = T(x_scan) of each atlas, RAS mm.
        warped: the segmentation of each atlas on the grid of the scan.
        figures: of each atlas "ncc_before" and "ncc_after", its correlation with the scan, and "weight", the
            mean share of its votes where it or another has a structure.
        doubts: of each atlas, sentences on why its registration has probably failed, see
            `RegCore.registration.doubts`; it votes all the same.
        seconds: time of the whole.
    """

    labels: Volume
    agreement: Volume
    transforms: tuple[Transform, ...]
    warped: tuple[Volume, ...]
    figures: tuple[dict[str, float], ...]
    doubts: tuple[tuple[str, ...], ...]
    seconds: float


def propagate(
    scan: Volume,
    atlases: Sequence[tuple[Volume, Volume]],
    fusion: str = "local",
    method: str | Path = "auto",
    *,
    names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    pool: Pool | None = None,
    steps: Steps | None = None,
    progress: Progress = silent,
) -> Propagation:
    """Segment a scan by the atlases that fit it.

    Args:
        scan: the image to segment.
        atlases: image and segmentation of each, on any grids. Structures with names are paired by these.
        fusion: ``majority``: every atlas has one vote at each voxel. ``local``: it counts by the fourth power
            of the correlation of scan and atlas in a window of 5 voxels (locally weighted voting,
            Artaechevarria et al., IEEE Trans. Med. Imaging 28, 2009).
        method: a name in `RegCore.METHODS`, or a model file.
        names: what errors and tables call the atlases, by default "atlas 1" ….
        settings, device, seed: as in `RegCore.register`.
        pool: workers for the registrations; None is this process.
        steps: keep the transforms, so that a later call goes on, also with more atlases; of the inputs
            "scan", "atlas NAME" and "method".
        progress: told of fraction and stage; raising `Cancelled` in it stops.

    Returns:
        A `Propagation`.

    Raises:
        InputError: one sentence that says what can't be used; it names the atlas.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(16, 14, 12), moving_shape=(15, 14, 13))
        >>> atlas = (pair.moving, pair.moving_labels)
        >>> found = RegCore.propagate(pair.fixed, [atlas], method="affine", device="cpu")
        >>> found.labels.array.shape, found.labels.kind
        ((16, 14, 12), 'labels')
    """
    began = time.perf_counter()
    check_name(fusion, FUSIONS, "the fusion of labels")
    names = list(names or (f"atlas {n + 1}" for n in range(len(atlases))))
    _check(scan, atlases, names)
    maps = common_numbering([labels for _, labels in atlases], [f"segmentation of {name}" for name in names])
    how = How(method, settings or {}, device, seed)
    images = [image for image, _ in atlases]
    jobs = []
    for name, image in zip(names, images, strict=True):
        roles = ("scan", f"atlas {name}", "method")
        step = None if steps is None else steps.step(f"atlas {name}", how.about(), roles)
        jobs.append(pair_job(name, scan, image, how, step=step))
    transforms: list[Transform] = values_of(jobs, pool, part_of(progress, 0.0, 0.9))
    warped = [warp(labels, t, scan.geometry) for labels, t in zip(maps, transforms, strict=True)]
    seen = [warp(image, t, scan.geometry) for image, t in zip(images, transforms, strict=True)]
    progress(0.95, "fusion", {})
    weights = [local_likeness(scan, image) for image in seen] if fusion == "local" else None
    arrays = [labels.array for labels in warped]
    chosen, share = vote(arrays, weights)
    figures = _figures(scan, images, seen, arrays, weights)
    labels = Volume(chosen, scan.geometry, "labels", maps[0].segments)
    agreement = Volume(share, scan.geometry)
    doubts = doubts_of_each(scan, images, transforms)
    seconds = time.perf_counter() - began
    return Propagation(labels, agreement, tuple(transforms), tuple(warped), tuple(figures), doubts, seconds)


def _check(scan: Volume, atlases: Sequence[tuple[Volume, Volume]], names: Sequence[str]) -> None:
    if not atlases:
        raise InputError("labels come from at least one atlas, but none is given")
    if len(names) != len(atlases):
        raise InputError(f"each of {len(atlases)} atlases needs a name, but there are {len(names)}")
    if len(set(names)) < len(names):
        raise InputError("the names of the atlases must differ, but some are the same")
    check_image(scan, "the scan")
    for (image, _), name in zip(atlases, names, strict=True):
        check_image(image, name)


def local_likeness(scan: Volume, image: Volume, radius: int = RADIUS, gain: float = GAIN) -> np.ndarray:
    """What the vote of an atlas counts at each voxel, ``(I, J, K)`` float32, 0.001 to 1.

    The correlation of the two images in a window, not below 0, to a power. Where one of them is flat it
    counts for nothing: the deviations that the covariance is divided by are at least 1 % of the range.

    Args:
        scan: the image that is segmented.
        image: the image of an atlas on the same grid.
        radius: voxels of the window.
        gain: the power.
    """
    with torch.no_grad():
        a, b = (as_tensor(replace(part, array=rescale_percentiles(part.array))) for part in (scan, image))
        mean_a, mean_b = box_mean(a, radius), box_mean(b, radius)
        covariance = box_mean(a * b, radius) - mean_a * mean_b
        variances = [
            (box_mean(x * x, radius) - mean * mean).clamp_min(0) + FLAT
            for x, mean in ((a, mean_a), (b, mean_b))
        ]
        correlation = covariance / (variances[0] * variances[1]).sqrt()
        return correlation.clamp(0, 1).pow(gain).clamp_min(FLOOR)[0, 0].numpy()


def _figures(
    scan: Volume,
    images: Sequence[Volume],
    seen: Sequence[Volume],
    labels: Sequence[np.ndarray],
    weights: Sequence[np.ndarray] | None,
) -> list[dict[str, float]]:
    """The figures of each atlas, see `Propagation`."""
    somewhere = np.any([array != 0 for array in labels], axis=0)
    heavy = np.ones((len(labels), 1)) if weights is None else np.stack([w[somewhere] for w in weights])
    share = (heavy / heavy.sum(0)).mean(1) if heavy.size else np.full(len(labels), 1 / len(labels))
    out = []
    for number, (image, warped) in enumerate(zip(images, seen, strict=True)):
        before = ncc(scan, warp(image, IDENTITY, scan.geometry))
        after = ncc(scan, warped)
        out.append({"ncc_before": before, "ncc_after": after, "weight": float(share[number])})
    return out


def truth_on(found: Propagation, segmentation: Volume, name: str) -> Volume:
    """A segmentation of the scan in the numbering and on the grid of what was propagated.

    Args:
        found: what was propagated.
        segmentation: of the scan.
        name: what errors call it.

    Raises:
        InputError: it shares no structure with the atlases.
    """
    _, truth = common_numbering([found.labels, segmentation], ["the atlases", name])
    return warp(truth, IDENTITY, found.labels.geometry)
