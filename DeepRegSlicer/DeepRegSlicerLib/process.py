"""Keeps the child process that computes: starts it, asks, listens, cancels, and says why it ended.

The child is the command `regcore worker` (the protocol: `RegCore/cli/worker.py`). A thread reads its answers
into a queue; a Qt timer empties the queue in Slicer's main thread, so that no Qt or MRML object meets the
thread. Large requests are written, and answers read, in a thread as well, so that no window stands still.
"""

import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from RegCore.io import messages
from RegCore.io.scratch import Scratch, sweep

from .child import Child

PREFIX = "deepregslicer-"  # of the private folders of requests
KEPT = "DeepRegSlicer files"  # what folders that are kept are called, with a number
POLL_MILLISECONDS = 50
IDLE_POLL_MILLISECONDS = 2000
IDLE_SECONDS = 300.0  # after these an idle process is ended, since it holds memory that others may want
CANCEL_FILE_AFTER = 0.3  # seconds after the message; then the cancel file
KILL_AFTER = 0.9  # seconds after the message; then the end of the process, so that Cancel takes a second
LARGE = 8 << 20  # bytes of a request that is written beside the windows
# Seconds that a thread gets when it is looked for. Slicer keeps Python's lock while it waits for the user,
# so that a thread goes on only while Python code waits.
MOMENT = 0.03
SCENE_IS_SAFE = _("The scene is as it was; the next run starts a new process.")

log = logging.getLogger(__name__)
_beside = ThreadPoolExecutor(2, "DeepRegSlicer files")


class WorkerError(Exception):
    """The child process did not bring a result. The text is a sentence for the user.

    details: for the log. missing: names, at the package index, of packages that have to be installed.
    kind: of a failure that the child told, as `RegCore.cli.failures.describe` says; "broken": those packages
    are there but have to be installed again.
    """

    def __init__(self, message: str, details: str = "", missing: tuple[str, ...] = (), kind: str = ""):
        super().__init__(message)
        self.details, self.missing, self.kind = details, tuple(missing), kind


class WorkerCancelled(WorkerError):
    """The user cancelled."""


@dataclass
class Job:
    """One request. `result` or `error` is there as soon as `running` is false."""

    number: int
    scratch: Scratch
    on_progress: Callable[[float, str, dict], None]
    on_done: Callable[["Job"], None]
    result: dict | None = None
    error: WorkerError | None = None
    running: bool = True
    cancelled_at: float | None = None
    message: dict | None = None  # the request as it was sent
    answered: bool = False  # whether anything came back
    kept: Path | None = None  # where its files are, if they were to be kept
    prepare: Callable[[dict], object] | None = None  # see `Worker.request`
    prepared: object = None
    writing: Future | None = None  # the request, until it is sent
    reading: Future | None = None  # the answer

    @property
    def folder(self) -> Path:
        """Where request and result are."""
        return self.scratch.path


# `python -m` and `-c` put the working directory, where a user's random.py may lie, before all other places to
# import from; PYTHONSAFEPATH, which forbids it, is not known to Python 3.10.
BOOT = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; "
    "import runpy; runpy.run_module('RegCore', None, '__main__', True)"
)


def worker_command() -> list[str]:
    """The command that starts the child in Slicer's own Python environment."""
    return [shutil.which("PythonSlicer") or sys.executable, "-c", BOOT, "worker"]


