"""Generated patients whose mean shape is known: one torso, bent by maps whose mean is the identity."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from RegCore.samples.phantom import Noise, anatomy
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import affine

EXTENT = (270.0, 220.0, 230.0)  # mm


@dataclass(frozen=True)
class Patients:
    """Scans, segmentations, the maps from the mean to each, and what the mean looks like anywhere."""

    scans: list[Volume]
    labels: list[Volume]
    maps: list[DisplacementField]
    noise: Noise

    def true_labels(self, grid: Geometry) -> np.ndarray:
        """The segmentation of the mean shape on a grid."""
        return anatomy(grid.world_grid(), self.noise, "ct")[1]


def oblique_grid(shape, angles=(0.08, -0.1, 0.06)) -> Geometry:
    """A grid over the torso."""
    grid = Geometry(shape, affine(angles, np.array(EXTENT) / shape, (0, 0, 0)))
    matrix = np.eye(4)
    matrix[:3, 3] = -grid.centre
    return grid.moved(matrix)


def make_patients(count: int, shape=(32, 32, 32), mm: float = 9.0, seed: int = 0) -> Patients:
    """Patients scanned on grids of their own.

    mm: the mean length of a displacement. Each map adds a turn and a stretch to it.
    """
    rng = np.random.default_rng(seed)
    noise = Noise(rng)
    wide = oblique_grid(tuple(n + 8 for n in shape))
    values = [_bend(wide, rng) for _ in range(count)]
    mean = np.mean(values, axis=0)
    lengths = np.mean([np.linalg.norm(value - mean, axis=-1).mean() for value in values])
    maps = [DisplacementField(wide, (value - mean) * mm / lengths) for value in values]
    scans, labels = [], []
    for field in maps:
        grid = oblique_grid(shape, rng.uniform(-0.12, 0.12, 3))
        image, structures = anatomy(field.inverse(grid).map(grid.world_grid()), noise, "ct")
        image = rng.uniform(0.9, 1.1) * image + rng.uniform(-20, 20) + rng.normal(size=grid.shape) * 14
        scans.append(Volume(image.astype(np.float32), grid))
        labels.append(Volume(structures, grid, "labels"))
    return Patients(scans, labels, maps, noise)


def _bend(grid: Geometry, rng: np.random.Generator) -> np.ndarray:
    """A smooth displacement with waves of about 10 cm, with a turn and a stretch, mm."""
    smooth = np.stack(
        [gaussian_filter(rng.normal(size=grid.shape), 35 / grid.spacing, mode="wrap") for _ in range(3)], -1
    )
    smooth *= 8.0 / np.linalg.norm(smooth, axis=-1).mean()
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * 0.03).as_matrix()
    matrix[:3, :3] *= rng.uniform(0.97, 1.03, 3)
    matrix[:3, 3] = rng.normal(size=3) * 3
    world = grid.world_grid()
    return smooth + AffineTransform(matrix).map(world) - world
