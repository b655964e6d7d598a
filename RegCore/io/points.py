"""Points in files: Slicer's .fcsv and .mrk.json, the .txt of transformix, and .csv; pairs of landmarks."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RegCore.io.files import LPS, RAS, atomic_write, shorten
from RegCore.space.geometry import InputError

PAIR_COLUMNS = ["fx", "fy", "fz", "mx", "my", "mz"]
SYSTEMS = {"lps": LPS, "1": LPS, "ras": RAS, "0": RAS}
COLUMNS = (("r", "a", "s"), ("l", "p", "s"), ("x", "y", "z"))
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
ENDINGS = (".mrk.json", ".json", ".fcsv", ".csv", ".txt")


@dataclass(frozen=True, eq=False)
class Points:
    """Places in space with their names.

    Args:
        places: (N, 3) RAS mm.
        labels: N names, which may be empty.
        lists: for each point the number of the list of the file that it is in, where there are several.
    """

    places: np.ndarray
    labels: tuple[str, ...]
    lists: tuple[int, ...] = ()


def load_points(path: str | os.PathLike) -> Points:
    """The points of a file.

    .fcsv and .mrk.json hold LPS or RAS mm, as they say; the .txt of transformix LPS mm; a .csv has a first
    line with r,a,s or x,y,z (RAS mm), l,p,s (LPS mm), or x,y,z,t (LPS mm, as for ANTs), and maybe label.

    Raises:
        InputError: one sentence that names the file and, where there is one, the line.
    """
    path = Path(path)
    readers = {".json": _read_json, ".fcsv": _read_fcsv, ".csv": _read_csv, ".txt": _read_transformix}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: points are read from {', '.join(ENDINGS)}, not from this ending")
    try:
        found = reader(_text(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not len(found.places):
        raise InputError(f"{path}: the file holds no points")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"can't be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError("a file of points was expected, but this is not text") from None


def _made(rows: Sequence[tuple[str, str, Sequence[str]]], signs: Sequence[float]) -> Points:
    """Points from rows of where they stand (for messages), label, and three words."""
    places = np.empty((len(rows), 3))
    for row, (where, _, words) in enumerate(rows):
        try:
            places[row] = [float(word) for word in words]
        except (ValueError, TypeError):
            places[row] = np.nan
        if not np.isfinite(places[row]).all():
            text = shorten(",".join(str(word) for word in words))
            raise InputError(f"{where} must hold three finite numbers, but it holds {text!r}")
    return Points(places * np.array(signs), tuple(label for _, label, _ in rows))


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with their numbers, without empty ones."""
    try:
        rows = enumerate(csv.reader(text.splitlines()), 1)
        return [(number, row) for number, row in rows if any(word.strip() for word in row)]
    except csv.Error as error:
        raise InputError(f"the file is no table of commas ({error})") from None


def _read_fcsv(text: str) -> Points:
    signs, columns = RAS, ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    rows: list[tuple[str, str, Sequence[str]]] = []
    for number, row in _rows(text):
        line = ",".join(row)
        key, _, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            cells = dict(zip(columns, (word.strip() for word in row), strict=False))
            rows.append((f"line {number}", cells.get("label", ""), [cells.get(axis, "") for axis in "xyz"]))
        elif key.strip() == "columns":
            columns = [word.strip() for word in value.split(",")]
        elif key.strip() == "CoordinateSystem":
            signs = _signs(value)
    return _made(rows, signs)


def _signs(name: str) -> tuple[float, float, float]:
    if name.strip().lower() not in SYSTEMS:
        raise InputError(f"the coordinate system must be LPS or RAS, but it is {shorten(name.strip())!r}")
    return SYSTEMS[name.strip().lower()]


def _read_json(text: str) -> Points:
    places: list[np.ndarray] = []
    labels: list[str] = []
    lists: list[int] = []
    try:
        for number, markup in enumerate(json.loads(text)["markups"]):
            points = [p for p in markup["controlPoints"] if p.get("positionStatus", "defined") == "defined"]
            rows = [
                (f"control point {p.get('id', '?')}", str(p.get("label", "")), p["position"]) for p in points
            ]
            found = _made(rows, _signs(markup.get("coordinateSystem", "LPS")))
            places.append(found.places)
            labels += found.labels
            lists += [number] * len(rows)
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        raise InputError("markups of Slicer with control points were expected") from None
    return Points(np.concatenate([np.empty((0, 3)), *places]), tuple(labels), tuple(lists))


def _read_csv(text: str) -> Points:
    head, *rows = _rows(text) or [(1, [])]
    names = [word.strip().lower() for word in head[1]]
    axes = next((axes for axes in COLUMNS if set(axes) <= set(names)), None)
    if axes is None:
        raise InputError("the first line must name the columns r,a,s or l,p,s or x,y,z, and maybe label")
    signs = LPS if axes[0] == "l" or "t" in names else RAS
    cells = [(n, dict(zip(names, (word.strip() for word in row), strict=False))) for n, row in rows]
    return _made([(f"line {n}", c.get("label", ""), [c.get(a, "") for a in axes]) for n, c in cells], signs)


