"""Series of frames: 4-D NIfTI, Slicer's sequences (.seq.nrrd), folders of DICOM; sequences of transforms."""

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from RegCore.io import check_there, dicom, enhanced, named, nifti, nrrd
from RegCore.io.files import RawImage, atomic_write, stored_type
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.series import Series
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform

NIFTI, NRRD = (".nii", ".nii.gz"), (".nrrd", ".nhdr")
SAVED = (".nii.gz", ".nii", ".seq.nrrd", ".nrrd")
FRAME = "measurement frame: (1,0,0) (0,1,0) (0,0,1)\n"  # without it Slicer takes no vector for one of space
NODE = "DataNodeClassName:=vtkMRMLScalarVolumeNode\n"


def load_series(path: str | os.PathLike, *, series: str | None = None) -> Series:
    """The frames of a 4-D file, or of a folder of DICOM.

    Args:
        path: a 4-D NIfTI file, a sequence of volumes of Slicer (.seq.nrrd), a file of Enhanced DICOM, or a
            folder of DICOM slices or of Enhanced DICOM in which each place occurs once for each frame.
        series: the UID of the DICOM series to take where a folder holds several.

    Returns:
        The frames in their order, their voxels as they are stored. Times are those of the file: the index
        values of a sequence, multiples of the step of a NIfTI header, the numbers 0, 1, 2 … of DICOM.

    Raises:
        InputError: one sentence that names the file: it holds no frames, or is damaged.

    Examples:
        >>> import numpy as np
        >>> import RegCore
        >>> grid = RegCore.Geometry((4, 5, 6), np.eye(4))
        >>> frames = RegCore.Series(np.zeros((4, 5, 6, 3), np.float32), grid, ("0", "0.5", "1"), "time", "s")
        >>> RegCore.save_series(frames, "frames.seq.nrrd")
        >>> RegCore.load_series("frames.seq.nrrd").times
        ('0', '0.5', '1')
    """
    path = Path(path)
    name = path.name.lower()
    with named(path):
        check_there(path)
        if path.is_dir():
            return _of(_dicom(path, dicom.series_files(path, series)))
        if series is not None:
            raise InputError("a DICOM series can be chosen from a folder only, and this is a file")
        if name.endswith(NRRD):
            return _of(nrrd.read(path), *_sequence_times(nrrd.read_fields(path)))
        if name.endswith(NIFTI):
            found = nifti.read(path)
            step, unit = nifti.read_step(path)
            return _of(found, _multiples(step, found.array.shape), "time" if unit else "frame", unit)
        if enhanced.is_dicom(path):
            return _of(_dicom(path, [str(path)]))
        raise InputError(f"a series is a file {', '.join(SAVED)}, Enhanced DICOM or a folder of DICOM")


def _dicom(path: Path, files: Sequence[str]) -> RawImage:
    """The frames of DICOM files with one slice each, or with many."""
    if enhanced.holds_frames(Path(files[0])):
        return enhanced.read_frames([Path(file) for file in files])
    return dicom.read_frames(path, files)


def _of(found: RawImage, times: Sequence[str] = (), axis: str = "frame", unit: str = "") -> Series:
    """The series of an array with one axis more than space has."""
    array = found.array
    if array.ndim == 5 and array.shape[4] == 1:
        array = array[..., 0]
    if found.declared or array.ndim not in (3, 4):
        raise InputError(f"frames of one channel were expected, but the array is {array.shape}")
    if array.ndim == 3:
        raise InputError("a series of frames was expected, but this is a single volume")
    grid = Geometry((array.shape[0], array.shape[1], array.shape[2]), found.affine)
    return Series(array, grid, times if len(times) == array.shape[3] else (), axis, unit)


def _multiples(step: float, shape: Sequence[int]) -> tuple[str, ...]:
    """The times of frames that a header spaces evenly; none where it does not say how."""
    if len(shape) < 4 or not (np.isfinite(step) and step > 0):
        return ()
    return tuple(f"{t * step:.6g}" for t in range(shape[3]))


