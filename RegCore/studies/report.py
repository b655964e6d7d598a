"""The table and the page of a study: ``results.csv`` and ``report.html``, one file that needs no network."""

import base64
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import RegCore
from RegCore.evaluation.figures import FIGURES
from RegCore.evaluation.overview import thumbnail
from RegCore.io.files import atomic_write
from RegCore.space.geometry import InputError
from RegCore.space.names import READABLE
from RegCore.studies.folders import DONE, RECORD, read_record
from RegCore.studies.rows import VERDICTS, columns_of, figures_of, summary_of, worst_first

TABLE, PAGE = "results.csv", "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
THUMBNAIL, OVERVIEW, METRICS = "thumbnail.jpg", "overview.png", "metrics.json"
MOST_THUMBNAILS = 1000  # of the worst pairs, so that a browser can open the page of any study
WORDS = ("id", "verdict", "error", "method", "notes")


def write_report(
    out: Path, summaries: Sequence[dict[str, Any]], places: dict[str, str] | None = None
) -> None:
    """Write the table and the page of a study.

    Args:
        out: its folder.
        summaries: of its pairs, see `RegCore.studies.rows.summary_of`.
        places: folder of each pair by id, relative to `out`; by default ``pairs/<id>``.

    Raises:
        InputError: they can't be written.
    """
    check_replaceable(out)
    rows = worst_first(list(summaries))
    where = {row["id"]: f"pairs/{row['id']}" for row in rows} if places is None else places
    with atomic_write(out / TABLE) as side:
        side.write_text(_table(rows), encoding="utf-8", errors=READABLE, newline="")
    with atomic_write(out / PAGE) as side:
        side.write_text(_page(out, rows, where), encoding="utf-8", errors=READABLE)


def check_replaceable(out: Path) -> None:
    """Check that a table and a page that are in a folder are those of an earlier report.

    Raises:
        InputError: they are somebody else's.
    """
    for name, beginning in ((TABLE, b"id,status"), (PAGE, b"<title>Registrations</title>")):
        path = Path(out) / name
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as file:
                if beginning not in file.read(1000):
                    raise InputError(f"{path}: this is no report of ours and would be replaced; move it away")


def _table(rows: list[dict[str, Any]]) -> str:
    columns = columns_of(rows) or ["id", "status"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column, "")) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _page(out: Path, rows: list[dict[str, Any]], places: dict[str, str]) -> str:
    """The template with the data of the study in it, as JSON that can't end its element."""
    columns = [column for column in columns_of(rows) if column not in WORDS and column != "status"]
    thumbnails = {
        row["id"]: picture
        for row in rows[:MOST_THUMBNAILS]
        if (picture := _thumbnail(out / places[row["id"]])) is not None
    }
    data = {
        "title": out.name,
        "version": RegCore.__version__,
        "verdicts": VERDICTS,
        "figures": [_figure(column) for column in columns],
        "words": WORDS,
        "rows": [
            [*(row.get(word, "") for word in WORDS), *(_rounded(row.get(column)) for column in columns)]
            for row in rows
        ],
        "places": [places[row["id"]] if row["status"] == DONE else "" for row in rows],
        "thumbnails": thumbnails,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text, 1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _figure(column: str) -> dict[str, Any]:
    """How a column of figures is shown."""
    key, _, when = column.rpartition("_")
    if when not in ("before", "after"):
        key, when = column, ""
    if key in FIGURES:
        figure, title = FIGURES[key], FIGURES[key].title
    else:
        figure = FIGURES["dice"]
        title = figure.title.format(name=key.removeprefix("dice_"))
    about = {"unit": figure.unit, "digits": figure.digits, "better": figure.better}
    return {"column": column, "key": key, "when": when, "title": title, **about}


def _thumbnail(folder: Path) -> str | None:
    """The small picture of a pair as an address that holds it; None where there is none."""
    try:
        content = (folder / THUMBNAIL).read_bytes()
    except OSError:
        content = _reduced(folder / OVERVIEW)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}" if content else None


def _reduced(path: Path) -> bytes:
    """An overview as a small picture; nothing where it can't be read."""
    buffer = io.BytesIO()
    try:
        with Image.open(path) as picture:
            thumbnail(picture).save(buffer, "JPEG", quality=80)
    except (OSError, ValueError):
        return b""
    return buffer.getvalue()


# ---- earlier results ---------------------------------------------------------------------------------------


def report_on(folder: Path) -> int:
    """Write the table and the page of all results below a folder, and return how many there are.

    Args:
        folder: of a study, or any with folders that ``regcore register`` wrote in it, however deep.

    Raises:
        InputError: there is no such folder, or no result in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    summaries, places = [], {}
    for place in _results_below(folder):
        summary = _summary(folder / place, place)
        if summary["id"] in places:
            summary["id"] = place
        summaries.append(summary)
        places[summary["id"]] = place
    if not summaries:
        raise InputError(f"{folder}: there is no result of a registration in this folder, no {METRICS}")
    write_report(folder, summaries, places)
    return len(summaries)


def _results_below(folder: Path) -> Iterator[str]:
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if METRICS in names or RECORD in names:
            yield Path(place).relative_to(folder).as_posix()


def _summary(folder: Path, place: str) -> dict[str, Any]:
    """The summary of a result folder, by its record or else by its figures."""
    record = read_record(folder)
    if record is not None and "name" in record:
        return summary_of(record)
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        names = {int(label): str(name) for label, name in metrics.get("structures", {}).items()}
        figures = figures_of(metrics, names)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder / METRICS}: these are no figures of a registration ({error})") from error
    name = place if place != "." else folder.resolve().name
    about = {"name": name, "status": DONE, "method": str(metrics.get("method", "")), "figures": figures}
    return summary_of({**about, **{key: metrics.get(key, []) for key in ("doubts", "notes")}})
