"""ITK transform files: .h5 (HDF5) and .tfm or .txt (text), which hold LPS mm; here they become RAS mm.

Layout of .h5: TransformGroup/<n>/{TransformType, TransformParameters, TransformFixedParameters}, of
.tfm: the same three as lines of text. Both map fixed points to moving points.
"""

from __future__ import annotations

import math
import platform
import re
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from RegCore.io.files import FLIP, atomic_write, check_names, shorten
from RegCore.io.h5 import check_all, check_pieces, create_h5, dataset_at, has, member, text_of
from RegCore.io.simpleitk import reason
from RegCore.io.splines import MOST_LANDMARKS, b_spline, composed, of_b_spline, thin_plate
from RegCore.space.geometry import Geometry, InputError, homogeneous
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform

if TYPE_CHECKING:
    import h5py
    import SimpleITK as sitk

TEXT_HEAD = "#Insight Transform File V1.0"
MAT_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of a number, by the tens of the type of a matrix
FIELD = "DisplacementFieldTransform"
MOST_PARTS = 1000  # of a composite transform
MOST_NUMBERS = 64  # of a transform that is not given on a grid
OLD_SPELLING = {"TransformParameters": "TranformParameters"}  # ITK 4 wrote this
OLD_SPELLING["TransformFixedParameters"] = "TranformFixedParameters"


