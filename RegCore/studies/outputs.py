"""Result files of series and groups: written in a private folder first, so that they appear together."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from RegCore.evaluation.pictures.curves import Panel, curves_picture
from RegCore.io import save
from RegCore.io.scratch import put_in_place, scratch
from RegCore.io.series import save_series, save_transforms
from RegCore.space.geometry import InputError
from RegCore.space.names import READABLE
from RegCore.space.series import Series
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume
from RegCore.studies.rows import DOUBTFUL, verdict_of
from RegCore.studies.series import SeriesRegistration

FILES = (
    *("mean.nii.gz", "motion.csv", "motion.png", "series.json", "transforms.seq.nrrd"),
    *("warped.nii", "warped.nii.gz", "warped.seq.nrrd"),
)
RESULTS = (*FILES, "transforms")
"""What `write_series_results` may write: files, and a folder."""


@contextmanager
def together(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Give a folder inside another to write results into; they are moved to their places when all went well.

    On an error everything stays as it was.

    Args:
        folder: where the results are to be; it must exist.
        names: that results may have; of earlier ones those that are not replaced go.

    Raises:
        InputError: the results can't be written.
    """
    try:
        with scratch(folder) as side:
            yield side
            put_in_place(side, folder, names)
    except InputError as error:
        raise InputError(str(error).replace(f"{side}{os.sep}", f"{folder}{os.sep}")) from error
    except OSError as error:
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error


def there(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the names that a folder holds."""
    return [name for name in names if (folder / name).exists()]


def write_table(path: Path, columns: Mapping[str, Sequence[Any] | Any]) -> None:
    """Columns of equal length as CSV; numbers with six digits, what is not finite as an empty cell."""
    with open(path, "w", encoding="utf-8", errors=READABLE, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))


def _cell(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{float(value):.6g}" if math.isfinite(value) else ""


def verdict_columns(
    before: Sequence[float], after: Sequence[float], doubts: Sequence[Sequence[str]]
) -> dict[str, list[str]]:
    """Columns "verdict", as in the table of a study, by the correlation, and "notes", the doubts."""
    pairs = [{"ncc_before": b, "ncc_after": a} for b, a in zip(before, after, strict=True)]
    verdicts = [
        DOUBTFUL if sentences else verdict_of(pair) for pair, sentences in zip(pairs, doubts, strict=True)
    ]
    return {"verdict": verdicts, "notes": [" ".join(sentences) for sentences in doubts]}


def write_json(path: Path, about: Mapping[str, Any]) -> None:
    """A summary as JSON; paths as text, NumPy's numbers as numbers."""
    text = json.dumps(dict(about), indent=2, default=lambda x: x.item() if hasattr(x, "item") else str(x))
    path.write_text(text + "\n", encoding="utf-8")


def write_transforms(folder: Path, transforms: Iterable[tuple[str, Transform]]) -> None:
    """Transforms as files NAME.h5 in a folder that is made."""
    folder.mkdir()
    for name, transform in transforms:
        save(transform, folder / f"{name}.h5")


def series_ending(path: Path) -> str:
    """The ending of a series as the input has it; DICOM, which is not written, becomes .seq.nrrd."""
    name = path.name.lower()
    return next((end for end in (".nii.gz", ".nii") if name.endswith(end) and path.is_file()), ".seq.nrrd")


def write_series_results(
    folder: Path, result: SeriesRegistration, series: Series, ending: str, about: Mapping[str, Any]
) -> list[str]:
    """Write what came of a series.

    warped + ending: the frames brought together; mean.nii.gz: their mean; transforms/0000.h5 …: one for each
    frame, and transforms.seq.nrrd: all of them as Slicer's sequence of grid transforms; motion.csv,
    motion.png: the curves; series.json: the figures and `about`.

    Args:
        folder: it must exist.
        result: of the registration.
        series: the frames as they came.
        ending: of the file of the warped frames, .nii.gz, .nii or .seq.nrrd.
        about: method, names of files and the like.

    Returns:
        The names of what was written.

    Raises:
        InputError: the results can't be written.
    """
    with together(folder, RESULTS) as side:
        save_series(result.warped, side / f"warped{ending}")
        save(result.mean, side / "mean.nii.gz")
        write_transforms(side / "transforms", ((f"{n:04}", t) for n, t in enumerate(result.transforms)))
        save_transforms(result.transforms, series, side / "transforms.seq.nrrd")
        columns = {"frame": range(len(series)), "time": series.times, **result.motion}
        before, after = (result.motion[f"ncc_{when}"].tolist() for when in ("before", "after"))
        columns |= verdict_columns(before, after, result.doubts)
        write_table(side / "motion.csv", columns)
        motion_picture(result).save(side / "motion.png")
        figures = {name: float(values.mean()) for name, values in result.motion.items()}
        about = {**about, "reference": result.reference, "mean": figures, "seconds": result.seconds}
        write_json(side / "series.json", about)
        return there(side, RESULTS)


def motion_picture(result: SeriesRegistration) -> Any:
    """The curves of a series as a picture of Pillow."""
    motion, reference = result.motion, result.reference
    lengths = {
        "framewise displacement": motion["fd_mm"],
        f"moved since frame {reference}": motion["moved_mm"],
        "moved since the frame before": motion["changed_mm"],
    }
    panels = [Panel("mm", lengths)]
    if "shift_r_mm" in motion:
        shifts = {name: motion[f"shift_{name[0]}_mm"] for name in ("right", "anterior", "superior")}
        turns = {f"about {name}": motion[f"turn_{name}_deg"] for name in ("r", "a", "s")}
        panels += [Panel("shift, mm", shifts), Panel("turn, degrees", turns)]
    panels.append(Panel("correlation", {when: motion[f"ncc_{when}"] for when in ("before", "after")}))
    return curves_picture(f"Motion of {len(motion['fd_mm'])} frames", panels, "frame")


def save_labels(volume: Volume, folder: Path, stem: str) -> Path:
    """Write a segmentation as STEM.seg.nrrd if its structures have names, else as STEM.nii.gz."""
    path = folder / (f"{stem}.seg.nrrd" if volume.segments else f"{stem}.nii.gz")
    save(volume, path)
    return path
