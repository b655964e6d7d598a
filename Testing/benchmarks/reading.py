"""Measures how long a CT of full size takes to read and what memory that needs, beside SimpleITK: run it.

The file is made up: an ellipse of tissue with noise in air, int16, as NIfTI and NRRD, compressed and not, and
as DICOM slices. Each reading has a process of its own, and the two readers take turns; the file is in the
memory of the system by then. Time and memory count from after the imports. The table, of medians, has ratios
of RegCore to SimpleITK; it is printed, or written into Docs/reliability.md.
"""

import argparse
import json
import locale
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from Testing.benchmarks.page import put  # noqa: E402 - the path comes first

OUTPUT = ROOT / "bench-output" / "reading"
PAGE = ROOT / "Docs" / "reliability.md"
FORMATS = {
    "NIfTI, compressed": "ct.nii.gz",
    "NIfTI": "ct.nii",
    "NRRD, compressed": "ct.nrrd",
    "NRRD": "plain.nrrd",
    "DICOM slices": "slices",
}
READERS = ("RegCore", "SimpleITK")
PAGE_VOXELS = 1024  # of two bytes, in less than a page of memory
SPACING = (0.7, 0.7, 1.0)
Shape = tuple[int, int, int]


def write_files(shape: Shape, folder: Path, formats: list[str]) -> None:
    """The CT in each format."""
    import SimpleITK as sitk

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    y, x = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[0] * 1j]
    body = (x / 0.9) ** 2 + (y / 0.7) ** 2 < 1
    array = np.empty(shape[::-1], np.int16)
    for plane in array:
        plane[:] = np.where(body, 40 + 20 * random.standard_normal(body.shape), -1000)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    for name in (FORMATS[name] for name in formats):
        if name == "slices":
            _write_slices(image, folder / name)
        else:
            sitk.WriteImage(image, str(folder / name), name in ("ct.nii.gz", "ct.nrrd"))


def _write_slices(image, folder: Path) -> None:
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    for k in range(image.GetDepth()):
        plane = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{k + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.4",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{x:g}" for x in place),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{k:04d}.dcm"))
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, before)  # SimpleITK leaves that of C behind, where text is ASCII


def read(reader: str, path: Path) -> dict:
    """Read a file in this process.

    Returns:
        "cpu" and "wall" in seconds, "mib", the peak memory beyond what was held before, and "sum", of voxels
        of each page of memory.
    """
    import time

    import SimpleITK as sitk

    import RegCore
    from RegCore.evaluation.memory import forget_peak_memory, peak_memory_mib

    loading = RegCore.load  # what it imports is imported when it is first named
    forget_peak_memory()
    before, cpu, wall = peak_memory_mib(), time.process_time(), time.perf_counter()
    if reader == "RegCore":
        array = loading(path).array
    else:
        names = str(path)
        if path.is_dir():
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(names)
        image = sitk.ReadImage(names)  # the view needs it
        array = sitk.GetArrayViewFromImage(image)
    total = int(array.ravel(order="K")[::PAGE_VOXELS].sum(dtype=np.int64))  # a file may come page by page
    found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return found | {"mib": peak_memory_mib() - before, "sum": total}


def measure(path: Path, runs: int) -> dict[str, dict[str, float]]:
    """Medians of what each reader needs for a file."""
    found: dict[str, list[dict]] = {reader: [] for reader in READERS}
    for _ in range(runs + 1):  # the first one brings the file into memory
        for reader in READERS:
            command = [sys.executable, __file__, "--read", reader, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[reader].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        reader: {key: statistics.median(run[key] for run in each[1:]) for key in ("cpu", "wall", "mib")}
        for reader, each in found.items()
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Ratios of RegCore to SimpleITK, a line for each format."""
    lines = ["| format | processor time | time | peak memory |", "|---|---|---|---|"]
    for name, found in rows.items():
        ours, theirs = (found[reader] for reader in READERS)
        cells = [f"{ours[key] / theirs[key]:.2f}" for key in ("cpu", "wall", "mib")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400), metavar="VOXELS")
    parser.add_argument("--runs", type=int, default=5, help="that count, of each reader")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--write", action="store_true", help="into Docs/reliability.md")
    parser.add_argument("--read", nargs=2, metavar=("READER", "PATH"), help="only this, in this process")
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read[0], Path(options.read[1]))))
        return
    shutil.rmtree(OUTPUT, ignore_errors=True)
    write_files(tuple(options.shape), OUTPUT, options.formats)
    rows = {}
    for name in options.formats:
        rows[name] = measure(OUTPUT / FORMATS[name], options.runs)
        print(name, rows[name], flush=True)
    shutil.rmtree(OUTPUT)
    text = table(rows)
    if options.write:
        put("reading", text, PAGE)
    print(text)


if __name__ == "__main__":
    main()
