"""Result folders are whole or absent, and their records tell what has changed since."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

import RegCore
from RegCore.space.geometry import InputError
from RegCore.studies.folders import (
    FAILED,
    difference,
    held,
    new_record,
    read_record,
    remove_unfinished,
    whole_folder,
)
from Testing.paths import ROOT


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "slices").mkdir()
    for name in ("a.nii", "scan.hdr", "scan.img", "slices/1.dcm", "slices/2.dcm"):
        (tmp_path / name).write_bytes(name.encode() * 10)
    return {"fixed": tmp_path / "a.nii", "moving": tmp_path / "scan.hdr", "third": tmp_path / "slices"}


def write(folder, record, text="result"):
    with whole_folder(folder, record) as side:
        (side / "result.txt").write_text(text)


def test_a_folder_appears_whole_with_its_record(tmp_path, inputs):
    record = new_record("one", inputs, {"method": "rigid", "levels": (1, 2)})
    with whole_folder(tmp_path / "out" / "one", record) as side:
        (side / "result.txt").write_text("result")
        assert not (tmp_path / "out" / "one").exists()
        record["seconds"] = 1.5
    assert sorted(os.listdir(tmp_path / "out" / "one")) == ["record.json", "result.txt"]
    assert os.listdir(tmp_path / "out") == ["one"]
    known = read_record(tmp_path / "out" / "one")
    assert known["seconds"] == 1.5 and known["version"] == RegCore.__version__
    assert difference(known, inputs, {"method": "rigid", "levels": [1, 2]}) == ""


def test_a_full_disk_is_one_sentence_wherever_it_is_met(tmp_path, inputs):
    folder = tmp_path / "out" / "one"
    with (
        pytest.raises(InputError, match=f"^{folder}: the results can't be written .No space left"),
        whole_folder(folder, new_record("one", inputs, {})),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("there", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, inputs, there):
    folder = tmp_path / "out" / "one"
    if there:
        write(folder, new_record("one", inputs, {}), "before")
    with pytest.raises(ZeroDivisionError), whole_folder(folder, new_record("one", inputs, {"n": 1})) as side:
        (side / "result.txt").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "out") == (["one"] if there else [])
    assert not there or (folder / "result.txt").read_text() == "before"


def test_other_settings_another_version_and_other_inputs_are_told_apart(tmp_path, inputs, monkeypatch):
    record = new_record("one", inputs, {"seed": 0})
    assert difference(record, inputs, {"seed": 0}) == ""
    assert difference(record, inputs, {"seed": 1}) == "settings"
    assert difference(record, {**inputs, "mask": inputs["fixed"]}, {"seed": 0}) == "input"
    assert difference(record, {**inputs, "fixed": tmp_path / "absent"}, {"seed": 0}) == "input"
    monkeypatch.setattr(RegCore, "__version__", "9.9.9")
    assert difference(record, inputs, {"seed": 0}) == "version"


@pytest.mark.parametrize("name", ["a.nii", "scan.img", "slices/2.dcm"])
def test_a_changed_file_is_noticed_a_touched_or_copied_one_is_not(tmp_path, inputs, name):
    record = new_record("one", inputs, {})
    file = tmp_path / name
    os.utime(file, ns=(1, 1))
    assert difference(record, inputs, {}) == ""
    for path in inputs.values():
        target = tmp_path / "copy" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    shutil.copy(tmp_path / "scan.img", tmp_path / "copy")
    copies = {role: tmp_path / "copy" / path.name for role, path in inputs.items()}
    assert difference(record, copies, {}) == ""
    content = file.read_bytes()
    file.write_bytes(b"X" + content[1:])  # of the same size
    os.utime(file, ns=(2, 2))
    assert difference(record, inputs, {}) == "input"
    file.write_bytes(content + b"X")
    assert difference(record, inputs, {}) == "input"


def test_an_input_that_was_absent_is_noticed_when_it_comes(tmp_path):
    absent = {"fixed": tmp_path / "late.nii"}
    record = new_record("one", absent, {})
    assert difference(record, absent, {}) == ""
    absent["fixed"].write_text("here")
    assert difference(record, absent, {}) == "input"


def test_results_are_replaced_but_the_same_done_twice_stays_as_it_was_first(tmp_path, inputs):
    folder = tmp_path / "out" / "one"
    record = new_record("one", inputs, {"seed": 0})
    write(folder, {**record, "status": FAILED, "error": "no luck"}, "none")
    write(folder, record, "first")
    write(folder, record, "twin")
    assert (folder / "result.txt").read_text() == "first"
    write(folder, {**record, "status": FAILED}, "a late failure")
    assert (folder / "result.txt").read_text() == "first"
    write(folder, new_record("one", inputs, {"seed": 1}), "other settings")
    assert (folder / "result.txt").read_text() == "other settings"
    assert os.listdir(tmp_path / "out") == ["one"]


def test_a_folder_of_something_else_is_not_touched(tmp_path, inputs):
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no record"):
        write(tmp_path / "out" / "one", new_record("one", inputs, {}))
    assert os.listdir(tmp_path / "out" / "one") == ["precious.txt"] and os.listdir(tmp_path / "out") == [
        "one"
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "odd"}', b"\xff\xfe"])
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_record(tmp_path) is None
    assert read_record(tmp_path / "absent") is None


def test_leftovers_of_killed_runs_are_removed(tmp_path, inputs):
    write(tmp_path / "one", new_record("one", inputs, {}))
    (tmp_path / ".unfinished-12").mkdir()
    (tmp_path / ".unfinished-12" / "half").write_text("")
    (tmp_path / ".replaced-12").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.nii", "one", "scan.hdr", "scan.img", "slices"]


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    code = "from RegCore.studies.folders import held; from pathlib import Path\n"
    code += f"with held(Path({str(tmp_path)!r})): print(1)"
    with held(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert "another run is at work" in other.stderr
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1\n" and os.listdir(tmp_path) == []


def test_a_pipe_in_a_folder_of_inputs_is_not_waited_for_and_any_name_has_a_hash(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xfc.dcm")).write_bytes(b"a slice")
    record = new_record("one", {"fixed": folder}, {})
    assert record["inputs"]["fixed"]["sha256"] and difference(record, {"fixed": folder}, {}) == ""
    (folder / os.fsdecode(b"\xfc.dcm")).write_bytes(b"another")
    assert difference(record, {"fixed": folder}, {}) != ""


def test_a_record_of_brackets_is_none(tmp_path):
    (tmp_path / "record.json").write_text("[" * 100_000)
    assert read_record(tmp_path) is None
