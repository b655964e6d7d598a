"""The motion in a series: six parameters, framewise displacement, and how alike the frames became."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from RegCore.registration.fits import fit_rigid
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, Transform

RADIUS = 50.0  # mm of the sphere on which Power et al. turn angles into millimetres
SAMPLES = 20_000  # about so many voxels are looked at
SIX = ("shift_r_mm", "shift_a_mm", "shift_s_mm", "turn_r_deg", "turn_a_deg", "turn_s_deg")


def sampled_points(grid: Geometry) -> np.ndarray:
    """About `SAMPLES` voxel centres of a grid, regularly spaced, (N, 3) RAS mm."""
    stride = max(1, round((grid.voxels / SAMPLES) ** (1 / 3)))
    index = np.stack(np.meshgrid(*(np.arange(0, n, stride) for n in grid.shape), indexing="ij"), -1)
    return grid.to_world(index).reshape(-1, 3)


def is_rigid(transform: Transform) -> bool:
    """Whether it is a rotation and a translation, but for rounding."""
    if not isinstance(transform, AffineTransform):
        return False
    linear = transform.matrix[:3, :3]
    return bool(np.allclose(linear.T @ linear, np.eye(3), atol=1e-5) and np.linalg.det(linear) > 0)


def six_parameters(transform: Transform, grid: Geometry) -> np.ndarray:
    """Translation and rotation of the rigid transform that is nearest to a transform on a grid.

    x -> R (x - c) + c + t with c the centre of the grid and R = Rz Ry Rx, rotations about the axes of RAS.

    Args:
        transform: x_frame = T(x_reference), RAS mm.
        grid: over whose voxels it is fitted.

    Returns:
        t in mm along R, A, S, then the angles about R, A, S in degrees, (6,).
    """
    points = sampled_points(grid)
    matrix = transform.matrix if isinstance(transform, AffineTransform) and is_rigid(transform) else None
    if matrix is None:
        matrix = fit_rigid(points, transform.map(points), np.ones(len(points)))
    shift = matrix[:3, :3] @ grid.centre + matrix[:3, 3] - grid.centre
    angles = Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz", degrees=True)
    return np.concatenate([shift, angles])


def framewise_displacement(parameters: np.ndarray) -> np.ndarray:
    """How far each frame is from the one before it (Power et al., NeuroImage 59, 2012), (T,) mm.

    The sum of the absolute changes of the six parameters, angles as arcs on a sphere of 50 mm; 0 for the
    first frame.

    Args:
        parameters: (T, 6), mm and degrees, as `six_parameters` gives them.
    """
    change = np.abs(np.diff(parameters, axis=0))
    change[:, 3:] = np.minimum(change[:, 3:], 360 - change[:, 3:])  # an angle of 180 is one of -180
    arcs = np.deg2rad(change[:, 3:]) * RADIUS
    return np.concatenate([[0.0], change[:, :3].sum(1) + arcs.sum(1)])


def motion_of(transforms: Sequence[Transform], grid: Geometry) -> dict[str, np.ndarray]:
    """The curves of a series.

    Args:
        transforms: x_frame = T(x_reference) of each frame, RAS mm.
        grid: of the series.

    Returns:
        Columns (T,): "fd_mm", the framewise displacement (of the nearest rigid transforms); "moved_mm" and
        "changed_mm", the mean length over the grid by which points moved since the reference and since the
        frame before; and, where every transform is rigid, the six of `SIX`.
    """
    points = sampled_points(grid)
    parameters = np.array([six_parameters(transform, grid) for transform in transforms])
    columns = {"fd_mm": framewise_displacement(parameters)}
    moved, changed, before = [], [], None
    for transform in transforms:
        there = transform.map(points)
        moved.append(float(np.linalg.norm(there - points, axis=1).mean()))
        changed.append(0.0 if before is None else float(np.linalg.norm(there - before, axis=1).mean()))
        before = there
    columns |= {"moved_mm": np.array(moved), "changed_mm": np.array(changed)}
    if all(is_rigid(transform) for transform in transforms):
        columns |= dict(zip(SIX, parameters.T, strict=True))
    return columns
