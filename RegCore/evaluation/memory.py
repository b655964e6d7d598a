"""How much memory this process has held at most, on Linux, macOS and Windows."""

import ctypes
import re
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def peak_memory_mib() -> float:
    """Most memory (resident set) that this process has held so far, MiB."""
    if sys.platform == "win32":
        return _of_windows() / 2**20
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found.group(1)) / 2**10
    return _of_unix() / 2**20


def _of_unix() -> int:
    """Bytes. On Linux only the last resort: there it begins with what the parent held at the start."""
    import resource  # Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def _of_windows() -> int:
    """Bytes: PeakWorkingSetSize of GetProcessMemoryInfo."""

    class Counters(ctypes.Structure):
        _fields_ = [("cb", ctypes.c_uint32), ("PageFaultCount", ctypes.c_uint32)]
        _fields_ += [("PeakWorkingSetSize", ctypes.c_size_t), ("others", ctypes.c_size_t * 7)]

    windows: Any = ctypes  # these names are there on Windows only
    kernel = windows.WinDLL("kernel32", use_last_error=True)
    process, ask = kernel.GetCurrentProcess, kernel.K32GetProcessMemoryInfo
    process.restype = ctypes.c_void_p
    ask.argtypes = [ctypes.c_void_p, ctypes.POINTER(Counters), ctypes.c_uint32]
    ask.restype = ctypes.c_int
    counters = Counters(cb=ctypes.sizeof(Counters))
    if not ask(process(), ctypes.byref(counters), counters.cb):
        raise windows.WinError(windows.get_last_error())
    return counters.PeakWorkingSetSize
