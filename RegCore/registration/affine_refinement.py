"""The last steps of a linear registration: damped Gauss-Newton on 6 or 12 parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from RegCore.registration.affine_level import AffineLevel
from RegCore.resampler import box_mean, reference_grid
from RegCore.resampler.rows import Rows

DENSE = 100_000  # voxels up to which features are not pooled
STILL = 1e-3  # pooled voxels; a step that moves no corner further ends the refinement
STIFFER, SOFTER = 8.0, 0.25  # how the damping changes after a step that failed or helped


def _rigid_basis() -> np.ndarray:
    """The 12 numbers of a small 3x4 matrix, row by row, as a linear function of rotation vector and shift."""
    basis = np.zeros((3, 4, 6))
    basis[:, :3, :3] = np.cross(np.eye(3)[:, None], np.eye(3)[None]).transpose(2, 1, 0)
    basis[:, 3, 3:] = np.eye(3)
    return basis.reshape(12, 6)


def _step(parameters: np.ndarray, rigid: bool) -> np.ndarray:
    """4x4 near the identity from 6 (rotation vector, shift) or 12 parameters (3x4, row by row)."""
    matrix = np.eye(4)
    if rigid:
        matrix[:3, :3] = Rotation.from_rotvec(parameters[:3]).as_matrix()
        matrix[:3, 3] = parameters[3:]
    else:
        matrix[:3] += parameters.reshape(3, 4)
    return matrix


@dataclass(frozen=True)
class _Pooled:
    """The pair of a level in pooled voxels, the moving side resampled through the start."""

    fixed: torch.Tensor  # (N, C), a row for each pooled voxel
    moving: Rows  # of 4 C + 1 channels: features, where known, gradient of the features
    weight: torch.Tensor  # (N,), of sum 1
    price: torch.Tensor  # (N,)
    index: torch.Tensor  # (3, N) of the pooled voxels
    shape: tuple[int, ...]  # (i, j, k)
    normalise: np.ndarray  # 4x4, RAS mm -> coordinates of about unit size about the centre
    unit: np.ndarray  # 4x4, pooled index -> the same coordinates

    @classmethod
    def of(cls, level: AffineLevel, matrix: np.ndarray) -> "_Pooled":
        factors = [2 if n >= 8 and level.grid.voxels > DENSE else 1 for n in level.grid.shape]
        features, known = (F.avg_pool3d(x, factors) for x in level.resampled(matrix))
        padded = F.pad(features, (1,) * 6, mode="replicate")
        slopes = []
        for axis in (2, 3, 4):
            inner = [slice(None)] * 2 + [slice(1, -1)] * 3
            ahead, behind = list(inner), list(inner)
            ahead[axis], behind[axis] = slice(2, None), slice(None, -2)
            slopes.append((padded[tuple(ahead)] - padded[tuple(behind)]) / 2)
        fixed, weight, price = (F.avg_pool3d(x, factors) for x in (level.features, level.weight, level.price))
        apart = box_mean((fixed - features).square().sum(1, keepdim=True), 1)
        weight = weight / (1 + apart / price.clamp_min(1e-3)).square()
        pooling = np.diag([*factors, 1.0])
        pooling[:3, 3] = (np.array(factors) - 1) / 2  # a pooled voxel stands in the middle of those it pools
        normalise = np.eye(4)
        normalise[:3, 3] = -level.grid.centre
        normalise[:3] /= float(np.linalg.norm(np.array(level.grid.shape) * level.grid.spacing)) / 4
        return cls(
            fixed[0].flatten(1).T.contiguous(),
            Rows(torch.cat([features, known, *slopes], 1)),
            (weight / weight.sum()).view(-1),
            price.view(-1),
            reference_grid(fixed.shape[2:], device=fixed.device).view(3, -1),
            tuple(fixed.shape[2:]),
            normalise,
            normalise @ level.grid.affine @ pooling,
        )

    def evaluated(self, small: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Objective at a 4x4 of unit coordinates, and the normal equations of a further step ahead of it.

        With residuals r = fixed - moving(y), y = small x and a step D (3x4) of y, moving changes by
        q' D (y, 1), where q is its gradient in unit coordinates: the matrix is the sum of (q q') (x) (h h')
        and the right side that of (q r) (x) h, with h = (y, 1).
        """
        channels, device = self.fixed.shape[1], self.fixed.device
        through = torch.from_numpy(np.linalg.inv(self.unit) @ small @ self.unit).float().to(device)
        at = through[:3, :3] @ self.index + through[:3, 3:]
        values = self.moving.read(at)
        residual = self.fixed - values[:, :channels]
        distance, known = torch.linalg.vecdot(residual, residual), values[:, channels]
        objective = float((((distance - self.price) * known + self.price) * self.weight).sum())
        share = known.mul_(self.weight)
        to_unit = torch.from_numpy(self.unit[:3]).float().to(device)
        back = torch.from_numpy(np.linalg.inv(self.unit)[:3, :3]).float().to(device)
        slopes = values[:, channels + 1 :].view(-1, 3, channels)
        h = torch.cat([to_unit[:, :3] @ at + to_unit[:, 3:], torch.ones_like(at[:1])])
        twice = torch.bmm(slopes, slopes.transpose(1, 2)).view(-1, 9).mul_(share[:, None])
        normal = (twice.T @ (h[:, None] * h[None]).view(16, -1).T).view(3, 3, 4, 4)
        normal = torch.einsum("ai,abgh,bj->ijgh", back, normal, back).transpose(1, 2)
        pull = torch.bmm(slopes, residual[:, :, None])[..., 0].mul_(share[:, None])
        pull = back.T @ (pull.T @ h.T)
        return (
            objective,
            normal.reshape(12, 12).double().cpu().numpy(),
            pull.reshape(12).double().cpu().numpy(),
        )


