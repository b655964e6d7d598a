"""A manifest for ``regcore register-all``: volumes as files in a folder, and a table of the pairs."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .batch import Item, Start
from .paths import short
from .process import shared_worker
from .run import Question, Run

NAME = "manifest.csv"
COLUMNS = ("id", "fixed", "moving", "fixed_seg", "moving_seg", "fixed_mask", "moving_mask")
COLUMNS += ("initial", "method", "settings")
Read = Callable[[], dict]
"""read() gives what `RegCore.cli.tasks.save_command` writes of an item, besides where."""


def new_folder(parent: Path) -> Path:
    """Make a folder that was not there. Raises InputError if it can't be made."""
    folder, number = parent / "manifest", 1
    try:
        while True:
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
                folder = parent / f"manifest-{number}"
    except OSError as error:
        raise InputError(
            _("{folder}: this folder can't be made ({reason})").format(
                folder=folder, reason=error.strerror or error
            )
        ) from error


def file_names(names: list[str]) -> list[str]:
    """A name for the files of each, which differ also where case does not count."""
    found: list[str] = []
    for name in names:
        plain = short(re.sub(r"[^\w-]+", "_", name).strip("_")) or "volume"
        tries = (f"{plain}_{number}" if number > 1 else plain for number in range(1, len(names) + 1))
        known = {other.casefold() for other in found}
        found.append(next(one for one in tries if one.casefold() not in known))
    return found


def start_saving(folder: Path) -> Start:
    """Writes items, whose `what` is a `Read`, into a folder; the result says the names of the files."""

    def start(item: Item, progress, done) -> Run:
        arguments = {"stem": str(folder / item.name), **item.what()}
        return Question(shared_worker(), "save", arguments, progress, done)

    return start


def write_manifest(folder: Path, fixed: Item, moving: list[Item], method: str, settings: dict | None) -> Path:
    """Write the table of the pairs, after their volumes.

    fixed, moving: with the results of `RegCore.cli.tasks.save_command`; where a moving item has no start of
    its own, that of the fixed one holds. Raises OSError if the disk refuses.
    """
    words = " ".join(f"{key}={_word(value)}" for key, value in (settings or {}).items())
    text, to = io.StringIO(), fixed.result
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for item in moving:
        came = item.result
        labels = (to["labels"], came["labels"]) if to["labels"] and came["labels"] else ("", "")
        masks, start = (to["mask"], came["mask"]), came["initial"] or to["initial"]
        rows.writerow([item.name, to["volume"], came["volume"], *labels, *masks, start, method, words])
    path = folder / NAME
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def _word(value: object) -> str:
    """A value of a setting as one word that a manifest is read with."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
