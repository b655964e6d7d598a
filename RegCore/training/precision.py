"""Whether a network learns faster in bfloat16 on this machine, found out by trying."""

import time
from collections.abc import Callable

import torch
from torch import nn

TRIES = 3  # of each kind after one to warm up; the fastest counts
GAIN = 0.85  # bfloat16 must take less than this part of the time to be worth its rounding


def _seconds(model: nn.Module, step: Callable[[bool], object], bf16: bool) -> float:
    """Fastest forward and backward pass; the gradients it leaves are cleared.

    On the CPU in processor time, all threads: other programs that share the machine decide nothing.
    """
    cuda, best = next(model.parameters()).is_cuda, float("inf")
    clock = time.perf_counter if cuda else time.process_time
    for _ in range(1 + TRIES):
        if cuda:
            torch.cuda.synchronize()
        began = clock()
        step(bf16)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - began)
        model.zero_grad(set_to_none=True)
    return best


def bf16_pays(model: nn.Module, step: Callable[[bool], object]) -> bool:
    """Whether a forward and a backward pass take clearly less time in bfloat16.

    Args:
        model: its moving averages are restored afterwards, its gradients cleared.
        step: makes both passes, in bfloat16 if it is given True.
    """
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        return _seconds(model, step, True) < GAIN * _seconds(model, step, False)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
