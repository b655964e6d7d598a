"""What the deformable stage works on: settings, a pair in one direction, and that pair on a working grid."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.registration.checks import check_not_negative
from RegCore.registration.pair import LABEL_WEIGHT, LabelEncoding, PairSide, Tick, make_feature_image
from RegCore.registration.starts import structures_apart
from RegCore.resampler import inverted, reference_grid, sample
from RegCore.resampler.band_filters import BandFilter, means_of_repeated
from RegCore.resampler.pyramid import padded
from RegCore.space.geometry import Geometry, InputError, apply_affine
from RegCore.space.transforms import AffineTransform, DisplacementField

DRAWN = 0.03  # weight, mm^-2, of the centroids of structures that hardly overlap, on all but the finest grid


@dataclass(frozen=True)
class Settings:
    """How the deformable stage works."""

    working_voxels: int = 1_500_000
    """The finest working grid has at most about this number of voxels."""
    levels: int = 3
    """Number of grids, each with an eighth of the voxels of the next."""
    dense_voxels: int = 350_000
    """Up to so many voxels of the finest grid each has parameters; of more, every second along each axis."""
    iterations: int = 40
    """Steps on the finest grid; two thirds of it on the others."""
    smoothness: float = 1.25
    """Weight of the squared gradient of the displacement; larger is stiffer."""
    contrast: float = 3.0
    """Weight of local contrasts beside MIND-SSC, used where both images turn out to be of one modality."""
    label_weight: float = LABEL_WEIGHT
    """Weight of the segmentations, if both are given."""
    landmark_weight: float = 0.0
    """Weight of the landmarks, mm^-2; at 0 they only measure."""
    rate: float = 0.5
    """Adam's step, in spacings of the parameters."""
    symmetric: bool = True
    """Register in both directions and take the mean; takes twice the time."""

    def __post_init__(self) -> None:
        for name in ("working_voxels", "levels", "iterations", "dense_voxels"):
            if getattr(self, name) < 1:
                raise InputError(f"setting {name} is {getattr(self, name)}, expected at least 1")
        for name in ("smoothness", "contrast", "label_weight", "landmark_weight", "rate"):
            check_not_negative(name, getattr(self, name))


@dataclass(frozen=True)
class DeformableTask:
    """What is known of a pair in one direction, before a working grid is chosen."""

    fixed: PairSide
    moving: PairSide
    linear: AffineTransform  # fixed -> moving, RAS mm
    settings: Settings
    initial: DisplacementField | None = None  # a field to start from, of which `linear` is the affine part
    encoding: LabelEncoding | None = None
    landmarks: np.ndarray | None = None  # (N, 6) RAS mm, fixed and moving place of each
    device: str = "cpu"

    def drawn_together(self) -> "DeformableTask":
        """The same with the centroids of structures that hardly overlap as landmarks with a weight.

        A squared difference of two structures that do not meet has no slope that brings them together; the
        cheapest way down is to squeeze the moving one to nothing.
        """
        labels = self.fixed.labels, self.moving.labels
        if self.encoding is None or labels[0] is None or labels[1] is None:
            return self
        apart = structures_apart(labels[0], labels[1], self.encoding.labels, self.initial or self.linear)
        if apart is None:
            return self
        weight = self.settings.landmark_weight
        if weight > 0 and self.landmarks is not None:
            apart = np.vstack([self.landmarks, apart])
        settings = replace(self.settings, landmark_weight=max(weight, DRAWN))
        return replace(self, landmarks=apart, settings=settings)

    def reversed(self) -> "DeformableTask":
        """The same pair with fixed and moving exchanged."""
        return replace(
            self,
            fixed=self.moving,
            moving=self.fixed,
            linear=self.linear.inverse(),
            initial=None if self.initial is None else inverted(self.initial, self.moving.image.geometry),
            landmarks=None if self.landmarks is None else self.landmarks[:, [3, 4, 5, 0, 1, 2]],
        )


