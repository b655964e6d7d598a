"""A synthetic phantom: two scans of a small torso with its organs, and the exact deformation between them.

The anatomy is a function of points in the space of the moving image. The moving image is that function at
the voxel centres y of the moving grid, the fixed image the same function at T(x), x the voxel centres of the
fixed grid: nothing is resampled, and T, a `DisplacementField`, is the exact answer to the registration.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

Point = tuple[float, float, float]
LABELS = {
    1: "right lung",
    2: "left lung",
    3: "heart",
    4: "liver",
    5: "stomach",
    6: "spleen",
    7: "right kidney",
    8: "left kidney",
    9: "spine",
}
"""Name of each label value."""

# Mean intensity of each tissue: Hounsfield units, and arbitrary units of a T1-weighted MR.
TISSUE: dict[str, dict[str, float]] = {
    "ct": {"air": -1000, "fat": -90, "muscle": 55, "bone": 420, "marrow": 170, "blood": 210, "vessel": 170,
           "lung": -780, "heart": 130, "liver": 105, "stomach": 15, "spleen": 150, "kidney": 225},
    "mr": {"air": 0, "fat": 820, "muscle": 330, "bone": 90, "marrow": 560, "blood": 130, "vessel": 700,
           "lung": 70, "heart": 450, "liver": 520, "stomach": 210, "spleen": 290, "kidney": 380},
}  # fmt: skip
TEXTURE = {"ct": 38.0, "mr": 70.0}  # amplitude of the structure inside organs, in units of the image
NOISE = {"ct": 14.0, "mr": 25.0}  # standard deviation of the scanner's noise

# Ellipsoids: centre and half axes in RAS mm. Later ones lie over earlier ones.
ORGANS: dict[int, tuple[Point, Point]] = {
    1: ((56, -4, 60), (42, 58, 64)),
    2: ((-55, -4, 60), (38, 58, 64)),
    3: ((-14, 20, 34), (36, 32, 36)),
    4: ((46, 10, -30), (60, 56, 44)),
    5: ((-40, 30, -26), (34, 28, 34)),
    6: ((-80, -26, -20), (24, 34, 32)),
    7: ((45, -46, -74), (19, 21, 32)),
    8: ((-46, -46, -66), (19, 21, 32)),
}
TISSUE_OF = {label: name.split()[-1] for label, name in LABELS.items()}
EDGE = 1.2  # mm over which a tissue gives way to the next
STEEPEST = 0.9  # largest norm of du/dx that is allowed: below 1 the transform can't fold


@dataclass(frozen=True)
class PhantomPair:
    """A pair to register and its exact answer.

    Args:
        landmarks: (N, 6) RAS mm, a point of the fixed image and its counterpart in the moving one.
        truth: T with x_moving = T(x_fixed), on the fixed grid.
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    landmarks: np.ndarray
    truth: DisplacementField


def make_phantom(
    seed: int = 0,
    fixed_shape: tuple[int, int, int] = (100, 84, 72),
    moving_shape: tuple[int, int, int] = (92, 88, 80),
    modalities: tuple[str, str] = ("ct", "ct"),
    displacement_mm: float = 7.0,
    landmarks: int = 120,
) -> PhantomPair:
    """Two scans of a torso of 27 × 22 × 23 cm, on oblique grids of different shape, spacing and orientation.

    The grids cover the same torso whatever their shape, so a smaller shape means larger voxels. The
    deformation is a rigid part with a slight stretch, and a smooth part of wavelengths above 12 cm.

    Args:
        seed: the same seed gives the same case.
        fixed_shape, moving_shape: voxels (I, J, K).
        modalities: "ct" or "mr" for fixed and moving.
        displacement_mm: about the mean length of the deformation inside the body.
        landmarks: how many pairs of points.

    Raises:
        InputError: a modality is unknown, or the deformation so large that it could fold.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(12, 10, 9), moving_shape=(11, 12, 10))
        >>> pair.fixed.array.shape, pair.moving.array.shape
        ((12, 10, 9), (11, 12, 10))
        >>> pair.landmarks.shape[1]  # x, y, z of the fixed and of the moving point, RAS mm
        6
    """
    for modality in modalities:
        if modality not in TISSUE:
            raise InputError(f"a phantom can be scanned as {' or '.join(TISSUE)}, not as {modality!r}")
    random = np.random.default_rng(seed)
    noise = Noise(random)
    fixed_grid = _grid(fixed_shape, (268, 216, 226), (-1, -1, 1), (7, -5, 9), (3, -2, 1))
    moving_grid = _grid(moving_shape, (276, 224, 232), (1, -1, 1), (-6, 8, -4), (-4, 5, 2))
    truth = random_deformation(fixed_grid, displacement_mm, random)
    scans, maps = [], []
    for grid, points, modality in (
        (fixed_grid, fixed_grid.world_grid() + truth.mm, modalities[0]),
        (moving_grid, moving_grid.world_grid(), modalities[1]),
    ):
        image, labels = anatomy(points, noise, modality)
        image += NOISE[modality] * random.standard_normal(image.shape, dtype=np.float32)
        scans.append(Volume(image, grid, "image"))
        maps.append(Volume(labels, grid, "labels"))
    pairs = _landmarks(maps[0], moving_grid, truth, landmarks, random)
    return PhantomPair(scans[0], scans[1], maps[0], maps[1], pairs, truth)


