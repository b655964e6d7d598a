"""Trains networks, each in a child process of its own, and knows the folder that a training leaves.

From Slicer's Python console:

    from DeepRegSlicerLib.training import train
    result = train("my.yaml", "trainings/first")
"""

import csv
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.training import presence

from . import process
from .run import Run

log = logging.getLogger(__name__)

FOLLOW_MILLISECONDS = 1000  # between two looks at a training of another process
ENDS = ("finished", "stopped early")
PATIENCE = 120.0  # seconds that a step and its checkpoint may take before a stopped training is ended
AFTER_DEATH = _("What was trained until the last checkpoint is kept: resume the training to go on from it.")

TrainingError = process.WorkerError
TrainingStopped = process.WorkerCancelled


@dataclass(frozen=True)
class TrainingResult:
    """What a training brought.

    folder: its files, config.yaml and metrics.csv among them. model: the file of the best epoch.
    method: "ddf", "dvf", "conditional" …, "" of a training that was followed.
    history: the figures of each epoch, with `epoch`, `loss` and, with validation data, `val_loss`.
    ended: "finished" or "stopped early".
    """

    folder: Path
    model: Path
    method: str
    history: list[dict]
    ended: str


class TrainingRun(Run):
    """A training that is under way. Once `running` is false, `result` or `error` is set.

    folder: of the run. history: the figures of the epochs done. Closing or changing the scene does not touch
    it. If Slicer ends, it ends after its present step with a checkpoint, unless it was told to stay.
    """

    can_be_killed = True

    def __init__(self, folder: Path, arguments: dict, worker, progress, done, stays: bool):
        """Starts at once. Raises TrainingError if the process can't be started."""
        self.folder = folder
        self.history = read_history(folder) if arguments["resume"] else []
        super().__init__(worker, "train", arguments, progress, done, stays)
        _running.append(self)

    def stop(self) -> None:
        """Stop after the present step, a checkpoint is kept; asked again: at once, by ending the process.

        The run then has a TrainingStopped as its error.
        """
        if self.running and self._job.cancelled_at is not None:
            self._worker.stop()
        else:
            self.cancel()

    def detach(self) -> None:
        """Hear no more of it; the process stops by itself after its present step, unless it was to stay."""
        self._progress = self._done = None
        self._worker.detach()

    def _on_progress(self, fraction: float, stage: str, values: dict) -> None:
        if "learning_rate" in values:  # the figures of an epoch that is done
            row = {name: value for name, value in values.items() if name not in ("epochs", "seconds_left")}
            self.history = [*(old for old in self.history if old["epoch"] < row["epoch"]), row]
        super()._on_progress(fraction, stage, values)

    def _end(self, job) -> tuple[TrainingResult | None, TrainingError | None]:
        _running.remove(self)
        self._worker.detach()
        if job.error is not None:
            return None, job.error
        found = job.result
        self.history = found["history"]
        paths = Path(found["folder"]), Path(found["model"])
        return TrainingResult(*paths, found["method"], found["history"], found["ended"]), None


class FollowedTraining:
    """A training of another process, as its folder tells of it; used like a `TrainingRun`.

    It was begun by a Slicer that has gone since, or by `regcore train`. A Qt timer looks after it.
    """

    can_be_killed = False

    def __init__(self, folder: Path, progress, done):
        """Begins to look at once."""
        self.folder = folder
        self.history = read_history(folder)
        self.result: TrainingResult | None = None
        self.error: TrainingError | None = None
        self._progress, self._done = progress, done
        self._timer = qt.QTimer()
        self._timer.setInterval(FOLLOW_MILLISECONDS)
        self._timer.timeout.connect(self.look)
        self._timer.start()
        _running.append(self)

    @property
    def running(self) -> bool:
        """Whether it is still under way."""
        return self.result is None and self.error is None

    def stop(self) -> None:
        """Ask it to stop after its present step, with a checkpoint. Raises InputError if that can't be."""
        presence.ask_to_stop(self.folder)

    def detach(self) -> None:
        """Look after it no more; it goes on."""
        self._timer.stop()
        self._timer.timeout.disconnect(self.look)  # else PythonQt keeps timer and training for ever
        self._progress = self._done = None
        _running.remove(self)

    def look(self) -> None:
        """Take in what is new, or the end. Called by the timer."""
        told = presence.seen(self.folder)
        known, self.history = self.history, read_history(self.folder)
        if told:
            done = self.history[-1] if len(self.history) > len(known) else {}
            self._tell(told["fraction"], told["stage"], told["values"] | done)
        if told is None:
            done = self._done
            self.detach()
            self.result, self.error = self._outcome()
            if done is not None:
                done(self)

    def _tell(self, fraction: float, stage: str, values: dict) -> None:
        if self._progress is None:
            return
        try:
            self._progress(fraction, stage, values)
        except Cancelled:
            self.stop()

    def _outcome(self) -> tuple[TrainingResult | None, TrainingError | None]:
        how, model = presence.ended(self.folder), model_in(self.folder)
        if how == presence.STOPPED:
            return None, TrainingStopped(_("Cancelled."))
        if how in ENDS and model is not None:
            return TrainingResult(self.folder, model, "", self.history, how), None
        what = _("The training failed.") if how == presence.FAILED else how
        return None, TrainingError(f"{what} {AFTER_DEATH}")


