"""The models on this computer: those imported, those of trainings in the results folder, those that ship."""

import logging
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from RegCore.space.geometry import InputError

from .paths import resource
from .training import model_in

ENDING = ".pt"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A model. name: to show. path: of its file. own: whether it was imported, so that it can be deleted.

    shipped: whether it came with the extension.
    """

    name: str
    path: Path
    own: bool
    shipped: bool = False


def models_folder() -> Path:
    """Where imported models are; the folder need not exist."""
    return Path.home() / "DeepRegSlicer" / "models"


def models(results: Path) -> list[Entry]:
    """The imported models, the best one of each training in the folder `results`, those of the extension."""
    own = [Entry(path.stem, path, True) for path in _listed(models_folder()) if path.suffix == ENDING]
    trained = ((folder.name, model_in(folder)) for folder in _listed(results) if folder.is_dir())
    shipped = [path for path in _listed(resource("Models")) if path.suffix == ENDING]
    own += [Entry(name, path, False) for name, path in trained if path is not None]
    return own + [Entry(path.stem, path, False, shipped=True) for path in shipped]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.stem)
    except OSError as error:
        log.debug("%s can't be listed: %s", folder, error)
        return []


def place_for(path: Path) -> Path:
    """A file for an imported model that is not there yet, named like the one given."""
    folder, stem = models_folder(), path.parent.parent.name if path.stem in ("best", "last") else path.stem
    names = [stem or "model", *(f"{stem}-{number}" for number in range(2, 1000))]
    return next(folder / f"{name}{ENDING}" for name in names if not (folder / f"{name}{ENDING}").exists())


def free_file(typed: str, name: str) -> Path:
    """The file that a model is to be exported to: the path that was typed, or the name in that folder.

    Raises InputError if there is a file already, which is not overwritten.
    """
    if not typed:
        raise InputError(_("Choose a file for the model."))
    path = Path(typed)
    if path.is_dir():
        path = path / f"{name}{ENDING}"
    elif path.suffix != ENDING:
        path = path.with_name(f"{path.name}{ENDING}")
    if path.exists():
        raise InputError(
            _("{path}: there is a file of this name already; choose another one.").format(path=path)
        )
    return path


def delete(entry: Entry) -> None:
    """Delete an imported model. Raises InputError for another one, or if the file can't be deleted."""
    if entry.shipped:
        raise InputError(_("'{name}' comes with the extension.").format(name=entry.name))
    if not entry.own:
        raise InputError(
            _("'{name}' belongs to a training; delete its folder {parent}.").format(
                name=entry.name, parent=entry.path.parent.parent
            )
        )
    try:
        entry.path.unlink()
    except OSError as error:
        raise InputError(
            _("{path}: the model can't be deleted ({reason})").format(
                path=entry.path, reason=error.strerror or error
            )
        ) from error
