"""The folder of a training: configuration, checkpoints, the best model, metrics; each file whole or absent.

config.yaml          the configuration that was used
metrics.csv          a line for each epoch
save/ckpt-<n>.pt     model and state of the training after epoch n, every ``save_period`` epochs
save/last.pt         the same, the newest
validation.png       a validation pair as the newest model registers it; pictures/ has it of earlier epochs
overview.png         after `regcore train`: the best and the worst validation pair; validation.csv has all
save/best.pt         the model of that epoch of this run which has the smallest validation loss
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from RegCore.deepreg.checkpoint import import_checkpoint
from RegCore.deepreg.tfbundle import is_bundle
from RegCore.io.files import sweep_parts, timed_folder
from RegCore.io.scratch import in_turn
from RegCore.networks.model_file import Model, plain, read_content, save_model
from RegCore.space.geometry import InputError
from RegCore.training.config import Config
from RegCore.training.presence import FAILED, RUNNING, STOPPED, Presence
from RegCore.training.processes import Group
from RegCore.training.records import write_table
from RegCore.training.state import Position, TrainingState

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 60.0
BEST, LAST = "best.pt", "last.pt"
FIXED = ("method", "backbone", "optimizer", "deepreg")  # keys of train that a resumed training keeps


@dataclass
class RunFolder:
    """The files of one run; only the first of several processes writes.

    Args:
        epochs_before: epochs done before this session, of which its speed says nothing.
    """

    path: Path
    group: Group
    epochs_before: float = 0
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES
    presence: Presence | None = None

    @staticmethod
    @contextmanager
    def at(log_dir: Path, exp_name: str, resume: bool, group: Group) -> Iterator["RunFolder"]:
        """The folder of a run; without a name a new one of the time of day, gone again if it stays empty.

        Raises:
            InputError: there is nothing to resume.
        """
        with ExitStack() as stack:
            if not (exp_name or resume) and group.first:
                exp_name = stack.enter_context(timed_folder(log_dir)).name
            name = [exp_name]
            if group.size > 1:
                torch.distributed.broadcast_object_list(name, src=0)
            folder = RunFolder(log_dir / name[0], group)
            if resume and not (folder.save_path / LAST).is_file():
                raise InputError(
                    f"{folder.path}: there is no interrupted training here, {LAST} is missing in save"
                )
            yield folder

    def make(self) -> None:
        """Make the folder; an earlier run of that name is moved aside. InputError where it can't be."""
        if self.group.first:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                with in_turn(self.path.parent):  # else what another begins would be moved aside
                    if (self.path / RUNNING).is_file():
                        self._hold()
                        self.release(STOPPED)
                    _moved_aside(self.path)
                    self.save_path.mkdir(parents=True, exist_ok=True)
                    self._hold()
            except OSError as error:
                raise InputError(
                    f"{self.path}: a folder for the training can't be made ({error.strerror})"
                ) from None
        self.group.wait()

    def _hold(self) -> None:
        """Keep other trainings out of the folder until `release` or the end of this process.

        Raises:
            InputError: another training is here.
        """
        if self.group.first:
            self.presence = Presence(self.path)

    def release(self, ended: str) -> None:
        """Let others into the folder; for ``ended`` see `Presence.release`."""
        if self.presence is not None:
            self.presence.release(ended)
            self.presence = None

    @contextmanager
    def kept_as_it_was(self) -> Iterator[None]:
        """Where what is done within fails, others are let in and the folder says what it said before."""
        try:
            yield
        except BaseException as error:
            if self.presence is not None:
                self.presence.give_back(str(error) if isinstance(error, InputError) else FAILED)
                self.presence = None
            raise

    @property
    def save_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "save"

    @property
    def best(self) -> Path:
        """The model of the best epoch; the newest before one is done."""
        best = self.save_path / BEST
        return best if best.is_file() else self.save_path / LAST

    # ---- reading ----

    def resumed(self) -> TrainingState:
        """Where the interrupted training stands.

        Raises:
            InputError: it is not interrupted, but running.
        """
        self._hold()
        if self.group.first:
            sweep_parts(self.path, self.save_path)
        state = TrainingState.from_dict(self._training(self.save_path / LAST)["state"])
        self.epochs_before = state.position.epoch
        return state

    @staticmethod
    def _training(path: Path) -> dict:
        training = read_content(path).get("training")
        if not isinstance(training, dict) or not {"state", "optimiser"} <= set(training):
            raise InputError(f"{path}: this is a model, but no checkpoint that a training can go on from")
        return training

    def load(
        self, config: Config, state: TrainingState, trained: Model, optimiser: torch.optim.Optimizer
    ) -> None:
        """Weights and optimiser of the interrupted training; a changed configuration is written down.

        Other data than those in its checkpoint, by the model and the state, are warned of.

        Raises:
            InputError: they do not fit, or the configuration asks for another network.
        """
        path = self.save_path / LAST
        content = read_content(path)
        _check_unchanged(path, content, trained)
        training = self._training(path)
        images = TrainingState.from_dict(training["state"]).other_data(state)
        _tell_other_data(path, content, trained, images)
        _fill(path, trained, content["state"], content["config"])
        _fill_optimiser(path, optimiser, training["optimiser"])
        if self.group.first and content["config"] != trained.config:
            config.dump(self.path / "config.yaml")

    def started_from(
        self, path, state: TrainingState, trained: Model, optimiser: torch.optim.Optimizer
    ) -> TrainingState:
        """Weights of a checkpoint of another run, of a model file, or of TensorFlow; the state to begin at.

        A checkpoint also gives the optimiser's averages, the epochs done and their history.
        """
        checkpoint = checkpoint_at(path)
        if checkpoint is None:
            deepreg = trained.config["train"].get("deepreg", False)
            weights = import_checkpoint(path, trained.config, deepreg=deepreg).network.state_dict()
            _fill(Path(path), trained, weights)
            number = Path(path).name.rpartition("-")[2]
            return replace(state, position=Position(epoch=int(number) if number.isdigit() else 0))
        content = read_content(checkpoint)
        _fill(checkpoint, trained, content["state"], content["config"])
        if "training" not in content:
            return state
        rates = [group["lr"] for group in optimiser.param_groups]
        _fill_optimiser(checkpoint, optimiser, self._training(checkpoint)["optimiser"])
        for group, rate in zip(optimiser.param_groups, rates, strict=True):  # that of this configuration
            group["lr"] = group["initial_lr"] = rate
        before = TrainingState.from_dict(content["training"]["state"])
        self.epochs_before = before.position.epoch
        position = replace(before.position, sample=0)
        return replace(state, position=position, history=before.history, inherited=len(before.history))

    # ---- writing ----

    def begin(self, config: Config, state: TrainingState, trained: Model, optimiser) -> None:
        """The configuration, and a checkpoint of the start, from which a first epoch can be resumed."""
        if self.group.first:
            config.dump(self.path / "config.yaml")
        self.save(state, trained, optimiser, keep=False)

    def save(self, state: TrainingState, trained: Model, optimiser, *, keep: bool) -> None:
        """Write the newest checkpoint; ``keep``: also under the number of its epoch."""
        if self.group.first:
            training = {"state": state.to_dict(), "optimiser": optimiser.state_dict()}
            save_model(self.save_path / LAST, replace(trained, bf16=state.bf16), training)
            if keep:
                _linked(self.save_path / LAST, self.save_path / f"ckpt-{state.position.epoch}.pt")
        self.group.wait()

    def record(self, state: TrainingState, trained: Model) -> None:
        """The figures of all epochs, and the model of the last one if it is the best so far."""
        write_table(self.path / "metrics.csv", state.history)
        if state.is_best:
            save_model(self.save_path / BEST, replace(trained, bf16=state.bf16))