def read_h5(path: Path) -> Transform:
    """The transform of an ITK .h5 file; parts of a composite one are composed.

    Raises:
        InputError: the file is no transform that can be read, or is damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            group = member(file, "TransformGroup") if has(file, "TransformGroup") else None
            if not isinstance(group, h5py.Group) or not len(group):
                raise InputError("not a transform of ITK: the group 'TransformGroup' is missing")
            if len(group) > MOST_PARTS:
                raise InputError(f"the transform has {len(group)} parts, more than {MOST_PARTS} are not read")
            return _joined([_read_part(member(group, name), path) for name in sorted(group, key=int)])
    except InputError:
        raise
    except (KeyError, ValueError, OSError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"not an HDF5 file, or a damaged one ({error})") from None


def _read_part(part: h5py.Group, path: Path) -> Transform | None:
    name = text_of(path, dataset_at(path, part, "TransformType"))
    if name.startswith("CompositeTransform"):
        return None
    fixed = _numbers(part, "TransformFixedParameters", 3 * MOST_LANDMARKS, path)
    kind = name.partition("_")[0].removeprefix(INVERSE)
    most = MOST_NUMBERS
    if len(fixed) == 18 and kind in (FIELD, *SPLINES):
        most = 3 * math.prod(int(n) for n in fixed[:3])
    elif kind == THIN_PLATE:
        most = len(fixed)
    return from_parameters(name, _numbers(part, "TransformParameters", most, path), fixed)


def _numbers(part: h5py.Group, key: str, most: int, path: Path) -> np.ndarray:
    old = OLD_SPELLING[key]
    dataset = dataset_at(path, part, old if has(part, old) else key)
    if dataset.dtype.kind not in "iuf":
        raise InputError(f"{key} must be numbers, but they are {dataset.dtype}")
    if dataset.size > most:
        raise InputError(f"{key} holds {dataset.size} numbers, but the transform has at most {most}")
    check_pieces(dataset)
    return np.ravel(dataset[()])


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
        if line.strip() and not line.startswith("#"):
            if not parts or key.strip() not in ("Transform", "Parameters", "FixedParameters"):
                raise InputError(f"the file is damaged: a line begins with {shorten(key)!r}")
            parts[-1][key.strip()] = value.strip()
    return _joined([_parsed(part) for part in parts])


def _parsed(part: dict[str, str]) -> Transform | None:
    if part["Transform"].startswith("CompositeTransform"):
        return None
    numbers = []
    for key in ("Parameters", "FixedParameters"):
        if key not in part:
            raise InputError(f"the file is cut or damaged: a transform has no line {key!r}")
        try:
            numbers.append(np.array([float(word) for word in part[key].split()]))
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
        result = composed(outer, result)
    return result


def from_parameters(name: str, parameters: np.ndarray, fixed: np.ndarray) -> Transform:
    """The transform that ITK calls `name`, from its parameters and fixed parameters (LPS mm).

    Raises:
        InputError: it is none of 3-D space, none that can be read, or its numbers make no sense.
    """
    kind = name.partition("_")[0]
    found = re.fullmatch(r"\w+?_(double|float)_3_3(?:_(\d))?", name)  # the last is the order of a B-spline
    if found is None:
        raise InputError(f"a transform of 3-D space was expected, but this is {name!r}")
    if not (np.isfinite(parameters).all() and np.isfinite(fixed).all()):
        raise InputError(f"the parameters of {name!r} hold values that are NaN or infinite")
    if kind == FIELD:
        return _field(parameters, fixed)
    if kind in SPLINES:
        return b_spline(parameters, fixed, int(found[2] or 3))
    if kind == THIN_PLATE:
        return thin_plate(parameters, fixed)
    if kind in (INVERSE + FIELD, INVERSE + THIN_PLATE, *(INVERSE + spline for spline in SPLINES)):
        return from_parameters(name.removeprefix(INVERSE), parameters, fixed).inverse()
    if kind == COMPOSED and len(parameters) == 12:
        parameters, kind = np.concatenate([_composed(parameters).ravel(), parameters[3:6]]), "AffineTransform"
    if kind not in MATRICES:
        return _by_simpleitk(name, parameters, fixed)
    count = MATRICES[kind]
    if len(parameters) != count:
        raise InputError(f"{name!r} has {count} parameters, but the file holds {len(parameters)}")
    if len(fixed) < 3 and (count == 12 or len(fixed)):
        raise InputError(f"{name!r} has a centre of 3 numbers, but the file holds {len(fixed)}")
    linear, centre = parameters[:9].reshape(3, 3).astype(np.float64), np.zeros(3)
    if count > 12:
        centre = parameters[9:12]
    elif len(fixed) >= 3:
        centre = fixed[:3]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, parameters[-3:] + centre - linear @ centre
    return AffineTransform(FLIP @ matrix @ FLIP)


def _composed(p: np.ndarray) -> np.ndarray:
    """Rotation, scale and skew of a ComposeScaleSkewVersor3DTransform, 3×3; SimpleITK can't read one."""
    x, y, z = p[:3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + 2 * np.sqrt(max(0.0, 1 - x * x - y * y - z * z)) * cross + 2 * cross @ cross
    return rotation @ np.diag(p[6:9]) @ np.array([[1, p[9], p[10]], [0, 1, p[11]], [0, 0, 1]])


def _by_simpleitk(name: str, parameters: np.ndarray, fixed: np.ndarray) -> Transform:
    """Any linear transform of ITK: SimpleITK reads it from the text of one that is written for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.tfm"
        lines = [TEXT_HEAD, "#Transform 0", f"Transform: {name}"]
        for key, values in (("Parameters", parameters), ("FixedParameters", fixed)):
            lines.append(f"{key}: {' '.join(repr(float(x)) for x in values)}")
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
        return read_other(path)


def read_mat(path: Path) -> Transform:
    """The transform of a .mat file of ITK or ANTs, which are matrices of MATLAB 4.

    SimpleITK does not see where such a file was cut and takes what is in memory for the missing numbers.

    Raises:
        InputError: the file is cut, or as `read_other`.
    """
    raw, at = path.read_bytes(), 0
    while at < len(raw):
        head = raw[at : at + 20].ljust(20, b"\xff")
        order = "<" if 0 <= struct.unpack("<i", head[:4])[0] < 5000 else ">"
        kind, rows, columns, imaginary, letters = struct.unpack(f"{order}5i", head)
        size = MAT_BYTES.get(kind // 10 % 10)
        if size is None or kind < 0 or min(rows, columns, imaginary, letters) < 0:
            raise InputError("the file is damaged, or not one of MATLAB 4, as ITK writes a .mat")
        at += 20 + letters + rows * columns * size * (1 + (imaginary > 0))
    if at > len(raw) or not raw:
        raise InputError("the file is cut, or not one of MATLAB 4, as ITK writes a .mat")
    return read_other(path)


def read_other(path: Path) -> Transform:
    """The transform of a file that SimpleITK reads, such as .xfm of MINC.

    Raises:
        InputError: SimpleITK can't read it, or it is of a kind that has no place here.
    """
    import SimpleITK as sitk

    for name in (path.name, *check_names(path)):  # a .xfm may have displacements in further files
        if (path.parent / name).is_file():
            check_all(path.parent / name)
    try:
        return _converted(sitk.ReadTransform(str(path)))
    except (RuntimeError, KeyError) as error:  # KeyError: a kind of ITK that SimpleITK has no name for
        raise InputError(f"the transform can't be read ({reason(error, path)})") from None


def _converted(transform: sitk.Transform) -> Transform:
    """A transform of SimpleITK as one of ours."""
    import SimpleITK as sitk

    kind = transform.GetName()
    if transform.GetDimension() != 3:
        raise InputError(f"a transform of 3-D space was expected, but this is {transform.GetDimension()}-D")
    if kind == "CompositeTransform" and not transform.IsLinear():
        parts = sitk.CompositeTransform(transform)
        each = [parts.GetNthTransform(n) for n in range(parts.GetNumberOfTransforms())]
        return _joined([None, *(_converted(part) for part in each)])
    if kind == FIELD:
        return _field(np.array(transform.GetParameters()), np.array(transform.GetFixedParameters()))
    if kind in SPLINES:
        return of_b_spline(sitk.BSplineTransform(transform))
    if not transform.IsLinear():
        raise InputError(f"transforms of the type {kind!r} can't be read")
    origin, *ends = (
        np.array(transform.TransformPoint(point)) for point in np.vstack([np.zeros(3), np.eye(3)])
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(ends, 1) - origin[:, None], origin
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


MATRICES = {  # linear transforms that hold their matrix, and how many parameters they have
    "AffineTransform": 12,
    "MatrixOffsetTransformBase": 12,
    "FixedCenterOfRotationAffineTransform": 12,
    "ScalableAffineTransform": 12,
    "Rigid3DTransform": 12,
    "CenteredAffineTransform": 15,
}
THIN_PLATE, INVERSE = "ThinPlateSplineKernelTransform", "Inverse"  # as Slicer writes them
COMPOSED = "ComposeScaleSkewVersor3DTransform"
SPLINES = ("BSplineTransform", "BSplineDeformableTransform")


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
    """An affine transform as text.

    Raises:
        InputError: the transform is a displacement field.
    """
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
