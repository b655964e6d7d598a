"""A page about a registration: pictures, figures and settings, as PNG and PDF, to print or to keep."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from RegCore.evaluation.pictures.words import BACKGROUND, TEXT, fitted, write
from RegCore.io.files import atomic_write
from RegCore.space.geometry import InputError

WIDTH, HEIGHT = 1654, 2339  # A4 at 200 dots per inch
DPI = 200
MARGIN, LINE, GAP = 80, 36, 22
SIZE, TITLE = 22, 44  # of letters
DIM, RULE = (150, 157, 170), (70, 78, 92)

Table = tuple[str, Sequence[Sequence[str]]]
"""A title, and rows of text, the first of which names the columns."""


def page(title: str, picture: Image.Image, tables: Sequence[Table], notes: Sequence[str] = ()) -> Image.Image:
    """One page of A4, RGB: the title, the picture, sentences, and tables one below the other in two columns.

    Args:
        title: at the top.
        picture: scaled to the width of the page.
        tables: rows that do not fit are counted in the last line of their table.
        notes: sentences of warning, under the picture.
    """
    sheet = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    room = WIDTH - 2 * MARGIN
    write(sheet, (MARGIN, MARGIN), fitted(title, TITLE, room), TITLE, TEXT, "lm")
    height = min(round(picture.height * room / picture.width), HEIGHT // 2)
    shown = picture.convert("RGB").resize((round(picture.width * height / picture.height), height))
    top = MARGIN + TITLE
    sheet.paste(shown, (MARGIN, top))
    top += height + GAP
    for note in notes:
        write(sheet, (MARGIN, top), fitted(note, SIZE, room), SIZE, TEXT, "lm")
        top += LINE
    _columns(sheet, tables, top + GAP)
    return sheet


def _columns(sheet: Image.Image, tables: Sequence[Table], top: int) -> None:
    """Write the tables, each into the column that has more room left."""
    width = (WIDTH - 2 * MARGIN - 2 * GAP) // 2
    lefts = (MARGIN, MARGIN + width + 2 * GAP)
    ends = [top, top]
    for title, rows in tables:
        column = 0 if ends[0] <= ends[1] else 1
        ends[column] = _table(sheet, title, rows, (lefts[column], ends[column], width)) + LINE


def _table(sheet: Image.Image, title: str, rows: Sequence[Sequence[str]], place: tuple[int, int, int]) -> int:
    """Write a table at (left, top, width); the pixel at which it ends."""
    left, top, width = place
    write(sheet, (left, top), title, SIZE + 4, TEXT, "lm")
    sheet.paste(RULE, (left, top + LINE - 16, left + width, top + LINE - 14))
    top += LINE + 8
    most = max(1, (HEIGHT - MARGIN - top) // LINE)
    shown = (
        list(rows) if len(rows) <= most else [*rows[: most - 1], (f"... and {len(rows) - most + 1} more",)]
    )
    others = max((len(row) for row in rows), default=1) - 1
    share = min(0.22, 0.6 / max(others, 1))
    for number, row in enumerate(shown):
        colour = DIM if number == 0 else TEXT
        name = fitted(row[0], SIZE, width * (1 - share * (len(row) - 1)) - 8)
        write(sheet, (left, top), name, SIZE, colour, "lm")
        for column, text in enumerate(row[1:]):
            right = left + width * (1 - share * (len(row) - 2 - column))
            write(sheet, (right, top), text, SIZE, colour, "rm")
        top += LINE
    return top


def save_page(sheet: Image.Image, path: Path) -> list[Path]:
    """Write a page as PNG and as PDF, each wholly or not at all.

    Args:
        sheet: what `page` made.
        path: of the files, without an ending; folders are made.

    Returns:
        The two paths.

    Raises:
        InputError: the files can't be written.
    """
    written = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: the report can't be written ({error.strerror or error})") from error
    for file_format in ("PNG", "PDF"):
        target = path.with_name(f"{path.name}.{file_format.lower()}")
        with atomic_write(target) as side:
            sheet.save(side, file_format, resolution=DPI, dpi=(DPI, DPI))
        written.append(target)
    return written
