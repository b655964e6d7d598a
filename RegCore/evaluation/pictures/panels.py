"""From samples of a sheet to small pictures: grey images, outlines, coloured differences, the bent grid."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter1d

from RegCore.evaluation.pictures.sheets import Samples, Sheet

FIXED_COLOUR, MOVING_COLOUR = (70, 235, 130), (255, 146, 36)
NOTHING = (30, 33, 42)  # where an image does not reach
BLUE_RED = ((90, 176, 255), (24, 88, 190), (15, 17, 23), (196, 52, 38), (255, 160, 110))
COOL_WARM = ((86, 120, 255), (60, 200, 210), (130, 225, 110), (255, 215, 70), (255, 96, 64))
FULL_COLOUR = 0.5  # a difference of this share of the window has the full colour
Colours = tuple[tuple[int, int, int], ...]
LINES = 16  # of the deformation grid, along the longest side
BINS = 48  # of intensities, for the translation of moving into fixed ones


@dataclass(frozen=True)
class Window:
    """Intensities shown as black and as white."""

    low: float
    high: float

    def share(self, values: np.ndarray) -> np.ndarray:
        """Intensities as 0 (black) to 1 (white), clipped."""
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)


def window_of(values: np.ndarray) -> Window:
    """The window that shows the body of these values (NaN is left out) and ignores a few extreme ones."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Window(0.0, 1.0)
    low, high = np.percentile(values, (0.5, 99.7))
    body = values[values > low + 0.08 * (high - low)]
    if body.size:
        low, high = np.percentile(body, (1, 99.7))
        low -= 0.06 * (high - low)
    return Window(float(low), float(high if high > low else low + 1))


def ramp(colours: Colours, share: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 at shares 0..1 along a list of colours."""
    table = np.array(colours, float)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(share, places, column) for column in table.T], -1).round().astype(np.uint8)


def grey_panel(values: np.ndarray, window: Window) -> np.ndarray:
    """An image (H, W) as RGB (H, W, 3) uint8."""
    seen = np.isfinite(values)
    grey = (255 * window.share(np.where(seen, values, 0)) ** 0.9).astype(np.uint8)
    return np.where(seen[..., None], grey[..., None], np.array(NOTHING, np.uint8))


def draw_outline(panel: np.ndarray, edge: np.ndarray | None, colour: tuple[int, int, int]) -> None:
    """Put the edges (H, W) bool onto a panel, in place; None for no labels."""
    if edge is not None:
        panel[edge] = (0.12 * panel[edge] + 0.88 * np.array(colour)).astype(np.uint8)


class Translation:
    """The mean fixed intensity found at each moving intensity once the images are aligned.

    With it a difference means something for images of different modality, scale or contrast too.
    """

    def __init__(self, moving: np.ndarray, fixed: np.ndarray, window: Window):
        self.window = window
        seen = np.isfinite(moving) & np.isfinite(fixed)
        cells = np.minimum((window.share(moving[seen]) * BINS).astype(int), BINS - 1)
        count = np.bincount(cells, minlength=BINS).astype(float)
        total = np.bincount(cells, weights=fixed[seen], minlength=BINS)
        mean = total.sum() / count.sum() if count.sum() else 0.0
        # Sparse bins lean on their neighbours, and a little on the mean of all.
        count, total = gaussian_filter1d(count, 0.8), gaussian_filter1d(total, 0.8)
        self.table = (total + 0.5 * mean) / (count + 0.5)

    def __call__(self, moving: np.ndarray) -> np.ndarray:
        """The fixed intensities to be expected at moving ones; NaN stays NaN."""
        place = self.window.share(np.nan_to_num(moving)) * BINS - 0.5
        return np.where(np.isfinite(moving), np.interp(place, np.arange(BINS), self.table), np.nan)


def difference_panel(fixed: np.ndarray, expected: np.ndarray, window: Window) -> np.ndarray:
    """fixed - expected, blue below and red above, RGB (H, W, 3) uint8."""
    seen = np.isfinite(fixed) & np.isfinite(expected)
    share = window.share(np.where(seen, fixed, 0)) - window.share(np.where(seen, expected, 0))
    colour = ramp(BLUE_RED, np.clip(share / FULL_COLOUR, -1, 1) / 2 + 0.5)
    return np.where(seen[..., None], colour, np.array(NOTHING, np.uint8))


def grid_panel(sheet: Sheet, samples: Samples, window: Window, shift: np.ndarray, reach: float) -> np.ndarray:
    """A square grid as the transform bends it, over the faint fixed image, RGB (H, W, 3) uint8.

    Each point x of the grid is drawn at x + u(x) - shift, projected into the plane, in the colour of
    |u(x) - shift| from 0 to `reach` mm.
    """
    picture = Image.fromarray((grey_panel(samples.fixed, window) * 0.42).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    rest = samples.mm - shift
    steps = sheet.in_plane(rest)
    colours = ramp(COOL_WARM, np.clip(np.linalg.norm(rest, axis=-1) / reach, 0, 1))
    height, width = samples.fixed.shape
    pitch = max(4, round(max(height, width) / LINES))
    along = max(1, pitch // 6)
    for row in range(pitch // 2, height, pitch):
        columns = np.unique(np.r_[np.arange(0, width, along), width - 1])
        _draw_line(draw, np.full_like(columns, row), columns, steps, colours)
    for column in range(pitch // 2, width, pitch):
        rows = np.unique(np.r_[np.arange(0, height, along), height - 1])
        _draw_line(draw, rows, np.full_like(rows, column), steps, colours)
    return np.asarray(picture)


def _draw_line(
    draw: ImageDraw.ImageDraw, rows: np.ndarray, columns: np.ndarray, steps: np.ndarray, colours: np.ndarray
) -> None:
    """One line of the grid through the pixels (rows, columns), each moved by its step."""
    moved = np.stack([columns, rows], -1) + steps[rows, columns]
    tint = colours[rows, columns]
    for number in range(len(rows) - 1):
        ends = [tuple(moved[number]), tuple(moved[number + 1])]
        draw.line(ends, fill=tuple(int(part) for part in tint[number]), width=3)
