"""Mutates files of every format and reads them in children with limits: a sentence or a result, nothing else.

`python -m Testing.fuzz COUNT [SEED]` makes COUNT damaged files from good ones: single bytes, runs of bytes,
lengths, numbers of headers at their extremes. A child that ends in any other way than by an `InputError` or a
result (a traceback, a crash, more than 20 s or 4 GiB), and a result other than SimpleITK's where that reads
the file too, is a finding, which names the format and the number. A file that RegCore read and SimpleITK then
crashed or hung on is none: it is counted as "not compared".
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from Testing.paths import ROOT

BATCH = 50  # files that one child reads
SECONDS, GIBIBYTES = 20, 4
COMPARING = "~"  # what a child says once RegCore has read a file and before SimpleITK is asked
OUTCOMES = ("read", "sentence", "not compared")
EXTREMES = [b"0", b"-1", b"1e308", b"nan", b"inf", b"99999999999", b"2147483648", b"", b"\xff" * 8, b"../x"]


def good_files(folder: Path) -> list[Path]:
    """One small good file of each format, some with two kinds of content."""
    import nibabel
    import SimpleITK as sitk

    from RegCore.io import h5, save
    from RegCore.io.points import Points, save_points
    from RegCore.space.volume import Segment, Volume
    from Testing.RegCore.grids import OBLIQUE, SHAPE, rough_field, tilted_affine

    voxels = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype(np.int16)
    volume, labels = Volume(voxels, OBLIQUE), Volume((voxels > 0).astype(np.uint8), OBLIQUE, "labels")
    named = Volume(labels.array, OBLIQUE, "labels", (Segment(1, "Liver", "a", (1.0, 0.0, 0.0), "x|"),))
    for name in ("v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.npz"):
        save(volume, folder / name)
    save(named, folder / "s.seg.nrrd")
    for name in ("f.nrrd", "f.nii.gz", "f.npz", "f.h5"):
        save(rough_field(OBLIQUE), folder / name)
    for name in ("a.h5", "a.tfm", "a.npz"):
        save(tilted_affine(), folder / name)
    sitk.WriteTransform(sitk.ReadTransform(folder / "a.tfm"), folder / "a.mat")
    parts = [sitk.ReadTransform(folder / "a.tfm"), sitk.Euler3DTransform((1.0, 2, 3), 0.1, 0.2, 0.3)]
    sitk.WriteTransform(sitk.CompositeTransform(parts), folder / "c.h5")
    nibabel.save(nibabel.Nifti2Image(voxels, OBLIQUE.affine), folder / "two.nii")
    nibabel.save(nibabel.MGHImage(voxels.astype(np.int32), OBLIQUE.affine), folder / "v.mgz")
    for name in ("v.gipl", "v.vtk", "packed.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(voxels.T), folder / name, name == "packed.mha")
    h5.write(folder / "data.h5", {"one": (voxels, OBLIQUE.affine), "two": (voxels, None)})
    for name in ("p.fcsv", "p.mrk.json", "p.csv", "p.txt"):
        save_points(Points(np.arange(9.0).reshape(3, 3), ("a", "b", "c")), folder / name)
    (folder / "c.yaml").write_text("dataset: &a {type: nifti, dir: [x, y]}\ntrain: {loss: *a, epochs: 3}\n")
    return sorted(path for path in folder.iterdir() if path.is_file())


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four damages."""
    raw = bytearray(good)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, max(1, min(len(raw), 700 if rng.random() < 0.7 else len(raw)))))
        kind = rng.integers(0, 5)
        if kind == 0 and raw:
            raw[place] = rng.integers(256)
        elif kind == 1:
            raw[place : place + 8] = rng.integers(0, 256, int(rng.integers(0, 12)), np.uint8).tobytes()
        elif kind == 2:
            del raw[int(rng.integers(0, len(raw) + 1)) :]
        elif kind == 3:
            raw[place : place + 4] = bytes([(0, 127, 128, 255)[rng.integers(4)]] * 4)
        else:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(raw[:2000])))
            if numbers:
                found = numbers[rng.integers(len(numbers))]
                raw[found.start() : found.end()] = EXTREMES[rng.integers(len(EXTREMES))]
    return bytes(raw)


def read_one(path: Path) -> str:
    """Read a file by what its name promises: "read", or "sentence" where it was refused as it should be."""
    from RegCore.io import load
    from RegCore.io.h5 import H5File
    from RegCore.io.points import load_points
    from RegCore.io.yaml import read_yaml
    from RegCore.space.geometry import InputError

    try:
        if path.name.endswith(".yaml"):
            read_yaml(path)
        elif path.name.startswith("data"):
            file = H5File(path)
            keys = file.keys()
            for key in keys:
                file.read(key)
        elif path.name.split("-")[0] == "p":
            load_points(path)
        else:
            found = load(path)
            os.write(1, COMPARING.encode())
            return disagreement(path, found) or "read"
    except InputError as error:
        return "sentence" if "\n" not in str(error) and str(path) in str(error) else f"bad sentence {error!s}"
    return "read"


