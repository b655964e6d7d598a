"""The overview of a registration: a sheet of panels with title, figures, legends and scale."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from RegCore.evaluation.pictures.panels import (
    BLUE_RED,
    COOL_WARM,
    FIXED_COLOUR,
    MOVING_COLOUR,
    Colours,
    Translation,
    difference_panel,
    draw_outline,
    grey_panel,
    grid_panel,
    ramp,
    window_of,
)
from RegCore.evaluation.pictures.sheets import Samples, Sheet, make_sheets, sample_sheet
from RegCore.evaluation.pictures.words import (
    BACKGROUND,
    TEXT,
    Colour,
    Place,
    fitted,
    width_of,
    write,
    write_upwards,
)
from RegCore.evaluation.report import headline
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

PANEL = 270  # pixels of the longest side of the fixed image
FINE = 2  # panels are drawn this much larger and then reduced, which smooths every line
NARROWEST = 200  # pixels of a column, that the title and the figures have room
GAP, LEFT, TOP, BOTTOM = 8, 52, 128, 62
DIM = (150, 157, 170)
NAME_SIZE = 15  # pixels of the names of structures
ACCENT, LETTERS = (94, 210, 196), (255, 226, 120)
COLUMNS = (
    *("Fixed", "Moving, before", "Moving, after"),
    *("Difference, before", "Difference, after", "Deformation"),
)


def overview(
    registration: Any,
    fixed: Volume,
    moving: Volume,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
) -> Image.Image:
    """A picture of a registration, about 1750 × 1000 pixels, RGB.

    Rows: the axial, coronal and sagittal plane (the nearest voxel axes of an oblique grid) through the
    structures, or through the middle of the body. Columns: the fixed image; the moving one where its header
    puts it, and after registration; the difference before and after; a grid as the transform bends it.
    Outlines, if there are labels: fixed green with the names of the structures, moving orange. The
    differences compare the fixed intensity with the one to be expected at the moving intensity, so they mean
    something across modalities too.

    Args:
        registration: what `register` returned; its transform, warped, warped_labels, metrics and seconds are
            shown.
        fixed, moving: the images as they came.
        fixed_labels, moving_labels: their label maps, whose outlines are drawn.
    """
    sheets = make_sheets(fixed, fixed_labels, PANEL * FINE)
    labels = {"fixed": fixed_labels, "before": moving_labels, "after": registration.warped_labels}
    transform, warped = registration.transform, registration.warped
    samples = [sample_sheet(sheet, transform, warped, fixed, moving, labels) for sheet in sheets]
    shift, reach = _shift_and_reach(samples)
    rows = _panels(sheets, samples, shift, reach)
    canvas = _Canvas(rows)
    canvas.title(registration)
    canvas.panels(rows, sheets)
    canvas.names(rows, samples)
    canvas.scale(sheets[0].pixel_mm * FINE)
    canvas.legend(reach, shift, {name for name in labels if labels[name] is not None})
    return canvas.picture


def thumbnail(picture: Image.Image, height: int = 132) -> Image.Image:
    """A small picture of an overview: the differences before and after, in the three planes, RGB."""
    across = (picture.width - LEFT - 16) / len(COLUMNS)
    left = LEFT + COLUMNS.index("Difference, before") * across
    box = (round(left), TOP, round(left + 2 * across - GAP), picture.height - BOTTOM - GAP)
    part = picture.convert("RGB").crop(box)
    return part.resize((max(1, round(part.width * height / part.height)), height), Image.Resampling.BOX)


def _shift_and_reach(samples: list[Samples]) -> tuple[np.ndarray, float]:
    """The mean displacement, if it is most of all (else 0), and the longest displacement that is left."""
    every = np.concatenate([part.mm.reshape(-1, 3) for part in samples])
    shift = every.mean(0)
    if np.linalg.norm(shift) < 2 * np.linalg.norm(every - shift, axis=1).mean() + 5:
        shift = np.zeros(3)
    return shift, max(0.1, float(np.percentile(np.linalg.norm(every - shift, axis=1), 99)))


def _panels(
    sheets: list[Sheet], samples: list[Samples], shift: np.ndarray, reach: float
) -> list[list[Image.Image]]:
    """For each sheet the six pictures."""
    names = ("fixed", "before", "after")
    fixed, before, after = (np.concatenate([getattr(part, n).ravel() for part in samples]) for n in names)
    of_fixed, of_moving = window_of(fixed), window_of(np.concatenate([before, after]))
    translate = Translation(after, fixed, of_moving)
    rows = []
    for sheet, part in zip(sheets, samples, strict=True):
        both = (part.before, part.after)
        pictures = [grey_panel(part.fixed, of_fixed), *(grey_panel(image, of_moving) for image in both)]
        for picture, name in zip(pictures, names, strict=True):
            draw_outline(picture, part.outlines.get("fixed"), FIXED_COLOUR)
            if name != "fixed":
                draw_outline(picture, part.outlines.get(name), MOVING_COLOUR)
        pictures += [difference_panel(part.fixed, translate(image), of_fixed) for image in both]
        pictures.append(grid_panel(sheet, part, of_fixed, shift, reach))
        rows.append([Image.fromarray(picture).reduce(FINE) for picture in pictures])
    return rows


class _Canvas:
    """The picture and where things are in it."""

    def __init__(self, rows: list[list[Image.Image]]):
        self.width = max(NARROWEST, *(row[0].width for row in rows))
        self.heights = [row[0].height for row in rows]
        total = LEFT + len(COLUMNS) * (self.width + GAP) + 16
        below = TOP + sum(self.heights) + GAP * len(rows)
        self.below = below
        self.picture = Image.new("RGB", (total, below + BOTTOM), BACKGROUND)
        self.draw = ImageDraw.Draw(self.picture)

    def text(
        self, place: Place, text: str, size: int = 17, colour: Colour = TEXT, anchor: str = "lm"
    ) -> float:
        """Write text; return where it ends."""
        return write(self.picture, place, text, size, colour, anchor)

    def title(self, registration: Any) -> None:
        """The method at the left, the figures that say most at the right."""
        affine = isinstance(registration.transform, AffineTransform)
        method = str(registration.metrics.get("method", "affine" if affine else "deformable"))
        self.text((LEFT, 34), f"{method.capitalize()} registration", 30)
        self.text((LEFT, 68), "DeepRegSlicer", 17, ACCENT)
        right = float(self.picture.width - 24)
        for name, figure in reversed(headline(registration.metrics, registration.seconds)):
            parts = figure.split("→")
            arrow = 40 * (len(parts) - 1)
            length = sum(width_of(part.strip(), 24) for part in parts) + arrow
            length = max(length, width_of(name, 15))
            self._figure(right - length, 34, parts)
            self.text((right - length, 65), name, 15, DIM)
            right -= length + 44

    def _figure(self, x: float, y: float, parts: list[str]) -> None:
        """Numbers with an arrow between them, which the built-in font lacks."""
        for number, part in enumerate(parts):
            if number:
                self.draw.line([(x + 9, y), (x + 29, y)], fill=ACCENT, width=2)
                self.draw.line([(x + 23, y - 5), (x + 29, y), (x + 23, y + 5)], fill=ACCENT, width=2)
                x += 40
            x = self.text((x, y), part.strip(), 24)

    def panels(self, rows: list[list[Image.Image]], sheets: list[Sheet]) -> None:
        """The panels with the names of rows and columns and the sides of the patient."""
        for column, name in enumerate(COLUMNS):
            self.text((self._left(column) + self.width / 2, TOP - 18), name, 18, TEXT, "mm")
        top = TOP
        for row, sheet in zip(rows, sheets, strict=True):
            height = row[0].height
            for column, panel in enumerate(row):
                left = self._left(column) + (self.width - panel.width) // 2
                self.picture.paste(panel, (left, top))
                if column == 0:
                    self._letters(left, top, panel.width, height, sheet.letters)
            write_upwards(self.picture, (LEFT - 22, top + height // 2), sheet.name, 18)
            top += height + GAP

    def names(self, rows: list[list[Image.Image]], samples: list[Samples]) -> None:
        """The names of the structures in the fixed image, as far as they do not lie on each other."""
        top = TOP
        for row, part in zip(rows, samples, strict=True):
            left = self._left(0) + (self.width - row[0].width) // 2
            taken: list[tuple[float, float, float]] = []
            for y, x, name in part.names:
                words = fitted(name, NAME_SIZE, 0.6 * row[0].width)
                half = width_of(words, NAME_SIZE) / 2
                x, y = min(max(x / FINE, half + 4), row[0].width - half - 4), y / FINE
                if all(abs(y - b) > NAME_SIZE or abs(x - a) > half + w for a, b, w in taken):
                    taken.append((x, y, half))
                    write(self.picture, (left + x, top + y), words, NAME_SIZE, FIXED_COLOUR, outline=True)
            top += row[0].height + GAP

    def _left(self, column: int) -> int:
        return LEFT + column * (self.width + GAP)

    def _letters(self, left: int, top: int, width: int, height: int, letters: str) -> None:
        middle = (left + width / 2, top + height / 2)
        places = ((left + 12, middle[1]), (left + width - 12, middle[1]), (middle[0], top + 12))
        for place, letter in zip((*places, (middle[0], top + height - 12)), letters, strict=True):
            write(self.picture, place, letter, 16, LETTERS, outline=True)

    def scale(self, pixel_mm: float) -> None:
        """A bar that says how long things are; all panels have the same scale."""
        line = self.below + 26
        bar = _round_length(0.3 * self.width * pixel_mm)
        end = LEFT + bar / pixel_mm
        self.draw.line([(LEFT, line), (end, line)], fill=TEXT, width=3)
        for x in (LEFT, end):
            self.draw.line([(x, line - 6), (x, line + 6)], fill=TEXT, width=3)
        self.text((end + 12, line), f"{bar:g} mm", 17)

    def legend(self, reach: float, shift: np.ndarray, labelled: set[str]) -> None:
        """What the colours mean: of the outlines, of the differences, and of the deformation in mm."""
        line = self.below + 26
        x = float(self._left(1))
        shown = (("fixed", FIXED_COLOUR, "fixed structures"), ("after", MOVING_COLOUR, "moving structures"))
        for name, colour, words in shown:
            if name in labelled:
                self.draw.line([(x, line), (x + 26, line)], fill=colour, width=4)
                x = self.text((x + 34, line), words, 17) + 28
        moved = float(np.linalg.norm(shift))
        note = f"{reach:.1f} mm" + (f" + {moved:.0f} mm shift" if moved else "")
        free = self._ramp(self._left(5), self.picture.width - 24, COOL_WARM, "0", note)
        self._ramp(self._left(3), free - 30, BLUE_RED, "darker", "brighter")

    def _ramp(self, left: float, right: float, colours: Colours, low: str, high: str) -> float:
        """A strip of colours between two words at `left`, or further left to end at `right`; its start."""
        line = self.below + 26
        words = sum(width_of(word, 17) for word in (low, high))
        start = min(left, right - words - 140)
        x = self.text((start, line), low, 17, DIM) + 10
        strip = np.broadcast_to(ramp(colours, np.linspace(0, 1, 120)), (12, 120, 3))
        self.picture.paste(Image.fromarray(np.ascontiguousarray(strip)), (int(x), line - 6))
        self.text((x + 130, line), high, 17, DIM)
        return start


def _round_length(limit_mm: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 ... that is not longer than the limit."""
    power = 10 ** np.floor(np.log10(max(limit_mm, 1e-3)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit_mm))
