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
    assert [stage for _, stage, _ in first.progress] == ["starting", "stage one", "stage two"]
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
    process, started = worker.process_id, time.monotonic()
    worker.cancel()
    worker.cancel()
    assert isinstance(asked.wait().error, library("process").WorkerCancelled)
    assert time.monotonic() - started < 1
    assert Asked(worker).wait().error is None
    assert worker.process_id == process


@both_ways
def test_cancelling_ends_a_process_that_is_deaf_with_all_its_children(worker, library):
    asked = Asked(worker, play="deaf", steps=2)
    reach(asked, "stage two")
    time.sleep(0.2)
    processes, started = family(worker), time.monotonic()
    worker.cancel()
    assert isinstance(asked.wait().error, library("process").WorkerCancelled)
    assert 0.5 < time.monotonic() - started < 1.5
    assert_gone(processes)
    assert Asked(worker).wait().error is None


@pytest.mark.parametrize("stage", ["", "stage one", "stage two"], ids=["start", "middle", "end"])
@pytest.mark.parametrize(
    ("worker", "member"),
    [(DIRECT, 0), (LAUNCHED, 0), (LAUNCHED, -1)],
    ids=["worker", "launcher", "worker-of-launcher"],
    indirect=["worker"],
)
def test_a_killed_process_is_noticed_and_nothing_of_it_is_left(worker, stage, member):
    asked = Asked(worker, steps=30)
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
    worker = process.Worker([sys.executable, "-m", "RegCore.cli.worker"])
    job = worker.request("check", {}, lambda *told: None, lambda job: None)
    worker.wait(job)
    assert job.error is None and "cpu" in job.result["devices"]
    assert process.worker_command()[-3:] == ["-m", "RegCore", "worker"]
    worker.stop()
