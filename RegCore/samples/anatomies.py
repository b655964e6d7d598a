"""Synthetic parts of the body, as different scanners see them: abdomen, head, heart, hippocampus, prostate.

Each is a list of ellipsoids of tissues, in RAS mm about the middle of the part; the torso is that of
`RegCore.samples.phantom`. No ellipsoid stays one: space is bent by a smooth noise that differs between
patients.
"""

from dataclasses import dataclass

import numpy as np

from RegCore.samples.phantom import LABELS, TEXTURE, Noise, Painter, anatomy, ellipsoid
from RegCore.space.geometry import InputError

# Echo of an ultrasound scan for the intensity of an MR scan: neither rises with the other.
ECHO = ((0, 130, 250, 330, 450, 520, 700, 820), (8, 20, 150, 70, 60, 120, 25, 190))
BEND_MM = 4.5  # by which the noise bends a torso; smaller parts are bent as much less
BREATH_MM, BREATH_Y_MM = 24.0, 7.0  # how far the diaphragm rises and the chest sinks on breathing out
DENSER = 90.0  # Hounsfield units that lungs gain on breathing out


@dataclass(frozen=True)
class Structure:
    """An ellipsoid of one tissue, painted over those before it.

    Args:
        label: its number in a segmentation, 0 for none.
        within: only where the structure of that name is.
    """

    name: str
    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    label: int = 0
    within: str = ""
    grain: float = 1.0


@dataclass(frozen=True)
class Anatomy:
    """A part of the body.

    Args:
        scale: its size as a share of a torso's; noise and displacements have wavelengths in this proportion.
        tissues: for each modality the intensity of every tissue, "air" for what lies around.
        texture: for each modality the amplitude of the structure inside tissues.
    """

    scale: float
    tissues: dict[str, dict[str, float]]
    texture: dict[str, float]
    structures: tuple[Structure, ...]

    @property
    def labels(self) -> dict[int, str]:
        """Name of each label value."""
        return {s.label: s.name for s in self.structures if s.label}


ABDOMEN = Anatomy(
    1.0,
    {
        "ct": {"air": -1000, "fat": -100, "muscle": 55, "bone": 420, "lung": -800, "liver": 105}
        | {
            "spleen": 125,
            "kidney": 190,
            "bile": 5,
            "stomach": 30,
            "artery": 220,
            "vein": 160,
            "pancreas": 85,
            "gland": 70,
        }
    },
    {"ct": 12.0},
    (
        Structure("skin", "fat", (0, 0, 0), (150, 104, 240)),
        Structure("wall", "muscle", (0, -4, 0), (132, 90, 230)),
        Structure("cavity", "fat", (0, 6, 0), (118, 72, 210)),
        Structure("right lung", "lung", (58, 0, 128), (54, 60, 62)),
        Structure("left lung", "lung", (-58, 0, 128), (54, 60, 62)),
        Structure("column", "bone", (0, -58, 0), (21, 21, 260), grain=2.0),
        Structure("spleen", "spleen", (-84, -30, 42), (30, 40, 44), 1),
        Structure("right kidney", "kidney", (58, -38, -20), (27, 27, 52), 2),
        Structure("left kidney", "kidney", (-58, -40, -8), (27, 27, 52), 3),
        Structure("liver", "liver", (46, 10, 40), (74, 60, 58), 6),
        Structure("gallbladder", "bile", (36, 44, -8), (18, 21, 27), 4),
        Structure("stomach", "stomach", (-46, 28, 32), (44, 32, 46), 7),
        Structure("pancreas", "pancreas", (-14, 6, -14), (58, 17, 16), 11),
        Structure("oesophagus", "muscle", (-10, -20, 104), (14, 14, 58), 5),
        Structure("aorta", "artery", (-12, -30, 0), (14, 14, 240), 8),
        Structure("inferior vena cava", "vein", (18, -26, 0), (15, 13, 230), 9),
        Structure("portal and splenic vein", "vein", (-12, 0, 12), (52, 12, 12), 10),
        Structure("right adrenal gland", "gland", (42, -34, 44), (14, 14, 15), 12),
        Structure("left adrenal gland", "gland", (-42, -34, 48), (14, 14, 15), 13),
    ),
)

