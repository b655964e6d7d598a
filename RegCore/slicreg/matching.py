"""From the supervoxels of two scans to the displacement between them: an optimisation over keypoints."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree

from RegCore.progress import Progress, part_of, silent
from RegCore.registration.minimise import minimise
from RegCore.resampler import sample
from RegCore.slicreg.densify import dense_field
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField

STRIDE = 2  # voxels between the features
CHANNELS = 16  # for which the weight of the penalty is defined
LEAST = 9  # voxels along each axis: five features, which are averaged
SAME = 1e-3  # relative difference of spacings that still counts as the same


@dataclass(frozen=True)
class MatchSettings:
    """How two scans are matched; lengths are in units of half the mean extent of the fixed grid."""

    keypoints: int = 2048
    """Points at which the displacement is sought; fewer if the body has fewer voxels."""
    neighbours: int = 8
    """Nearest other keypoints to which each one is tied."""
    iterations: int = 100
    """Steps of Adam."""
    rate: float = 0.05
    """Adam's step, in units."""
    smoothness: float = 0.015
    """Weight α of the penalty, against the mean squared difference of features of 16 channels per layer."""
    codes: int = 16
    """Channels per layer; supervoxels share them at random. 0 gives each one its own."""
    bending: float = 0.001
    """λ of the thin-plate spline, in units."""
    seed: int = 0
    """Of keypoints and codes."""

    def __post_init__(self):
        for name in ("keypoints", "neighbours", "iterations"):
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


def features(labels: np.ndarray, codes: np.ndarray, device="cpu") -> torch.Tensor:
    """How much of each code is near each second voxel: ``(1, L·size, i, j, k)`` float32, L layers of `size`.

    One-hot codes, mean over 3³ voxels at every second one (feature k is centred on voxel 2k), then over 5³ of
    these. Every layer sums to 1.

    Args:
        labels: (L, I, J, K) whole numbers.
        codes: (L, classes) of `random_codes`.
    """
    channels, out = torch.arange(int(codes.max()) + 1, device=device).view(-1, 1, 1, 1), []
    for layer, code in zip(labels, codes, strict=True):
        coded = torch.from_numpy(code[layer]).to(device)
        hot = (coded == channels).float()[None]
        pooled = F.avg_pool3d(hot, 3, STRIDE, 1, count_include_pad=False)
        for kernel, pad in (((5, 1, 1), (2, 0, 0)), ((1, 5, 1), (0, 2, 0)), ((1, 1, 5), (0, 0, 2))):
            pooled = F.avg_pool3d(pooled, kernel, 1, pad, count_include_pad=False)
        out.append(pooled)
    return torch.cat(out, 1).contiguous(memory_format=torch.channels_last_3d)  # sampled twice as fast


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

    def __init__(self, fixed, moving, keypoints: Keypoints, layers: int, scale, smoothness: float):
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
        found = self.at(self.moving, self.points + flow * self.scale)
        apart = flow[self.edges[:, 0]] - flow[self.edges[:, 1]]
        penalty = 2 * apart.square().sum() / len(flow)
        return (found - self.targets).square().sum() / self.count + self.smoothness * penalty


def descend(objective: Matching, settings: MatchSettings, progress: Progress = silent) -> torch.Tensor:
    """Adam from zero on a `Matching`; the flow ``(N, 3)`` in units."""
    flow = torch.zeros_like(objective.points, requires_grad=True)
    adam = torch.optim.Adam([flow], lr=settings.rate)

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
        fixed, moving: supervoxels of one template on the two scans' grids.
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
    keypoints = choose_keypoints(fixed.labels[0] > 0, grid.spacing, settings)
    unit = unit_of(grid)
    scale = unit / grid.spacing
    fixed_features, moving_features = (features(side.labels, codes, device) for side in (fixed, moving))
    objective = Matching(fixed_features, moving_features, keypoints, fixed.layers, scale, settings.smoothness)
    flow = descend(objective, settings, part_of(progress, 0.0, 0.9))
    progress(0.9, "dense field", {})
    ddf = dense_field(objective.points, flow * objective.scale, grid, unit=unit, smoothing=settings.bending)
    found = ddf[0].permute(1, 2, 3, 0).double().cpu().numpy()
    return DisplacementField.from_voxels(found, grid, moving.geometry)


def unit_of(geometry: Geometry) -> float:
    """The unit of length of a matching, mm: half the mean extent of the grid."""
    return float((np.array(geometry.shape) * geometry.spacing).mean() / 2)
