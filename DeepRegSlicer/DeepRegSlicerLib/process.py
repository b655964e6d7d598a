"""Keeps the child process that computes: starts it, asks, listens, cancels, and says why it ended.

The child is `python -m RegCore worker` (the protocol: `RegCore/cli/worker.py`). A thread reads its answers
into a queue; a Qt timer empties the queue in Slicer's main thread, so that no Qt or MRML object meets the
thread.
"""

import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt

from RegCore.io import messages

from .paths import regcore_folder

POLL_MILLISECONDS = 50
CANCEL_FILE_AFTER = 0.3  # seconds after the message; then the cancel file
KILL_AFTER = 0.9  # seconds after the message; then the end of the process, so that Cancel takes a second
SCENE_IS_SAFE = "The scene is as it was; the next run starts a new process."
LINES_KEPT = 200  # of what the child says on standard error

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """The child process did not bring a result. The text is a sentence for the user.

    details: for the log. missing: names, at the package index, of packages that have to be installed.
    """

    def __init__(self, message: str, details: str = "", missing: tuple[str, ...] = ()):
        super().__init__(message)
        self.details, self.missing = details, tuple(missing)


class WorkerCancelled(WorkerError):
    """The user cancelled."""


@dataclass
class Job:
    """One request. `result` or `error` is there as soon as `running` is false."""

    number: int
    folder: Path
    on_progress: Callable[[float, str, dict], None]
    on_done: Callable[["Job"], None]
    result: dict | None = None
    error: WorkerError | None = None
    running: bool = True
    cancelled_at: float | None = None
    message: dict | None = None  # the request as it was sent
    answered: bool = False  # whether anything came back


def worker_command() -> list[str]:
    """The command that starts the child in Slicer's own Python environment."""
    return [shutil.which("PythonSlicer") or sys.executable, "-m", "RegCore", "worker"]


