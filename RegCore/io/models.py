"""Models in files: .vtk .vtp .stl .ply, whose points are taken through a transform while all else stays.

Slicer writes into the header whether a file is in LPS or in RAS mm (``SPACE=LPS``); a file that says nothing
is in LPS, as Slicer takes it. What is written is in the space of the file that was read.
"""

import base64
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RegCore.io.files import LPS, RAS, atomic_write, check_regular, shorten
from RegCore.space.geometry import InputError

TYPES = {"float": "f4", "double": "f8", "Float32": "f4", "Float64": "f8"}
VTK_TYPES = {"short": "i2", "unsigned_short": "u2", "int": "i4", "unsigned_int": "u4", **TYPES}
PLY_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", **TYPES}
PLY_TYPES |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
PLY_TYPES |= {"float32": "f4", "float64": "f8"}
PLY_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])


@dataclass(frozen=True)
class _Model:
    points: np.ndarray  # (N, 3) as in the file
    rebuilt: Callable[[np.ndarray], bytes]  # the file with other points
    space: bytes  # what may say SPACE=RAS


def transform_model(path: Path, mapping: Callable[[np.ndarray], np.ndarray], out: Path) -> int:
    """Write a model whose points are those of another one, mapped; cells, colours and other data stay.

    Args:
        path: a file .vtk, .vtp, .stl or .ply.
        mapping: points (N, 3) RAS mm to points (N, 3) RAS mm.
        out: the file to write, of the same ending.

    Returns:
        The number of points.

    Raises:
        InputError: one sentence that names the file.
    """
    readers = {".vtk": _vtk, ".vtp": _vtp, ".stl": _stl, ".ply": _ply}
    ending = path.suffix.lower()
    if ending not in readers:
        raise InputError(f"{path}: models are read from {', '.join(readers)}, not from this ending")
    if out.suffix.lower() != ending:
        raise InputError(
            f"{out}: a model is written in its own format, so {ending} was expected as its ending"
        )
    try:
        check_regular(path)
        model = readers[ending](path.read_bytes())
        if not len(model.points) or not np.isfinite(model.points).all():
            raise InputError("a model with points of finite numbers was expected")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from None
    except (ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error, OverflowError) as error:
        raise InputError(f"{path}: the model is damaged ({shorten(str(error))})") from None
    signs = np.array(RAS if b"SPACE=RAS" in model.space else LPS)
    with atomic_write(out) as side:
        side.write_bytes(model.rebuilt(mapping(model.points * signs) * signs))
    return len(model.points)


# ---- STL ---------------------------------------------------------------------------------------------------


def _stl(data: bytes) -> _Model:
    count = int.from_bytes(data[80:84], "little")
    if len(data) < 84 or len(data) != 84 + 50 * count:
        return _stl_text(data)
    facets = np.frombuffer(data, FACET, count, 84)

    def rebuilt(points: np.ndarray) -> bytes:
        new = facets.copy()
        new["corners"] = points.reshape(-1, 3, 3)
        new["normal"] = _normals(points)
        return data[:84] + new.tobytes()

    return _Model(facets["corners"].reshape(-1, 3).astype(np.float64), rebuilt, data[:80])


