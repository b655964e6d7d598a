"""Whether a network learns faster in bfloat16 on this machine, found out by trying."""

import time

import torch
from torch import nn

TRIES = 3  # of each kind after one to warm up; the fastest counts
GAIN = 0.85  # bfloat16 must take less than this part of the time to be worth its rounding


def _seconds(model: nn.Module, images, half: bool) -> float:
    """Fastest forward and backward pass; the gradients it leaves are cleared."""
    device, best = images[0].device, float("inf")
    for _ in range(1 + TRIES):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            prediction = model(*images)
        answer = prediction.label if prediction.ddf is None else prediction.ddf
        answer.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
    return best


def half_precision_pays(model: nn.Module, fixed_image, moving_image, moving_label=None) -> bool:
    """Whether a pass forward and back takes clearly less time in bfloat16.

    The images are those of a batch, ``(B, 1, I, J, K)``. Moving averages are put back, gradients cleared.
    """
    images = (fixed_image, moving_image) + (() if moving_label is None else (moving_label,))
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        return _seconds(model, images, True) < GAIN * _seconds(model, images, False)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
