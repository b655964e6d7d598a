"""The command line: what it writes, what it prints, and how it ends."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import RegCore
from RegCore.cli import DEVICES, METHODS, main
from RegCore.cli.progress import ProgressLine
from RegCore.evaluation.results import FILES
from RegCore.samples.phantom import make_phantom
from Testing.paths import ROOT

registration = importlib.import_module("RegCore.registration.register")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A small phantom pair as files."""
    from RegCore.cli.register import _save_pair

    folder = tmp_path_factory.mktemp("pair")
    _save_pair(folder, make_phantom(seed=2, fixed_shape=(44, 37, 32), moving_shape=(40, 39, 35)))
    return folder


def arguments(pair: Path, out: Path, *more: str) -> list[str]:
    given = [f"--{name}={pair / name}.nii.gz" for name in ("fixed", "moving")]
    return ["register", *given, f"--out={out}", "--device=cpu", *more]


def test_the_names_of_the_methods_are_those_of_the_registration():
    assert list(METHODS) == list(registration.METHODS)


def test_registering_files_writes_the_six_files_and_prints_the_table(pair, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    segmented = [f"--{name}-seg={pair / name}_seg.nii.gz" for name in ("fixed", "moving")]
    more = [*segmented, f"--landmarks={pair}/landmarks.csv", "--method=rigid", "--seed=3"]
    code = main(arguments(pair, out, *more))
    text = capsys.readouterr()
    assert code == 0, text.err
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["method"] == "rigid" and figures["seed"] == 3
    assert figures["tre_mm"]["after"] < figures["tre_mm"]["before"]
    assert figures["seconds"] > 0 and figures["fold_percent"] == 0
    assert "TRE of landmarks, mean" in text.out and "Dice, label 4" in text.out and "transform.h5" in text.out
    landmarks = RegCore.load_landmarks(pair / "landmarks.csv")
    mapped = RegCore.load(out / "transform.h5", "transform").map(landmarks[:, :3])
    error = np.linalg.norm(mapped - landmarks[:, 3:], axis=1).mean()
    assert error == pytest.approx(figures["tre_mm"]["after"], abs=1e-3)
    back = RegCore.load(out / "inverse.h5", "transform").map(mapped)
    np.testing.assert_allclose(back, landmarks[:, :3], atol=1e-3)


def test_without_segmentations_there_are_five_files_and_quiet_prints_nothing(pair, tmp_path, capsys):
    assert main(arguments(pair, tmp_path, "--method=rigid", "--quiet")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(FILES) - {"warped_seg.nii.gz"})
    text = capsys.readouterr()
    assert text.out == "" and text.err == ""


def test_the_result_of_one_run_is_a_start_for_another(pair, tmp_path):
    assert main(arguments(pair, tmp_path / "a", "--method=affine", "--quiet")) == 0
    again = [f"--initial={tmp_path}/a/transform.h5", f"--landmarks={pair}/landmarks.csv", "--method=rigid"]
    assert main(arguments(pair, tmp_path / "b", *again, "--quiet")) == 0
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["tre_mm"]["after"] < 8


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RegCore.Cancelled])
def test_a_cancelled_run_says_so_and_leaves_nothing(pair, tmp_path, capsys, monkeypatch, ending):
    def cancel(*_, progress, **__):
        progress(0.2, "affine", {"loss": 0.5})
        raise ending

    monkeypatch.setattr(registration, "register", cancel)
    assert main(arguments(pair, tmp_path / "out")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "regcore: cancelled, nothing was written"
    assert not (tmp_path / "out").exists()


def test_running_out_of_memory_and_missing_packages_are_sentences(pair, tmp_path, capsys, monkeypatch):
    missing = ModuleNotFoundError(name="torch")
    for error, words in ((MemoryError(), "not enough memory"), (missing, "pip install torch")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(registration, "register", fail)
        assert main(arguments(pair, tmp_path / "out", "--quiet")) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and words in lines[0]


def test_settings_are_handed_on_as_numbers_and_words(pair, tmp_path, monkeypatch):
    seen = {}

    def keep(*_, **options):
        seen.update(options)
        raise RegCore.Cancelled

    monkeypatch.setattr(registration, "register", keep)
    main(arguments(pair, tmp_path, "--settings", "levels=3", "weight=0.5", "name=a b", "on=true", "--seed=9"))
    assert seen["settings"] == {"levels": 3, "weight": 0.5, "name": "a b", "on": True}
    assert seen["seed"] == 9 and seen["device"] == "cpu" and seen["method"] == "auto"
    assert seen["fixed_labels"] is None and seen["fixed"].kind == "image"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_on_a_terminal_and_one_per_stage_elsewhere():
    for stream in (Terminal(), io.StringIO()):
        line = ProgressLine(stream, quiet=False)
        for fraction, stage in ((0.0, "affine"), (0.1, "affine"), (0.5, "deformable"), (1.0, "deformable")):
            line(fraction, stage, {"iteration": 12, "loss": 0.123456})
        line.end()
        text = stream.getvalue()
        if stream.isatty():
            assert "\n" not in text and text.endswith("\r\x1b[K")
            assert "50% ████████████░░░░░░░░░░░░ deformable  iteration 12  loss 0.1235" in text
        else:
            assert text == "  0%  affine\n 50%  deformable\n"


@pytest.mark.parametrize("words", [["--help"], ["register", "--help"], ["demo", "--help"]])
def test_help_is_given_at_once_and_without_torch(words):
    code = f"import sys; from RegCore.cli import main; sys.exit(main({words}) or 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: regcore" in run.stdout


def test_every_device_is_named_in_the_help(capsys):
    main(["register", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*DEVICES, *METHODS))


def test_as_a_program_it_ends_with_the_code_and_one_sentence(tmp_path):
    command = [sys.executable, "-m", "RegCore", "register", "--fixed=a.nii", "--moving=b.nii"]
    run = subprocess.run([*command, f"--out={tmp_path}/o"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr == "regcore: error: a.nii: there is no such file\n"
    assert list(tmp_path.iterdir()) == []
