"""Configurations of DeepReg 0.1.1 brought to the present form, with a sentence for each change."""

from dataclasses import dataclass, field

from RegCore.io.yaml import Key, dotted

LABEL_LOSSES = {"mean-squared": "ssd", "dice_generalized": "dice", "generalised_dice": "generalised-dice"}
SPLITS = ("train", "valid", "test")
ABSENT = object()  # in place of a folder that a file does not name
SPLIT_SECTIONS = (
    "dataset.dir, format and labeled now stand in each of the sections train, valid, test"  # of a change
)
LOSS_OPTIONS = {"neg_weight": "background_weight", "loss_scales": "scales"}
OPTIMISERS = {"adam": "Adam", "sgd": "SGD", "rms": "RMSprop"}
ENERGIES = {
    "bending": {"name": "bending"},
    "gradient-l1": {"name": "gradient", "l1": True},
    "gradient-l2": {"name": "gradient", "l1": False},
}


@dataclass
class Upgrade:
    """A configuration in the present form, what was changed, and where moved keys stood before."""

    values: dict
    changes: list[str] = field(default_factory=list)
    moved: dict[Key, Key] = field(default_factory=dict)

    def note(self, sentence: str, new: Key | None = None, old: Key | None = None) -> None:
        """Remember a change, and that what stands under `new` was written under `old`."""
        self.changes.append(sentence)
        if new is not None:
            self.moved[new] = old


def upgraded(values: dict) -> Upgrade:
    """The configuration as DeepReg's own upgrade gives it; what is of no known older form stays as it is.

    Unlike DeepReg's it keeps ``kernel`` and ``neg_weight`` of multi-scale losses, which DeepReg drops. The
    values themselves are not changed.
    """
    up = split_sections(values)
    dataset, train = up.values.get("dataset"), up.values.get("train")
    if isinstance(dataset, dict):
        up.values["dataset"] = _dataset(dict(dataset), up)
    if isinstance(train, dict):
        train = _model(dict(train), up)
        if isinstance(train.get("loss"), dict):
            train["loss"] = _losses(dict(train["loss"]), up)
        if isinstance(train.get("optimizer"), dict):
            train["optimizer"] = _optimizer(train["optimizer"], up)
        if isinstance(train.get("preprocess"), dict):
            train["preprocess"] = _augmentation(dict(train["preprocess"]), up)
        up.values["train"] = train
    return up


def split_sections(values: dict) -> Upgrade:
    """``dir``, ``format`` and ``labeled`` of all splits: to each split, whose section they may complete.

    Of several files that are merged each is to be changed so, before they are: then a later file of the older
    form changes one of the present form, and the other way round. The values themselves are not changed.
    """
    up = Upgrade(dict(values))
    dataset = values.get("dataset")
    if not isinstance(dataset, dict):
        return up
    folders, dataset = dataset.get("dir"), dict(dataset)
    common = {key: dataset[key] for key in ("format", "labeled") if key in dataset}
    if folders is None and common and not any(split in dataset for split in SPLITS):
        folders = dict.fromkeys(SPLITS, ABSENT)  # a file that changes these two alone
    if not isinstance(folders, dict):
        return up
    for key in ("dir", *common):
        dataset.pop(key, None)
    for split, folder in folders.items():
        section = dataset.get(split) if isinstance(dataset.get(split), dict) else {}
        where = {} if folder is ABSENT else {"dir": folder}
        dataset[split] = {**section, **where, **common}
        for key in (*where, *common):
            old = ("dataset", key, split) if key == "dir" else ("dataset", key)
            up.moved[("dataset", split, key)] = old
    up.values["dataset"] = dataset
    up.note(SPLIT_SECTIONS)
    return up


def _dataset(dataset: dict, up: Upgrade) -> dict:
    """``None`` is a text in YAML: null."""
    if dataset.get("sample_label") == "None":
        dataset["sample_label"] = None
        up.note("dataset.sample_label was the text None and is now null")
    return dataset


