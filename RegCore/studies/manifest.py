"""What a study consists of: a manifest (CSV) with a row a pair, or folders of images, or a BIDS data set."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from RegCore.io.files import check_regular, shorten
from RegCore.registration import OPTIONAL
from RegCore.space.geometry import InputError
from RegCore.space.names import check_name, is_path, nearest
from RegCore.studies.rows import Row

NEEDED = ("id", "fixed", "moving")
COLUMNS = (*NEEDED, *OPTIONAL, "method", "settings")
"""The columns of a manifest, in any order; the first three must be there."""
NAMED = ".seg.nrrd"  # segmentations with names: ``scan.seg.nrrd`` beside ``scan.nii.gz``
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".npz")
SIDE_FILES = {"seg": "seg", "label": "seg", "mask": "mask"}
"""Ends of names, ``scan_seg.nii.gz`` beside ``scan.nii.gz``, and the roles of such files."""
LONGEST = 200  # letters of an id
BIDS = re.compile(r"(?:[a-zA-Z0-9]+-[a-zA-Z0-9+]+_)+([a-zA-Z0-9]+)\.(?:nii\.gz|nii)")


def settings_from(words: Iterable[str]) -> dict[str, Any]:
    """Settings from KEY=VALUE; values are numbers, true, false or null where they read as such, else text.

    Raises:
        InputError: a word of another form, or a number that is not finite.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise InputError(f"KEY=VALUE was expected, not {word!r}")
        try:
            found[key] = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            found[key] = text
        if isinstance(found[key], float) and not math.isfinite(found[key]):
            raise InputError(f"a finite number was expected for {key}, not {text!r}")
    return found


def read_manifest(path: Path, common: Row, methods: Iterable[str]) -> list[Row]:
    """The rows of a manifest.

    Args:
        path: a CSV file with a line of names (`COLUMNS`), separated by commas, semicolons or tabs. Paths are
            relative to its folder; two files of landmarks and several transforms are separated by ``|``,
            settings by spaces.
        common: what holds for every row that does not say otherwise.
        methods: the names that are known.

    Raises:
        InputError: anything that can't be used; the sentence names row (as a spreadsheet counts) and column.
    """
    try:
        check_regular(Path(path))
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            separator = max(",;\t", key=head.count)
            lines = csv.reader(file, delimiter=separator, strict=True)
            return _rows(path, lines, common, list(methods))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: this manifest can't be read ({reason})") from error


def _rows(path: Path, lines: Any, common: Row, methods: list[str]) -> list[Row]:
    names = [name.strip() for name in next(lines, [])]
    _check_columns(path, names)
    rows: list[Row] = []
    known: dict[str, int] = {}
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, row {lines.line_num}"
        if len(cells) != len(names):
            raise InputError(f"{where}: {len(names)} cells were expected, not {len(cells)}")
        given = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if cell.strip()}
        row = _row(path.parent, where, given, common, methods)
        before = known.setdefault(row.id.casefold(), lines.line_num)
        if before != lines.line_num:
            raise InputError(f"{where}, column id: {row.id!r} is there already, in row {before}")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: this manifest has no rows")
    return rows


def _check_columns(path: Path, names: Sequence[str]) -> None:
    for name in NEEDED:
        if name not in names:
            there = shorten(", ".join(names), 200) or "none"
            raise InputError(f"{path}, row 1: the column {name} is missing; there are {there}")
    for name in names:
        if name not in COLUMNS:
            hint = nearest(name, COLUMNS)
            raise InputError(f"{path}, row 1: the column {name!r} is none of {', '.join(COLUMNS)}{hint}")
        if names.count(name) > 1:
            raise InputError(f"{path}, row 1: the column {name} is there twice")


def _row(folder: Path, where: str, given: Mapping[str, str], common: Row, methods: list[str]) -> Row:
    """One row; what is wrong is said with `where` and the column."""
    files = dict(common.files)
    for name in NEEDED:
        if name not in given:
            raise InputError(f"{where}, column {name}: is empty")
    for role in ("fixed", "moving", *OPTIONAL):
        if role in given:
            files[role] = _paths(folder, given[role], role, f"{where}, column {role}")
    for role, other in (("fixed_seg", "moving_seg"), ("moving_seg", "fixed_seg")):
        if other in files and role not in files:
            raise InputError(f"{where}, column {role}: is empty, but {other} is given; give both or none")
    method, settings = common.method, dict(common.settings)
    try:
        column = "id"
        check_id(given["id"])
        column = "method"
        if "method" in given:
            method = str(folder / given["method"]) if is_path(given["method"]) else given["method"]
            if is_path(method) and not Path(method).exists():
                raise InputError(f"there is no file {method}")
            if not is_path(method):
                check_name(method, methods, "the method")
        column = "settings"
        settings |= settings_from(given.get("settings", "").split())
    except InputError as error:
        raise InputError(f"{where}, column {column}: {error}") from None
    return replace(common, id=given["id"], files=files, method=method, settings=settings)


def _paths(folder: Path, text: str, role: str, where: str) -> Path | list[Path]:
    """The path or paths of a cell, which must exist."""
    if role == "initial" and text == "centres":
        return Path(text)
    several = role in ("landmarks", "initial")
    parts = [folder / part.strip() for part in text.split("|")] if several else [folder / text]
    if role == "landmarks" and len(parts) > 2:
        raise InputError(f"{where}: one file or two were expected, not {len(parts)}")
    for part in parts:
        if not part.exists():
            raise InputError(f"{where}: there is no file {part}")
    return parts if role == "landmarks" or len(parts) > 1 else parts[0]


