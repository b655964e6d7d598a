"""Writes what a registration gave into a folder: six files, all of them or none."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from RegCore.evaluation.overview import overview
from RegCore.io import save
from RegCore.io.files import remove_empty
from RegCore.io.scratch import check_no_folders, put_in_place, scratch, sweep
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume

FILES = ("transform.h5", "inverse.h5", "warped.nii.gz", "warped_seg.nii.gz", "metrics.json", "overview.png")
NAMED = "warped_seg.seg.nrrd"  # in place of warped_seg.nii.gz, which can't hold the names of structures
RESULTS = (*FILES, NAMED)


def check_apart(folder: Path, names: Iterable[str], paths: Iterable[Path]) -> None:
    """Check that no result takes the place of what it is made of.

    Args:
        folder: of the results.
        names: of files in it, and of folders that are replaced with all that they hold.
        paths: of what they are made of.

    Raises:
        InputError: a result would take the place of one.
    """
    results = [(Path(folder) / name).resolve() for name in names]
    for path in paths:
        if any(path.resolve().is_relative_to(result) for result in results):
            raise InputError(f"{path}: a result in {folder} would take its place; choose another --out")


@contextmanager
def prepared_folder(folder: Path, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder that exists and can be written to, made if need be; yields it as a path.

    To be entered before the long work begins. What runs that were killed left in it goes. If the work fails,
    folders that were made here and stayed empty are removed again.

    Args:
        folder: the folder.
        names: of files that will be written into it.

    Raises:
        InputError: the folder can't be made or written to, or a folder in it has one of the names.
    """
    folder = Path(folder).absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError:
        raise InputError(f"{folder}: a folder for the results was expected, but this is a file") from None
    except OSError as error:
        remove_empty(made)
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error
    check_no_folders(folder, names)
    sweep(folder)
    try:
        yield folder
    except BaseException:
        remove_empty(made)
        raise


def write_results(
    folder: Path,
    registration: Any,
    fixed: Volume,
    moving: Volume,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    about: dict[str, Any] | None = None,
) -> list[Path]:
    """Write a `Registration` into a folder and return the paths, in the order of `FILES`.

    transform.h5 takes fixed points to moving points (what resampling needs), inverse.h5 the other way;
    warped.nii.gz and, with labels, warped_seg.nii.gz (`NAMED` if they have names) are on the fixed grid;
    metrics.json holds the figures and `about` (method, seed, names of files ...); overview.png is the
    picture.
    Everything is first written into a private folder inside, then moved to its place, so that on any error
    what was there before stays as it was.

    Raises:
        InputError: the results can't be written.
    """
    folder = Path(folder)
    try:
        with scratch(folder) as side:
            save(registration.transform, side / "transform.h5")
            save(registration.inverse, side / "inverse.h5")
            save(registration.warped, side / "warped.nii.gz")
            if registration.warped_labels is not None:
                named = bool(registration.warped_labels.segments)
                save(registration.warped_labels, side / (NAMED if named else "warped_seg.nii.gz"))
            figures = {**(about or {}), **registration.metrics, "seconds": registration.seconds}
            (side / "metrics.json").write_text(_json(figures), encoding="utf-8")
            picture = overview(registration, fixed, moving, fixed_labels, moving_labels)
            picture.save(side / "overview.png")
            return put_in_place(side, folder, RESULTS)
    except InputError as error:
        words = str(error).replace(f"{side}{os.sep}", f"{folder}{os.sep}")
        raise InputError(words) from error
    except OSError as error:
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error


def _json(figures: dict[str, Any]) -> str:
    """Figures as JSON text; those that are not finite become null, which JSON has a word for."""
    return json.dumps(_finite(figures), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = value.item() if hasattr(value, "item") else value
        return number if not isinstance(number, float) or math.isfinite(number) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
