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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from RegCore.space.geometry import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can't be removed: that is the lock
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".unfinished-"
LOCK, BEFORE, REPLACED = "lock", "before", "replaced"
NAME = 16  # hexadecimal digits at the end of the name of a private folder
log = logging.getLogger(__name__)


class Scratch:
    """A folder of this process, for its user alone; others see by its lock that it is in use.

    Args:
        parent: the folder that it is made in.
        prefix: what its name begins with.
    """

    def __init__(self, parent: Path, prefix: str = UNFINISHED):
        for attempts_left in range(9, -1, -1):
            self.path = Path(parent) / f"{prefix}{secrets.token_hex(NAME // 2)}"
            self.path.mkdir(mode=0o700)
            self._lock: IO[bytes] | None = None
            try:
                self._begin(self.path / f"{LOCK}.new")
                return
            except FileNotFoundError:  # another run took it, not locked yet, for one that a dead run left
                self.remove()
                if not attempts_left:
                    raise
            except BaseException:
                self.remove()
                raise

    def _begin(self, unlocked: Path) -> None:
        """Lock the folder."""
        self._lock = open(unlocked, "xb")  # noqa: SIM115 - held open on purpose
        _try_lock(self._lock, wait=True)
        if fcntl is None:
            self._lock.close()
            self._lock = open(self.path / LOCK, "xb")  # noqa: SIM115
            unlocked.unlink()
        else:
            os.replace(unlocked, self.path / LOCK)  # under this name it is locked from the first moment

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

    One that was killed while it moved its results is settled first: all of them come to their places, or all
    that it had taken away comes back.

    Returns:
        What was removed.
    """
    removed = []
    for path in _dead(parent, prefix):
        if (path / BEFORE).is_dir() or (path / REPLACED).is_dir():
            with in_turn(path.parent):
                _settle(path)
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
        log.info("%s was left by a run that was killed, and is removed", path)
    return removed


def _dead(parent: Path, prefix: str) -> list[Path]:
    """The private folders that nobody works in any more."""
    found = sorted(Path(parent).glob(f"{prefix}*"))
    return [path for path in found if path.is_dir() and not path.is_symlink() and _left_behind(path)]


def _settle(path: Path) -> None:
    """End the moves of a dead run: forward once all that was there before is away, else back."""
    if (path / REPLACED).is_dir():
        own = (LOCK, f"{LOCK}.new", REPLACED)
        _move_missing([new for new in path.iterdir() if new.name not in own], path.parent)
        shutil.rmtree(path / REPLACED)
    elif (path / BEFORE).is_dir():
        _move_missing(list((path / BEFORE).iterdir()), path.parent)


def _move_missing(paths: list[Path], folder: Path) -> None:
    """Move files into a folder, but those whose name is taken there."""
    for path in paths:
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
    except FileNotFoundError:
        return _never_begun(path)
    except OSError:
        return False


def _never_begun(path: Path) -> bool:
    """Remove a folder whose process was killed before it had locked it; whether that was so.

    One that is alive, and about to lock it, finds that it is gone, and makes another.
    """
    digits, unlocked = path.name[-NAME:], path / f"{LOCK}.new"
    if len(path.name) <= NAME or not set(digits) <= set("0123456789abcdef"):
        return False  # another program's
    try:
        with ExitStack() as stack:
            if unlocked.exists():
                file = stack.enter_context(open(unlocked, "r+b"))
                if not _try_lock(file):
                    return False
                unlocked.unlink()
            path.rmdir()
        return True
    except OSError:
        return False


def _try_lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Lock a file until it is closed, unless another has it or the system has no locks; tell whether.

    Args:
        file: open for writing.
        wait: until another one that has it lets it go.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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

    What is new may be a folder as well, which takes the place of a former one as a whole. First all that was
    there is taken away, then what is new is put there: a process that is killed meanwhile leaves no mixture,
    and `sweep` ends what it had begun.

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
    new = [name for name in names if (side / name).exists()]
    before, replaced = side / BEFORE, side / REPLACED
    before.mkdir()
    with in_turn(folder):
        for path in _dead(folder, UNFINISHED):
            _settle(path)
        try:
            for name in names:
                if os.path.lexists(folder / name):
                    os.replace(folder / name, before / name)
            os.rename(before, replaced)
            for name in new:
                os.replace(side / name, folder / name)
        except BaseException:
            _take_back(side, folder, new)
            raise
    return [folder / name for name in new]


def _take_back(side: Path, folder: Path, new: list[str]) -> None:
    """Undo the moves of `put_in_place`."""
    before, replaced = side / BEFORE, side / REPLACED
    if replaced.is_dir():
        for name in new:
            if not os.path.lexists(side / name) and os.path.lexists(folder / name):
                os.replace(folder / name, side / name)
        os.rename(replaced, before)
    for path in before.iterdir():
        os.replace(path, folder / path.name)


def check_no_folders(folder: Path, names: tuple[str, ...]) -> None:
    """Check that files can get these names in a folder.

    Raises:
        InputError: one of them is a folder.
    """
    for name in names:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise InputError(f"{folder}: the results can't be written, since {name} is a folder there")
