"""How good a registration is: overlap, landmark error, similarity, and the health of the deformation."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from RegCore.space.geometry import Geometry, InputError, apply_affine
from RegCore.space.transforms import AffineTransform, Transform, determinants, jacobians, sample
from RegCore.space.volume import Volume, common_labels, distinct_values

MOST_SAMPLES = 1 << 20  # NCC and NMI of larger volumes are measured on a regular part of the voxels
IDENTITY = AffineTransform.identity()


def dice(
    fixed_labels: Volume | np.ndarray, warped_labels: Volume | np.ndarray, labels: Iterable[int] | None = None
) -> dict[int, float]:
    """Overlap 2 |A ∩ B| / (|A| + |B|) of each structure of two hard label maps, {label: 0..1 or NaN}.

    The one convention for what is missing: a structure that only one map holds has 0; for one that neither
    holds the overlap is not defined, and it is NaN. Means leave it out, see `mean_of_defined`.

    Args:
        fixed_labels, warped_labels: on one grid, (I, J, K) of whole numbers, or (I, J, K, C) with one channel
            per structure (above 0.5 is inside; channels are numbered from 0).
        labels: which structures; by default every one that either map holds.

    Raises:
        InputError: the shapes differ.
    """
    a, b = _array(fixed_labels), _array(warped_labels)
    if a.shape != b.shape:
        raise InputError(f"Dice needs label maps of one shape, but they have {a.shape} and {b.shape}")
    if a.ndim == 4:
        channels = range(a.shape[3]) if labels is None else labels
        return {c: _overlap(a[..., c] > 0.5, b[..., c] > 0.5) for c in channels}
    if labels is None:
        labels = sorted({*distinct_values(a), *distinct_values(b)} - {0})
    return {int(label): _overlap(a == label, b == label) for label in labels}


def mean_of_defined(values: Iterable[float]) -> float:
    """The mean of those values that are defined, that is not NaN; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _array(volume: Volume | np.ndarray) -> np.ndarray:
    return volume.array if isinstance(volume, Volume) else np.asarray(volume)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else math.nan


def tre(transform: Transform, landmarks: np.ndarray) -> np.ndarray:
    """Target registration error |T(x_fixed) - x_moving|, (N,) mm, of landmark pairs (N, 6) in RAS mm."""
    landmarks = np.asarray(landmarks, dtype=np.float64)
    return np.linalg.norm(transform.map(landmarks[:, :3]) - landmarks[:, 3:6], axis=1)


def ncc(a: Volume | np.ndarray, b: Volume | np.ndarray, mask: np.ndarray | None = None) -> float:
    """Pearson's correlation of two arrays of one shape, -1..1, inside the mask; 0 if one is constant."""
    x, y = (_inside(_array(values), mask).astype(np.float64) for values in (a, b))
    if x.size == 0:
        return 0.0
    x -= x.mean()
    y -= y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / norm, -1, 1)) if norm > 0 else 0.0


