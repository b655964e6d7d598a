"""A stand-in for the Slicer application, for tests: real MRML, real Qt, Slicer's Python names around them.

Importing this package imports neither; `start()` does, once per process.
"""

from .host import Host, LoadedModule, missing_reason

__all__ = ["Host", "LoadedModule", "missing_reason", "start"]

_host = None


def start():
    """The host of this process. RuntimeError with the reason where slicer-core or PySide6 is absent."""
    global _host
    if _host is None:
        reason = missing_reason()
        if reason:
            raise RuntimeError(reason)
        _host = Host()
    return _host
