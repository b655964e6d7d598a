"""The child process: its answers to good and bad requests, how it stops, and that it never outlives us."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from RegCore.cli import failures, worker
from RegCore.io import messages
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from Testing.paths import ROOT

# A worker with commands of its own, to be run as `python -c`.
STAND_IN = """
import os, sys, time
from RegCore.cli import worker

def count(arguments, progress):
    print("a library prints")
    os.system("echo so does a program; cat")
    for i in range(arguments["steps"]):
        progress(i / arguments["steps"], "counting", {"iteration": i, "loss": 1 / (i + 1)})
        time.sleep(arguments["seconds"])
    return {"twice": 2 * arguments["array"]}

def deaf(arguments, progress):
    time.sleep(60)

worker.COMMANDS.update(count=count, deaf=deaf)
raise SystemExit(worker.main())
"""


class Child:
    """A worker process and the events it sends."""

    def __init__(self, code: str = STAND_IN):
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
        )
        self.events = []
        assert self.event()["event"] == "ready"

    def event(self) -> dict:
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.events.append(json.loads(line))
        return self.events[-1]

    def until(self, *kinds: str) -> dict:
        while (event := self.event())["event"] not in kinds:
            pass
        return event

    def send(self, message) -> None:
        self.process.stdin.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
        self.process.stdin.flush()

    def ask(self, number: int, command: str, folder: Path, arguments: dict) -> None:
        folder.mkdir(exist_ok=True)
        messages.write(folder / "request.npz", arguments)
        self.send({"id": number, "command": command, "folder": str(folder)})


@pytest.fixture
def child():
    started = Child()
    yield started
    started.process.kill()
    started.process.wait()
    for pipe in (started.process.stdin, started.process.stdout, started.process.stderr):
        pipe.close()


def counting(steps: int, seconds: float) -> dict:
    return {"steps": steps, "seconds": seconds, "array": np.arange(4)}


def test_a_request_is_answered_and_progress_does_not_flood(child, tmp_path):
    child.ask(7, "count", tmp_path / "a", counting(steps=200, seconds=0.002))
    assert child.until("result", "error") == {"event": "result", "id": 7}
    np.testing.assert_array_equal(messages.read(tmp_path / "a" / "result.npz")["twice"], [0, 2, 4, 6])
    progress = [event for event in child.events if event["event"] == "progress"]
    assert [event["stage"] for event in progress[:2]] == ["starting", "counting"]
    assert 3 < len(progress) < 20  # 0.4 s of counting
    assert all(event["id"] == 7 and 0 <= event["fraction"] < 1 for event in progress)
    assert set(progress[-1]["values"]) == {"iteration", "loss"}
    assert not list((tmp_path / "a").glob("*.part"))


@pytest.mark.parametrize("how", ["message", "file"])
def test_cancelling_takes_effect_at_once_and_the_next_request_works(child, tmp_path, how):
    child.ask(1, "count", tmp_path / "a", counting(steps=3000, seconds=0.01))
    while child.event().get("stage") != "counting":
        pass
    started = time.monotonic()
    if how == "message":
        child.send({"cancel": 1})
    else:
        (tmp_path / "a" / "cancel").touch()
    assert child.until("cancelled", "result", "error") == {"event": "cancelled", "id": 1}
    assert time.monotonic() - started < 1
    assert not (tmp_path / "a" / "result.npz").exists()
    child.ask(2, "count", tmp_path / "b", counting(steps=1, seconds=0))
    assert child.until("cancelled", "result", "error") == {"event": "result", "id": 2}


def test_a_cancelled_request_that_waits_is_not_begun(child, tmp_path):
    child.ask(1, "count", tmp_path / "a", counting(steps=20, seconds=0.01))
    child.ask(2, "count", tmp_path / "b", counting(steps=20, seconds=0.01))
    child.send({"cancel": 2})
    child.send({"cancel": 99})
    assert child.until("result", "error", "cancelled") == {"event": "result", "id": 1}
    assert child.event() == {"event": "cancelled", "id": 2}


@pytest.mark.parametrize("command", ["count", "deaf"])
def test_the_worker_ends_when_its_parent_is_gone(child, tmp_path, command):
    child.ask(1, command, tmp_path / "a", counting(steps=3000, seconds=0.01))
    child.until("progress")
    child.process.stdin.close()
    child.process.wait(timeout=worker.GRACE + 2)
    assert not (tmp_path / "a" / "result.npz").exists()


def test_what_is_not_understood_is_said_and_does_no_harm(child, tmp_path):
    child.send("no JSON at all")
    assert "no JSON at all" in child.until("error")["message"]
    child.send({"id": 1, "command": "count"})
    assert child.until("error")["kind"] == "request"
    child.ask(2, "fly", tmp_path / "a", {})
    event = child.until("error")
    assert (event["id"], event["kind"]) == (2, "input")
    known = "check, count, deaf, files, maps, model, pair, register, report, save, train"
    assert event["message"] == f"the command 'fly' is unknown; there are: {known}"
    child.send({"id": 3, "command": "count", "folder": str(tmp_path / "nowhere")})
    event = child.until("error")
    assert event["kind"] == "failure" and "FileNotFoundError" in event["details"]
    child.ask(4, "count", tmp_path / "b", counting(steps=1, seconds=0))
    assert child.until("result", "error")["event"] == "result"


def test_starting_imports_nothing_heavy():
    heavy = "{'torch', 'nibabel', 'h5py', 'yaml', 'PIL'}"
    code = f"import sys; from RegCore.cli import worker; sys.exit(str({heavy} & set(sys.modules) or ''))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stderr.strip() == ""


def served(command, tmp_path) -> dict:
    """The last event of one request, served in this process."""
    messages.write(tmp_path / "request.npz", {"fixed": 1, "moving": 2, "device": "auto"})
    events = io.StringIO()

    def requests():
        yield json.dumps({"id": 5, "command": "it", "folder": str(tmp_path)})
        while not any(f'"event": "{end}"' in events.getvalue() for end in ("error", "result")):
            time.sleep(0.001)  # the end of the requests would stop the work

    worker.Server(requests(), events, {"it": command}).serve()
    return json.loads(events.getvalue().splitlines()[-1])


def failing(error: Exception):
    def command(arguments, progress):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (InputError("moving: the image is constant"), "input", "moving: the image is constant"),
        (MemoryError(), "memory", "The computer has too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "memory", "choose the device CPU"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory", "The computer has too little"),
        (RuntimeError("odd"), "failure", "The computation failed: RuntimeError: odd"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "missing", "Python packages are"),
        (ModuleNotFoundError("No module named 'RegCore.x'", name="RegCore.x"), "failure", "The computation"),
        (failures.TorchBrokenError("OSError: WinError 126"), "broken", "used (OSError: WinError 126)"),
    ],
)
def test_each_failure_has_its_sentence_and_details_for_the_log(tmp_path, error, kind, sentence):
    event = served(failing(error), tmp_path)
    assert (event["event"], event["id"], event["kind"]) == ("error", 5, kind)
    assert sentence in event["message"]
    assert "Traceback" in event["details"] and type(error).__name__ in event["details"]
    assert not (tmp_path / "result.npz").exists()


def test_missing_packages_are_named_as_at_the_package_index(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "find_spec", lambda name: None if name in ("torch", "yaml") else object())
    event = served(failing(ModuleNotFoundError("No module named 'torch'", name="torch")), tmp_path)
    assert event["missing"] == ["torch", "pyyaml"]
    assert event["message"] == "Python packages are missing: torch, pyyaml."
    assert worker.check_command({}, lambda *told: None)["missing"] == ["torch", "pyyaml"]


def test_a_package_for_some_of_the_work_is_named_where_it_is_missed(tmp_path):
    absent = InputError("supervoxels are made by the package scikit-image")
    absent.__cause__ = ModuleNotFoundError("No module named 'skimage'", name="skimage")
    event = served(failing(absent), tmp_path)
    assert (event["kind"], event["missing"]) == ("missing", ["scikit-image"])
    assert event["message"] == "Python packages are missing: scikit-image."


def test_a_graphics_card_gets_its_memory_back_after_each_job(tmp_path, monkeypatch):
    calls = []
    cuda = SimpleNamespace(is_initialized=lambda: True, empty_cache=lambda: calls.append("emptied"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    served(lambda arguments, progress: {}, tmp_path)
    served(failing(RuntimeError("odd")), tmp_path)
    assert calls == ["emptied", "emptied"]


@pytest.mark.parametrize(("device", "tried"), [("auto", ["auto", "cpu"]), ("cuda", ["cuda"])])
def test_a_full_graphics_card_sends_the_work_to_the_processor(monkeypatch, device, tried):
    devices = []

    def register(fixed, moving, *, device, progress):
        devices.append(device)
        if device != "cpu":
            raise RuntimeError("CUDA out of memory")
        raise InputError("reached the processor")

    monkeypatch.setitem(vars(worker.RegCore), "register", register)
    expected = InputError if device == "auto" else RuntimeError
    with pytest.raises(expected):
        image = Volume(np.zeros((2, 2, 2)), Geometry((2, 2, 2), np.eye(4)))
        given = {"fixed": image, "moving": image, "device": device}
        worker.register_command(given, lambda *told: None)
    assert devices == tried