def _sequence_times(fields: dict[str, str]) -> tuple[tuple[str, ...], str, str]:
    """Index values, name and unit of the axis of a sequence of Slicer, as far as the header has them."""
    kinds = fields.get("kinds", "").split()
    place = kinds.index("list") if "list" in kinds else len(kinds) - 1
    values = next(
        (fields[f"axis {n} index values"] for n in (3, 0) if f"axis {n} index values" in fields), ""
    )
    texts = [_quoted(fields.get(name, ""), place) for name in ("labels", "units")]
    return tuple(unquote(value) for value in values.split()), texts[0] or "frame", texts[1]


def _quoted(text: str, place: int) -> str:
    """The n-th of the texts between quotation marks; "" where there are fewer."""
    parts = text.split('"')[1::2]
    return parts[place] if 0 <= place < len(parts) else ""


def save_series(series: Series, path: str | os.PathLike) -> None:
    """Write a series as a 4-D NIfTI file or as a sequence of volumes of Slicer, whole or not at all.

    Args:
        series: the frames.
        path: ending with .nii.gz, .nii, or .seq.nrrd.

    Raises:
        InputError: one sentence that names the file, for another ending and where it can't be written.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(NIFTI):
        nifti.write_series(path, series)
        return
    if not name.endswith(".nrrd"):
        raise InputError(f"{path}: series can't be saved with this ending (possible: {', '.join(SAVED)})")
    dtype = stored_type(series.array)
    kinds, marks = "domain domain domain list", _marks(series, 3)
    head = nrrd.make_header(
        series.array.shape, dtype, series.geometry.affine, kinds, "gzip", marks[0] + NODE + marks[1]
    )
    nrrd.write_gzip(path, series.array, dtype, head)


def _marks(series: Series, place: int) -> tuple[str, str]:
    """Lines for the header of a sequence: fields that name its axis, and metadata with its index values."""
    empty = '"" ' * place
    fields = f'labels: {empty}"{series.axis}"\nunits: {empty}"{series.unit}"\n'
    numeric = all(_is_number(time) for time in series.times)
    kind = f"axis 3 index type:={'numeric' if numeric else 'text'}\n"
    return fields, f"{kind}axis 3 index values:={' '.join(quote(time) for time in series.times)}\n"


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def save_transforms(
    transforms: Iterable[Transform], series: Series, path: str | os.PathLike, grid: Geometry | None = None
) -> None:
    """Write a transform for each frame as Slicer's sequence of grid transforms (.seq.nrrd).

    Slicer reads it as a sequence of transforms whose index values are the times of the series, so that one
    sequence browser shows frames and transforms together. Displacements are float32 in LPS mm, of the kind
    "resampling": they take points of the fixed image to the frame.

    Args:
        transforms: as many as there are frames, fixed to frame.
        series: the frames.
        path: ending with .seq.nrrd.
        grid: of all the fields; by default that of the first field, or, where all transforms are affine, the
            eight corners of the series, between which interpolation is exact.

    Raises:
        InputError: another ending, another number of transforms, or the file can't be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(".seq.nrrd"):
        raise InputError(f"{path}: a sequence of transforms is saved as .seq.nrrd")
    listed = list(transforms)
    if len(listed) != len(series):
        raise InputError(
            f"{path}: {len(series)} transforms were expected, one for each frame, not {len(listed)}"
        )
    if grid is None:
        corners = series.geometry.resized(tuple(min(n, 2) for n in series.geometry.shape))
        fields_given = (transform for transform in listed if isinstance(transform, DisplacementField))
        grid = next((field.geometry for field in fields_given), corners)
    fields, values = _marks(series, 4)
    shape, kinds = (3, *grid.shape, len(listed)), "vector domain domain domain list"
    marks = fields + FRAME + values + nrrd.DISPLACEMENTS
    head = nrrd.make_header(shape, np.dtype(np.float32), grid.affine, kinds, "gzip", marks)
    with atomic_write(path) as side, open(side, "xb") as file:
        file.write(head)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            for transform in listed:
                for block in nrrd.displacement_blocks(_on(transform, grid)):
                    stream.write(block)


def _on(transform: Transform, grid: Geometry) -> DisplacementField:
    if isinstance(transform, AffineTransform):
        return DisplacementField.from_affine(transform, grid)
    return transform.resampled(grid)
