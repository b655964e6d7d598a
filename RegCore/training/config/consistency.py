"""What goes together in a configuration: found by rules, and by making each part once, without data."""

import logging
import re
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial

import torch

from RegCore.io.yaml import Key, Places
from RegCore.loaders.augmentation import AUGMENTATIONS
from RegCore.losses import BIDIRECTIONAL_LOSSES
from RegCore.networks.models import MODELS, build_model
from RegCore.registration.optimisers import read_options
from RegCore.space.geometry import InputError
from RegCore.training.config.registries import IMAGE_LOSS, LABEL_LOSS, REGULARIZATION
from RegCore.training.config.schema import Component, Dataset, Loss, Split, Train

log = logging.getLogger(__name__)
LOSS_TABLES = {"image": IMAGE_LOSS, "label": LABEL_LOSS, "regularization": REGULARIZATION}
USED = {
    "ddf": tuple(LOSS_TABLES),
    "dvf": tuple(LOSS_TABLES),
    "conditional": ("label",),
}  # by DeepReg's methods
SMALL = 12  # voxels along each axis of the volumes that losses are tried with


def check(dataset: Dataset, train: Train, plain: Mapping, places: Places) -> None:
    """Check that the parts go together. What is odd but can be done is only a warning.

    Args:
        dataset, train: the two sections.
        plain: the same configuration as plain values.
        places: where each key was written.

    Raises:
        InputError: they do not; the message names the place and the key.
    """
    _check_groups(dataset, places)
    _check_labels(dataset, train, places)
    _check_objective(dataset, train, places)
    with _named(places, ("train", "optimizer"), train.optimizer.options):
        read_options(plain["train"]["optimizer"])
    sizes = _sizes(dataset)
    if sizes is not None:
        labeled = dataset.train is None or dataset.train.labeled
        with _named(places, ("train", "backbone"), train.backbone.options):
            _try_model(plain["train"], sizes, labeled)
    for key, loss in _losses(train):
        if loss.weight != 0:
            with _named(places, key, loss.options):
                _try_loss(loss, key[2], (sizes or [(SMALL,) * 3])[0])
    augmentation = ("train", "preprocess", "data_augmentation")
    for key, part in _numbered(augmentation, train.preprocess.data_augmentation):
        with _named(places, key, part.options):
            AUGMENTATIONS[part.name](**part.options)


@contextmanager
def _named(places: Places, key: Key, options: Mapping):
    """What fails inside is an error of this key, or of that option of it which the sentence names first.

    Parts of a user's own may fail with anything.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        words = [word for word in re.findall(r"\w+", text) if word in options]
        text = text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
        raise places.error((*key, *words[:1]), f"can't be used: {text}") from error


def _check_groups(dataset: Dataset, places: Places) -> None:
    share = dataset.intra_group_prob
    if dataset.sample_image_in_group is False and share is not None and 0 < share < 1:
        sentence = (
            f"is {share}, but with sample_image_in_group false all pairs are taken, either within groups "
            "(1) or between them (0)"
        )
        raise places.error(("dataset", "intra_group_prob"), sentence)


def _check_labels(dataset: Dataset, train: Train, places: Places) -> None:
    if train.method != "conditional":
        return
    for name in ("train", "valid"):
        split: Split | None = getattr(dataset, name)
        if split is not None and not split.labeled:
            sentence = "is false, but the method conditional predicts labels and needs labelled data"
            raise places.error(("dataset", name, "labeled"), sentence)


def _numbered(key: Key, parts: tuple) -> list[tuple[Key, Component | Loss]]:
    """The parts of a section with their keys, which are numbered if there are several."""
    return [(key if len(parts) == 1 else (*key, i), part) for i, part in enumerate(parts)]


def _losses(train: Train) -> list[tuple[Key, Loss]]:
    """All losses with their keys."""
    sections = ((("train", "loss", name), getattr(train.loss, name)) for name in LOSS_TABLES)
    numbered = (pair for key, losses in sections for pair in _numbered(key, losses))
    return [(key, loss) for key, loss in numbered if isinstance(loss, Loss)]


def _check_objective(dataset: Dataset, train: Train, places: Places) -> None:
    if getattr(MODELS[train.method], "own_loss", False):
        for key, loss in _losses(train):
            raise places.error(key, f"names the loss {loss.name}, but the method {train.method} has its own")
        return
    labeled = dataset.train is None or dataset.train.labeled
    measured = dataset.valid is not None and dataset.valid.labeled
    used = []
    for key, loss in _losses(train):
        section = key[2]
        if loss.weight == 0:
            log.info("%s: the loss %s has the weight 0 and is left out", places.of(key), loss.name)
        elif section == "label" and not labeled:
            where = "in validation only" if measured else "nowhere"
            text = "%s: the loss %s of labels is used %s, since the data for training have no labels"
            log.warning(text, places.of(key), loss.name, where)
        elif section not in USED.get(train.method, LOSS_TABLES):
            text = "%s: the %s loss %s is not used by the method %s"
            log.info(text, places.of(key), section, loss.name, train.method)
        else:
            used.append(section)
    if not used:
        without = "" if labeled else " for data without labels"
        sentence = f"holds no loss that the method {train.method} could make small{without}"
        raise places.error(("train", "loss"), sentence)


def _sizes(dataset: Dataset) -> tuple | None:
    """The grids of fixed and moving images; None where a loader of one's own says it otherwise."""
    fixed, moving = dataset.fixed_image_shape, dataset.moving_image_shape
    if dataset.image_shape is not None:
        fixed = moving = dataset.image_shape
    return None if fixed is None or moving is None else (fixed, moving)


def _try_model(train: Mapping, sizes: tuple, labeled: bool) -> None:
    """Make the model without memory for its weights, or with it where a network of one's own needs that."""
    try:
        with torch.device("meta"):
            build_model(train, *sizes, labeled=labeled)
    except InputError:
        raise
    except Exception:
        with torch.random.fork_rng(devices=[]):
            build_model(train, *sizes, labeled=labeled)


@torch.no_grad()
def _try_loss(loss: Loss, section: str, size: tuple) -> None:
    """One value of a loss with its options, on volumes of zeros that are small but not larger than needed."""
    function = LOSS_TABLES[section].names()[loss.name]
    shape = [min(n, SMALL) for n in size]
    options = {name: value for name, value in loss.options.items() if (name, value) != ("spacing", "image")}
    one = partial(function, **options)
    if section == "regularization":
        field = torch.zeros(1, 3, *shape)
        one(*([field] * 2 if loss.name in BIDIRECTIONAL_LOSSES else [field]))
    else:
        one(torch.zeros(1, 1, *shape), torch.zeros(1, 1, *shape))
