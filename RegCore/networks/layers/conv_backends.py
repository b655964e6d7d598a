"""Backends of convolution: around what torch does slowly, or wrongly, on the CPU.

Images are ``(B, C, I, J, K)``, padding is the same on both sides of an axis.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

FOLD = 4  # voxels that are computed as channels where there are few of these
LANES = 16  # channels that oneDNN computes at once, wanted or not
WIDE, CHANNELS = 5, 4  # voxels of a kernel, channels, from which on a transform saves more time than it takes


def has_operators(*names: str) -> bool:
    """Whether this version of torch has ``torch.ops.aten.<name>``, of which it promises nothing.

    Args:
        names: ``operator`` or ``operator.overload``.
    """
    for name in names:
        operator, _, overload = name.partition(".")
        there = getattr(torch.ops.aten, operator, None)
        if there is None or (overload and not hasattr(there, overload)):
            return False
    return True


def _falls_to_slow_path(
    x: torch.Tensor, weight: torch.Tensor, strides: Sequence[int], padding: Sequence[int]
) -> bool:
    """Whether torch would not take oneDNN for this convolution, as for one image of few voxels in float32.

    Its other way unfolds the image and takes two to five times as long.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or len(x) > 1:
        return False
    choose = getattr(torch._C, "_select_conv_backend", None)
    if choose is None or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    chosen = choose(x, weight, None, list(strides), list(padding), [1, 1, 1], False, [0, 0, 0], 1)
    return "slow" in str(chosen).lower()


def _halves(x: torch.Tensor, count: int, size: int, stride: int, padding: int) -> torch.Tensor:
    """The two slabs ``(2, C, …)`` of an image that the halves of ``count`` output planes are made of."""
    half = (count + 1) // 2
    length = (half - 1) * stride + size
    x = F.pad(x, (0, 0, 0, 0, padding, max(half * stride + length - x.shape[2] - padding, 0)))
    return torch.cat([x.narrow(2, 0, length), x.narrow(2, half * stride, length)])


def _count(x: torch.Tensor, size: int, stride: int, padding: int) -> int:
    return (x.shape[2] + 2 * padding - size) // stride + 1


