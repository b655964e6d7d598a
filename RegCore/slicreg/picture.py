"""Supervoxels as a picture: the same colour is the same place of the template, in every scan."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from RegCore.evaluation.pictures.panels import grey_panel, window_of
from RegCore.evaluation.pictures.sheets import plane_sheet, values_at
from RegCore.evaluation.pictures.words import BACKGROUND, write, write_upwards
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.volume import Volume

HEIGHT = 300  # pixels of a scan
GAP, TOP, LEFT = 6, 34, 30
GOLDEN = 0.618034  # of a turn of hue from one supervoxel to the next, so that neighbours differ
STRENGTH = 0.62  # of the colours over the grey image


@dataclass(frozen=True)
class Oversegmentation:
    """A scan and its supervoxels on one grid, with the words above them.

    Args:
        image: (I, J, K) on an upright grid, i, j, k along R, A, S, as `RegCore.slicreg.preparation` makes it.
        supervoxels: layers (L, I, J, K) on the same grid.
    """

    title: str
    image: Volume
    supervoxels: Supervoxels


def supervoxel_picture(scans: Sequence[Oversegmentation], layers: Sequence[int] = (0, 1)) -> Image.Image:
    """A column for each scan, seen from the front: the image, and the supervoxels of some layers over it.

    The coronal plane through the middle of the grid, every scan 300 pixels high, RGB.

    Args:
        scans: at least one.
        layers: numbers of the layers that are shown from 0, a row for each.
    """
    columns = [_column(scan, layers) for scan in scans]
    widths = [column[0].width for column in columns]
    rows = len(layers) + 1
    size = (LEFT + sum(widths) + GAP * len(widths), TOP + rows * (HEIGHT + GAP))
    picture = Image.new("RGB", size, BACKGROUND)
    left = LEFT
    for scan, column, width in zip(scans, columns, widths, strict=True):
        write(picture, (left + width / 2, TOP / 2), scan.title)
        for row, panel in enumerate(column):
            picture.paste(panel, (left, TOP + row * (HEIGHT + GAP)))
        left += width + GAP
    names = ["image", *(f"layer {layer + 1}" for layer in layers)]
    for row, name in enumerate(names):
        write_upwards(picture, (LEFT / 2, TOP + row * (HEIGHT + GAP) + HEIGHT / 2), name, 16)
    return picture


def colours(count: int) -> np.ndarray:
    """A colour for each class, ``(count + 1, 3)`` uint8; the background's is not used."""
    found = [(0.0, 0.0, 0.0)]
    for n in range(count):
        found.append(colorsys.hsv_to_rgb(n * GOLDEN % 1, (0.85, 0.6)[n % 2], (1.0, 0.8, 0.9)[n % 3]))
    return np.round(255 * np.array(found)).astype(np.uint8)


def _column(scan: Oversegmentation, layers: Sequence[int]) -> list[Image.Image]:
    """The image and its coloured layers on the coronal plane through the middle."""
    grid = scan.image.geometry
    pixel = float(grid.spacing[2] * grid.shape[2]) / HEIGHT
    sheet = plane_sheet(grid, 1, (np.array(grid.shape) - 1) / 2, pixel)
    values = values_at(scan.image.array, sheet.index)
    grey = grey_panel(values, window_of(scan.image.array))
    nearest = np.clip(np.rint(sheet.index).astype(int), 0, np.array(grid.shape) - 1)
    table, panels = colours(scan.supervoxels.count), [grey]
    for layer in layers:
        labels = scan.supervoxels.labels[layer][tuple(np.moveaxis(nearest, -1, 0))]
        over = ((1 - STRENGTH) * grey + STRENGTH * table[labels]).astype(np.uint8)
        panels.append(np.where(labels[..., None] > 0, over, grey))
    return [Image.fromarray(panel).resize((panel.shape[1], HEIGHT)) for panel in panels]
