"""Makes synthetic data sets in DeepReg's folder structure, and writes the example configurations.

Patients are made of the parts in `RegCore.samples.anatomies`, each with organs of its own shape; the same
numbers give the same files. Folders, below the one of a split, with one file (NIfTI) or key (h5) for each
case:

    paired      moving_images fixed_images moving_labels fixed_labels
    unpaired    images labels
    grouped     images/group1 images/group2 … labels/group1 …     (h5: keys group-1-1, group-1-2 …)
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from RegCore.io import h5, save
from RegCore.io.files import atomic_write
from RegCore.samples.anatomies import (
    DENSER,
    appearance,
    breathed,
    labels_of,
    modalities_of,
    scale_of,
    texture_of,
)
from RegCore.samples.phantom import Noise, random_deformation
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

KINDS = ("paired", "unpaired", "grouped")
FORMATS = ("nifti", "h5")
EXAMPLES = Path(__file__).parent / "examples"
NOISE = 0.36  # standard deviation of a scanner's noise, as a share of the texture of tissues
TORSO = Geometry((40, 34, 34), np.array([[8.0, 0, 0, -156], [0, 8, 0, -132], [0, 0, 8, -132], [0, 0, 0, 1]]))
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanProtocol:
    """How the patients of a data set are scanned."""

    modality: str = "mr"
    """One of `modalities_of` the part: "ct", "mr", "us" (speckle and bright edges) …; or "mask", the
    structures themselves, 0 and 255."""
    shape: tuple[int, int, int] = (40, 40, 36)
    extent_mm: tuple[float, float, float] = (268.0, 216.0, 226.0)
    """Size of the part of the body that is scanned."""
    centre_mm: tuple[float, float, float] = (3.0, -2.0, 1.0)
    """Where its middle is, RAS; the places of organs in `RegCore.samples.anatomies` help to choose."""
    labels: tuple[int | tuple[int, ...], ...] = (4, 7, 9)
    """Structures with a segmentation, by their numbers in `labels_of` the part, several in brackets for their
    union; () for none. Several are stored as channels (I, J, K, C), one as (I, J, K)."""
    part: str = "torso"
    """The part of the body, one of `RegCore.samples.anatomies.PARTS` or the torso."""
    window: tuple[float, float] | None = None
    """Intensities are clipped to this range, as soft tissues in CT should be before images are compared."""
    exhaled: float = 0.0
    """How far the patient has breathed out, 0 to 1; moves the torso and makes its lungs denser."""

    def __post_init__(self):
        known, modalities = labels_of(self.part), (*modalities_of(self.part), "mask")
        if self.modality not in modalities:
            names = ", ".join(modalities)
            raise InputError(f"a scan of the {self.part} is made as one of {names}, not as {self.modality!r}")
        unknown = [label for group in self.groups for label in group if label not in known]
        if unknown or self.modality == "mask" and not self.labels:
            most = max(known)
            raise InputError(
                f"structures 1 to {most} of the {self.part} can be segmented, not {unknown or 'none'}"
            )

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The structures of each channel."""
        return [label if isinstance(label, tuple) else (label,) for label in self.labels]

    @property
    def geometry(self) -> Geometry:
        """The grid of voxels, its axes along R, A and S."""
        spacing = np.array(self.extent_mm) / np.array(self.shape)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = np.array(self.centre_mm) - spacing * (np.array(self.shape) - 1) / 2
        return Geometry(self.shape, affine)


class Patient:
    """One synthetic patient; the same numbers give the same patient.

    Args:
        variation_mm: mean displacement of the organs against the common anatomy, which `Noise` varies
            besides.
    """

    def __init__(self, seed: int, number: int, variation_mm: float):
        self.seed, self.variation_mm = (seed, number), variation_mm
        self.noise = Noise(np.random.default_rng([*self.seed, 0]))

    def scan(
        self, scan: ScanProtocol, visit: int = 0, motion_mm: float = 0.0, lying: AffineTransform | None = None
    ) -> tuple[Volume, Volume | None]:
        """Image and segmentation; in another visit the organs are displaced by `motion_mm` on average.

        Args:
            lying: how the patient lies, if otherwise than usual: a map from points of the scanner to the
                body's.
        """
        scale = scale_of(scan.part)
        points = scan.geometry.world_grid()
        points = (points if lying is None else lying.map(points)) / scale
        for length, seed in ((motion_mm, (*self.seed, 2, visit)), (self.variation_mm, (*self.seed, 1))):
            field = _displacement(length / scale, seed)
            points = points if field is None else field.map(points)
        points = breathed(points, scan.exhaled) * scale
        modality = scan.modality if scan.modality != "mask" else modalities_of(scan.part)[0]
        image, labels = appearance(scan.part, points, self.noise, modality)
        if scan.part == "torso" and modality == "ct":
            image += DENSER * scan.exhaled * np.isin(labels, (1, 2))
        channels = np.stack([np.isin(labels, group) for group in scan.groups], -1) if scan.labels else None
        random = np.random.default_rng([*self.seed, 3, visit])
        picture = Volume(_look(image, scan, channels, random), scan.geometry)
        if channels is None:
            return picture, None
        channels = channels[..., 0] if channels.shape[3] == 1 else channels
        return picture, Volume(channels.astype(np.uint8), scan.geometry, "labels")


