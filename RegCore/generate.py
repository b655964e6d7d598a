"""Makes data sets up in DeepReg's folder structure, and writes the example configurations: no network needed.

Patients are those of `RegCore.phantom`, each with organs of its own shape; the same numbers give the same
files. Folders, below the one of a split, with one file (NIfTI) or key (h5) for each case:

    paired      moving_images fixed_images moving_labels fixed_labels
    unpaired    images labels
    grouped     images/group1 images/group2 … labels/group1 …     (h5: keys group-1-1, group-1-2 …)
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from RegCore.geometry import Geometry, InputError
from RegCore.io import h5, save
from RegCore.io.files import whole
from RegCore.phantom import LABELS, NOISE, Noise, anatomy, random_deformation
from RegCore.transforms import DisplacementField
from RegCore.volume import Volume

KINDS = ("paired", "unpaired", "grouped")
FORMATS = ("nifti", "h5")
MODALITIES = ("ct", "mr", "us", "mask")
EXAMPLES = Path(__file__).parent / "examples"
# Echo of an ultrasound scan for the intensity of an MR scan: neither rises with the other.
ECHO = ((0, 130, 250, 330, 450, 520, 700, 820), (8, 20, 150, 70, 60, 120, 25, 190))
TORSO = Geometry((40, 34, 34), [[8, 0, 0, -156], [0, 8, 0, -132], [0, 0, 8, -132], [0, 0, 0, 1]])
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """How the patients of a data set are scanned."""

    modality: str = "mr"
    """"ct", "mr", "us" (speckle and bright edges) or "mask" (the structures themselves, 0 and 255)."""
    shape: tuple[int, int, int] = (40, 40, 36)
    extent_mm: tuple[float, float, float] = (268.0, 216.0, 226.0)
    """Size of the part of the torso that is scanned."""
    centre_mm: tuple[float, float, float] = (3.0, -2.0, 1.0)
    """Where its middle is, RAS; the values of `RegCore.phantom.ORGANS` help to choose."""
    labels: tuple[int, ...] = (4, 7, 9)
    """Structures with a segmentation, by their numbers in `RegCore.phantom.LABELS`; () for none. Several are
    stored as channels (I, J, K, C), one as (I, J, K)."""

    def __post_init__(self):
        if self.modality not in MODALITIES:
            names = ", ".join(MODALITIES)
            raise InputError(f"a scan is made as one of {names}, not as {self.modality!r}")
        unknown = [label for label in self.labels if label not in LABELS]
        if unknown or self.modality == "mask" and not self.labels:
            raise InputError(f"structures 1 to {max(LABELS)} can be segmented, not {unknown or 'none'}")

    @property
    def geometry(self) -> Geometry:
        """The grid of voxels, its axes along R, A and S."""
        spacing = np.array(self.extent_mm) / np.array(self.shape)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = np.array(self.centre_mm) - spacing * (np.array(self.shape) - 1) / 2
        return Geometry(self.shape, affine)


class Patient:
    """One made-up patient; the same numbers give the same patient.

    variation_mm: mean displacement of the organs against the common anatomy, which `Noise` varies besides.
    """

    def __init__(self, seed: int, number: int, variation_mm: float):
        self.seed = [seed, number]
        self.noise = Noise(np.random.default_rng([*self.seed, 0]))
        self.own = _displacement(variation_mm, [*self.seed, 1])

    def scan(self, scan: Scan, visit: int = 0, motion_mm: float = 0.0) -> tuple[Volume, Volume | None]:
        """Image and segmentation; in another visit the organs are displaced by `motion_mm` on average."""
        grid = scan.geometry
        points = grid.world_grid()
        for field in (_displacement(motion_mm, [*self.seed, 2, visit]), self.own):
            points = points if field is None else field.map(points)
        image, labels = anatomy(points, self.noise, "ct" if scan.modality == "ct" else "mr")
        channels = np.stack([labels == label for label in scan.labels], -1) if scan.labels else None
        random = np.random.default_rng([*self.seed, 3, visit])
        picture = Volume(_look(image, scan.modality, channels, random), grid)
        if channels is None:
            return picture, None
        channels = channels[..., 0] if channels.shape[3] == 1 else channels
        return picture, Volume(channels.astype(np.uint8), grid, "labels")


def _displacement(mean_mm: float, seed: list[int]) -> DisplacementField | None:
    """A random smooth displacement of the torso, None for no length; made smaller where it could fold."""
    while mean_mm > 0.1:
        try:
            return random_deformation(TORSO, mean_mm, np.random.default_rng(seed))
        except InputError:
            mean_mm *= 0.75
    return None


def _look(image: np.ndarray, modality: str, channels: np.ndarray | None, random) -> np.ndarray:
    """The intensities (I, J, K) as a scanner of this kind would store them, int16 or uint8."""
    if modality == "mask":
        return np.where(channels.any(-1), 255, 0).astype(np.uint8)
    if modality == "us":
        edges = gaussian_gradient_magnitude(image, 0.7)
        echo = np.interp(image, *ECHO) + 90 * edges / max(float(edges.max()), 1e-6)
        speckle = gaussian_filter(random.rayleigh(0.8, image.shape), 0.5)
        return np.clip(echo * speckle, 0, 255).astype(np.uint8)
    return np.rint(image + NOISE[modality] * random.standard_normal(image.shape)).astype(np.int16)


@dataclass(frozen=True)
class Case:
    """A file of a data set: its name, the group it belongs to ("" for none), its key in h5, its volumes.

    volumes: by the folder or h5 file they belong into: "images", "labels", "moving_images" …
    """

    name: str
    group: str
    key: str
    volumes: dict[str, Volume]


def make_cases(
    kind: str,
    scan: Scan,
    fixed: Scan | None = None,
    *,
    count: int,
    first: int = 0,
    visits: int = 3,
    variation_mm: float = 8.0,
    motion_mm: float = 5.0,
    seed: int = 0,
) -> list[Case]:
    """The cases of one split (or fold) of a data set, made up.

    kind: "paired" (each patient with a moving image as `scan` and a fixed one as `fixed`), "unpaired" (each
        patient once) or "grouped" (a group for each patient, an image for each visit).
    fixed: of paired data; by default as `scan`.
    count: patients, numbered from `first` on: splits with other numbers hold other patients.
    visits: images in a group.
    variation_mm: mean displacement of the organs of a patient against the common anatomy.
    motion_mm: the same between two scans of one patient.
    seed: another one makes other patients.
    Raises InputError for an unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"data sets are {', '.join(KINDS)}, not {kind!r}")
    patients = [Patient(seed, number, variation_mm) for number in range(first, first + count)]
    return list(_cases(kind, (scan, fixed or scan), patients, visits, motion_mm))


