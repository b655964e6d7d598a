"""What linear registration compares: a pair at one resolution, and what a matrix between its sides costs."""

from dataclasses import dataclass, field

import numpy as np
import torch

from RegCore.registration.pair import (
    UNRELATED,
    FeatureImage,
    LabelEncoding,
    PairSide,
    Tick,
    make_feature_image,
)
from RegCore.resampler.grids import Device
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry, InputError

APART = 6  # voxels from which on features of one image have nothing to do with each other
THIN = 8  # voxels that each axis of a working grid keeps, unless the image has fewer


def translation(shift: np.ndarray) -> np.ndarray:
    """The 4x4 matrix that moves every point by a shift in mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def header_position(fixed: Geometry, moving: Geometry) -> np.ndarray:
    """The given position: that of the headers, or centre on centre where by these nothing overlaps."""
    return np.eye(4) if fixed.overlaps(moving) else translation(moving.centre - fixed.centre)


@dataclass(frozen=True)
class AffineLevel:
    """One resolution of a pair: the fixed features on a grid, and the moving side to be resampled onto it."""

    grid: Geometry
    features: torch.Tensor  # (1, C, I, J, K)
    weight: torch.Tensor  # (1, 1, I, J, K)
    price: torch.Tensor  # (1, 1, I, J, K), what a fixed voxel costs where it meets nothing, see `prices`
    fixed: FeatureImage
    moving: FeatureImage
    _last: dict = field(default_factory=dict, repr=False)  # what was resampled last, by its matrix

    def resampled(self, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the moving side on the grid, and where they are known; the last ones are kept."""
        key = matrix.tobytes()
        if key not in self._last:
            self._last.clear()
            self._last[key] = self.moving.resampled(self.grid, matrix, 0.0)
        return self._last[key]

    @property
    def chance(self) -> float:
        """What a position costs that has nothing to do with the images: the mean price."""
        return float((self.price * self.weight).sum() / self.weight.sum())

    def cost(self, matrix: np.ndarray) -> float:
        """Mean feature distance over the fixed grid, unknown voxels at their `price`."""
        features, known = self.resampled(matrix)
        distance = (self.features - features).square_().sum(1, keepdim=True)
        distance = (distance - self.price) * known + self.price
        return float((distance * self.weight).sum() / self.weight.sum())

    def gain(self, matrix: np.ndarray) -> float:
        """How much less than `chance` a matrix costs, as a share of it: 1 where all is equal."""
        chance = self.chance
        return 1 - self.cost(matrix) / chance if chance > 0 else 0.0

    def overlap(self, matrix: np.ndarray) -> float:
        """The share of the fixed voxels that count whose counterparts are known, 0 to 1."""
        return float((self.resampled(matrix)[1] * self.weight).sum() / self.weight.sum())


def even_geometry(fixed: Geometry, moving: Geometry, voxels: int) -> Geometry:
    """A grid over the corner voxels of the fixed image whose voxels are cubes, as far as that is useful.

    Blocks, search cubes and descriptors are counted in voxels, so the same number should mean the same length
    along every axis. Thick slices are divided, down to the geometric mean of their thickness and the spacing
    within them: further nothing is gained, and coarser than that the slices themselves would be lost.

    Args:
        fixed: the grid of the fixed image.
        moving: the grid of the moving image, whose thick slices count as well.
        voxels: about how many the grid has at most.
    """
    finest = max(float(np.sqrt(g.spacing.min() * g.spacing.max())) for g in (fixed, moving))
    extent = (np.array(fixed.shape) - 1) * fixed.spacing
    kept = np.minimum(fixed.shape, THIN)
    even = fixed.resized(tuple(int(n) for n in np.maximum(np.floor(extent / finest + 1e-6) + 1, kept)))
    return working_geometry(even, voxels)


def _unrelated(
    a: torch.Tensor, known_a: torch.Tensor, b: torch.Tensor, known_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared distance of each voxel's features to those of ``b`` further along the axes, and if any."""
    total, count = torch.zeros_like(known_a), torch.zeros_like(known_a)
    for axis in (2, 3, 4):
        size = a.shape[axis]
        step = min(APART, size // 2)
        if step == 0:
            continue
        for here, there in ((0, step), (step, 0)):
            x, known = (t.narrow(axis, here, size - step) for t in (a, known_a))
            y, known_y = (t.narrow(axis, there, size - step) for t in (b, known_b))
            both = known * known_y
            total.narrow(axis, here, size - step).add_((x - y).square_().sum(1, keepdim=True) * both)
            count.narrow(axis, here, size - step).add_(both)
    return total / count.clamp_min(1e-6), (count > 0).float()


def prices(
    features: torch.Tensor, weight: torch.Tensor, other: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """What a fixed voxel costs where it meets nothing: as much as where it meets unrelated tissue.

    Were it less, an image would be pushed out of view; were it more, it would be inflated to cover all. It is
    measured: the distance to the moving features `APART` voxels from the counterpart. Where these are not
    known it is that to the fixed features, in proportion.

    Args:
        features: of the fixed image, ``(1, C, I, J, K)``.
        weight: where they count, ``(1, 1, I, J, K)``.
        other: features of the moving image on the same grid, roughly in place.
        known: where they are known.

    Returns:
        ``(1, 1, I, J, K)``; `UNRELATED` throughout where the two images do not meet.
    """
    price, met = _unrelated(features, weight, other, known)
    own, alone = _unrelated(features, weight, features, weight)
    both = met * alone
    if float(both.sum()) == 0 or float((own * both).sum()) <= 0:
        return torch.full_like(own, UNRELATED)
    ratio = float((price * both).sum() / (own * both).sum())
    return torch.where(met > 0, price, own * ratio)


def make_affine_level(
    fixed: PairSide,
    moving: PairSide,
    voxels: int,
    encoding: LabelEncoding | None,
    device: Device,
    tick: Tick = lambda: None,
) -> AffineLevel:
    """The pair at one resolution.

    Args:
        fixed: image, and segmentation and mask if there are any.
        moving: the same of the moving volume, on any grid.
        voxels: about how many the fixed grid has at most.
        encoding: of the structures that take part; None leaves the segmentations out.
        device: torch device.
        tick: called between the parts.

    Raises:
        InputError: an empty mask, or one that leaves no voxel of the fixed image.
    """
    here, there = fixed.image.geometry, moving.image.geometry
    grid = even_geometry(here, there, voxels)
    tick()
    fixed_image = make_feature_image(fixed, grid, np.eye(4), encoding, device, there)
    tick()
    features, weight = fixed_image.resampled(grid, np.eye(4), 0.0)
    if float(weight.sum()) <= 0:
        raise InputError("the fixed mask leaves no voxel of the fixed image to compare")
    moving_image = make_feature_image(moving, grid, np.eye(4), encoding, device, here)
    tick()
    price = prices(features, weight, *moving_image.resampled(grid, header_position(here, there), 0.0))
    return AffineLevel(grid, features, weight, price, fixed_image, moving_image)
