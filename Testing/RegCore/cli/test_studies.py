"""`regcore register-all` and `regcore report`: options, exit codes, signals, and what is written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.cli.studies import SOME_FAILED
from RegCore.evaluation.results import FILES
from Testing.paths import ROOT
from Testing.RegCore.studies.data import write_manifest, write_pairs

QUICK = ["--method=classical-affine", "--settings", "max_iter=2", "--device=cpu", "--workers=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, 3)
    return folder


def table(out):
    with open(out / "results.csv", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_each_pair_gets_what_register_writes_and_a_bad_one_does_not_stop_the_rest(folder, tmp_path, capsys):
    (folder / "broken.nii.gz").write_bytes(b"no image")
    rows = [("id", "fixed", "moving", "fixed_seg", "moving_seg")]
    rows += [("Käse <1>", *(f"case0/{name}.nii.gz" for name in rows[0][1:]))]
    rows += [("bad", "case1/fixed.nii.gz", "broken.nii.gz", "", "")]
    rows += [("three", "case2/fixed.nii.gz", "case2/moving.nii.gz", "", "")]
    manifest, out = write_manifest(folder, rows, "three.csv"), tmp_path / "out"
    assert main(["register-all", str(manifest), "--out", str(out), *QUICK]) == SOME_FAILED == 4
    told = capsys.readouterr()
    assert "2 of 3 pairs registered" in told.out and "3 pairs: 3 new" in told.err
    assert f"bad: {folder}/broken.nii.gz: " in told.err
    assert sorted(os.listdir(out / "pairs")) == ["Käse <1>", "bad", "three"]
    assert os.listdir(out / "pairs" / "bad") == ["record.json"]
    more = {"record.json", "thumbnail.jpg"}
    assert set(os.listdir(out / "pairs" / "Käse <1>")) == {*FILES, *more}
    assert set(os.listdir(out / "pairs" / "three")) == {*FILES, *more} - {"warped_seg.nii.gz"}
    assert table(out)["bad"]["verdict"] == "failed" and table(out)["three"]["status"] == "done"

    alone = [f"--{name}={folder}/case2/{name}.nii.gz" for name in ("fixed", "moving")]
    assert main(["register", *alone, "--out", str(tmp_path / "one"), *QUICK[:4], "--quiet"]) == 0
    both = [
        json.loads((place / "metrics.json").read_text())
        for place in (tmp_path / "one", out / "pairs" / "three")
    ]
    assert both[0]["ncc"] == pytest.approx(both[1]["ncc"], abs=1e-5)
    assert float(table(out)["three"]["ncc_after"]) == pytest.approx(both[1]["ncc"]["after"], rel=1e-5)

    assert main(["register-all", str(manifest), "--out", str(out), *QUICK, "--quiet"]) == 4
    assert capsys.readouterr().out == ""
    (folder / "broken.nii.gz").write_bytes((folder / "case1" / "moving.nii.gz").read_bytes())
    assert main(["register-all", str(manifest), "--out", str(out), *QUICK]) == 0
    assert "3 pairs: 1 with a changed input, 2 done already" in capsys.readouterr().err


def test_folders_stand_in_for_a_manifest_and_bids_names_come_out(folder, tmp_path, capsys):
    data = tmp_path / "data" / "sub-1" / "anat"
    data.mkdir(parents=True)
    for number in (0, 1):
        (data / f"sub-1_run-{number}_T1w.nii.gz").write_bytes(
            (folder / f"case{number}/fixed.nii.gz").read_bytes()
        )
    out = tmp_path / "out"
    words = ["register-all", "--bids", str(tmp_path / "data"), "--suffix=T1w", "--out", str(out), *QUICK]
    assert main(words) == 0, capsys.readouterr().err
    names = (
        "sub-1_run-1_from-T1w_to-sub1run0T1w_mode-image_xfm.h5",
        "sub-1_run-1_space-sub1run0T1w_T1w.nii.gz",
    )
    transform, warped = (RegCore.load(out / "sub-1" / "anat" / name) for name in names)
    fixed = RegCore.load(data / "sub-1_run-0_T1w.nii.gz")
    assert warped.geometry.is_close(fixed.geometry) and transform.map(fixed.geometry.centre).shape == (3,)
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["BIDSVersion"]
    assert "pairs/" in (out / ".bidsignore").read_text()

    images = tmp_path / "images"
    images.mkdir()
    for number in (0, 1):
        (images / f"{number}.nii.gz").write_bytes((folder / f"case{number}/fixed.nii.gz").read_bytes())
    assert main(["register-all", "--all-pairs", str(images), "--out", str(tmp_path / "all"), *QUICK]) == 0
    assert list(table(tmp_path / "all")) == ["1-to-0"]
    words = ["register-all", "--fixed", str(images / "0.nii.gz"), "--moving-dir", str(images)]
    assert main([*words, "--out", str(tmp_path / "to-one"), *QUICK]) == 0
    assert list(table(tmp_path / "to-one")) == ["1"]


def test_a_probable_failure_is_doubtful_comes_first_and_is_no_failed_pair(folder, tmp_path, capsys):
    centre, turn = RegCore.load(folder / "case0" / "fixed.nii.gz").geometry.centre, np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    RegCore.save(RegCore.AffineTransform(turn), folder / "turn.h5")
    RegCore.save(RegCore.AffineTransform(turn).inverse(), folder / "back.h5")
    rows = [("id", "fixed", "moving", "initial"), ("right", "case0/fixed.nii.gz", "case0/moving.nii.gz", "")]
    rows += [("turned", *rows[1][1:3], "turn.h5"), ("twice", *rows[1][1:3], "turn.h5|back.h5")]
    manifest, out = write_manifest(folder, rows, "turned.csv"), tmp_path / "out"
    words = ["register-all", str(manifest), "--out", str(out), *QUICK, "--workers=1"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "3 of 3 pairs registered, 1 of them doubtful; see report.html" in told.out
    assert "turned: the registration has probably failed: " in told.err
    found = table(out)
    assert list(found)[0] == "turned"
    assert {name: (row["status"], row["verdict"] == "doubtful") for name, row in found.items()} == {
        "turned": ("done", True), "right": ("done", False), "twice": ("done", False)
    }  # fmt: skip
    assert found["turned"]["notes"].startswith("the registration has probably failed")
    assert float(found["twice"]["ncc_after"]) == pytest.approx(float(found["right"]["ncc_after"]), abs=1e-3)
    text = (out / "report.html").read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["rows"][0][:2] == ["turned", "doubtful"] and "probably failed" in data["rows"][0][4]
    assert data["places"][0] == "pairs/turned"
    assert main([*words, "--strict"]) == 3
    assert "3 done already" in capsys.readouterr().err
    (out / "pairs" / "turned" / "record.json").unlink()  # as after regcore register
    assert main(["report", str(out)]) == 0 and table(out)["pairs/turned"]["verdict"] == "doubtful"


WRONG = {
    (): "what is to be registered",
    ("m.csv", "--all-pairs", "."): "what is to be registered",
    ("--moving-dir", "."): "argument --moving-dir: needs --fixed",
    ("m.csv", "--fixed", "a.nii"): "argument --fixed: goes with",
    ("--bids", "."): "argument --suffix: goes with --bids",
    ("m.csv", "--scheduler", "tcp://x:1", "--workers", "2"): "argument --workers: a cluster has its own",
    ("m.csv", "--fixed-seg", "gone.nii"): "argument --fixed-seg: there is no file gone.nii",
    ("m.csv", "--initial", "gone.h5", "also.h5"): "argument --initial: there is no file gone.h5",
    ("m.csv", "--settings", "x"): "argument --settings: KEY=VALUE was expected, not 'x'",
    ("m.csv", "--method", "rigit"): "did you mean rigid",
    ("m.csv",): "m.csv: this manifest can't be read",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_get_a_sentence_and_write_nothing(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["register-all", *words, "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert WRONG[words] in told and told.count("\n") == 1 and os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_order_and_the_same_command_goes_on(folder, tmp_path, number):
    out = tmp_path / "out"
    words = ["register-all", str(folder / "manifest.csv"), "--out", str(out), "--method=deformable"]
    command = [sys.executable, "-m", "RegCore", *words, "--workers=1", "--device=cpu"]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(out.glob("pairs/.unfinished-*")) and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(number)
    told = run.communicate(timeout=60)[1]
    assert run.returncode == 130, told
    assert "stopped; what is done is kept" in told and "Traceback" not in told
    assert sorted(os.listdir(out)) == ["pairs", "report.html", "results.csv"]
    assert [
        name for name in os.listdir(out / "pairs") if not (out / "pairs" / name / "record.json").exists()
    ] == []


def test_help_names_the_exit_code_and_loads_no_torch(capsys):
    assert main(["register-all", "--help"]) == 0
    assert "Exit code 4" in " ".join(capsys.readouterr().out.split())
    code = "import sys; from RegCore.cli import main; main(['register-all', 'gone.csv', '--out', 'x'])"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0


def test_a_table_or_a_page_of_somebody_else_is_not_replaced(folder, tmp_path, capsys):
    rows = [("id", "fixed", "moving"), ("a", "case0/fixed.nii.gz", "case0/moving.nii.gz")]
    manifest = write_manifest(folder, rows, "results.csv")  # its name is that of the table
    before = manifest.read_bytes()
    assert main(["register-all", str(manifest), "--out", str(folder), *QUICK]) == 2
    assert f"{manifest}: this is no report of ours and would be replaced" in capsys.readouterr().err
    assert manifest.read_bytes() == before and not (folder / "pairs").exists()
    manifest.unlink()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "metrics.json").write_text("{}")
    for name in ("results.csv", "report.html"):
        assert main(["report", str(tmp_path)]) == 0
        (tmp_path / name).write_text("mine")
        assert main(["report", str(tmp_path)]) == 2
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_no_pair_takes_the_place_of_its_own_input(folder, tmp_path, capsys):
    own = tmp_path / "pairs" / "a" / "warped.nii.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes((folder / "case0" / "moving.nii.gz").read_bytes())
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"id,fixed,moving\na,{folder}/case0/fixed.nii.gz,{own}\n")
    assert main(["register-all", str(manifest), "--out", str(tmp_path), *QUICK]) == 2
    assert f"{own}: a result in {tmp_path} would take its place" in capsys.readouterr().err