def check_id(text: str) -> None:
    """Check that an id can be the name of a folder.

    Raises:
        InputError: it can't.
    """
    odd = next((letter for letter in text if letter in "/\\" or not letter.isprintable()), "")
    if odd or not text or text.startswith(".") or text != text.strip(" .") or len(text) > LONGEST:
        raise InputError(f"{shorten(text)!r} can't be the name of a folder")


# ---- folders -----------------------------------------------------------------------------------------------


def images_in(folder: Path) -> dict[str, dict[str, Path]]:
    """The images of a folder and its subfolders, with their side files.

    Args:
        folder: hidden files and folders in it are left out.

    Returns:
        By name, which is the path in the folder without its ending: "image" and, where there is one beside
        it, "seg" and "mask", see `SIDE_FILES`.

    Raises:
        InputError: there is no such folder, or no image in it, or there are two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    names: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
        if ending is None or any(part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        plain = path.name[: -len(ending)]
        if path.name.lower().endswith(NAMED):
            plain = path.name[: -len(NAMED)] + "_seg"
        name = "_".join((*inside.parts[:-1], plain))
        if names.setdefault(name, path) != path:
            raise InputError(f"{path}: has the same name as {names[name]}")
    found: dict[str, dict[str, Path]] = {}
    sides = {name: name.rpartition("_") for name in names}
    for name, path in names.items():
        stem, _, end = sides[name]
        if end in SIDE_FILES and stem in names:
            continue
        beside = {SIDE_FILES[end]: names[f"{name}_{end}"] for end in SIDE_FILES if f"{name}_{end}" in names}
        found[name] = {"image": path, **beside}
    if not found:
        raise InputError(f"{folder}: there is no image in this folder ({', '.join(ENDINGS)})")
    return found


def _files(fixed: Mapping[str, Path], moving: Mapping[str, Path]) -> dict[str, Path | list[Path]]:
    """The files of a pair by role; segmentations only where both sides have one."""
    files: dict[str, Path | list[Path]] = {"fixed": fixed["image"], "moving": moving["image"]}
    if "seg" in fixed and "seg" in moving:
        files |= {"fixed_seg": fixed["seg"], "moving_seg": moving["seg"]}
    files |= {f"{side}_mask": have["mask"] for side, have in _sides(fixed, moving) if "mask" in have}
    return files


def _sides(fixed: Mapping[str, Path], moving: Mapping[str, Path]) -> tuple:
    return (("fixed", fixed), ("moving", moving))


def all_to_one(fixed: Path, folder: Path, common: Row) -> list[Row]:
    """Every image of a folder to one fixed image, which may lie in the folder itself.

    Args:
        fixed: the image that stays.
        folder: see `images_in`.
        common: what holds for every row; its files come first.

    Raises:
        InputError: there is no fixed image, or none to register to it.
    """
    if not fixed.exists():
        raise InputError(f"{fixed}: there is no such file")
    images = {n: f for n, f in images_in(folder).items() if f["image"].resolve() != fixed.resolve()}
    if not images:
        raise InputError(f"{folder}: there is no image besides the fixed one")
    side = {"image": fixed} | ({"seg": common.files["fixed_seg"]} if "fixed_seg" in common.files else {})
    return [_named(name, _files(side, files), common) for name, files in images.items()]  # type: ignore


def all_pairs(folder: Path, common: Row) -> list[Row]:
    """Every two images of a folder once, the one whose name comes first as the fixed one.

    Args:
        folder: see `images_in`.
        common: what holds for every row.

    Raises:
        InputError: there are fewer than two images.
    """
    images = images_in(folder)
    if len(images) < 2:
        raise InputError(f"{folder}: two images or more were expected, there is only one")
    pairs = combinations(images, 2)
    return [_named(f"{a}-to-{b}", _files(images[b], images[a]), common) for b, a in pairs]


def _named(name: str, files: dict[str, Path | list[Path]], common: Row, place: str = "") -> Row:
    check_id(name)
    return replace(common, id=name, files={**common.files, **files}, place=place)


# ---- BIDS --------------------------------------------------------------------------------------------------


def bids_rows(folder: Path, suffix: str, fixed: Path | None, common: Row) -> list[Row]:
    """The images of a BIDS data set: all to one fixed image, or each subject's to its first.

    Args:
        folder: the data set; what is under "derivatives" and "sourcedata" is left out.
        suffix: of the images, "T1w" say.
        fixed: the image that stays; None takes, for each subject, the first by session and run.
        common: what holds for every row.

    Returns:
        Rows whose `place` says where BIDS would have the results.

    Raises:
        InputError: there is no such image, or only one for each subject and no fixed one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    subjects: dict[str, list[Path]] = {}
    for subject in sorted(folder.glob("sub-*")):
        files = (path for path in sorted(subject.rglob(f"sub-*_{suffix}.nii*")) if BIDS.fullmatch(path.name))
        subjects[subject.name] = [path for path in files if path.name.startswith(f"{subject.name}_")]
    if not any(subjects.values()):
        raise InputError(f"{folder}: there is no image sub-…_{suffix}.nii.gz in this BIDS data set")
    rows = []
    for images in subjects.values():
        stays = fixed or (images[0] if images else None)
        for image in images:
            if stays is not None and image.resolve() != stays.resolve():
                name = image.name[: image.name.index(".nii")]
                place = (image.parent.relative_to(folder) / name).as_posix()
                rows.append(_named(name, {"fixed": stays, "moving": image}, common, place))
    if not rows:
        raise InputError(f"{folder}: no subject has two images {suffix}; name one with --fixed")
    return rows