class Worker:
    """A child process that is started at the first request and kept for the next ones."""

    def __init__(
        self,
        command: list[str] | None = None,
        kill_after: float = KILL_AFTER,
        after_death: str = SCENE_IS_SAFE,
    ):
        """command: what to start instead of `worker_command()`.

        kill_after: seconds that a cancelled job gets to end by itself. after_death: what to say besides where
        the process ended on its own.
        """
        self.command, self.kill_after, self.after_death = command, kill_after, after_death
        self.job: Job | None = None
        self._child: _Child | None = None
        self._numbers = 0
        self._polling = False
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self.poll)

    @property
    def process_id(self) -> int | None:
        """The id of the process that was started, None if there is none."""
        return self._child.process.pid if self._child else None

    def request(self, command: str, arguments: dict, on_progress, on_done) -> Job:
        """Ask for a command of `RegCore.cli.worker.COMMANDS`; the Qt event loop or `wait` brings the answers.

        arguments: values that `RegCore.io.messages` can write. on_progress(fraction, stage, values) is called
        now and then, on_done(job) once. Raises WorkerError if another request is running, if the arguments
        can't be written, or if the child can't be started.
        """
        if self.job is not None:
            raise WorkerError("A computation is already running: wait for its end or cancel it.")
        folder = Path(tempfile.mkdtemp(prefix="deepregslicer-"))
        self._numbers += 1
        job = Job(self._numbers, folder, on_progress, on_done)
        try:
            messages.write(folder / "request.npz", arguments)
            job.message = {"id": job.number, "command": command, "folder": str(folder)}
            self._send(job.message)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                text = f"The computing process could not be started: {error}"
                raise WorkerError(text, repr(error)) from error
            raise
        self.job = job
        self._timer.start()
        return job

    def cancel(self) -> None:
        """Ask the running job to stop: in `kill_after` seconds it does, if need be with its process."""
        if self.job is not None and self.job.cancelled_at is None:
            self.job.cancelled_at = time.monotonic()
            self._try_to_send({"cancel": self.job.number})

    def wait(self, job: Job, pump: Callable[[], None] | None = None) -> None:
        """Return when the job is done. `pump` is called in between, to keep the windows alive."""
        while job.running:
            self.poll()
            if pump is not None:
                pump()
            if job.running:
                time.sleep(0.01)

    def stop(self) -> None:
        """End the child; a running job ends as cancelled."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        if self.job is not None:
            self._finish(error=WorkerCancelled("Cancelled."))

    def detach(self) -> None:
        """Let the child end by itself, which it does where it stands or after what it has to keep."""
        if self._child is not None:
            self._child.detach()
            self._child = None
        if self.job is not None:
            self._finish(error=WorkerCancelled("Cancelled."))

    def poll(self) -> None:
        """Take in what the child said and look whether it is alive. Called by the timer."""
        if self._polling or self.job is None:
            return
        self._polling = True
        try:
            ending = self._next_ending()
        finally:
            self._polling = False
        if ending is not None:  # last, so that what it calls may start the next job
            self._finish(*ending)

    def _send(self, message: dict) -> None:
        """Send to the child, to a new one if there is none or it died since the last request."""
        if self._child is not None and self._child.alive():
            self._child.fresh = False
            try:
                self._child.send(message)
                return
            except OSError as error:
                log.info("the idle computing process is gone, starting another: %s", error)
        if self._child is not None:
            self._child.kill()
        self._child = _Child(self.command or worker_command())
        self._child.send(message)

    def _try_to_send(self, message: dict) -> None:
        try:
            self._child.send(message)
        except OSError as error:
            log.info("the computing process does not listen: %s", error)

    def _next_ending(self) -> tuple[dict | None, WorkerError | None] | None:
        """Handle all that came; (result, error) once the job is over."""
        child, job = self._child, self.job
        alive = child.alive()
        if not alive:
            child.kill()  # where only the launcher died, the rest of its group is still at work
        while (event := child.next_event(wait=not alive)) is not None:
            if event.get("id") != job.number:
                continue
            job.answered = True
            if event["event"] == "progress":
                job.on_progress(event["fraction"], event["stage"], event["values"])
                if self.job is not job:
                    return None  # stopped by who was told
                continue
            cancelled = event["event"] == "cancelled"
            if cancelled or (job.cancelled_at is not None and event["event"] == "result"):
                return None, WorkerCancelled("Cancelled.")
            return self._read(job, event)
        if job.cancelled_at is not None:
            return self._escalate_cancel(job, alive)
        return None if alive else self._on_exit(job)

    def _read(self, job: Job, event: dict) -> tuple[dict | None, WorkerError | None]:
        if event["event"] == "error":
            return None, WorkerError(event["message"], event["details"], event["missing"])
        try:
            return messages.read(job.folder / "result.npz"), None
        except (OSError, ValueError, KeyError) as error:
            return None, WorkerError("The result of the computation could not be read.", repr(error))

    def _escalate_cancel(self, job: Job, alive: bool) -> tuple[None, WorkerError] | None:
        """A cancelled job that did not stop yet: the next means once its time has come."""
        waited = time.monotonic() - job.cancelled_at
        if alive and waited < self.kill_after:
            if waited >= CANCEL_FILE_AFTER:
                (job.folder / "cancel").touch()
            return None
        self._child.kill()
        self._child = None
        return None, WorkerCancelled("Cancelled.")

    def _on_exit(self, job: Job) -> tuple[None, WorkerError] | None:
        """The child ended on its own: say why, or ask a new one if it died before it saw this request."""
        child, self._child = self._child, None
        if not child.fresh and not job.answered:
            log.info("the idle computing process was gone (%s), starting another", child.exit_reason())
            self._send(job.message)
            return None
        return None, WorkerError(
            f"The computing process ended unexpectedly ({child.exit_reason()}). {self.after_death}",
            child.stderr_tail(),
        )

    def _finish(self, result: dict | None = None, error: WorkerError | None = None) -> None:
        job, self.job = self.job, None
        self._timer.stop()
        shutil.rmtree(job.folder, ignore_errors=True)
        job.result, job.error, job.running = result, error, False
        job.on_done(job)


class _Child:
    """The process itself, its pipes and the threads that read them."""

    def __init__(self, command: list[str]):
        """Raises OSError if the command can't be started."""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            start_new_session=os.name == "posix",  # a group of its own, which is ended as a whole
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._events: queue.Queue[str | None] = queue.Queue()
        self._errors: deque[str] = deque(maxlen=LINES_KEPT)
        self.fresh = True  # until it is asked a second time
        self._worker_id: int | None = None  # differs from process.pid where a launcher stands between
        for target in (self._read_events, self._read_errors):
            threading.Thread(target=target, daemon=True).start()

    def _read_events(self) -> None:
        for line in self.process.stdout:
            self._events.put(line)
        self._events.put(None)

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self._errors.append(line)

    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, message: dict) -> None:
        """Raises OSError if the child is gone."""
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def next_event(self, wait: bool) -> dict | None:
        """The next event that came, None if there is none. `wait`: give the reading thread a moment."""
        while True:
            try:
                line = self._events.get(timeout=0.2) if wait else self._events.get_nowait()
            except queue.Empty:
                return None
            if line is None:
                return None
            try:
                event = json.loads(line)
            except ValueError:
                log.info("the computing process printed: %s", line.rstrip())
                continue
            if event.get("event") == "ready":
                self._worker_id = event["process"]
                continue
            return event

    def detach(self) -> None:
        """Say nothing more: the process ends once its standard input does."""
        try:
            self.process.stdin.close()
        except OSError as error:
            log.debug("what was still to be sent is lost: %s", error)

    def kill(self) -> None:
        """End the process and all that it started. PythonSlicer is a launcher: ending it alone is no use."""
        if os.name == "posix":
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError) as error:
                log.debug("the process group is gone already: %s", error)
        else:
            for process_id in {self.process.pid, self._worker_id or self.process.pid}:
                subprocess.run(["taskkill", "/F", "/T", "/PID", str(process_id)], capture_output=True)
        self.detach()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired as error:
            log.error("the computing process can't be ended: %s", error)

    def exit_reason(self) -> str:
        """How the process ended, in a few words."""
        code = self.process.returncode
        if code is None or code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if name == "SIGKILL":
            return f"ended from outside, {name}; often the computer ran out of memory"
        return f"ended by {name}"

    def stderr_tail(self) -> str:
        """The last lines of its standard error."""
        return "".join(self._errors)


def _environment() -> dict[str, str]:
    """Our environment, with RegCore where Python looks.

    torch's threads sleep while they wait for each other unless the user's environment says otherwise: by
    default they spin, and on a computer that also does something else the work then takes many times longer.
    """
    places = [str(regcore_folder()), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(place for place in places if place)
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path}


_shared: Worker | None = None


def shared_worker() -> Worker:
    """The worker that the panels and the console share."""
    global _shared
    if _shared is None:
        _shared = Worker()
    return _shared


def stop_shared_worker() -> None:
    """End the shared worker's process, if there is one: when Slicer quits or the module is reloaded."""
    if _shared is not None:
        _shared.stop()
