"""Points in files: Slicer's .fcsv and .mrk.json, the .txt of transformix, and .csv; pairs of landmarks."""

import csv
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RegCore.io.files import LPS, RAS, atomic_write, check_regular, shorten
from RegCore.space.geometry import InputError

log = logging.getLogger(__name__)
FCSV = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
FCSV_STATUS, FCSV_SET = 14, "2"  # the column without a name that says whether a point was set
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
    """The points of a file, without those that were never set.

    .fcsv and .mrk.json hold LPS or RAS mm, as they say; the .txt of transformix LPS mm, of its output the
    points that it computed; a .csv has a first line with r,a,s or x,y,z (RAS mm), l,p,s (LPS mm), or x,y,z,t
    (LPS mm, as for ANTs), and maybe label.

    Raises:
        InputError: one sentence that names the file and, where there is one, the line.
    """
    found = _load(Path(path))
    kept = np.flatnonzero(np.isfinite(found.places[:, 0])).tolist()
    if not kept:
        raise InputError(f"{path}: the file holds no points")
    lists = tuple(found.lists[n] for n in kept) if found.lists else ()
    return Points(found.places[kept], tuple(found.labels[n] for n in kept), lists)


def _load(path: Path) -> Points:
    """The points of a file; those that were never set have NaN for their place."""
    readers = {".json": _read_json, ".fcsv": _read_fcsv, ".csv": _read_csv, ".txt": _read_transformix}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: points are read from {', '.join(ENDINGS)}, not from this ending")
    try:
        return reader(_text(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    try:
        check_regular(path)
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"can't be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        if b"\0" in data or path.suffix.lower() == ".json":
            raise InputError("a file of points was expected, but this is not text") from None
        return data.decode("cp1252", errors="replace")  # as Windows writes tables


def _made(rows: Sequence[tuple[str, str, Sequence[str] | None]], signs: Sequence[float]) -> Points:
    """Points from rows of where they stand (for messages), label, and three words, None if it was not set."""
    places = np.full((len(rows), 3), np.nan)
    for row, (where, _, words) in enumerate(rows):
        if words is None:
            continue
        try:
            places[row] = [float(word) for word in words]
        except (ValueError, TypeError):
            places[row] = np.nan
        if not np.isfinite(places[row]).all():
            text = shorten(",".join(str(word) for word in words))
            raise InputError(f"{where} must hold three finite numbers, but it holds {text!r}")
    return Points(places * np.array(signs), tuple(label for _, label, _ in rows))


def _rows(text: str, marks: str = ",;\t") -> list[tuple[int, list[str]]]:
    """The rows of a table with their numbers, without empty ones; its first line has one of the marks."""
    lines = text.splitlines()
    between = next((mark for mark in marks if lines and mark in lines[0]), ",")
    try:
        rows = enumerate(csv.reader(lines, delimiter=between), 1)
        return [(number, row) for number, row in rows if any(word.strip() for word in row)]
    except csv.Error as error:
        raise InputError(f"the file is no table of commas ({error})") from None


def _read_fcsv(text: str) -> Points:
    signs, columns = RAS, FCSV
    rows: list[tuple[str, str, Sequence[str] | None]] = []
    for number, row in _rows(text, ","):
        line = ",".join(row)
        key, _, value = line.lstrip("# ").partition("=")
        if not line.startswith("#"):
            cells = dict(zip(columns, (word.strip() for word in row), strict=False))
            there = len(row) <= FCSV_STATUS or row[FCSV_STATUS].strip() in ("", FCSV_SET)
            words = [cells.get(axis, "") for axis in "xyz"] if there else None
            rows.append((f"line {number}", cells.get("label", ""), words))
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
            rows = []
            for point in markup["controlPoints"]:
                there = point.get("positionStatus", "defined") == "defined"
                name = f"control point {point.get('id', '?')}"
                rows.append((name, str(point.get("label", "")), point["position"] if there else None))
            found = _made(rows, _signs(markup.get("coordinateSystem", "LPS")))
            if markup.get("coordinateUnits", "mm") not in ("mm", ["mm"] * 3):
                log.warning("the unit of the points is not mm, but they are taken for mm, as in Slicer")
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
    there = [(n, c, c.get("defined", "1").lower() not in ("0", "false")) for n, c in cells]
    return _made(
        [
            (f"line {n}", c.get("label") or c.get("name", ""), [c.get(a, "") for a in axes] if t else None)
            for n, c, t in there
        ],
        signs,
    )


def _read_transformix(text: str) -> Points:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if lines and lines[0][0] == "Point":  # its output
        found = [
            re.search(r"OutputPoint\s*=\s*\[([^\]]*)\]", line) for line in text.splitlines() if line.strip()
        ]
        return _made([(f"line {n}", "", f[1].split() if f else [""]) for n, f in enumerate(found, 1)], LPS)
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
        return _paired(_load(path), _load(Path(moving)), f"{path} and {moving}")
    if path.suffix.lower() in (".json", ".fcsv", ".txt"):
        both = _load(path)
        if len(set(both.lists)) != 2:
            raise InputError(f"{path}: pairs need two lists of points, or a second file with the moving ones")
        return _paired(_list(both, 0), _list(both, 1), str(path))
    return _load_pairs(path)


def _list(points: Points, number: int) -> Points:
    taken = [n for n, which in enumerate(points.lists) if which == sorted(set(points.lists))[number]]
    return Points(points.places[taken], tuple(points.labels[n] for n in taken))


def _paired(fixed: Points, moving: Points, names: str) -> np.ndarray:
    """Pairs of the same label, whatever its case, or else of the same number in their lists; both are set."""
    first, second = (
        dict(zip((label.strip().casefold() for label in side.labels), side.places, strict=True))
        for side in (fixed, moving)
    )
    common = [label for label in first if label and label in second]
    unique = len(first) == len(fixed.labels) and len(second) == len(moving.labels)
    if common and unique:
        pairs = np.array([[*first[label], *second[label]] for label in common])
    elif len(fixed.places) != len(moving.places):
        counts = f"{len(fixed.places)} and {len(moving.places)}"
        raise InputError(f"{names}: points without common labels must be as many on both sides, not {counts}")
    else:
        pairs = np.concatenate([fixed.places, moving.places], 1)
    pairs = pairs[np.isfinite(pairs).all(1)]
    if not len(pairs):
        raise InputError(f"{names}: no point is set on both sides")
    return pairs


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
