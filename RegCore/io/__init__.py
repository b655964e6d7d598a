"""Files in and out: volumes, transforms, points. The only place that knows formats, LPS and nibabel.

Volumes: .nii .nii.gz .nrrd .mha .npz; read also: .mgz, folders of DICOM, and what SimpleITK knows.
Transforms: .h5 .nrrd .nii.gz .npz for displacement fields, .h5 .tfm .txt .npz for affine ones; read also:
.mat .xfm. Whatever the file holds (LPS, voxel order, byte order), what comes back is (I, J, K[, C]) with
RAS mm. Every `InputError` is one sentence that names the file.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from RegCore.io import dicom, elastix, enhanced, itk, nifti, npz, nrrd, simpleitk
from RegCore.io.files import RawImage, check_regular
from RegCore.io.splines import composed
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, slabs

READERS: dict[str, Callable] = {
    ".nii.gz": nifti.read,
    ".nii": nifti.read,
    ".nrrd": nrrd.read,
    ".nhdr": nrrd.read,
    ".mgz": nifti.read_mgh,
    ".mgh": nifti.read_mgh,
    ".npz": npz.read,
    ".h5": itk.read_h5,
    ".tfm": itk.read_text,
    ".txt": elastix.read,
    ".mat": itk.read_mat,
    ".xfm": itk.read_other,
}
HEADERS: dict[str, Callable] = {
    ".nii.gz": nifti.read_header,
    ".nii": nifti.read_header,
    ".nrrd": nrrd.read_header,
    ".nhdr": nrrd.read_header,
}
VOLUME_WRITERS: dict[str, Callable] = {
    ".nii.gz": nifti.write_volume,
    ".nii": nifti.write_volume,
    ".nrrd": nrrd.write_volume,
    ".mha": simpleitk.write_mha,
    ".npz": npz.write_volume,
}
AFFINE_WRITERS: dict[str, Callable] = {
    ".h5": itk.write_h5,
    ".tfm": itk.write_text,
    ".txt": itk.write_text,
    ".npz": npz.write_transform,
}
FIELD_WRITERS: dict[str, Callable] = {
    ".h5": itk.write_h5,
    ".nrrd": nrrd.write_field,
    ".nii.gz": nifti.write_field,
    ".nii": nifti.write_field,
    ".npz": npz.write_transform,
}
KINDS = (None, "image", "labels", "transform")


def load(
    path: str | os.PathLike, kind: str | None = None, *, series: str | Sequence[str] | None = None
) -> Volume | Transform:
    """What a file holds, as a `Volume`, an `AffineTransform` or a `DisplacementField`.

    Images keep their stored type (scaled ones become float32); one-frame 4-D files are squeezed. Labels
    become whole numbers; a 4-D label map holds one binary channel per structure.

    Args:
        path: the file, or a folder of DICOM slices.
        kind: what is expected: "image", "labels" or "transform". None takes what the file says: a transform
            where it declares one, else the kind it names, else an image.
        series: the UID of the series to take from a folder that holds several; of several, the one that is
            there.

    Raises:
        InputError: one sentence that names the file.

    Examples:
        >>> import RegCore
        >>> pair = RegCore.make_phantom(fixed_shape=(12, 10, 9), moving_shape=(11, 12, 10))
        >>> RegCore.save(pair.moving_labels, "moving_seg.nii.gz")
        >>> segmentation = RegCore.load("moving_seg.nii.gz", kind="labels")
        >>> segmentation.kind, segmentation.array.shape
        ('labels', (11, 12, 10))
    """
    path = Path(path)
    if kind not in KINDS:
        raise InputError(f"the kind of a file is 'image', 'labels' or 'transform', not {kind!r}")
    with named(path):
        return _as_kind(_contents(path, series), kind)


def load_chain(paths: Sequence[str | os.PathLike]) -> Transform:
    """The transform of several files, of which the first is the first to map a point of the fixed image.

    That is the order of ANTs: ``1Warp.nii.gz 0GenericAffine.mat``.

    Raises:
        InputError: one sentence that names the file.
    """
    chain = [found for path in paths if not isinstance(found := load(path, "transform"), Volume)]
    result = chain[0]
    for outer in chain[1:]:
        result = composed(outer, result)
    return result


def load_voxels(path: str | os.PathLike) -> tuple[np.ndarray, Geometry]:
    """The voxels of a file as they are stored, (I, J, K) or (I, J, K, C), and their grid.

    What they stand for is left to the caller: soft labels and many channels pass.

    Raises:
        InputError: one sentence that names the file.
    """
    path = Path(path)
    with named(path):
        found = _contents(path)
        if not isinstance(found, RawImage):
            raise InputError("a volume was expected, but the file holds a transform")
        if found.declared:
            raise InputError("a volume was expected, but the file holds displacements in mm, a transform")
        array = found.array.reshape(_without_frames(found.array.shape))
        return array, _grid(array.shape, found.affine)


def read_header(path: str | os.PathLike) -> tuple[tuple[int, ...], Geometry]:
    """Shape (I, J, K) or (I, J, K, C) and grid of a file of voxels from its header, without its voxels.

    Raises:
        InputError: as `load`, also for a file that is cut short; damage in the midst of compressed voxels
            shows when they are read.
    """
    path = Path(path)
    with named(path):
        check_there(path)
        reader = _by_suffix(HEADERS, path)
        if reader is None and (path.is_dir() or _by_suffix(READERS, path) or enhanced.is_dicom(path)):
            found = _contents(path)
            if not isinstance(found, RawImage):
                raise InputError("a volume was expected, but the file holds a transform")
            shape, affine = found.array.shape, found.affine
        else:
            shape, affine = (reader or simpleitk.read_header)(path)
        shape = _without_frames(shape)
        return shape, _grid(shape, affine)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Every error of reading as one sentence that names the file."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite header is refused by Geometry
            yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error
    except (ValueError, OverflowError) as error:  # numbers in a header that make no sense
        raise InputError(f"{path}: the file is damaged ({error})") from error


def _contents(path: Path, series: str | Sequence[str] | None = None) -> RawImage | Transform:
    """What is in a file or in a folder of DICOM: by its ending, or, for any other ending, by SimpleITK."""
    check_there(path)
    if path.is_dir():
        return dicom.read_folder(path, [series] if isinstance(series, str) else series)
    if series is not None:
        raise InputError("a DICOM series can be chosen from a folder only, and this is a file")
    return (_by_suffix(READERS, path) or dicom.read)(path)


def _grid(shape: Sequence[int], affine: np.ndarray) -> Geometry:
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _without_frames(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without the axes of one frame that some writers put behind I, J, K."""
    shape = tuple(shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    if len(shape) not in (3, 4):
        raise InputError(f"a 3-D volume was expected, but this is {len(shape)}-D with shape {shape}")
    return shape


def save(thing: Volume | Transform, path: str | os.PathLike) -> None:
    """Write a volume or a transform in the format that the ending of the path names, whole or not at all.

    Args:
        thing: a `Volume`, an `AffineTransform` or a `DisplacementField`.
        path: the file to write.

    Raises:
        InputError: one sentence that names the file, for a format that can't hold it and for a folder that
            can't be written to or is full; what was there before then stays.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> RegCore.save(RegCore.AffineTransform(np.eye(4)), "identity.tfm")
        >>> RegCore.load("identity.tfm").map([1.0, 2.0, 3.0]).tolist()
        [1.0, 2.0, 3.0]
    """
    path = Path(path)

    if isinstance(thing, Volume):
        writers, name = VOLUME_WRITERS, "a volume"
    elif isinstance(thing, AffineTransform):
        writers, name = AFFINE_WRITERS, "an affine transform"
    elif isinstance(thing, DisplacementField):
        writers, name = FIELD_WRITERS, "a displacement field"
    else:
        raise TypeError(f"a Volume or a transform can be saved, not {type(thing).__name__}")
    writer = _by_suffix(writers, path)
    if writer is None:
        text = f"files with this ending can't be saved as {name} (possible: {', '.join(writers)})"
        raise InputError(f"{path}: {text}")
    writer(path, thing)


def _by_suffix(table: dict[str, Callable], path: Path) -> Callable | None:
    name = path.name.lower()
    return next((table[end] for end in sorted(table, key=len, reverse=True) if name.endswith(end)), None)


def check_there(path: Path) -> None:
    """Check that there is something to read.

    Raises:
        InputError: there is no such file, or it is empty.
        OSError: it is a device or a pipe.
    """
    if not path.exists():
        raise InputError("there is no such file")
    check_regular(path)
    if path.is_file() and path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)")