def smooth_noise(
    random: np.random.Generator, shape: tuple[int, ...], sigma: float | tuple[float, ...]
) -> np.ndarray:
    """A periodic random function on a grid of cells, zero mean and unit variance, float32.

    Periodic, so that it is equally rough everywhere: with any other treatment of the border the border has
    most of the variance.

    Args:
        shape: of the grid.
        sigma: of the Gaussian that smooths it, in cells, for each axis or for all.
    """
    noise = gaussian_filter(random.standard_normal(shape), sigma, mode="wrap")
    return (noise / noise.std()).astype(np.float32)


class Noise:
    """A smooth random function of space, periodic over 64 cells, with several independent channels."""

    def __init__(self, random: np.random.Generator):
        self.lattice = smooth_noise(random, (8, 64, 64, 64), (0, 1.6, 1.6, 1.6))

    def __call__(self, points: np.ndarray, wavelength_mm: float, channel: int) -> np.ndarray:
        """Values of zero mean and unit variance at the points (..., 3) mm, (...) float32."""
        cells = np.moveaxis(points, -1, 0) * np.float32(8.0 / wavelength_mm)
        return map_coordinates(self.lattice[channel], cells, order=1, mode="grid-wrap", output=np.float32)


def _grid(
    shape: tuple[int, int, int], extent_mm: Point, signs: Point, degrees: Point, centre: Point
) -> Geometry:
    """An oblique grid of a certain shape that covers `extent_mm` around `centre`."""
    axes = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(signs)
    affine = np.eye(4)
    affine[:3, :3] = axes * (np.array(extent_mm) / np.array(shape))
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def random_deformation(grid: Geometry, mean_mm: float, random: np.random.Generator) -> DisplacementField:
    """A slightly stretched rigid motion and a smooth random deformation, on the grid of the fixed image.

    Args:
        grid: of the fixed image.
        mean_mm: mean length inside the body.
        random: where its numbers come from.

    Raises:
        InputError: the mean length is such that it could fold.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(random.uniform(-0.04, 0.04, 3)).as_matrix()
    matrix[:3, :3] *= 1 + random.uniform(-0.03, 0.03, 3)
    matrix[:3, 3] = random.uniform(-1, 1, 3) * 0.35 * mean_mm
    points = grid.world_grid()
    # Control points every 60 mm from -240 to 240 mm, joined by cubic B-splines.
    control = random.standard_normal((3, 9, 9, 9))
    cells = np.moveaxis(points / 60 + 4, -1, 0)
    smooth = np.stack([map_coordinates(c, cells, order=3, prefilter=False) for c in control], -1)
    mm = points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3]
    inside = (points / (105, 75, 105)) ** 2 @ np.ones(3) < 1
    strength = _strength(mm[inside], smooth[inside], mean_mm)
    field = DisplacementField(grid, mm + strength * smooth, AffineTransform(matrix))
    step = grid.affine[:3, :3]
    slopes = np.stack(np.gradient(field.mm.astype(np.float64), axis=(0, 1, 2)), -1) @ np.linalg.inv(step)
    steepest = float(np.sqrt((slopes**2).sum((-1, -2))).max())
    if steepest > STEEPEST:
        raise InputError(f"a phantom deformed by {mean_mm:g} mm on average could fold; ask for less")
    return field


def _strength(rigid: np.ndarray, smooth: np.ndarray, mean_mm: float) -> float:
    """The factor of the smooth part with which the mean length of the sum is `mean_mm`, by bisection."""
    low, high = 0.0, 4 * mean_mm / float(np.linalg.norm(smooth, axis=-1).mean())
    for _ in range(20):
        middle = (low + high) / 2
        mean = np.linalg.norm(rigid + middle * smooth, axis=-1).mean()
        low, high = (middle, high) if mean < mean_mm else (low, middle)
    return low


def anatomy(points: np.ndarray, noise: Noise, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (float32), without a scanner's noise, and label (uint8) at points (..., 3) RAS mm.

    Args:
        noise: what makes this patient's organs and their texture differ from another's.
    """
    value = TISSUE[modality]
    points = points.astype(np.float32)
    texture = 0.7 * noise(points, 34.0, 3) + 0.6 * noise(points, 15.0, 4)
    vessels = np.exp(-(noise(points, 52.0, 5) ** 2 + noise(points, 52.0, 6) ** 2) / 0.14)
    # No organ is an ellipsoid: bend space a little before asking how deep in it a point lies.
    bent = points + np.stack([4.5 * noise(points, 105.0, channel) for channel in range(3)], -1)
    painter = Painter(np.full(points.shape[:-1], value["air"], np.float32), TEXTURE[modality] * texture)
    _paint_trunk(painter, bent, value)
    for label, (centre, radii) in ORGANS.items():
        depth = ellipsoid(bent, centre, radii)
        grain = 0.5 if label == 5 else 1.0
        painter.paint(depth, value[TISSUE_OF[label]], label=label, grain=grain)
        if label in (1, 2, 4):
            painter.paint(np.minimum(depth - 3, 5 * (vessels - 0.5)), value["vessel"], grain=0.3)
        if label in (7, 8):
            painter.paint(depth - 9, value["fat"], grain=0.3)
        if label == 3:
            painter.paint(ellipsoid(bent, (-18, 22, 30), (15, 14, 19)), value["blood"], grain=0.4)
    _paint_spine(painter, bent, value)
    return painter.image, painter.labels


