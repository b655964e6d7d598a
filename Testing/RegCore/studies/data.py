"""Pairs for the tests of studies: small phantoms as files, and jobs that only pretend."""

import csv
import time
from pathlib import Path

from RegCore.io import save
from RegCore.samples.phantom import make_phantom
from RegCore.studies.folders import new_record, whole_folder
from RegCore.studies.rows import Row, inputs_of, settings_of


def write_pairs(folder: Path, count: int, shape=(24, 22, 20)) -> Path:
    """Phantoms as files with a manifest; returns its path."""
    rows = [("id", "fixed", "moving", "fixed_seg", "moving_seg")]
    for number in range(count):
        case = make_phantom(number, fixed_shape=shape, moving_shape=shape)
        place = folder / f"case{number}"
        place.mkdir(parents=True)
        parts = {"fixed": case.fixed, "moving": case.moving}
        parts |= {"fixed_seg": case.fixed_labels, "moving_seg": case.moving_labels}
        for name, volume in parts.items():
            save(volume, place / f"{name}.nii.gz")
        rows.append((f"case {number}", *(f"case{number}/{name}.nii.gz" for name in rows[0][1:])))
    return write_manifest(folder, rows)


def write_manifest(folder: Path, rows, name="manifest.csv") -> Path:
    """A table as a manifest."""
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / name


def plain_rows(folder: Path, count: int) -> list[Row]:
    """Rows of files that hold a few bytes; for jobs that only pretend."""
    rows = []
    folder.mkdir(exist_ok=True)
    for number in range(count):
        for name in ("fixed", "moving"):
            (folder / f"{name}{number}.nii").write_text(f"{name} {number}")
        files = {name: folder / f"{name}{number}.nii" for name in ("fixed", "moving")}
        rows.append(Row(f"pair {number}", files))
    return rows


def pretend(arguments, progress):
    """In place of `register_pair`, at a known cost: notes that it was called; fails where a file says so."""
    row, folder = arguments["row"], Path(arguments["folder"])
    time.sleep(row.settings.get("cost", 0.0))
    with open(folder.parents[1].with_name("calls"), "a") as file:
        file.write(f"{row.id}\n")
    if "bad" in row.files["moving"].read_text():
        raise ValueError("a bad file")
    record = new_record(row.id, inputs_of(row), settings_of(row))
    before = len(row.files["moving"].read_text())
    record["figures"] = {"ncc_before": 0.1, "ncc_after": 0.5, "seconds": 0.01 * before}
    with whole_folder(folder, record) as side:
        (side / "metrics.json").write_text("{}")
    return record
