"""Robust rigid and affine alignment: many starts, block matching with trimmed least squares, refinement."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.affine_level import AffineLevel, make_affine_level
from RegCore.registration.block_matching import FLAT, best_displacements, block_costs
from RegCore.registration.fits import Fit, fit_affine, fit_rigid, sensible, trimmed_fit
from RegCore.registration.minimise import minimise
from RegCore.registration.pair import (
    UNRELATED,
    GridTensor,
    LabelEncoding,
    PairSide,
    Tick,
)
from RegCore.resampler import reference_grid, sample
from RegCore.resampler.pyramid import foreground
from RegCore.space.geometry import Geometry, apply_affine
from RegCore.space.transforms import AffineTransform

MARGIN = 0.98  # a start must cost less than this share of the given position's cost to be preferred to it
WORTH = 0.9  # an affine transform must cost less than this share of a rigid one to begin a deformation
COARSE_VOXELS, FINE_VOXELS = 40**3, 80**3
REFINEMENTS = 40  # iterations of the last stage


# ---- starts ------------------------------------------------------------------------------------------------


def _translation(shift: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def _moments(image: GridTensor) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (mm) and principal axes (columns, by falling variance) of the foreground."""
    inside = np.argwhere(foreground(image.values[0, 0].cpu().numpy()))
    points = image.grid.to_world(inside.astype(float))
    if len(points) < 10:
        return image.grid.centre, np.eye(3)
    centre = points.mean(0)
    axes = np.linalg.eigh(np.cov((points - centre).T))[1][:, ::-1]
    return centre, axes


def _rotations_from_axes(fixed_axes: np.ndarray, moving_axes: np.ndarray) -> list[np.ndarray]:
    """The proper rotations that carry one set of principal axes onto the other, signs being unknown."""
    rotations = []
    for a in (1, -1):
        for b in (1, -1):
            for c in (1, -1):
                rotation = moving_axes @ np.diag([a, b, c]) @ fixed_axes.T
                if np.linalg.det(rotation) > 0:
                    rotations.append(rotation)
    return rotations


def stretched(fixed: Geometry, moving: Geometry) -> np.ndarray:
    """The map that lays the fixed grid's box over the moving grid's box, corner voxel on corner voxel."""
    ratio = [(m - 1) / max(f - 1, 1) for f, m in zip(fixed.shape, moving.shape, strict=True)]
    return moving.affine @ np.diag([*ratio, 1.0]) @ np.linalg.inv(fixed.affine)


def starts(level: AffineLevel, fixed: Geometry, moving: Geometry, rigid: bool) -> dict[str, np.ndarray]:
    """Named 4x4 matrices worth trying, fixed -> moving, RAS mm; none of them a reflection."""
    centre_f, axes_f = _moments(level.fixed.image)
    centre_m, axes_m = _moments(level.moving.image)
    found = {
        "header": np.eye(4),
        "grid centres": _translation(moving.centre - fixed.centre),
        "centres of mass": _translation(centre_m - centre_f),
    }
    for n, rotation in enumerate(_rotations_from_axes(axes_f, axes_m)):
        matrix = np.eye(4)
        matrix[:3, :3] = rotation
        matrix[:3, 3] = centre_m - rotation @ centre_f
        found[f"principal axes {n + 1}"] = matrix
    if level.fixed.labels is not None and level.moving.labels is not None:
        labelled, target = (
            _moments(GridTensor(side.values.abs().sum(1, keepdim=True), side.grid))[0]
            for side in (level.fixed.labels, level.moving.labels)
        )
        found["centres of the segmentations"] = _translation(target - labelled)
    if not rigid:
        matrix = stretched(fixed, moving)
        if np.linalg.det(matrix[:3, :3]) > 0:
            found["stretched grids"] = matrix
    return found


# ---- block matching ----------------------------------------------------------------------------------------


def match_blocks(
    level: AffineLevel,
    matrix: np.ndarray,
    fit: Fit,
    *,
    radius: int,
    block: int,
    pool: int,
    tick: Tick = lambda: None,
) -> np.ndarray:
    """One round of block matching (Ourselin et al., IVC 2001) on MIND-SSC.

    Args:
        level: the pair.
        matrix: 4x4, fixed -> moving, RAS mm: where the search begins.
        fit: `fit_affine` or `fit_rigid`.
        radius: of the search, in pooled voxels.
        block: side of a block in pooled voxels.
        pool: voxels along each axis that are averaged before.
        tick: called at each displacement that is tried.

    Returns:
        The refitted matrix; ``matrix`` itself where too few blocks tell where they belong.
    """
    moving, inside = level.resampled(matrix)
    fixed = level.features
    weight = level.weight
    if min(fixed.shape[2:]) < pool * block:  # too thin for a single block
        return matrix
    if pool > 1:
        fixed, moving = F.avg_pool3d(fixed, pool), F.avg_pool3d(moving, pool)
        inside, weight = F.avg_pool3d(inside, pool), F.avg_pool3d(weight, pool)
    costs = block_costs(fixed, moving, radius, block, valid=inside, outside=UNRELATED, tick=tick)
    shift, contrast = best_displacements(costs, radius)
    contrast = contrast * F.avg_pool3d(weight, block, block).reshape(-1)
    blocks = reference_grid(costs.shape[1:], dtype=torch.float64)[0].reshape(3, -1).T.numpy()
    at = (blocks * block + (block - 1) / 2) * pool + (pool - 1) / 2
    weights, shifts = contrast.cpu().numpy(), shift.cpu().numpy().astype(float) * pool
    chosen = weights > max(np.quantile(weights, 0.4), FLAT)
    if chosen.sum() < 12:
        return matrix
    points = level.grid.to_world(at[chosen])
    targets = apply_affine(matrix, level.grid.to_world(at[chosen] + shifts[chosen]))
    return trimmed_fit(points, targets, weights[chosen].astype(float), fit)


