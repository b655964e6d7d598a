"""A process that does jobs one after the other, warm: started and ended by `RegCore.studies.workers`.

Messages are pickled and go through standard input and output, between this process and the one that started
it alone. When standard input ends, its parent is gone, and so is this process.
"""

import contextlib
import gc
import os
import pickle
import queue
import signal
import sys
import threading
import time
from typing import BinaryIO

from RegCore.evaluation.memory import keep_freed_memory
from RegCore.progress import Cancelled
from RegCore.studies.jobs import Job, Outcome, perform

GRACE = 2.0  # seconds that a job gets to look at its progress after its parent is gone
LONG = 1.0  # seconds of a job after which it is worth while to look for memory that it left
EVERY = 0.5  # seconds between two reports of progress

Message = tuple[str, Job | Outcome | float | None]
"""("job", it) and ("cancel", None) to a worker; ("progress", fraction), ("outcome", it) and
("cancelled", None) from it."""


def send(stream: BinaryIO, message: Message) -> None:
    """Write a message."""
    pickle.dump(message, stream)
    stream.flush()


def receive(stream: BinaryIO) -> Message:
    """Read a message.

    Raises:
        EOFError: the other side is gone.
    """
    try:
        return pickle.load(stream)
    except (EOFError, pickle.UnpicklingError) as error:
        raise EOFError from error


class Listener:
    """Reads what the parent sends, in a thread of its own, so that it is heard during a job."""

    def __init__(self, requests: BinaryIO):
        self.requests = requests
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self.idle = threading.Event()

    def listen(self) -> None:
        """Read until the parent is gone; then end the process, by force if its job does not look."""
        try:
            while True:
                kind, what = receive(self.requests)
                if kind == "cancel":
                    self.cancelled.set()
                elif isinstance(what, Job):
                    self.cancelled.clear()
                    self.jobs.put(what)
        except EOFError:
            self.cancelled.set()
            self.jobs.put(None)
            if not self.idle.wait(GRACE):
                os._exit(1)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Do the jobs that come until there is nobody to send any."""
    listener = Listener(requests)
    threading.Thread(target=listener.listen, name="requests", daemon=True).start()
    listener.idle.set()
    while (job := listener.jobs.get()) is not None:
        listener.idle.clear()
        began = time.monotonic()
        _do(job, listener, answers)
        if time.monotonic() - began > LONG:
            gc.collect()
        listener.idle.set()


def _do(job: Job, listener: Listener, answers: BinaryIO) -> None:
    last = time.monotonic()

    def progress(fraction: float, text: str, values: dict) -> None:
        nonlocal last
        if listener.cancelled.is_set():
            raise Cancelled
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            send(answers, ("progress", float(fraction)))

    try:
        answer: Message = ("outcome", perform(job, progress))
    except Cancelled:
        answer = ("cancelled", None)
    with contextlib.suppress(OSError):  # nobody listens any more; the listener ends this process
        _answer(answers, job, answer)


def _answer(answers: BinaryIO, job: Job, answer: Message) -> None:
    """Send an answer, or that it can't be sent: nothing may be half-written into the channel."""
    try:
        packed = pickle.dumps(answer)
    except Exception as error:  # whatever pickling calls
        sentence = f"its result can't be sent: {type(error).__name__}: {error}"
        packed = pickle.dumps(("outcome", Outcome(job.name, error=sentence, kind="unexpected")))
    answers.write(packed)
    answers.flush()


def main() -> None:
    """Serve the process that started this one; signals are its business.

    The two channels are moved away from descriptors 0 and 1, so that a library that prints, or a child of
    it that reads, can't come between.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    keep_freed_memory()
    serve(requests, answers)
    sys.stdout.flush()
