"""Dask clusters of real processes for tests: a scheduler and workers that can be killed one by one."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

from Testing.paths import ROOT


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Cluster:
    """A scheduler and its workers, all processes of their own."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.file = folder / "scheduler.json"
        self.processes = []

    def start(self, *words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

        with open(self.folder / "cluster.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def scheduler(self):
        self.file.unlink(missing_ok=True)
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.master = self.start("dask_scheduler", *words, "--scheduler-file", str(self.file))
        end = time.monotonic() + 60
        while not self.file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return self.master

    def worker(self):
        words = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "60"]
        return self.start("dask_worker", self.address, *words, "--host", "127.0.0.1")


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def cluster(folder, workers=2):
    made = Cluster(folder)
    try:
        made.scheduler()
        for _ in range(workers):
            made.worker()
        yield made
    finally:
        for process in reversed(made.processes):
            process.kill()
            process.wait()