def nmi(
    a: Volume | np.ndarray, b: Volume | np.ndarray, mask: np.ndarray | None = None, bins: int = 32
) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b) of two arrays inside the mask, 1..2.

    Entropies of a joint histogram with `bins` equal bins from the smallest to the largest value
    (Studholme, Hill and Hawkes, Pattern Recognition 32, 1999). 1 if nothing is shared or all is constant.
    """
    x, y = (_inside(_array(values), mask) for values in (a, b))
    if x.size == 0:
        return 1.0
    joint = np.bincount(_bin(x, bins) * bins + _bin(y, bins), minlength=bins * bins).reshape(bins, bins)
    together = _entropy(joint.ravel())
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / together) if together > 0 else 1.0


def _inside(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return values.ravel() if mask is None else values[np.asarray(mask, dtype=bool)]


def _bin(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.int64)
    return np.minimum((values.astype(np.float64) - low) * (bins / (high - low)), bins - 1).astype(np.int64)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def folding(transform: Transform, mask: np.ndarray | None = None) -> float:
    """Share of voxels at which the transform folds (Jacobian determinant at most 0), in percent.

    The outermost layer of voxels is left out, since differences are one-sided there. An affine transform
    folds everywhere or nowhere.

    Args:
        transform: an affine transform or a displacement field.
        mask: (I, J, K) on the grid of the field, where it counts; by default everywhere.

    Raises:
        InputError: the mask is not on the grid of the field.
    """
    return _health(transform, mask)[0]


def sd_log_jacobian(transform: Transform, mask: np.ndarray | None = None) -> float:
    """Standard deviation of log(det J), det J clipped to 1e-9..1e9, over the voxels of `folding`."""
    return _health(transform, mask)[1]


def _health(transform: Transform, mask: np.ndarray | None) -> tuple[float, float]:
    """Folding in percent and standard deviation of log det J, in one pass over slabs."""
    if isinstance(transform, AffineTransform):
        return (100.0 if np.linalg.det(transform.matrix[:3, :3]) <= 0 else 0.0), 0.0
    keep = _interior(transform.geometry, mask)
    determinant = np.concatenate([determinants(slab[keep[part]]) for part, slab in jacobians(transform)])
    if not determinant.size:
        return 0.0, 0.0
    return float(100 * np.mean(determinant <= 0)), float(np.log(np.clip(determinant, 1e-9, 1e9)).std())


def _interior(geometry: Geometry, mask: np.ndarray | None) -> np.ndarray:
    """The voxels that count: inside the mask and not at the border (of axes that have an inside)."""
    if mask is not None and np.shape(mask) != geometry.shape:
        raise InputError(f"the mask {np.shape(mask)} does not fit the grid of the field {geometry.shape}")
    inner = np.zeros(geometry.shape, bool)
    inner[tuple(slice(1, -1) if n > 2 else slice(None) for n in geometry.shape)] = True
    return inner if mask is None else inner & (np.asarray(mask) > 0)


def summary(
    transform: Transform,
    fixed: Volume,
    moving: Volume,
    warped: Volume,
    *,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    warped_labels: Volume | None = None,
    landmarks: np.ndarray | None = None,
    fixed_mask: Volume | None = None,
    known: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    before: Transform = IDENTITY,
) -> dict[str, Any]:
    """All that can be said of a registration; {"before": x, "after": y} for what has both.

    Args:
        transform: x_moving = T(x_fixed), RAS mm.
        fixed, moving: the images as they came.
        warped, warped_labels: moving on the fixed grid through `transform`.
        fixed_labels, moving_labels: label maps, each on its own grid.
        landmarks: (N, 6) RAS mm, a fixed point and its moving counterpart in each row.
        fixed_mask: on the grid of the fixed image, where similarity and folding count.
        known: of the fixed and of the moving image, ``(I, J, K)`` bool, where they hold measurements: only
            there similarity counts.
        before: the transform at the start.

    Returns:
        Values by the keys of `RegCore.evaluation.figures.FIGURES`: "ncc", "nmi" (fixed voxels that map into
        the moving grid, inside the mask), "fold_percent", "sd_log_jacobian"; with label maps "dice" (of each
        label that both input maps hold, by its number) and "dice_mean" (of those that are defined); with
        landmarks "tre_mm" (mean) and "tre_p95_mm".

    Raises:
        InputError: the label maps share no label, or the mask is not on the fixed grid.
    """
    mask: np.ndarray | None = None
    if fixed_mask is not None:
        if not fixed_mask.geometry.is_close(fixed.geometry):
            raise InputError("the fixed mask must be on the grid of the fixed volume")
        mask = np.asarray(fixed_mask.array.reshape(*fixed.geometry.shape, -1).any(-1))
    result = _similarity(transform, fixed, moving, warped, mask, known, before)
    if fixed_labels is not None and moving_labels is not None and warped_labels is not None:
        result |= _overlaps(fixed_labels, moving_labels, warped_labels, before)
    if landmarks is not None:
        errors = {"before": tre(before, landmarks), "after": tre(transform, landmarks)}
        result["tre_mm"] = {when: float(error.mean()) for when, error in errors.items()}
        result["tre_p95_mm"] = {when: float(np.percentile(error, 95)) for when, error in errors.items()}
    if mask is not None and not isinstance(transform, AffineTransform):
        mask = nearest_labels(Volume(mask, fixed.geometry, "labels"), IDENTITY, transform.geometry)
    folds, spread = _health(transform, mask)
    return result | {"fold_percent": folds, "sd_log_jacobian": spread}


def _similarity(
    transform: Transform,
    fixed: Volume,
    moving: Volume,
    warped: Volume,
    mask: np.ndarray | None,
    known: tuple[np.ndarray | None, np.ndarray | None],
    before: Transform,
) -> dict[str, dict[str, float]]:
    """NCC and NMI before and after, on a regular part of the voxels of a large volume."""
    stride = int(np.ceil((fixed.geometry.voxels / MOST_SAMPLES) ** (1 / 3)))
    index = np.stack(np.meshgrid(*(np.arange(0, n, stride) for n in fixed.geometry.shape), indexing="ij"), -1)
    index = index.reshape(-1, 3)
    for inside in (mask, known[0]):
        if inside is not None:
            index = index[inside[tuple(index.T)]]
    values = {"after": _array(warped)[tuple(index.T)]}
    reference, world = fixed.array[tuple(index.T)], fixed.geometry.to_world(index)
    result: dict[str, dict[str, float]] = {"ncc": {}, "nmi": {}}
    for when, mapping in (("before", before), ("after", transform)):
        place = moving.geometry.to_index(mapping.map(world))
        seen = np.asarray(((place >= 0) & (place <= np.array(moving.geometry.shape) - 1)).all(-1))
        if known[1] is not None:
            seen &= sample(known[1][..., None].astype(np.float32), place)[:, 0] > 0.999
        value = values[when] if when in values else sample(moving.array[..., None], place)[:, 0]
        seen &= np.isfinite(value)
        result["ncc"][when] = ncc(reference, value, seen)
        result["nmi"][when] = nmi(reference, value, seen)
    return result


def _overlaps(fixed: Volume, moving: Volume, warped: Volume, before: Transform) -> dict[str, Any]:
    """Dice before and after of the labels that both input maps hold, and its means."""
    labels = common_labels(fixed, moving, "fixed", "moving")
    start = nearest_labels(moving, before, fixed.geometry)
    overlap = {"before": dice(fixed, start, labels), "after": dice(fixed, warped, labels)}
    mean = {when: mean_of_defined(values.values()) for when, values in overlap.items()}
    return {"dice": overlap, "dice_mean": mean}


def nearest_labels(labels: Volume, transform: Transform, onto: Geometry) -> np.ndarray:
    """The label map ``(I, J, K[, C])`` seen through the transform on another grid, slab by slab.

    Args:
        labels: on its own grid.
        transform: x in `labels` = T(x on `onto`), RAS mm.
        onto: the grid of the result.

    Returns:
        The value of the nearest voxel, 0 outside.
    """
    out = np.zeros((*onto.shape, *labels.array.shape[3:]), labels.array.dtype)
    to_index = np.linalg.inv(labels.geometry.affine)
    across = np.stack(np.meshgrid(*(np.arange(n) for n in onto.shape[1:]), indexing="ij"), -1)
    for i in range(onto.shape[0]):
        index = np.concatenate([np.full((*across.shape[:2], 1), i), across], -1)
        place = np.rint(apply_affine(to_index, transform.map(onto.to_world(index)))).astype(np.int64)
        seen = ((place >= 0) & (place < np.array(labels.geometry.shape))).all(-1)
        out[i][seen] = labels.array[tuple(place[seen].T)]
    return out
