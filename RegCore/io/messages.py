"""Hands volumes, transforms, arrays and plain values from one process to another in one .npz file."""

import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.io.scratch import LOCK
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Segment, Volume

ATTEMPTS = 10  # times that a folder is removed which others still write to
DESCRIPTION = "description"  # the entry of the file that says, in JSON, what the other entries are


def write(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Write named values to a file: under another name first, so that it is there whole or not at all.

    Args:
        path: the file to write.
        values: names without "/" to Volume, AffineTransform, DisplacementField, NumPy arrays of numbers, or
            what JSON can say (None, bool, numbers, text, lists, mappings; NumPy's scalars become numbers and
            the keys of mappings text).

    Raises:
        TypeError: a value of another type.
        OSError: the disk refuses.
    """
    arrays: dict[str, np.ndarray] = {}
    description = {name: _pack(name, value, arrays) for name, value in values.items()}
    text = json.dumps(description, default=_plain)
    arrays[DESCRIPTION] = np.frombuffer(text.encode(), np.uint8)
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for its options
    os.replace(aside, path)


def size(values: Mapping[str, Any]) -> int:
    """The bytes of the arrays among values that `write` takes."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in values.items():
        _pack(name, value, arrays)
    return sum(array.nbytes for array in arrays.values())


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The values that `write` put into the file, by name. Nothing in the file can run code.

    Raises:
        ValueError, KeyError: the file is damaged.
        OSError: it can't be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            description = json.loads(arrays[DESCRIPTION].tobytes().decode())
            return {name: _unpack(name, what, arrays) for name, what in description.items()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, RecursionError) as error:
        raise ValueError(f"{path}: the message is damaged ({error})") from error


def discard(folder: Path) -> None:
    """Remove the private folder of a request whose sender is gone; a folder of another kind stays."""
    if not (folder / LOCK).is_file():
        return
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)  # a file of the request is just being written or read


def _pack(name: str, value: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(value, Volume):
        arrays[f"{name}/array"], arrays[f"{name}/affine"] = value.array, value.geometry.affine
        segments = [asdict(segment) for segment in value.segments]
        return {"type": "volume", "kind": value.kind, "segments": segments}
    if isinstance(value, AffineTransform):
        arrays[f"{name}/matrix"] = value.matrix
        return {"type": "affine"}
    if isinstance(value, DisplacementField):
        arrays[f"{name}/mm"], arrays[f"{name}/affine"] = value.mm, value.geometry.affine
        if value.affine is not None:
            arrays[f"{name}/matrix"] = value.affine.matrix
        return {"type": "field", "has_affine": value.affine is not None}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{name}: an array of numbers was expected, but it holds {value.dtype}")
        arrays[f"{name}/array"] = value
        return {"type": "array"}
    return {"type": "value", "value": value}


def _unpack(name: str, what: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    kind = what["type"]
    if kind == "value":
        return what["value"]
    if kind == "array":
        return arrays[f"{name}/array"]
    if kind == "affine":
        return AffineTransform(arrays[f"{name}/matrix"])
    if kind == "volume":
        array = arrays[f"{name}/array"]
        segments = tuple(_segment(fields) for fields in what["segments"])
        grid = Geometry(array.shape[:3], arrays[f"{name}/affine"])
        return Volume(array, grid, what["kind"], segments)
    mm = arrays[f"{name}/mm"]
    affine = AffineTransform(arrays[f"{name}/matrix"]) if what["has_affine"] else None
    return DisplacementField(Geometry(mm.shape[:3], arrays[f"{name}/affine"]), mm, affine)


def _segment(fields: dict[str, Any]) -> Segment:
    colour = fields["colour"]
    return Segment(**{**fields, "colour": None if colour is None else tuple(colour)})


def _plain(value: object) -> Any:
    """What JSON writes for a value that it does not know: NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} can't be handed to another process")
