"""Many registrations one after the other: the pairs of a folder, volumes of the scene, a sequence."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from RegCore.space.geometry import InputError
from RegCore.training.presets import VOLUMES

from . import process
from .run import Question, Run

Start = Callable[["Item", Callable, Callable], Run]
"""start(item, progress, done) begins the registration of an item."""


@dataclass
class Item:
    """One registration of many. `result` or `error` is there once it is over; both None: not begun.

    what: the files by "fixed", "moving", "fixed_labels", "moving_labels", "out"; or a node; or a place.
    """

    name: str
    what: object
    result: object = None
    error: Exception | None = None


class Batch:
    """Works through items; a failure of one is noted, and the next one begun."""

    def __init__(self, items: list[Item], start: Start, changed: Callable, done: Callable):
        """Begins at once. changed(fraction) is called as it goes on, done() at the end."""
        self.items = items
        self.cancelled = False
        self._start, self._changed, self._done = start, changed, done
        self._run: Run | None = None
        self._place = -1
        self._next()

    @property
    def running(self) -> bool:
        """Whether there is something left to do."""
        return self._place < len(self.items)

    def cancel(self) -> None:
        """Stop the item that is under way, and begin no other."""
        self.cancelled = True
        if self._run is not None:
            self._run.cancel()

    def _next(self) -> None:
        self._place += 1
        while self._place < len(self.items) and not self.cancelled:
            try:
                self._run = self._start(self.items[self._place], self._on_progress, self._on_done)
                return
            except (InputError, process.WorkerError) as error:
                self.items[self._place].error = error
                self._changed((self._place + 1) / len(self.items))
            self._place += 1
        self._place, self._run = len(self.items), None
        self._done()

    def _on_progress(self, fraction: float, stage: str, values: dict) -> None:
        self._changed((self._place + fraction) / len(self.items))

    def _on_done(self, run: Run) -> None:
        item = self.items[self._place]
        item.result, item.error = run.result, run.error
        self._changed((self._place + 1) / len(self.items))
        self._next()


def pairs_in(folder: Path, out: Path, fixed: str = "") -> list[Item]:
    """The registrations that a folder stands for, one for each moving image, in the order of their names.

    A folder with fixed_images and moving_images, and perhaps fixed_labels and moving_labels, holds pairs of
    files of the same names. Any other one holds moving images (or its folder `images` does), all for `fixed`.
    Raises InputError if there is nothing to register.
    """
    if (folder / "fixed_images").is_dir() and (folder / "moving_images").is_dir():
        sides = {kind: _volumes(folder / kind) for kind in ("fixed_images", "moving_images")}
        names = sorted(set(sides["fixed_images"]) & set(sides["moving_images"]))
        if not names:
            raise InputError(f"{folder}: no file of moving_images is called like one of fixed_images")
        files = [{kind[:-7]: str(sides[kind][name]) for kind in sides} for name in names]
        labels = {kind: _volumes(folder / kind) for kind in ("fixed_labels", "moving_labels")}
        for name, item in zip(names, files, strict=True):
            if all(name in side for side in labels.values()):
                item |= {kind: str(side[name]) for kind, side in labels.items()}
    else:
        images = _volumes(folder / "images") or _volumes(folder)
        names = sorted(images)
        if not names:
            raise InputError(f"{folder}: this folder holds neither images nor fixed_images and moving_images")
        if not fixed:
            raise InputError(f"{folder}: choose a fixed image that these {len(names)} are registered to")
        files = [{"fixed": fixed, "moving": str(images[name])} for name in names]
    return [Item(n, f | {"out": str(out / n)}) for n, f in zip(names, files, strict=True)]


def _volumes(folder: Path) -> dict[str, Path]:
    """The volumes in a folder by their names without ending."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    found = {}
    for name in names:
        ending = next(
            (end for end in sorted(VOLUMES, key=len, reverse=True) if name.lower().endswith(end)), ""
        )
        if ending:
            found[name[: -len(ending)]] = folder / name
    return found


def start_files(options: dict) -> Start:
    """Registers files; options: those of `RegCore.cli.tasks.files_command` besides the files."""

    def start(item: Item, progress, done) -> Run:
        return Question(process.shared_worker(), "files", {**item.what, **options}, progress, done)

    return start