@lru_cache(maxsize=8)  # a patient's own displacement is wanted for each of his scans
def _displacement(mean_mm: float, seed: tuple[int, ...]) -> DisplacementField | None:
    """A random smooth displacement of the torso, None for no length; made smaller where it could fold."""
    while mean_mm > 0.1:
        try:
            return random_deformation(TORSO, mean_mm, np.random.default_rng(seed))
        except InputError:
            mean_mm *= 0.75
    return None


def _look(image: np.ndarray, scan: ScanProtocol, channels: np.ndarray | None, random) -> np.ndarray:
    """The intensities (I, J, K) as a scanner of this kind would store them, int16 or uint8."""
    if scan.modality == "mask":
        return np.where(channels.any(-1), 255, 0).astype(np.uint8)
    if scan.modality == "us":
        edges = gaussian_gradient_magnitude(image, 0.7)
        echo = image + 90 * edges / max(float(edges.max()), 1e-6)
        speckle = gaussian_filter(random.rayleigh(0.8, image.shape), 0.5)
        return np.clip(echo * speckle, 0, 255).astype(np.uint8)
    noise = NOISE * texture_of(scan.part, scan.modality) * random.standard_normal(image.shape)
    return np.rint(np.clip(image + noise, *(scan.window or (-np.inf, np.inf)))).astype(np.int16)


@dataclass(frozen=True)
class DatasetCase:
    """A file of a data set: its name, the group it belongs to ("" for none), its key in h5, its volumes.

    Args:
        volumes: by the folder or h5 file they belong into: "images", "labels", "moving_images" …
    """

    name: str
    group: str
    key: str
    volumes: dict[str, Volume]


