"""The page of series and groups: its commands and its Python run on small generated scans."""

import re
import shlex
from dataclasses import replace
from glob import glob

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.samples.phantom import LABELS
from RegCore.space.volume import Segment, Volume
from RegCore.studies.outputs import write_series_results
from RegCore.studies.steps import STEPS
from Testing.paths import ROOT
from Testing.RegCore.registration.blobs import centred
from Testing.RegCore.studies.frames import rigid_motion, series_of
from Testing.RegCore.studies.patients import make_patients

PAGE = (ROOT / "Docs" / "series-and-groups.md").read_text(encoding="utf-8")
GRID = centred((14, 13, 12), (0.1, -0.2, 0.15), (10.0, 10.5, 11.0))
QUICKER = {  # what a command gets besides, so that it takes seconds
    "register-series --frames bold": "",
    "register-series --frames ct4d": "--settings levels=1 iterations=4 symmetric=false",
    "template": "--method affine",
    "propagate": "--method affine",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    series = series_of(GRID, [rigid_motion(2.0 * t) for t in range(3)])
    RegCore.save_series(series, "bold.nii.gz")
    RegCore.save_series(series, "ct4d.seq.nrrd")
    RegCore.save(Volume(np.ones(GRID.shape, np.uint8), GRID, "labels"), "lungs.nii.gz")
    patients = make_patients(4, (14, 13, 12))
    segments = tuple(Segment(label, name) for label, name in LABELS.items())
    (tmp_path / "patients").mkdir()
    for number, (image, labels) in enumerate(zip(patients.scans, patients.labels, strict=True), 1):
        RegCore.save(image, f"patients/p{number}.nii.gz")
        RegCore.save(replace(labels, segments=segments), f"patients/p{number}.seg.nrrd")
    return tmp_path


def expanded(words: list[str]) -> list[str]:
    """Words with * as the files that a shell puts in their place."""
    return [file for word in words for file in (sorted(glob(word)) if "*" in word else [word])]


def test_the_commands_run_and_write_the_files_of_the_tables(scans, capsys):
    lines = [line for block in blocks("bash") for line in block.splitlines() if line]
    tables = dict(zip(("register-series", "template", "propagate"), tables_of_files(), strict=True))
    for line in lines:
        program, *arguments = expanded(shlex.split(line.replace("--workers 2", "--workers 1")))
        more = next(words for start, words in QUICKER.items() if line.startswith(f"regcore {start}"))
        more = f"{more} --device cpu".split()
        assert program == "regcore" and main([*arguments, *more]) == 0, f"{line}\n{capsys.readouterr().err}"
        out = scans / arguments[arguments.index("--out") + 1]
        written = {path.name for path in out.iterdir() if path.name != STEPS}
        rows = flat(tables[arguments[0]])
        for choice in rows:
            assert written & {name.split("/")[0] for name in choice}, (choice, written)
        assert len(written) == len({choice[0].split("/")[0] for choice in rows}), written
    assert len(lines) == 4


def tables_of_files() -> list[list[list[str]]]:
    """For each table of files the rows, each a list of names of which one is written."""
    found = re.findall(r"^\| file \| what it is \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[re.findall(r"`([^`]+)`", row.split("|")[1]) for row in rows.splitlines()] for rows in found]


def flat(rows: list[list[str]]) -> list[list[str]]:
    """Rows in which names stand beside each other that are both written, one for each."""
    both = ({"motion.csv", "motion.png"}, {"mean.nii.gz", "linear_mean.nii.gz"}, {"scans.csv", "rounds.csv"})
    both += ({"transforms/NAME.h5", "inverses/NAME.h5"},)
    return [part for row in rows for part in ([[name] for name in row] if set(row) in both else [row])]


def test_the_python_runs(scans, capsys):
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "series-and-groups.md", "exec"), names)
    assert float(capsys.readouterr().out) > 1
    for file in ("together.nii.gz", "template.nii.gz", "p1.seg.nrrd"):
        assert (scans / file).is_file()
    segmentation = RegCore.load("p1.seg.nrrd", "labels")
    assert {segment.name for segment in segmentation.segments} == set(LABELS.values())


def test_the_page_names_every_column_of_the_curves(scans, tmp_path):
    table = PAGE.split("The columns of `motion.csv`:")[1].split("In Python")[0]
    columns = re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\|([^|]*)\|", table)))
    series = RegCore.load_series("bold.nii.gz")
    result = RegCore.register_series(series, device="cpu")
    write_series_results(tmp_path, result, series, ".nii.gz", {})
    assert columns == (tmp_path / "motion.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
