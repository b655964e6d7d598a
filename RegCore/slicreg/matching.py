"""From the supervoxels of two scans to the displacement between them: an optimisation over keypoints."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.minimise import Adam, minimise
from RegCore.resampler import compose, folding_fraction, reference_grid, sample
from RegCore.resampler.grids import Device
from RegCore.slicreg.network import STRIDE
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField

CHANNELS = 16  # for which the weight of the penalty is defined
LEAST = 9  # voxels along each axis: five features, which are averaged
SAME = 1e-3  # relative difference of spacings that still counts as the same
FOLDED = 1e-4  # share of folded voxels from which on the spline is made stiffer
STIFFER = 10.0  # factor of the smoothing at each further attempt


@dataclass(frozen=True)
class MatchSettings:
    """How two scans are matched; lengths are in units of half the mean extent of the fixed grid."""

    keypoints: int = 2048
    """Points at which the displacement is sought; fewer if the body has fewer voxels."""
    neighbours: int = 8
    """Nearest other keypoints to which each one is tied."""
    iterations: int = 100
    """Steps of Adam in each match."""
    rate: float = 0.05
    """Adam's step, in units."""
    smoothness: float = 0.015
    """Weight α of the penalty, against the mean squared difference of features of 16 channels per layer."""
    codes: int = 16
    """Channels per layer; supervoxels share them at random. 0 gives each one its own."""
    bending: float = 0.001
    """λ of the thin-plate spline, in units."""
    matches: int = 1
    """How often the same supervoxels are matched, each time as the last match has warped them, whose own
    penalty no longer counts. A gain where supervoxels are right, none where a quarter of them is not."""
    seed: int = 0
    """Of keypoints and codes."""

    def __post_init__(self) -> None:
        for name in ("keypoints", "neighbours", "iterations", "matches"):
            if getattr(self, name) < 1:
                raise InputError(f"setting {name} is {getattr(self, name)}, expected at least 1")
        for name in ("rate", "smoothness", "codes", "bending"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"setting {name} is {getattr(self, name)}, expected a number of at least 0")


@dataclass(frozen=True)
class Keypoints:
    """Where the displacement is sought, and which points are tied.

    Args:
        points: ``(N, 3)`` voxels of the fixed grid.
        edges: ``(E, 2)`` each tied pair once.
    """

    points: torch.Tensor
    edges: torch.Tensor


