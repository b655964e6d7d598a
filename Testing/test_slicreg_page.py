"""The page of SLIC-Reg: its commands run, what it names is there, its script asks for data and goes on."""

import os
import re
import shlex
import subprocess

import pytest

from RegCore.cli import main
from RegCore.samples import torso
from Testing.paths import ROOT

PAGE = (ROOT / "Docs" / "slicreg.md").read_text(encoding="utf-8")
SCRIPT = ROOT / "Docs" / "examples" / "slicreg_abdomen.sh"
SMALLER = {"--spacing 4": "--spacing 12", "--steps 600": "--steps 2 --device cpu"}


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_commands_lead_from_raw_scans_to_a_transform(tmp_path, monkeypatch, capsys):
    """On scans of 32³ voxels, with two steps of training; all else as the page has it."""
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    monkeypatch.chdir(tmp_path)
    write = torso.write_torsos
    small = {"trained": 2, "tested": 1, "shape": (32, 32, 32)}
    monkeypatch.setattr(torso, "write_torsos", lambda folder: write(folder, **small))
    ran = [line for line in commands() if line.startswith("regcore ")]
    for line in ran:
        for text, instead in SMALLER.items():
            line = line.replace(text, instead)
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    assert len(ran) == 5
    made = ("registered/transform.h5", "registered/overview.png", "transferred/volumes.csv")
    for name in ("prepared/supervoxels.png", *made, "transferred/segmentations/torso101.nii.gz"):
        assert (tmp_path / name).is_file(), name


def test_files_and_pictures_are_in_the_repository():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("http") or (ROOT / "Docs" / target).exists(), target
    assert [line for line in commands() if line.startswith("sh ")] == [
        f"sh {SCRIPT.relative_to(ROOT)} bcv slicreg-abdomen"
    ]


def run_script(tmp_path, regcore: str = "false") -> subprocess.CompletedProcess:
    command = ["sh", str(SCRIPT), "bcv", "out"]
    environment = {**os.environ, "REGCORE": regcore}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def put_data(tmp_path) -> None:
    for folder, prefix in (("img", "img"), ("label", "label")):
        (tmp_path / "bcv" / folder).mkdir(parents=True)
        for number in (*range(1, 11), *range(21, 41)):
            (tmp_path / "bcv" / folder / f"{prefix}{number:04}.nii.gz").touch()


def test_the_script_says_which_data_is_missing_and_where_it_belongs(tmp_path):
    found = run_script(tmp_path)
    assert found.returncode == 2 and not (tmp_path / "out").exists()
    assert found.stderr.startswith("bcv/img/img0038.nii.gz is missing. The abdominal CT of")
    put_data(tmp_path)
    (tmp_path / "bcv" / "label" / "label0023.nii.gz").unlink()
    assert run_script(tmp_path).stderr.startswith("bcv/label/label0023.nii.gz is missing.")


def test_the_script_prepares_trains_three_networks_and_evaluates(tmp_path, monkeypatch):
    """With the program's own reading of the command line in place of its work."""
    put_data(tmp_path)
    for done in ("unet",):  # an earlier call came so far
        (tmp_path / "out" / done / "save").mkdir(parents=True)
        (tmp_path / "out" / done / "save" / "last.pt").touch()
    note = tmp_path / "note.sh"
    note.write_text('#!/bin/sh\nfor word; do printf "%s\\t" "$word"; done >> calls; echo >> calls\n')
    found = run_script(tmp_path, f"sh {note}")
    assert found.returncode == 0, found.stderr
    lines = (tmp_path / "calls").read_text().splitlines()
    calls = [line.split("\t")[:-1] for line in lines]
    assert [call[:2] for call in calls] == [
        ["slicreg", "prepare"],
        ["slicreg", "train"],
        ["train", "--resume"],
        ["slicreg", "train"],
        ["slicreg", "evaluate"],
    ]
    from RegCore.cli import _parser

    read = [_parser().parse_args(call) for call in calls]
    assert len(read[0].scans) == 20 and read[0].shape == [192, 160, 256] and read[0].supervoxels == 127
    assert [read[1].network, read[3].network] == ["deeplab", "regression"]
    assert len(read[4].scans) == len(read[4].segs) == 9 and len(read[4].structures) == 13
    assert read[0].template.name == "img0038.nii.gz" == read[4].template.name
    assert not {path.name for path in read[0].scans} & {path.name for path in read[4].scans}
