"""From displacements at scattered points to a field: the thin-plate spline of three dimensions."""

import torch

from RegCore.resampler import folding_fraction, reference_grid, sample
from RegCore.space.geometry import Geometry, InputError

CHUNK = 1 << 22  # distances held at a time
FOLDED = 1e-4  # share of folded voxels from which on the spline is made stiffer
STIFFER = 10.0  # factor of the smoothing at each further attempt


def thin_plate(
    points: torch.Tensor, values: torch.Tensor, at: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The smoothing thin-plate spline through scattered values, evaluated elsewhere.

    f(x) = Σ w_n φ(|x - x_n|) + a + Bx with φ(r) = -r, the biharmonic kernel of three dimensions (Duchon 1977;
    r² log r is that of two), so that of all functions with these values f bends least. The weights solve
    [[K + λ, P], [Pᵀ, 0]] [w; a, B] = [v; 0] in float64; an affine f is reproduced whatever λ.

    Args:
        points: ``(N, 3)``, in any unit; at least four that are not in one plane.
        values: ``(N, C)``.
        at: ``(M, 3)``.
        smoothing: λ in the unit of the points; 0 goes through the values.

    Returns:
        ``(M, C)`` in the dtype of the values.

    Raises:
        InputError: the points lie in one plane or coincide, so that no spline is determined.
    """
    x, v = points.double(), values.double()
    n = len(x)
    centre = x.mean(0)
    x = x - centre
    affine = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    system = torch.zeros((n + 4, n + 4), dtype=torch.float64, device=x.device)
    system[:n, :n] = -torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    system[:n, :n].diagonal().add_(smoothing)
    system[:n, n:], system[n:, :n] = affine, affine.T
    right = torch.cat([v, v.new_zeros((4, v.shape[1]))])
    weights, info = torch.linalg.solve_ex(system, right)
    if n < 4 or int(info) != 0 or not bool(torch.isfinite(weights).all()):
        raise InputError(f"the {n} points lie in one plane or coincide, so they determine no smooth field")
    out = torch.empty((len(at), v.shape[1]), dtype=values.dtype, device=values.device)
    rows = max(1, CHUNK // n)
    for start in range(0, len(at), rows):
        place = at[start : start + rows].double() - centre
        near = -torch.cdist(place, x, compute_mode="donot_use_mm_for_euclid_dist")
        out[start : start + rows] = (near @ weights[:n] + weights[n] + place @ weights[n + 1 :]).to(out.dtype)
    return out


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
        ``(1, 3, I, J, K)`` voxels, in the dtype of the shifts.
    """
    scale = torch.from_numpy(geometry.spacing / unit).to(points)
    coarse = [(n - 1 + step - 1) // step + 1 for n in geometry.shape]
    ticks = reference_grid(coarse, dtype=points.dtype, device=points.device) * step
    at = ticks.reshape(3, -1).T
    index = reference_grid(geometry.shape, dtype=shifts.dtype, device=shifts.device) / step
    for _ in range(3):
        values = thin_plate(points * scale, shifts, at * scale, smoothing)
        ddf = sample(values.T.reshape(1, 3, *coarse), index)
        if folding_fraction(ddf) <= FOLDED:
            break
        smoothing = max(smoothing, 1e-4) * STIFFER
    return ddf
