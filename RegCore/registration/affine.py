"""Robust rigid and affine alignment: many starts, block matching with trimmed least squares, refinement."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch.nn.functional as F

from RegCore.progress import Progress, silent
from RegCore.registration.affine_level import (
    AffineLevel,
    even_geometry,
    header_position,
    make_affine_level,
)
from RegCore.registration.affine_refinement import refine
from RegCore.registration.block_matching import FLAT, best_displacements, block_costs
from RegCore.registration.fits import fit_affine, fit_rigid, sensible, trimmed_fit
from RegCore.registration.pair import LabelEncoding, PairSide, Tick
from RegCore.registration.starts import TURN, handicap, rigid_part, starts, stretched, turn
from RegCore.resampler import reference_grid
from RegCore.space.transforms import AffineTransform

COARSE_VOXELS, FINE_VOXELS = 40**3, 80**3
REFINEMENTS = 12  # steps of the last stage at most
FEWER = 6  # the same where a deformation follows
DOUBTFUL = 0.3  # gain below which what is held against a matrix does not shrink with it
LEAST_BLOCKS = 60  # fewer are made smaller
LEAST_MATCHES = 12  # blocks that a matrix is fitted to at least
TRIED = 3  # starts that are improved before one is chosen, beside the given one
WORTH = 0.02  # an affine transform must gain this share more than a rigid one to begin a deformation


# ---- block matching ----------------------------------------------------------------------------------------


def _division(shape: tuple[int, ...], pool: int, block: int) -> tuple[list[int], list[int]]:
    """Voxels to pool and side of a block along each axis: smaller than wished where too few would be left."""
    for p, b in ((pool, block), (1, block), (1, 2), (1, 1)):
        pools = [max(min(p, n // (2 * b)), 1) for n in shape]
        blocks = [max(min(b, n // q), 1) for n, q in zip(shape, pools, strict=True)]
        count = np.prod([n // (q * c) for n, q, c in zip(shape, pools, blocks, strict=True)])
        if count >= LEAST_BLOCKS:
            break
    return pools, blocks


def match_blocks(
    level: AffineLevel, matrix: np.ndarray, *, radius: int, block: int, pool: int, tick: Tick = lambda: None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """One round of block matching (Ourselin et al., IVC 2001) on MIND-SSC.

    Args:
        level: the pair.
        matrix: 4x4, fixed -> moving, RAS mm: where the search begins.
        radius: of the search, in pooled voxels.
        block: side of a block in pooled voxels; along thin axes it is smaller.
        pool: voxels along each axis that are averaged before, likewise.
        tick: called at each displacement that is tried.

    Returns:
        Centres of blocks ``(N, 3)`` mm, where they seem to belong ``(N, 3)`` mm, and weights ``(N,)``; None
        where too few blocks tell.
    """
    moving, known = level.resampled(matrix)
    pools, blocks = _division(level.grid.shape, pool, block)
    fixed, moving, known, weight, price = (
        F.avg_pool3d(x, pools) if max(pools) > 1 else x
        for x in (level.features, moving, known, level.weight, level.price)
    )
    costs = block_costs(fixed, moving, radius, blocks, valid=known, outside=price, tick=tick)
    shift, contrast = best_displacements(costs, radius)
    weights = (contrast * F.avg_pool3d(weight, blocks).reshape(-1)).cpu().numpy().astype(float)
    index = reference_grid(costs.shape[1:])[0].reshape(3, -1).T.double().numpy()
    at = (index * blocks + (np.array(blocks) - 1) / 2) * pools + (np.array(pools) - 1) / 2
    chosen = weights > max(np.quantile(weights, 0.4), FLAT)
    if chosen.sum() < LEAST_MATCHES:
        return None
    away = at + shift.cpu().numpy().astype(float) * pools
    targets = AffineTransform(matrix).map(level.grid.to_world(away[chosen]))
    return level.grid.to_world(at[chosen]), targets, weights[chosen]


# ---- the search --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A matrix that has been tried: the start it came from, and what it is worth."""

    start: str
    matrix: np.ndarray  # 4x4, fixed -> moving, RAS mm
    gain: float  # see `AffineLevel.gain`
    merit: float  # the gain less what is held against matrices far from the given position

    @classmethod
    def of(cls, level: AffineLevel, start: str, matrix: np.ndarray, given: np.ndarray) -> "Candidate":
        """A matrix judged at a level, beside the given position."""
        gain = level.gain(matrix)
        held = handicap(matrix, given, level.grid)
        return cls(start, matrix, gain, gain - held * max(gain, DOUBTFUL))

    def or_better(self, level: AffineLevel, matrix: np.ndarray, given: np.ndarray) -> "Candidate":
        """The matrix in place of this one if it is sensible and has more merit."""
        if not sensible(matrix):
            return self
        other = Candidate.of(level, self.start, matrix, given)
        return other if other.merit > self.merit else self


