"""The child process as Slicer keeps it: warm, cancelled, killed with or without its launcher, replaced."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume

STAND_IN = Path(__file__).with_name("stand_in_worker.py")
DIRECT = [sys.executable, str(STAND_IN)]
LAUNCHED = [*DIRECT, "--launcher"]


@pytest.fixture
def worker(request, library):
    """A worker whose child is started directly, or with `both_ways` also by a launcher that waits for it."""
    made = library("process").Worker(getattr(request, "param", DIRECT))
    yield made
    made.stop()


both_ways = pytest.mark.parametrize("worker", [DIRECT, LAUNCHED], ids=["direct", "launched"], indirect=True)


def request_arguments(**settings) -> dict:
    volume = Volume(np.arange(504.0).reshape(7, 8, 9), Geometry((7, 8, 9), np.diag([1, 2, 3, 1])))
    return {"fixed": volume, "moving": volume, "settings": settings}


class Asked:
    """A request and all that was told about it."""

    def __init__(self, worker, **settings):
        self.worker, self.progress, self.ends = worker, [], []
        self.job = worker.request("register", request_arguments(**settings), self.told, self.ends.append)

    def told(self, fraction, stage, values):
        self.progress.append((fraction, stage, values))

    def wait(self):
        self.worker.wait(self.job)
        assert self.ends == [self.job] and not self.job.running
        assert not self.job.folder.exists()
        return self.job

    def until_stage(self, stage: str):
        self.worker.wait(self.job, pump=lambda: self._stop_waiting(stage))

    def _stop_waiting(self, stage: str):
        if self.progress and self.progress[-1][1] == stage:
            raise StopIteration


def reach(asked: Asked, stage: str) -> None:
    """Let the request run until it says that it is in that stage."""
    with pytest.raises(StopIteration):
        asked.until_stage(stage)


def family(worker) -> list[psutil.Process]:
    parent = psutil.Process(worker.process_id)
    return [parent, *parent.children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=3)
    assert alive == []


@both_ways
def test_the_process_stays_warm_and_answers_again(worker):
    first = Asked(worker)
    done = first.wait()
    assert done.error is None and done.result["seconds"] == 1.25
    stages = ["starting", "starting on cpu", "stage one", "stage two"]
    assert [stage for _, stage, _ in first.progress] == stages
    process = worker.process_id
    assert Asked(worker).wait().error is None
    assert worker.process_id == process


def test_a_second_request_at_the_same_time_is_refused(worker, library):
    first = Asked(worker)
    with pytest.raises(library("process").WorkerError, match="already running"):
        Asked(worker)
    assert first.wait().error is None


@both_ways
def test_cancelling_keeps_a_process_that_listens(worker, library):
    asked = Asked(worker, steps=3000)
    reach(asked, "stage one")
    process = worker.process_id
    worker.kill_after = 60  # on a busy computer it may take a while to listen
    worker.cancel()
    worker.cancel()
    assert isinstance(asked.wait().error, library("process").WorkerCancelled)
    worker.kill_after = library("process").KILL_AFTER
    assert Asked(worker).wait().error is None
    assert worker.process_id == process


class Clock:
    """Time as a test wants it."""

    sleep = staticmethod(time.sleep)
    now = 1000.0

    def monotonic(self):
        return self.now


@both_ways
def test_cancelling_ends_a_process_that_is_deaf_with_all_its_children(worker, library, monkeypatch):
    process, clock = library("process"), Clock()
    monkeypatch.setattr(process, "time", clock)
    asked = Asked(worker, steps=2, hold="stage two")
    reach(asked, "stage two")
    processes = family(worker)
    worker.cancel()
    for waited, message_only in ((0.2, True), (0.5, False), (0.8, False)):
        clock.now = 1000 + waited
        worker.poll()
        assert asked.job.running and (asked.job.folder / "cancel").exists() is not message_only
    clock.now = 1000.95  # a second after the click it is over
    worker.poll()
    assert isinstance(asked.job.error, process.WorkerCancelled)
    assert_gone(processes)
    monkeypatch.undo()
    assert Asked(worker).wait().error is None


@pytest.mark.parametrize("stage", ["", "stage one", "stage two"], ids=["start", "middle", "end"])
@pytest.mark.parametrize(
    ("worker", "member"),
    [(DIRECT, 0), (LAUNCHED, 0), (LAUNCHED, -1)],
    ids=["worker", "launcher", "worker-of-launcher"],
    indirect=["worker"],
)
def test_a_killed_process_is_noticed_and_nothing_of_it_is_left(worker, stage, member):
    asked = Asked(worker, steps=2, hold=stage or "stage one")  # however busy the computer is
    if stage:
        reach(asked, stage)
    processes = family(worker)
    processes[member].kill()
    error = asked.wait().error
    assert "The computing process ended unexpectedly" in str(error)
    assert "The scene is as it was" in str(error)
    assert_gone(processes)
    assert Asked(worker).wait().error is None


@both_ways
def test_a_process_killed_while_idle_is_replaced_silently(worker):
    Asked(worker).wait()
    processes = family(worker)
    processes[0].kill()
    time.sleep(0.1)
    assert Asked(worker).wait().error is None
    assert worker.process_id != processes[0].pid
    assert_gone(processes)


def test_a_request_that_a_dying_process_never_saw_is_sent_to_the_next_one(worker):
    Asked(worker).wait()
    first = worker.process_id
    os.kill(first, signal.SIGSTOP)
    asked = Asked(worker)
    os.kill(first, signal.SIGKILL)
    assert asked.wait().error is None
    assert worker.process_id != first


@pytest.mark.parametrize(
    ("play", "sentence"),
    [
        ("crash", "The computing process ended unexpectedly"),
        ("exit", "exit code 3"),
        ("input", "moving: the image is constant"),
        ("memory", "choose the device CPU"),
    ],
)
def test_a_failure_is_told_and_the_next_request_works(worker, play, sentence):
    assert sentence in str(Asked(worker, play=play).wait().error)
    assert Asked(worker).wait().error is None


def test_how_a_process_was_ended_is_said(library):
    worker = library("process").Worker(DIRECT)
    asked = Asked(worker, steps=3000)
    reach(asked, "stage one")
    os.kill(worker.process_id, signal.SIGKILL)
    assert "SIGKILL; often the computer ran out of memory" in str(asked.wait().error)
    assert "ended by SIGSEGV" in str(Asked(worker, play="crash").wait().error)
    worker.stop()


def test_missing_packages_come_as_a_list(library):
    worker = library("process").Worker(DIRECT)
    assert Asked(worker, play="missing").wait().error.missing
    worker.stop()


def test_what_the_child_said_before_it_died_is_kept_for_the_log(library):
    worker = library("process").Worker(
        [sys.executable, "-c", "raise SystemExit('no such thing as a worker')"]
    )
    error = Asked(worker).wait().error
    assert "exit code 1" in str(error)
    assert "no such thing as a worker" in error.details


def test_a_program_that_is_not_there_is_an_error_that_says_so(library):
    process = library("process")
    worker = process.Worker(["no-such-program-anywhere"])
    with pytest.raises(process.WorkerError, match="could not be started.*no-such-program-anywhere"):
        Asked(worker)
    assert worker.job is None


def test_stopping_cancels_what_runs_and_leaves_no_process(worker, library):
    asked = Asked(worker, steps=3000)
    reach(asked, "stage one")
    processes = family(worker)
    worker.stop()
    assert isinstance(asked.job.error, library("process").WorkerCancelled)
    assert_gone(processes)
    assert not asked.job.folder.exists()


def test_the_answer_may_start_the_next_request(library):
    worker = library("process").Worker(DIRECT)
    ends = []

    def again(job):
        ends.append(job)
        worker.wait(worker.request("register", request_arguments(), lambda *told: None, ends.append))

    worker.wait(worker.request("register", request_arguments(), lambda *told: None, again))
    assert [job.error for job in ends] == [None, None]
    worker.stop()


def test_the_timer_brings_the_answer_to_who_does_not_wait(host, library):
    worker = library("process").Worker(DIRECT)
    asked = Asked(worker)
    assert host.spin(10, until=lambda: asked.ends)
    assert asked.job.error is None
    worker.stop()


def test_the_real_worker_is_started_from_any_folder(host, library, tmp_path, monkeypatch):
    process = library("process")
    monkeypatch.chdir(tmp_path)
    worker = process.Worker()
    job = worker.request("check", {}, lambda *told: None, lambda job: None)
    worker.wait(job)
    assert job.error is None and "cpu" in job.result["devices"]
    worker.stop()


@pytest.mark.parametrize("by", ["the working directory", "an empty entry of PYTHONPATH", "a relative entry"])
def test_nothing_is_imported_from_the_working_directory(host, library, tmp_path, monkeypatch, by):
    for name in ("random", "torch", "runpy", "RegCore", "json"):
        (tmp_path / f"{name}.py").write_text("open('was imported', 'w'); raise SystemExit('a foreign file')")
    monkeypatch.chdir(tmp_path)
    others = {"an empty entry of PYTHONPATH": f"/nowhere{os.pathsep}", "a relative entry": "."}
    if by in others:
        monkeypatch.setenv("PYTHONPATH", others[by])
    worker = library("process").Worker()
    job = worker.request("check", {}, lambda *told: None, lambda job: None)
    worker.wait(job)
    assert job.error is None and not (tmp_path / "was imported").exists()
    worker.stop()


def test_the_working_directory_is_kept_for_relative_folders(host, library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker = library("process").Worker()
    Asked(worker, play="input").wait()  # of the real worker: any answer will do
    assert Path(psutil.Process(worker.process_id).cwd()) == tmp_path
    worker.stop()


def test_an_idle_process_is_ended_after_a_while(host, library, monkeypatch):
    monkeypatch.setattr(library("process"), "IDLE_POLL_MILLISECONDS", 20)
    worker = library("process").Worker(DIRECT, idle_seconds=0.2)
    Asked(worker).wait()
    processes = family(worker)
    assert host.spin(10, until=lambda: worker.process_id is None)
    assert_gone(processes)
    assert Asked(worker).wait().error is None
    worker.stop()


def test_a_worker_without_work_is_not_held_by_its_timer(library):
    """In PythonQt a connection holds the object of a bound method."""
    worker = library("process").Worker(DIRECT)
    assert worker._timer is None
    Asked(worker).wait()
    assert worker._timer is not None
    worker.stop()
    assert worker._timer is None


def test_ending_a_process_on_windows_opens_no_console(library, monkeypatch):
    child = library("child")
    calls = []
    made = child.Child(DIRECT)
    monkeypatch.setattr(child, "NO_WINDOW", 0x08000000)
    monkeypatch.setattr(child.os, "name", "nt")
    with monkeypatch.context() as patched:
        patched.setattr(child.subprocess, "run", lambda command, **more: calls.append((command, more)))
        made.process.kill()
        made.kill()
    assert calls[0][0][0] == "taskkill" and calls[0][1]["creationflags"] == 0x08000000