HEAD = Anatomy(
    0.7,
    {
        "ct": {"air": -1000, "fat": -90, "bone": 900, "csf": 8, "grey": 40, "white": 28, "falx": 60}
        | {"tumour": 75, "muscle": 55},
        "mr": {"air": 0, "fat": 240, "bone": 80, "csf": 60, "grey": 400, "white": 440, "falx": 480}
        | {"tumour": 900, "muscle": 300},
        "us": {"air": 4, "fat": 65, "bone": 22, "csf": 10, "grey": 118, "white": 130, "falx": 150}
        | {"tumour": 215, "muscle": 50},
    },
    {"ct": 6.0, "mr": 45.0, "us": 14.0},
    (
        Structure("neck", "muscle", (0, -15, -100), (58, 62, 60)),
        Structure("scalp", "fat", (0, 0, 10), (80, 100, 98)),
        Structure("skull", "bone", (0, -2, 12), (74, 94, 91), grain=3.0),
        Structure("fluid", "csf", (0, -2, 13), (67, 87, 83)),
        Structure("brain", "grey", (0, -2, 13), (64, 84, 79)),
        Structure("right hemisphere", "white", (28, 0, 16), (27, 70, 58)),
        Structure("left hemisphere", "white", (-28, 0, 16), (27, 70, 58)),
        Structure("falx", "falx", (0, 0, 50), (2.5, 76, 44), within="brain", grain=0.5),
        Structure("brainstem", "white", (0, -22, -46), (15, 15, 46)),
        Structure("jaw", "bone", (0, 34, -66), (40, 36, 16), grain=3.0),
        Structure("airway", "air", (0, 18, -76), (13, 11, 44), grain=0.0),
        Structure("right ventricle", "csf", (13, 4, 18), (8, 36, 11), 2, grain=0.3),
        Structure("left ventricle", "csf", (-13, 4, 18), (8, 36, 11), 2, grain=0.3),
        Structure("tumour", "tumour", (36, 26, 30), (18, 20, 17), 1, grain=1.6),
    ),
)

HEART = Anatomy(
    0.5,
    {
        "mr": {"air": 0, "fat": 640, "lung": 40, "liver": 330, "muscle": 280, "blood": 820, "scar": 330},
        "lge": {"air": 0, "fat": 600, "lung": 50, "liver": 260, "muscle": 110, "blood": 430, "scar": 880},
        "t2": {"air": 0, "fat": 700, "lung": 30, "liver": 210, "muscle": 380, "blood": 120, "scar": 560},
    },
    {"mr": 30.0, "lge": 30.0, "t2": 30.0},
    (
        Structure("chest", "fat", (0, 0, 0), (150, 90, 150)),
        Structure("right lung", "lung", (78, -8, 30), (48, 72, 90)),
        Structure("left lung", "lung", (-84, -10, 30), (38, 72, 90)),
        Structure("liver", "liver", (40, 10, -84), (80, 70, 46)),
        Structure("spine", "muscle", (4, -72, 0), (22, 20, 150)),
        Structure("atria", "blood", (14, -30, 26), (30, 22, 30)),
        Structure("right ventricle", "blood", (20, 22, -4), (27, 27, 38), 3, grain=0.5),
        Structure("myocardium", "muscle", (-18, 10, 0), (34, 34, 42), 2),
        Structure("scar", "scar", (-46, 16, -6), (16, 18, 20), 2, within="myocardium"),
        Structure("left ventricle", "blood", (-18, 10, 2), (21, 21, 30), 1, grain=0.5),
    ),
)

HIPPOCAMPUS = Anatomy(
    0.22,
    {"mr": {"air": 0, "white": 560, "grey": 430, "csf": 150, "hippocampus": 400, "rim": 490}},
    {"mr": 38.0},
    (
        Structure("surroundings", "white", (0, 0, 0), (60, 60, 60)),
        Structure("temporal lobe", "grey", (10, 4, -20), (30, 40, 12)),
        Structure("midbrain", "rim", (-22, -8, 8), (14, 24, 22)),
        Structure("horn", "csf", (9, -2, 5), (4.5, 26, 6), grain=0.3),
        Structure("body", "hippocampus", (1, -9, 1), (5.5, 15, 5.5), 2),
        Structure("head", "hippocampus", (-1, 11, -2), (7.5, 10, 7.5), 1),
        Structure("cistern", "csf", (-11, 12, 2), (4, 14, 8), grain=0.3),
    ),
)

