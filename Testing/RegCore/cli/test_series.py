"""``regcore register-series``: the files it writes, for each kind of input, and what it says of bad input."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import RegCore
from RegCore.cli import main
from RegCore.space.series import Series
from RegCore.studies.steps import STEPS
from Testing.RegCore.registration.blobs import centred
from Testing.RegCore.studies.frames import rigid_motion, series_of

GRID = centred((14, 13, 12), (0.1, -0.2, 0.15), (10.0, 10.5, 11.0))
FILES = ["mean.nii.gz", "motion.csv", "motion.png", "series.json", "transforms", "transforms.seq.nrrd"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a series of three frames in two formats."""
    folder = tmp_path_factory.mktemp("series")
    series = series_of(GRID, [rigid_motion(2.0 * t) for t in range(3)])
    for ending in ("nii.gz", "seq.nrrd"):
        RegCore.save_series(series, folder / f"s.{ending}")
    return folder


def run(*arguments) -> int:
    return main(["register-series", "--device", "cpu", *(str(argument) for argument in arguments)])


def shown(folder) -> list[str]:
    """The names in a folder, without what only a later call looks for."""
    return sorted(path.name for path in folder.iterdir() if path.name != STEPS)


@pytest.mark.parametrize("ending", ["nii.gz", "seq.nrrd"])
def test_the_results_are_those_of_python_in_the_kind_of_the_input(given, tmp_path, ending, capsys):
    out = tmp_path / "new" / "out"
    assert run("--frames", given / f"s.{ending}", "--reference", 0, "--out", out) == 0
    assert shown(out) == sorted([*FILES, f"warped.{ending}"])
    series = RegCore.load_series(given / f"s.{ending}")
    expected = RegCore.register_series(series, reference=0, device="cpu")
    warped = RegCore.load_series(out / f"warped.{ending}")
    np.testing.assert_allclose(warped.array, expected.warped.array, rtol=1e-5, atol=1e-3)
    assert warped.times == series.times and warped.geometry.is_close(series.geometry)
    for number, transform in enumerate(expected.transforms):
        found = RegCore.load(out / "transforms" / f"{number:04}.h5", "transform")
        np.testing.assert_allclose(found.matrix, transform.matrix, atol=1e-9)
    with open(out / "motion.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["time"] for row in rows] == list(series.times)
    for name, values in expected.motion.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-4, atol=1e-5)
    about = json.loads((out / "series.json").read_text(encoding="utf-8"))
    assert (about["reference"], about["method"], about["to"]) == (0, "rigid", "frame")
    with Image.open(out / "motion.png") as picture:
        assert picture.size[0] > 1000 and len(np.unique(np.asarray(picture))) > 50
    said = capsys.readouterr().out
    assert f"{expected.motion['fd_mm'].max():.3f} mm" in said and "frames                        3" in said


def test_a_frame_that_fits_nothing_is_named(given, tmp_path, capsys):
    series = RegCore.load_series(given / "s.nii.gz")
    series.array[..., 2] = np.random.default_rng(0).integers(0, 900, GRID.shape)
    RegCore.save_series(series, tmp_path / "bad.nii.gz")
    for to in ("frame", "mean"):
        assert run("--frames", tmp_path / "bad.nii.gz", "--to", to, "--out", tmp_path / to) == 0
        said = capsys.readouterr().err
        assert said.count("WARNING") == 1 and "frame 2: the registration has probably failed" in said
        with open(tmp_path / to / "motion.csv", encoding="utf-8") as file:
            *good, bad = csv.DictReader(file)
        assert bad["verdict"] == "doubtful" and bad["notes"].startswith("the registration has probably")
        assert all(row["verdict"] in ("better", "same") and row["notes"] == "" for row in good)


def test_a_failure_leaves_what_was_there(given, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mean.nii.gz").write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("RegCore.studies.outputs.write_table", full)
    assert run("--frames", given / "s.nii.gz", "--out", out, "--quiet") == 2
    assert "out: the results can't be written (No space left on device)" in capsys.readouterr().err
    assert shown(out) == ["mean.nii.gz"]
    assert (out / "mean.nii.gz").read_text() == "earlier"


def test_results_replace_earlier_ones(given, tmp_path):
    old = tmp_path / "transforms" / "0007.h5"
    old.parent.mkdir()
    old.touch()
    assert run("--frames", given / "s.nii.gz", "--out", tmp_path, "--quiet", "--to", "neighbour") == 0
    assert sorted(path.name for path in old.parent.iterdir()) == ["0000.h5", "0001.h5", "0002.h5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frames", "gone.nii.gz"], "gone.nii.gz: there is no such file"),
        (["--frames", "v.nii.gz"], "v.nii.gz: a series of frames was expected, but this is a single volume"),
        (["--frames", "s.nii.gz", "--to", "means"], "is 'means', expected one of frame, mean, neighbour"),
        (["--frames", "s.nii.gz", "--reference", "3"], "the frames have the numbers 0 to 2"),
        (["--frames", "s.nii.gz", "--method", "rigit"], "did you mean rigid?"),
        (["--frames", "s.nii.gz", "--mask", "gone.nii"], "gone.nii: there is no such file"),
        (["--frames", "flat.nii.gz"], "frame 1: the image is constant"),
        (
            ["--frames", "s.nii.gz", "--scheduler", "tcp://x:1", "--scheduler-file", "s.json"],
            "argument --scheduler: --scheduler-file names one already; give one of the two",
        ),
        (
            ["--frames", "s.nii.gz", "--workers", "2", "--scheduler", "x"],
            "a cluster has its own",
        ),
        ([], "--frames"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(given, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    series = RegCore.load_series(given / "s.nii.gz")
    RegCore.save_series(series, "s.nii.gz")
    RegCore.save(series.frame(0), "v.nii.gz")
    flat = series.array.copy()
    flat[..., 1] = 3
    RegCore.save_series(Series(flat, GRID), "flat.nii.gz")
    assert run(*arguments, "--out", "out") == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("regcore: error: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_no_result_takes_the_place_of_the_frames(given, tmp_path, capsys):
    own = tmp_path / "warped.nii.gz"
    own.write_bytes((given / "s.nii.gz").read_bytes())
    assert run("--frames", own, "--method", "rigid", "--out", tmp_path) == 2
    assert f"{own}: a result in {tmp_path} would take its place; choose another" in capsys.readouterr().err
    assert own.read_bytes() == (given / "s.nii.gz").read_bytes()
