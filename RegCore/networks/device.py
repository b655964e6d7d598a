"""Which device networks and optimisers compute on."""

import torch

from RegCore.space.geometry import InputError
from RegCore.space.names import DEVICES, check_name


def choose_device(device: str) -> str:
    """The torch device for a name: ``auto`` takes CUDA where there is one, else the CPU.

    Apple's MPS must be asked for: not every PyTorch samples volumes on it.

    Raises:
        InputError: the name is unknown, or this machine or this PyTorch lacks the device.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    check_name(device, DEVICES, "the device")
    if not there[device]:
        raise InputError(f"device {device} was asked for, but PyTorch finds none here; choose auto or cpu")
    return device
