"""Jobs on a Dask cluster that is already there: same jobs, same files, on a file system that all can see."""

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import RegCore
from RegCore.progress import Progress, silent
from RegCore.space.geometry import InputError
from RegCore.studies.jobs import UNEXPECTED, Job, Outcome, Tally, perform

PATIENCE = 300.0  # seconds to wait for a first worker, or for a scheduler that is gone
TICK = 0.1  # seconds between two looks at the jobs that run
ASK_EVERY = 1.0  # seconds between two questions to the scheduler for its workers
ATTEMPTS = 3  # how often a job is begun that fails for no reason of its input, on other workers if there are
AHEAD = 3  # jobs for each thread of the cluster that are handed to the scheduler at a time
PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "distributed")
TELLING = "the same command goes on where this one ended"
_ONE_AT_A_TIME = threading.Lock()


@dataclass
class _Submitted:
    """A job with the scheduler."""

    job: Job
    future: Any
    attempts: int = 1
    tried: set[str] = field(default_factory=set)


def perform_here(job: Job) -> Outcome:
    """What a worker of the cluster does; jobs of one process do not run beside each other."""
    from distributed import get_worker

    with _ONE_AT_A_TIME:
        return replace(perform(job), where=get_worker().address)


def describe_here(token: str) -> dict[str, Any]:
    """The versions of a machine, and whether it sees a file."""
    found = {"RegCore": RegCore.__version__, "Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return {**found, "sees": os.path.exists(token)}


class ClusterPool:
    """The workers of a Dask cluster, see `RegCore.studies.jobs.Pool`.

    A job whose worker dies is done by another one; after three deaths it has failed. A scheduler that dies is
    waited for, and what it had not finished is handed to it again when it is back.

    Args:
        scheduler: its address, ``tcp://host:8786``, or "".
        scheduler_file: the file that it writes with its address.
        folder: of the results; it must exist, and every worker must see it.

    Raises:
        InputError: distributed is not installed, there is no scheduler or no worker, or a worker has other
            versions of what matters or does not see the folder.
    """

    def __init__(self, scheduler: str, scheduler_file: Path | None, folder: Path):
        self._address: dict[str, Any] = {"address": scheduler} if scheduler else {}
        if scheduler_file is not None:
            self._address = {"scheduler_file": str(scheduler_file)}
            if not scheduler_file.is_file():
                raise InputError(f"{scheduler_file}: there is no such file; does the scheduler run?")
        self._name = scheduler or str(scheduler_file)
        self._asked, self._known = -ASK_EVERY, dict[str, int]()
        self._client = self._connected()
        try:
            self._check(folder)
        except BaseException:
            self.close()
            raise

    def _connected(self) -> Any:
        try:
            from distributed import Client
        except ImportError as error:
            raise InputError(
                "a cluster needs the package distributed; install it with: pip install deepregslicer[cluster]"
            ) from error
        for name in ("client", "core", "comm", "utils", "batched"):  # they tell the same in many words
            logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)
        try:
            return Client(**self._address, timeout=10, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(f"{self._name}: no Dask scheduler answers there ({error})") from error

    def _check(self, folder: Path) -> None:
        """Wait for a worker, and look whether all are fit."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise InputError(f"{self._name}: the cluster has no worker") from None
        token = folder / f".seen-{secrets.token_hex(4)}"
        token.touch()
        try:
            here = describe_here(str(token))
            there = self._client.run(describe_here, str(token), on_error="return")
        except (OSError, TimeoutError, _closed()) as error:
            raise InputError(f"{self._name}: the Dask scheduler is gone ({error})") from error
        finally:
            token.unlink(missing_ok=True)
        for worker, found in there.items():
            if not isinstance(found, dict):
                raise InputError(f"the worker {worker} can't import RegCore {RegCore.__version__}: {found}")
            if not found.pop("sees"):
                raise InputError(f"the worker {worker} does not see {folder}: a shared file system is needed")
            for name, number in found.items():
                if here[name] and number != here[name]:
                    versions = f"{number or 'none'}, here it is {here[name]}"
                    raise InputError(f"the version of {name} on the worker {worker} is {versions}")

    def close(self) -> None:
        """Leave the cluster; its workers stay."""
        self._client.close()

    def run(self, jobs: Iterable[Job], total: int = 0, progress: Progress = silent) -> Iterator[Outcome]:
        """Do the jobs, see `RegCore.studies.jobs.Pool.run`; those that run when all is stopped end first.

        Raises:
            InputError: the scheduler is gone and does not come back.
        """
        tally, source, tasks = Tally(total, progress), iter(jobs), dict[str, _Submitted]()
        try:
            while True:
                self._wait_for_scheduler(tally, tasks)
                while len(tasks) < self._room() and (job := next(source, None)) is not None:
                    self._submit(tasks, _Submitted(job, None))
                if not tasks:
                    return
                time.sleep(TICK)
                for key in [key for key, task in tasks.items() if task.future.status != "pending"]:
                    if key not in tasks:  # a scheduler that was lost meanwhile has got all of them again
                        continue
                    outcome = self._ended(tasks, tasks.pop(key))
                    if outcome is not None:
                        tally.add(outcome)
                        yield outcome
                tally.report(len(self._workers()))
        finally:
            self._withdraw(tasks)

    def _withdraw(self, tasks: dict[str, _Submitted]) -> None:
        """Take back what has not begun."""
        if tasks and self._client.status == "running":
            try:
                self._client.cancel([task.future for task in tasks.values()])
            except (OSError, TimeoutError) as error:
                logging.getLogger(__name__).warning("%s: jobs can't be taken back: %s", self._name, error)

    def _workers(self) -> dict[str, int]:
        """Address and threads of each worker, as the scheduler knew them a moment ago."""
        if time.monotonic() - self._asked > ASK_EVERY and self._client.status == "running":
            self._asked = time.monotonic()
            try:
                self._known = dict(self._client.nthreads())
            except (OSError, TimeoutError, _closed()):  # the scheduler is gone; the next look at it says so
                self._known = {}
        return self._known

    def _room(self) -> int:
        return max(8, AHEAD * sum(self._workers().values()))

    def _submit(self, tasks: dict[str, _Submitted], task: _Submitted) -> None:
        """Hand a job to the scheduler, for workers that have not failed with it if there are any."""
        key = f"RegCore-{secrets.token_hex(8)}"
        others = [address for address in self._workers() if address not in task.tried] if task.tried else []
        where = {"workers": others, "allow_other_workers": True} if others else {}
        tasks[key] = task
        try:
            task.future = self._client.submit(perform_here, task.job, key=key, pure=False, **where)
        except _closed():
            task.future = _Lost()

    def _ended(self, tasks: dict[str, _Submitted], task: _Submitted) -> Outcome | None:
        """What came of a task; None if it is to be done again, and is with the scheduler again."""
        outcome = self._outcome(task)
        again = outcome is None
        if outcome is not None and outcome.kind in (UNEXPECTED, "memory") and task.attempts < ATTEMPTS:
            task.tried.add(outcome.where)
            again = bool(set(self._workers()) - task.tried)
            task.attempts += again
        if not again:
            return outcome
        self._wait_for_scheduler(None, tasks)
        self._submit(tasks, task)
        return None

    def _outcome(self, task: _Submitted) -> Outcome | None:
        """The outcome of a future that is not pending; None if it was lost with its scheduler."""
        from distributed import KilledWorker

        future = task.future
        try:
            if future.status == "finished":
                return replace(future.result(timeout=60), attempts=task.attempts)
            if future.status != "error":
                return None
            error = future.exception(timeout=60)
        except (OSError, TimeoutError, CancelledError):
            return None
        if isinstance(error, KilledWorker):
            sentence = "the workers that did it died, one after the other; is there too little memory?"
            return Outcome(task.job.name, error=sentence, kind="lost", details=str(error))
        sentence = f"{type(error).__name__}: {error}"
        return Outcome(task.job.name, error=" ".join(sentence.split())[:500], kind=UNEXPECTED)

    def _wait_for_scheduler(self, tally: Tally | None, tasks: dict[str, _Submitted]) -> None:
        """Go on when the scheduler is there, or a new one; that gets the tasks again."""
        end = time.monotonic() + PATIENCE
        lost = False
        while self._client.status != "running":
            lost = True
            if tally is not None:
                tally.report(0)
            if time.monotonic() > end:
                raise InputError(f"{self._name}: the Dask scheduler is gone; {TELLING}")
            self._reconnect()
        if lost:
            again = list(tasks.values())
            tasks.clear()
            for task in again:
                self._submit(tasks, task)

    def _reconnect(self) -> None:
        """Look for the scheduler with a new client, once."""
        self._client.close(timeout=1)
        time.sleep(TICK)
        try:
            self._client = self._connected()
        except InputError as error:
            logging.getLogger(__name__).info("%s", error)


class _Lost:
    """In place of the future of a job that could not be handed on."""

    status = "lost"


def _closed() -> type[BaseException]:
    """What a client raises that has lost its scheduler for good."""
    return import_module("distributed.client").ClosedClientError
