"""What an optimiser compares: both images at one resolution, as features that look alike in any contrast."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from RegCore.registration.measured import Measured, measured
from RegCore.resampler import box_mean
from RegCore.resampler.descriptors import local_contrast, mind_ssc
from RegCore.resampler.grids import Device
from RegCore.resampler.pyramid import as_tensor, downsample, resample_to, rescale_percentiles, spacing_along
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume, common_labels

MAX_LABEL_CHANNELS = 8  # channels for the structures of a segmentation; more structures share them
Tick = Callable[[], None]  # called between steps of long work; what it raises ends the work
LABEL_WEIGHT = 20.0  # of the segmentations beside the features of the images
UNRELATED = 1.44  # about the MIND distance of unrelated tissue, for want of a measurement
HEADROOM = 1.0  # robust ranges below 0 and above 1 that are kept: only outliers lie beyond


@dataclass(frozen=True)
class PairSide:
    """One side of a pair as it came: the image, its segmentation and the mask of where it counts."""

    image: Volume
    labels: Volume | None = None
    mask: Volume | None = None

    @cached_property
    def measured(self) -> Measured:
        """Which voxels of the image are measurements; the others are unknown to every stage."""
        return measured(self.image)


@dataclass(frozen=True)
class LabelEncoding:
    """How structures become channels: a row of numbers for each label, alike for both sides."""

    labels: tuple[int, ...]
    rows: np.ndarray  # (labels, channels), float32

    @classmethod
    def of(cls, fixed: Volume, moving: Volume, weight: float, seed: int) -> "LabelEncoding":
        """An encoding of the labels that both volumes hold; a voxel of a small structure weighs more.

        Up to `MAX_LABEL_CHANNELS` structures get a channel each. More are projected at random onto that many
        channels, which keeps their distances nearly equal (Johnson and Lindenstrauss, Contemp. Math. 1984).

        Args:
            fixed: the fixed segmentation, whose structures are measured.
            moving: the moving one.
            weight: of the segmentations in a squared distance, for the largest structure.
            seed: of the random projection.

        Raises:
            InputError: no label in common.
        """
        labels = common_labels(fixed, moving, "the fixed segmentation", "the moving segmentation")
        if fixed.array.ndim == 4:
            sizes = np.array([np.count_nonzero(fixed.array[..., c]) for c in labels], float)
        else:
            sizes = np.array([np.count_nonzero(fixed.array == label) for label in labels], float)
        root = np.sqrt(sizes.max() / np.maximum(sizes, 1)).clip(1, 5) * np.sqrt(weight)
        if len(labels) <= MAX_LABEL_CHANNELS:
            rows = np.eye(len(labels))
        else:
            random = np.random.default_rng(seed).normal(size=(len(labels), MAX_LABEL_CHANNELS))
            rows = random / np.sqrt(MAX_LABEL_CHANNELS)
        return cls(tuple(labels), (rows * root[:, None]).astype(np.float32))

    def channel(self, volume: Volume, number: int) -> np.ndarray:
        """One channel of a segmentation, ``(I, J, K)`` float32."""
        if volume.array.ndim == 4:
            return sum(volume.array[..., c].astype(np.float32) * self.rows[c, number] for c in self.labels)
        low, high = int(volume.array.min()), int(volume.array.max())
        if high - low > 1 << 20:  # too wide a range of values for a table
            out = np.zeros(volume.array.shape, np.float32)
            for label, row in zip(self.labels, self.rows, strict=True):
                out[volume.array == label] = row[number]
            return out
        table = np.zeros(high - low + 1, np.float32)
        for label, row in zip(self.labels, self.rows, strict=True):
            table[label - low] = row[number]
        return table[volume.array.astype(np.int64) - low]


@dataclass(frozen=True)
class GridTensor:
    """Values on a grid."""

    values: torch.Tensor  # (1, C, i, j, k)
    grid: Geometry

    def resampled(self, target: Geometry, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RegCore.resampler.pyramid.resample_to`."""
        return resample_to(self.values, self.grid, target, matrix)


def scaled_image(side: PairSide) -> np.ndarray:
    """An image in units of its robust range, outliers cut: 0 at the 0.5 percentile, 1 at the 99.5 one.

    Args:
        side: whose image is taken.

    Returns:
        ``(I, J, K)`` float32; 0 where nothing is known.
    """
    found, array = side.measured, side.image.array
    bounds = None if found.known is None else (found.low, found.high)
    scaled = rescale_percentiles(found.filled(array), bounds)
    return np.clip(scaled, -HEADROOM, 1 + HEADROOM, out=scaled)


