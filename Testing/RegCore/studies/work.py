"""Jobs for tests, to be imported by worker processes."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from RegCore.space.geometry import InputError


def doubled(arguments, progress):
    """Twice the number."""
    return 2 * arguments["n"]


def process(arguments, progress):
    """Which process this is, and how many threads it may use."""
    time.sleep(0.05)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def fails(arguments, progress):
    """Raises what is asked for."""
    raise {"input": InputError("the input is wrong"), "memory": MemoryError()}.get(
        arguments["kind"], ValueError("no good")
    )


def prints(arguments, progress):
    """Writes to where the messages of the channel would go, and reads from there."""
    os.write(1, b"this is no message\n")
    return os.read(0, 100), np.arange(3)


def unpicklable(arguments, progress):
    """A result that can't be sent."""
    return lambda: None


def dies(arguments, progress):
    """Kills its own process as often as is asked for; each time leaves a mark in a file."""
    marks = Path(arguments["marks"])
    with marks.open("a") as file:
        file.write("x")
    if len(marks.read_text()) <= arguments["times"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(marks.read_text())


def slow(arguments, progress):
    """Takes long, looking at its progress or not; tells in a file that it began, and that it ended."""
    log = Path(arguments["log"])
    with log.open("a") as file:
        file.write("began\n")
    for step in range(600):
        time.sleep(0.1)
        if arguments.get("looks", True):
            progress(step / 600, "waiting", {})
    with log.open("a") as file:
        file.write("ended\n")