@dataclass(frozen=True)
class Nested:
    """The best rigid matrix met so far, and the best of all, which is at least as good."""

    rigid: Candidate
    best: Candidate

    @classmethod
    def of(cls, level: AffineLevel, start: str, matrix: np.ndarray, given: np.ndarray) -> "Nested":
        """A matrix and its rigid part judged at a level."""
        best = Candidate.of(level, start, matrix, given)
        part = rigid_part(matrix, level.grid.centre)
        if np.allclose(part, matrix, atol=1e-9):
            return cls(best, best)
        rigid = Candidate.of(level, start, part, given)
        return cls(rigid, max(best, rigid, key=lambda candidate: candidate.merit))

    def rejudged(self, level: AffineLevel, given: np.ndarray) -> "Nested":
        """The same matrices, and the given one, at another resolution."""
        rigid, best, kept = (
            Candidate.of(level, self.best.start, matrix, given)
            for matrix in (self.rigid.matrix, self.best.matrix, given)
        )
        best = max(kept, best, rigid, key=lambda candidate: candidate.merit)
        part = rigid_part(given, level.grid.centre)
        return Nested(rigid.or_better(level, part, given), best)

    def matched(
        self, level: AffineLevel, given: np.ndarray, *, radius: int, block: int, pool: int, tick: Tick
    ) -> "Nested":
        """A round of block matching from the best matrix, to which both kinds of matrices are fitted."""
        found = match_blocks(level, self.best.matrix, radius=radius, block=block, pool=pool, tick=tick)
        if found is None:
            return self
        turned = trimmed_fit(*found, fit_rigid)
        rigid = self.rigid.or_better(level, turned, given)
        best = max(self.best, rigid, key=lambda candidate: candidate.merit)
        return Nested(rigid, best.or_better(level, trimmed_fit(*found, fit_affine), given))


def choose_starts(
    level: AffineLevel, matrices: dict[str, np.ndarray], tell: Callable[[float, float], None]
) -> list[Nested]:
    """Improve the best starts by block matching and take the best, the given position by preference.

    All get a wide search on features of half the resolution; the best one then gets two narrower ones. Where
    that one is turned by more than `TURN`, the best of the others goes on as well, since bodies look much the
    same either way round until details are seen.

    Args:
        level: the pair.
        matrices: named starts, see `starts`; the first one is the given position.
        tell: called with the fraction of the work and the loss.

    Returns:
        One or two, the best one first.
    """
    given = next(iter(matrices.values()))
    ranked = [Nested.of(level, start, matrix, given) for start, matrix in matrices.items()]
    first = ranked[0]
    ranked.sort(key=lambda nested: -nested.best.merit)
    upright = next((nested for nested in ranked if turn(nested.best.matrix, given) < TURN), first)
    tried = list({nested.best.start: nested for nested in (*ranked[:TRIED], upright, first)}.values())
    for n, nested in enumerate(tried):
        tick = partial(tell, 0.6 * n / len(tried), 1 - nested.best.gain)
        tried[n] = nested.matched(level, given, radius=4, block=2, pool=2, tick=tick)
    tried.sort(key=lambda nested: -nested.best.merit)
    chosen = tried[:1]
    if turn(chosen[0].best.matrix, given) >= TURN:
        chosen += [nested for nested in tried if turn(nested.best.matrix, given) < TURN][:1]
    for n in range(2):
        tick = partial(tell, 0.6 + 0.2 * n, 1 - chosen[0].best.gain)
        chosen = [nested.matched(level, given, radius=3 - n, block=4, pool=1, tick=tick) for nested in chosen]
    return chosen


# ---- the whole ---------------------------------------------------------------------------------------------


def given_position(fixed: PairSide, moving: PairSide, device: str = "cpu") -> AffineTransform:
    """Where to begin without a search: the header position, or box on box where that matches better.

    Images that do not overlap by their headers are laid centre on centre instead.
    """
    level = make_affine_level(fixed, moving, COARSE_VOXELS, None, device)
    given = header_position(fixed.image.geometry, moving.image.geometry)
    box = stretched(fixed.image.geometry, moving.image.geometry)
    return AffineTransform(Candidate.of(level, "header", given, given).or_better(level, box, given).matrix)


