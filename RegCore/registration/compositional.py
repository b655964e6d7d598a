"""Deformable registration of like images: the local correlation climbed by composed, smoothed small steps.

The scheme is that of greedy diffeomorphic registration (Yushkevich et al., Alzheimer's & Dementia 12 Suppl.,
2016) with the local correlation of Avants et al. (Medical Image Analysis 12, 2008), whose derivative by the
field Hermosillo et al. (IJCV 50, 2002) derive. Docs/how-it-works.md has the formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.pair import GridTensor, PairSide, make_feature_image
from RegCore.resampler import affine_coordinates, index_map, resample_ddf, sample
from RegCore.resampler.band_filters import BandFilter, gaussian_half, means_inside
from RegCore.resampler.grids import Device
from RegCore.resampler.pyramid import working_geometry
from RegCore.resampler.rows import POINTS, SlicePairs
from RegCore.space.geometry import Geometry, InputError

FLAT = 1e-3  # variance added to that of every window, as a share of the mean one
FEWEST_VOXELS = 4000  # of a grid that is worth a level of its own
WIDE_VOXELS = 100_000  # of the grid on which large motion is looked for
WIDE = (12.0, 6.0, 3.5)  # standard deviations of the Gaussians that smooth the steps there, in its voxels
WIDE_END = 0.3  # length of the last steps there
TRIED, TRIED_WIDTH = 10, 7.5  # steps that must raise the correlation first, and their standard deviation


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
    looser: float = 1.0
    """Factor of that after steps that are not wide."""
    fixed_pull: float = 0.0
    """Weight of the fixed image's gradient in a step, beside that of the moving one."""
    first_step: float = 1.0
    """Length of the longest vector of the first step on a grid, in the same voxels."""
    last_step: float = 0.1
    """The same of the last step; between them it falls linearly."""
    symmetric: bool = False
    """Whether `RegCore.registration.auto` climbs in both directions and takes the mean."""
    wide_iterations: int = 60
    """Most steps with each of the wide Gaussians that look for large motion; 0 leaves them out."""

    def __post_init__(self) -> None:
        for name in ("working_voxels", "levels", "iterations", "work", "radius"):
            if getattr(self, name) < 1:
                raise InputError(f"setting {name} is {getattr(self, name)}, expected at least 1")

    def steps(self, voxels: int) -> int:
        """Number of steps on a grid of so many voxels."""
        return max(min(self.iterations, self.work // voxels), min(self.iterations, 8))


# ---- filters of a grid -------------------------------------------------------------------------------------


def _per_cube(grid: Geometry) -> np.ndarray:
    """Voxels along each axis in the side of a cube that is as large as a voxel."""
    return float(np.prod(grid.spacing)) ** (1 / 3) / grid.spacing


def gaussian_on(grid: Geometry, sigma: float, like: torch.Tensor) -> BandFilter:
    """Gaussian means over that part of the window which lies on the grid.

    Args:
        grid: of the volumes that will be filtered.
        sigma: standard deviation, in voxels of a grid of cubes.
        like: a tensor of their type.
    """
    halves = [gaussian_half(sigma * ratio) for ratio in _per_cube(grid)]
    return BandFilter([means_inside(n, half) for n, half in zip(grid.shape, halves, strict=True)], like)


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
        sides = zip(fixed.shape, radii, strict=True)
        self.window = BandFilter([means_inside(n, [1.0] * (radius + 1)) for n, radius in sides], fixed)
        self.fixed = fixed - fixed.mean()  # small numbers: a variance is a difference of large sums
        self.mean = self.window(self.fixed)
        self.variance = self._variance(self.fixed, self.mean)

    def _variance(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        variance = self.window(x * x).addcmul_(mean, mean, value=-1).clamp_min_(0)
        return variance.add_(FLAT * variance.mean() + 1e-12)

    def _moments(self, warped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E[J], v and c."""
        mean = self.window(warped)
        covariance = self.window(self.fixed * warped).addcmul_(self.mean, mean, value=-1)
        return mean, self._variance(warped, mean), covariance

    def value(self, warped: torch.Tensor, weight: torch.Tensor) -> float:
        """Mean of s over the voxels, weighted; images and weight ``(I, J, K)``."""
        _, variance, covariance = self._moments(warped)
        score = covariance.square_().div_(variance).div_(self.variance)
        return float(score.mul_(weight).sum() / weight.sum().clamp_min(1))

    def slopes(
        self, warped: torch.Tensor, weight: torch.Tensor, both: bool = False
    ) -> tuple[float, torch.Tensor, torch.Tensor | None]:
        """The same mean, and the derivatives of the weighted sum of s / 2 by the voxels of both images.

        A voxel y counts in every window that holds it, where d c / d J(y) = (I(y) - E[I]) / n and
        d v / d J(y) = 2 (J(y) - E[J]) / n. With a = c / (f v) and b = a c / v, and S the adjoint of E:
        I S[a] - J S[b] - S[a E[I] - b E[J]], and the same by I, with J and f for I and v. What e owes to an
        image is left out.

        Args:
            warped, weight: ``(I, J, K)``.
            both: whether the derivative by the fixed image is wanted, too; else it is None.

        Returns:
            The mean, the derivative by ``warped`` and that by the fixed image.
        """
        mean, variance, covariance = self._moments(warped)
        a = (covariance / self.variance).div_(variance)
        value = float((a * covariance).mul_(weight).sum() / weight.sum().clamp_min(1))
        a.mul_(weight)
        fall, pull = covariance.mul_(a), self.window.adjoint(a)
        fixed, moving = (self.fixed, self.mean), (warped, mean)
        by_fixed = self._slope(a, pull, fall / self.variance, fixed, moving) if both else None
        return value, self._slope(a, pull, fall.div_(variance), moving, fixed), by_fixed

    def _slope(
        self,
        a: torch.Tensor,
        pull: torch.Tensor,
        b: torch.Tensor,
        own: tuple[torch.Tensor, torch.Tensor],
        other: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """The derivative by one image; both images with their means, ``pull`` = S[a]."""
        out = (pull * other[0]).addcmul_(self.window.adjoint(b), own[0], value=-1)
        rest = (a * other[1]).addcmul_(b, own[1], value=-1)
        return out.sub_(self.window.adjoint(rest))


# ---- one grid ----------------------------------------------------------------------------------------------


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
        self.moving, self.masks = SlicePairs(reduced.image.values), reduced.masks
        self.moving_grid = reduced.image.grid
        self.weight = weight[0, 0]
        self.per_cube = _per_cube(grid)
        radii = [max(1, round(radius * ratio)) for ratio in self.per_cube]
        self.similarity = LocalCorrelation(image[0, 0], radii)
        to_moving = index_map(matrix, grid, self.moving_grid)
        self.places = affine_coordinates(to_moving, grid.shape, device=device)[0].flatten(1)
        self.turn = torch.from_numpy(to_moving[:3, :3]).float().to(device)

    def warped(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The moving image under a DDF ``(3, I, J, K)`` in voxels, and the weight of each voxel."""
        image, weight = torch.empty_like(u[0]), self.weight.clone()
        flat, known, ddf = image.view(-1), weight.view(-1), u.view(3, -1)
        for start in range(0, len(flat), POINTS):
            part = slice(start, start + POINTS)
            at = torch.addmm(self.places[:, part], self.turn, ddf[:, part])
            flat[part] = self.moving.read(at)
            for axis, size in enumerate(self.moving_grid.shape):
                known[part] *= (at[axis] - (size - 1) / 2).abs_() <= size / 2
            for mask in self.masks:
                known[part] *= self._masked(mask, at)
        return image, weight

    def _masked(self, mask: GridTensor, at: torch.Tensor) -> torch.Tensor:
        """Where a mask of the moving image holds, at places in the moving image."""
        matrix = torch.from_numpy(index_map(np.eye(4), self.moving_grid, mask.grid)).to(at)
        there = torch.addmm(matrix[:3, 3:], matrix[:3, :3], at)
        return sample(mask.values, there.view(1, 3, -1, 1, 1)).view(-1) > 0.5

    def value(self, u: torch.Tensor) -> float:
        """Mean squared local correlation under a DDF."""
        return self.similarity.value(*self.warped(u))

    def step(
        self, u: torch.Tensor, smoothing: BandFilter, length: float, fixed_pull: float = 0.0
    ) -> tuple[float, torch.Tensor]:
        """The value at a DDF, and the smoothed ascent direction scaled to a greatest length.

        The gradient of the fixed image, which would move the other way, joins in with a weight.
        In millimetres the direction is the gradient itself, so along each axis of voxels it is divided by
        the square of the spacing.
        """
        warped, weight = self.warped(u)
        value, slope, by_fixed = self.similarity.slopes(warped, weight, fixed_pull > 0)
        slope.mul_(weight)
        step, size = torch.empty_like(u), torch.zeros_like(slope)
        for axis in range(3):
            torch.mul(central_difference(warped, axis), slope, out=step[axis])
        if by_fixed is not None:
            by_fixed.mul_(weight).mul_(-fixed_pull)
            for axis in range(3):
                step[axis].addcmul_(central_difference(self.similarity.fixed, axis), by_fixed)
        step = smoothing(step)
        for axis, ratio in enumerate(self.per_cube):
            step[axis].mul_(ratio**2)
            size.addcmul_(step[axis], step[axis], value=ratio**-2)
        return value, step.mul_(length / max(float(size.max()) ** 0.5, 1e-20))

    def gaussian(self, sigma: float) -> BandFilter:
        """Gaussian means over that part of the window which lies on the grid; sigma in voxels of cubes."""
        return gaussian_on(self.grid, sigma, self.weight)


def composed(u: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """DDF of x -> (id + u)(x + step(x)) to first order: step + u + (du/dx) step; ``(3, I, J, K)`` voxels."""
    out = u + step
    for axis in range(3):
        n = u.shape[axis + 1] - 2
        if n < 1:
            continue
        for c in range(3):
            slope = u[c].narrow(axis, 2, n) - u[c].narrow(axis, 0, n)
            out[c].narrow(axis, 1, n).addcmul_(slope, step[axis].narrow(axis, 1, n), value=0.5)
    return out


def climb(
    level: CorrelationLevel, u: torch.Tensor, settings: CorrelationSettings, progress: Progress = silent
) -> torch.Tensor:
    """From a DDF ``(3, I, J, K)`` in voxels to one of higher local correlation on the same grid.

    The longest vector of each step has a given length, however flat the correlation is; where no step raises
    it, as for two equal images, the DDF is given back as it came.
    """
    start, before = u, level.value(u)
    count = settings.steps(level.grid.voxels)
    step_smoothing = level.gaussian(settings.step_smoothing)
    field_smoothing = level.gaussian(settings.looser * settings.field_smoothing)
    stage = f"correlation: {'x'.join(f'{s:.1f}' for s in level.grid.spacing)} mm"
    for n in range(count):
        done = n / max(count - 1, 1)
        length = settings.first_step + (settings.last_step - settings.first_step) * done
        value, step = level.step(u, step_smoothing, length, settings.fixed_pull)
        u = field_smoothing(composed(u, step))
        progress(n / count, stage, {"iteration": n, "loss": -value})
    return u if level.value(u) > before else start


def climb_wide(
    level: CorrelationLevel, u: torch.Tensor, settings: CorrelationSettings, progress: Progress = silent
) -> torch.Tensor:
    """Climb with steps as smooth as large motion is, then with less smooth ones; DDF as for `climb`.

    Steps of a wide Gaussian move whole organs before they let details match, so they get out of the local
    optima that a coarse grid with its few details has. Where ten such steps raise nothing, as where the
    motion is small or found already, the DDF is given back as it came.
    """
    steps, ways = settings.wide_iterations, replace(settings, looser=1.0)
    first = replace(ways, iterations=TRIED, step_smoothing=TRIED_WIDTH, last_step=settings.first_step)
    found = climb(level, u, first, part_of(progress, 0.0, 0.1))
    if found is u:
        return u
    for n, sigma in enumerate(WIDE):
        way = replace(ways, iterations=steps, step_smoothing=sigma, last_step=WIDE_END)
        part = part_of(progress, 0.1 + 0.3 * n, 0.4 + 0.3 * n)
        found = climb(level, found, way, part)
    return found


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
    """Climb on each grid of a pyramid, from a field that is near, or, by `climb_wide`, not yet.

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
    climbs = [(new, climb) for new in coarse]
    work = [new.voxels * settings.steps(new.voxels) for new in (*coarse, finest)]
    if settings.wide_iterations:
        new = working_geometry(fixed.image.geometry, min(WIDE_VOXELS, finest.voxels))
        climbs.insert(0, (new, climb_wide))
        work.insert(0, new.voxels * settings.wide_iterations * len(WIDE))
    done = np.cumsum([0, *work]) / sum(work)
    last = CorrelationLevel(fixed, moving, matrix, finest, settings.radius, device)
    best, u, lies_on = resample_ddf(start, grid, finest)[0], start, grid
    highest = last.value(best)
    for n, (new, way) in enumerate(climbs):
        level = CorrelationLevel(fixed, moving, matrix, new, settings.radius, device)
        begin = resample_ddf(u, lies_on, new)[0]
        found = way(level, begin, settings, part_of(progress, done[n], done[n + 1]))
        if found is begin:
            continue
        there = resample_ddf(found[None], new, finest)[0]
        if (value := last.value(there)) > highest:
            best, u, lies_on, highest = there, found[None], new, value
    best = climb(last, best, settings, part_of(progress, done[-2], 1.0))
    return best[None], finest