# ---- refinement --------------------------------------------------------------------------------------------


def _skew(v: torch.Tensor) -> torch.Tensor:
    """The 3x3 matrix of the cross product with ``v`` (3,)."""
    zero = torch.zeros_like(v[0])
    return torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).view(3, 3)


def _small(parameters: torch.Tensor, rigid: bool) -> torch.Tensor:
    """3x4 matrix near the identity from 6 (rotation vector, shift) or 12 parameters, in radii."""
    if rigid:
        linear = torch.matrix_exp(_skew(parameters[:3]))
    else:
        linear = torch.eye(3, device=parameters.device) + parameters[:9].view(3, 3)
    return torch.cat([linear, parameters[-3:, None]], 1)


def refine(
    level: AffineLevel,
    matrix: np.ndarray,
    rigid: bool,
    *,
    iterations: int,
    rate: float,
    tell: Callable[[int, float], None],
) -> np.ndarray:
    """Adam on the 6 or 12 parameters about the centre, on the distance of pooled features.

    The moving features are those of the image resampled through ``matrix``; only the small remainder is
    searched for.

    Args:
        level: the pair.
        matrix: 4x4, fixed -> moving, RAS mm.
        rigid: rotation and translation only.
        iterations: number of steps.
        rate: Adam's step, in radians and in a quarter of the diagonal of the grid.
        tell: called after each step with its number and the loss.

    Returns:
        ``matrix`` times the remainder that had the lowest loss.
    """
    grid, device = level.grid, level.features.device
    factors = [2 if n > 1 else 1 for n in grid.shape]
    moving = F.avg_pool3d(torch.cat(level.resampled(matrix), 1), factors)
    fixed, weight = F.avg_pool3d(level.features, factors), F.avg_pool3d(level.weight, factors)
    radius = float(np.linalg.norm(np.array(grid.shape) * grid.spacing)) / 4
    normalise = np.diag([1 / radius] * 3 + [1.0]) @ _translation(-grid.centre)
    pooling = np.diag([*factors, 1.0])
    pooling[:3, 3] = (np.array(factors) - 1) / 2  # a pooled voxel stands in the middle of two
    unit = normalise @ grid.affine @ pooling
    back = torch.from_numpy(np.linalg.inv(unit)).float().to(device)
    index = reference_grid(fixed.shape[2:], dtype=torch.float64).view(3, -1)
    points = torch.from_numpy(unit) @ torch.cat([index, torch.ones_like(index[:1])])
    points = points.float().to(device)
    parameters = torch.zeros(6 if rigid else 12, device=device, requires_grad=True)

    def objective() -> torch.Tensor:
        at = back[:3, :3] @ (_small(parameters, rigid) @ points) + back[:3, 3:]
        values = sample(moving, at.view(1, 3, *fixed.shape[2:]))
        distance = (fixed - values[:, :-1]).square().sum(1, keepdim=True)
        distance = distance * values[:, -1:] + UNRELATED * (1 - values[:, -1:])
        return (distance * weight).sum() / weight.sum()

    adam = torch.optim.Adam([parameters], lr=rate)
    best = minimise(parameters, objective, adam, iterations, tell).best
    small = np.vstack([_small(best, rigid).double().cpu().numpy(), [0, 0, 0, 1]])
    return matrix @ np.linalg.inv(normalise) @ small @ normalise


# ---- the whole ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A matrix that has been tried: the start it came from, and its cost."""

    start: str
    matrix: np.ndarray  # 4x4, fixed -> moving, RAS mm
    cost: float

    def or_better(self, level: AffineLevel, matrix: np.ndarray) -> "Candidate":
        """The matrix in place of this one if it is sensible and costs less."""
        if not sensible(matrix):
            return self
        cost = level.cost(matrix)
        return Candidate(self.start, matrix, cost) if cost < self.cost else self


