"""Synthetic phantoms to learn from and measure with: scans of differing torsos, and the maps between them.

One anatomy is a function of points in a canonical space. A subject is an invertible map P from its scan to
that space: rotation, scale, shift and a smooth stationary deformation. Its scan is the anatomy at P(x), so
nothing is resampled, and the map between two subjects is P_moving⁻¹ ∘ P_fixed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from RegCore.io import save
from RegCore.samples.anatomies import Anatomy, Structure
from RegCore.samples.phantom import Painter, ellipsoid, smooth_noise
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

HALF = 192.0  # mm: half the extent of a scan, the unit of the figures of a subject
# What is an ellipsoid in it; the intensities are Hounsfield units, and arbitrary ones of a T1-weighted MR.
BODY = Anatomy(
    1.0,
    {
        "ct": {"air": -1000, "fat": -95, "muscle": 55, "bone": 380, "lung": -800, "liver": 105,
               "spleen": 135, "kidney": 200, "stomach": 30, "gallbladder": 8, "aorta": 180},
        "mr": {"air": 0, "fat": 820, "muscle": 330, "bone": 420, "lung": 60, "liver": 520,
               "spleen": 290, "kidney": 380, "stomach": 190, "gallbladder": 150, "aorta": 120},
    },
    {"ct": 18.0, "mr": 40.0},
    (
        Structure("liver", "liver", (62, 12, 28), (66, 66, 58), 1),
        Structure("spleen", "spleen", (-92, -36, 34), (30, 42, 46), 2),
        Structure("right kidney", "kidney", (58, -50, -44), (27, 28, 48), 3),
        Structure("left kidney", "kidney", (-58, -50, -32), (27, 28, 48), 4),
        Structure("stomach", "stomach", (-50, 40, 12), (44, 34, 46), 5),
        Structure("gallbladder", "gallbladder", (34, 46, -34), (19, 21, 30), 6),
    ),
)  # fmt: skip
AORTA = 7  # label of the one structure that is none
LABELS = {**BODY.labels, AORTA: "aorta"}
"""Name of each label value."""
NOISE = {"ct": 15.0, "mr": 20.0}  # standard deviation of the scanner's noise
EDGE = 3.0  # mm over which a tissue gives way to the next
ROTATION, SCALE, SHIFT = 0.10, 0.12, 0.16  # largest, rad, share, half extents
ROUGHNESS, SMOOTH = 0.08, 0.25  # deformation: its RMS and the width of its Gaussian kernel, half extents
STEP, REACH = 8.0, 1.5  # lattice of the deformation: its spacing in mm and its half width in half extents
DATASET = "slicreg_torsos"
TRAINED, TESTED = 16, 7  # patients of the data set besides the template
FIRST_TESTED = 101  # seed of the first patient who is not learnt from
LEAST = 0.15  # no subject's map shrinks a volume to less than this share: it can't fold


@dataclass(frozen=True)
class Torso:
    """A scan, its structures, and where each of its points belongs in the anatomy.

    Args:
        image, labels: on one grid; `LABELS` names the structures.
        anatomy: x_canonical = anatomy(x_scan), RAS mm, on a lattice larger than the scan.
    """

    image: Volume
    labels: Volume
    anatomy: DisplacementField


def make_torso(
    seed: int = 0,
    shape: tuple[int, int, int] = (96, 96, 96),
    *,
    modality: str = "ct",
    geometry: Geometry | None = None,
    misalignment: float = 1.0,
) -> Torso:
    """The scan of one torso: fat, wall, spine, lungs and the seven structures of `LABELS`.

    Args:
        seed: who it is: position, size, shape, texture and noise; 0 is the anatomy itself, upright and in the
            middle, a natural template. The same seed is the same scan.
        shape: of a scan of 38 cm along each axis around the origin, so fewer voxels are larger ones.
        modality: "ct" (Hounsfield units) or "mr"; brightness varies by ± 8 % between subjects.
        geometry: any other grid to scan the same torso on, in place of `shape`.
        misalignment: how much farther than usual the subject is turned, moved and scaled.

    Raises:
        InputError: the modality is unknown.
    """
    if modality not in BODY.tissues:
        raise InputError(f"a torso can be scanned as {' or '.join(BODY.tissues)}, not as {modality!r}")
    random = np.random.default_rng([seed, 4])
    anatomy = _subject(random, 1.0 if seed else 0.0, misalignment)
    texture, gain = smooth_noise(random, (64,) * 3, 1.2), 1 + random.uniform(-0.08, 0.08)
    grid = geometry or _grid(shape)
    points = anatomy.map(grid.world_grid()).astype(np.float32)
    cells = np.moveaxis(points, -1, 0) / np.float32(STEP)
    own = map_coordinates(texture, cells, order=1, mode="grid-wrap", output=np.float32)
    image, labels = _paint(points, BODY.texture[modality] * own, BODY.tissues[modality])
    dark = BODY.tissues[modality]["air"]
    image = dark + gain * (image - dark)
    image += NOISE[modality] * random.standard_normal(image.shape, dtype=np.float32)
    return Torso(Volume(image, grid), Volume(labels, grid, "labels"), anatomy)


def true_transform(fixed: Torso, moving: Torso, onto: Geometry | None = None) -> DisplacementField:
    """The exact answer to a registration: x_moving = T(x_fixed), RAS mm, on the fixed grid (or on `onto`).

    T = P_moving⁻¹ ∘ P_fixed, right within half a millimetre: the inverse is interpolated on a lattice.
    """
    onto = onto or fixed.image.geometry
    return moving.anatomy.inverse().compose(fixed.anatomy, onto)


def write_torsos(
    folder=".", *, trained: int = TRAINED, tested: int = TESTED, shape: tuple[int, int, int] = (96, 96, 96)
) -> list[Path]:
    """Write the data set of SLIC-Reg's example to ``folder/demos/slicreg_torsos/dataset``; return the files.

    ``template.nii.gz`` and its ``template_seg.nii.gz``; ``train`` has scans alone; ``test`` has ``images``,
    ``labels`` of the structures `LABELS`, and ``truth``, the exact map from the template to each scan.

    Raises:
        InputError: the folder can't be written to.
    """
    folder = Path(folder) / "demos" / DATASET / "dataset"
    seeds = [0, *range(1, trained + 1), *range(FIRST_TESTED, FIRST_TESTED + tested)]
    written, template = [], make_torso(0, shape)
    try:
        for part in ("train", "test/images", "test/labels", "test/truth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the data can't be written ({error.strerror or error})") from error
    for seed in seeds:
        torso, name = make_torso(seed, shape), f"torso{seed:03}"
        if seed == 0:
            parts = {"template.nii.gz": torso.image, "template_seg.nii.gz": torso.labels}
        elif seed < FIRST_TESTED:
            parts = {f"train/{name}.nii.gz": torso.image}
        else:
            parts = {f"test/images/{name}.nii.gz": torso.image, f"test/labels/{name}.nii.gz": torso.labels}
            parts[f"test/truth/{name}.h5"] = true_transform(template, torso)
        for path, thing in parts.items():
            save(thing, folder / path)
            written.append(folder / path)
    return written


def _grid(shape: tuple[int, int, int]) -> Geometry:
    """The upright grid of a certain shape whose voxels fill the cube of side 2 `HALF` about the origin."""
    affine = np.diag([*(2 * HALF / np.array(shape)), 1.0])
    affine[:3, 3] = affine[:3, :3].diagonal() / 2 - HALF
    return Geometry(tuple(shape), affine)


def _subject(random: np.random.Generator, strength: float, misalignment: float = 1.0) -> DisplacementField:
    """The map of one subject's scan into the anatomy: an affine part and a smooth deformation, no folds.

    The RMS of the deformation is that of the length of its vectors, over the whole lattice.
    """
    matrix, far = np.eye(4), strength * misalignment
    turn = Rotation.from_rotvec(far * random.uniform(-ROTATION, ROTATION, 3)).as_matrix()
    matrix[:3, :3] = turn * (1 + far * random.uniform(-SCALE, SCALE, 3))
    matrix[:3, 3] = HALF * far * random.uniform(-SHIFT, SHIFT, 3)
    size = int(2 * REACH * HALF / STEP)
    lattice = Geometry((size,) * 3, np.diag([STEP, STEP, STEP, 1.0]) + _corner(size))
    sigma = SMOOTH * HALF / STEP
    noise = np.stack([smooth_noise(random, (size,) * 3, sigma) for _ in range(3)], -1)
    smooth = np.float32(strength * HALF * ROUGHNESS / np.sqrt(3)) * noise
    straight = DisplacementField.from_affine(AffineTransform(matrix), lattice)
    while True:
        field = DisplacementField(lattice, straight.mm + smooth, straight.affine)
        if field.jacobian_determinant().min() > LEAST:
            return field
        smooth *= np.float32(0.95)


def _corner(size: int) -> np.ndarray:
    """The last column of the affine of a lattice of so many points whose middle is the origin."""
    last = np.zeros((4, 4))
    last[:3, 3] = -STEP * (size - 1) / 2
    return last


def _paint(points: np.ndarray, texture: np.ndarray, value: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (float32) and label (uint8) at points (..., 3) RAS mm of the anatomy."""
    x, y, z = np.moveaxis(points, -1, 0)
    painter = Painter(np.full(x.shape, value["air"], np.float32), texture, EDGE)
    trunk = (1 - ((np.abs(x) / 150) ** 2.4 + (np.abs(y) / 108) ** 2.4) ** (1 / 2.4)) * 112
    painter.paint(trunk, value["fat"])
    painter.paint(trunk - 14, value["muscle"])
    painter.paint(trunk - 28, value["fat"])
    for side in (1, -1):
        lung = ellipsoid(points, (66 * side, 4, 128), (52, 72, 92))
        painter.paint(np.minimum(lung, trunk - 24), value["lung"])
    column = 21 - np.hypot(x, y + 66)
    process = 7 - np.hypot(x, np.clip(np.abs(y + 92) - 8, 0, None))
    painter.paint(np.maximum(column, process), value["bone"])
    painter.paint(np.minimum(column, 6 * (np.cos(2 * np.pi * z / 36) - 0.75)), value["muscle"])
    for organ in BODY.structures:
        painter.paint(ellipsoid(points, organ.centre, organ.radii), value[organ.tissue], organ.label)
    painter.paint(14 - np.hypot(x + 10, y + 30), value["aorta"], AORTA)
    return painter.image, painter.labels
