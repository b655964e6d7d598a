"""Volumes under each other, each by its three middle slices: to see how sharp means are."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from RegCore.evaluation.pictures.panels import grey_panel, window_of
from RegCore.evaluation.pictures.words import BACKGROUND, write, write_upwards
from RegCore.space.volume import Volume, reoriented

SIDE = 300  # pixels of the longest side of a volume
LEFT, TOP, GAP = 52, 44, 8
PLANES = ("axial", "coronal", "sagittal")


def middle_slices(volume: Volume, pixel_mm: float) -> list[np.ndarray]:
    """The middle axial, coronal and sagittal slice, (H, W) each, pixels of so many mm.

    The patient's right is at the left of the picture, anterior or superior at the top.
    """
    turned = reoriented(volume, "RAS")
    array, spacing = turned.array[::-1, ::-1, ::-1], turned.geometry.spacing
    i, j, k = (n // 2 for n in array.shape)
    found = []
    for plane, across, down in ((array[:, :, k], 0, 1), (array[:, j], 0, 2), (array[i], 1, 2)):
        steps = (spacing[down] / pixel_mm, spacing[across] / pixel_mm)
        height, width = (max(1, round(n * step)) for n, step in zip(plane.T.shape, steps, strict=True))
        picture = Image.fromarray(np.ascontiguousarray(plane.T, np.float32))
        found.append(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)))
    return found


def means_picture(rows: Sequence[tuple[str, Volume]]) -> Image.Image:
    """Volumes under each other, shown with the same window.

    Args:
        rows: name and volume of each, at least one; one channel, on grids of the same size.
    """
    first = rows[0][1].geometry
    pixel_mm = float((np.array(first.shape) * first.spacing).max() / SIDE)
    window = window_of(rows[0][1].array.ravel())
    slices = [middle_slices(volume, pixel_mm) for _, volume in rows]
    widths = [max(row[column].shape[1] for row in slices) for column in range(3)]
    heights = [max(part.shape[0] for part in row) for row in slices]
    size = (LEFT + sum(widths) + 3 * GAP, TOP + sum(heights) + GAP * len(rows))
    picture = Image.new("RGB", size, BACKGROUND)
    top = TOP
    for (name, _), row, height in zip(rows, slices, heights, strict=True):
        left = LEFT
        for part, width in zip(row, widths, strict=True):
            picture.paste(
                Image.fromarray(grey_panel(part, window)), (left + (width - part.shape[1]) // 2, top)
            )
            left += width + GAP
        write_upwards(picture, (LEFT // 2, top + height // 2), name, 18)
        top += height + GAP
    left = LEFT
    for name, width in zip(PLANES, widths, strict=True):
        write(picture, (left + width / 2, TOP / 2), name, 18)
        left += width + GAP
    return picture