def _as_kind(found: RawImage | Transform, kind: str | None) -> Volume | Transform:
    if not isinstance(found, RawImage):
        if kind in ("image", "labels"):
            raise InputError(f"{_EXPECTED[kind]} was expected, but the file holds a transform")
        return found
    if kind == "transform" or (kind is None and found.declared):
        return _field(found)
    if kind is None:
        kind = found.kind or "image"
    array = found.array
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim < 3:
        raise InputError(f"a 3-D volume was expected, but this is {array.ndim}-D with shape {array.shape}")
    if kind == "image" and array.ndim > 3 or array.ndim > 4:
        frames = int(np.prod(array.shape[3:]))
        raise InputError(f"one 3-D image was expected, but the file holds {frames} frames {array.shape}")
    array = _whole_numbers(array, found.rounding) if kind == "labels" else array
    segments = found.segments if kind == "labels" else ()
    padding = found.padding if kind == "image" else None
    return Volume(array, _grid(array.shape, found.affine), kind, segments, padding)


_EXPECTED = {"image": "an image", "labels": "a label map"}


def _field(found: RawImage) -> DisplacementField:
    if found.vectors is None or found.array.ndim != 4 or found.array.shape[3] != 3:
        raise InputError(f"a transform was expected, but the file holds voxels of shape {found.array.shape}")
    mm = found.array.astype(np.float32, order="C")
    mm *= np.array(found.vectors, np.float32)
    return DisplacementField(_grid(mm.shape, found.affine), mm)


