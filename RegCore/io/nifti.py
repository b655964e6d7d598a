"""NIfTI-1 and NIfTI-2 single files, plain or gzipped. nibabel reads the header, the voxels are read here."""

from __future__ import annotations

import gzip
import logging
import math
import tempfile
import zlib
from io import SEEK_END, BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from RegCore.io.files import (
    DEFLATE_LIMIT,
    FLIP,
    LPS,
    PIECE,
    RAS,
    GzipReader,
    RawImage,
    Stream,
    atomic_write,
    byte_count,
    check_length,
    ends_after,
    fortran_blocks,
    in_words,
    native,
    read_array,
    read_bytes,
    stored_type,
)
from RegCore.io.simpleitk import read_header as read_header_by_itk
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.series import Series
from RegCore.space.transforms import DisplacementField
from RegCore.space.volume import Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

log = logging.getLogger(__name__)
LABELS, DISPLACEMENT, VECTOR = 1002, 1006, 1007  # intent codes
MAPPING = b"Mapping"  # the name of SPM's deformations, which hold places in RAS mm
SCANNER = 1  # the code of a form that leads to the scanner's coordinates
FORMS = (
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
ALIKE = 1e-4  # what ITK takes for rounding: of unit directions, and of an origin in mm
TIME_UNITS = {"s": "sec", "ms": "msec", "us": "usec"}
MILLIMETRES = {1: 1000.0, 3: 0.001}  # unit codes metre and micrometre; the rest are millimetres


def read(path: Path) -> RawImage:
    """The voxels and the place of a NIfTI file.

    It is placed where ITK and Slicer place it (see `_affine`). Scaled voxels become float32. Vectors
    (5-D, (I, J, K, 1, 3)) of intent 1006 are displacements in RAS, of intent 1007 vectors in LPS, as ITK and
    ANTs write them; the places that SPM writes instead become displacements.
    """
    with open(path, "rb") as file:
        stream, header, shape, start = _begin(file, path.name.lower().endswith(".gz"))
        available = path.stat().st_size - (start if stream is file else 0)
        array = read_array(stream, shape, header.get_data_dtype(), available)
    slope, offset = float(header["scl_slope"]), float(header["scl_inter"])
    offset = offset if np.isfinite(offset) else 0.0
    scaled = np.isfinite(slope) and slope != 0 and (slope, offset) != (1, 0)
    array = _scaled(array, slope, offset) if scaled else array
    intent, affine = int(header["intent_code"]), _place(path, header, shape)
    real = array.dtype.kind == "f"  # colours are no displacements
    if len(shape) == 5 and shape[3:] == (1, 3) and real and intent in (DISPLACEMENT, VECTOR):
        signs, array = RAS if intent == DISPLACEMENT else LPS, array[:, :, :, 0]
        if header["intent_name"].item().rstrip(b"\0") == MAPPING:
            signs, array = RAS, array - Geometry(shape[:3], affine).world_grid()
        return RawImage(array, affine, signs, declared=True)
    kind = "labels" if intent == LABELS else None
    rounding = _rounding(header.get_data_dtype(), slope, offset) if scaled else 0.0
    return RawImage(array, affine, kind=kind, rounding=rounding)


def _rounding(dtype: np.dtype, slope: float, offset: float) -> float:
    """How far a value may be off: half a step of integers, and the last digits of scaled ones."""
    if dtype.kind == "f":
        return abs(slope) / 2
    largest = abs(offset) + abs(slope) * float(np.iinfo(dtype).max)
    return abs(slope) / 2 + largest * float(np.finfo(np.float32).eps)


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine from the header; InputError where `read` would refuse it, or if it is cut short.

    The end of gzip data tells their length. Where that is not the length expected (data after the voxels,
    data in several pieces), the voxels are read.
    """
    with open(path, "rb") as file:
        stream, header, shape, start = _begin(file, path.name.lower().endswith(".gz"), block=1 << 14)
        count = byte_count(shape, header.get_data_dtype())
        if stream is file:
            check_length(count, path.stat().st_size - start)
        elif not ends_after(file, start + count):
            read(path)
    affine = _affine(header)
    affine[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return shape, affine


def _begin(
    file: BufferedReader, named_gz: bool, block: int = PIECE
) -> tuple[Stream, Nifti1Header, tuple[int, ...], int]:
    """The stream put before the first voxel, the header, the shape, and the first voxel's byte."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = GzipReader(file, block) if zipped else file
    header, used = _read_header(stream, named_gz and not zipped)
    shape = _shape(header)
    _check_type(header)
    start = int(header["vox_offset"])
    if 0 <= start <= used:  # some writers leave it 0: the voxels follow the header, or the 4 bytes behind it
        count = byte_count(shape, header.get_data_dtype())
        start = used if _ends_at(file, used + count, zipped) else used + 4
    skip = start - used
    if start < 0 or skip > 1 << 28 or len(read_bytes(stream, skip)) < skip:
        raise InputError(f"the header puts the voxels at byte {header['vox_offset']}, where none can be")
    return stream, header, shape, used + skip


def _ends_at(file: BufferedReader, count: int, zipped: bool) -> bool:
    """Whether the file, or what is compressed in it, is so many bytes long; the place in the file is kept."""
    here = file.tell()
    found = ends_after(file, count) if zipped else file.seek(0, SEEK_END) == count
    file.seek(here)
    return found


def _read_header(stream: Stream, misnamed: bool) -> tuple[Nifti1Header, int]:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = read_bytes(stream, 348)
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")} if len(block) == 348 else ()
    kind: type[Nifti1Header] = Nifti1Header
    signature = block[344:348]
    if 540 in sizes:
        block += read_bytes(stream, 192)
        check_length(540, len(block))
        kind, signature = Nifti2Header, block[4:8]
    elif 348 not in sizes:
        hint = " nor compressed" if misnamed else ""
        raise InputError(f"not an image: this is not a NIfTI file{hint}")
    if signature not in (b"n+1\0", b"n+2\0"):
        raise InputError("not a NIfTI file of one piece (Analyze and .hdr/.img pairs can't be read)")
    return kind.from_fileobj(BytesIO(block), check=False), len(block)


def _shape(header: Nifti1Header) -> tuple[int, ...]:
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise InputError(f"the header is damaged: it speaks of {count} axes")
    axes = [int(n) for n in header["dim"][1 : count + 1]]
    shape = tuple(axes[:3] + [max(1, n) for n in axes[3:]])  # 0 frames: 1, as for the NIfTI library
    if count < 3:
        raise InputError(f"a 3-D volume was expected, but this is {count}-D with shape {shape}")
    if min(shape) < 1:
        raise InputError(f"the volume is empty: its shape is {shape}")
    return shape


def _check_type(header: Nifti1Header) -> None:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise InputError(f"the header names an unknown voxel type ({int(header['datatype'])})") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"voxels of one real number each were expected, but they are {_type_name(dtype)}")


