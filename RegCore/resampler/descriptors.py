"""Descriptors that look alike in any contrast: the self-similarity context MIND-SSC."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from RegCore.resampler import box_mean, replicate_pad_transposed

LOW, HIGH = 0.001, 1000.0  # bounds of the variance in units of its mean over the image
TINY = 1e-30  # a variance that stands for none: the image is flat
SMALLEST = 1e-38  # descriptors below it count as this: their logarithm is multiplied by nothing

# The six difference vectors between edge-adjacent neighbours: axis pairs, first sign +, second + or -.
_PAIRS = [(i, j, sign) for i, j in ((0, 1), (0, 2), (1, 2)) for sign in (1, -1)]


def _shifted(x: torch.Tensor, offset: Sequence[int], margin: int) -> torch.Tensor:
    """View of ``x`` without ``margin`` voxels on each side, moved by ``offset``."""
    for d, o in enumerate(offset):
        x = x.narrow(d + 2, margin + o, x.shape[d + 2] - 2 * margin)
    return x


def _pairs(dilation: int) -> Iterator[tuple[tuple[list[int], list[int]], list[int]]]:
    """The six differences: (offsets of the two neighbour pairs that share one, vector between neighbours)."""
    for i, j, sign in _PAIRS:
        a, b = [0, 0, 0], [0, 0, 0]
        a[i], b[j] = dilation, sign * dilation
        yield (a, [-q for q in b]), [q - p for p, q in zip(a, b, strict=True)]


def _replicate_pad_transposed(x: torch.Tensor, margin: int) -> torch.Tensor:
    """The transpose of replicating the edges ``margin`` times: what lies beyond an edge is added to it."""
    for dim in (2, 3, 4):
        x = replicate_pad_transposed(x, dim, margin)
    return x


def _box_mean_transposed(x: torch.Tensor, radius: int) -> torch.Tensor:
    """The transpose of `box_mean`."""
    if radius == 0:
        return x
    wide = F.pad(x, (2 * radius,) * 6)  # so that no window meets an edge that is replicated
    return _replicate_pad_transposed(_shifted(box_mean(wide, radius), (0, 0, 0), radius), radius)


class _SelfSimilarity(torch.autograd.Function):
    """The descriptors ``(B, 12, I, J, K)`` of an image, and their derivative in closed form.

    It keeps the descriptors and one variance, where autograd would keep some forty volumes.
    """

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, radius: int, dilation: int) -> torch.Tensor:
        padded = F.pad(image, (2 * dilation,) * 6, mode="replicate")
        channels = []
        for offsets, vector in _pairs(dilation):
            difference = _shifted(padded, (0, 0, 0), dilation) - _shifted(padded, vector, dilation)
            distance = box_mean(difference.square_(), radius)
            channels += [_shifted(distance, offset, dilation) for offset in offsets]
        distance = torch.cat(channels, 1)
        distance -= distance.amin(1, keepdim=True)
        spread = distance.mean(1, keepdim=True)
        mean = spread.mean(dim=(2, 3, 4), keepdim=True)
        variance = torch.minimum(torch.maximum(spread, LOW * mean), HIGH * mean).clamp_min_(TINY)
        found = torch.exp_(distance.div_(variance).neg_())
        if ctx.needs_input_grad[0]:
            # which bound of the variance is at work: -1 the lower, 1 the upper, 0 none
            bound = (spread > HIGH * mean).to(torch.int8) - (spread < LOW * mean).to(torch.int8)
            ctx.save_for_backward(image, found, variance, bound)
            ctx.radius, ctx.dilation = radius, dilation
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        image, found, variance, bound = ctx.saved_tensors
        priced = grad * found
        share = (priced * found.clamp_min(SMALLEST).log()).sum(1, keepdim=True).neg_().div_(variance)
        free = bound == 0
        mean = LOW * _over_voxels(share, bound == -1) + HIGH * _over_voxels(share, bound == 1)
        share.mul_(free).add_(mean / share[0, 0].numel())  # d / d (mean of the distances at a voxel)
        slope = priced.div_(variance).neg_().add_(share, alpha=1 / 12)
        least = (found == 1).to(found.dtype)
        slope -= least.mul_(slope.sum(1, keepdim=True) / least.sum(1, keepdim=True))
        slope.masked_fill_(variance <= TINY, 0)
        return _to_image(image, slope, ctx.radius, ctx.dilation), None, None


def _over_voxels(x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Sum of ``x`` over the voxels of a mask, ``(B, 1, 1, 1, 1)``."""
    return (x * where).sum(dim=(2, 3, 4), keepdim=True)


def _to_image(image: torch.Tensor, slope: torch.Tensor, radius: int, dilation: int) -> torch.Tensor:
    """The derivative by the image, from that by the twelve patch distances ``(B, 12, I, J, K)``."""
    padded = F.pad(image, (2 * dilation,) * 6, mode="replicate")
    out = torch.zeros_like(padded)
    for n, (offsets, vector) in enumerate(_pairs(dilation)):
        views = [_shifted(x, (0, 0, 0), dilation) for x in (padded, out)]
        neighbours = [_shifted(x, vector, dilation) for x in (padded, out)]
        distance = torch.zeros_like(views[0])
        for c, offset in enumerate(offsets):
            _shifted(distance, offset, dilation).add_(slope[:, 2 * n + c : 2 * n + c + 1])
        difference = _box_mean_transposed(distance, radius).mul_(views[0] - neighbours[0]).mul_(2)
        views[1].add_(difference)
        neighbours[1].sub_(difference)
    return _replicate_pad_transposed(out, 2 * dilation)


def mind_ssc(image: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:
    """The self-similarity context of an image (Heinrich et al., MICCAI 2013).

    For each of the 12 pairs (a, b) of the six neighbours at ``dilation`` voxels that are not opposite, the
    distance D is the mean over a (2 radius + 1)^3 patch of (I(x + a) - I(x + b))^2; the descriptor is
    exp(-(D - min D) / V) with V the mean of D - min D over the pairs, kept within [0.001, 1000] of its mean
    over the image. Two pairs share one difference image, so six patch sums serve for twelve channels. Once
    differentiable in the image.

    Args:
        image: ``(B, 1, I, J, K)``, any contrast and unit.
        radius: of the patch, in voxels.
        dilation: distance of the neighbours, in voxels.

    Returns:
        ``(B, 12, I, J, K)`` in [0, 1]; 1 everywhere where the image is flat.
    """
    return _SelfSimilarity.apply(image, radius, dilation)


def local_contrast(image: torch.Tensor, *, radius: int = 3) -> torch.Tensor:
    """Each voxel against its neighbourhood: (I - mean) / (SD + 0.1 mean SD), clipped to 3, put in [-1, 1].

    The squared distance of two such maps behaves as the local correlation of the images does, and does not
    care for slow changes of brightness; it means something for images of one modality only.

    Args:
        image: ``(B, 1, I, J, K)``.
        radius: of the neighbourhood, a cube of side 2 radius + 1 voxels.

    Returns:
        ``(B, 1, I, J, K)`` in [-1, 1].
    """
    mean = box_mean(image, radius)
    spread = (box_mean(image * image, radius) - mean * mean).clamp_min_(0).sqrt_()
    floor = 0.1 * spread.mean(dim=(2, 3, 4), keepdim=True)
    return ((image - mean) / (spread + floor).clamp_min_(1e-30)).clamp_(-3, 3) / 3
