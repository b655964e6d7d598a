"""What ``regcore vis`` does: reads images, chooses slices and names, writes pictures and animations."""

import argparse
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from RegCore.evaluation.pictures.slices import (
    ANIMATION,
    BACKGROUND,
    NOTHING,
    Frames,
    Scene,
    check_slices,
    slice_frames,
    tile_picture,
    tiled_frames,
    transform_frames,
    warp_frames,
)
from RegCore.evaluation.results import prepared_folder
from RegCore.io import load, load_voxels
from RegCore.io.files import atomic_write
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)


def make_pictures(arguments: argparse.Namespace) -> None:
    """Read and check what the arguments of `RegCore.cli.vis.fill_vis` name, and write the files."""
    make = {"0": _over_slices, "1": _warped, "2": _table, "3": _tiled}[arguments.mode]
    paths = _paths(arguments.image_paths)
    with prepared_folder(Path(arguments.save_path)) as folder:
        made = make(arguments, paths)
        for name in list(made):
            _write(made.pop(name), folder / name, arguments.interval)
            log.info("%s", Path(arguments.save_path) / name)


def _paths(words: list[str]) -> list[Path]:
    """Files from words that are files or lists of files with commas."""
    found = []
    for word in words:
        parts = [word] if Path(word).exists() else word.split(",")
        found += [Path(part.strip()) for part in parts if part.strip()]
    return found


def _stems(paths: list[Path]) -> list[str]:
    """Names of files without endings; equal ones with the names of their folders, or a number, before."""
    stems = [path.name.split(".")[0] for path in paths]
    if len(set(stems)) < len(stems):
        stems = [f"{path.absolute().parent.name}_{stem}" for path, stem in zip(paths, stems, strict=True)]
    if len(set(stems)) < len(stems):
        stems = [f"{number}_{stem}" for number, stem in enumerate(stems)]
    return stems


def _over_slices(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Frames]:
    scenes = _scenes(arguments, paths)
    frames = [slice_frames(scene, _animation_size(arguments)) for scene in scenes]
    return {f"{stem}.gif": part for stem, part in zip(_stems(paths), frames, strict=True)}


