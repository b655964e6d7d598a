"""What other processes see of a training: here it is always another process that trains, or that looks."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from RegCore.networks.model_file import read_content
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.training import presence, train
from Testing.RegCore.training.runs import configuration, write_pairs

# Holds a folder, says so, and does what the lines on its standard input ask for, one answer a line.
HOLDER = """
import sys
from pathlib import Path
from RegCore.training.presence import Presence
held = Presence(Path(sys.argv[1]))
print("held", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "tell":
        held.tell(float(rest), "epoch 3 of 4: training", {"loss": 0.25, "odd": object()}, always=True)
    if word == "release":
        held.release(rest)
    print(held.asked_to_stop() if word == "asked" else "done", flush=True)
"""


class Holder:
    def __init__(self, folder):
        command = [sys.executable, "-c", HOLDER, str(folder)]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
        assert self.process.stdout.readline() == "held\n"

    def __call__(self, words: str) -> str:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    made = Holder(tmp_path)
    yield made
    made.end()


def test_how_far_it_is_whether_it_is_to_stop_and_how_it_ended(holder, tmp_path):
    assert presence.seen(tmp_path) == {}  # it is there, and told nothing yet
    holder("tell 0.5")
    assert presence.seen(tmp_path) == {
        "fraction": 0.5,
        "stage": "epoch 3 of 4: training",
        "values": {"loss": 0.25},
    }
    assert holder("asked") == "False"
    presence.ask_to_stop(tmp_path)
    assert holder("asked") == "True"
    holder("release a sentence on what went wrong")
    assert presence.seen(tmp_path) is None
    assert presence.ended(tmp_path) == "a sentence on what went wrong"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ended"]


def test_a_killed_training_is_none_and_failed_and_the_next_one_forgets_what_was_asked(holder, tmp_path):
    holder("tell 0.5")
    presence.ask_to_stop(tmp_path)
    holder.end()
    assert presence.seen(tmp_path) is None and presence.ended(tmp_path) == "failed"
    again = Holder(tmp_path)
    assert again("asked") == "False" and presence.seen(tmp_path)["fraction"] == 0.5
    again("tell 0.1")  # shorter than what stood there
    assert presence.seen(tmp_path)["fraction"] == 0.1
    again.end()


def test_nobody_else_trains_there_and_looking_hinders_nobody(holder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="another training is running in this folder"):
        presence.Presence(tmp_path)
    assert presence.seen(tmp_path) == {}  # what it tells was not erased by the try
    holder("release finished")
    looks = subprocess.Popen([sys.executable, "-c", LOOKER, str(tmp_path)], stdout=-1)
    looks.stdout.readline()
    try:
        for _ in range(200):
            presence.Presence(tmp_path).release("finished")
    finally:
        looks.kill()
        looks.wait()
        looks.stdout.close()


LOOKER = """
import sys
from pathlib import Path
from RegCore.training.presence import seen
print("looks", flush=True)
while True:
    seen(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("content", ["", "[1]", '{"fraction": 0.', '{"ended": "finished"}', "\ufeff\0"])
def test_what_is_being_written_just_now_is_no_news(holder, tmp_path, content):
    (tmp_path / ".running").write_text(content, encoding="utf-8")
    assert presence.seen(tmp_path) == {}
    (tmp_path / ".ended").write_text(content, encoding="utf-8")
    assert presence.ended(tmp_path) == ("finished" if "ended" in content else "failed")


def test_a_folder_that_is_not_there_or_not_writable(tmp_path):
    assert presence.seen(tmp_path / "none") is None and presence.ended(tmp_path / "none") == "failed"
    with pytest.raises(InputError, match="none: the training can't be asked to stop"):
        presence.ask_to_stop(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_to_is_not_taken_for_one_in_use(tmp_path, monkeypatch, number):
    def refused(*given, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("RegCore.training.presence.os.open", refused)
    with pytest.raises(InputError, match=rf"\.running: .* can't be written to \({os.strerror(number)}\)"):
        presence.Presence(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.unlink", refused)  # as on a medium that became read-only
    with pytest.raises(InputError, match=rf"can't be written to \({os.strerror(number)}\)"):
        presence.Presence(tmp_path)


def test_looking_needs_no_right_to_write(holder, tmp_path, monkeypatch):
    holder("tell 0.5")
    real = open

    def read_only(path, mode="r", **options):
        assert set(mode) <= {"r", "b"}
        return real(path, mode, **options)

    monkeypatch.setattr("builtins.open", read_only)
    monkeypatch.setattr("RegCore.training.presence.os.open", None)
    assert presence.seen(tmp_path)["fraction"] == 0.5
    holder.end()
    assert presence.seen(tmp_path) is None


@pytest.mark.parametrize("ended", ["finished", "stopped", ""])
def test_a_training_that_is_refused_leaves_its_folder_as_it_was(tmp_path, ended):
    write_pairs(tmp_path / "pairs")
    options = {"log_dir": tmp_path, "exp_name": "run", "device": "cpu"}
    train(configuration(tmp_path / "pairs", epochs=1), **options)
    if ended:
        (tmp_path / "run" / ".ended").write_text(json.dumps({"ended": ended}))
    else:
        (tmp_path / "run" / ".ended").unlink()
    other = configuration(tmp_path / "pairs", epochs=2, method="dvf")
    with pytest.raises(InputError, match="train.method was ddf") as refused:
        train(other, **options, resume=True)
    assert presence.ended(tmp_path / "run") == (ended or str(refused.value))
    assert not (tmp_path / "run" / ".running").exists() and presence.seen(tmp_path / "run") is None


def test_a_training_that_can_not_begin_says_why_and_holds_nothing(tmp_path, monkeypatch):
    write_pairs(tmp_path / "pairs")

    def full(*given, **options):
        raise InputError("last.pt: can't be written (No space left on device)")

    monkeypatch.setattr("RegCore.training.folder.save_model", full)
    with pytest.raises(InputError, match="No space left"):
        train(configuration(tmp_path / "pairs"), log_dir=tmp_path, exp_name="run", device="cpu")
    assert "No space left" in presence.ended(tmp_path / "run")
    assert not (tmp_path / "run" / ".running").exists()


def test_a_real_training_stops_when_it_is_asked_to_and_says_how_it_ended(tmp_path):
    write_pairs(tmp_path / "pairs")
    config, told = configuration(tmp_path / "pairs", epochs=2, save_period=1), []

    def ask(fraction, stage, values):
        told.append(json.loads((tmp_path / "run" / ".running").read_text() or "{}"))
        if len(told) == 2:
            time.sleep(presence.TELL_EVERY)
            presence.ask_to_stop(tmp_path / "run")

    options = {"log_dir": tmp_path, "exp_name": "run", "device": "cpu"}
    with pytest.raises(Cancelled):
        train(config, **options, progress=ask)
    assert len(told) == 2 and set(told[1]["values"]) == {"epoch", "epochs", "loss", "seconds_left"}
    assert presence.ended(tmp_path / "run") == "stopped" and not (tmp_path / "run" / ".stop").exists()
    train(config, **options, resume=True)
    assert presence.ended(tmp_path / "run") == "finished"
    config = configuration(tmp_path / "pairs", epochs=3, optimizer={"name": "SGD", "learning_rate": 1e30})
    with pytest.raises(InputError) as failed:
        train(config, **options)
    assert presence.ended(tmp_path / "run") == str(failed.value) and "is not finite" in str(failed.value)


def test_two_processes_stop_through_the_folder_and_the_first_says_how_to_go_on(tmp_path):
    write_pairs(tmp_path / "pairs")
    configuration(tmp_path / "pairs", epochs=500, valid=False).dump(tmp_path / "two.yaml")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*start, "-m", "RegCore", "train", tmp_path / "two.yaml", "--out", tmp_path / "run"]
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen([*map(str, command), "--device", "cpu"], stdout=said, stderr=said)
        while process.poll() is None and not presence.seen(tmp_path / "run"):
            time.sleep(0.1)
        presence.ask_to_stop(tmp_path / "run")
        assert process.wait() != 0
    text = (tmp_path / "said").read_text()
    assert f"stopped after a checkpoint; go on with: regcore train --resume {tmp_path / 'run'}" in text
    assert "all_reduce" not in text  # a warning of PyTorch that came with each step
    assert presence.ended(tmp_path / "run") == "stopped" and presence.seen(tmp_path / "run") is None
    state = read_content(tmp_path / "run" / "save" / "last.pt")["training"]["state"]
    assert 0 < state["position"]["steps"] < 1000
