"""ITK transform files: .h5 (HDF5) and .tfm or .txt (text), which hold LPS mm; here they become RAS mm.

Layout of .h5: TransformGroup/<n>/{TransformType, TransformParameters, TransformFixedParameters}, of
.tfm: the same three as lines of text. Both map fixed points to moving points.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, FLIP, atomic_write
from RegCore.io.h5 import create_h5
from RegCore.space.geometry import Geometry, InputError, homogeneous
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform

if TYPE_CHECKING:
    import h5py

TEXT_HEAD = "#Insight Transform File V1.0"
FIELD = "DisplacementFieldTransform"
OLD_SPELLING = {"TransformParameters": "TranformParameters"}  # ITK 4 wrote this
OLD_SPELLING["TransformFixedParameters"] = "TranformFixedParameters"


def read_h5(path: Path) -> Transform:
    """The transform of an ITK .h5 file; parts of a composite one are composed.

    Raises:
        InputError: the file is no transform that can be read, or is damaged.
    """
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"not an HDF5 file, or a damaged one ({error})") from None
    with file:
        group = file.get("TransformGroup")
        if not isinstance(group, h5py.Group) or not len(group):
            raise InputError("not a transform of ITK: the group 'TransformGroup' is missing")
        try:
            size = path.stat().st_size
            return _joined([_read_part(group[name], size) for name in sorted(group, key=int)])
        except (KeyError, ValueError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the transform file is damaged ({error})") from None


def _read_part(part: h5py.Group, available: int) -> Transform | None:
    kind = part["TransformType"]
    if kind.size != 1:
        raise InputError(f"one TransformType was expected, but the file names {kind.size}")
    name = np.ravel(kind[()])[0]
    name = name.decode() if isinstance(name, bytes) else str(name)
    if name.startswith("CompositeTransform"):
        return None
    numbers = []
    for key in ("TransformParameters", "TransformFixedParameters"):
        dataset = part[key if key in part else OLD_SPELLING[key]]
        limit = available * (DEFLATE_LIMIT if dataset.chunks else 1)
        if dataset.size * dataset.dtype.itemsize > limit:
            raise InputError(f"{key} promises {dataset.size} numbers, more than the file can hold")
        numbers.append(np.ravel(dataset[()]))
    return from_parameters(name, *numbers)


def read_text(path: Path) -> Transform:
    """The transform of an ITK text file."""
    with open(path, "rb") as file:
        if not file.read(len(TEXT_HEAD)).startswith(TEXT_HEAD[:23].encode()):
            raise InputError("not a transform of ITK: the line '#Insight Transform File' is missing")
        text = file.read().decode("utf-8", errors="replace")
    parts: list[dict[str, str]] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "Transform":
            parts.append({})
        if parts and not line.startswith("#"):
            parts[-1][key.strip()] = value.strip()
    return _joined([_parsed(part) for part in parts])


def _parsed(part: dict[str, str]) -> Transform | None:
    if part["Transform"].startswith("CompositeTransform"):
        return None
    numbers = []
    for key in ("Parameters", "FixedParameters"):
        try:
            numbers.append(np.array([float(word) for word in part.get(key, "").split()]))
        except ValueError as error:
            raise InputError(f"{key} must be numbers ({error})") from None
    return from_parameters(part["Transform"], *numbers)


def _joined(parts: list[Transform | None]) -> Transform:
    """The one transform, or the composite one: ITK applies its last part first."""
    transforms = [part for part in parts if part is not None]
    if not transforms:
        raise InputError("the file holds no transform")
    if len(transforms) > 1 and parts[0] is not None:
        raise InputError(f"one transform was expected, but the file holds {len(transforms)} separate ones")
    result = transforms[-1]
    for outer in reversed(transforms[:-1]):
        result = outer.compose(result)
    return result


def from_parameters(name: str, parameters: np.ndarray, fixed: np.ndarray) -> Transform:
    """The transform that ITK calls `name`, from its parameters and fixed parameters (LPS mm)."""
    kind = name.partition("_")[0]
    if not name.endswith("_3_3"):
        raise InputError(f"a transform of 3-D space was expected, but this is {name!r}")
    if not (np.isfinite(parameters).all() and np.isfinite(fixed).all()):
        raise InputError(f"the parameters of {name!r} hold values that are NaN or infinite")
    if kind == FIELD:
        return _field(parameters, fixed)
    if kind not in LINEAR:
        known = ", ".join([FIELD, *LINEAR])
        raise InputError(f"transforms of the type {name!r} can't be read (readable: {known})")
    count, linear_part = LINEAR[kind]
    if len(parameters) != count:
        raise InputError(f"{name!r} has {count} parameters, but the file holds {len(parameters)}")
    centre = np.array(fixed[:3], np.float64) if len(fixed) >= 3 else np.zeros(3)
    linear, shift = linear_part(np.asarray(parameters, np.float64), fixed)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift + centre - linear @ centre
    return AffineTransform(FLIP @ matrix @ FLIP)


def _field(parameters: np.ndarray, fixed: np.ndarray) -> DisplacementField:
    if len(fixed) != 18:
        raise InputError(f"{FIELD} has 18 fixed parameters, but the file holds {len(fixed)}")
    i, j, k = (int(n) for n in fixed[:3])
    shape = (i, j, k)
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    geometry = Geometry(shape, FLIP @ affine)
    if len(parameters) != 3 * geometry.voxels:
        raise InputError(f"the grid {shape} does not fit {len(parameters)} parameters, 3 for each voxel")
    mm = np.empty((*shape, 3), np.float32)
    mm[:] = parameters.reshape(*shape[::-1], 3).transpose(2, 1, 0, 3)
    mm[..., :2] *= -1
    return DisplacementField(geometry, mm)


def _affine(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return p[:9].reshape(3, 3), p[9:12]


def _euler(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    about = []
    for axis in range(3):
        turn, (a, b) = np.eye(3), [(1, 2), (2, 0), (0, 1)][axis]
        turn[a, a] = turn[b, b] = math.cos(p[axis])
        turn[b, a], turn[a, b] = math.sin(p[axis]), -math.sin(p[axis])
        about.append(turn)
    x, y, z = about
    return (z @ y @ x if len(fixed) > 3 and fixed[3] else z @ x @ y), p[3:6]


def _versor(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = p[:3]
    w = math.sqrt(max(0.0, 1 - x * x - y * y - z * z))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross, p[3:6]


def _similarity(p: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    linear, shift = _versor(p, fixed)
    return p[6] * linear, shift


LINEAR = {  # ITK's name: number of parameters, what gives the 3×3 part and the shift
    "AffineTransform": (12, _affine),
    "MatrixOffsetTransformBase": (12, _affine),
    "Euler3DTransform": (6, _euler),
    "VersorRigid3DTransform": (6, _versor),
    "Similarity3DTransform": (7, _similarity),
    "TranslationTransform": (3, lambda p, fixed: (np.eye(3), p)),
    "IdentityTransform": (0, lambda p, fixed: (np.eye(3), np.zeros(3))),
}


def _affine_parameters(transform: AffineTransform) -> np.ndarray:
    matrix = FLIP @ homogeneous(transform.matrix) @ FLIP + 0.0  # + 0.0: no -0 in the text
    return np.concatenate([matrix[:3, :3].ravel(), matrix[:3, 3]])


def _field_fixed_parameters(geometry: Geometry) -> np.ndarray:
    lps = FLIP @ geometry.affine
    spacing = geometry.spacing
    return np.concatenate([geometry.shape, lps[:3, 3], spacing, (lps[:3, :3] / spacing).ravel()])


def write_h5(path: Path, transform: Transform) -> None:
    """Write a transform as ITK's HDF5TransformIO lays it out, in double precision.

    Raises:
        InputError: the file can't be written.
    """
    with create_h5(path) as file:
        _fill(file, transform)


def _fill(file: h5py.File, transform: Transform) -> None:
    import h5py

    text = h5py.string_dtype("ascii")
    marks = {
        "HDFVersion": f"HDF5 library version: {h5py.version.hdf5_version}",
        "ITKVersion": "5.4.5",  # the version whose layout this is
        "OSName": platform.system(),
        "OSVersion": platform.release(),
    }
    for key, value in marks.items():
        file.create_dataset(key, data=[value], dtype=text)
    group = file.create_group("TransformGroup/0")
    kind = "AffineTransform" if isinstance(transform, AffineTransform) else FIELD
    group.create_dataset("TransformType", data=[f"{kind}_double_3_3"], dtype=text)
    if isinstance(transform, AffineTransform):
        group["TransformFixedParameters"] = np.zeros(3)
        group["TransformParameters"] = _affine_parameters(transform)
        return
    group["TransformFixedParameters"] = _field_fixed_parameters(transform.geometry)
    numbers = group.create_dataset("TransformParameters", (transform.mm.size,), np.float64)
    plane = transform.mm[:, :, 0].size
    for k in range(transform.geometry.shape[2]):  # a plane at a time: the copy in double precision is small
        values = transform.mm[:, :, k].transpose(1, 0, 2) * np.array([-1.0, -1.0, 1.0])
        numbers[k * plane : (k + 1) * plane] = values.ravel()


def write_text(path: Path, transform: Transform) -> None:
    """An affine transform as text. Raises InputError for a displacement field."""
    if not isinstance(transform, AffineTransform):
        raise InputError(f"{path}: a displacement field can't be saved as text; use .h5, .nrrd or .nii.gz")
    lines = [
        TEXT_HEAD,
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        "Parameters: " + " ".join(repr(float(x)) for x in _affine_parameters(transform)),
        "FixedParameters: 0 0 0",
    ]
    with atomic_write(path) as side:
        side.write_text("\n".join(lines) + "\n", encoding="ascii")
