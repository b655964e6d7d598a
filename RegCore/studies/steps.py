"""Steps of a long command, kept in the folder of its results, so that a later call goes on from there.

Each step is a result folder with a record, as a pair of a study is, in the hidden folder ``.steps``; a record
of the whole says of which inputs and settings the results are, or were to be.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RegCore.io import messages
from RegCore.studies.folders import (
    DONE,
    FAILED,
    LOCK,
    RECORD,
    Record,
    difference,
    held,
    made_of,
    new_record,
    read_record,
    remove_unfinished,
    whole_folder,
    write_record,
)

STEPS = ".steps"
"""The folder of the steps, in that of the results."""
VALUES = "values.npz"
CHANGED = {
    "input": "an input has changed since the earlier run; what depends on it is done anew",
    "settings": "the settings have changed since the earlier run; what depends on them is done anew",
    "version": "the earlier run was of another version of this program; all is done anew",
}


@dataclass(frozen=True)
class KeptStep:
    """A piece of work whose values are kept.

    Args:
        folder: of the values; it appears whole.
        record: of what they are made, see `RegCore.studies.folders.new_record`.
    """

    folder: Path
    record: Record

    def read(self) -> dict[str, Any] | None:
        """The values, if they were made of the same inputs, settings and version; else None."""
        known = read_record(self.folder)
        if known is None or known["status"] != DONE or made_of(known) != made_of(self.record):
            return None
        try:
            return messages.read(self.folder / VALUES)
        except (OSError, ValueError, KeyError):  # damaged
            shutil.rmtree(self.folder, ignore_errors=True)
            return None

    def write(self, values: dict[str, Any]) -> dict[str, Any]:
        """Keep values that `RegCore.io.messages.write` knows, and give them as a later call will read them.

        Raises:
            InputError: they can't be written.
        """
        with whole_folder(self.folder, self.record) as side:
            messages.write(side / VALUES, values)
        return messages.read(self.folder / VALUES)


def kept(step: KeptStep | None, make: Callable[[], Any]) -> Any:
    """The value of a step, made and kept if it is not there yet.

    Args:
        step: None keeps nothing.
        make: makes the value, which `RegCore.io.messages.write` must know.

    Raises:
        InputError: it can't be written.
    """
    if step is None:
        return make()
    values = step.read() or step.write({"value": make()})
    return values["value"]


class Steps:
    """What is kept of a command whose results go into a folder.

    Args:
        out: folder of the results.
        inputs: every file and folder that the results depend on, by role.
        settings: everything else that they depend on, as JSON can say it.
        reading: how the inputs are read, on which every step depends.
    """

    def __init__(
        self,
        out: Path,
        inputs: Mapping[str, Path],
        settings: Mapping[str, Any],
        reading: Mapping[str, Any] | None = None,
    ):
        self.out = Path(out).absolute()
        self.folder = self.out / STEPS
        self.inputs = {role: Path(path).absolute() for role, path in inputs.items()}
        self.reading = dict(reading or {})
        self.settings = {**settings, **self.reading}
        self._record: Record = {}
        self._writing = False

    def finished(self) -> bool:
        """Whether the results are there, of the same inputs, settings and version."""
        known = read_record(self.folder)
        if known is None or known["status"] != DONE or difference(known, self.inputs, self.settings):
            return False
        return all((self.out / name).exists() for name in known.get("files", ()))

    @contextmanager
    def opened(self, tell: Callable[[str], None]) -> Iterator["Steps"]:
        """Keep other runs out, and note what is to be made; where no step is done at the end nothing stays.

        To be entered before the inputs are read.

        Args:
            tell: told in a sentence what is there of an earlier run.

        Raises:
            InputError: another run is in the folder, or it can't be written.
        """
        with self._cleared(), held(self.folder):
            remove_unfinished(self.folder)
            before, self._record = read_record(self.folder), new_record("", self.inputs, self.settings)
            if before is not None and (sentence := self._in_words(before)):
                tell(sentence)
            begun = {**self._record, "status": FAILED, "error": "stopped before its end"}
            write_record(self.folder, begun)
            steps = self._names()
            try:
                yield self
            except BaseException:
                if before is not None and self._names() == steps and not self._writing:  # nothing is lost
                    write_record(self.folder, before)
                raise

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_dir()}

    @contextmanager
    def _cleared(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= {RECORD, LOCK}:
                if (read_record(self.folder) or {}).get("status") != DONE:
                    (self.folder / RECORD).unlink(missing_ok=True)
                with suppress(OSError):
                    self.folder.rmdir()

    def _in_words(self, before: Record) -> str:
        """What there is of an earlier run."""
        if reason := difference(before, self.inputs, self.settings):
            return CHANGED[reason]
        count = len(self._names())
        return f"an earlier run was stopped; {count} of its steps are kept" if count else ""

    def step(self, name: str, settings: Mapping[str, Any], roles: Iterable[str]) -> KeptStep:
        """A step, whether it is done or not.

        Args:
            name: of its folder; it differs from all others.
            settings: everything that its values depend on besides inputs.
            roles: of the inputs that they depend on; those that were not given do not count.
        """
        states = self._record["inputs"]
        about: Record = {"inputs": {role: states[role] for role in roles if role in states}}
        about |= {"name": name, "settings": json.loads(json.dumps({**settings, **self.reading}))}
        return KeptStep(self.folder / name, {**self._record, **about})

    def keep_only(self, names: Sequence[str] = ()) -> None:
        """Remove all steps but those of these names."""
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def finish(self, write: Callable[[], list[str]]) -> list[str]:
        """Write the results, and note that they are there.

        Args:
            write: writes them, and gives their names.

        Returns:
            The names.

        Raises:
            InputError: they can't be written.
        """
        self._writing = True
        files = write()
        write_record(self.folder, {**self._record, "files": files})
        return files
