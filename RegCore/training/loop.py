"""The training of a network from a configuration: epochs of steps, validation, checkpoints, an end.

Nothing random is carried along: order, label sampling and augmentation follow from the seed of the run, the
epoch and the position of the sample in it. A checkpoint therefore holds weights, the optimiser's averages,
where the training stands and its history; a training that is resumed ends with the weights of one that was
not interrupted, bit by bit on the same machine and number of threads.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from RegCore.loaders.augmentation import augment_each
from RegCore.networks.device import all_finite, choose_device
from RegCore.progress import Cancelled, Progress, silent
from RegCore.space.geometry import InputError
from RegCore.training.batches import in_groups, on_device
from RegCore.training.config import Config
from RegCore.training.folder import RunFolder
from RegCore.training.gradients import add_gradient, evaluate
from RegCore.training.history import best_epoch
from RegCore.training.prepare import Run, prepare
from RegCore.training.presence import FAILED, STOPPED
from RegCore.training.processes import processes
from RegCore.training.schedule import epochs_without_gain, factor
from RegCore.training.state import Position, RunningMeans
from RegCore.training.statistics import FEWEST_STEPS, SAMPLES, norms_of, renew_statistics
from RegCore.training.watching import watch

log = logging.getLogger(__name__)
FINISHED, STOPPED_EARLY = "finished", "stopped early"


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Args:
        folder: its files.
        model: the file of the best epoch by validation loss (by training loss without validation data).
        history: one dict of figures for each epoch.
        ended: ``finished`` or ``stopped early``.
        inherited: how many rows of the history another run made, whose checkpoint this one began with.
    """

    folder: Path
    model: Path
    history: list[dict]
    ended: str
    inherited: int = 0

    @property
    def best(self) -> Mapping | None:
        """The figures of the epoch whose model is `model`; None without an epoch."""
        return best_epoch(self.history[self.inherited :])