class Painter:
    """An image and a label map that are painted over, tissue by tissue.

    Args:
        edge: mm over which a tissue gives way to the next, as in a scan of finite resolution.
    """

    def __init__(self, image: np.ndarray, texture: np.ndarray, edge: float = EDGE):
        self.image, self.texture, self.edge = image, texture, edge
        self.labels = np.zeros(image.shape, np.uint8)

    def paint(self, depth: np.ndarray, value: float, label: int | None = None, grain: float = 1.0) -> None:
        """Lay a tissue over all points of positive depth (mm), with a soft edge."""
        share = 1 / (1 + np.exp(np.clip(-4 * depth / self.edge, -30, 30)))
        self.image += share * (value + grain * self.texture - self.image)
        if label is not None:
            self.labels[depth > 0] = label


def ellipsoid(points: np.ndarray, centre: Point, radii: Point) -> np.ndarray:
    """About how many mm inside an ellipsoid each point lies (negative outside)."""
    scaled = (points - np.array(centre, np.float32)) / np.array(radii, np.float32)
    return (1 - np.sqrt((scaled**2).sum(-1))) * np.float32(min(radii))


def _paint_trunk(painter: Painter, points: np.ndarray, value: dict[str, float]) -> None:
    """Skin and fat, the muscles below, and ribs that run downwards from back to front."""
    x, y, z = np.moveaxis(points, -1, 0)
    radius = ((np.abs(x) / 120) ** 2.4 + (np.abs(y) / 90) ** 2.4) ** (1 / 2.4)
    depth = (1 - radius) * 92 * (1 - 0.0004 * np.abs(z))
    painter.paint(depth, value["fat"], grain=0.8)
    painter.paint(depth - 9, value["muscle"], grain=1.2)
    ribs = np.minimum(4.5 - np.abs(depth - 14), 5 * (np.cos(2 * np.pi * (z + 0.28 * y) / 27) - 0.45))
    painter.paint(np.minimum(ribs, (z + 70) / 4), value["bone"], grain=0.5)
    painter.paint(depth - 20, value["fat"], grain=1.5)


def _paint_spine(painter: Painter, points: np.ndarray, value: dict[str, float]) -> None:
    """Vertebrae with discs between them, the canal behind, and the aorta in front."""
    x, y, z = np.moveaxis(points, -1, 0)
    column = 17 - np.hypot(x, y + 56)
    process = 6 - np.hypot(x, np.clip(np.abs(y + 78) - 7, 0, None))
    whole = np.maximum(column, process)
    painter.paint(whole, value["bone"], label=9, grain=0.6)
    painter.paint(column - 3, value["marrow"], grain=1.0)
    painter.paint(np.minimum(column, 6 * (np.cos(2 * np.pi * z / 29) - 0.8)), value["muscle"], grain=0.5)
    painter.paint(6 - np.hypot(x, y + 74), value["stomach"], grain=0.2)
    painter.paint(9 - np.hypot(x + 8, y + 29), value["blood"], grain=0.4)


def _landmarks(
    labels: Volume, moving: Geometry, truth: DisplacementField, count: int, random: np.random.Generator
) -> np.ndarray:
    """Pairs of points inside the organs, seen by both scans, spread evenly over the labels; (N, 6) RAS mm."""
    chosen = []
    for number, label in enumerate(LABELS):
        places = np.argwhere(labels.array == label)
        wanted = (count + len(LABELS) - 1 - number) // len(LABELS)
        places = places[random.permutation(len(places))[: 4 * wanted]] + random.uniform(-0.4, 0.4, 3)
        fixed = labels.geometry.to_world(places)
        pairs = np.hstack([fixed, truth.map(fixed)])
        index = moving.to_index(pairs[:, 3:])
        seen = ((index >= 2) & (index <= np.array(moving.shape) - 3)).all(1)
        chosen.append(pairs[seen][:wanted])
    return np.concatenate(chosen)