def _model(train: dict, up: Upgrade) -> dict:
    """``model: {method, backbone: NAME, NAME: {…}}``: to ``method`` and ``backbone: {name: NAME, …}``."""
    model = train.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), str):
        return train
    del train["model"]
    name, old = model["backbone"], ("train", "model")
    options = dict(model.get(name) or {})
    if "method" in model:
        train["method"] = model["method"]
        up.moved[("train", "method")] = (*old, "method")
    if name == "global" and isinstance(options.get("extract_levels"), list) and options["extract_levels"]:
        options["depth"] = max(options.pop("extract_levels"))
        up.note("train.backbone.depth is the greatest of the former extract_levels")
    train["backbone"] = {"name": name, **options}
    up.note("train.model became train.method and train.backbone", ("train", "backbone"), (*old, name))
    up.moved[("train", "backbone", "name")] = (*old, "backbone")
    unused = [key for key in model if key not in ("method", "backbone", name)]
    if unused:
        up.note(f"train.model.{', '.join(unused)} described what is not used, and is left out")
    return train


def _losses(loss: dict, up: Upgrade) -> dict:
    key = ("train", "loss")
    if isinstance(loss.get("dissimilarity"), dict):
        for name, section in loss.pop("dissimilarity").items():
            loss[name] = section
            up.moved[(*key, name)] = (*key, "dissimilarity", name)
        up.note("train.loss.dissimilarity.image and label now stand in train.loss")
    for name, change in (("image", _image), ("label", _label), ("regularization", _regularization)):
        if isinstance(loss.get(name), dict):
            loss[name] = change(dict(loss[name]), (*key, name), up)
    return loss


def _image(loss: dict, key: Key, up: Upgrade) -> dict:
    """``{name: lncc, lncc: {…}}``: to one level."""
    name = loss.get("name")
    if not isinstance(name, str) or not isinstance(loss.get(name), dict):
        return loss
    up.note(f"{dotted(key)}.{name} is now one level higher")
    return {"name": name, "weight": loss.get("weight", 1.0), **loss[name]}


def _label(loss: dict, key: Key, up: Upgrade) -> dict:
    """``multi_scale`` and ``single_scale``: to the loss that they are made of; renamed losses and options."""
    kind = loss.get("name")
    inner = loss.get(kind) if kind in ("multi_scale", "single_scale") else None
    if isinstance(inner, dict) and "loss_type" in inner:
        options = {name: value for name, value in inner.items() if name != "loss_type"}
        loss = {"name": inner["loss_type"], "weight": loss.get("weight", 1.0), **options}
        up.note(f"{dotted(key)}.{kind} became the loss {inner['loss_type']}", key, (*key, kind))
        up.moved[(*key, "name")] = (*key, kind, "loss_type")
        up.moved[(*key, "weight")] = (*key, "weight")
    for old, new in LOSS_OPTIONS.items():
        if old in loss and new not in loss:
            loss[new] = loss.pop(old)
            up.note(f"{dotted(key)}.{old} is now named {new}")
    name = loss.get("name")
    new = LABEL_LOSSES.get(name.lower()) if isinstance(name, str) else None
    if new:
        up.note(f"{dotted(key)}.name was {loss['name']} and is now {new}")
        loss["name"] = new
    return loss


def _regularization(loss: dict, key: Key, up: Upgrade) -> dict:
    """``energy_type``: to the name and the option of the loss."""
    energy = loss.get("energy_type")
    if not isinstance(energy, str) or energy not in ENERGIES:
        return loss
    rest = {name: value for name, value in loss.items() if name not in ("energy_type", "weight")}
    up.note(f"{dotted(key)}.energy_type {energy} is now a name", (*key, "name"), (*key, "energy_type"))
    return {"weight": loss.get("weight", 1.0), **rest, **ENERGIES[energy]}


def _optimizer(optimizer: dict, up: Upgrade) -> dict:
    """``{name: adam, adam: {…}}``: to Keras's name and one level."""
    name = optimizer.get("name")
    if not isinstance(name, str) or name not in OPTIMISERS or not isinstance(optimizer.get(name), dict):
        return optimizer
    key = ("train", "optimizer")
    up.note(f"train.optimizer.{name} is now {OPTIMISERS[name]}, one level higher", key, (*key, name))
    up.moved[(*key, "name")] = (*key, "name")
    return {"name": OPTIMISERS[name], **optimizer[name]}


def _augmentation(preprocess: dict, up: Upgrade) -> dict:
    """Without the key: the affine augmentation that used to be there for all."""
    if "data_augmentation" in preprocess:
        return preprocess
    preprocess["data_augmentation"] = {"name": "affine"}
    up.note(
        "train.preprocess.data_augmentation is now affine, because it was not given (write null for none)"
    )
    return preprocess
