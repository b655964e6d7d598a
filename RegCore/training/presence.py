"""What other processes see of a training that is under way in a folder, and how they ask it to stop.

.running    locked by the training; the newest progress as JSON, written at most twice a second
.ended      how the last training in the folder ended, as JSON
.stop       made by who wants the training to stop after its step

Needs no torch: Slicer's panel looks into it.
"""

import errno
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, TextIO

from RegCore.space.geometry import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can't be removed: that is the lock
    fcntl = None  # type: ignore[assignment]

RUNNING, ENDED, STOP = ".running", ".ended", ".stop"
STOPPED, FAILED = "stopped", "failed"
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
TELL_EVERY = 0.5  # seconds
TRIES, PAUSE = 5, 0.05  # of taking the lock, which who looks at a folder holds for a moment
log = logging.getLogger(__name__)


class Presence:
    """A training's place in its folder: nobody else trains there until `release`.

    The lock is not inherited by processes that read data, so it ends with this one even if it is killed. It
    is for other processes: the one that trains must not look at its own folder with `seen`.

    Args:
        folder: of the training.

    Raises:
        InputError: another training is running there, or nothing can be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._told = -TELL_EVERY
        self._file: TextIO | None = self._locked()
        self._before = str(_content(folder / ENDED).get("ended", ""))
        try:
            for name in (ENDED, STOP):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _not_writable(folder, error) from None

    def _locked(self) -> TextIO | None:
        """The file, locked; None where it can't be made, so that nothing is held."""
        for attempts_left in range(TRIES - 1, -1, -1):
            try:
                return _take(self.folder / RUNNING)
            except BlockingIOError:
                if not attempts_left:
                    raise InputError(
                        f"{self.folder}: another training is running in this folder; wait for its end, or"
                        " choose another name"
                    ) from None
            except OSError as error:
                if error.errno in NOT_WRITABLE:
                    raise _not_writable(self.folder / RUNNING, error) from None
                log.warning("%s: other trainings can't be kept out of it: %s", self.folder, error)
                return None
            time.sleep(PAUSE)
        return None

    def tell(self, fraction: float, stage: str, values: dict[str, Any], *, always: bool = False) -> None:
        """Write down how far the training is, unless that was done just now."""
        now = time.monotonic()
        if self._file is None or (now - self._told < TELL_EVERY and not always):
            return
        self._told = now
        plain = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
        _write(self._file, {"fraction": fraction, "stage": stage, "values": plain})

    def asked_to_stop(self) -> bool:
        """Whether somebody called `ask_to_stop` for this training."""
        return (self.folder / STOP).exists()

    def release(self, ended: str) -> None:
        """Let others into the folder.

        Args:
            ended: ``finished``, ``stopped early``, ``stopped``, ``failed``, or a sentence on why it failed.
        """
        if self._file is None:
            return
        _write(self._file, {"ended": ended})
        if fcntl is None:
            self._file.close()
        try:
            os.replace(self.folder / RUNNING, self.folder / ENDED)
            (self.folder / STOP).unlink(missing_ok=True)
        except OSError as error:
            log.debug("%s can't be put in place: %s", self.folder / ENDED, error)
        self._file.close()
        self._file = None

    def give_back(self, reason: str) -> None:
        """Let others into the folder without having trained: it says again how the training before ended.

        Args:
            reason: what it says where there was none before.
        """
        self.release(self._before or reason)


def _not_writable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: a training can't run in a folder that can't be written to ({error.strerror})")


def _write(file: TextIO, told: dict[str, Any]) -> None:
    """Replace what a file says."""
    try:
        file.seek(0)
        file.write(json.dumps(told))
        file.truncate()
        file.flush()
    except OSError as error:  # a full disk, say: the training goes on
        log.debug("%s can't be written: %s", file.name, error)


def _take(path: Path) -> TextIO:
    """Open the file, made if need be, and lock it until it is closed. BlockingIOError: another has it."""
    if fcntl is None:
        _removed(path)
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
    try:
        if fcntl is not None:
            _lock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_ino != os.stat(path).st_ino:  # released in this very moment
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except FileNotFoundError:
        file.close()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    except BaseException:
        file.close()
        raise
    return file


def _lock(file: TextIO, kind: int) -> None:
    """Lock an open file. BlockingIOError where another has it: with one error number or with the other."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except PermissionError as error:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


def _removed(path: Path) -> None:
    """Remove a file on Windows. BlockingIOError where another has it open."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error


def seen(folder: Path) -> dict[str, Any] | None:
    """What another process that trains in a folder told last; None if there is none.

    Args:
        folder: of the training.

    Returns:
        "fraction", "stage" and "values" as a `Progress` gets them; an empty dict where it told nothing yet.
    """
    path = folder / RUNNING
    if not path.is_file():
        return None
    try:
        if fcntl is None:
            _removed(path)
        else:
            with open(path, encoding="utf-8") as file:  # also where one may only read it
                _lock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        told = _content(path)
        return told if "stage" in told else {}
    except OSError:
        return None
    return None


def ended(folder: Path) -> str:
    """How the last training in a folder ended, see `Presence.release`; ``failed`` if it was killed."""
    return str(_content(folder / ENDED).get("ended", FAILED))


def ask_to_stop(folder: Path) -> None:
    """Ask the training in a folder to stop after its step, with a checkpoint.

    Raises:
        InputError: the folder can't be written to.
    """
    try:
        (folder / STOP).touch()
    except OSError as error:
        raise InputError(
            f"{folder}: the training can't be asked to stop, since nothing can be written here"
            f" ({error.strerror})"
        ) from None


def _content(path: Path) -> dict[str, Any]:
    """What a file says; nothing where it is not there or being written just now."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