PROSTATE = Anatomy(
    0.36,
    {
        "mr": {"air": 0, "fat": 430, "muscle": 150, "gland": 640, "zone": 330, "urine": 860, "urethra": 760}
        | {"lesion": 150, "gas": 30},
        "us": {"air": 0, "fat": 165, "muscle": 80, "gland": 105, "zone": 62, "urine": 8, "urethra": 150}
        | {"lesion": 30, "gas": 4},
    },
    {"mr": 42.0, "us": 16.0},
    (
        Structure("pelvis", "fat", (0, 0, 0), (110, 90, 110)),
        Structure("right wall", "muscle", (48, -2, 0), (16, 44, 80)),
        Structure("left wall", "muscle", (-48, -2, 0), (16, 44, 80)),
        Structure("rectum", "gas", (0, -44, 0), (19, 17, 90), grain=0.2),
        Structure("bladder", "urine", (0, 14, 42), (33, 26, 22), grain=0.2),
        Structure("gland", "gland", (0, 0, 0), (27, 21, 24), 1),
        Structure("transition zone", "zone", (0, 5, 4), (18, 13, 16), 2),
        Structure("lesion", "lesion", (-15, -10, -5), (8, 6.5, 8), 4, grain=0.5),
        Structure("urethra", "urethra", (0, 4, 2), (4.5, 4.5, 26), 3, grain=0.3),
    ),
)

PARTS = {"abdomen": ABDOMEN, "head": HEAD, "heart": HEART, "hippocampus": HIPPOCAMPUS, "prostate": PROSTATE}
TORSO_MODALITIES = ("ct", "mr", "us")


def labels_of(part: str) -> dict[int, str]:
    """Name of each label value of a part of the body.

    Raises:
        InputError: the part is unknown.
    """
    return LABELS if part == "torso" else _part(part).labels


def modalities_of(part: str) -> tuple[str, ...]:
    """How it can be scanned.

    Raises:
        InputError: the part is unknown.
    """
    return TORSO_MODALITIES if part == "torso" else tuple(_part(part).tissues)


def scale_of(part: str) -> float:
    """Its size as a share of a torso's.

    Raises:
        InputError: the part is unknown.
    """
    return 1.0 if part == "torso" else _part(part).scale


def _part(name: str) -> Anatomy:
    if name not in PARTS:
        raise InputError(f"parts of the body are torso, {', '.join(PARTS)}, not {name!r}")
    return PARTS[name]


def appearance(part: str, points: np.ndarray, noise: Noise, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Intensity (float32), without a scanner's noise, and label (uint8) at points (..., 3) RAS mm.

    Args:
        part: a name of `PARTS` or "torso".
        noise: what makes this patient differ from another.
        modality: one of `modalities_of`.
    """
    if part == "torso":
        image, labels = anatomy(points, noise, "ct" if modality == "ct" else "mr")
        return (np.interp(image, *ECHO) if modality == "us" else image), labels
    found = _part(part)
    value, scale = found.tissues[modality], found.scale
    points = points.astype(np.float32)
    alike = points / np.float32(scale)  # where a point would be in a part as large as a torso
    texture = found.texture[modality] * (0.7 * noise(alike, 34.0, 3) + 0.6 * noise(alike, 15.0, 4))
    bend = [BEND_MM * scale * noise(alike, 105.0, channel) for channel in range(3)]
    bent = points + np.stack(bend, -1)
    painter = Painter(np.full(points.shape[:-1], value["air"], np.float32), texture)
    depths: dict[str, np.ndarray] = {}
    for structure in found.structures:
        depth = ellipsoid(bent, structure.centre, structure.radii)
        if structure.within:
            depth = np.minimum(depth, depths[structure.within])
        depths[structure.name] = depth
        painter.paint(depth, value[structure.tissue], structure.label, structure.grain)
    return painter.image, painter.labels


def texture_of(part: str, modality: str) -> float:
    """Amplitude of the structure inside tissues, to which a scanner's noise is in proportion."""
    if part == "torso":
        return TEXTURE["ct" if modality == "ct" else "mr"]
    return _part(part).texture[modality]


def breathed(points: np.ndarray, share: float) -> np.ndarray:
    """Where a torso that is not breathed out has what one that is, by this share, has at points (..., 3) mm.

    The diaphragm rises, and with it what lies below it; the chest sinks. The spine and the neck stay.
    """
    x, y, z = np.moveaxis(points, -1, 0)
    free = _step((y + 78) / 60) * _step((120 - z) / 130)
    moved = np.stack([x, y + share * BREATH_Y_MM * free * y / 75, z - share * BREATH_MM * free], -1)
    return moved


def _step(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
