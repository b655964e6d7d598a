"""Deformable registration of like images: the local correlation climbed by composed, smoothed small steps.

The scheme is that of greedy diffeomorphic registration (Yushkevich et al., Alzheimer's & Dementia 12 Suppl.,
2016) with the local correlation of Avants et al. (Medical Image Analysis 12, 2008), whose derivative by the
field Hermosillo et al. (IJCV 50, 2002) derive. Docs/how-it-works.md has the formulas.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.pair import GridTensor, PairSide, make_feature_image
from RegCore.resampler import affine_coordinates, index_map, resample_ddf, sample
from RegCore.resampler.grids import Device
from RegCore.resampler.pyramid import working_geometry
from RegCore.space.geometry import Geometry, InputError

SLAB = 2**18  # voxels worked on at a time, so that they stay in the cache
FLAT = 1e-3  # variance added to that of every window, as a share of the mean one
FEWEST_VOXELS = 4000  # of a grid that is worth a level of its own


@dataclass(frozen=True)
class CorrelationSettings:
    """How the correlation is climbed."""

    working_voxels: int = 6_000_000
    """The finest grid has at most about this number of voxels."""
    levels: int = 2
    """Number of grids, each with an eighth of the voxels of the next."""
    iterations: int = 50
    """Most steps on a grid; large grids get fewer, see ``work``."""
    work: int = 50_000_000
    """Voxels times steps that a grid may take; there are never fewer than 8 steps."""
    radius: int = 2
    """Of the window, in voxels of a grid of cubes; the window is a cube of side 2 radius + 1."""
    step_smoothing: float = 1.75
    """Standard deviation of the Gaussian that smooths each step, in the same voxels."""
    field_smoothing: float = 0.7
    """Standard deviation of the Gaussian that smooths the whole field after each step."""
    first_step: float = 1.0
    """Length of the longest vector of the first step on a grid, in the same voxels."""
    last_step: float = 0.1
    """The same of the last step; between them it falls linearly."""
    symmetric: bool = False
    """Whether `RegCore.registration.auto` climbs in both directions and takes the mean."""

    def __post_init__(self) -> None:
        for name in ("working_voxels", "levels", "iterations", "work", "radius"):
            if getattr(self, name) < 1:
                raise InputError(f"setting {name} is {getattr(self, name)}, expected at least 1")

    def steps(self, voxels: int) -> int:
        """Number of steps on a grid of so many voxels."""
        return max(min(self.iterations, self.work // voxels), min(self.iterations, 8))


# ---- windows and Gaussians over one channel (I, J, K) ------------------------------------------------------


def _slabs(x: torch.Tensor, axis: int) -> Iterator[tuple[slice, ...]]:
    """Parts of ``(I, J, K)`` of about `SLAB` voxels that hold whole lines along an axis."""
    across = 1 if axis == 0 else 0
    size = max(1, SLAB * x.shape[across] // x.numel())
    for start in range(0, x.shape[across], size):
        part = [slice(None)] * 3
        part[across] = slice(start, start + size)
        yield tuple(part)


def _correlated(x: torch.Tensor, axis: int, weights: Sequence[float]) -> torch.Tensor:
    """Sum over k of weights[|k|] x(. + k) along an axis, zeros outside."""
    out, n = torch.empty_like(x), x.shape[axis]
    for part in _slabs(x, axis):
        a, b = x[part], out[part]
        torch.mul(a, weights[0], out=b)
        for k, weight in enumerate(weights[1:n], 1):
            b.narrow(axis, k, n - k).add_(a.narrow(axis, 0, n - k), alpha=weight)
            b.narrow(axis, 0, n - k).add_(a.narrow(axis, k, n - k), alpha=weight)
    return out


def window_sum(x: torch.Tensor, radii: Sequence[int]) -> torch.Tensor:
    """Sums over windows of 2 r + 1 voxels along each axis, zeros outside; ``(I, J, K)``."""
    for axis, radius in enumerate(radii):
        if radius > 0:
            x = _correlated(x, axis, [1.0] * (radius + 1))
    return x


def smooth_inside(x: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Gaussian means over that part of the window which lies inside ``(I, J, K)``; sigmas in voxels.

    Cut at 3 sigma. A constant stays what it is up to the edge; nothing is assumed beyond it.
    """
    for axis, sigma in enumerate(sigmas):
        n, reach = x.shape[axis], math.ceil(3 * sigma - 0.25)
        if n < 2 or reach < 1:
            continue
        weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(reach + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        weights = [w / total for w in weights]
        x = _correlated(x, axis, weights)
        inside = _correlated(x.new_ones(n, 1, 1), 0, weights)
        x.div_(inside.view([n if d == axis else 1 for d in range(3)]))
    return x


def central_difference(x: torch.Tensor, axis: int) -> torch.Tensor:
    """(x(. + 1) - x(. - 1)) / 2 along an axis of ``(I, J, K)``, 0 at its ends."""
    out, n = torch.zeros_like(x), x.shape[axis]
    if n > 2:
        inner = out.narrow(axis, 1, n - 2)
        inner.add_(x.narrow(axis, 2, n - 2), alpha=0.5).sub_(x.narrow(axis, 0, n - 2), alpha=0.5)
    return out


# ---- the similarity ----------------------------------------------------------------------------------------


class LocalCorrelation:
    """Squared local correlation of images with a fixed one, and its derivative in closed form.

    With E the mean over the window of x inside the image, c = E[IJ] - E[I] E[J], v = E[J^2] - E[J]^2 + e and
    f the same of I, s(x) = c^2 / (f v). Each variance gets e, a small part of its mean over the image, so
    that windows that hold noise alone count little.
    """

    def __init__(self, fixed: torch.Tensor, radii: Sequence[int]):
        self.radii = radii
        self.fixed = fixed - fixed.mean()  # small numbers: a variance is a difference of large sums
        self.share = window_sum(torch.ones_like(fixed), radii).reciprocal_()
        self.mean = self._mean(self.fixed)
        self.variance = self._variance(self.fixed, self.mean)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        return window_sum(x, self.radii).mul_(self.share)

    def _variance(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        variance = self._mean(x * x).addcmul_(mean, mean, value=-1).clamp_min_(0)
        return variance.add_(FLAT * variance.mean() + 1e-12)

    def _moments(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E[J], v and c."""
        mean = self._mean(warped)
        covariance = self._mean(self.fixed * warped).addcmul_(self.mean, mean, value=-1)
        return mean, self._variance(warped, mean), covariance

    def value(self, warped: torch.Tensor, weight: torch.Tensor) -> float:
        """Mean of s over the voxels, weighted; images and weight ``(I, J, K)``."""
        _, variance, covariance = self._moments(warped)
        score = covariance.square_().div_(variance).div_(self.variance)
        return float(score.mul_(weight).sum() / weight.sum().clamp_min(1))

    def slope(self, warped: torch.Tensor, weight: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The same mean, and the derivative of the weighted sum of s / 2 by the voxels of ``warped``.

        A voxel y counts in every window that holds it, where d c / d J(y) = (I(y) - E[I]) / n and
        d v / d J(y) = 2 (J(y) - E[J]) / n. With a = c / (f v n) and b = a c / v, summed over these windows:
        I sum(a) - J sum(b) - sum(a E[I] - b E[J]). What e owes to J is left out.
        """
        mean, variance, covariance = self._moments(warped)
        a = (covariance / self.variance).div_(variance)
        value = float((a * covariance).mul_(weight).sum() / weight.sum().clamp_min(1))
        a.mul_(weight).mul_(self.share)
        b = covariance.mul_(a).div_(variance)
        out = window_sum(a, self.radii).mul_(self.fixed)
        out.addcmul_(window_sum(b, self.radii), warped, value=-1)
        rest = a.mul_(self.mean).addcmul_(b, mean, value=-1)
        return value, out.sub_(window_sum(rest, self.radii))


# ---- one grid ----------------------------------------------------------------------------------------------


def _per_cube(grid: Geometry) -> np.ndarray:
    """Voxels along each axis in the side of a cube that is as large as a voxel."""
    return float(np.prod(grid.spacing)) ** (1 / 3) / grid.spacing


class CorrelationLevel:
    """A pair on a working grid: the fixed image lies on it, the moving one is sampled where it is."""

    def __init__(
        self,
        fixed: PairSide,
        moving: PairSide,
        matrix: np.ndarray,
        grid: Geometry,
        radius: int,
        device: Device,
    ):
        self.grid = grid
        reference = make_feature_image(fixed, grid, np.eye(4), None, device)
        image, weight = reference.image.resampled(grid, np.eye(4))
        for mask in reference.masks:
            weight = weight * (mask.resampled(grid, np.eye(4))[0] > 0.5)
        # where the fixed image is as it came, the moving one is hardly smoothed either
        native = grid == fixed.image.geometry
        spacing = grid.resized(tuple(2 * n - 1 for n in grid.shape)) if native else grid
        reduced = make_feature_image(moving, spacing, matrix, None, device)
        self.moving, self.masks = reduced.image, reduced.masks
        self.weight = weight[0, 0]
        self.per_cube = _per_cube(grid)
        radii = [max(1, round(radius * ratio)) for ratio in self.per_cube]
        self.similarity = LocalCorrelation(image[0, 0], radii)
        to_moving = index_map(matrix, grid, self.moving.grid)
        places = affine_coordinates(to_moving, grid.shape, device=device)
        # in the units of `grid_sample`: from -1 to 1 between the outermost voxels, the last axis first
        last = torch.tensor(self.moving.grid.shape).double() - 1
        unit, first = 2 / last.clamp_min(1), (last > 0).double()  # the one voxel of an axis lies at 0
        self.unit, self.first = unit.flip(0).float().to(device), first.flip(0).float().to(device)
        self.border = (first + unit / 2).flip(0).tolist()
        self.places = (places[0].flatten(1).T.flip(1) * self.unit).sub_(self.first)
        turn = torch.from_numpy(to_moving[:3, :3]) * unit[:, None]
        self.turn = turn.flip(0).T.float().contiguous().to(device)

    def warped(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The moving image under a DDF ``(3, I, J, K)`` in voxels, and the weight of each voxel."""
        image, weight = torch.empty_like(u[0]), self.weight.clone()
        flat, known, ddf = image.view(-1), weight.view(-1), u.view(3, -1)
        for start in range(0, len(flat), SLAB):
            part = slice(start, start + SLAB)
            at = torch.addmm(self.places[part], ddf[:, part].T, self.turn)
            values = F.grid_sample(
                self.moving.values, at[None, None, None], padding_mode="border", align_corners=True
            )
            flat[part] = values.view(-1)
            for axis, border in enumerate(self.border):
                known[part] *= at[:, axis].abs() <= border
            for mask in self.masks:
                known[part] *= self._masked(mask, at)
        return image, weight

    def _masked(self, mask: GridTensor, at: torch.Tensor) -> torch.Tensor:
        """Where a mask of the moving image holds, at places in the moving image."""
        index = ((at + self.first) / self.unit).flip(1).T
        matrix = torch.from_numpy(index_map(np.eye(4), self.moving.grid, mask.grid)).to(index)
        there = torch.addmm(matrix[:3, 3:], matrix[:3, :3], index)
        return sample(mask.values, there.view(1, 3, -1, 1, 1)).view(-1) > 0.5

    def value(self, u: torch.Tensor) -> float:
        """Mean squared local correlation under a DDF."""
        return self.similarity.value(*self.warped(u))

    def step(self, u: torch.Tensor, smoothing: float, length: float) -> tuple[float, torch.Tensor]:
        """The value at a DDF, and the smoothed ascent direction scaled to a greatest length.

        In millimetres the direction is the gradient itself, so along each axis of voxels it is divided by
        the square of the spacing.
        """
        warped, weight = self.warped(u)
        value, slope = self.similarity.slope(warped, weight)
        slope.mul_(weight)
        step, size = torch.empty_like(u), torch.zeros_like(slope)
        sigmas = [smoothing * ratio for ratio in self.per_cube]
        for axis, ratio in enumerate(self.per_cube):
            step[axis] = smooth_inside(central_difference(warped, axis).mul_(slope), sigmas)
            step[axis].mul_(ratio**2)
            size.addcmul_(step[axis], step[axis], value=ratio**-2)
        return value, step.mul_(length / max(float(size.max()) ** 0.5, 1e-20))


def composed(u: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """DDF of x -> (id + u)(x + step(x)) to first order: step + u + (du/dx) step; ``(3, I, J, K)`` voxels."""
    out = u + step
    for axis in range(3):
        n = u.shape[axis + 1] - 2
        if n < 1:
            continue
        for part in _slabs(u[0], axis):
            move = step[axis][part].narrow(axis, 1, n)
            for c in range(3):
                slope = u[c][part].narrow(axis, 2, n) - u[c][part].narrow(axis, 0, n)
                out[c][part].narrow(axis, 1, n).addcmul_(slope, move, value=0.5)
    return out


def smooth_ddf(u: torch.Tensor, grid: Geometry, settings: CorrelationSettings) -> torch.Tensor:
    """A DDF ``(3, I, J, K)`` smoothed as it is after each step."""
    sigmas = [float(sigma) for sigma in settings.field_smoothing * _per_cube(grid)]
    return torch.stack([smooth_inside(channel, sigmas) for channel in u])


def climb(
    level: CorrelationLevel, u: torch.Tensor, settings: CorrelationSettings, progress: Progress = silent
) -> torch.Tensor:
    """From a DDF ``(3, I, J, K)`` in voxels to one of higher local correlation on the same grid.

    The longest vector of each step has a given length, however flat the correlation is; where no step raises
    it, as for two equal images, the DDF is given back as it came.
    """
    start, before = u, level.value(u)
    count = settings.steps(level.grid.voxels)
    stage = f"correlation: {'x'.join(f'{s:.1f}' for s in level.grid.spacing)} mm"
    for n in range(count):
        done = n / max(count - 1, 1)
        length = settings.first_step + (settings.last_step - settings.first_step) * done
        value, step = level.step(u, settings.step_smoothing, length)
        u = smooth_ddf(composed(u, step), level.grid, settings)
        progress(n / count, stage, {"iteration": n, "loss": -value})
    return u if level.value(u) > before else start


# ---- the pyramid -------------------------------------------------------------------------------------------


def correlation_grids(geometry: Geometry, settings: CorrelationSettings) -> list[Geometry]:
    """Working grids from coarse to fine; those of few voxels, or that would repeat the next, are left out."""
    grids = [working_geometry(geometry, settings.working_voxels)]
    for n in range(1, settings.levels):
        grid = working_geometry(geometry, grids[0].voxels // 8**n)
        if FEWEST_VOXELS <= grid.voxels < 0.7 * grids[-1].voxels:
            grids.append(grid)
    return grids[::-1]


def raise_correlation(
    fixed: PairSide,
    moving: PairSide,
    matrix: np.ndarray,
    start: torch.Tensor,
    grid: Geometry,
    *,
    settings: CorrelationSettings | None = None,
    device: Device = "cpu",
    progress: Progress = silent,
) -> tuple[torch.Tensor, Geometry]:
    """Climb on each grid of a pyramid, from a field that is already near.

    What a coarse grid finds goes on only if it raises the correlation on the finest one.

    Args:
        fixed, moving: image, and mask if there is one.
        matrix: the linear part, 4x4, fixed -> moving, RAS mm.
        start: DDF ``(1, 3, I, J, K)`` in voxels of ``grid``, before the linear part.
        grid: where it lies.
        settings: see `CorrelationSettings`.
        device: torch device.
        progress: told of stage, iteration and minus the mean squared local correlation.

    Returns:
        A DDF of the same meaning on the finest grid, and that grid.
    """
    settings = settings or CorrelationSettings()
    *coarse, finest = correlation_grids(fixed.image.geometry, settings)
    work = np.cumsum([0.0, *(g.voxels * settings.steps(g.voxels) for g in (*coarse, finest))])
    work /= work[-1]
    last = CorrelationLevel(fixed, moving, matrix, finest, settings.radius, device)
    best = resample_ddf(start, grid, finest)[0]
    u, lies_on = start, grid
    for n, new in enumerate(coarse):
        level = CorrelationLevel(fixed, moving, matrix, new, settings.radius, device)
        begin = resample_ddf(u, lies_on, new)[0]
        u, lies_on = climb(level, begin, settings, part_of(progress, work[n], work[n + 1]))[None], new
    if coarse:
        found = resample_ddf(u, lies_on, finest)[0]
        if last.value(found) > last.value(best):
            best = found
    best = climb(last, best, settings, part_of(progress, work[-2], 1.0))
    return best[None], finest
