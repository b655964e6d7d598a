"""Synthetic data for the demos of the manual: loader, format, folds, labels and look of the real data sets.

`write_demo` puts them where the configurations in `RegCore/samples/examples/demos` look for them.
Segmentations are written for every demo; those that are trained without them use them to measure.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from RegCore.io import save
from RegCore.samples.datasets import Patient, ScanProtocol, make_cases, write_dataset
from RegCore.space.geometry import InputError
from RegCore.space.names import nearest
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoData:
    """How the data of a demo are made.

    Args:
        kind, scans, visits, variation_mm, motion_mm, shift_mm: as in `make_cases`; of paired data the scans
            are the moving and the fixed one.
        file_format: "nifti" or "h5".
        parts: for each folder below ``dataset`` how many patients it has.
    """

    kind: str
    file_format: str
    scans: tuple[ScanProtocol, ...]
    parts: dict[str, int]
    variation_mm: float
    motion_mm: float = 0.0
    shift_mm: float = 0.0
    visits: int = 1


GLAND = ((1, 2, 3, 4),)  # with all that is in it
LUNG = ScanProtocol(extent_mm=(268.0, 208.0, 190.0), centre_mm=(0.0, -2.0, 42.0), labels=((1, 2),))
BRAIN = ScanProtocol(extent_mm=(92.0, 112.0, 100.0), centre_mm=(22.0, 12.0, 22.0), labels=(1, 2), part="head")
PELVIS = ScanProtocol(extent_mm=(92.0, 84.0, 86.0), labels=GLAND, part="prostate")
CHEST = ScanProtocol(
    extent_mm=(118.0, 108.0, 100.0), centre_mm=(-6.0, 6.0, 0.0), labels=(1, 2, 3), part="heart"
)
VISITS_MM = (80.0, 72.0, 76.0)
ORGANS = tuple(range(1, 14))
DEMOS = {
    "grouped_mask_prostate_longitudinal": DemoData(
        "grouped",
        "h5",
        (ScanProtocol("mask", (44, 44, 20), VISITS_MM, labels=GLAND, part="prostate"),),
        {"train": 20, "val": 4, "test": 4},
        variation_mm=3.0,
        motion_mm=4.0,
        visits=3,
    ),
    "grouped_mr_heart": DemoData(
        "grouped",
        "nifti",
        tuple(replace(CHEST, modality=sequence, shape=(44, 40, 24)) for sequence in ("mr", "lge", "t2")),
        {"train": 48, "val": 4, "test": 4},
        variation_mm=3.0,
        motion_mm=6.5,
        visits=3,
    ),
    "paired_ct_lung": DemoData(
        "paired",
        "nifti",
        (
            replace(LUNG, modality="ct", shape=(48, 42, 44)),
            replace(LUNG, modality="ct", shape=(48, 42, 44), exhaled=1.0),
        ),
        {"train": 16, "valid": 4, "test": 4},
        variation_mm=7.0,
        motion_mm=2.0,
    ),
    "paired_mrus_brain": DemoData(
        "paired",
        "nifti",
        (
            replace(BRAIN, modality="mr", shape=(44, 54, 48)),
            replace(BRAIN, modality="us", shape=(46, 56, 50)),
        ),
        {"train": 18, "test": 4},
        variation_mm=3.0,
        motion_mm=6.0,
    ),
    "paired_mrus_prostate": DemoData(
        "paired",
        "nifti",
        (
            replace(PELVIS, modality="mr", shape=(46, 46, 42), labels=(*GLAND, 2, 3, 4)),
            replace(PELVIS, modality="us", shape=(36, 48, 34), labels=(*GLAND, 2, 3, 4)),
        ),
        {f"part{number:02}": 4 for number in range(11)},
        variation_mm=2.5,
        motion_mm=4.5,
        shift_mm=5.0,
    ),
    "unpaired_ct_abdomen": DemoData(
        "unpaired",
        "nifti",
        (ScanProtocol("ct", (48, 40, 54), (256, 184, 216), (0, -4, 22), ORGANS, "abdomen", (-160.0, 240.0)),),
        {"train": 40, "val": 8, "test": 8},
        variation_mm=9.0,
    ),
    "unpaired_ct_lung": DemoData(
        "unpaired",
        "nifti",
        (replace(LUNG, modality="ct", shape=(48, 42, 44)),),
        {"train": 24, "test": 8},
        variation_mm=9.0,
    ),
    "unpaired_mr_brain": DemoData(
        "unpaired",
        "nifti",
        (ScanProtocol("mr", (35, 51, 35), (40, 58, 40), (1, -1, 0), (1, 2), "hippocampus"),),
        {"train": 32, "test": 8},
        variation_mm=2.0,
    ),
    "unpaired_us_prostate_cv": DemoData(
        "unpaired",
        "h5",
        (replace(PELVIS, modality="us", shape=(40, 50, 50), labels=GLAND),),
        {f"fold{number}": 4 for number in range(10)},
        variation_mm=4.0,
    ),
}
"""The data by the name of the demo; the three of abdominal CT share one data set."""


HEAD = ScanProtocol("ct", (60, 76, 66), (176.0, 216.0, 190.0), (0.0, 0.0, -4.0), (1, 2), "head")
GLANDS = ScanProtocol("mr", (56, 52, 44), (92.0, 84.0, 86.0), (0.0, 0.0, 0.0), GLAND, "prostate")
PAIRS = ("classical_ct_headneck_affine", "classical_mr_prostate_nonrigid")


def make_pair(name: str) -> dict[str, Volume]:
    """The pair of a demo without training: ``fixed_image``, ``moving_image``, label maps of their structures.

    A head in CT that lies turned, shifted and larger in the moving image; the prostates of two men in MR.

    Raises:
        InputError: the name is unknown.
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

    Args:
        patients: of each part, fewer than the demo has, for a trial; they are its first ones.

    Raises:
        InputError: the name is unknown, or the folder can't be written to.
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


def _write_parts(demo: DemoData, folder: Path, patients: int | None) -> list[Path]:
    written, first = [], 0
    for part, count in demo.parts.items():
        cases = make_cases(
            demo.kind,
            demo.scans[0] if demo.kind == "paired" else demo.scans,
            demo.scans[1] if demo.kind == "paired" else None,
            count=min(count, patients or count),
            first=first,
            visits=demo.visits,
            variation_mm=demo.variation_mm,
            motion_mm=demo.motion_mm,
            shift_mm=demo.shift_mm,
        )
        written += write_dataset(folder / part, cases, demo.file_format)
        first += count
    return written
