"""Measures a command as a whole process: processor seconds, wall and peak memory, of it and its children."""

import json
import os
import subprocess
import sys
from pathlib import Path

THREADS = 2
# A process starts with the peak memory of the one that starts it: so it is this small one that does.
_LAUNCHER = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
try:
    code = subprocess.run(sys.argv[2:], stdout=sys.stderr, timeout=float(sys.argv[1])).returncode
except subprocess.TimeoutExpired:
    code = 124
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({"code": code, "wall": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime,
                  "mib": used.ru_maxrss / unit}))
"""


def environment() -> dict[str, str]:
    """That of the children: so many threads, and each program's own way of waiting for them."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return rest | {name: str(THREADS) for name in names}


def measured(command: list[str], folder: Path, limit: float = 3600.0, **variables: str) -> dict:
    """Run a command in a folder.

    Args:
        command: program and arguments.
        folder: to run in; ``log.txt`` there gets all that the command prints.
        limit: seconds after which it is ended; its exit code is 124 then.
        variables: further ones of the environment.

    Returns:
        ``code``, ``wall`` and ``cpu`` in seconds, ``mib``.
    """
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, str(limit), *command]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        done = subprocess.run(
            launcher,
            cwd=folder,
            env=environment() | variables,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=True,
        )
    return json.loads(done.stdout)
