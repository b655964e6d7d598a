"""Which device networks and optimisers compute on, and in which precision a network answers."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from RegCore.space.geometry import InputError
from RegCore.space.names import DEVICES, check_name

log = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)
Answer = TypeVar("Answer")


def device_of(network: nn.Module) -> torch.device:
    """Where a network is; the CPU if it has no parameters."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def all_finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether no number is NaN or infinite."""
    there = (tensor for tensor in tensors if tensor is not None and tensor.numel())
    return all(bool(torch.stack(tensor.aminmax()).isfinite().all()) for tensor in there)


def predicts_in_bf16(trained_so: bool | None, device: torch.device) -> bool:
    """Whether a network that was trained in bfloat16 predicts so, too: on CPUs with AMX tiles.

    There it takes about half of the time. What the processor has decides, not a trial, so that a machine
    always gives the same answer.
    """
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(trained_so) and device.type == "cpu" and has_amx()


def answer_of(
    network: nn.Module, ask: Callable[[], Answer], tensors: Callable[[Answer], Iterable[torch.Tensor | None]]
) -> Answer:
    """What a network answers; in float32 where its numbers are too large for half precision.

    That is for the precision of `torch.autocast` around the call. From the first answer on that overflowed,
    the network computes in float32, as one always does whose weights are in half precision, which torch can't
    compute with everywhere; a warning says so once.

    Args:
        network: in evaluation mode.
        ask: calls it, with images in float32.
        tensors: the numbers of an answer.

    Returns:
        The answer, which is not finite only if it is not in float32 either.
    """
    kind = device_of(network).type
    weights = next((p.dtype for p in network.parameters() if p.dtype in HALF), None)
    if weights is not None:
        log.warning("the network's weights are %s: it is made to compute in float32", weights)
        network.float()
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return ask()
    known = getattr(network, "overflows", False)
    if not known and all_finite(tensors(answer := ask())):
        return answer
    with torch.autocast(kind, enabled=False):
        answer = ask()
    if not known and all_finite(tensors(answer)):
        network.overflows = True  # type: ignore[assignment]
        text = "the network's numbers are too large for %s: from here on it computes in float32"
        log.warning(text, torch.get_autocast_dtype(kind))
    return answer


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