def _continued(image: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """An image whose unknown voxels continue the known ones, so that no edge is seen between them.

    Args:
        image: ``(1, 1, I, J, K)``, 0 where nothing is known; means over windows may mix both.
        known: the same means of 1 where the image is known and 0 elsewhere.
    """
    out, radius = image / known.clamp_min(1e-6), 1
    empty = known < 0.5
    while bool(empty.any()) and radius < 2 * max(image.shape[2:]):
        share = box_mean((~empty).float(), radius)
        near = box_mean(out.masked_fill(empty, 0.0), radius) / share.clamp_min(1e-6)
        found = empty & (share > 1e-4)
        out = torch.where(found, near, out)
        empty, radius = empty & ~found, 2 * radius
    return out


@dataclass(frozen=True)
class FeatureImage:
    """One side at about the spacing of a working grid, ready to be resampled onto it."""

    image: GridTensor  # one channel
    labels: GridTensor | None  # channels of a `LabelEncoding`
    masks: tuple[GridTensor, ...] = ()  # one channel each; where all of them are 1 the image counts

    def resampled(
        self, target: Geometry, matrix: np.ndarray, contrast: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features ``(1, C, I, J, K)`` on a grid, and where they are known, ``(1, 1, I, J, K)``.

        Args:
            target: the grid (I, J, K).
            matrix: 4x4, world of ``target`` -> world of this side, RAS mm.
            contrast: weight of the local contrast beside MIND-SSC; 0 leaves it out.
        """
        image, known = self.image.resampled(target, matrix)
        parts = [mind_ssc(image)]
        if contrast > 0:
            parts.append(local_contrast(image) * contrast)
        if self.labels is not None:
            labels, inside = self.labels.resampled(target, matrix)
            parts.append(box_mean(labels * inside, 1))
        return torch.cat(parts, 1), known * self.counted(target, matrix)

    def counted(self, target: Geometry, matrix: np.ndarray) -> torch.Tensor | float:
        """Where all masks are 1 on a grid, ``(1, 1, I, J, K)``; the number 1 where there is no mask."""
        inside: torch.Tensor | float = 1.0
        for mask in self.masks:
            inside = inside * (mask.resampled(target, matrix)[0] > 0.5)
        return inside


def make_feature_image(
    side: PairSide,
    grid: Geometry,
    matrix: np.ndarray,
    encoding: LabelEncoding | None,
    device: Device,
    other: Geometry | None = None,
) -> FeatureImage:
    """A side of a pair, downsampled to about the spacing of a working grid.

    Args:
        side: image, and segmentation and mask if there are any.
        grid: the working grid, onto which the features will be resampled.
        matrix: 4x4, world of ``grid`` -> world of the side, RAS mm.
        encoding: of the structures that take part; None leaves the segmentation out.
        device: torch device.
        other: the grid of the image that it will be compared with: where its slices are thicker than the
            voxels of ``grid``, this side is smoothed alike.

    Raises:
        InputError: an empty mask.
    """
    inverse = np.linalg.inv(matrix)[:3, :3]

    def reduced(array: np.ndarray, geometry: Geometry) -> GridTensor:
        tensor = as_tensor(Volume(array, geometry), device=device)
        spacing = spacing_along(grid, inverse @ geometry.direction)
        if other is not None:
            spacing = np.maximum(spacing, spacing_along(other, inverse @ geometry.direction))
        return GridTensor(*downsample(tensor, geometry, spacing))

    image, known = reduced(scaled_image(side), side.image.geometry), side.measured.known
    masks = [] if known is None else [reduced(known.astype(np.float32), side.image.geometry)]
    if masks:
        image = GridTensor(_continued(image.values, masks[0].values), image.grid)
    labels = None
    if encoding is not None and side.labels is not None:
        channels = (encoding.channel(side.labels, n) for n in range(encoding.rows.shape[1]))
        parts = [reduced(channel, side.labels.geometry) for channel in channels]
        labels = GridTensor(torch.cat([part.values for part in parts], 1), parts[0].grid)
    if side.mask is not None:
        if not side.mask.array.any():
            raise InputError("a mask is empty: every voxel is 0, but some must say where the image counts")
        masks.append(reduced((side.mask.array != 0).astype(np.float32), side.mask.geometry))
    return FeatureImage(image, labels, tuple(masks))


def local_agreement(fixed: FeatureImage, moving: FeatureImage, grid: Geometry, matrix: np.ndarray) -> float:
    """How well the local contrasts of two images agree, which is high within one modality.

    Args:
        fixed: the fixed side.
        moving: the moving side.
        grid: where they are compared.
        matrix: 4x4, fixed -> moving, RAS mm.

    Returns:
        The correlation, -1 to 1; 0 where the images do not overlap.
    """
    a, known_a = fixed.image.resampled(grid, np.eye(4))
    b, known_b = moving.image.resampled(grid, matrix)
    known = known_a * known_b * fixed.counted(grid, np.eye(4)) * moving.counted(grid, matrix)
    a, b = local_contrast(a), local_contrast(b)
    norm = ((known * a * a).sum() * (known * b * b).sum()).sqrt()
    return float((known * a * b).sum() / norm) if norm > 0 else 0.0
