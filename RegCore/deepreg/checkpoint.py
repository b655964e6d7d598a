"""Brings a network that DeepReg trained, a checkpoint of TensorFlow, into this program.

DeepReg keeps a model under ``logs/NAME``: ``config.yaml`` and ``save/ckpt-N`` with its index and data files.
The network computes here what it computed there.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from RegCore.deepreg.keras_weights import to_state
from RegCore.deepreg.tfbundle import Node, index_path, read_bundle, read_object_graph
from RegCore.deepreg.upgrade import upgraded
from RegCore.io.yaml import Places, plain, read_files
from RegCore.networks.model_file import Model, build, save_model
from RegCore.space.geometry import InputError

VALUE = "VARIABLE_VALUE"  # TensorFlow's name for the value of an object that is a variable
OUTPUTS = "output_block.layers."  # where the networks have the convolutions of the extracted levels
LONGEST_PATH = 1000  # letters


def import_checkpoint(prefix, config=None, out=None, *, deepreg: bool = True) -> Model:
    """The model of a checkpoint that DeepReg wrote, set to predict; also as a model file if `out` is given.

    Args:
        prefix: ``…/save/ckpt-N``, or one of the files of this name.
        config: the configuration: a mapping, or a path or several of YAML files, also of DeepReg 0.1.1;
            ``../config.yaml`` if not given.
        out: path of the model file.

        deepreg: the configuration of the model will say ``deepreg: true`` in its section train, so that it
            computes what DeepReg computes. Else the outputs are put at the levels that DeepReg took them
            from, for networks without that option; a velocity field is integrated with its edge going on.

    Raises:
        InputError: a file is missing or damaged, the configuration does not describe a network, or the
            weights are not those of this network; the sentence names the file, and the weight.
    """
    index = index_path(prefix)
    weights = read_weights(prefix)
    source, config = _configuration(index, config)
    try:
        train = _train(config, deepreg)
        if not deepreg:
            weights = _at_their_levels(train["backbone"], weights)
        made = build({**config, "train": train}, *_sizes(config))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    try:
        made.network.backbone.load_state_dict(to_state(weights, made.network.backbone))
    except InputError as error:
        raise InputError(f"{index}: with {source}, {error}") from None
    made.network.eval()
    if out is not None:
        save_model(out, made)
    return made


def read_weights(prefix) -> dict[str, np.ndarray]:
    """Weights and moving averages of the network in a checkpoint of DeepReg, by DeepReg's attributes.

    The paths begin below the network: ``encode_convs.0.0.layer.kernel``. Layouts are those of Keras. What the
    optimiser keeps, counters and metrics are left out.

    Raises:
        InputError: it holds other weights.
    """
    index, nodes = index_path(prefix), read_object_graph(prefix)
    keys = _paths(nodes, _network(nodes))
    known = {*keys.values(), *_optimisers_keys(nodes)}
    named = {node.keys[VALUE] for node in nodes if VALUE in node.keys}
    others = read_bundle(prefix, sorted(named - known))
    outside = [key for key, value in others.items() if value.ndim]  # a counter or a metric has no axis
    if not keys or outside:
        what = f"holds weights outside of the network: {outside[0]}" if outside else "holds no network"
        raise InputError(f"{index}: this is not a checkpoint of DeepReg: it {what}")
    values = read_bundle(prefix, list(keys.values()))
    return {path: values[key] for path, key in keys.items()}


# ---- the objects of the checkpoint -------------------------------------------------------------------------


def _network(nodes: list[Node]) -> int:
    """The node of the network: the only layer with weights of the Keras model inside DeepReg's model."""
    at = 0
    for name in ("model", "_model", "layer_with_weights-0"):  # save_weights leaves out the first of them
        at = nodes[at].children.get(name, at)
    return at


