"""Writes DICOM files by hand, also Enhanced MR: many frames in one, their places in functional groups."""

import struct
from pathlib import Path

import numpy as np

from RegCore.space.series import Series
from Testing.RegCore.grids import LPS

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
LONG = ("OB", "OW", "SQ", "UN")


def element(group: int, number: int, kind: str, value) -> bytes:
    """An element in explicit VR, little endian; a sequence is a list of items, each of them bytes."""
    if kind == "SQ":
        items = [struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value]
        content = b"".join(items)
    elif kind in ("US", "UL"):
        numbers = value if isinstance(value, list | tuple) else [value]
        content = b"".join(struct.pack("<H" if kind == "US" else "<I", number) for number in numbers)
    else:
        content = value if isinstance(value, bytes) else str(value).encode()
        content += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(content) % 2)
    head = struct.pack("<HH", group, number) + kind.encode()
    if kind in LONG:
        return head + struct.pack("<HI", 0, len(content)) + content
    return head + struct.pack("<H", len(content)) + content


def numbers(values) -> str:
    return "\\".join(f"{value:.6f}".rstrip("0") for value in values)


def write_enhanced(path: Path, series: Series, order=None, slopes=None, times: bool = True) -> None:
    """One Enhanced MR file with every slice of every frame.

    order: of the slices, as (frame, place); by default frame by frame. slopes: of the values, by frame.
    times: whether the slices say which frame they are of.
    """
    grid = series.geometry
    i, j, k = grid.shape
    row, column = grid.direction.T[:2] * LPS
    order = order or [(t, place) for t in range(len(series)) for place in range(k)]
    frames, voxels = [], []
    for t, place in order:
        content = element(0x20, 0x9057, "UL", place + 1)
        content += element(0x20, 0x9128, "UL", t + 1) if times else b""
        slope = (slopes or {}).get(t, 1.0)
        value = element(0x28, 0x1052, "DS", "0") + element(0x28, 0x1053, "DS", slope)
        value += element(0x28, 0x1054, "LO", "US")
        where = element(0x20, 0x32, "DS", numbers(grid.to_world([0, 0, place]) * LPS))
        frames.append(
            element(0x20, 0x9111, "SQ", [content])
            + element(0x20, 0x9113, "SQ", [where])
            + element(0x28, 0x9145, "SQ", [value])
        )
        voxels.append(series.array[:, :, place, t].T.astype("<i2").tobytes())
    measures = element(0x18, 0x50, "DS", f"{grid.spacing[2]:.6f}")
    measures += element(0x28, 0x30, "DS", numbers([grid.spacing[1], grid.spacing[0]]))
    shared = element(0x20, 0x9116, "SQ", [element(0x20, 0x37, "DS", numbers([*row, *column]))])
    shared += element(0x28, 0x9110, "SQ", [measures])
    body = [
        (0x8, 0x16, "UI", ENHANCED_MR), (0x8, 0x18, "UI", "1.2.3.4.5"), (0x8, 0x60, "CS", "MR"),
        (0x20, 0xD, "UI", "1.2.3"), (0x20, 0xE, "UI", "1.2.3.4"), (0x28, 0x2, "US", 1),
        (0x28, 0x4, "CS", "MONOCHROME2"), (0x28, 0x8, "IS", len(order)), (0x28, 0x10, "US", j),
        (0x28, 0x11, "US", i), (0x28, 0x100, "US", 16), (0x28, 0x101, "US", 16), (0x28, 0x102, "US", 15),
        (0x28, 0x103, "US", 1), (0x5200, 0x9229, "SQ", [shared]), (0x5200, 0x9230, "SQ", frames),
        (0x7FE0, 0x10, "OW", b"".join(voxels)),
    ]  # fmt: skip
    write_dicom(path, body)


def write_dicom(path: Path, body: list[tuple]) -> None:
    """A DICOM file of the given elements (group, number, kind, value), which begin with the class of SOP."""
    uids = {number: value for group, number, _, value in body if group == 8 and number in (0x16, 0x18)}
    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", uids[0x16]) + element(2, 3, "UI", uids[0x18])
    meta += element(2, 0x10, "UI", LITTLE_ENDIAN) + element(2, 0x12, "UI", "1.2.3.9")
    head = b"\0" * 128 + b"DICM" + element(2, 0, "UL", len(meta)) + meta
    path.write_bytes(head + b"".join(element(*parts) for parts in body))


def shuffled(series: Series) -> list[tuple[int, int]]:
    """The slices of a series in no order."""
    order = [(t, place) for t in range(len(series)) for place in range(series.geometry.shape[2])]
    return [order[n] for n in np.random.default_rng(0).permutation(len(order))]
