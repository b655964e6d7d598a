"""The six files are written whole or not at all, and earlier results survive every failure."""

import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from PIL import Image

import RegCore.evaluation.results
from RegCore.evaluation.results import FILES, prepared_folder, write_results
from RegCore.io import load
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.paths import ROOT


def result(shift=2.0, labels=True):
    """A small registration by a shift along x, with all its parts."""
    affine = np.diag([-2.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = (5, -4, 3)
    geometry = Geometry((7, 8, 9), affine)
    image = Volume(np.random.default_rng(0).random(geometry.shape, np.float32), geometry, "image")
    matrix = np.eye(4)
    matrix[0, 3] = shift
    transform = AffineTransform(matrix)
    field = DisplacementField.from_affine(transform, geometry)
    segments = Volume((image.array > 0.7).astype(np.uint8), geometry, "labels") if labels else None
    metrics = {"ncc": {"before": np.float32(0.5), "after": float("nan")}, "dice": {"after": {1: 0.9}}}
    return SimpleNamespace(
        transform=field,
        inverse=transform.inverse(),
        warped=image,
        warped_labels=segments,
        metrics={**metrics, "fold_percent": 0.0},
        seconds=1.5,
    )


def test_all_files_are_there_and_other_programs_read_them(tmp_path):
    done = result()
    written = write_results(tmp_path, done, done.warped, done.warped, about={"method": "affine"})
    assert [path.name for path in written] == list(FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    point = (1.0, 2.0, 3.0)  # LPS
    there, back = (SimpleITK.ReadTransform(str(tmp_path / f"{name}.h5")) for name in ("transform", "inverse"))
    assert there.TransformPoint(point)[0] == pytest.approx(-1)
    assert back.TransformPoint(point)[0] == pytest.approx(3)
    warped = SimpleITK.ReadImage(str(tmp_path / "warped.nii.gz"))
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(warped).T, done.warped.array)
    assert load(tmp_path / "warped_seg.nii.gz", "labels").geometry.is_close(done.warped.geometry)
    assert Image.open(tmp_path / "overview.png").width > 1000


def test_the_figures_are_json_without_words_json_lacks(tmp_path):
    done = result()
    write_results(tmp_path, done, done.warped, done.warped, about={"method": "affine", "seed": 0})
    figures = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert figures["ncc"] == {"before": 0.5, "after": None} and figures["dice"]["after"] == {"1": 0.9}
    assert figures["method"] == "affine" and figures["seconds"] == 1.5


def test_a_segmentation_of_an_earlier_run_does_not_stay_beside_newer_results(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for labels in (True, False):
        done = result(labels=labels)
        write_results(tmp_path, done, done.warped, done.warped)
    assert not (tmp_path / "warped_seg.nii.gz").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_earlier_results_stay_when_writing_fails(tmp_path, monkeypatch, error):
    done = result()
    write_results(tmp_path, done, done.warped, done.warped)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise error

    monkeypatch.setattr(RegCore.evaluation.results, "overview", fail)
    other = result(shift=5.0)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        write_results(tmp_path, other, other.warped, other.warped)
    if isinstance(error, OSError):
        assert str(caught.value) == f"{tmp_path}: the results can't be written (No space left on device)"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("limit", [400, 4000, 14000])
def test_a_disk_that_fills_up_half_way_leaves_nothing(tmp_path, limit):
    code = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, 'Testing/RegCore/evaluation'); import test_results as t\n"
        "done = t.result()\n"
        "try: t.write_results(Path(sys.argv[1]), done, done.warped, done.warped)\n"
        "except t.InputError as error: print(error)\n"
    )

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-B", "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, preexec_fn=no_large_files, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path)) and "can't be written" in run.stdout
    assert run.stdout.count("\n") == 1 and ".unfinished" not in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_made_for_the_work_and_goes_if_the_work_fails(tmp_path):
    with prepared_folder(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert folder.is_dir() and list(folder.iterdir()) == []
    with pytest.raises(RuntimeError), prepared_folder(tmp_path / "c" / "d"):
        raise RuntimeError
    assert not (tmp_path / "c").exists()
    with pytest.raises(RuntimeError), prepared_folder(tmp_path / "a") as folder:
        raise RuntimeError
    assert (tmp_path / "a" / "b").is_dir()  # it was there before


def test_a_file_in_place_of_the_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"folder|can't be written"), prepared_folder(path):
            pytest.fail("the work began")
    assert (tmp_path / "file").read_text() == "mine"