def choose_start(
    level: AffineLevel, matrices: dict[str, np.ndarray], fit: Fit, tell: Callable[[float, float], None]
) -> Candidate:
    """Improve the cheapest starts by block matching and take the best, the given position by preference.

    All get a wide search on features of half the resolution; the best one then gets two narrower ones.

    Args:
        level: the pair.
        matrices: named starts, see `starts`; the first one is the given position.
        fit: `fit_affine` or `fit_rigid`.
        tell: called with the fraction of the work and the cost.
    """
    given = next(iter(matrices))
    ranked = [Candidate(name, matrix, level.cost(matrix)) for name, matrix in matrices.items()]
    ranked.sort(key=lambda candidate: candidate.cost)
    tried = [candidate for n, candidate in enumerate(ranked) if n < 3 or candidate.start == given]
    for n, candidate in enumerate(tried):
        tick = partial(tell, 0.6 * n / len(tried), candidate.cost)
        matched = match_blocks(level, candidate.matrix, fit, radius=4, block=2, pool=2, tick=tick)
        tried[n] = candidate.or_better(level, matched)
    best = min(tried, key=lambda candidate: candidate.cost * (MARGIN if candidate.start == given else 1.0))
    for n in range(2):
        tick = partial(tell, 0.6 + 0.2 * n, best.cost)
        matched = match_blocks(level, best.matrix, fit, radius=3, block=4, pool=1, tick=tick)
        best = best.or_better(level, matched)
    return best


def given_position(fixed: PairSide, moving: PairSide, device: str = "cpu") -> AffineTransform:
    """Where to begin without a search: the header position, or box on box where that matches better."""
    level = make_affine_level(fixed, moving, COARSE_VOXELS, None, device)
    header = Candidate("header", np.eye(4), level.cost(np.eye(4)) * MARGIN)
    box = stretched(fixed.image.geometry, moving.image.geometry)
    return AffineTransform(header.or_better(level, box).matrix)


def align(
    fixed: PairSide,
    moving: PairSide,
    *,
    rigid: bool = False,
    initial: AffineTransform | None = None,
    encoding: LabelEncoding | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> AffineTransform:
    """Rigid or affine transform that brings two volumes of any contrast together.

    Args:
        fixed: image, and segmentation and mask if there are any.
        moving: the same of the moving volume, on any grid.
        rigid: rotation and translation only.
        initial: the only start, in place of the list of `starts`.
        encoding: of the structures that both segmentations hold, which then join the objective.
        device: torch device.
        progress: told of stage, iteration and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm. No step is kept that does not lower the objective, the mean MIND-SSC
        distance over the fixed grid, so the result never costs more than the start.
    """
    fit = fit_rigid if rigid else fit_affine
    kind = "rigid" if rigid else "affine"
    prepare = partial(progress, 0.0, f"{kind}: preparing", {})
    coarse = make_affine_level(fixed, moving, COARSE_VOXELS, encoding, device, prepare)
    if initial is None:
        candidates = starts(coarse, fixed.image.geometry, moving.image.geometry, rigid)
    else:
        candidates = {"the initial transform": initial.matrix}

    def start(fraction: float, loss: float) -> None:
        progress(0.5 * fraction, f"{kind}: trying starts", {"loss": loss})

    chosen = choose_start(coarse, candidates, fit, start)
    fine = make_affine_level(
        fixed, moving, FINE_VOXELS, encoding, device, partial(progress, 0.5, f"{kind}: preparing", {})
    )
    given = next(iter(candidates.values()))
    best = Candidate(chosen.start, given, fine.cost(given)).or_better(fine, chosen.matrix)
    for n in range(2):
        stage, values = f"{kind}: block matching from {best.start}", {"iteration": n, "loss": best.cost}
        tick = partial(progress, 0.5 + 0.15 * n, stage, values)
        matched = match_blocks(fine, best.matrix, fit, radius=3, block=3, pool=2, tick=tick)
        best = best.or_better(fine, matched)

    def refined(n: int, loss: float) -> None:
        progress(0.8 + 0.2 * n / REFINEMENTS, f"{kind}: refinement", {"iteration": n, "loss": loss})

    matrix = refine(fine, best.matrix, rigid, iterations=REFINEMENTS, rate=2e-3, tell=refined)
    return AffineTransform(best.or_better(fine, matrix).matrix)


def align_simply(
    fixed: PairSide,
    moving: PairSide,
    *,
    initial: AffineTransform | None = None,
    encoding: LabelEncoding | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> AffineTransform:
    """Where a deformation should begin: a rigid transform, unless an affine one explains clearly more.

    On small crops twelve parameters fit what the deformation should.

    Args:
        fixed: image, and segmentation and mask if there are any.
        moving: the same of the moving volume, on any grid.
        initial: the only start, in place of the list of `starts`.
        encoding: of the structures that both segmentations hold.
        device: torch device.
        progress: told of stage, iteration and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm, as of `align`.
    """

    def found(rigid: bool, part: Progress) -> AffineTransform:
        return align(
            fixed, moving, rigid=rigid, initial=initial, encoding=encoding, device=device, progress=part
        )

    affine = found(False, part_of(progress, 0.0, 0.5))
    rigid = found(True, part_of(progress, 0.5, 1.0))
    level = make_affine_level(fixed, moving, FINE_VOXELS, encoding, device)
    return affine if level.cost(affine.matrix) < WORTH * level.cost(rigid.matrix) else rigid
