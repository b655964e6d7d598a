"""Large requests and answers: written and read beside the windows, and not waited for where one cancels."""

import threading
import time

import pytest

from Testing.Slicer import test_process
from Testing.Slicer.test_panel import Panel
from Testing.Slicer.test_process import Asked, request_arguments

worker = test_process.worker  # the fixture


def patient(real, ticks: list, seen: list):
    """The function, which first waits until the windows have lived on for a while."""

    def call(*given):
        until, begun = time.monotonic() + 20, len(ticks)
        while len(ticks) < begun + 3 and time.monotonic() < until:
            time.sleep(0.005)
        seen.append(len(ticks) >= begun + 3)
        return real(*given)

    return call


def test_large_files_are_written_and_read_while_the_windows_live(worker, library, monkeypatch):
    process, ticks, seen = library("process"), [], []
    monkeypatch.setattr(process, "LARGE", 0)
    for name in ("write", "read"):
        monkeypatch.setattr(process.messages, name, patient(getattr(process.messages, name), ticks, seen))
    ends, prepared = [], patient(lambda result: result["metrics"]["ncc"], ticks, seen)
    arguments = request_arguments(play="shift")
    job = worker.request(
        "register", {**arguments, "moving_labels": None}, lambda *told: None, ends.append, prepared
    )
    worker.wait(job, pump=lambda: ticks.append(1))
    assert seen == [True] * 3 and ends == [job]
    assert job.error is None and job.prepared == job.result["metrics"]["ncc"]
    assert not job.folder.exists()


class Held:
    """A function that, once `began`, goes on only when it is told to."""

    def __init__(self, real):
        self.real, self.began, self.go_on = real, threading.Event(), threading.Event()

    def __call__(self, *given):
        self.began.set()
        self.go_on.wait(60)
        return self.real(*given)


def stop_waiting(event) -> None:
    if event.is_set():
        raise StopIteration


@pytest.mark.parametrize("name", ["write", "read"])
def test_cancelling_does_not_wait_for_a_large_file(worker, library, monkeypatch, name):
    process = library("process")
    monkeypatch.setattr(process, "LARGE", 0)
    held = Held(getattr(process.messages, name))
    with monkeypatch.context() as patched:
        patched.setattr(process.messages, name, held)
        asked = Asked(worker)
        with pytest.raises(StopIteration):
            worker.wait(asked.job, pump=lambda: stop_waiting(held.began))
        worker.cancel()
        worker.poll()
        assert isinstance(asked.job.error, process.WorkerCancelled) and asked.ends == [asked.job]
    assert (worker.process_id is None) is (name == "write") and asked.job.folder.exists()
    assert Asked(worker).wait().error is None  # while the file is still being written or read
    held.go_on.set()
    until = time.monotonic() + 20
    while asked.job.folder.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not asked.job.folder.exists() and asked.job.result is None


def test_stopping_does_not_wait_for_a_large_file(worker, library, monkeypatch):
    process = library("process")
    monkeypatch.setattr(process, "LARGE", 0)
    held = Held(process.messages.write)
    monkeypatch.setattr(process.messages, "write", held)
    asked = Asked(worker)
    worker.stop()
    assert isinstance(asked.job.error, process.WorkerCancelled)
    held.go_on.set()


def test_a_large_request_that_can_not_be_written_says_why(worker, library, monkeypatch):
    process = library("process")
    monkeypatch.setattr(process, "LARGE", 0)

    def refuse(path, values):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(process.messages, "write", refuse)
        job = Asked(worker).wait()
    assert str(job.error) == "The computing process could not be started: [Errno 28] No space left on device"
    assert Asked(worker).wait().error is None


@pytest.mark.parametrize("name", ["write", "read"])
def test_cancel_answers_while_a_large_file_is_written_or_read(host, library, stand_in, monkeypatch, name):
    messages = library("process").messages
    held = Held(getattr(messages, name))
    panel = Panel(host, library, monkeypatch)
    before = panel.choose().make.inventory()
    monkeypatch.setattr(panel.process, "LARGE", 0)
    with monkeypatch.context() as patched:
        patched.setattr(messages, name, held)
        panel.ui.registerButton.click()
        assert panel.host.spin(20, until=held.began.is_set)
        panel.ui.cancelButton.click()
        assert panel.finish() == "Cancelled. The scene is as it was."
    assert panel.make.inventory() == before and panel.ui.registerButton.enabled
    assert panel.register().startswith("Done in ")  # beside the thread that is still held
    held.go_on.set()