def _paths(nodes: list[Node], start: int) -> dict[str, str]:
    """Keys of all variables below a node by the attributes that lead there, the shortest way to each."""
    found, seen, ways = {}, {start}, [(start, "")]
    for at, path in ways:  # it grows
        if VALUE in nodes[at].keys:
            found[path] = nodes[at].keys[VALUE]
        for name, child in nodes[at].children.items():
            if child in seen or name.startswith("layer-") or len(path) > LONGEST_PATH:
                continue  # layer-N counts layers without weights, too; layer_with_weights-N does not
            seen.add(child)
            ways.append((child, f"{path}.{_attribute(name)}".lstrip(".")))
    return found


def _attribute(name: str) -> str:
    """DeepReg's private attributes lose their underscore; a layer of a sequence is its number."""
    return name.removeprefix("layer_with_weights-").lstrip("_")


def _optimisers_keys(nodes: list[Node]) -> set[str]:
    """Keys of what optimisers keep: below their objects, or, before TensorFlow 2.11, beside each variable."""
    kept = {slot for node in nodes for slot in node.slots}
    keys = {nodes[slot].keys[VALUE] for slot in kept if VALUE in nodes[slot].keys}
    for node in nodes:
        if "optimizer" in node.children:
            keys |= set(_paths(nodes, node.children["optimizer"]).values())
    return keys


# ---- the configuration -------------------------------------------------------------------------------------


def _configuration(index: Path, config) -> tuple[str, dict]:
    """Where the configuration comes from, in words, and what it says, in the present form."""
    if isinstance(config, Mapping):
        return "the configuration", upgraded(plain(config, Places("the configuration"))).values
    if config is None:
        config = index.parent.parent / "config.yaml"
        if not config.is_file():
            hint = "put it there, or make a model file with regcore import-checkpoint --config"
            raise InputError(f"{index}: the configuration of its training, {config}, is missing; {hint}")
    values, places = read_files([config] if isinstance(config, str | Path) else config, None)
    return places.default, upgraded(values).values


def _train(config: Mapping, deepreg: bool) -> dict:
    """The section train of a configuration for what DeepReg made of it."""
    train = config.get("train")
    if not isinstance(train, Mapping) or not isinstance(train.get("backbone"), Mapping):
        raise InputError("the configuration lacks the section train with a backbone")
    backbone = dict(train["backbone"])
    if backbone.get("name") == "local":
        backbone.pop("encode_kernel_sizes", None)  # DeepReg takes 7, 3, 3, … whatever is written there
    return {**train, "backbone": backbone, "deepreg": deepreg}


def _at_their_levels(backbone: dict, weights: dict) -> dict:
    """The weights with output convolutions in the order of the levels that DeepReg took them from.

    There the output of level L is that of level min + max - L; `backbone` gets these levels, ascending.
    """
    levels = backbone.get("extract_levels")
    if backbone.get("name") not in ("unet", "local") or not _whole_numbers(levels):
        return weights  # one output, or nothing that a network could be built of
    used = [min(levels) + max(levels) - level for level in levels]
    backbone["extract_levels"] = sorted(used)
    places = {f"{OUTPUTS}{old}.": f"{OUTPUTS}{sorted(used).index(level)}." for old, level in enumerate(used)}
    moved = {}
    for path, value in weights.items():
        old = next((old for old in places if path.startswith(old)), "")
        moved[places.get(old, "") + path.removeprefix(old)] = value
    return moved


def _whole_numbers(levels) -> bool:
    return isinstance(levels, list) and bool(levels) and all(isinstance(level, int) for level in levels)


def _sizes(config: Mapping) -> tuple[list, list, bool]:
    """Sizes of fixed and moving images, and whether labels took part, from the section dataset."""
    dataset = config.get("dataset")
    if not isinstance(dataset, Mapping):
        raise InputError("the configuration lacks the section dataset, which has the sizes of the images")
    sizes = []
    for name in ("fixed_image_shape", "moving_image_shape"):
        size = dataset.get(name, dataset.get("image_shape"))
        if not isinstance(size, list | tuple):
            raise InputError(f"the section dataset lacks {name} or image_shape")
        sizes.append(list(size))
    splits = [dataset[name] for name in ("train", "valid", "test") if isinstance(dataset.get(name), Mapping)]
    return *sizes, bool(splits and splits[0].get("labeled", False))
