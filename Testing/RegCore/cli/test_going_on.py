"""Series, templates and propagated labels: killed half-way, called again, changed, called for more."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import RegCore
from RegCore.cli import main
from RegCore.registration.register import register
from RegCore.studies import many
from RegCore.studies.steps import STEPS
from Testing.paths import ROOT
from Testing.RegCore.registration.blobs import centred
from Testing.RegCore.studies.frames import rigid_motion, series_of
from Testing.RegCore.studies.patients import make_patients

GRID = centred((16, 14, 13), (0.1, -0.2, 0.15), (9.0, 9.5, 10.0))
BEND = ["--method=deformable", "--settings", "levels=1", "iterations=12"]
PROPAGATE = ["propagate", "--scan=p0.nii.gz", "--atlases", "p1.nii.gz", "p2.nii.gz"]
PROPAGATE += ["--atlas-segs", "p1_seg.nii.gz", "p2_seg.nii.gz"]
TEMPLATE = ["template", "--scans", "p0.nii.gz", "p1.nii.gz", *BEND]
COMMANDS = {  # options; the kill comes when there are so many steps of these names; registrations then left
    "series": (
        ["register-series", "--frames=s.nii.gz", "--to=mean", "--mask=m.nii.gz", *BEND],
        1,
        "mean*",
        2,
    ),
    "neighbours": (["register-series", "--frames=s.nii.gz", "--to=neighbour", "--workers=2"], 1, "*", None),
    "template": ([*TEMPLATE, "--rounds=2"], 1, "round 2 scan *", 1),
    "propagate": ([*PROPAGATE, *BEND], 1, "*", 1),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with three patients and a series of three frames."""
    folder = tmp_path_factory.mktemp("given")
    patients = make_patients(3, (18, 17, 16))
    for number, (image, labels) in enumerate(zip(patients.scans, patients.labels, strict=True)):
        RegCore.save(image, folder / f"p{number}.nii.gz")
        RegCore.save(labels, folder / f"p{number}_seg.nii.gz")
    series = series_of(GRID, [rigid_motion(1.5 * t) for t in range(3)])
    RegCore.save_series(series, folder / "s.nii.gz")
    mask = series.frame(0).array > 30
    RegCore.save(RegCore.Volume(mask.astype("uint8"), GRID, "labels"), folder / "m.nii.gz")
    return folder


@pytest.fixture
def counted(given, monkeypatch):
    """A list that gets an entry for each registration of this process, which works in the folder."""
    calls = []

    def counting(*arguments, **options):
        calls.append(options)
        return register(*arguments, **options)

    monkeypatch.setattr(many, "register", counting)
    monkeypatch.chdir(given)
    return calls