def train(
    config: Config,
    *,
    log_dir: str | Path = "logs",
    exp_name: str = "",
    start_from: str | Path | None = None,
    resume: bool = False,
    max_epochs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train the network that a configuration describes.

    Args:
        config: of `RegCore.training.config.load_config`.
        log_dir, exp_name: the run's folder is ``log_dir/exp_name``, the time of day without a name. An
            earlier run there is moved aside to ``exp_name-1``, unless it is resumed.
        start_from: a checkpoint of another run (or a model file, or one of TensorFlow) to begin with; of a
            checkpoint the training goes on after its epoch, as DeepReg's does. The best epoch is one of
            this run.
        resume: go on with the run in that folder where it was interrupted.
        max_epochs: epochs in place of those configured; with fewer, as for a trial, the learning rates are
            those of the whole training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        workers: processes that read data; by default what ``dataset.workers`` says.
        progress: told of every step with ``epoch``, ``epochs``, ``loss``, and of every epoch with its
            figures and ``seconds_left``; raising `Cancelled` stops after a checkpoint was written.

    Returns:
        A `Trained`.

    Raises:
        InputError: one sentence on what can't be used: data, checkpoint, folder, a loss that is not finite.
        Cancelled: the training was stopped; it can be resumed.

    Examples:
        >>> import RegCore
        >>> from RegCore.samples.datasets import write_examples
        >>> write_examples(".", patients=2)  # small data sets and configurations
        >>> config = RegCore.load_config("config/unpaired_labeled_ddf.yaml")
        >>> trained = RegCore.train(config, exp_name="first", device="cpu")
        >>> trained.ended, len(trained.history)
        ('finished', 2)
    """
    with (
        processes(choose_device(device)) as group,
        RunFolder.at(Path(log_dir).expanduser(), exp_name, resume, group) as folder,
    ):
        with folder.kept_as_it_was():
            run = prepare(config, folder, group, start_from, resume, max_epochs, workers, progress)
        ended = FAILED
        try:
            trained = _epochs(run)
            ended = trained.ended
            return trained
        except (Cancelled, InputError) as end:
            ended = str(end) or STOPPED
            raise
        finally:
            folder.release(ended)
            run.batches.close()
            if run.valid is not None:
                run.valid.close()
            if run.boards is not None:
                run.boards.close()


# ---- the loop ----------------------------------------------------------------------------------------------


def _epochs(run: Run) -> Trained:
    ended = FINISHED
    saved = run.state.position
    last_save = time.monotonic()
    while run.state.position.epoch < run.epochs:
        if _should_stop(run):
            ended = STOPPED_EARLY
            break
        _train_epoch(run)
        row = _close_epoch(run)
        epoch = run.state.position.epoch
        due = epoch % run.save_period == 0 or epoch == run.epochs
        if due or time.monotonic() - last_save > run.folder.seconds_between_saves:
            run.folder.save(run.state, run.trained, run.optimiser, keep=due)
            saved, last_save = run.state.position, time.monotonic()
        _tell(run, "validated" if run.valid else "epoch done", row)
    if saved != run.state.position:
        run.folder.save(run.state, run.trained, run.optimiser, keep=True)
    return Trained(run.folder.path, run.folder.best, run.state.history, ended, run.state.inherited)


def _should_stop(run: Run) -> bool:
    rule = run.config.train.early_stopping
    return rule is not None and epochs_without_gain(run.state.losses, rule.min_delta) >= rule.patience


def _train_epoch(run: Run) -> None:
    """Steps until all samples of the epoch were seen, from where the state stands."""
    state, position = run.state, run.state.position
    run.model.train()
    steps = run.batches.epoch(position.epoch, seed=state.seed, start_at=position.sample)
    total = run.batches.plan(position.epoch, seed=state.seed)[-1][0]
    augmented = _prepared_batches(run, steps, f"augmentation/{state.seed}/{position.epoch}", position.sample)
    for pieces in in_groups(augmented, run.config.train.accumulate):
        numbers = _step(run, pieces)
        position = replace(position, sample=pieces[-1]["next_sample"], steps=position.steps + 1)
        run.state = replace(run.state, position=position, means=run.state.means.plus(numbers))
        _tell(run, "training", {"loss": run.state.means.values()["loss"]}, position.sample / total)


def _prepared_batches(run: Run, steps: Iterator, key: str, first: int = 0) -> Iterator[dict]:
    """Batches on the device, augmented. Each sample's randomness follows from the key and from its position.

    first: samples of the epoch that were used before.
    """
    for batch in steps:
        last, count = batch["next_sample"], len(batch["indices"])
        start = first + run.group.rank * (last - first) // run.group.size
        batch = on_device(batch, run.group.device)
        keys = [f"{key}/{start + i}" for i in range(count)]
        yield augment_each(batch, run.augmentations, keys) if run.augmentations else batch
        first = last


def _step(run: Run, pieces: list[dict]) -> RunningMeans:
    """One step of the optimiser with the gradient of the loss summed over all samples of all processes."""
    epoch = run.state.position.epoch + 1
    _set_learning_rate(run)
    bf16 = bool(run.state.bf16)
    buffers = [(b, b.clone()) for b in run.model.buffers()] if bf16 else []
    totals, sound = _gradient(run, pieces, bf16)
    if bf16 and not sound:
        if run.group.first:
            log.warning("epoch %d: bfloat16 overflows; from here on float32 is used", epoch)
        run.state = replace(run.state, bf16=False)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
        totals, sound = _gradient(run, pieces, False)
    if not sound:
        named = {k: v for k, v in totals.values().items() if k.startswith("loss/") and "_weighted" not in k}
        what = "gradient of the loss" if math.isfinite(totals.values()["loss"]) else "loss"
        raise InputError(
            f"the {what} of epoch {epoch} is not finite, so training ends; its parts are {named};"
            " a smaller learning_rate may help; the last checkpoint is kept"
        )
    run.optimiser.step()
    return totals


def _set_learning_rate(run: Run) -> None:
    """That of the present place in the schedule."""
    position, settings = run.state.position, run.config.train
    rate = factor(
        settings.learning_rate_schedule,
        position.epoch + position.sample / len(run.batches.loader),
        settings.epochs,  # also where max_epochs ends sooner: a trial has the rates of the whole training
        run.state.losses,
    )
    for group in run.optimiser.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate


def _gradient(run: Run, pieces: list[dict], bf16: bool) -> tuple[RunningMeans, bool]:
    """Put the gradient of the loss into the parameters; what to log, and whether all of it is finite."""
    seed = Random(f"step/{run.state.seed}/{run.state.position.steps}")
    torch.manual_seed(seed.getrandbits(63))  # for dropout, say
    run.optimiser.zero_grad(set_to_none=True)
    totals = RunningMeans()
    for i, batch in enumerate(pieces):
        alone = run.group.size == 1 or i == len(pieces) - 1
        with nullcontext() if alone else getattr(run.model, "no_sync", nullcontext)():
            # DistributedDataParallel averages the gradients of the processes, but the sum is needed
            parts = add_gradient(run.model, run.objective, batch, bf16=bf16, scale=float(run.group.size))
        totals = totals.plus(RunningMeans.of(parts))
    finite = [p.grad.isfinite().all() for p in run.model.parameters() if p.grad is not None]
    finite.append(torch.tensor(math.isfinite(totals.values()["loss"]), device=run.group.device))
    return totals, not run.group.any(not torch.stack(finite).all())


def _close_epoch(run: Run) -> dict:
    """Validate, put the epoch into the history, forget its sums; returns its row."""
    state = run.state
    counted = {"train": state.means.over(run.group), "valid": RunningMeans()}
    means = counted["train"].values()
    row = {"epoch": state.position.epoch + 1, "learning_rate": run.optimiser.param_groups[0]["lr"], **means}
    _renew_statistics(run)
    settle = getattr(run.trained.network, "settle", None)
    if settle and 4 * (state.position.epoch + 1) >= 3 * run.epochs:  # before, there is too much to learn yet
        settle(next(_first_batches(run, 1)))
    counted["valid"] = _validated(run)
    validation = counted["valid"].values()
    if state.position.epoch == 0 and run.group.first:
        _tell_placeholders(counted)
    row |= {f"val_{name}": value for name, value in validation.items()}
    position = Position(state.position.epoch + 1, 0, state.position.steps)
    run.state = replace(state, position=position, means=RunningMeans(), history=[*state.history, row])
    if run.boards is not None:
        run.boards.add("train", "epoch_", state.position.epoch, means)
        run.boards.add("validation", "epoch_", state.position.epoch, validation)
    if run.group.first:
        if math.isinf(run.state.losses[-1]):
            log.warning("epoch %d: val_loss is not finite, so any other epoch is better", row["epoch"])
        run.folder.record(run.state, run.trained)
        watch(run)
    return row


def _renew_statistics(run: Run) -> None:
    """Batch normalisation gets the statistics of the present weights, over the same samples every time.

    As DeepReg does not, they stay moving averages with ``deepreg``.
    """
    if run.config.train.deepreg or not norms_of(run.trained.network):
        return
    seed = run.state.seed
    torch.manual_seed(Random(f"statistics/{seed}").getrandbits(63))  # for dropout, say
    wanted = -(-SAMPLES // (run.config.train.preprocess.batch_size * run.group.size))
    wanted = max(FEWEST_STEPS, min(wanted, len(run.batches.plan(0, seed=seed))))
    network, bf16 = run.trained.network, bool(run.state.bf16)
    renew_statistics(network, run.objective, _first_batches(run, wanted), bf16=bf16)
    averages = [b for norm in norms_of(network) for b in (norm.running_mean, norm.running_var)]
    if bf16 and run.group.any(not all_finite(averages)):
        renew_statistics(network, run.objective, _first_batches(run, wanted))


def _first_batches(run: Run, count: int) -> Iterator[dict]:
    """So many augmented batches of training, from the first epoch on."""
    epoch, seed = 0, run.state.seed
    while count > 0:
        steps = run.batches.epoch(epoch, seed=seed, most=count)
        for batch in _prepared_batches(run, steps, f"statistics/{seed}/{epoch}"):
            yield batch
            count -= 1
        epoch += 1


def _tell_placeholders(counted: Mapping[str, RunningMeans]) -> None:
    """Warn of labels of the first epoch that count nowhere."""
    for split, means in counted.items():
        there = [count for name, count in means.counts.items() if name.startswith("loss/label_")]
        if there and there[0] < (all_of_them := means.counts["loss"]):
            text = "dataset.%s: %d of %d labels are empty in the fixed or the moving image and count nowhere"
            log.warning(text, split, all_of_them - there[0], all_of_them)


def _validated(run: Run) -> RunningMeans:
    totals = RunningMeans()
    if run.valid is None:
        return totals
    network = run.trained.network.eval()  # the next epoch sets it to train again
    for batch in run.valid.epoch(0, seed=run.state.seed):
        if batch is not None:
            batch = on_device(batch, run.group.device)
            parts = evaluate(network, run.valid_objective, batch, bf16=bool(run.state.bf16))
            if run.state.bf16 and not all_finite([parts["loss"]]):
                parts = evaluate(network, run.valid_objective, batch)
            totals = totals.plus(RunningMeans.of(parts))
    return totals.over(run.group)


def _tell(run: Run, stage: str, figures: Mapping, part: float = 0.0) -> None:
    """Tell how far the training is and how long it will still take at the speed of this session.

    If that asks the first process to stop, all keep a checkpoint and stop.
    """
    position, stop = run.state.position, False
    done = min(position.epoch + part, run.epochs)
    spent = time.monotonic() - run.began
    here = done - run.folder.epochs_before
    left = spent / here * (run.epochs - done) if here > 0 else math.nan
    epoch = min(position.epoch + (part > 0), run.epochs)
    known = {"epoch": epoch, "epochs": run.epochs, "seconds_left": left}
    text = f"epoch {max(epoch, 1)} of {run.epochs}: {stage}"
    try:
        run.progress(done / run.epochs, text, {**known, **figures})
        if (presence := run.folder.presence) is not None:
            presence.tell(done / run.epochs, text, {**known, **figures})
            stop = presence.asked_to_stop()
    except Cancelled:
        stop = True
    if run.group.any(stop):
        if position.sample:  # else they are those of the epoch that has just ended
            _renew_statistics(run)
        run.folder.save(run.state, run.trained, run.optimiser, keep=False)
        run.folder.release(STOPPED)
        run.group.wait()  # torchrun ends all processes when the first of them ends
        raise Cancelled