class Worker:
    """A child process that is started at the first request and kept for the next ones."""

    def __init__(
        self,
        command: list[str] | None = None,
        kill_after: float = KILL_AFTER,
        after_death: str = SCENE_IS_SAFE,
        idle_seconds: float = IDLE_SECONDS,
    ):
        """command: what to start instead of `worker_command()`.

        kill_after: seconds that a cancelled job gets to end by itself. after_death: what to say besides where
        the process ended on its own. idle_seconds: after these without a job the process is ended.
        """
        self.command, self.kill_after, self.after_death = command, kill_after, after_death
        self.idle_seconds = idle_seconds
        self.keep_files = False  # whether the files of a request stay, for finding faults
        self.job: Job | None = None
        self._child: Child | None = None
        self._numbers = 0
        self._polling = False
        self._idle_since = 0.0
        self._timer = None  # while there is something to look for: a timer holds the worker in PythonQt

    @property
    def process_id(self) -> int | None:
        """The id of the process that was started, None if there is none."""
        return self._child.process.pid if self._child else None

    def printed(self) -> str:
        """What the process printed on standard error since this was asked last."""
        return self._child.printed() if self._child else ""

    def check_free(self) -> None:
        """Raise WorkerError while a request is running."""
        if self.job is not None:
            raise WorkerError(_("A computation is already running: wait for its end or cancel it."))

    def request(
        self, command: str, arguments: dict, on_progress, on_done, prepare=None, stays: bool = False
    ) -> Job:
        """Ask for a command of `RegCore.cli.worker.COMMANDS`; the Qt event loop or `wait` brings the answers.

        arguments: values that `RegCore.io.messages` can write; arrays may not change until they are written.
        on_progress(fraction, stage, values) is called now and then, on_done(job) once. prepare(result), if
        there is one, is called before in a thread; the job keeps what it returns as `prepared`. stays: it
        goes on when this worker is detached or Slicer ends. Raises WorkerError if another request is running,
        if the arguments can't be written, or if the child can't be started; what is found later becomes the
        job's error.
        """
        self.check_free()
        places = Path(tempfile.gettempdir())
        sweep(places, PREFIX)  # what a Slicer that was killed left there
        scratch = Scratch(places, PREFIX)
        self._numbers += 1
        job = Job(self._numbers, scratch, on_progress, on_done, prepare=prepare)
        job.message = {"id": job.number, "command": command, "folder": str(job.folder), "stays": stays}
        try:
            if messages.size(arguments) > LARGE:
                job.writing = _beside.submit(messages.write, job.folder / "request.npz", arguments)
            else:
                messages.write(job.folder / "request.npz", arguments)
                self._send(job.message)
        except BaseException as error:
            scratch.remove()
            if isinstance(error, OSError):
                raise _not_started(error) from error
            raise
        self.job = job
        self._watch(POLL_MILLISECONDS)
        return job

    def _watch(self, milliseconds: int | None) -> None:
        """Call `poll` in that interval from now on; None: no more."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.timeout.disconnect(self.poll)
            self._timer = None
        if milliseconds is not None:
            self._timer = qt.QTimer()
            self._timer.setInterval(milliseconds)
            self._timer.timeout.connect(self.poll)
            self._timer.start()

    def cancel(self) -> None:
        """Ask the running job to stop: in `kill_after` seconds it does, if need be with its process."""
        if self.job is not None and self.job.cancelled_at is None:
            self.job.cancelled_at = time.monotonic()
            if self.job.writing is None:  # else it is not asked for at all
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
        self._end_by_user()

    def _end_by_user(self) -> None:
        if self.job is not None:
            self._finish(error=WorkerCancelled(_("Cancelled.")))
        else:
            self._watch(None)

    def detach(self) -> None:
        """Let the child end by itself, which it does where it stands or after what it has to keep."""
        if self._child is not None:
            self._child.detach()
            self._child = None
        self._end_by_user()

    def poll(self) -> None:
        """Take in what the child said and look whether it is alive. Called by the timer."""
        if self._polling:
            return
        if self.job is None:
            if time.monotonic() - self._idle_since > self.idle_seconds:
                log.info("ending the computing process, which has been idle for a while")
                self.detach()
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
        self._child = Child(self.command or worker_command())
        self._child.send(message)

    def _try_to_send(self, message: dict) -> None:
        try:
            self._child.send(message)
        except OSError as error:
            log.info("the computing process does not listen: %s", error)

    def _next_ending(self) -> tuple[dict | None, WorkerError | None] | None:
        """Handle all that came; (result, error) once the job is over."""
        if (ending := self._files(self.job)) is not None:
            return ending or None
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
            if event["event"] == "cancelled":
                return None, WorkerCancelled(_("Cancelled."))
            if event["event"] == "error":
                told = (event["message"], event["details"], event["missing"], event["kind"])
                return None, WorkerError(*told)
            job.reading = _beside.submit(_read, job, self.keep_files)
            return self._files(job) or None
        if job.cancelled_at is not None:
            return self._escalate_cancel(job, alive)
        return None if alive else self._on_exit(job)

    def _files(self, job: Job) -> tuple | None:
        """See to the threads that write and read files.

        (result, error) where the job is over by that, () while a thread is at work, None if there is none.
        """
        errand = job.reading or job.writing
        if errand is None:
            return None
        if job.cancelled_at is not None:
            return None, WorkerCancelled(_("Cancelled."))
        wait_for([errand], timeout=MOMENT)
        if not errand.done():
            return ()
        try:
            found = errand.result()
            if errand is job.reading:
                return found, None
            job.writing = None
            self._send(job.message)
            return ()
        except Exception as error:
            if errand is not job.reading:
                return None, _not_started(error)
            return None, WorkerError(_("The result of the computation could not be read."), repr(error))

    def _escalate_cancel(self, job: Job, alive: bool) -> tuple[None, WorkerError] | None:
        """A cancelled job that did not stop yet: the next means once its time has come."""
        waited = time.monotonic() - job.cancelled_at
        if alive and waited < self.kill_after:
            if waited >= CANCEL_FILE_AFTER:
                (job.folder / "cancel").touch()
            return None
        self._child.kill()
        self._child = None
        return None, WorkerCancelled(_("Cancelled."))

    def _on_exit(self, job: Job) -> tuple[None, WorkerError] | None:
        """The child ended on its own: say why, or ask a new one if it died before it saw this request."""
        child, self._child = self._child, None
        if not child.fresh and not job.answered:
            log.info("the idle computing process was gone (%s), starting another", child.exit_reason())
            self._send(job.message)
            return None
        return None, WorkerError(
            _("The computing process ended unexpectedly ({exit_reason}). {after_death}").format(
                exit_reason=child.exit_reason(), after_death=self.after_death
            ),
            child.stderr_tail(),
        )

    def _finish(self, result: dict | None = None, error: WorkerError | None = None) -> None:
        job, self.job = self.job, None
        self._idle_since = time.monotonic()
        self._watch(IDLE_POLL_MILLISECONDS if self._child is not None else None)
        errand = job.reading or job.writing
        if errand is not None and not errand.cancel() and not errand.done():
            # a cancelled job does not wait for its thread, which clears up once it is through
            errand.add_done_callback(lambda _errand: job.scratch.remove())
        elif self.keep_files:
            job.kept = _put_away(job.scratch)
        else:
            job.scratch.remove()
        job.result, job.error, job.running = result, error, False
        job.on_done(job)


def _read(job: Job, keep: bool) -> dict:
    """Read the answer of a job and prepare it, in a thread; remove the files unless they are to stay."""
    result = messages.read(job.folder / "result.npz")
    for name in () if keep else ("request.npz", "result.npz"):
        (job.folder / name).unlink(missing_ok=True)
    job.prepared = job.prepare(result) if job.prepare is not None else None
    return result


def _not_started(error: Exception) -> WorkerError:
    return WorkerError(
        _("The computing process could not be started: {error}").format(error=error), repr(error)
    )


def _put_away(scratch: Scratch) -> Path | None:
    """Give the folder of a request a name under which it stays; None if that can't be done."""
    parent = scratch.path.parent
    names = (parent / f"{KEPT} {number}" for number in range(1, 10_000))
    try:
        return scratch.keep(next(path for path in names if not path.exists()))
    except (OSError, StopIteration) as error:
        log.error("the files of a request can't be kept: %s", error)
        scratch.remove()
        return None


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