def _type_name(dtype: np.dtype) -> str:
    return "colours" if dtype.names else "complex numbers" if dtype.kind == "c" else str(dtype)


def _place(path: Path, header: Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """The affine, voxel index to RAS mm; warns where another program puts the voxels elsewhere."""
    affine, grid = _affine(header), (shape[0], shape[1], shape[2])
    sform = _sform(header)
    if header["sform_code"] > 0 and abs(np.linalg.det(sform)) > 0 and np.isfinite(sform).all():
        apart = Geometry(grid, affine).distance(Geometry(grid, sform))
        if apart > 0.1 * np.linalg.norm(affine[:3, :3], axis=0).min():
            log.warning(
                "%s: it is placed where Slicer and ITK place it; its sform, which nibabel and FSL take, "
                "lies up to %.3g mm elsewhere",
                path,
                apart,
            )
        elif not _orthogonal(Geometry(grid, affine)):
            log.warning("%s: the grid is sheared, which Slicer and ITK refuse; the sform is taken", path)
    if (header["pixdim"][1:4] < 0).any():
        text = "%s: a voxel size is negative; its sign is ignored, as by nibabel, but Slicer mirrors the axis"
        log.warning(text, path)
    if not (np.abs(header["pixdim"][1:4]) > 0).all() or not np.isfinite(header["pixdim"][1:4]).all():
        log.warning("%s: a voxel size is 0 or no number; it is taken for 1, as by Slicer", path)
    affine[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _affine(header: Nifti1Header) -> np.ndarray:
    """Voxel index to RAS in the header's unit of length, by the rule of ITK and Slicer.

    The sform holds if it is orthogonal and either its code is 1 (scanner), or the qform has no code, or ITK
    takes both for alike; else the qform holds if it has a code; else the sform, sheared as it is. Sizes of
    voxels are those of pixdim, but for a sheared sform. Without codes the axes run along L, P, S from the
    origin.
    """
    sizes = _sizes(header)
    use_sform, use_qform = header["sform_code"] > 0, header["qform_code"] > 0
    if not use_sform:
        return _qform(header, sizes) if use_qform else FLIP @ np.diag([*sizes, 1.0])
    sform = _sform(header)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    directions = sform[:3, :3] / np.where(lengths > 0, lengths, 1.0)
    orthogonal = bool((np.abs(directions @ directions.T - np.eye(3)) <= ALIKE).all())
    if not orthogonal:
        return _qform(header, sizes) if use_qform else sform
    sform[:3, :3] = directions * sizes
    if header["sform_code"] == SCANNER or not use_qform:
        return sform
    qform = _qform(header, sizes)
    scale = np.array([*sizes, 1.0])
    if (np.abs(sform - qform) <= ALIKE * scale).all():
        return sform
    spans = [np.linalg.svd(form[:3, :3], compute_uv=False) for form in (_sform(header), qform)]
    apart = np.abs([spans[0] - spans[1], sform[:3, 3] - qform[:3, 3]])
    return _by_itk(header) if (apart <= 10 * ALIKE).all() else qform


def _sizes(header: Nifti1Header) -> np.ndarray:
    """Sizes of voxels in the header's unit; 1 for what is none, as for the NIfTI library, ITK and Slicer."""
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    return np.where((sizes > 0) & np.isfinite(sizes), sizes, 1.0)


def _by_itk(header: Nifti1Header) -> np.ndarray:
    """Where ITK places the grid of a header, of which it is given a copy with few voxels.

    Forms of the same sizes and origin, such as mirror images, are alike for ITK if their singular vectors
    are, and the signs of these follow from its way of computing them.
    """
    from nibabel.nifti1 import Nifti1Header

    copy = Nifti1Header()
    copy.set_data_shape((2, 2, 2))
    copy.set_data_dtype(np.uint8)
    for key in ("pixdim", "qform_code", "sform_code", *FORMS):
        copy[key] = header[key]
    copy["vox_offset"] = copy.single_vox_offset
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.nii"
        path.write_bytes(copy.binaryblock + bytes(4 + 8))
        return read_header_by_itk(path)[1]


def _sform(header: Nifti1Header) -> np.ndarray:
    rows = [header[f"srow_{axis}"] for axis in "xyz"]
    return np.array([*rows, [0, 0, 0, 1]], np.float64)


def _qform(header: Nifti1Header, sizes: np.ndarray) -> np.ndarray:
    """The qform's matrix; a quaternion that rounding made too long is shortened to 1."""
    from nibabel.quaternions import quat2mat

    vector = np.array([header[f"quatern_{part}"] for part in "bcd"], np.float64)
    rest = float(1 - vector @ vector)
    if not rest > -0.1:
        length = math.sqrt(vector @ vector)
        raise InputError(f"the qform of the header is damaged (its quaternion has the length {length:.3g})")
    if rest < 1e-7:
        vector, rest = vector / np.linalg.norm(vector), 0.0
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([math.sqrt(rest), *vector]) * sizes
    affine[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _scaled(array: np.ndarray, slope: float, offset: float) -> np.ndarray:
    if array.dtype != np.float64:
        array = array.astype(np.float32, copy=False)
    array *= array.dtype.type(slope)
    array += array.dtype.type(offset)
    return array


def read_mgh(path: Path) -> RawImage:
    """The voxels and the place of a FreeSurfer file, .mgh or .mgz."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer.mghformat import MGHError, MGHImage

    try:
        image = MGHImage.from_filename(path)
        promised = byte_count(image.shape, image.get_data_dtype())
        if promised > path.stat().st_size * DEFLATE_LIMIT:
            raise InputError(f"the header promises {in_words(promised)}, more than the file can hold")
        return RawImage(native(np.asanyarray(image.dataobj)), image.affine)
    except (ImageFileError, MGHError, EOFError, KeyError, zlib.error) as error:
        raise InputError(f"not a file of FreeSurfer, or a damaged one ({error})") from None


def write_volume(path: Path, volume: Volume) -> None:
    """A volume with its geometry in sform and qform (a sheared grid: in the sform alone); labels say so."""
    dtype = stored_type(volume.array)
    header = _header(volume.array.shape, dtype, volume.geometry)
    if volume.kind == "labels":
        header.set_intent(LABELS)
    if not _orthogonal(volume.geometry):
        log.warning("%s: the grid is sheared, so Slicer and ITK won't read it; .nrrd holds it for them", path)
    _write(path, header, volume.array, dtype)


def read_step(path: Path) -> tuple[float, str]:
    """The time between frames as the header has it, and its unit ("s", "ms", "us", or "" where unknown).

    Raises:
        InputError: this is no NIfTI file.
    """
    with open(path, "rb") as file:
        header = _begin(file, path.name.lower().endswith(".gz"), block=1 << 14)[1]
    code = header.get_xyzt_units()[1]
    return float(header["pixdim"][4]), next((u for u, name in TIME_UNITS.items() if name == code), "")


def write_series(path: Path, series: Series) -> None:
    """The frames as a 4-D image, with the time between them where it is everywhere the same."""
    dtype = stored_type(series.array)
    header = _header(series.array.shape, dtype, series.geometry)
    header["pixdim"][4] = series.step() or 0.0
    header.set_xyzt_units("mm", TIME_UNITS.get(series.unit))
    _write(path, header, series.array, dtype)


def write_field(path: Path, field: DisplacementField) -> None:
    """A displacement field as Slicer writes it: intent 1006, (I, J, K, 1, 3) float32, RAS mm."""
    if not _orthogonal(field.geometry):
        raise InputError(f"{path}: the grid is sheared, which NIfTI readers don't accept; save it as .h5")
    header = _header((*field.geometry.shape, 1, 3), np.dtype(np.float32), field.geometry)
    header.set_intent(DISPLACEMENT, allow_unknown=True)
    _write(path, header, field.mm, np.dtype(np.float32))


def _orthogonal(geometry: Geometry) -> bool:
    direction = geometry.direction
    return bool(np.abs(direction.T @ direction - np.eye(3)).max() < 1e-4)


def _header(shape: tuple[int, ...], dtype: np.dtype, geometry: Geometry) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header = Nifti1Header() if max(shape) < 1 << 15 else Nifti2Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["pixdim"][1:4] = geometry.spacing
    if _orthogonal(geometry):
        header.set_qform(geometry.affine, code="scanner")
    header.set_sform(geometry.affine, code="scanner")
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header


def _write(path: Path, header: Nifti1Header, array: np.ndarray, dtype: np.dtype) -> None:
    head = header.as_byteswapped("<").binaryblock
    head += bytes(int(header["vox_offset"]) - len(head))  # 4 zero bytes: no extensions
    with atomic_write(path) as side, open(side, "xb") as file:
        if not path.name.lower().endswith(".gz"):
            file.writelines([head])
            file.writelines(fortran_blocks(array, dtype))
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            stream.write(head)
            for block in fortran_blocks(array, dtype):
                stream.write(block)
