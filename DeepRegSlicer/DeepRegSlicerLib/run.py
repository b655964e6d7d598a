"""A request to the child process that is under way: told how far it is, waited for, cancelled."""

import logging

import slicer

from RegCore.progress import Cancelled

from .process import Job, WorkerError

log = logging.getLogger(__name__)


class Run:
    """What the runs of registrations and trainings share; they say in `_end` what came of the answer.

    Once `running` is false, `result` or `error` is set.
    """

    def __init__(self, worker, command: str, arguments: dict, progress, done, stays: bool = False):
        """Starts at once. Raises WorkerError if the process is busy or can't be started.

        progress(fraction, stage, values) may raise `RegCore.Cancelled`; done(run) is called at the end. Both
        may be None. stays: see `Worker.request`.
        """
        self.result = None
        self.error: WorkerError | None = None
        self._worker, self._progress, self._done = worker, progress, done
        told = (self._on_progress, self._on_answer)
        self._job = worker.request(command, arguments, *told, self._prepare, stays)

    @property
    def running(self) -> bool:
        """Whether it is still under way."""
        return self.result is None and self.error is None

    @property
    def kept(self):
        """The folder with the files of the request, where they were to be kept; else None."""
        return self._job.kept

    def cancel(self) -> None:
        """Ask it to stop; it ends with a WorkerCancelled as its error."""
        if self.running:
            self._worker.cancel()

    def wait(self):
        """Keep Slicer's windows alive until the end; the result, or the error raised."""
        try:
            self._worker.wait(self._job, slicer.app.processEvents)
        except BaseException:
            self._progress = None
            self.cancel()
            self._worker.wait(self._job, slicer.app.processEvents)
            raise
        if self.error is not None:
            raise self.error
        return self.result

    def _on_progress(self, fraction: float, stage: str, values: dict) -> None:
        if self._progress is None:
            return
        try:
            self._progress(fraction, stage, values)
        except Cancelled:
            self.cancel()

    def _on_answer(self, job: Job) -> None:
        self.result, self.error = self._end(job)
        if self.error is not None and self.error.details:
            log.error("%s\n%s", self.error, self.error.details)
        if self._done is not None:
            self._done(self)

    def _prepare(self, result: dict) -> object:
        """What can be made of an answer in another thread, which may touch no scene and no widget."""

    def _end(self, job: Job) -> tuple[object, WorkerError | None]:
        """Result and error of a job that is over; one of them is None."""
        raise NotImplementedError


class Question(Run):
    """A request whose answer is taken as it is: `result` holds its values by name."""

    def _end(self, job: Job) -> tuple[dict | None, WorkerError | None]:
        return (None, job.error) if job.error is not None else (job.result, None)