@dataclass(frozen=True)
class DeformableLevel:
    """One working grid; ``moving`` is resampled through the affine part, ``margin`` voxels further out."""

    grid: Geometry
    margin: int
    stride: int  # voxels between parameters
    fixed: torch.Tensor  # (1, C, i, j, k), means over blocks of ``stride`` voxels
    moving: torch.Tensor  # (1, C + 1, ...), the same; the last channel says where it is known
    weight: torch.Tensor  # (1, 1, i, j, k)
    points: torch.Tensor | None  # (1, 3, N, 1, 1) landmarks in parameter indices
    targets: torch.Tensor | None  # (1, 3, N, 1, 1) where they belong, as displacements in strides
    stride_mm: float
    label_channels: int  # the last so many of the features

    def landmark_distance(self, u: torch.Tensor) -> torch.Tensor | float:
        """Mean squared distance of the landmarks in mm^2 under displacements in strides, 0 without any."""
        if self.points is None or self.targets is None:
            return 0.0
        return (sample(u, self.points) - self.targets).square().sum(1).mean() * self.stride_mm**2


def _pool(x: torch.Tensor, size: int) -> torch.Tensor:
    return x if size == 1 else F.avg_pool3d(x, size, size, ceil_mode=True, count_include_pad=False)


def _landmarks(
    task: DeformableTask, grid: Geometry, stride: int
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """Landmark pairs as places and displacements on the parameter grid."""
    if task.landmarks is None:
        return None, None
    start = grid.to_index(task.landmarks[:, :3])
    stop = grid.to_index(apply_affine(np.linalg.inv(task.linear.matrix), task.landmarks[:, 3:]))

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x.T.copy()).float().view(1, 3, -1, 1, 1).to(task.device)

    return tensor((start - (stride - 1) / 2) / stride), tensor((stop - start) / stride)


def make_deformable_level(
    task: DeformableTask, grid: Geometry, contrast: float, *, finest: bool = True, tick: Tick = lambda: None
) -> DeformableLevel:
    """The pair on a working grid, the moving side resampled through the linear transform.

    Args:
        task: the pair.
        grid: the working grid.
        contrast: weight of the local contrasts; 0 leaves them out.
        finest: whether no finer grid will follow; others have parameters on every second voxel sooner.
        tick: called between the parts; what it raises ends the work.
    """
    dense = task.settings.dense_voxels
    stride = 1 if grid.voxels <= (dense if finest else dense // 4) else 2
    margin, matrix = 4 * stride, task.linear.matrix
    tick()
    fixed_image = make_feature_image(task.fixed, grid, np.eye(4), task.encoding, task.device)
    tick()
    fixed, weight = fixed_image.resampled(grid, np.eye(4), contrast)
    tick()
    moving_image = make_feature_image(task.moving, grid, matrix, task.encoding, task.device)
    tick()
    moving = torch.cat(moving_image.resampled(padded(grid, margin), matrix, contrast), 1)
    tick()
    points, targets = _landmarks(task, grid, stride)
    return DeformableLevel(
        grid,
        margin,
        stride,
        _pool(fixed, stride),
        _pool(moving, stride).contiguous(memory_format=torch.channels_last_3d),
        _pool(weight, stride),
        points,
        targets,
        stride * float(grid.spacing.mean()),
        0 if fixed_image.labels is None else fixed_image.labels.values.shape[1],
    )


def spread(level: DeformableLevel, u: torch.Tensor) -> torch.Tensor:
    """Displacements in strides at the parameters -> in voxels at every voxel of the grid."""
    at = reference_grid(level.grid.shape, device=u.device)
    return sample(u, (at - (level.stride - 1) / 2) / level.stride) * level.stride


def gathered(level: DeformableLevel, ddf: torch.Tensor) -> torch.Tensor:
    """The reverse of `spread`: voxels -> strides, by means over blocks."""
    return _pool(ddf, level.stride) / level.stride


@lru_cache(maxsize=4)
def _smoother(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> BandFilter:
    like = torch.empty((), dtype=dtype, device=device)
    return BandFilter([means_of_repeated(size, 1, times=3) for size in shape], like)


def smooth(parameters: torch.Tensor) -> torch.Tensor:
    """The displacement that parameters stand for: three 3^3 means, nearly a cubic B-spline."""
    return _smoother(tuple(parameters.shape[2:]), parameters.dtype, parameters.device)(parameters)