def checkpoint_at(path) -> Path | None:
    """Our file that a checkpoint's name means, ``save/ckpt-2`` say; None for one of TensorFlow.

    Raises:
        InputError: there is neither.
    """
    path = Path(path).expanduser()
    for candidate in (path, path.with_name(path.name + ".pt")):
        if candidate.is_file():
            return candidate
    if is_bundle(path):
        return None
    raise InputError(f"{path}: there is no such checkpoint, neither {path.name}.pt nor {path.name}.index")


def _moved_aside(path: Path) -> None:
    """Make room where an earlier run lies: it keeps everything under a name with a number.

    Raises InputError for a folder of other files, which must not be renamed.
    """
    if not path.exists() or not any(path.iterdir()):
        return
    if not any((path / name).exists() for name in ("config.yaml", "save", "metrics.csv")):
        raise InputError(f"{path}: this folder holds other files than a training's; choose another name")
    aside = next_free_folder(path)
    os.replace(path, aside)
    log.warning("%s holds an earlier run, which is now %s", path, aside)


def next_free_folder(path: Path) -> Path:
    """The folder's name with the smallest number that is free: ``run-1``, ``run-2`` …"""
    number = 1
    while (folder := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return folder


def _linked(file: Path, name: Path) -> None:
    """The same file under a second name, without a copy where the file system can."""
    aside = name.with_name(name.name + ".part")
    aside.unlink(missing_ok=True)
    try:
        os.link(file, aside)
    except OSError:
        shutil.copyfile(file, aside)
    os.replace(aside, name)


def _check_unchanged(path: Path, content: Mapping, trained: Model) -> None:
    """Raise InputError where an interrupted training would go on as another one."""
    before, now = content["config"]["train"], trained.config["train"]
    changes = [(f"train.{key}", before.get(key), now.get(key)) for key in FIXED]
    for side in ("fixed", "moving"):
        sizes = list(content[f"{side}_size"]), list(getattr(trained, f"{side}_size"))
        changes.append((f"the shape of {side} images", *sizes))
    changes.append(("whether there are labels", content["labeled"], trained.labeled))
    for what, was, configured in changes:
        if was != configured:
            raise InputError(
                f"{path}: {what} was {was} when this training began, but the configuration has {configured};"
                " a new training can begin with these weights (--start-from)"
            )


def _tell_other_data(path: Path, content: Mapping, trained: Model, images: list[str]) -> None:
    """Warn where an interrupted training goes on with images that differ from those it began with.

    images: in what they differ besides what the model knows of them.
    """
    what = {
        "seen": "intensities",
        "axes": "the directions of voxel axes",
        "spacing": "the size of voxels",
        "structures": "structures",
    }
    now = {name: plain(getattr(trained, name), name) for name in what}
    others = [words for name, words in what.items() if name in content and content[name] != now[name]]
    if others := [*others, *images]:
        text = "%s: the data are not those that this training began with (other: %s); it goes on with them"
        log.warning(text, path, ", ".join(others))


def _fill(path: Path, trained: Model, weights, config: Mapping | None = None) -> None:
    """Put weights into a network.

    Args:
        path: their file, for messages.
        trained: the network.
        weights: by their names.
        config: that they were trained with, where it is known.

    Raises:
        InputError: they do not fit; the message says in what the configurations differ.
    """
    try:
        trained.network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        differs = _differences(config["train"], trained.config["train"]) if config else ""
        raise InputError(
            f"{path}: its weights do not fit the network of the configuration: {differs or reason}"
        ) from None


def _differences(before: Mapping, now: Mapping) -> str:
    """In what the networks of two configurations differ, in words."""
    pairs = [("train.method", before.get("method"), now.get("method"))]
    first, second = before.get("backbone", {}), now.get("backbone", {})
    for key in sorted({*first, *second}):
        pairs.append((f"train.backbone.{key}", first.get(key), second.get(key)))
    return ", ".join(f"{key} was {was}, but is {wanted}" for key, was, wanted in pairs if was != wanted)


def _fill_optimiser(path: Path, optimiser: torch.optim.Optimizer, kept: dict) -> None:
    try:
        states = optimiser.state_dict(), kept
        own, other = (sorted({*state["param_groups"][0]} - {"initial_lr"}) for state in states)
        if own != other:  # torch takes the options of one optimiser for those of another
            raise ValueError(f"it has {', '.join(other)}, not {', '.join(own)}")
        optimiser.load_state_dict(kept)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: it was trained with another optimiser ({error}); a training with the one configured can"
            " begin with the weights alone, of best.pt beside it"
        ) from None
