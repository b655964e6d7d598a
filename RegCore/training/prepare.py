"""Before the first step of a training: all that it needs is made and checked, then its folder."""

import inspect
import logging
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from RegCore.evaluation.memory import available_memory_mib
from RegCore.loaders import Batches, Loader, make_loader
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.networks.model_file import Model, build
from RegCore.progress import Progress, silent
from RegCore.registration.optimisers import make_optimiser
from RegCore.space.geometry import InputError
from RegCore.training.batches import on_device
from RegCore.training.config import Config
from RegCore.training.folder import RunFolder
from RegCore.training.gradients import add_gradient
from RegCore.training.memory import check_memory
from RegCore.training.objective import Objective
from RegCore.training.precision import bf16_pays
from RegCore.training.processes import Group
from RegCore.training.records import TensorBoard
from RegCore.training.state import TrainingState

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All that the loop works on."""

    config: Config
    folder: RunFolder
    group: Group
    state: TrainingState
    trained: Model
    model: nn.Module  # the network of `trained`, which adds up its gradients if there are several processes
    objective: Objective | None
    valid_objective: Objective | None
    optimiser: torch.optim.Optimizer
    augmentations: list
    batches: Batches
    valid: Batches | None
    epochs: int
    save_period: int
    progress: Progress
    began: float
    boards: TensorBoard | None = None


def prepare(config, folder, group: Group, start_from, resume, max_epochs, workers, progress) -> Run:
    """Everything read and checked; the folder holds the configuration and a first checkpoint."""
    config = _with_epochs(config, max_epochs)
    settings, options = config.train, config.to_dict()["train"]
    epochs = max_epochs or settings.epochs
    loader, valid = _loaders(config)
    _check_memory(config, loader, group.device)
    state = folder.resumed() if resume else TrainingState.new(settings.seed)
    state = state.with_data({"train": loader.names} | ({} if valid is None else {"valid": valid.names}))
    torch.manual_seed(state.seed)
    trained = _built(config, loader)
    trained.network.to(group.device)
    optimiser = make_optimiser(options["optimizer"], trained.network.parameters())
    if resume:
        folder.load(config, state, trained, optimiser)
    elif start_from is not None:
        state = folder.started_from(start_from, state, trained, optimiser)
        _check_something_left(start_from, state, epochs)
    set_template = getattr(trained.network, "set_template", None)
    if set_template is not None:
        set_template(loader)
    run = Run(
        config=config,
        folder=folder,
        group=group,
        state=state,
        trained=trained,
        model=group.wrapped(trained.network),
        objective=_objective(trained.network, options["loss"], loader.labeled, settings.deepreg),
        valid_objective=_valid_objective(trained.network, options["loss"], valid, settings.deepreg),
        optimiser=optimiser,
        augmentations=_augmentations(settings.preprocess.data_augmentation, settings.deepreg),
        batches=_batches(loader, config, group, workers, training=True),
        valid=None if valid is None else _batches(valid, config, group, workers, training=False),
        epochs=epochs,
        save_period=min(settings.save_period, epochs),
        progress=progress if group.first else silent,
        began=time.monotonic(),
    )
    return _opened(run, resume)


def _loaders(config: Config) -> tuple[Loader, Loader | None]:
    """The data for training and, if there are any, for validation, with their axes as in training."""
    dataset, deepreg = config.to_dict()["dataset"], config.train.deepreg
    loader = make_loader(dataset, "train", deepreg=deepreg)
    if loader is None:
        raise InputError("dataset.train.dir: a folder of data for training was expected, but there is none")
    return loader, make_loader(dataset, "valid", deepreg=deepreg, axes=loader.axes)


def _check_memory(config: Config, loader: Loader, device: str) -> None:
    """Refuse what needs more memory than the device has."""
    train, size = config.to_dict()["train"], loader.fixed_image_shape
    if size is None or device.startswith("mps"):
        return
    if device.startswith("cuda"):
        check_memory(train, size, torch.cuda.mem_get_info(device)[0] / 2**20, half=True)
    else:
        check_memory(train, size, available_memory_mib())


def _built(config: Config, loader: Loader) -> Model:
    """The model, which knows how axes run and what voxels and intensities are like in the training."""
    sizes = loader.fixed_image_shape, loader.moving_image_shape
    trained = build(config.to_dict(), *sizes, loader.labeled, loader.axes)
    if not isinstance(loader, Loader):  # scans that a method of its own prepares
        return trained
    ranges = {id(side): side.intensity_range() for side in loader.sides}
    loader.close()
    seen = {"fixed": ranges[id(loader.fixed)], "moving": ranges[id(loader.moving)]}
    return replace(trained, seen=seen, spacing=loader.spacing, structures=loader.structures)


def _opened(run: Run, resume: bool) -> Run:
    """The run with its folder; that of a new one is made now that all else is in order."""
    if not resume:
        run.state = replace(run.state, bf16=_uses_bf16(run))
        run.folder.make()
        run.folder.begin(run.config, run.state, run.trained, run.optimiser)
    run.boards = TensorBoard(run.folder.path) if run.group.first else None
    return run


def _objective(network: nn.Module, section, labeled: bool, deepreg: bool) -> Objective | None:
    """The losses to minimise; None for a method that brings its own loss."""
    if getattr(network, "own_loss", False):
        return None
    return Objective.from_config(section, labeled=labeled, deepreg=deepreg)


def _valid_objective(network: nn.Module, section, valid: Loader | None, deepreg: bool) -> Objective | None:
    """What is measured in validation, with the losses of labels if its data have any.

    Raises InputError where nothing is left that compares the images: smoothness alone would choose the model.
    """
    if valid is None or getattr(network, "own_loss", False):
        return None
    if not valid.labeled and not any(part.get("weight", 1) for part in _listed(section.get("image"))):
        raise InputError(
            "dataset.valid.labeled is false, but train.loss compares labels alone, so that validation has"
            " nothing to compare: set dataset.valid.labeled to true, or leave out dataset.valid"
        )
    if not valid.labeled and any(part.get("weight", 1) for part in _listed(section.get("label"))):
        log.warning("dataset.valid.labeled is false: val_loss and the best epoch lack the loss of labels")
    return Objective.from_config(section, labeled=valid.labeled, deepreg=deepreg)


def _listed(parts) -> list[dict]:
    """The losses of a section, one or several or none, as a list."""
    return [parts] if isinstance(parts, dict) else list(parts or ())


def _with_epochs(config: Config, max_epochs: int | None) -> Config:
    """The configuration with more epochs where more are asked for: schedule and resuming know them."""
    if max_epochs is None or max_epochs <= config.train.epochs:
        return config
    values = config.to_dict()
    values["train"]["epochs"] = max_epochs
    return replace(config, train=replace(config.train, epochs=max_epochs), values=values)


def _check_something_left(checkpoint, state: TrainingState, epochs: int) -> None:
    """Raise InputError where a checkpoint has all epochs behind it already."""
    if state.position.epoch >= epochs:
        raise InputError(
            f"{checkpoint}: this checkpoint has {state.position.epoch} epochs behind it, and the training is"
            f" to have {epochs}, so that none is left; ask for more (train.epochs or --max_epochs)"
        )


def _batches(loader: Loader, config: Config, group: Group, workers, *, training: bool) -> Batches:
    settings = config.train.preprocess
    if training and len(loader) < group.size:
        raise InputError(f"{len(loader)} training samples can't be shared by {group.size} processes")
    return Batches(
        loader,
        settings.batch_size,
        workers=config.dataset.workers if workers is None else workers,
        shuffle_buffer=settings.batch_size * settings.shuffle_buffer_num_batch if training else 0,
        drop_last=training,
        rank=group.rank,
        world_size=group.size,
        cache_bytes=int(config.dataset.cache * 1e9),
        pin_memory=group.device.startswith("cuda"),
    )


def _augmentations(parts, deepreg: bool) -> list:
    augmentations = []
    for part in parts:
        make, options = AUGMENTATIONS[part.name], dict(part.options)
        if deepreg and "deepreg" in inspect.signature(make).parameters:
            options["deepreg"] = True
        augmentations.append(make(**options))
    return augmentations


def _uses_bf16(run: Run) -> bool:
    """What the key ``mixed_precision`` amounts to on this machine; one process decides for all."""
    wish = run.config.train.mixed_precision
    if wish != "auto":
        return wish == "bf16"
    pays = False
    if run.group.first:
        first = next(iter(run.batches.epoch(0, seed=run.state.seed))) or {}
        batch = on_device(first, run.group.device)
        network = run.trained.network.train()
        pays = bf16_pays(network, lambda bf16: add_gradient(network, run.objective, batch, bf16=bf16))
        log.info("bfloat16 %s on this machine", "is used: it is faster" if pays else "is not used")
    return run.group.any(pays)
