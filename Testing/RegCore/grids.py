"""Grids, fields and helpers that the tests of space share: oblique, anisotropic, left-handed, sheared."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField

LPS = np.array([-1.0, -1.0, 1.0])  # RAS coordinates times this are LPS coordinates


def affine(angles=(0.2, 0.3, -0.4), spacing=(1.1, 1.7, 2.3), origin=(30.0, -50.0, 90.0)) -> np.ndarray:
    """4×4, index to RAS mm: a rotation, spacings (a negative one mirrors), an origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() * np.array(spacing)
    matrix[:3, 3] = origin
    return matrix


def sheared() -> np.ndarray:
    """4×4, index to RAS mm, axes not at right angles."""
    shear = np.eye(4)
    shear[0, 1], shear[1, 2] = 0.2, -0.15
    return shear @ affine()


SHAPE = (7, 8, 9)
GRIDS = {
    "oblique": Geometry(SHAPE, affine()),
    "left-handed": Geometry(SHAPE, affine(spacing=(-1.1, 1.7, 2.3))),
    "permuted": Geometry(SHAPE, affine((0.0, np.pi / 2, np.pi / 2), (2.0, 0.5, 1.5))),
    "lps-like": Geometry(SHAPE, np.diag([-1.0, -2.0, 3.0, 1.0])),
}
OBLIQUE, LEFT_HANDED = GRIDS["oblique"], GRIDS["left-handed"]
SHEARED = Geometry(SHAPE, sheared())


def rough_field(geometry: Geometry, seed: int = 0, mm: float = 3.0) -> DisplacementField:
    """Displacements without any smoothness or symmetry: no two voxels, axes or signs can be confused."""
    values = np.random.default_rng(seed).normal(size=(*geometry.shape, 3)) * mm
    return DisplacementField(geometry, values + np.array([1.0, 5.0, -3.0]))


def smooth_field(geometry: Geometry, seed: int = 0, mm: float = 5.0, sigma: float = 5.0) -> DisplacementField:
    """A smooth field whose longest displacement component is `mm`."""
    rng = np.random.default_rng(seed)
    values = np.stack([gaussian_filter(rng.normal(size=geometry.shape), sigma) for _ in range(3)], -1)
    return DisplacementField(geometry, values * (mm / np.abs(values).max()))


def tilted_affine(scale: float = 1.1, shift=(3.0, -7.0, 11.0)) -> AffineTransform:
    """A rotation by no simple angle, a scale and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", (0.1, 0.2, 0.3)).as_matrix()
    matrix[:3, 3] = shift
    return AffineTransform(matrix)


def points_inside(geometry: Geometry, count: int = 50, seed: int = 1, margin: float = 0.0) -> np.ndarray:
    """Places between the voxels of a grid, (count, 3) RAS mm; a negative margin goes beyond the border."""
    last = np.array(geometry.shape) - 1
    index = np.random.default_rng(seed).uniform(margin, last - margin, (count, 3))
    return geometry.to_world(index)


def map_by_itk(transform, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) RAS mm through a transform of SimpleITK, which works in LPS."""
    return np.array([transform.TransformPoint(point) for point in points * LPS]) * LPS


def corners(geometry: Geometry) -> np.ndarray:
    """The eight corner voxel centres of a grid, (8, 3) RAS mm."""
    ends = [(0, n - 1) for n in geometry.shape]
    return geometry.to_world([[i, j, k] for i in ends[0] for j in ends[1] for k in ends[2]])
