"""Data for the demos of the manual, made up: loader, format, folds, labels and look of the real data sets.

`write_demo` puts them where the configurations in `RegCore/samples/examples/demos` look for them.
Segmentations are written for every demo; those that are trained without them use them to measure.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from RegCore.io import save
from RegCore.samples.datasets import Patient, Scan, make_cases, write_dataset
from RegCore.space.geometry import InputError
from RegCore.space.names import nearest
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How the data of a demo are made.

    kind, scans, visits, variation_mm, motion_mm, shift_mm: as in `make_cases`; of paired data the scans are
        the moving and the fixed one.
    file_format: "nifti" or "h5".
    parts: for each folder below ``dataset`` how many patients it has.
    """

    kind: str
    file_format: str
    scans: tuple[Scan, ...]
    parts: dict[str, int]
    variation_mm: float
    motion_mm: float = 0.0
    shift_mm: float = 0.0
    visits: int = 1


LUNG = {
    "part": "torso",
    "extent_mm": (268.0, 208.0, 190.0),
    "centre_mm": (0.0, -2.0, 42.0),
    "labels": ((1, 2),),
}
BRAIN = {"part": "head", "extent_mm": (92.0, 112.0, 100.0), "centre_mm": (22.0, 12.0, 22.0), "labels": (1, 2)}
PELVIS = {"part": "prostate", "extent_mm": (92.0, 84.0, 86.0)}
GLAND = ((1, 2, 3, 4),)  # with all that is in it
VISITS_MM = (80.0, 72.0, 76.0)
ORGANS = tuple(range(1, 14))
CHEST = {"part": "heart", "extent_mm": (118.0, 108.0, 100.0), "centre_mm": (-6.0, 6.0, 0.0)}
CHEST |= {"labels": (1, 2, 3)}
DEMOS = {
    "grouped_mask_prostate_longitudinal": Recipe(
        "grouped",
        "h5",
        (Scan("mask", (44, 44, 20), VISITS_MM, labels=GLAND, part="prostate"),),
        {"train": 20, "val": 4, "test": 4},
        variation_mm=3.0,
        motion_mm=4.0,
        visits=3,
    ),
    "grouped_mr_heart": Recipe(
        "grouped",
        "nifti",
        tuple(Scan(sequence, (44, 40, 24), **CHEST) for sequence in ("mr", "lge", "t2")),
        {"train": 48, "val": 4, "test": 4},
        variation_mm=3.0,
        motion_mm=6.5,
        visits=3,
    ),
    "paired_ct_lung": Recipe(
        "paired",
        "nifti",
        (Scan("ct", (48, 42, 44), **LUNG), Scan("ct", (48, 42, 44), exhaled=1.0, **LUNG)),
        {"train": 16, "valid": 4, "test": 4},
        variation_mm=7.0,
        motion_mm=2.0,
    ),
    "paired_mrus_brain": Recipe(
        "paired",
        "nifti",
        (Scan("mr", (44, 54, 48), **BRAIN), Scan("us", (46, 56, 50), **BRAIN)),
        {"train": 18, "test": 4},
        variation_mm=3.0,
        motion_mm=6.0,
    ),
    "paired_mrus_prostate": Recipe(
        "paired",
        "nifti",
        (
            Scan("mr", (46, 46, 42), labels=(*GLAND, 2, 3, 4), **PELVIS),
            Scan("us", (36, 48, 34), labels=(*GLAND, 2, 3, 4), **PELVIS),
        ),
        {f"part{number:02}": 4 for number in range(11)},
        variation_mm=2.5,
        motion_mm=4.5,
        shift_mm=5.0,
    ),
    "unpaired_ct_abdomen": Recipe(
        "unpaired",
        "nifti",
        (Scan("ct", (48, 40, 54), (256, 184, 216), (0, -4, 22), ORGANS, "abdomen", (-160.0, 240.0)),),
        {"train": 40, "val": 8, "test": 8},
        variation_mm=9.0,
    ),
    "unpaired_ct_lung": Recipe(
        "unpaired",
        "nifti",
        (Scan("ct", (48, 42, 44), **LUNG),),
        {"train": 24, "test": 8},
        variation_mm=9.0,
    ),
    "unpaired_mr_brain": Recipe(
        "unpaired",
        "nifti",
        (Scan("mr", (35, 51, 35), (40, 58, 40), (1, -1, 0), (1, 2), "hippocampus"),),
        {"train": 32, "test": 8},
        variation_mm=2.0,
    ),
    "unpaired_us_prostate_cv": Recipe(
        "unpaired",
        "h5",
        (Scan("us", (40, 50, 50), labels=GLAND, **PELVIS),),
        {f"fold{number}": 4 for number in range(10)},
        variation_mm=4.0,
    ),
}
"""Recipes by the name of the demo; the three of abdominal CT share one data set."""