def _by_halves(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """A convolution of one image as that of a batch of two slabs, which torch gives to oneDNN at any size."""
    first = weight.shape[2], strides[0], padding[0]
    count = _count(x, *first)
    out = convolve(_halves(x, count, *first), weight, bias, strides, (0, *padding[1:]))
    return out.transpose(0, 1).flatten(1, 2)[None].narrow(2, 0, count)


def _folds(x: torch.Tensor, weight: torch.Tensor, strides: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether `_folded` is possible and faster: few output channels, on the CPU."""
    few = len(weight) * FOLD <= LANES and x.device.type == "cpu" and x.dtype != torch.float64
    same = strides[2] == 1 and weight.shape[4] == 2 * padding[2] + 1 == 3
    return few and same and x.shape[4] % FOLD == 0 and x.shape[4] >= 4 * FOLD


def _folded(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """A convolution that makes ``FOLD`` neighbours of the last axis as channels of one voxel.

    oneDNN computes 16 channels where 3 are wanted; so it wastes half as much of them. The kernel of each
    neighbour is the given one, shifted.
    """
    out, wide = len(weight), [F.pad(weight, (n, FOLD - 1 - n)) for n in range(FOLD)]
    bias = None if bias is None else bias.repeat(FOLD)
    channels = F.conv3d(x, torch.cat(wide), bias, (*strides[:2], FOLD), padding)
    neighbours = channels.movedim(1, -1).unflatten(-1, (FOLD, out))
    return neighbours.flatten(3, 4).movedim(-1, 1)


@lru_cache(maxsize=16)
def _transforms(size: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Matrices: ``(image @ x) * (kernel @ w) @ result`` is the "same" correlation along an axis.

    Of the discrete Fourier transform: that of a correlation is the product of those of image and kernel. A
    complex product takes three real ones, those of the real parts, the imaginary parts and the sums of both
    (Gauss). The zeros before the image are those behind it, so that ``size + kernel // 2`` frequencies do.

    Returns:
        ``(rows, size)`` for the image, ``(rows, kernel)``, ``(rows, size)``; rows are about 1.5 ``size``.
    """
    count = size + kernel // 2
    frequencies = np.arange(count // 2 + 1)
    real = (2 * frequencies) % count == 0
    weights = np.where(real, 1, 2)[:, None] / count
    image = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(size)) / count)
    shifted = np.exp(2j * np.pi * np.outer(frequencies, np.arange(kernel) - kernel // 2) / count)
    back = weights * image.conj()

    def three(wave: np.ndarray) -> np.ndarray:
        both = wave[~real]
        return np.concatenate([wave[real].real, both.real, both.imag, both.real + both.imag])

    # product p + iq = (m1 - m2) + i (m3 - m1 - m2); the image has the real part of what back makes of it
    c, s = back[~real].real, -back[~real].imag
    result = np.concatenate([back[real].real, c - s, -c - s, s])
    parts = three(image), three(shifted), result
    of_image, of_kernel, of_result = (torch.from_numpy(rows.astype(np.float32)) for rows in parts)
    return of_image, of_kernel, of_result


def _transforms_pay(
    x: torch.Tensor, weight: torch.Tensor, strides: Sequence[int], padding: Sequence[int]
) -> bool:
    """Whether `_transformed` is possible and faster: for wide kernels, in float32 on the CPU."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    size, kernel = x.shape[4], weight.shape[4]
    same = strides[2] == 1 and kernel == 2 * padding[2] + 1
    return same and kernel >= WIDE and size >= 3 * kernel and min(weight.shape[:2]) >= CHANNELS


def _rows(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``(B, C, I, J, K)`` -> ``(B, rows * C, I, J)``: the last axis transformed, into groups of channels."""
    rows = (matrix @ x.reshape(-1, x.shape[4]).T).view(len(matrix), len(x), -1).transpose(0, 1)
    return rows.reshape(len(x), -1, *x.shape[2:4])


def _voxels(y: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``(B, rows * C, I, J)`` -> ``(B, C, I, J, K)``: the adjoint of `_rows` for the transposed matrix."""
    count, batch = len(matrix), len(y)
    rows = y.view(batch, count, -1).transpose(0, 1).reshape(count, -1)
    return (rows.T @ matrix).view(batch, y.shape[1] // count, *y.shape[2:], matrix.shape[1])


def _transformed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """A convolution that is a product of transforms along the last axis, and a convolution along the others.

    Per voxel of that axis it takes 1.5 products of each row of the kernel in place of ``kernel``, at the
    accuracy of float32.
    """
    image, kernel, result = _transforms(x.shape[4], weight.shape[4])
    weights = _rows(kernel, weight[None].flatten(1, 2)).view(-1, *weight.shape[1:4])
    y = F.conv2d(_rows(image, x), weights, None, strides[:2], padding[:2], groups=len(image))
    y = _voxels(y, result)
    return y if bias is None else y + bias.view(-1, 1, 1, 1)


def _transformed_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: Sequence[int],
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The derivatives of `_transformed`, without strides and bias; see `convolution_gradients`."""
    image, kernel, result = _transforms(x.shape[4], weight.shape[4])
    weights = _rows(kernel, weight[None].flatten(1, 2)).view(-1, *weight.shape[1:4])
    rest = [1, 1], padding[:2], [1, 1], False, [0, 0], len(image), [*wanted, False]
    rows = _rows(result, grad), _rows(image, x)
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(*rows, weights, None, *rest)
    if by_x is not None:
        by_x = _voxels(by_x, image)
    if by_weight is not None:
        by_weight = _voxels(by_weight.view(1, -1, *weight.shape[2:4]), kernel)[0].view_as(weight)
    return by_x, by_weight


def _bfloat16_breaks(x: torch.Tensor, kernel: Sequence[int]) -> bool:
    """Whether torch would compute this in bfloat16 on the CPU, but the image is hardly wider than the kernel.

    The derivative by the weights then reads, and for kernels of 5 and 7 voxels writes, beyond its memory
    where the first axis is shorter than the kernel (torch 2.13); twice the kernel is well away from that.
    """
    low = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and low and any(n < 2 * k for n, k in zip(x.shape[2:], kernel, strict=True))


def _in_float32(
    function: Callable[..., torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """A small convolution in float32, its result in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        return function(x.float(), weight.float(), bias, strides, padding).to(torch.bfloat16)


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
) -> torch.Tensor:
    """`torch.nn.functional.conv3d`, by a faster or safer backend where there is one.

    Args:
        x: ``(B, C, I, J, K)``.
        weight: ``(filters, C, *kernel_size)``.
        bias: ``(filters,)``.
        strides: voxels from one output to the next, for each axis.
        padding: zeros on both sides of each axis.

    Returns:
        ``(B, filters, i, j, k)``.
    """
    if _bfloat16_breaks(x, weight.shape[2:]):
        return _in_float32(convolve, x, weight, bias, strides, padding)
    if _transforms_pay(x, weight, strides, padding):
        return _transformed(x, weight, bias, strides, padding)
    if _falls_to_slow_path(x, weight, strides, padding):
        return _by_halves(x, weight, bias, strides, padding)
    if _folds(x, weight, strides, padding):
        return _folded(x, weight, bias, strides, padding)
    return F.conv3d(x, weight, bias, strides, padding)


def convolution_gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    padding: Sequence[int],
    wanted: tuple[bool, bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Derivatives by image and weights of a `convolve` without strides and bias, given that by its result.

    Args:
        grad: the derivative by the result, in the dtype of image and weights.
        x: the image ``(B, C, I, J, K)``.
        weight: ``(filters, C, *kernel_size)``.
        padding: zeros on both sides of each axis.
        wanted: whether each derivative is; what is not wanted may be None.
    """
    if _bfloat16_breaks(x, weight.shape[2:]):
        both = convolution_gradients(grad.float(), x.float(), weight.float(), padding, wanted)
        by_x, by_weight = (None if part is None else part.to(x.dtype) for part in both)
        return by_x, by_weight
    one = [1, 1, 1]
    if _transforms_pay(x, weight, one, padding):
        return _transformed_gradients(grad, x, weight, padding, wanted)
    rest = [False, [0, 0, 0], 1, [*wanted, False]]
    if not _falls_to_slow_path(x, weight, one, padding):
        return torch.ops.aten.convolution_backward(grad, x, weight, None, one, padding, one, *rest)[:2]
    count, first = grad.shape[2], (weight.shape[2], 1, padding[0])
    slabs = _halves(x, count, *first)
    half = (count + 1) // 2
    grad = F.pad(grad, (0, 0, 0, 0, 0, 2 * half - count))[0].unflatten(1, (2, half)).transpose(0, 1)
    sides = one, [0, *padding[1:]], one
    by_slabs, by_weight, _ = torch.ops.aten.convolution_backward(grad, slabs, weight, None, *sides, *rest)
    if not wanted[0]:
        return None, by_weight
    by_x = F.pad(by_slabs[:1], (0, 0, 0, 0, 0, half))
    by_x.narrow(2, half, slabs.shape[2]).add_(by_slabs[1:])
    return by_x.narrow(2, padding[0], x.shape[2]), by_weight


def deconvolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int] = (0, 0, 0),
) -> torch.Tensor:
    """`torch.nn.functional.conv_transpose3d`, in float32 where bfloat16 is not safe."""
    if _bfloat16_breaks(x, weight.shape[2:]):
        return _in_float32(F.conv_transpose3d, x, weight, bias, strides, padding)
    return F.conv_transpose3d(x, weight, bias, strides, padding)
