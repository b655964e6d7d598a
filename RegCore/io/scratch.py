"""Private folders for work that is not finished: removed on every way out, or by the next run after a kill.

Whoever works in one holds a lock on a file in it, which ends with the process, however that ends. So the next
run knows what a dead one left and leaves alone what a living one works in, on this computer or another one
that shares the disk.
"""

import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from RegCore.space.geometry import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can't be removed: that is the lock
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-"
LOCK, BEFORE = "lock", "before"
log = logging.getLogger(__name__)


class Scratch:
    """A folder of this process, for its user alone; others see by its lock that it is in use.

    Args:
        parent: the folder that it is made in.
        prefix: what its name begins with.
    """

    def __init__(self, parent: Path, prefix: str = UNFINISHED):
        self.path = Path(parent) / f"{prefix}{secrets.token_hex(8)}"
        self.path.mkdir(mode=0o700)
        self._lock: IO[bytes] | None = None
        try:
            unlocked = self.path / f"{LOCK}.new"
            self._lock = open(unlocked, "xb")  # noqa: SIM115 - held open on purpose
            _try_lock(self._lock)
            if fcntl is None:
                self._lock.close()
                self._lock = open(self.path / LOCK, "xb")  # noqa: SIM115
                unlocked.unlink()
            else:
                os.replace(unlocked, self.path / LOCK)  # under this name it is locked from the first moment
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        shutil.rmtree(self.path, ignore_errors=True)

    def keep(self, path: Path) -> Path:
        """Give the folder another place, where it stays; it is nobody's private folder any more.

        Raises:
            OSError: it can't be moved there.
        """
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        os.replace(self.path, path)
        for name in (LOCK, f"{LOCK}.new"):
            (path / name).unlink(missing_ok=True)
        return path


@contextmanager
def scratch(parent: Path, prefix: str = UNFINISHED) -> Iterator[Path]:
    """A private folder in another one; it goes with all that is in it. First, what dead runs left there goes.

    Raises:
        OSError: it can't be made.
    """
    sweep(parent, prefix)
    made = Scratch(parent, prefix)
    try:
        yield made.path
    finally:
        made.remove()


def sweep(parent: Path, prefix: str = UNFINISHED) -> list[Path]:
    """Remove the private folders whose process is dead; those of living ones and of others stay.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted(Path(parent).glob(f"{prefix}*")):
        if path.is_dir() and not path.is_symlink() and _left_behind(path):
            _give_back(path / BEFORE, path.parent)
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
            log.info("%s was left by a run that was killed, and is removed", path)
    return removed


def _give_back(before: Path, folder: Path) -> None:
    """Put back what a run that was killed while it moved its results had taken away."""
    for path in before.iterdir() if before.is_dir() else ():
        if not os.path.lexists(folder / path.name):
            os.replace(path, folder / path.name)


def _left_behind(path: Path) -> bool:
    """Whether nobody holds the lock of a private folder; False where that can't be known."""
    try:
        if fcntl is None:
            (path / LOCK).unlink()
            return True
        with open(path / LOCK, "r+b") as file:
            return _try_lock(file)
    except OSError:
        return False


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, unless another has it or the system has no locks; tell whether."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """One process at a time, for the moment in which results are put into a folder.

    Where the system can't lock folders nobody waits.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.debug("%s can't be locked: %s", folder, error)
        yield
    finally:
        os.close(descriptor)


def put_in_place(side: Path, folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Move finished files into a folder: all, or on an error none, and what was there is as it was.

    What is new may be a folder as well, which takes the place of a former one as a whole.

    Args:
        side: a private folder inside, with the new files.
        folder: where they belong.
        names: all that may be there; what is not new is removed.

    Returns:
        The paths of the new files.

    Raises:
        InputError: a folder has the name of a file.
        OSError: a file can't be moved.
    """
    check_no_folders(folder, tuple(name for name in names if not (side / name).is_dir()))
    before = side / BEFORE
    before.mkdir()
    moved: list[str] = []
    with in_turn(folder):
        try:
            for name in names:
                if os.path.lexists(folder / name):
                    os.replace(folder / name, before / name)
                moved.append(name)
                if (side / name).exists():
                    os.replace(side / name, folder / name)
        except BaseException:
            for name in moved:
                if not (side / name).exists() and os.path.lexists(folder / name):
                    os.replace(folder / name, side / name)
                if os.path.lexists(before / name):
                    os.replace(before / name, folder / name)
            raise
    return [folder / name for name in names if (folder / name).exists()]


def check_no_folders(folder: Path, names: tuple[str, ...]) -> None:
    """Check that files can get these names in a folder.

    Raises:
        InputError: one of them is a folder.
    """
    for name in names:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise InputError(f"{folder}: the results can't be written, since {name} is a folder there")
