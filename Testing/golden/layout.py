"""Between DeepReg's arrays, channels last, and our tensors, channels first."""

import inspect

import numpy as np
import torch


def channels_first(array: np.ndarray) -> torch.Tensor:
    """``(B, ..., C)`` as a tensor ``(B, C, ...)``."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """A tensor ``(B, C, ...)`` as an array ``(B, ..., C)``."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def one_channel(array: np.ndarray) -> torch.Tensor:
    """``(B, ...)`` as ``(B, 1, I, J, K)``: DeepReg pools all that follows, so channels join the last axis."""
    shape = array.shape + (1,) * (4 - array.ndim)
    return torch.tensor(array).reshape(shape[0], 1, shape[1], shape[2], -1)


def as_deepreg(function, options: dict) -> dict:
    """The options, with DeepReg's behaviour asked for where the function knows a difference."""
    return {**options, "deepreg": True} if "deepreg" in inspect.signature(function).parameters else options
