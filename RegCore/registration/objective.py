"""What the deformable stage minimises: feature distance, smoothness and the distance of landmarks."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from RegCore.registration.deformable_level import DeformableLevel, Settings
from RegCore.resampler import reference_grid
from RegCore.resampler.rows import POINTS, Rows

NUDGE = 1e-4  # parameters by which the places of the voxels are off, so that none is whole at rest


class PairObjective:
    """Feature distance + smoothness (+ landmarks) of a displacement in strides on a level.

    What maps to where nothing is known costs as much as the average voxel does without a displacement: were
    it free, the field would flee there.
    """

    def __init__(self, level: DeformableLevel, settings: Settings):
        self.level, self.settings = level, settings
        shape, device = level.fixed.shape[2:], level.fixed.device
        grid = reference_grid(shape, device=device)
        # at whole places there are two slopes: every second voxel takes that of the cell ahead
        ahead = (grid.sum(1, keepdim=True) % 2) * 2 - 1
        self.at = (grid + NUDGE * ahead + level.margin / level.stride).view(3, -1).to(level.fixed.dtype)
        self.fixed = level.fixed[0].flatten(1).T.contiguous()
        self.moving = Rows(level.moving)
        self.share = (level.weight / level.weight.sum()).view(-1)
        values = self.moving.read(self.at)
        known = values[:, -1] * self.share
        distance = (self.fixed - values[:, :-1]).square_().sum(1)
        self.unknown = float((distance * known).sum() / known.sum().clamp_min(1e-6 / level.weight.sum()))

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        loss = _Distance.apply(u, self)
        loss = loss + 3 * self.settings.smoothness * sum(
            u.diff(dim=d).square().mean() for d in (2, 3, 4) if u.shape[d] > 1
        )
        if self.settings.landmark_weight > 0:
            loss = loss + self.settings.landmark_weight * self.level.landmark_distance(u)
        return loss

    def distance(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared feature distance, and its derivative by the displacement, ``(1, 3, i, j, k)``."""
        places = u.view(3, -1) + self.at
        total, slope = u.new_zeros(()), torch.empty_like(places)
        for start in range(0, places.shape[1], POINTS):
            part = slice(start, start + POINTS)
            values, *ahead = self.moving.values_and_slopes(places[:, part])
            apart, known, share = values[:, :-1] - self.fixed[part], values[:, -1], self.share[part]
            distance = torch.linalg.vecdot(apart, apart).sub_(self.unknown)
            total += ((distance * known).add_(self.unknown) * share).sum()
            pull = torch.cat([apart.mul_(2 * known[:, None]), distance[:, None]], 1)[:, :, None]
            for axis in range(3):
                slope[axis, part] = torch.bmm(ahead[axis][:, None], pull).view(-1).mul_(share)
        return total, slope.view(u.shape)


class _Distance(torch.autograd.Function):
    """`PairObjective.distance` for autograd; the derivative is found together with the value."""

    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, objective: PairObjective) -> torch.Tensor:
        total, slope = objective.distance(u)
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None
