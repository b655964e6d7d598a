"""The peak memory of a process: it grows with what is held, and each system is asked in its own way."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from RegCore.evaluation import memory
from RegCore.evaluation.memory import peak_memory_mib
from Testing.paths import ROOT


def test_the_peak_grows_by_what_is_held_and_stays_when_that_is_gone():
    before = peak_memory_mib()
    size = int(before * 2**20) + 64 * 2**20  # more than was ever held, so that the peak must rise
    held = np.ones(size, np.uint8)
    peak = peak_memory_mib()
    assert size / 2**20 <= peak < before + size / 2**20 + 50
    del held
    assert peak_memory_mib() == pytest.approx(peak, abs=1)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="only Linux tells apart what the parent held")
def test_what_the_parent_held_does_not_count():
    code = "from RegCore.evaluation.memory import peak_memory_mib; print(peak_memory_mib())"
    held = np.ones(200 * 2**20, np.uint8)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert held.nbytes / 2**20 > float(done.stdout) > 1


FAULTS = """
import ctypes, resource, sys
from RegCore.evaluation.memory import give_back_freed_memory, keep_freed_memory
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def new_pages(size=24 * 2**20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        free(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / size

kept = keep_freed_memory() if "keep" in sys.argv else None
found = [new_pages() for _ in range(3)]
give_back_freed_memory()
print(kept, found[-1], new_pages())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is that of Linux")
@pytest.mark.parametrize(
    ("words", "environment", "kept", "cleared"),
    [
        ([], {}, "None", 4),
        (["keep"], {}, "True", 0),
        (["keep"], {"MALLOC_TRIM_THRESHOLD_": "100000"}, "False", 4),
    ],
)
def test_kept_memory_is_not_cleared_again_until_it_is_given_back(words, environment, kept, cleared):
    """Blocks of memory, of four, whose pages the system had to clear anew; then after all was given back."""
    usual = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        cwd=ROOT,
        env=usual | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, again, afterwards = done.stdout.split()
    assert said == kept
    assert float(again) == pytest.approx(cleared, abs=0.5)
    assert float(afterwards) == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_nothing_is_kept(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    assert not memory.keep_freed_memory()
    memory.give_back_freed_memory()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize(("system", "unit"), [("darwin", 1), ("linux", 1024)])
def test_without_proc_getrusage_is_asked_in_the_unit_of_the_system(monkeypatch, tmp_path, system, unit):
    import resource

    class Usage:
        ru_maxrss = 300 * 2**20 // unit

    monkeypatch.setattr(memory, "STATUS", tmp_path / "nothing")
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage if who == resource.RUSAGE_SELF else None)
    assert peak_memory_mib() == 300


class Kernel:
    """Stands in for kernel32: fills the structure as documented, offsets given by hand."""

    succeeds = 1

    def __init__(self, name, use_last_error=False):
        assert name == "kernel32"
        self.GetCurrentProcess = lambda: -1
        self.K32GetProcessMemoryInfo = self._filling()

    def _filling(self):
        def fill(process, pointer, size):
            word = ctypes.sizeof(ctypes.c_size_t)
            assert process == -1 and size == 8 + 8 * word  # PROCESS_MEMORY_COUNTERS: 2 DWORD, 8 SIZE_T
            address = ctypes.addressof(pointer._obj)
            ctypes.c_size_t.from_address(address + 8).value = 5 * 2**30
            return self.succeeds

        return fill


def test_windows_is_asked_for_the_peak_working_set(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", Kernel, raising=False)
    assert peak_memory_mib() == 5 * 1024


def test_a_refusal_of_windows_is_not_taken_for_a_figure(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", Kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 5, raising=False)
    monkeypatch.setattr(ctypes, "WinError", lambda code: OSError(code, "access denied"), raising=False)
    monkeypatch.setattr(Kernel, "succeeds", 0)
    with pytest.raises(OSError, match="access denied"):
        peak_memory_mib()


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        ("import runpy; runpy.run_module('RegCore', run_name='__main__')", True),
        ("import RegCore.studies.worker as worker; worker.main()", True),
        ("import RegCore.cli; RegCore.cli.main(['--help'])", False),
    ],
)
def test_processes_of_our_own_keep_their_memory(run, kept):
    say = "from RegCore.evaluation import memory; memory.keep_freed_memory = lambda: print('it is kept')"
    done = subprocess.run(
        [sys.executable, "-c", f"{say}\n{run}", "--help"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("it is kept" in done.stdout + done.stderr) == kept