HEAD = Scan("ct", (60, 76, 66), (176.0, 216.0, 190.0), (0.0, 0.0, -4.0), (1, 2), "head")
GLANDS = Scan("mr", (56, 52, 44), (92.0, 84.0, 86.0), (0.0, 0.0, 0.0), GLAND, "prostate")
PAIRS = ("classical_ct_headneck_affine", "classical_mr_prostate_nonrigid")


def make_pair(name: str) -> dict[str, Volume]:
    """The pair of a demo without training: ``fixed_image``, ``moving_image``, label maps of their structures.

    A head in CT that lies turned, shifted and larger in the moving image; the prostates of two men in MR.
    Raises InputError for an unknown name.
    """
    if name not in PAIRS:
        raise InputError(f"demos of a pair are {', '.join(PAIRS)}, not {name!r}{nearest(name, PAIRS)}")
    if name == PAIRS[0]:
        turn = Rotation.from_euler("xyz", (6, -5, 10), degrees=True).as_matrix() * 0.95
        lying = AffineTransform(np.block([[turn, np.array([[7.0], [-5.0], [4.0]])], [np.zeros((1, 3)), 1.0]]))
        scans = Patient(0, 0, 3.0).scan(HEAD), Patient(0, 0, 3.0).scan(HEAD, 1, lying=lying)
    else:
        scans = Patient(0, 0, 4.0).scan(GLANDS), Patient(0, 1, 4.0).scan(GLANDS)
    found = {}
    for side, (image, label) in zip(("fixed", "moving"), scans, strict=True):
        found[f"{side}_image"] = image
        channels = label.array if label.array.ndim == 4 else label.array[..., None]
        numbers = np.arange(1, channels.shape[3] + 1)
        found[f"{side}_label"] = Volume(
            (channels * numbers).max(-1).astype(np.uint8), label.geometry, "labels"
        )
    return found


def write_demo(name: str, folder=".", *, patients: int | None = None) -> list[Path]:
    """Write the data of a demo to ``folder/demos/<name>/dataset`` and return the files.

    patients: of each part, fewer than the recipe has, for a trial; they are its first ones.
    Raises InputError for an unknown name, and where the folder can't be written to.
    """
    known = (*DEMOS, *PAIRS)
    if name not in known:
        raise InputError(f"demos are {', '.join(known)}, not {name!r}{nearest(name, known)}")
    folder = Path(folder) / "demos" / name / "dataset"
    log.info("making data for the demo %s", name)
    return _write_pair(name, folder) if name in PAIRS else _write_parts(DEMOS[name], folder, patients)


def _write_pair(name: str, folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the data can't be written ({error.strerror or error})") from error
    written = []
    for part, volume in make_pair(name).items():
        written.append(folder / f"{part}.nii.gz")
        save(volume, written[-1])
    return written


def _write_parts(recipe: Recipe, folder: Path, patients: int | None) -> list[Path]:
    written, first = [], 0
    for part, count in recipe.parts.items():
        cases = make_cases(
            recipe.kind,
            recipe.scans[0] if recipe.kind == "paired" else recipe.scans,
            recipe.scans[1] if recipe.kind == "paired" else None,
            count=min(count, patients or count),
            first=first,
            visits=recipe.visits,
            variation_mm=recipe.variation_mm,
            motion_mm=recipe.motion_mm,
            shift_mm=recipe.shift_mm,
        )
        written += write_dataset(folder / part, cases, recipe.file_format)
        first += count
    return written
