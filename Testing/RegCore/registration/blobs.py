"""Made-up pairs for the tests of the optimisers: soft balls in space, scanned on small oblique grids."""

import numpy as np
from scipy.spatial.transform import Rotation

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.grids import affine


def centred(shape, angles, spacing, centre=(0.0, 0.0, 0.0)) -> Geometry:
    """An oblique grid around a point."""
    grid = Geometry(shape, affine(angles, spacing, (0, 0, 0)))
    matrix = np.eye(4)
    matrix[:3, 3] = np.array(centre) - grid.centre
    return grid.moved(matrix)


FIXED = centred((26, 24, 22), (0.1, -0.2, 0.15), (5.6, 6.0, -6.4))
MOVING = centred((25, 23, 26), (-0.2, 0.1, 0.3), (-6.1, 5.5, 5.8), (3.0, -2.0, 4.0))


def density(points: np.ndarray, seed: int = 0, count: int = 45, radius: float = 55.0) -> np.ndarray:
    """The sum of soft balls of random place, size and brightness at the points (..., 3) mm."""
    rng = np.random.default_rng(seed)
    out = np.zeros(points.shape[:-1])
    for _ in range(count):
        centre = rng.normal(size=3)
        centre *= radius * rng.random() ** (1 / 3) / np.linalg.norm(centre)
        out += rng.uniform(0.3, 1) * np.exp(-((points - centre) ** 2).sum(-1) / (2 * rng.uniform(7, 14) ** 2))
    return out


def scan(geometry: Geometry, mapping=None, *, inverted: bool = False, seed: int = 0) -> Volume:
    """The balls at T(x), x the voxel centres, with a little noise; inverted: bright where they are dark."""
    points = geometry.world_grid()
    values = density(points if mapping is None else mapping(points))
    if inverted:
        values = 400 * np.exp(-values)
    noise = np.random.default_rng(seed).normal(size=geometry.shape) * 0.01 * np.ptp(values)
    return Volume((values + noise).astype(np.float32), geometry)


def motion(rigid: bool) -> AffineTransform:
    """15 degrees and 20 mm; with a stretch and a shear if it need not be rigid."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(15) * np.array([0.6, -0.48, 0.64])).as_matrix()
    if not rigid:
        matrix[:3, :3] = matrix[:3, :3] @ [[1.1, 0.05, 0], [0, 0.92, -0.06], [0.04, 0, 1.05]]
    matrix[:3, 3] = 12.0, -10.0, 12.5
    return AffineTransform(matrix)


def corner_error(found, truth, geometry: Geometry) -> float:
    """Mean distance of the grid's corners mapped by either transform, in voxels (their mean side)."""
    ends = np.array(np.meshgrid(*((0, n - 1) for n in geometry.shape))).reshape(3, -1).T
    points = geometry.to_world(ends)
    apart = np.linalg.norm(found.map(points) - truth.map(points), axis=1)
    return float(apart.mean() / geometry.spacing.mean())