def follow(
    folder,
    *,
    progress: Callable[[float, str, dict], None] | None = None,
    done: Callable[[FollowedTraining], None] | None = None,
) -> FollowedTraining | None:
    """A training that another process does in a folder, looked after from now on; None if there is none.

    progress and done are those of `train`.
    """
    folder = Path(folder).expanduser().absolute()
    if any(run.folder == folder for run in _running) or presence.seen(folder) is None:
        return None
    return FollowedTraining(folder, progress, done)


_running: list[TrainingRun | FollowedTraining] = []  # keeps them alive, whoever started them


def train(
    config,
    folder,
    *,
    resume: bool = False,
    start_from=None,
    max_epochs: int | None = None,
    device: str = "auto",
    plugins: tuple = (),
    stays: bool = False,
    wait: bool = True,
    progress: Callable[[float, str, dict], None] | None = None,
    done: Callable[[TrainingRun], None] | None = None,
    worker=None,
) -> TrainingResult | TrainingRun:
    """Train a network as `RegCore.training.train` does, in a child process of its own.

    config: a YAML file, several of which later ones replace values of earlier ones, or a dict of what such a
        file would say; None to resume with the configuration in the run's folder. Relative folders of data
        are looked for in the working directory, beside the file, and above it.
    folder: of the run; an earlier training in it is moved aside, unless it is resumed.
    resume: go on with the training in the folder where it was stopped.
    start_from: a model file or a checkpoint to begin with.
    max_epochs: fewer epochs than configured, for a trial.
    device: "auto", "cpu", "cuda" or "mps".
    plugins: Python files that make networks, losses, loaders … of one's own known.
    stays: go on when Slicer is closed; `follow` finds the training again.
    wait: True returns the TrainingResult when it is there, False at once a TrainingRun.
    progress(fraction, stage, values) is told of steps and of every epoch, with `epoch`, `epochs`, `loss`,
    `seconds_left`, and may raise `RegCore.Cancelled`; done(run) is called at the end. worker: another child
    process.
    Raises InputError for what can't be used, TrainingError if there is no result; what was trained until the
    last checkpoint is kept.
    """
    folder = Path(folder).expanduser().absolute()
    if config is None and not resume:
        raise InputError(_("A training needs a configuration: a YAML file, or a dict of what it would say."))
    if any(run.folder == folder for run in _running):
        raise InputError(
            _("{folder}: a training is under way in this folder; stop it first.").format(folder=folder)
        )
    arguments = {
        "config": _absolute(folder / "config.yaml" if config is None else config),
        "folder": str(folder),
        "resume": resume,
        "start_from": None if start_from is None else _absolute(start_from)[0],
        "max_epochs": max_epochs,
        "device": device,
        "plugins": [_absolute(plugin)[0] for plugin in plugins],
    }
    worker = worker or process.Worker(kill_after=PATIENCE, after_death=AFTER_DEATH)
    run = TrainingRun(folder, arguments, worker, progress, done, stays)
    return run.wait() if wait else run


def _absolute(config) -> dict | list[str]:
    """Paths as absolute texts, since the process may work elsewhere; a dict as it is."""
    if isinstance(config, dict):
        return config
    paths = [config] if isinstance(config, str | Path) else config
    return [str(Path(path).expanduser().absolute()) for path in paths]


# ---- what a run's folder tells -----------------------------------------------------------------------------


def read_history(folder: Path) -> list[dict]:
    """The figures of each epoch, from the run's metrics.csv; none if it is not there."""
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        numbers = [{name: float(value) for name, value in row.items() if value} for row in rows]
        return [row | {"epoch": int(row["epoch"]), "loss": row["loss"]} for row in numbers]
    except (OSError, ValueError, KeyError):
        return []


def can_resume(folder: Path) -> bool:
    """Whether a training in the folder can be taken up again."""
    return (folder / "save" / "last.pt").is_file() and (folder / "config.yaml").is_file()


def model_in(folder: Path) -> Path | None:
    """The best model of the run so far; None before there is one."""
    best = folder / "save" / "best.pt"
    return best if best.is_file() else None


def unused_folder(folder: Path) -> Path:
    """The folder if it is not there or empty, else the next one of its name with a number: first-2 …"""
    stem = re.sub(r"-\d+$", "", folder.name)
    number = int(folder.name[len(stem) + 1 :] or 1)
    while _is_used(folder):
        number += 1
        folder = folder.with_name(f"{stem}-{number}")
    return folder


def _is_used(folder: Path) -> bool:
    try:
        return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:  # whoever wants to write there will be told
        log.debug("%s can't be looked into: %s", folder, error)
        return False
