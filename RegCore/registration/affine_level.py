"""What linear registration compares: a pair at one resolution, and what a matrix between its sides costs."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class AffineLevel:
    """One resolution of a pair: the fixed features on a grid, and the moving side to be resampled onto it."""

    grid: Geometry
    features: torch.Tensor  # (1, C, I, J, K)
    weight: torch.Tensor  # (1, 1, I, J, K)
    fixed: FeatureImage
    moving: FeatureImage

    def resampled(self, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the moving side on the grid, and where they are known."""
        return self.moving.resampled(self.grid, matrix, 0.0)

    def cost(self, matrix: np.ndarray) -> float:
        """Mean feature distance over the fixed grid, unknown voxels counting as unrelated."""
        features, known = self.resampled(matrix)
        distance = (self.features - features).square_().sum(1, keepdim=True)
        distance = distance * known + UNRELATED * (1 - known)
        return float((distance * self.weight).sum() / self.weight.sum())


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
    grid = working_geometry(fixed.image.geometry, voxels)
    tick()
    fixed_image = make_feature_image(fixed, grid, np.eye(4), encoding, device)
    tick()
    features, weight = fixed_image.resampled(grid, np.eye(4), 0.0)
    if float(weight.sum()) <= 0:
        raise InputError("the fixed mask leaves no voxel of the fixed image to compare")
    moving_image = make_feature_image(moving, grid, np.eye(4), encoding, device)
    return AffineLevel(grid, features, weight, fixed_image, moving_image)
