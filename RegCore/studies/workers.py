"""Warm processes of this machine that do jobs: a pool that outlives the death of any of them."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import IO, BinaryIO, cast

from RegCore.progress import Progress, silent
from RegCore.studies.jobs import Job, Outcome, Tally
from RegCore.studies.worker import receive, send

ATTEMPTS = 3  # how often a job is begun whose process ends under it
TICK = 0.2  # seconds between two looks at the progress
GRACE = 10.0  # seconds that running jobs get to stop before their processes are killed
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
START = (  # the working directory, which `python -c` looks in first, may hold other people's json.py
    "import sys; sys.path[:] = [path for path in sys.path if path]; import json; "
    "sys.path[:] = json.loads(sys.argv[1]); from RegCore.studies.worker import main; main()"
)
WINDOWS_GROUP = 0x200  # CREATE_NEW_PROCESS_GROUP: Ctrl-C reaches the parent alone


class LostError(Exception):
    """The process ended in the midst of a job; the text says how."""


class WorkerProcess:
    """One process and the two channels to it; it is started when it is first needed, and again when it died.

    Args:
        threads: that its libraries may compute with.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._process: subprocess.Popen | None = None
        self._requests: BinaryIO
        self._answers: BinaryIO
        self._words: IO[bytes]
        self._writing = threading.Lock()

    @property
    def process_id(self) -> int | None:
        """Number of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def perform(self, job: Job, tell: Progress, stopping: threading.Event) -> Outcome | None:
        """Do a job; None if it was cancelled, or not begun because all is to stop.

        Raises:
            LostError: the process ended meanwhile.
        """
        if self._process is None:
            self._start()
        try:
            with self._writing:  # either `cancel` comes after the job, or its cause is seen here
                if stopping.is_set():
                    return None
                send(self._requests, ("job", job))
            while True:
                kind, what = receive(self._answers)
                if kind != "progress":
                    return cast("Outcome | None", what)
                tell(cast(float, what), "", {})
        except (EOFError, OSError) as error:
            raise LostError(self._buried()) from error

    def _start(self) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps([os.path.abspath(path) for path in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env={**os.environ, **dict.fromkeys(THREADS, str(self.threads))},
            start_new_session=True,
            creationflags=WINDOWS_GROUP if sys.platform == "win32" else 0,
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)

    def _buried(self) -> str:
        """What became of a process that does not answer; there is none any more after this."""
        process, self._process = self._process, None
        if process is None:
            return "it was ended"
        process.kill()
        code = process.wait()
        for stream in (self._requests, self._answers):
            with suppress(OSError):
                stream.close()
        self._words.seek(0)
        words = self._words.read()[-2000:].decode(errors="replace").strip()
        self._words.close()
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"it ended with {name}" + (f": {words}" if words else "")

    def cancel(self) -> None:
        """Ask the running job to stop at its next step."""
        process = self._process
        if process is None:
            return
        try:
            with self._writing:
                send(self._requests, ("cancel", None))
        except (OSError, ValueError):
            process.kill()  # it does not listen; who waits for its answer learns that it is gone

    def close(self) -> None:
        """End the process, whatever it does."""
        process = self._process
        if process is None:
            return
        process.kill()
        self._buried()


class LocalPool:
    """Warm processes of this machine, see `RegCore.studies.jobs.Pool`.

    A job whose process ends under it, for want of memory say, is begun again in a new one, up to `ATTEMPTS`
    times. Use it in a ``with`` statement.

    Args:
        workers: number of processes; each is started with its first job.
        threads: of each process.
    """

    def __init__(self, workers: int = 1, threads: int = 1):
        self.processes = [WorkerProcess(threads) for _ in range(workers)]

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.close()

    def run(self, jobs: Iterable[Job], total: int = 0, progress: Progress = silent) -> Iterator[Outcome]:
        """Do the jobs, see `RegCore.studies.jobs.Pool.run`."""
        run = _Run(jobs, Tally(total, progress))
        threads = [threading.Thread(target=run.serve, args=(p,), daemon=True) for p in self.processes]
        for thread in threads:
            thread.start()
        try:
            yield from run.outcomes(len(threads))
        finally:
            self._end(run, threads)

    def _end(self, run: "_Run", threads: list[threading.Thread]) -> None:
        """Stop what is still running; processes that do not react are killed."""
        run.stopping.set()
        for process, thread in zip(self.processes, threads, strict=True):
            if thread.is_alive():
                process.cancel()
        for process, thread in zip(self.processes, threads, strict=True):
            thread.join(GRACE)
            if thread.is_alive():
                process.close()
                thread.join()


class _Run:
    """One run of jobs over processes: a thread for each takes jobs and puts what comes of them in a queue."""

    def __init__(self, jobs: Iterable[Job], tally: Tally):
        self.jobs, self.tally = iter(jobs), tally
        self.stopping = threading.Event()
        self._taking = threading.Lock()
        self._events: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

    def outcomes(self, threads: int) -> Iterator[Outcome]:
        """The outcomes, until every thread has ended."""
        while threads:
            try:
                event = self._events.get(timeout=TICK)
            except queue.Empty:
                self.tally.report(threads)
                continue
            if event is None:
                threads -= 1
            elif isinstance(event, Outcome):
                self.tally.add(event)
                yield event
                self.tally.report(threads)
            else:
                raise event

    def serve(self, process: WorkerProcess) -> None:
        """Take jobs and let a process do them, until there is none or all is to stop."""
        try:
            while (job := self._next()) is not None:
                outcome = self._done(job, process)
                if outcome is not None:
                    self._events.put(outcome)
        except BaseException as error:  # raised again where the outcomes are taken
            self._events.put(error)
        self._events.put(None)

    def _next(self) -> Job | None:
        with self._taking:
            return None if self.stopping.is_set() else next(self.jobs, None)

    def _done(self, job: Job, process: WorkerProcess) -> Outcome | None:
        """What came of a job; None if it was stopped."""

        def tell(fraction: float, text: str, values: dict) -> None:
            self.tally.parts[job.name] = min(max(fraction, 0.0), 1.0)

        ends: list[str] = []
        while len(ends) < ATTEMPTS and not self.stopping.is_set():
            try:
                outcome = process.perform(job, tell, self.stopping)
                return outcome and replace(outcome, attempts=len(ends) + 1)
            except LostError as error:
                ends.append(str(error))
        if self.stopping.is_set():
            return None
        sentence = f"its process ended {len(ends)} times in the midst of it; is there too little memory?"
        return Outcome(job.name, None, sentence, "lost", "\n".join(ends), len(ends))