def _normals(points: np.ndarray) -> np.ndarray:
    """Normals of triangles whose corners follow each other."""
    a, b, c = (points.reshape(-1, 3, 3)[:, n] for n in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def _stl_text(data: bytes) -> _Model:
    if not data.lstrip().startswith(b"solid"):
        raise InputError("this is no STL file, or it is cut short")
    number = rb"[ \t]+([-+.\deE]+)[ \t]+([-+.\deE]+)[ \t]+([-+.\deE]+)"
    corners = [[float(x) for x in found] for found in re.findall(rb"vertex" + number, data)]
    if len(corners) % 3:
        raise InputError("the file is cut short: a triangle has fewer than three corners")

    def rebuilt(points: np.ndarray) -> bytes:
        lines, normals = iter(points.tolist()), iter(_normals(points).tolist())

        def put(found: re.Match[bytes]) -> bytes:
            values = next(normals if found[1] == b"normal" else lines)
            return found[1] + b"".join(f" {x:.9g}".encode() for x in values)

        return re.sub(rb"(vertex|normal)" + number, put, data)

    return _Model(np.array(corners).reshape(-1, 3), rebuilt, data[:200].splitlines()[0])


# ---- PLY ---------------------------------------------------------------------------------------------------


def _ply(data: bytes) -> _Model:
    end = re.search(rb"(?m)^end_header\r?\n", data)
    if not data.startswith(b"ply") or end is None:
        raise InputError("this is no PLY file, or it is cut short")
    head, mark, body = data[: end.start()], end[0], data[end.end() :]
    lines = [line.split() for line in head.decode("ascii", errors="replace").splitlines()]
    order = PLY_ORDERS[next((line[1] for line in lines if line[:1] == ["format"]), "")]
    elements = [n for n, line in enumerate(lines) if line[:1] == ["element"]]
    first = elements[0] if elements else len(lines)
    if lines[first : first + 1] == [] or lines[first][1] != "vertex":
        raise InputError("a PLY file that begins with its vertices was expected")
    properties = [line for line in lines[first : (elements + [None])[1]] if line[:1] == ["property"]]
    if any(line[1] == "list" for line in properties):
        raise InputError("vertices of numbers were expected, but they hold lists")
    count, names = int(lines[first][2]), [line[2] for line in properties]
    if not order:
        return _ply_text(data, len(data) - len(body), count, [names.index(axis) for axis in "xyz"], head)
    dtype = np.dtype([(line[2], order + PLY_TYPES[line[1]]) for line in properties])
    rows = np.frombuffer(body, dtype, count)

    def rebuilt(points: np.ndarray) -> bytes:
        new = rows.copy()
        for n, axis in enumerate("xyz"):
            new[axis] = points[:, n]
        return head + mark + new.tobytes() + body[new.nbytes :]

    return _Model(np.stack([rows[axis].astype(np.float64) for axis in "xyz"], 1), rebuilt, head)


def _ply_text(data: bytes, start: int, count: int, columns: list[int], head: bytes) -> _Model:
    lines = data[start:].split(b"\n", count)
    if len(lines) <= count:
        raise InputError(f"the file is cut short: {count} vertices promised")
    rows = [line.split() for line in lines[:count]]

    def rebuilt(points: np.ndarray) -> bytes:
        for row, point in zip(rows, points.tolist(), strict=True):
            for column, value in zip(columns, point, strict=True):
                row[column] = f"{value:.9g}".encode()
        return data[:start] + b"\n".join([*(b" ".join(row) for row in rows), lines[count]])

    return _Model(np.array([[float(row[c]) for c in columns] for row in rows]).reshape(-1, 3), rebuilt, head)


# ---- VTK ---------------------------------------------------------------------------------------------------


def _vtk(data: bytes) -> _Model:
    head = data.split(b"\n", 3)
    kinds = "|".join(VTK_TYPES).encode()
    found = re.search(rb"(?im)^POINTS[ \t]+(\d+)[ \t]+(%s)(?:[ \t]*\r?\n|[ \t]+)" % kinds, data)
    if not head[0].startswith(b"# vtk DataFile") or len(head) < 4 or found is None:
        raise InputError("a VTK file with POINTS was expected")
    count, start, kind = int(found[1]), found.end(), found[2].decode().lower()
    written = kind if kind in TYPES else "double"  # moved points are no whole numbers
    before = data[: found.start(2)] + written.encode() + data[found.end(2) : start]
    if head[2].strip().upper() == b"BINARY":
        points = np.frombuffer(data, ">" + VTK_TYPES[kind], 3 * count, start).reshape(-1, 3)

        def rebuilt(new: np.ndarray) -> bytes:
            return before + new.astype(">" + TYPES[written]).tobytes() + data[start + points.nbytes :]

        return _Model(points.astype(np.float64), rebuilt, head[1])
    numbers = (
        re.compile(rb"\s*(?:[^\s]+\s+){%d}" % (3 * count)).match(data, start) if count < 1 << 24 else None
    )
    if numbers is None:
        raise InputError(f"the file is cut short: {count} points promised")

    def rewritten(new: np.ndarray) -> bytes:
        return before + _as_text(new) + data[numbers.end() :]

    return _Model(np.array(numbers[0].split(), float).reshape(-1, 3), rewritten, head[1])


def _as_text(points: np.ndarray) -> bytes:
    return "".join(f"{x:.9g} {y:.9g} {z:.9g}\n" for x, y, z in points.tolist()).encode()


@dataclass(frozen=True)
class _Xml:
    """The arrays of a .vtp file: in the text, or appended to it."""

    data: bytes

    def attribute(self, tag: bytes, name: str, otherwise: str = "") -> str:
        found = re.search(rb'\b%s\s*=\s*"([^"]*)"' % name.encode(), tag)
        return found[1].decode("ascii", errors="replace") if found else otherwise

    def array(self, tag: bytes, text: bytes, most: int) -> bytes:
        """The bytes of an array that is not text itself; no more than `most`."""
        encoding = "base64"
        if self.attribute(tag, "format") == "appended":
            found = re.search(rb"<AppendedData([^>]*)>\s*_", self.data)
            if found is None:
                raise InputError("the file is cut short: the appended data are missing")
            encoding = self.attribute(found[1], "encoding", "base64")
            text = self.data[found.end() + int(self.attribute(tag, "offset", "0")) :]
        head = re.search(rb"<VTKFile([^>]*)>", self.data)
        top = head[1] if head else b""
        word = "<" if self.attribute(top, "byte_order", "LittleEndian") == "LittleEndian" else ">"
        word += "Q" if self.attribute(top, "header_type", "UInt32") == "UInt64" else "I"
        compressor = self.attribute(top, "compressor")
        if compressor not in ("", "vtkZLibDataCompressor"):
            raise InputError(f"data compressed by {compressor} can't be read")
        return self._decoded(text.lstrip(), word, encoding == "raw", bool(compressor), most)

    @staticmethod
    def _decoded(text: bytes, word: str, raw: bool, packed: bool, most: int) -> bytes:
        size = struct.calcsize(word)

        def part(start: int, count: int) -> bytes:
            if raw:
                return text[start : start + count]
            return base64.b64decode(text[start : start + -(-count // 3) * 4])[:count]

        if not packed:
            count = struct.unpack(word, part(0, size))[0]
            return part(0, size + min(count, most))[size:]
        blocks = struct.unpack(word, part(0, size))[0]
        if blocks > most + 1:
            raise InputError(f"the model is damaged: {blocks} blocks of data")
        head = struct.unpack(f"{word[0]}{3 + blocks}{word[1]}", part(0, size * (3 + blocks)))
        length = size * (3 + blocks)
        start = length if raw else -(-length // 3) * 4
        stored, out, place = part(start, sum(head[3:])), b"", 0
        for count in head[3:]:
            out += zlib.decompressobj().decompress(stored[place : place + count], most + 1 - len(out))
            place += count
        return out


def _vtp(data: bytes) -> _Model:
    xml = _Xml(data)
    found = re.search(rb"<Points>\s*<DataArray([^>]*?)(?:/>|>(.*?)</DataArray>)", data, re.S)
    pieces = re.findall(rb'<Piece[^>]*?NumberOfPoints\s*=\s*"(\d+)"', data)
    if b"<VTKFile" not in data[:500] or found is None or len(pieces) != 1:
        raise InputError("a VTP file with points in one piece was expected")
    tag, count = found[1], int(pieces[0])
    text = re.sub(rb"<InformationKey.*?</InformationKey>", b"", found[2] or b"", flags=re.S)
    dtype = np.dtype(TYPES[xml.attribute(tag, "type")])
    if xml.attribute(tag, "format") == "ascii":
        points = np.array(text.split(), float)
    else:
        order = b'byte_order="BigEndian"' in data[:500]
        raw = xml.array(tag, text, 3 * count * dtype.itemsize)
        points = np.frombuffer(raw, dtype.newbyteorder(">" if order else "<")).astype(np.float64)
    if len(points) != 3 * count:
        raise InputError(f"the file is cut short: {count} points promised")

    def rebuilt(new: np.ndarray) -> bytes:
        kind = f'type="{xml.attribute(tag, "type")}" Name="Points" NumberOfComponents="3" format="ascii"'
        array = f"<Points>\n<DataArray {kind}>\n".encode() + _as_text(new) + b"</DataArray>"
        return data[: found.start()] + array + data[found.end() :]

    return _Model(points.reshape(-1, 3), rebuilt, _space(xml))


def _space(xml: _Xml) -> bytes:
    """What the field data of a .vtp file say of its space, as the other formats say it."""
    found = re.search(rb'<Array([^>]*Name="SPACE"[^>]*?)(?:/>|>(.*?)</Array>)', xml.data, re.S)
    if found is None:
        return b""
    if xml.attribute(found[1], "format") == "ascii":
        return b"SPACE=" + bytes(int(word) % 256 for word in (found[2] or b"").split()[:100])
    return b"SPACE=" + xml.array(found[1], found[2] or b"", 100)