def write_dataset(folder, cases: Sequence[Case], file_format: str = "nifti") -> list[Path]:
    """Write cases into a folder, in the format "nifti" or "h5", and return the files.

    Raises InputError for an unknown format, and where the folder can't be written to.
    """
    writers = {"nifti": _write_nifti, "h5": _write_h5}
    if file_format not in writers:
        raise InputError(f"data sets are written as {' or '.join(writers)}, not as {file_format!r}")
    try:
        return writers[file_format](Path(folder), cases)
    except OSError as error:
        raise InputError(f"{folder}: the data can't be written ({error.strerror or error})") from error


def _cases(
    kind: str, scans: tuple[Scan, Scan], patients: list[Patient], visits: int, motion_mm: float
) -> Iterator[Case]:
    """The cases of a data set, made one after another."""
    for group, patient in enumerate(patients, start=1):
        number = patient.seed[1]
        if kind == "paired":
            moving, fixed = patient.scan(scans[0]), patient.scan(scans[1], 1, motion_mm)
            names = ("moving_images", "moving_labels", "fixed_images", "fixed_labels")
            yield _case(number, names, (*moving, *fixed))
        elif kind == "unpaired":
            yield _case(number, ("images", "labels"), patient.scan(scans[0]))
        else:
            for visit in range(visits):
                pair = patient.scan(scans[0], visit, motion_mm if visit else 0.0)
                name, key = number * visits + visit, f"group-{group}-{visit + 1}"
                yield _case(name, ("images", "labels"), pair, f"group{group}", key)


def _case(number: int, names, volumes, group: str = "", key: str = "") -> Case:
    name = f"case{number:06d}"
    held = {part: volume for part, volume in zip(names, volumes, strict=True) if volume is not None}
    return Case(name, group, key or name, held)


def _write_nifti(folder: Path, cases: Sequence[Case]) -> list[Path]:
    written = []
    for case in cases:
        for part, volume in case.volumes.items():
            path = folder / part / case.group / f"{case.name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(volume, path)
            written.append(path)
    return written


def _write_h5(folder: Path, cases: Sequence[Case]) -> list[Path]:
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
    with a warning. The data are made up: paired MR and ultrasound, unpaired and grouped MR, three labels,
    each as NIfTI and as h5, for training with that many patients (half as many groups), for tests with two.
    Raises InputError where the folder can't be written to.
    """
    folder = Path(folder)
    for source in sorted(EXAMPLES.rglob("*.yaml")):
        _copy(source, folder / source.relative_to(EXAMPLES))
    moving, fixed = Scan(), Scan("us", (30, 36, 28), (200, 180, 170), (10, -10, -20))
    for kind in KINDS:
        for split, first, count in (("train", 0, patients), ("test", 100, 2)):
            log.info("making %s data for the split %s", kind, split)
            count = (count + 1) // 2 if kind == "grouped" else count
            cases = make_cases(kind, moving, fixed, count=count, first=first)
            for file_format in FORMATS:
                write_dataset(folder / "data" / "test" / file_format / kind / split, cases, file_format)
    log.info("%s: config, demos and data are written", folder.absolute())


def _copy(source: Path, target: Path) -> None:
    text = source.read_bytes()
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole(target) as side:
                side.write_bytes(text)
        elif target.read_bytes() != text:
            log.warning("%s is there and differs from the example: it stays as it is", target)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
