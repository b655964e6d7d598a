"""Result folders of jobs: each appears whole, with a record of what it was made of.

The record, ``record.json``, says whether the job is done or failed, and of which inputs, settings and version
of this program it was made, so that a later run knows what is still to be done.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import RegCore
from RegCore.io.files import atomic_write, digest, size_and_time
from RegCore.space.geometry import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECORD = "record.json"
UNFINISHED, REPLACED, LOCK = ".unfinished-", ".replaced-", ".running"
DONE, FAILED = "done", "failed"

Record = dict[str, Any]
"""The keys "name", "status" (`DONE`, `FAILED`), "error", "version", "settings", "inputs"; jobs add others."""


def new_record(name: str, inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> Record:
    """What is known of a job before it is done; to be made before its inputs are read.

    Args:
        name: of the job.
        inputs: files and folders that are read, by their roles.
        settings: everything else that the result depends on, as JSON can say it.
    """
    states = {role: _with_hash(path) for role, path in inputs.items()}
    same = json.loads(json.dumps(settings))
    return {
        "name": name,
        "status": DONE,
        "error": "",
        "version": RegCore.__version__,
        "settings": same,
        "inputs": states,
    }


def difference(record: Record, inputs: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    """What is different now from what a record says: "input", "settings" or "version"; "" if nothing is.

    An input is the same if its size and time are, or else its content: files that were copied or touched do
    not count as changed.

    Args:
        record: of an earlier run.
        inputs, settings: as for `new_record`, now.
    """
    if record.get("version") != RegCore.__version__:
        return "version"
    if record.get("settings") != json.loads(json.dumps(settings)):
        return "settings"
    known = record.get("inputs", {})
    same = set(known) == set(inputs) and all(_is_same(known[role], inputs[role]) for role in inputs)
    return "" if same else "input"


def _is_same(known: Mapping[str, Any], path: Path) -> bool:
    try:
        size, time = size_and_time(path)
        if size != known.get("size"):
            return False
        return time == known.get("mtime_ns") or digest(path) == known.get("sha256")
    except OSError:
        return known.get("size") is None  # it could not be read then either


def _with_hash(path: Path) -> dict[str, Any]:
    try:
        size, time = size_and_time(path)
        return {"path": str(path), "size": size, "mtime_ns": time, "sha256": digest(path)}
    except OSError:
        return {"path": str(path), "size": None, "mtime_ns": None, "sha256": None}


def read_record(folder: Path) -> Record | None:
    """The record of a result folder; None where there is none, or one that can't be read."""
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("status") in (DONE, FAILED) else None


@contextmanager
def whole_folder(folder: Path, record: Record) -> Iterator[Path]:
    """Give a folder to write results into; it becomes `folder` when all went well, else it is removed.

    What `folder` was is replaced, unless a twin of this job, on a worker that was taken for lost, has just
    brought the same: then that stays, and this is thrown away.

    Args:
        folder: where the results are to be; its parent is made if need be.
        record: written into the folder at the end; what is put into it meanwhile is written as well.

    Raises:
        InputError: the folder can't be written.
    """
    folder = Path(folder)
    side = folder.with_name(f"{UNFINISHED}{secrets.token_hex(4)}")
    try:
        side.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error
    try:
        yield side
        _finish(side, folder, record)
    except OSError as error:
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(side, ignore_errors=True)


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a folder, or replace it.

    Raises:
        InputError: it can't be written.
    """
    with atomic_write(folder / RECORD) as side:
        side.write_text(_text(record), encoding="utf-8")


def _text(record: Record) -> str:
    return json.dumps(record, indent=1, allow_nan=False, default=str) + "\n"


def _finish(side: Path, folder: Path, record: Record) -> None:
    (side / RECORD).write_text(_text(record), encoding="utf-8")
    _put_in_place(side, folder, record)


def _put_in_place(side: Path, folder: Path, record: Record) -> None:
    """Rename a finished folder; one that stands in the way is moved aside first and then removed."""
    for _ in range(100):
        try:
            os.rename(side, folder)
            return
        except OSError as error:
            if not folder.exists() or error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
        there = read_record(folder)
        if there is None and folder.exists():
            raise InputError(f"{folder}: is in the way, and holds no record of an earlier run; remove it")
        if there is not None and there["status"] == DONE and made_of(there) == made_of(record):
            return
        aside = folder.with_name(f"{REPLACED}{secrets.token_hex(4)}")
        try:
            os.rename(folder, aside)
        except FileNotFoundError:  # a twin was faster
            continue
        shutil.rmtree(aside, ignore_errors=True)
    raise InputError(f"{folder}: the results can't be written, others write there as well")


def made_of(record: Record) -> tuple:
    """What makes two results the same: their inputs by content, settings and version."""
    hashes = {role: state.get("sha256") for role, state in record.get("inputs", {}).items()}
    return hashes, record.get("settings"), record.get("version")


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs left behind in a folder of result folders."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.startswith((UNFINISHED, REPLACED)):
                shutil.rmtree(entry.path, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder and keep other runs out of it; the end of this process, however it comes, opens it again.

    Where the system knows no such locks nothing is held.

    Raises:
        InputError: another run is in the folder, or it can't be made.
    """
    lock = _locked(folder)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.close()


def _locked(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a")  # noqa: SIM115 - held open on purpose
    except OSError as error:
        raise InputError(f"{folder}: the results can't be written ({error.strerror or error})") from error
    try:
        if fcntl is not None:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            lock.close()
            raise InputError(f"{folder}: another run is at work in this folder; wait for its end") from None
    return lock
