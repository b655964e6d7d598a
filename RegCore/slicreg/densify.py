"""From displacements at scattered points to a field: the thin-plate spline of three dimensions."""

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator

from RegCore.registration.deformable import folding_fraction
from RegCore.resampler import reference_grid, sample
from RegCore.space.geometry import Geometry, InputError

FOLDED = 1e-4  # share of folded voxels from which on the spline is made stiffer
STIFFER = 10.0  # factor of the smoothing at each further attempt


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
