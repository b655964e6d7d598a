"""NumPy archives, the quick way between processes: keys `array`, `affine`, `kind`, or a transform.

A volume: `array` (I, J, K[, C]), `affine` 4×4 to RAS mm, `kind` "image" or "labels" (may be missing). A
displacement field: `displacement` (I, J, K, 3) RAS mm and `affine`. An affine transform: `matrix` 4×4 RAS mm.
Nothing is ever unpickled.
"""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from RegCore.io.files import DEFLATE_LIMIT, RawImage, atomic_write, byte_count, in_words, native
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume


def read(path: Path) -> RawImage | Transform:
    """The volume or the transform of an archive.

    Raises:
        InputError: a key is missing, or the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            if "matrix" in names:
                return AffineTransform(_member(archive, "matrix"))
            content = "displacement" if "displacement" in names else "array"
            missing = sorted({content, "affine"} - names)
            if missing:
                raise InputError(f"'array' and 'affine' were expected, but the key {missing[0]!r} is missing")
            affine = _member(archive, "affine")
            if content == "displacement":
                mm = _member(archive, "displacement")
                return DisplacementField(Geometry(mm.shape[:3], affine), mm)
            kind = str(_member(archive, "kind")) if "kind" in names else None
            return RawImage(_member(archive, "array"), affine, kind=kind)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InputError(f"not a NumPy archive, or a damaged one ({error})") from None


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array; its header is held against the size of the member before anything is allocated."""
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > max(info.compress_size, 1) * DEFLATE_LIMIT:
        raise InputError(f"{name!r} promises {in_words(info.file_size)}, more than the file can hold")
    with archive.open(info) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            shape, _, dtype = (reader or np.lib.format.read_array_header_2_0)(stream)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise InputError(f"{name!r} is not a NumPy array ({error})") from None
        if dtype.kind not in "biufU" or dtype.itemsize > 64:
            raise InputError(f"{name!r} must hold real numbers, but its type is {dtype}")
        promised = byte_count(shape, dtype)
        if promised > info.file_size:
            raise InputError(f"{name!r} promises {in_words(promised)}, but holds {in_words(info.file_size)}")
    with archive.open(info) as stream:
        return native(np.lib.format.read_array(stream, allow_pickle=False))


def write_volume(path: Path, volume: Volume) -> None:
    """A volume, not compressed."""
    _write(path, {"array": volume.array, "affine": volume.geometry.affine, "kind": np.array(volume.kind)})


def write_transform(path: Path, transform: Transform) -> None:
    """A displacement field or an affine transform, not compressed."""
    if isinstance(transform, AffineTransform):
        _write(path, {"matrix": transform.matrix})
    else:
        _write(path, {"displacement": transform.mm, "affine": transform.geometry.affine})


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_write(path) as side, open(side, "xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its options