def refine(
    level: AffineLevel,
    matrix: np.ndarray,
    rigid: bool,
    *,
    iterations: int,
    tell: Callable[[int, float], None] = lambda iteration, loss: None,
) -> np.ndarray:
    """Levenberg-Marquardt (SIAM J. 1963) about the centre on the distance of pooled features.

    The moving features are those of the image resampled through ``matrix``; only the small remainder is
    searched for. A voxel weighs less the worse it fits there (as Geman and McClure have it), so that what no
    such matrix can bring together does not pull.

    Args:
        level: the pair.
        matrix: 4x4, fixed -> moving, RAS mm.
        rigid: rotation and translation only.
        iterations: number of steps at most, tried ones included.
        tell: called after each step with its number and the loss.

    Returns:
        ``matrix`` times the remainder that had the lowest loss.
    """
    pair = _Pooled.of(level, matrix)
    basis = _rigid_basis() if rigid else np.eye(12)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in pair.shape))).reshape(3, -1)
    corners = pair.unit[:3, :3] @ corners + pair.unit[:3, 3:]
    voxel = float(np.linalg.norm(pair.unit[:3, :3], axis=0).mean())
    small, damping = np.eye(4), 1e-2
    loss, normal, pull = pair.evaluated(small)
    for iteration in range(iterations):
        reduced = basis.T @ normal @ basis
        reduced += np.diag(damping * np.diag(reduced) + 1e-12)
        step = _step(np.linalg.solve(reduced, basis.T @ pull), rigid)
        moved = step[:3, :3] @ corners + step[:3, 3:] - corners
        if np.linalg.norm(moved, axis=0).max() < STILL * voxel:
            break
        found = pair.evaluated(step @ small)
        if found[0] < loss:
            small, damping = step @ small, damping * SOFTER
            loss, normal, pull = found
        else:
            damping *= STIFFER
        tell(iteration, loss)
    return matrix @ np.linalg.inv(pair.normalise) @ small @ pair.normalise
