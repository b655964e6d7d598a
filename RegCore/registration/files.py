"""Reads the files of a pair for `register`: each is checked for its role and its place in space."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from RegCore.io import load, load_chain
from RegCore.io.points import load_landmarks
from RegCore.space.geometry import InputError
from RegCore.space.segments import pair_segments
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume, check_image, check_labels, extent, looks_like_labels

log = logging.getLogger(__name__)


def read_pair(
    files: Mapping[str, Path | list[Path] | None], series: list[str] | None = None
) -> tuple[dict[str, Any], dict[int, str]]:
    """Read the files of a pair.

    Args:
        files: by their roles: "fixed", "moving" and those of `RegCore.registration.OPTIONAL`. "landmarks" may
            be a list of one file or two; "initial" is a transform, a list of them in the order of
            `load_chain`, or the word ``centres``.
        series: UIDs of the DICOM series to take where a folder holds several.

    Returns:
        The arguments of `RegCore.register` by name, and the names of the structures by label.

    Raises:
        InputError: a file that can't be used, or that does not overlap its image in space.
    """
    landmarks = files.get("landmarks")
    if isinstance(landmarks, Path | str):
        landmarks = [Path(landmarks)]
    if landmarks is not None and len(landmarks) > 2:
        raise InputError(f"argument --landmarks: one file or two were expected, not {len(landmarks)}")
    one = {role: Path(path) for role, path in files.items() if isinstance(path, str | Path)}
    fixed_labels, moving_labels = pair_segments(_labels(one.get("fixed_seg")), _labels(one.get("moving_seg")))
    given = {
        "fixed": _image(one["fixed"], series),
        "moving": _image(one["moving"], series),
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_mask": _labels(one.get("fixed_mask")),
        "moving_mask": _labels(one.get("moving_mask")),
        "landmarks": None if landmarks is None else load_landmarks(*landmarks),
        "initial": _initial(files.get("initial")),
    }
    _check_places(files, given)
    sides = (moving_labels, fixed_labels)
    return given, {s.label: s.name for side in sides if side is not None for s in side.segments}


def _initial(given: Path | list[Path] | None) -> Transform | str | None:
    """The transform to start from; the word ``centres`` stays a word."""
    paths = given if isinstance(given, list) or given is None else [given]
    if paths is None or [str(path) for path in paths] == ["centres"]:
        return None if paths is None else "centres"
    return load_chain(paths)


def _image(path: Path, series: list[str] | None) -> Volume:
    """An image that can be registered; one that looks like a label map is named: roles may be mixed up."""
    volume = cast(Volume, load(path, "image", series=series if path.is_dir() else None))
    check_image(volume, str(path))
    if looks_like_labels(volume.array):
        log.warning("%s: this looks like a label map, but is registered as an image", path)
    return volume


def _labels(path: Path | None) -> Volume | None:
    """A label map or a mask with something in it; None for no path."""
    if path is None:
        return None
    volume = cast(Volume, load(path, "labels"))
    check_labels(volume, str(path))
    return volume


def _check_places(files: Mapping[str, Path | list[Path] | None], given: dict[str, Any]) -> None:
    """Segmentations and masks must overlap their image in space, and the images where --initial puts them."""
    pairs = (("fixed_seg", "fixed_labels"), ("moving_seg", "moving_labels"))
    for option, name in (*pairs, ("fixed_mask", "fixed_mask"), ("moving_mask", "moving_mask")):
        image = name.split("_")[0]
        marked = None if given[name] is None else extent(given[name])
        if marked is not None and not marked.overlaps(given[image].geometry):
            where = f"what it marks does not overlap the {image} image {files[image]} in space"
            raise InputError(f"{files[option]}: {where}")
    fixed, moving, initial = given["fixed"].geometry, given["moving"].geometry, given["initial"]
    if initial not in (None, "centres") and not fixed.overlaps(moving, initial.map):
        path = files["initial"][-1] if isinstance(files["initial"], list) else files["initial"]
        raise InputError(f"{path}: with this transform the two images do not overlap in space")
