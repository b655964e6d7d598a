"""Slices of images as pictures: one, several side by side, one after another, and bent step by step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from PIL import Image

from RegCore.evaluation.pictures.panels import NOTHING, Window, grey_panel, window_of
from RegCore.evaluation.pictures.sheets import (
    Sheet,
    fitting_pixel,
    outlines_of,
    pixel_places,
    plane_sheet,
    values_at,
)
from RegCore.evaluation.pictures.words import BACKGROUND, Place, fitted, write
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import Transform, sample
from RegCore.space.volume import Volume

STYLES = ("blend", "checkerboard")
ANIMATION, CELL = (640, 480), (200, 200)  # pixels of an animation and of each image in a table
Size = tuple[int, int]  # width and height, pixels
At = Callable[[Sheet], tuple[np.ndarray, np.ndarray]]
TITLE_HEIGHT, GAP = 24, 3  # pixels
SQUARES = 8  # of the checkerboard, along the longer side
FEW_VALUES = 12  # an image of no more values is shown from its smallest to its largest
SEARCHED = 1_000_000  # voxels looked at to choose black and white
# Of label 1, 2 and so on; then they begin again.
COLOURS = (
    *((70, 235, 130), (255, 146, 36), (90, 176, 255), (255, 99, 132), (250, 226, 80)),
    *((190, 130, 255), (80, 226, 226), (255, 160, 220), (170, 220, 70), (226, 120, 80)),
)


@dataclass(frozen=True)
class Scene:
    """An image, and what is drawn over its slices.

    Args:
        image: (I, J, K), or (I, J, K, 3) that is shown in colours.
        labels: outlines of these structures are drawn, each in its colour, where they are in space.
        overlay: a second image (I, J, K), shown where it is in space: as a "blend", the image green and the
            overlay magenta, grey where they agree, or as a "checkerboard" of the two.
        raw: rows run along i and columns along j, and voxels are squares, as DeepReg shows a slice; else it
            is seen as a doctor sees it, in its true proportions.

    Raises:
        InputError: an image has another number of channels, or the style is another.
    """

    image: Volume
    labels: Volume | None = None
    overlay: Volume | None = None
    style: str = STYLES[0]
    raw: bool = False

    def __post_init__(self):
        if self.style not in STYLES:
            raise InputError(f"an overlay is shown as {' or '.join(STYLES)}, not as {self.style!r}")
        if self.image.array.ndim == 4 and self.image.array.shape[3] != 3:
            count = self.image.array.shape[3]
            raise InputError(f"an image of 1 channel, or of 3 as colours, can be shown, but it has {count}")
        if self.overlay is not None and (self.image.array.ndim, self.overlay.array.ndim) != (3, 3):
            raise InputError("an image and its overlay must have one channel each")

    @cached_property
    def window(self) -> Window:
        """Intensities shown black and white, the same for all slices."""
        return _window(self.image.array)

    @cached_property
    def overlay_window(self) -> Window | None:
        """The same for the overlay."""
        return None if self.overlay is None else _window(self.overlay.array)


def _window(array: np.ndarray) -> Window:
    step = max(1, int(np.ceil((array.size / SEARCHED) ** (1 / 3))))
    values = array[::step, ::step, ::step].astype(np.float64)
    values = values[np.isfinite(values)]
    if array.ndim == 4 or len(np.unique(values)) <= FEW_VALUES:
        low, high = (float(np.nanmin(array)), float(np.nanmax(array))) if values.size else (0.0, 1.0)
        return Window(low, high if high > low else low + 1)
    return window_of(values)


def check_slices(geometry: Geometry, numbers: Sequence[int], name: str) -> None:
    """Check that a grid has the slices of these numbers.

    Raises:
        InputError: it lacks one; the sentence begins with `name`.
    """
    count = geometry.shape[2]
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(f"{name}: there is no slice {number}, the slices are 0 to {count - 1}")


@dataclass(frozen=True)
class Frames:
    """The pictures of an animation, each made when it is asked for; `make` takes a number below `length`.

    They can be counted, indexed from 0 and iterated over.
    """

    length: int
    make: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Image.Image]:
        return (self.make(number) for number in range(self.length))

    def __getitem__(self, number: int) -> Image.Image:
        if not 0 <= number < self.length:
            raise IndexError(number)
        return self.make(number)


def slice_frames(scene: Scene, size: Size = ANIMATION) -> Frames:
    """One picture for each slice along the last axis, all of the same size."""

    def make(number: int) -> Image.Image:
        return _framed(_slice(scene, number, size), size, f"slice {number}")

    return Frames(scene.image.geometry.shape[2], make)


def tiled_frames(scenes: Sequence[Scene], rows: int, columns: int, size: Size = ANIMATION) -> Frames:
    """Pictures of several images in rows, slice by slice; with fewer slices an image goes on more slowly.

    Raises:
        InputError: the number of images is not rows · columns.
    """
    if len(scenes) != rows * columns:
        needed = f"{rows} × {columns} tiles need {rows * columns} images"
        raise InputError(f"{needed}, but {len(scenes)} {'is' if len(scenes) == 1 else 'are'} given")
    cell = (size[0] // columns, size[1] // rows)
    depths = [scene.image.geometry.shape[2] for scene in scenes]
    steps = max(depths)

    def make(step: int) -> Image.Image:
        numbers = [round(step * (depth - 1) / max(steps - 1, 1)) for depth in depths]
        cells = [_slice(scene, number, cell) for scene, number in zip(scenes, numbers, strict=True)]
        return _table([cells[row * columns :][:columns] for row in range(rows)], cell, size)

    return Frames(steps, make)


def tile_picture(
    scenes: Sequence[Scene], numbers: Sequence[int], titles: Sequence[str] = (), zoom: float = 1
) -> Image.Image:
    """A table: a column for each image, a row for each of these slices, 200 · zoom pixels each."""
    width, height = (round(zoom * part) for part in CELL)
    top = round(zoom * TITLE_HEIGHT) if titles else 0
    cell = (width, (height * len(numbers) - top) // len(numbers))
    rows = [[_slice(scene, number, cell) for scene in scenes] for number in numbers]
    picture = _table(rows, cell, (width * len(scenes), height * len(numbers)), titles)
    for line, number in enumerate(numbers):
        _caption(picture, (0, picture.height - cell[1] * (len(numbers) - 1 - line)), f"slice {number}", zoom)
    return picture


def warp_frames(
    scene: Scene, ddf: np.ndarray, onto: Geometry, number: int, steps: int, size: Size = ANIMATION
) -> Frames:
    """Pictures of a slice that is bent step by step, from not at all to by the whole displacement.

    Args:
        ddf: (I, J, K, 3) voxels on the grid `onto`; moving index = fixed index + share · ddf. The overlay of
            the scene stays where it is, the labels are bent with the image.
    """

    def ends(sheet: Sheet) -> tuple[np.ndarray, np.ndarray]:
        return sheet.index, sheet.index + sample(ddf, sheet.index.reshape(-1, 3)).reshape(sheet.index.shape)

    return _bent_frames(scene, onto, number, steps, size, ends)


def transform_frames(
    scene: Scene, transform: Transform, onto: Geometry, number: int, steps: int, size: Size = ANIMATION
) -> Frames:
    """As `warp_frames`, with x_moving = x + share · (T(x) - x) in RAS mm."""

    def ends(sheet: Sheet) -> tuple[np.ndarray, np.ndarray]:
        to_index = scene.image.geometry.to_index
        return to_index(sheet.world), to_index(transform.map(sheet.world))

    return _bent_frames(scene, onto, number, steps, size, ends)


def _bent_frames(scene: Scene, onto: Geometry, number: int, steps: int, size: Size, ends: At) -> Frames:
    """Pictures on the way between two places in the image, which `ends` tells for each point of a sheet."""

    @cache
    def way() -> tuple[Sheet, np.ndarray, np.ndarray]:
        sheet = _sheet(onto, number, size, scene.raw)
        start, end = ends(sheet)
        return sheet, start, end - start

    def make(step: int) -> Image.Image:
        sheet, start, change = way()
        share = step / (steps - 1) if steps > 1 else 1.0
        return _framed(_painted(scene, sheet, start + share * change), size, f"{share:.2f}")

    return Frames(steps, make)


def _slice(scene: Scene, number: int, size: Size) -> np.ndarray:
    """A slice as a picture (H, W, 3) uint8 that fills `size` (width, height) as far as its shape lets it."""
    sheet = _sheet(scene.image.geometry, number, (size[0] - GAP, size[1] - GAP), scene.raw)
    return _painted(scene, sheet, sheet.index)


def _sheet(geometry: Geometry, number: int, size: Size, raw: bool) -> Sheet:
    place = np.array([0.0, 0.0, number])
    if raw:
        pixel = max(geometry.shape[1] / size[0], geometry.shape[0] / size[1])
        counts = [max(1, round(n / pixel)) for n in geometry.shape[:2]]
        rows, columns = (pixel_places(n, count) for n, count in zip(geometry.shape, counts, strict=False))
        index = np.stack(np.broadcast_arrays(rows[:, None], columns[None], place[2]), -1)
        pixel_mm = pixel * float(geometry.spacing[:2].mean())
        return Sheet("", "", index, geometry.to_world(index), pixel_mm)
    return plane_sheet(geometry, 2, place, fitting_pixel(geometry, 2, size))


def _painted(scene: Scene, sheet: Sheet, index: np.ndarray) -> np.ndarray:
    """The image at voxel indices (H, W, 3) of its own, with what lies over it, (H, W, 3) uint8."""
    if scene.image.array.ndim == 4:
        channels = np.stack(
            [values_at(channel, index) for channel in np.moveaxis(scene.image.array, -1, 0)], -1
        )
        colours = (255 * scene.window.share(np.nan_to_num(channels))).astype(np.uint8)
        picture = np.where(np.isfinite(channels), colours, np.array(NOTHING, np.uint8))
    else:
        values = values_at(scene.image.array, index)
        picture = grey_panel(values, scene.window)
        if scene.overlay is not None and scene.overlay_window is not None:
            over = values_at(scene.overlay.array, scene.overlay.geometry.to_index(sheet.world))
            picture = _combined(picture, grey_panel(over, scene.overlay_window), scene.style, values, over)
    if scene.labels is not None:
        edges = outlines_of(scene.labels, scene.image.geometry.to_world(index), sheet.pixel_mm)
        colours = np.array(COLOURS)[(edges - 1) % len(COLOURS)]
        picture = np.where(edges[..., None] > 0, 0.12 * picture + 0.88 * colours, picture).astype(np.uint8)
    return picture


def _combined(
    first: np.ndarray, second: np.ndarray, style: str, values: np.ndarray, over: np.ndarray
) -> np.ndarray:
    """Two grey pictures (H, W, 3) in one, where NaN of `values` and `over` tells where there is none."""
    seen = np.isfinite(values), np.isfinite(over)
    if style == "blend":
        green, magenta = (
            np.where(where, part[..., 0], 0) for where, part in zip(seen, (first, second), strict=True)
        )
        both = np.stack([magenta, green, magenta], -1)
        return np.where((seen[0] | seen[1])[..., None], both, np.array(NOTHING, np.uint8))
    side = max(1, -(-max(first.shape[:2]) // SQUARES))
    rows, columns = (np.arange(n) // side for n in first.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], first, second)


def _framed(picture: np.ndarray, size: Size, text: str) -> Image.Image:
    """A picture in the middle of a frame of a fixed size, with a few words at the lower left."""
    frame = _table([[picture]], size, size)
    _caption(frame, (0, size[1]), text, size[1] / ANIMATION[1])
    return frame


def _caption(picture: Image.Image, corner: Place, text: str, zoom: float) -> None:
    """Words over a picture at the lower left corner of a part of it."""
    place = (corner[0] + 8 * zoom, corner[1] - 7 * zoom)
    write(picture, place, text, 13 * zoom, anchor="ls", outline=True)


def _table(rows: list[list[np.ndarray]], cell: Size, size: Size, titles: Sequence[str] = ()) -> Image.Image:
    """Pictures in cells (width, height) side by side at the bottom of a frame, with titles above."""
    frame = Image.new("RGB", size, BACKGROUND)
    top = size[1] - cell[1] * len(rows)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = (column * cell[0], top + line * cell[1])
            rest = (cell[0] - picture.shape[1], cell[1] - picture.shape[0])
            frame.paste(Image.fromarray(picture), (place[0] + rest[0] // 2, place[1] + rest[1] // 2))
    for column, title in enumerate(titles):
        middle = (column * cell[0] + cell[0] / 2, top / 2)
        write(frame, middle, fitted(title, 0.55 * top, cell[0] - 8), 0.55 * top)
    return frame