def disagreement(path: Path, found: Any) -> str:
    """How what was read differs from what SimpleITK reads; "" where it agrees or refuses the file."""
    import SimpleITK as sitk

    from RegCore.space.volume import Volume

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if isinstance(found, Volume):
            # what ITK fails to unpack it fills up without a word
            alone = path.suffix == ".npz" or path.name.startswith("packed")
            return "" if alone else _other_volume(found, sitk.ReadImage(str(path)))
        return (
            ""
            if path.suffix in (".npz", ".nrrd", ".gz")
            else _other_map(found, sitk.ReadTransform(str(path)))
        )
    except (RuntimeError, KeyError, MemoryError, OverflowError):
        return ""


def _other_volume(found: Any, image: Any) -> str:
    import SimpleITK as sitk

    from Testing.RegCore.grids import LPS

    shape = (
        *image.GetSize(),
        *[image.GetNumberOfComponentsPerPixel()] * (image.GetNumberOfComponentsPerPixel() > 1),
    )
    if image.GetDimension() != 3 or shape != found.array.shape:
        return "" if image.GetDimension() != 3 else f"another shape {shape} {found.array.shape}"
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing() * LPS[:, None]
    affine[:3, 3] = np.array(image.GetOrigin()) * LPS
    if not np.allclose(affine, found.geometry.affine, rtol=1e-3, atol=1e-3 * found.geometry.spacing.max()):
        return f"another place {affine.round(4).tolist()} {found.geometry.affine.round(4).tolist()}"
    array = sitk.GetArrayFromImage(image)
    array = array.transpose(2, 1, 0, 3) if array.ndim == 4 else array.T
    same = np.allclose(array.astype(float), found.array.astype(float), rtol=1e-4, equal_nan=True)
    return "" if same else "other voxels"


def _other_map(found: Any, other: Any) -> str:
    from Testing.RegCore.grids import LPS

    if other.GetDimension() != 3:
        return ""
    places = np.random.default_rng(0).uniform(-20, 20, (8, 3))
    if not other.IsLinear():  # beyond its grid a field of ITK moves nothing, and ours as its border does
        return ""
    mapped = np.array([other.TransformPoint(place * LPS) for place in places]) * LPS
    return "" if np.allclose(found.map(places), mapped, rtol=1e-4, atol=1e-3) else "another transform"


def child(folder: str, seed: int, start: int, count: int) -> None:
    """Read `count` damaged files from number `start` on; say the number of each before, its outcome after."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (GIBIBYTES << 30,) * 2)
    goods = sorted(path for path in Path(folder).iterdir() if path.is_file())
    with tempfile.TemporaryDirectory() as work:
        for number in range(start, start + count):
            good = goods[number % len(goods)]
            path = Path(work) / f"{good.name.split('.')[0]}-{number}{good.name[good.name.index('.') :]}"
            path.write_bytes(mutated(good.read_bytes(), np.random.default_rng([seed, number])))
            os.write(1, f"{number} {good.name} ".encode())
            os.write(1, f"{read_one(path)}\n".encode())
            path.unlink()


def fuzz(count: int, seed: int = 0) -> tuple[dict[str, int], list[str]]:
    """Read `count` damaged files.

    Returns:
        How often each outcome came, and a line for each finding.
    """
    outcomes: dict[str, int] = {}
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        good_files(Path(folder))
        number = 0
        while number < count:
            amount = min(BATCH, count - number)
            lines, failure = _run_child(folder, seed, number, amount)
            said = [line.split(" ", 2) for line in lines]
            done = [(line, words[2]) for line, words in zip(lines, said, strict=True) if words[2:] > [""]]
            for line, word in done:
                outcome = word.removeprefix(COMPARING) or "not compared"
                counted = outcome if outcome in OUTCOMES else "bad sentence"
                outcomes[counted] = outcomes.get(counted, 0) + 1
                findings += [] if outcome in OUTCOMES else [line]
            number += len(done)
            if len(done) < amount and not (done and done[-1][1] == COMPARING):
                findings.append(f"{lines[-1] if lines else number}: {failure}")
                number += 1
    return outcomes, findings


def _run_child(folder: str, seed: int, start: int, count: int) -> tuple[list[str], str]:
    code = f"from Testing.fuzz import child; child({folder!r}, {seed}, {start}, {count})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=SECONDS + count, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace").splitlines(), "did not end"
    last = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return run.stdout.decode(errors="replace").splitlines(), f"exit {run.returncode} {' '.join(last)}"


if __name__ == "__main__":
    counts, found = fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(counts)
    print("\n".join(found) or "no findings")
    sys.exit(bool(found))