def contents(out: Path) -> dict[str, bytes]:
    """Every result file; of those that tell of the time it took, all else."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and STEPS not in path.parts):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps({**json.loads(content), "seconds": 0}).encode()
        found[str(path.relative_to(out))] = content
    return found


def kept_in(out: Path, names: str = "*") -> int:
    """Steps of some names that are kept; a folder that is still being written has a leading dot."""
    records = out.glob(f"{STEPS}/{names}/record.json")
    return sum(not record.parent.name.startswith(".") for record in records)


def run(words: list, out: Path) -> int:
    return main([*words, "--device=cpu", f"--out={out}"])


def stopped(words: list[str], folder: Path, out: Path, steps: int, names: str, sign: int) -> tuple[int, str]:
    """A command in a process of its own, with a signal when there are so many steps; how it ended."""
    command = [sys.executable, "-m", "RegCore", *words, "--device=cpu", "--quiet", f"--out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    while child.poll() is None and kept_in(out, names) < steps:
        time.sleep(0.002)
    child.send_signal(sign)
    return child.wait(60), child.stderr.read()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_goes_on_and_ends_with_the_same_bits(given, counted, tmp_path, name, capsys):
    words, steps, names, left = COMMANDS[name]
    assert run(words, tmp_path / "whole") == 0
    out = tmp_path / "stopped"
    assert stopped(words, given, out, steps, names, signal.SIGKILL) == (-signal.SIGKILL, "")
    assert contents(out) == {}
    counted.clear()
    assert run(words, out) == 0
    assert "an earlier run was stopped" in capsys.readouterr().err
    assert left is None or 1 <= len(counted) <= left
    assert contents(out) == contents(tmp_path / "whole")
    assert [path.name for path in out.rglob(".*") if path.name != STEPS] == []


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking them")
def test_a_command_that_is_asked_to_stop_says_that_it_goes_on(given, tmp_path):
    out = tmp_path / "out"
    code, told = stopped([*PROPAGATE, *BEND], given, out, 1, "*", signal.SIGTERM)
    assert code == 143 and told.count("\n") == 1
    assert "ended by SIGTERM, what is done is kept, and the same command goes on from there" in told
    assert contents(out) == {} and kept_in(out) == 1


def test_what_is_done_stays_done_and_what_changed_is_done_anew(given, counted, tmp_path, capsys, monkeypatch):
    out, words = tmp_path / "out", [*PROPAGATE, "--method=affine"]
    assert run(words, out) == 0 and len(counted) == 2
    before = contents(out)

    def again(count: int, told: str, *more: str) -> None:
        """The command once more: registrations that it does, and what it says."""
        counted.clear()
        capsys.readouterr()
        assert run([*words, *more], out) == 0
        said = capsys.readouterr()
        assert told in said.err + said.out and len(counted) == count

    again(0, "the results are there already, and nothing has changed since")
    (out / "agreement.nii.gz").unlink()
    again(0, "propagated_seg.nii.gz, transforms")
    assert contents(out) == before
    os.utime(given / "p1.nii.gz")
    again(0, "the results are there already")
    again(0, "the settings have changed since the earlier run", "--fusion=majority")
    again(2, "the settings have changed since the earlier run", "--seed=1")
    again(2, "the settings have changed since the earlier run")
    assert contents(out) == before
    assert main([*words, "--device=cpu", f"--out={out}", "--settings", "levels=1"]) == 2
    again(0, "the results are there already")
    (out / STEPS / "atlas p2" / "values.npz").write_bytes(b"damaged")
    (out / "propagate.json").unlink()
    again(1, "propagate.json")
    assert contents(out) == before
    monkeypatch.setattr(RegCore, "__version__", "9.9")
    again(2, "the earlier run was of another version of this program; all is done anew")
    image, moved = RegCore.load(given / "p2.nii.gz"), given / "p2.nii.gz"
    kept = moved.read_bytes()
    RegCore.save(RegCore.Volume(image.array + 100, image.geometry), moved)
    again(1, "an input has changed since the earlier run; what depends on it is done anew")
    moved.write_bytes(kept)
    again(1, "an input has changed")


def test_a_further_atlas_is_the_only_one_that_is_registered(given, counted, tmp_path):
    words = [*PROPAGATE, "--method=affine"]
    fewer = [word for word in words if word not in ("p2.nii.gz", "p2_seg.nii.gz")]
    assert run(fewer, tmp_path / "out") == 0 and len(counted) == 1
    assert run(words, tmp_path / "out") == 0 and len(counted) == 2
    assert run(words, tmp_path / "whole") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert run(fewer, tmp_path / "out") == 0 and kept_in(tmp_path / "out") == 1


def test_further_rounds_go_on_from_the_last_one(given, counted, tmp_path):
    words = [*TEMPLATE, "--tolerance=0"]
    assert run([*words, "--rounds=1"], tmp_path / "out") == 0
    counted.clear()
    assert run([*words, "--rounds=2"], tmp_path / "out") == 0 and len(counted) == 2
    assert run([*words, "--rounds=2"], tmp_path / "whole") == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    counted.clear()
    assert run([*words[:-1], "--tolerance=9", "--rounds=2"], tmp_path / "out") == 0  # the first is the last
    assert len(counted) == 2 and kept_in(tmp_path / "out", "round *") == 1
    about = (tmp_path / "out" / "rounds.csv").read_text()
    assert about.count("\n") == 3


def test_two_runs_do_not_share_a_folder(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(given)
    (tmp_path / STEPS).mkdir()
    code = "import sys, pathlib; from RegCore.studies.folders import held\n"
    code += "with held(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    command, pipe = [sys.executable, "-c", code, str(tmp_path / STEPS)], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as other:
        other.stdout.readline()
        assert run([*PROPAGATE, "--quiet"], tmp_path) == 2
        other.communicate("\n")
    assert "another run is at work in this folder" in capsys.readouterr().err
