"""A manifest for ``regcore register-all``: volumes as files in a folder, and a table of the pairs."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from RegCore.space.geometry import InputError

from .batch import Item, Start
from .process import shared_worker
from .run import Question, Run

NAME = "manifest.csv"
COLUMNS = ("id", "fixed", "moving", "fixed_seg", "moving_seg", "initial", "method", "settings")
Read = Callable[[], dict]
"""read() gives the `Volume`s "volume" and "labels" of an item, the latter None where there are none."""


def new_folder(parent: Path) -> Path:
    """Make a folder that was not there. Raises InputError if it can't be made."""
    names = (f"manifest-{number}" if number > 1 else "manifest" for number in range(1, 10**6))
    folder = next(path for path in (parent / name for name in names) if not path.exists())
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: this folder can't be made ({error.strerror or error})") from error
    return folder


def file_names(names: list[str]) -> list[str]:
    """A name for the files of each, which differ also where case does not count."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w-]+", "_", name).strip("_") or "volume"
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


def write_manifest(
    folder: Path,
    fixed: Item,
    moving: list[Item],
    method: str,
    settings: dict | None,
    start: str | None = None,
) -> Path:
    """Write the table of the pairs, after their volumes.

    start: "centres", or None to let the method choose.
    Raises OSError if the disk refuses.
    """
    words = " ".join(f"{key}={_word(value)}" for key, value in (settings or {}).items())
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for item in moving:
        both = fixed.result["labels"] and item.result["labels"]
        labels = (fixed.result["labels"], item.result["labels"]) if both else ("", "")
        rows.writerow(
            [item.name, fixed.result["volume"], item.result["volume"], *labels, start or "", method, words]
        )
    path = folder / NAME
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def _word(value: object) -> str:
    """A value of a setting as one word that a manifest is read with."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