def _whole_numbers(array: np.ndarray, rounding: float) -> np.ndarray:
    """Label values as integers.

    A value is whole if it is so to within what storing it may have changed: half a step of a scale factor
    below 1 (a step of 1 and more can't be undone), or the last digits of a float.
    """
    if array.dtype.kind in "biu" and array.ndim == 3:
        return array
    slack = rounding * 1.001 if 2 * rounding < 1 else 0.0
    channels = array.ndim == 4
    for plane in slabs(array):
        nearest = np.rint(plane)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(plane - nearest) <= slack + 1e-6 * np.maximum(1, np.abs(nearest)))
        if channels and (wrong.any() or not ((nearest == 0) | (nearest == 1)).all()):
            raise InputError("a 4-D label map must hold 0 and 1 only, one channel per structure")
        if wrong.any():
            value = plane[wrong][0]
            raise InputError(f"a label map must hold whole numbers, but it holds {value:.9g}")
    if channels:
        return _rounded(array, np.uint8)
    low, high = array.min(), array.max()
    for dtype in (np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return _rounded(array, dtype)
    raise InputError(f"the labels must fit 64-bit integers, but they go from {low:g} to {high:g}")


def _rounded(array: np.ndarray, dtype: type) -> np.ndarray:
    """The nearest integers, slab by slab: no second copy of the volume."""
    found: np.ndarray = np.empty_like(array, dtype)
    for target, plane in zip(slabs(found), slabs(array), strict=True):
        target[...] = np.rint(plane)
    return found