def _read_transformix(text: str) -> Points:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0][:1] != ["point"]:
        raise InputError("points for transformix were expected, with the word point in the first line")
    if len(lines) < 2 or lines[1] != [str(len(lines) - 2)]:
        raise InputError(f"the second line must be the number of points, and {len(lines) - 2} follow it")
    return _made([(f"point {n}", "", words) for n, words in enumerate(lines[2:], 1)], LPS)


# ---- pairs -------------------------------------------------------------------------------------------------


def load_landmarks(path: str | os.PathLike, moving: str | os.PathLike | None = None) -> np.ndarray:
    """Pairs of points, (N, 6) RAS mm: fixed x, y, z, moving x, y, z.

    Args:
        path: a CSV file with the first line ``fx,fy,fz,mx,my,mz`` in RAS mm, or a .mrk.json with two lists,
            or, with `moving`, the fixed points alone, as `load_points` reads them.
        moving: the moving points. Those of one label are a pair; without common labels the order pairs them.

    Raises:
        InputError: one sentence that names the file and, where there is one, the line.
    """
    path = Path(path)
    if moving is not None:
        return _paired(load_points(path), load_points(moving), f"{path} and {moving}")
    if path.suffix.lower() in (".json", ".fcsv", ".txt"):
        both = load_points(path)
        if len(set(both.lists)) != 2:
            raise InputError(f"{path}: pairs need two lists of points, or a second file with the moving ones")
        return _paired(_list(both, 0), _list(both, 1), str(path))
    return _load_pairs(path)


def _list(points: Points, number: int) -> Points:
    taken = [n for n, which in enumerate(points.lists) if which == sorted(set(points.lists))[number]]
    return Points(points.places[taken], tuple(points.labels[n] for n in taken))


def _paired(fixed: Points, moving: Points, names: str) -> np.ndarray:
    first, second = (dict(zip(points.labels, points.places, strict=True)) for points in (fixed, moving))
    common = [label for label in first if label and label in second]
    unique = len(first) == len(fixed.labels) and len(second) == len(moving.labels)
    if common and unique:
        return np.array([[*first[label], *second[label]] for label in common])
    if len(fixed.places) != len(moving.places):
        counts = f"{len(fixed.places)} and {len(moving.places)}"
        raise InputError(f"{names}: points without common labels must be as many on both sides, not {counts}")
    return np.concatenate([fixed.places, moving.places], 1)


def _load_pairs(path: Path) -> np.ndarray:
    try:
        rows = _rows(_text(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not rows or [word.strip() for word in rows[0][1]] != PAIR_COLUMNS:
        raise InputError(f"{path}: the first line must be {','.join(PAIR_COLUMNS)}")
    if len(rows) == 1:
        raise InputError(f"{path}: there are no landmarks below the first line")
    return np.array([_pair(path, number, row) for number, row in rows[1:]])


def _pair(path: Path, number: int, row: list[str]) -> list[float]:
    try:
        values = [float(word) for word in row]
    except ValueError:
        values = []
    if len(values) != 6 or not np.isfinite(values).all():
        text = shorten(",".join(row))
        raise InputError(f"{path}: line {number} must hold six finite numbers, but it is {text!r}")
    return values


# ---- writing -----------------------------------------------------------------------------------------------


def save_points(points: Points, path: str | os.PathLike) -> None:
    """Write points: .mrk.json or .fcsv of Slicer, .csv (label,r,a,s), or .txt of transformix.

    Raises:
        InputError: another ending, or the file can't be written.
    """
    path = Path(path)
    lps = points.places * np.array(LPS) + 0.0
    name = path.name.lower()
    if name.endswith((".mrk.json", ".json")):
        text = _markups(lps, points.labels)
    elif name.endswith(".fcsv"):
        head = "# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n"
        head += "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        rows = enumerate(zip(lps.tolist(), points.labels, strict=True), 1)
        rest = "0,0,0,1,1,1,0"
        text = head + "".join(
            f"{n},{x},{y},{z},{rest},{_cell(label)},,,2,0\n" for n, ((x, y, z), label) in rows
        )
    elif name.endswith(".csv"):
        table = zip(points.labels, points.places.tolist(), strict=True)
        text = "label,r,a,s\n" + "".join(f"{_cell(label)},{x},{y},{z}\n" for label, (x, y, z) in table)
    elif name.endswith(".txt"):
        text = f"point\n{len(lps)}\n" + "".join(f"{x} {y} {z}\n" for x, y, z in lps.tolist())
    else:
        raise InputError(f"{path}: points are written as {', '.join(ENDINGS)}, not with this ending")
    with atomic_write(path) as side:
        side.write_text(text, encoding="utf-8")


def _cell(text: str) -> str:
    """A text as one cell of a table."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text


def _markups(lps: np.ndarray, labels: Sequence[str]) -> str:
    points = [
        {"id": str(n), "label": label, "position": place, "positionStatus": "defined"}
        for n, (label, place) in enumerate(zip(labels, lps.tolist(), strict=True), 1)
    ]
    schema = (
        "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    )
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    return (
        json.dumps({"@schema": f"{schema}markups-schema-v1.0.3.json#", "markups": [markup]}, indent=1) + "\n"
    )