def _warped(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Frames]:
    if (arguments.ddf_path is None) == (arguments.transform is None):
        raise InputError("mode 1 needs either --ddf-path or --transform")
    scenes = _scenes(arguments, paths)
    if arguments.ddf_path is not None:
        field, grid = _ddf(arguments.ddf_path)
        frames = warp_frames
    else:
        field = load(arguments.transform, "transform")
        grid = getattr(field, "geometry", None)
        frames = transform_frames
    found = {}
    for stem, scene in zip(_stems(paths), scenes, strict=True):
        onto = _grid_of(grid, scene)
        _check_place(scene.overlay, onto, "overlay")
        numbers = arguments.slice_inds or [onto.shape[2] // 2]
        check_slices(onto, numbers, "argument --slice-inds")
        for number in numbers:
            size, steps = _animation_size(arguments), arguments.num_interval
            found[f"{stem}_slice_{number}.gif"] = frames(scene, field, onto, number, steps, size)
    return found


def _ddf(path: Path) -> tuple[np.ndarray, Geometry]:
    ddf, geometry = load_voxels(path)
    if ddf.ndim != 4 or ddf.shape[3] != 3:
        raise InputError(f"{path}: a DDF of shape (I, J, K, 3) was expected, but it is {ddf.shape}")
    return ddf, geometry


def _grid_of(grid: Geometry | None, scene: Scene) -> Geometry:
    """Where warped slices are: the grid of the field; one without a place gets that of an equal image."""
    others = [volume.geometry for volume in (scene.overlay, scene.image) if volume is not None]
    if grid is None:
        return others[0]
    silent = np.array_equal(grid.affine, np.eye(4))
    return next((other for other in others if silent and other.shape == grid.shape), grid)


def _table(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Image.Image]:
    name = _file_name(arguments.fname, "visualisation.png", tuple(Image.registered_extensions()))
    titles = _stems(paths)
    if arguments.col_titles is not None:
        titles = [title.strip() for title in arguments.col_titles.split(",")]
    if len(titles) != len(paths):
        raise InputError(f"argument --col-titles: {len(titles)} titles are given for {len(paths)} images")
    scenes = _scenes(arguments, paths)
    numbers = arguments.slice_inds or [scenes[0].image.geometry.shape[2] // 2]
    for path, scene in zip(paths, scenes, strict=True):
        check_slices(scene.image.geometry, numbers, str(path))
    return {name: tile_picture(scenes, numbers, titles, arguments.zoom)}


def _tiled(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Frames]:
    name = _file_name(arguments.fname, "visualisation.gif", (".gif",))
    if len(arguments.size) != 2 or 0 in arguments.size:
        raise InputError(f"argument --size: two numbers as 2,2 were expected, not {arguments.size}")
    rows, columns = arguments.size
    if len(paths) != rows * columns:
        raise InputError(f"--size {rows},{columns} needs {rows * columns} images, but there are {len(paths)}")
    return {name: tiled_frames(_scenes(arguments, paths), rows, columns, _animation_size(arguments))}


def _file_name(given: str | None, default: str, endings: tuple[str, ...]) -> str:
    name = given or default
    if not Path(name).suffix:
        name += Path(default).suffix
    if Path(name).suffix.lower() not in endings:
        raise InputError(f"argument --fname: {name} can't be written, end it with {Path(default).suffix}")
    return name


def _animation_size(arguments: argparse.Namespace) -> tuple[int, int]:
    return tuple(round(arguments.zoom * pixels) for pixels in ANIMATION)


def _scenes(arguments: argparse.Namespace, paths: list[Path]) -> list[Scene]:
    """All that is shown, read and checked before anything is written."""
    labels = _shared_out(_paths(arguments.labels), paths, "--labels")
    overlays = _shared_out(_paths(arguments.overlay), paths, "--overlay")
    scenes = []
    for path, label, overlay in zip(paths, labels, overlays, strict=True):
        image = Volume(*load_voxels(path))
        over = None if overlay is None else Volume(*load_voxels(overlay))
        outlined = None if label is None else _labels(label)
        _check_place(outlined, image.geometry, "segmentation")
        if arguments.mode != "1":
            _check_place(over, image.geometry, "overlay")
        try:
            scenes.append(Scene(image, outlined, over, arguments.overlay_style, arguments.deepreg))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return scenes


def _shared_out(files: list[Path], images: list[Path], option: str) -> list[Path | None]:
    """One file for each image: as many as there are images, or one for all, or none."""
    if len(files) in (0, 1):
        return [files[0] if files else None] * len(images)
    if len(files) != len(images):
        raise InputError(f"argument {option}: {len(files)} files are given for {len(images)} images")
    return files


def _check_place(other: Volume | None, geometry: Geometry, name: str) -> None:
    if other is not None and not other.geometry.overlaps(geometry):
        raise InputError(f"the {name} and the image do not overlap in space")


def _labels(path: Path) -> Volume:
    """A label map, one structure per channel, or soft labels, which are cut at one half."""
    array, geometry = load_voxels(path)
    if array.ndim == 4 or (array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))):
        array = array > 0.5
    return Volume(array.astype(np.int64) if array.dtype.kind == "f" else array, geometry, "labels")


def _write(pictures: Image.Image | Frames, path: Path, interval: int) -> None:
    """A picture, or pictures that follow each other, as a file that is whole or not there."""
    with atomic_write(path) as side:
        if isinstance(pictures, Image.Image):
            pictures.save(side, format=Image.registered_extensions()[path.suffix.lower()])
            return
        palette = _palette(pictures)
        frames = (_reduced(picture, palette) for picture in pictures)
        options = {"save_all": True, "duration": interval, "loop": 0}
        next(frames).save(side, format="GIF", append_images=frames, **options)


def _palette(frames: Frames) -> Image.Image | None:
    """The 256 colours of an animation, chosen from three of its pictures; None where these are grey."""
    chosen = [np.asarray(frames[number]) for number in sorted({0, len(frames) // 2, len(frames) - 1})]
    every = np.concatenate(chosen)
    if int(np.ptp(every, axis=-1).max()) <= max(np.ptp(BACKGROUND), np.ptp(NOTHING)):
        return None
    return Image.fromarray(every).quantize(256, kmeans=1, dither=Image.Dither.NONE)


def _reduced(picture: Image.Image, palette: Image.Image | None) -> Image.Image:
    """A picture in the colours of a palette, or in all 256 shades of grey."""
    if palette is None:
        return picture.convert("L")
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)
