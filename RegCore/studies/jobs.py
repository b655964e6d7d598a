"""Jobs: pieces of work that a process of this machine or of a cluster does, and what came of each."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from RegCore.progress import Cancelled, Progress, silent
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy

JobFunction = Callable[[dict[str, Any], Progress], Any]
"""``function(arguments, progress) -> value``; what goes in and comes out must be picklable."""

UNEXPECTED = "unexpected"
"""Kind of the error of a job that no input explains: another machine may fare better."""


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Args:
        name: tells the jobs of a run apart.
        function: a `JobFunction` by module and name: it is imported where the work is done, so that what it
            needs, torch say, need not be here.
        arguments: for the function.
    """

    name: str
    function: Lazy
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        name: of the job.
        value: what its function gave; None if it failed.
        error: why it failed, a sentence; "" if it did not.
        kind: of the error: "input", "memory", "lost" (its process ended), `UNEXPECTED`; "" without one.
        details: the traceback, or the last words of a process that ended.
        attempts: how often it was begun.
        where: the worker that did it.
    """

    name: str
    value: Any = None
    error: str = ""
    kind: str = ""
    details: str = ""
    attempts: int = 1
    where: str = ""


class Pool(Protocol):
    """Workers that stay warm from one run to the next: `RegCore.studies.workers.LocalPool` or a cluster's."""

    def run(self, jobs: Iterable[Job], total: int = 0, progress: Progress = silent) -> Iterator[Outcome]:
        """Do the jobs, which are taken one by one as workers fall free, and yield outcomes as they come.

        Args:
            jobs: may be a generator, which is run in other threads, in one at a time.
            total: how many there will be, for the progress.
            progress: told of all jobs together, a few times a second; raising `Cancelled` in it stops them
                all, as leaving the iteration does.

        Raises:
            InputError: there are no workers any more.
        """
        ...

    def close(self) -> None:
        """End the workers that were started here."""
        ...


def perform(job: Job, progress: Progress = silent) -> Outcome:
    """Do a job in this process; whatever it raises, but `Cancelled`, becomes an outcome.

    Raises:
        Cancelled: the progress said so.
    """
    try:
        function: JobFunction = getattr(import_module(job.function.module), job.function.name)
        return Outcome(job.name, function(job.arguments, progress))
    except Cancelled:
        raise
    except Exception as error:
        kind, sentence = explained(error)
        details = "".join(traceback.format_exception(error))
        return Outcome(job.name, error=sentence, kind=kind, details=details)


def explained(error: Exception) -> tuple[str, str]:
    """The kind of an error, as `Outcome` has it, and a sentence."""
    if isinstance(error, InputError):
        return "input", " ".join(str(error).split())
    text = str(error).lower()
    short = "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short):
        return "memory", "there is not enough memory for volumes of this size"
    return UNEXPECTED, " ".join(f"{type(error).__name__}: {error}".split())[:500]


class Tally:
    """Counts what is done of a run, and says how long the rest will take.

    Args:
        total: number of jobs.
        progress: told by `report`.
    """

    def __init__(self, total: int, progress: Progress):
        self.total, self.progress = total, progress
        self.done = self.failed = 0
        self.parts: dict[str, float] = {}
        self._began = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Count a job that has ended."""
        self.parts.pop(outcome.name, None)
        self.done += 1
        self.failed += bool(outcome.error)

    def report(self, workers: int) -> None:
        """Tell the progress: "3 of 10", with the seconds left, those failed and the workers at work."""
        total = max(self.total, self.done)
        sofar = self.done + sum(list(self.parts.values()))
        fraction = sofar / total if total else 1.0
        spent = time.monotonic() - self._began
        left = spent * (1 / fraction - 1) if fraction > 0 else float("nan")
        values = {"seconds_left": left, "failed": self.failed, "workers": workers}
        self.progress(min(fraction, 1.0), f"{self.done} of {total}", values)
