"""Curves over frames or rounds: panels under each other, drawn with the means of the other pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from RegCore.evaluation.pictures.words import BACKGROUND, TEXT, width_of, write, write_upwards

WIDTH, HEIGHT = 1100, 230  # pixels of a panel
LEFT, RIGHT, TOP, GAP, BOTTOM = 96, 24, 58, 44, 58
PANEL, LINE, DIM = (30, 33, 42), (62, 68, 82), (150, 158, 172)
COLOURS = ((255, 146, 36), (70, 235, 130), (90, 176, 255), (255, 96, 144), (235, 215, 80), (180, 130, 255))
TICKS = 4  # about so many along an axis


@dataclass(frozen=True)
class Panel:
    """Curves with one axis.

    Args:
        title: what the axis says, with its unit.
        curves: name of each curve and its values, all of one length; NaN leaves a gap.
    """

    title: str
    curves: Mapping[str, Sequence[float] | np.ndarray]


def curves_picture(title: str, panels: Sequence[Panel], below: str) -> Image.Image:
    """Panels of curves under each other, the numbers 0, 1, 2 … along the bottom.

    Args:
        title: stands at the top.
        panels: at least one; their curves are of one length.
        below: what the numbers count, for example "frame".
    """
    total = TOP + len(panels) * (HEIGHT + GAP) + BOTTOM - GAP
    picture = Image.new("RGB", (LEFT + WIDTH + RIGHT, total), BACKGROUND)
    write(picture, (LEFT, 26), title, 24, TEXT, "lm")
    count = max(len(values) for panel in panels for values in panel.curves.values())
    for number, panel in enumerate(panels):
        _draw_panel(picture, TOP + number * (HEIGHT + GAP), panel, count)
    bottom = total - BOTTOM
    for tick in _ticks(0, max(count - 1, 1)):
        if tick == int(tick):
            write(picture, (_across(tick, count), bottom + 16), f"{int(tick)}", 15, DIM)
    write(picture, (LEFT + WIDTH / 2, bottom + 40), below, 17)
    return picture


def _across(number: float, count: int) -> float:
    return LEFT + 10 + (WIDTH - 20) * number / max(count - 1, 1)


def _ticks(low: float, high: float) -> np.ndarray:
    """Round numbers between two others."""
    step = (high - low) / TICKS
    power = 10 ** np.floor(np.log10(step))
    step = power * next(part for part in (1, 2, 5, 10) if part * power >= step * (1 - 1e-9))
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step


def _range(panel: Panel) -> tuple[float, float]:
    """The values that a panel shows, a little wider than its curves."""
    values = np.concatenate([np.asarray(curve, float).ravel() for curve in panel.curves.values()])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    spread = high - low if high - low > 1e-9 * max(abs(high), 1e-9) else max(abs(high), 1.0)
    return low - 0.06 * spread, high + 0.06 * spread


def _draw_panel(picture: Image.Image, top: int, panel: Panel, count: int) -> None:
    draw, (low, high) = ImageDraw.Draw(picture), _range(panel)

    def height(value: float) -> float:
        return top + HEIGHT * (high - value) / (high - low)

    draw.rectangle([LEFT, top, LEFT + WIDTH, top + HEIGHT], fill=PANEL)
    for tick in _ticks(low, high):
        draw.line([(LEFT, height(tick)), (LEFT + WIDTH, height(tick))], fill=LINE)
        write(picture, (LEFT - 8, height(tick)), f"{tick + 0.0:g}", 15, DIM, "rm")
    x = float(LEFT)
    for (name, values), colour in zip(panel.curves.items(), COLOURS * len(panel.curves), strict=False):
        points = [(_across(n, count), height(float(v))) for n, v in enumerate(values) if np.isfinite(v)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=3, joint="curve")
        for px, py in points if len(points) <= 60 else []:
            draw.ellipse([px - 4, py - 4, px + 4, py + 4], fill=colour)
        draw.line([(x, top - 14), (x + 22, top - 14)], fill=colour, width=4)
        write(picture, (x + 30, top - 14), name, 15, TEXT, "lm")
        x += 30 + width_of(name, 15) + 26
    write_upwards(picture, (22, top + HEIGHT // 2), panel.title, 16)