@dataclass(frozen=True)
class _Task:
    """What `align` and `align_simply` are given."""

    fixed: PairSide
    moving: PairSide
    initial: AffineTransform | None
    encoding: LabelEncoding | None
    device: str
    progress: Progress
    kind: str  # what the progress calls it
    steps: int = REFINEMENTS  # of the last stage at most

    def level(self, voxels: int, fraction: float) -> AffineLevel:
        """The pair at a resolution."""
        tick = partial(self.progress, fraction, f"{self.kind}: preparing", {})
        return make_affine_level(self.fixed, self.moving, voxels, self.encoding, self.device, tick)


def _searched(task: _Task) -> tuple[AffineLevel, Nested]:
    """The fine level, and the best matrices there but for the last refinement: 0.8 of the work."""
    coarse = task.level(COARSE_VOXELS, 0.0)
    if task.initial is None:
        matrices = starts(coarse, task.fixed, task.moving, task.encoding)
    else:
        matrices = {"the initial transform": task.initial.matrix}
    given = next(iter(matrices.values()))
    trying = f"{task.kind}: trying starts"
    if "header" not in matrices and task.initial is None:
        trying += ", as by their headers the images do not overlap"

    def start(fraction: float, loss: float) -> None:
        task.progress(0.5 * fraction, trying, {"loss": loss})

    chosen = choose_starts(coarse, matrices, start)
    sides = task.fixed.image.geometry, task.moving.image.geometry
    if even_geometry(*sides, FINE_VOXELS) == coarse.grid:
        return coarse, max(chosen, key=lambda nested: nested.best.merit)
    fine = task.level(FINE_VOXELS, 0.5)
    chosen = [nested.rejudged(fine, given) for nested in chosen]
    for n in range(2):
        values = {"iteration": n, "loss": 1 - chosen[0].best.gain}
        stage = f"{task.kind}: block matching from {chosen[0].best.start}"
        tick = partial(task.progress, 0.5 + 0.15 * n, stage, values)
        chosen = [nested.matched(fine, given, radius=3, block=3, pool=2, tick=tick) for nested in chosen]
    return fine, max(chosen, key=lambda nested: nested.best.merit)


def _refined(task: _Task, level: AffineLevel, matrix: np.ndarray, rigid: bool, part: float) -> np.ndarray:
    """The matrix, or what the last stage made of it if that costs less."""

    def tell(n: int, loss: float) -> None:
        fraction = part + 0.1 * n / task.steps
        task.progress(fraction, f"{task.kind}: refinement", {"iteration": n, "loss": loss / level.chance})

    cost = level.cost(matrix)
    found = refine(level, matrix, rigid, iterations=task.steps, tell=tell)
    return found if sensible(found) and level.cost(found) < cost else matrix


def _rigid_and_affine(task: _Task) -> tuple[AffineLevel, np.ndarray, np.ndarray]:
    """The level, the best rigid matrix and the best affine one, which costs no more than it."""
    level, chosen = _searched(task)
    centre = level.grid.centre
    part = rigid_part(chosen.best.matrix, centre)
    rigid = min(chosen.rigid.matrix, part, key=level.cost)
    rigid = _refined(task, level, rigid, True, 0.8)
    affine = min(chosen.best.matrix, rigid, key=level.cost)
    return level, rigid, _refined(task, level, affine, False, 0.9)


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

    Rigid and affine matrices are searched for together, so the affine result never costs more than the rigid
    one.

    Args:
        fixed: image, and segmentation and mask if there are any.
        moving: the same of the moving volume, on any grid.
        rigid: rotation and translation only.
        initial: the only start, in place of the list of `starts`.
        encoding: of the structures that both segmentations hold, which then join the objective.
        device: torch device.
        progress: told of stage, iteration and loss, the cost in shares of `AffineLevel.chance`.

    Returns:
        x_moving = T(x_fixed), RAS mm. The objective is the mean MIND-SSC distance over the fixed grid; the
        result never costs more than the start (its rigid part where only that is wanted).
    """
    task = _Task(fixed, moving, initial, encoding, device, progress, "rigid" if rigid else "affine")
    _, turned, deformed = _rigid_and_affine(task)
    return AffineTransform(turned if rigid else deformed)


def align_simply(
    fixed: PairSide,
    moving: PairSide,
    *,
    initial: AffineTransform | None = None,
    encoding: LabelEncoding | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> AffineTransform:
    """Where a deformation should begin: an affine transform, unless a rigid one explains as much.

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
    task = _Task(fixed, moving, initial, encoding, device, progress, "linear", FEWER)
    level, rigid, affine = _rigid_and_affine(task)
    gained, more = level.gain(rigid), level.gain(affine)
    return AffineTransform(affine if more - gained > WORTH * abs(gained) else rigid)
