"""How much memory this process has held at most, on Linux, macOS and Windows, and how it keeps it."""

import ctypes
import math
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
GROUPS = (
    (GROUP / "memory.max", GROUP / "memory.current"),
    (GROUP / "memory/memory.limit_in_bytes", GROUP / "memory/memory.usage_in_bytes"),
)

# M_MMAP_THRESHOLD of mallopt, bytes from which on memory is asked for and given back by itself: the greatest
# that there may be. M_TRIM_THRESHOLD, bytes at the end of the heap from which on they are given back.
KEEPING = {-3: 32 * 2**20, -1: 2**31 - 1}


def peak_memory_mib() -> float:
    """Most memory (resident set) that this process has held so far, MiB."""
    if sys.platform == "win32":
        return _of_windows() / 2**20
    if STATUS.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found.group(1)) / 2**10
    return _of_unix() / 2**20


def forget_peak_memory() -> None:
    """Let `peak_memory_mib` begin anew from what is held now, where the system can do that (Linux)."""
    if CLEAR.exists():
        with suppress(OSError):  # a container may forbid it; the peak is then that of the whole process
            CLEAR.write_text("5", encoding="ascii")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees for what it allocates next, where glibc manages it.

    By itself glibc gives much of it back to the system, which then clears each page anew: some 5 % of the
    processor time of a registration. For processes of our own. What the user's environment says about
    malloc holds.

    Returns:
        Whether it does so from now on.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    set_option = _of_glibc("mallopt")
    return bool(set_option) and all(set_option(*option) == 1 for option in KEEPING.items())


def give_back_freed_memory() -> None:
    """Give back to the system what this process has freed and kept, where glibc manages it."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library, None where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None


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


def available_memory_mib() -> float:
    """Memory that programs started now can have, MiB: what the system has free, or a limit on this process.

    The limit is that of the control group (Linux), by which containers and clusters share out machines.
    Infinite where the system does not tell.
    """
    return min(_free_memory(), _room_in_group()) / 2**20


def _free_memory() -> float:
    """Bytes."""
    if MEMORY.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", MEMORY.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found.group(1)) * 2**10
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return 0.7 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def _room_in_group() -> float:
    """Bytes."""
    for limit, used in GROUPS:
        try:
            most, now = (path.read_text(encoding="ascii").strip() for path in (limit, used))
        except OSError:
            continue
        if most.isdigit() and now.isdigit():
            return max(0, int(most) - int(now) + _cached(limit.with_name("memory.stat")))
    return math.inf


def _cached(path: Path) -> int:
    """Bytes of files that a control group keeps in memory as long as nobody needs it."""
    text = path.read_text(encoding="ascii") if path.exists() else ""
    return sum(int(size) for size in re.findall(r"^(?:in)?active_file (\d+)$", text, re.MULTILINE))