def make_cases(
    kind: str,
    scan: ScanProtocol | Sequence[ScanProtocol],
    fixed: ScanProtocol | None = None,
    *,
    count: int,
    first: int = 0,
    visits: int = 3,
    variation_mm: float = 8.0,
    motion_mm: float = 5.0,
    shift_mm: float = 0.0,
    seed: int = 0,
) -> list[DatasetCase]:
    """The cases of one split (or fold) of a synthetic data set.

    Args:
        kind: "paired" (each patient with a moving image as `scan` and a fixed one as `fixed`), "unpaired"
            (each patient once) or "grouped" (a group for each patient, an image for each visit).
        scan: of grouped data also several, for one visit after the other.
        fixed: of paired data; by default as `scan`.
        count: patients, numbered from `first` on: splits with other numbers hold other patients.
        visits: images in a group.
        variation_mm: mean displacement of the organs of a patient against the common anatomy.
        motion_mm: the same between two scans of one patient.
        shift_mm: of paired and unpaired data; standard deviation, along each axis, of how much further a
            patient lies in the fixed image, or in his only one: two scanners never see quite the same place.
        seed: another one makes other patients.

    Raises:
        InputError: the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"data sets are {', '.join(KINDS)}, not {kind!r}")
    patients = [Patient(seed, number, variation_mm) for number in range(first, first + count)]
    scans = (scan,) if isinstance(scan, ScanProtocol) else tuple(scan)
    return list(_cases(kind, scans, fixed or scans[0], patients, visits, motion_mm, shift_mm))


def write_dataset(folder, cases: Sequence[DatasetCase], file_format: str = "nifti") -> list[Path]:
    """Write cases into a folder, in the format "nifti" or "h5", and return the files.

    Raises:
        InputError: the format is unknown, or the folder can't be written to.
    """
    writers = {"nifti": _write_nifti, "h5": _write_h5}
    if file_format not in writers:
        raise InputError(f"data sets are written as {' or '.join(writers)}, not as {file_format!r}")
    try:
        return writers[file_format](Path(folder), cases)
    except OSError as error:
        raise InputError(f"{folder}: the data can't be written ({error.strerror or error})") from error


def _cases(
    kind: str,
    scans: tuple[ScanProtocol, ...],
    fixed: ScanProtocol,
    patients: list[Patient],
    visits,
    motion_mm,
    shift_mm,
) -> Iterator[DatasetCase]:
    """The cases of a data set, made one after another."""
    for group, patient in enumerate(patients, start=1):
        number = patient.seed[1]
        if kind == "paired":
            pair = *patient.scan(scans[0]), *patient.scan(fixed, 1, motion_mm, _lying(patient, shift_mm))
            names = ("moving_images", "moving_labels", "fixed_images", "fixed_labels")
            yield _case(number, names, pair)
        elif kind == "unpaired":
            scanned = patient.scan(scans[0], lying=_lying(patient, shift_mm))
            yield _case(number, ("images", "labels"), scanned)
        else:
            for visit in range(visits):
                pair = patient.scan(scans[visit % len(scans)], visit, motion_mm if visit else 0.0)
                name, key = number * visits + visit, f"group-{group}-{visit + 1}"
                yield _case(name, ("images", "labels"), pair, f"group{group}", key)


def _lying(patient: Patient, shift_mm: float) -> AffineTransform | None:
    """How a patient lies, if otherwise than usual."""
    if not shift_mm:
        return None
    matrix = np.eye(4)
    matrix[:3, 3] = np.random.default_rng([*patient.seed, 4]).normal(0.0, shift_mm, 3)
    return AffineTransform(matrix)


def _case(number: int, names, volumes, group: str = "", key: str = "") -> DatasetCase:
    name = f"case{number:06d}"
    held = {part: volume for part, volume in zip(names, volumes, strict=True) if volume is not None}
    return DatasetCase(name, group, key or name, held)


def _write_nifti(folder: Path, cases: Sequence[DatasetCase]) -> list[Path]:
    written = []
    for case in cases:
        for part, volume in case.volumes.items():
            path = folder / part / case.group / f"{case.name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(volume, path)
            written.append(path)
    return written


def _write_h5(folder: Path, cases: Sequence[DatasetCase]) -> list[Path]:
    files: dict[str, dict] = {}
    for case in cases:
        for part, volume in case.volumes.items():
            files.setdefault(part, {})[case.key] = (volume.array, volume.geometry.affine)
    folder.mkdir(parents=True, exist_ok=True)
    for part, arrays in files.items():
        h5.write(folder / f"{part}.h5", arrays)
    return [folder / f"{part}.h5" for part in files]


def write_examples(folder, patients: int = 5) -> None:
    """Write `config`, `demos` and `data/test` into a folder, as DeepReg's repository has them.

    The configurations are those that come with the package; one that is there and differs stays as it is,
    with a warning. The data are synthetic: paired MR and ultrasound, unpaired and grouped MR, three labels,
    each as NIfTI and as h5, for training with that many patients (half as many groups), for tests with two.

    Raises:
        InputError: the folder can't be written to.
    """
    folder = Path(folder)
    write_configurations(folder)
    moving, fixed = ScanProtocol(), ScanProtocol("us", (30, 36, 28), (200, 180, 170), (10, -10, -20))
    for kind in KINDS:
        for split, first, count in (("train", 0, patients), ("test", 100, 2)):
            log.info("making %s data for the split %s", kind, split)
            count = (count + 1) // 2 if kind == "grouped" else count
            cases = make_cases(kind, moving, fixed, count=count, first=first)
            for file_format in FORMATS:
                write_dataset(folder / "data" / "test" / file_format / kind / split, cases, file_format)
    log.info("%s: config, demos and data are written", folder.absolute())


def write_configurations(folder) -> None:
    """Write `config` and `demos`, as `write_examples` does, without data."""
    for source in sorted(EXAMPLES.rglob("*.yaml")):
        _copy(source, Path(folder) / source.relative_to(EXAMPLES))


def _copy(source: Path, target: Path) -> None:
    text = source.read_bytes()
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as side:
                side.write_bytes(text)
        elif target.read_bytes() != text:
            log.warning("%s is there and differs from the example: it stays as it is", target)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