def random_codes(layers: int, classes: int, size: int, seed: int) -> np.ndarray:
    """For each layer a channel of each class, (L, classes) int64 in 0..size-1; every channel equally often.

    Each layer is a row of random permutations. Two supervoxels that share a channel in one layer hardly do in
    another, so that the layers together still tell places apart. size 0: each class has its own channel.
    """
    if size == 0:
        return np.tile(np.arange(classes), (layers, 1))
    random = np.random.default_rng([seed, 16])
    rows = []
    for _ in range(layers):
        parts = [random.permutation(size) for _ in range(-(-classes // size))]
        rows.append(np.concatenate(parts)[:classes])
    return np.stack(rows)


def coded_cells(
    labels: np.ndarray, codes: np.ndarray, device: Device = "cpu", *, cells: bool = False
) -> torch.Tensor:
    """The share of each code about each second voxel: ``(1, L·size, i, j, k)`` float32, L layers of `size`.

    One-hot codes, mean over 3³ voxels at every second one: cell k is centred on voxel 2k.

    Args:
        labels: (L, I, J, K) whole numbers.
        codes: (L, classes) of `random_codes`.
        device: torch device.
        cells: whether the labels are those of every second voxel alone; then there is no mean.
    """
    channels, out = torch.arange(int(codes.max()) + 1, device=device).view(-1, 1, 1, 1), []
    for layer, code in zip(labels, codes, strict=True):
        hot = (torch.from_numpy(code[layer]).to(device) == channels).float()[None]
        out.append(hot if cells else F.avg_pool3d(hot, 3, STRIDE, 1, count_include_pad=False))
    return torch.cat(out, 1)


def features(coded: torch.Tensor) -> torch.Tensor:
    """How much of each code is near each cell: the mean over 5³ cells. Every layer sums to 1.

    Args:
        coded: of `coded_cells`.

    Returns:
        As `coded`, in the memory format that is sampled twice as fast.
    """
    for kernel, pad in (((5, 1, 1), (2, 0, 0)), ((1, 5, 1), (0, 2, 0)), ((1, 1, 5), (0, 0, 2))):
        coded = F.avg_pool3d(coded, kernel, 1, pad, count_include_pad=False)
    return coded.contiguous(memory_format=torch.channels_last_3d)


def _warped(coded: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """Cells of the moving scan on those of the fixed one, seen through a DDF ``(1, 3, I, J, K)``, voxels."""
    shifts = ddf[:, :, ::STRIDE, ::STRIDE, ::STRIDE] / STRIDE
    at = reference_grid(shifts.shape[2:], dtype=shifts.dtype, device=shifts.device) + shifts
    return sample(coded.contiguous(memory_format=torch.channels_last_3d), at)


def choose_keypoints(mask: np.ndarray, spacing, settings: MatchSettings) -> Keypoints:
    """Random voxels of a mask (I, J, K), each tied to its nearest others (and to those it is nearest to).

    Args:
        spacing: (3,) mm, by which distances are measured.

    Raises:
        InputError: the mask has fewer than five voxels.
    """
    places = np.argwhere(mask)
    if len(places) < 5:
        raise InputError(f"the fixed scan has only {len(places)} voxels inside supervoxels, too few to match")
    random = np.random.default_rng([settings.seed, 2048])
    chosen = places[random.permutation(len(places))[: settings.keypoints]].astype(np.float64)
    near = cKDTree(chosen * spacing).query(chosen * spacing, min(settings.neighbours + 1, len(chosen)))[1]
    first = np.repeat(np.arange(len(chosen)), near.shape[1])
    pairs = np.sort(np.stack([first, near.ravel()], 1), axis=1)
    edges = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return Keypoints(torch.from_numpy(chosen), torch.from_numpy(edges))


class Matching:
    """The objective of a flow: are the features of the moving scan there those of the fixed keypoints?

    E(f) = (1 / 16 L N) Σ |F_moving(x + f) - F_fixed(x)|² + α (2 / N) Σ_edges |f_i - f_j|²

    Summed over the L layers' channels and N keypoints. With 16 channels per layer that is the mean over
    channels with α as published; with any other number α keeps its meaning.
    """

    def __init__(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        keypoints: Keypoints,
        layers: int,
        scale: Sequence[float] | np.ndarray,
        smoothness: float,
    ):
        """fixed, moving: features ``(1, C, i, j, k)``. scale: ``(3,)`` voxels of one unit along each axis."""
        self.moving, self.smoothness = moving, smoothness
        self.points = keypoints.points.to(moving)
        self.edges = keypoints.edges.to(moving.device)
        self.scale = torch.as_tensor(scale).to(moving)
        self.count = CHANNELS * layers * len(self.points)
        self.targets = self.at(fixed, self.points)

    @staticmethod
    def at(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Features ``(C, N)`` at points ``(N, 3)`` in voxels of the labels."""
        return sample(image, (points / STRIDE).T[None, :, :, None, None])[0, :, :, 0, 0]

    def __call__(self, flow: torch.Tensor) -> torch.Tensor:
        """E of a flow ``(N, 3)`` in units, a scalar."""
        apart = flow[self.edges[:, 0]] - flow[self.edges[:, 1]]
        penalty = 2 * apart.square().sum() / len(flow)
        return self.distance(flow * self.scale) + self.smoothness * penalty

    def distance(self, shifts: torch.Tensor) -> torch.Tensor:
        """The first sum of E, of the keypoints shifted by ``(N, 3)`` voxels."""
        return (self.at(self.moving, self.points + shifts) - self.targets).square().sum() / self.count


def _at(ddf: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """A DDF ``(1, 3, I, J, K)`` at points ``(N, 3)`` of its grid, in voxels."""
    return sample(ddf, points.T[None, :, :, None, None])[0, :, :, 0, 0].T


def descend(objective: Matching, settings: MatchSettings, progress: Progress = silent) -> torch.Tensor:
    """Adam from zero on a `Matching`; the flow ``(N, 3)`` in units."""
    flow = torch.zeros_like(objective.points, requires_grad=True)
    adam = Adam(flow, settings.rate)

    def tell(n: int, value: float) -> None:
        progress(n / settings.iterations, "matching", {"iteration": n, "loss": value})

    return minimise(flow, lambda: objective(flow), adam, settings.iterations, tell).last


def _check(fixed: Supervoxels, moving: Supervoxels) -> None:
    if (fixed.layers, fixed.count) != (moving.layers, moving.count):
        raise InputError(
            f"both scans must be divided by one template, but the fixed one has {fixed.layers} layers of "
            f"{fixed.count} supervoxels and the moving one {moving.layers} of {moving.count}"
        )
    for side in (fixed, moving):
        if min(side.geometry.shape) < LEAST:
            raise InputError(
                f"a grid of {side.geometry.shape} voxels is too small to match: each axis needs {LEAST}"
            )
    a, b = fixed.geometry.spacing, moving.geometry.spacing
    if np.abs(a / b - 1).max() > SAME:
        raise InputError(f"the grids of the scans must have one spacing, but they have {_mm(a)} and {_mm(b)}")


def _mm(spacing: np.ndarray) -> str:
    return " × ".join(f"{s:g}" for s in spacing) + " mm"


def match(
    fixed: Supervoxels,
    moving: Supervoxels,
    *,
    settings: MatchSettings | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> DisplacementField:
    """The smooth displacement that brings equal supervoxels together (Heinrich et al., MIDL 2021).

    The search starts with index on index: `preparation.prepare` has put both bodies in the middle of grids of
    one spacing and direction. Either side may be predicted or true, so any scan registers to the template,
    and any two scans to each other.

    Args:
        fixed, moving: supervoxels of one template on the two scans' grids, of all voxels or every second one.
        settings: see `MatchSettings`.
        device: torch device.
        progress: told of iteration and loss.

    Returns:
        x_moving = T(x_fixed), RAS mm, on the fixed grid.

    Raises:
        InputError: supervoxels of different templates, grids of different spacing, or nothing to match.
    """
    settings = settings or MatchSettings()
    _check(fixed, moving)
    codes = random_codes(fixed.layers, fixed.count + 1, settings.codes, settings.seed)
    grid = fixed.geometry
    keypoints = choose_keypoints(fixed.labels[0] > 0, grid.spacing * fixed.stride, settings)
    keypoints = Keypoints(keypoints.points * fixed.stride, keypoints.edges)
    unit = unit_of(grid)
    scale = unit / grid.spacing
    coded = [coded_cells(side.labels, codes, device, cells=side.stride == STRIDE) for side in (fixed, moving)]
    goal, seen = features(coded[0]), coded[1]
    ddf = torch.zeros((1, 3, *grid.shape), dtype=goal.dtype, device=goal.device)
    for n in range(settings.matches):
        inner = part_of(progress, n / settings.matches, (n + 1) / settings.matches)
        seen = _warped(coded[1], ddf) if n else seen
        objective = Matching(goal, features(seen), keypoints, fixed.layers, scale, settings.smoothness)
        flow = descend(objective, settings, part_of(inner, 0.0, 0.9))
        inner(0.9, "dense field", {})
        points, shifts = objective.points, flow * objective.scale
        step = dense_field(points, shifts, grid, unit=unit, smoothing=settings.bending)
        if n == 0:
            ddf = step
        elif objective.distance(_at(step, points)) < objective.distance(torch.zeros_like(points)):
            ddf = compose(ddf, step)  # else the spline has lost what the keypoints had won
    found = ddf[0].permute(1, 2, 3, 0).double().cpu().numpy()
    return DisplacementField.from_voxels(found, grid, moving.geometry)


def unit_of(geometry: Geometry) -> float:
    """The unit of length of a matching, mm: half the mean extent of the grid."""
    return float((np.array(geometry.shape) * geometry.spacing).mean() / 2)


# ---- the dense field ---------------------------------------------------------------------------------------


def _spline(points: np.ndarray, values: np.ndarray, smoothing: float) -> RBFInterpolator:
    """The smoothing thin-plate spline of three dimensions through values ``(N, C)`` at points ``(N, 3)``.

    Its kernel is the biharmonic one, -r (Duchon 1977; r² log r is that of two dimensions): of all functions
    with these values it bends least, and an affine one is reproduced whatever the smoothing.
    """
    try:
        return RBFInterpolator(points, values, kernel="linear", degree=1, smoothing=smoothing)
    except (ValueError, np.linalg.LinAlgError) as error:
        what = f"the {len(points)} points lie in one plane or coincide, so they determine no smooth field"
        raise InputError(what) from error


def dense_field(
    points: torch.Tensor,
    shifts: torch.Tensor,
    geometry: Geometry,
    *,
    unit: float,
    smoothing: float,
    step: int = 3,
) -> torch.Tensor:
    """A DDF from displacements at scattered points, without folds where stiffness can prevent them.

    The spline is evaluated at every `step`-th voxel and interpolated between. If more than 0.01 % of the
    voxels fold, it is made again with ten times the smoothing, twice at most.

    Args:
        points: ``(N, 3)`` voxels of the grid.
        shifts: ``(N, 3)`` voxels.
        geometry: the grid.
        unit: mm, the length in which the spline measures distances.
        smoothing: λ in that unit.

    Returns:
        ``(1, 3, I, J, K)`` voxels, in the dtype and on the device of the shifts.

    Raises:
        InputError: the points lie in one plane or coincide, so that no spline is determined.
    """
    scale = geometry.spacing / unit
    places, values = (tensor.detach().double().cpu().numpy() for tensor in (points, shifts))
    coarse = [(n - 1 + step - 1) // step + 1 for n in geometry.shape]
    at = np.moveaxis(np.indices(coarse), 0, -1).reshape(-1, 3) * step
    index = reference_grid(geometry.shape, dtype=shifts.dtype, device=shifts.device) / step
    for _ in range(3):
        found = _spline(places * scale, values, smoothing)(at * scale)
        ddf = sample(torch.from_numpy(found.T.reshape(1, 3, *coarse)).to(shifts), index)
        if folding_fraction(ddf) <= FOLDED:
            break
        smoothing = max(smoothing, 1e-4) * STIFFER
    return ddf
