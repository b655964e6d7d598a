"""Many registrations one after the other: the pairs of a folder, volumes of the scene, a sequence."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError
from RegCore.studies.manifest import SIDE_FILES
from RegCore.training.presets import VOLUMES

from . import process
from .run import Question, Run

Start = Callable[["Item", Callable, Callable], Run]
"""start(item, progress, done) begins the registration of an item."""


@dataclass
class Item:
    """One registration of many. `result` or `error` is there once it is over; both None: not begun.

    what: the files by "fixed", "moving", "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "out";
    or a node; or a place.
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


ROLES = {"images": "", "labels": "_labels", "masks": "_mask"}  # folders of a side, and what their files are


def pairs_in(folder: Path, out: Path, fixed: str = "") -> list[Item]:
    """The registrations that a folder stands for, one for each moving image, in the order of their names.

    A folder with fixed_images and moving_images, and perhaps fixed_labels and moving_labels, fixed_masks and
    moving_masks, holds pairs of files of the same names. Any other one holds moving images (or its folder
    `images` does), all for `fixed`; what belongs to an image lies beside it, see `_beside`.
    Raises InputError if there is nothing to register.
    """
    if (folder / "fixed_images").is_dir() and (folder / "moving_images").is_dir():
        files = _pairs(folder)
    else:
        place = folder / "images" if _volumes(folder / "images") else folder
        found = _beside(place)
        if not found:
            raise InputError(
                _("{folder}: this folder holds neither images nor fixed_images and moving_images").format(
                    folder=folder
                )
            )
        if not fixed:
            raise InputError(
                _("{folder}: choose a fixed image that these {count} are registered to").format(
                    folder=folder, count=len(found)
                )
            )
        stays = Path(fixed).resolve()
        beside = _beside(Path(fixed).parent).values()
        to = next((there for there in beside if there[""].resolve() == stays), {"": Path(fixed)})
        files = {name: _pair(to, mine) for name, mine in found.items() if mine[""].resolve() != stays}
        if not files:
            raise InputError(_("{folder}: there is no image besides the fixed one").format(folder=folder))
    return [Item(name, files[name] | {"out": str(out / name)}) for name in sorted(files)]


def _pairs(folder: Path) -> dict[str, dict]:
    """The pairs of a folder in DeepReg's layout, by their names."""
    sides = {
        side: {role: _volumes(folder / f"{side}_{kind}") for kind, role in ROLES.items()}
        for side in ("fixed", "moving")
    }
    names = sorted(set(sides["fixed"][""]) & set(sides["moving"][""]))
    if not names:
        raise InputError(
            _("{folder}: no file of moving_images is called like one of fixed_images").format(folder=folder)
        )

    def of(side: str, name: str) -> dict[str, Path]:
        return {role: files[name] for role, files in sides[side].items() if name in files}

    return {name: _pair(of("fixed", name), of("moving", name)) for name in names}


def _pair(fixed: dict[str, Path], moving: dict[str, Path]) -> dict[str, str]:
    """Both sides' files as an item has them; labels only where both sides have some."""
    sides = {"fixed": fixed, "moving": moving}
    return {
        f"{side}{role}": str(path)
        for side, files in sides.items()
        for role, path in files.items()
        if role != "_labels" or all(role in other for other in sides.values())
    }


def _beside(folder: Path) -> dict[str, dict[str, Path]]:
    """The images in a folder by their names, each with what belongs to it by the values of `ROLES`.

    That is a file beside `scan.nii.gz` called `scan_seg.nii.gz` or `scan.seg.nrrd`, or `scan_mask.nii.gz`.
    """
    names = {
        f"{name.removesuffix('.seg')}_seg" if name.endswith(".seg") else name: path
        for name, path in _volumes(folder).items()
    }
    roles = {"seg": "_labels", "mask": "_mask"}
    sides = {f"{name}_{end}": (name, roles[SIDE_FILES[end]]) for name in names for end in SIDE_FILES}
    found = {name: {"": path} for name, path in names.items() if name not in sides}
    for name in sorted(set(names) & set(sides)):
        image, role = sides[name]
        if image in found:
            found[image].setdefault(role, names[name])
    return found


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
