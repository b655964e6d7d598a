"""Weights as Keras keeps them, by path, and as torch keeps them: `to_state` and `from_state`.

A path is that of DeepReg's attributes below the network, ``encode_convs.0.0.layer.kernel``; ours differs by
its last word only (``….weight``), as the networks name their parts alike. Kernels of convolutions, plain or
transposed, are ``(k, k, k, in, out)`` or ``(k, k, k, out, in)`` there and have their axes reversed in pairs
here, nothing is flipped; matrices of dense layers are transposed.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from RegCore.space.geometry import InputError

NORM_WORDS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
WORDS = {"weight": "kernel"}
COUNTER = "num_batches_tracked"  # torch counts the training steps of a batch normalisation, Keras does not


def _paths(network: nn.Module) -> dict[str, str]:
    """Keras's path of each of the network's parameters and moving averages, by torch's."""
    out = {}
    for name in network.state_dict():
        owner, _, word = name.rpartition(".")
        if word == COUNTER:
            continue
        module = network.get_submodule(owner)
        norm = getattr(module, "weight", None) is not None and module.weight.ndim == 1
        word = (NORM_WORDS if norm else WORDS).get(word, word)
        out[name] = f"{owner}.{word}" if owner else word
    return out


def _to_torch(array: np.ndarray) -> np.ndarray:
    """Axes of a kernel in torch's order; its own inverse up to `_to_keras`."""
    return array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array.T


def _to_keras(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array.T


def to_state(weights: Mapping[str, np.ndarray], network: nn.Module) -> dict[str, torch.Tensor]:
    """Keras's weights as a state that ``network.load_state_dict`` takes.

    Args:
        weights: arrays by path; of a method's network, pass ``model.backbone`` as the network.
        network: what they are for; not changed. Its dtypes and its counters of steps are taken over.

    Raises:
        InputError: a weight is missing, is not of this network, or has another shape.
    """
    paths, state = _paths(network), network.state_dict()
    missing = [path for path in paths.values() if path not in weights]
    unknown = sorted(set(weights) - set(paths.values()))
    for what, found in (("lack", missing), ("hold what the network lacks:", unknown)):
        if found:
            raise InputError(
                f"the weights do not fit the network: they {what} {found[0]}"
                + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            )
    for name, path in paths.items():
        array = np.asarray(weights[path])
        wanted = tuple(_to_keras(np.empty(state[name].shape, np.bool_)).shape)
        if array.shape != wanted:
            raise InputError(
                f"the weight {path} has the shape {array.shape}, but this network expects {wanted}"
            )
        state[name] = torch.tensor(np.ascontiguousarray(_to_torch(array))).to(state[name])
    return state


def from_state(network: nn.Module) -> dict[str, np.ndarray]:
    """The parameters and moving averages of a network as Keras keeps them, by path: undoes `to_state`."""
    state = network.state_dict()
    return {
        path: np.ascontiguousarray(_to_keras(state[name].detach().cpu().numpy()))
        for name, path in _paths(network).items()
    }
