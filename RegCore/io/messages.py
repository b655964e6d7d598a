"""Hands volumes, transforms, arrays and plain values from one process to another in one .npz file."""

import json
import os
from pathlib import Path

import numpy as np

from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

DESCRIPTION = "description"  # the entry of the file that says, in JSON, what the other entries are


def write(path, things: dict) -> None:
    """Write named things to `path`: under another name first, so that the file is there whole or not at all.

    things: names without "/" to Volume, AffineTransform, DisplacementField, NumPy arrays of numbers, or what
    JSON can say (None, bool, numbers, text, lists, mappings; NumPy's scalars become numbers and the keys of
    mappings text). Raises TypeError for anything else; OSError if the disk refuses.
    """
    arrays, description = {}, {}
    for name, thing in things.items():
        description[name] = _pack(name, thing, arrays)
    text = json.dumps(description, default=_plain)
    arrays[DESCRIPTION] = np.frombuffer(text.encode(), np.uint8)
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        np.savez(file, **arrays)
    os.replace(aside, path)


def read(path) -> dict:
    """The things that `write` put into the file, by name. Nothing in the file can run code."""
    with np.load(path, allow_pickle=False) as arrays:
        description = json.loads(arrays[DESCRIPTION].tobytes().decode())
        return {name: _unpack(name, what, arrays) for name, what in description.items()}


def _pack(name: str, thing, arrays: dict) -> dict:
    if isinstance(thing, Volume):
        arrays[f"{name}/array"], arrays[f"{name}/affine"] = thing.array, thing.geometry.affine
        return {"type": "volume", "kind": thing.kind}
    if isinstance(thing, AffineTransform):
        arrays[f"{name}/matrix"] = thing.matrix
        return {"type": "affine"}
    if isinstance(thing, DisplacementField):
        arrays[f"{name}/mm"], arrays[f"{name}/affine"] = thing.mm, thing.geometry.affine
        if thing.affine is not None:
            arrays[f"{name}/matrix"] = thing.affine.matrix
        return {"type": "field", "has_affine": thing.affine is not None}
    if isinstance(thing, np.ndarray):
        if thing.dtype.kind not in "biuf":
            raise TypeError(f"{name}: an array of numbers was expected, but it holds {thing.dtype}")
        arrays[f"{name}/array"] = thing
        return {"type": "array"}
    return {"type": "value", "value": thing}


def _unpack(name: str, what: dict, arrays):
    kind = what["type"]
    if kind == "value":
        return what["value"]
    if kind == "array":
        return arrays[f"{name}/array"]
    if kind == "affine":
        return AffineTransform(arrays[f"{name}/matrix"])
    if kind == "volume":
        array = arrays[f"{name}/array"]
        return Volume(array, Geometry(array.shape[:3], arrays[f"{name}/affine"]), what["kind"])
    mm = arrays[f"{name}/mm"]
    affine = AffineTransform(arrays[f"{name}/matrix"]) if what["has_affine"] else None
    return DisplacementField(Geometry(mm.shape[:3], arrays[f"{name}/affine"]), mm, affine)


def _plain(value):
    """What JSON writes for a value that it does not know: NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} can't be handed to another process")
