"""Descriptors that look alike in any contrast: the self-similarity context MIND-SSC."""

import torch
import torch.nn.functional as F

from RegCore.resampler import box_mean

# The six difference vectors between edge-adjacent neighbours: axis pairs, first sign +, second + or -.
_PAIRS = [(i, j, sign) for i, j in ((0, 1), (0, 2), (1, 2)) for sign in (1, -1)]


def _shifted(x: torch.Tensor, offset, margin: int) -> torch.Tensor:
    """View of ``x`` without ``margin`` voxels on each side, moved by ``offset``."""
    for d, o in enumerate(offset):
        x = x.narrow(d + 2, margin + o, x.shape[d + 2] - 2 * margin)
    return x


def mind_ssc(image: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:
    """The self-similarity context of an image (Heinrich et al., MICCAI 2013).

    For each of the 12 pairs (a, b) of the six neighbours at ``dilation`` voxels that are not opposite, the
    distance D is the mean over a (2 radius + 1)^3 patch of (I(x + a) - I(x + b))^2; the descriptor is
    exp(-(D - min D) / V) with V the mean of D - min D over the pairs, kept within [0.001, 1000] of its mean
    over the image. Two pairs share one difference image, so six patch sums serve for twelve channels.

    Args:
        image: ``(B, 1, I, J, K)``, any contrast and unit.
        radius: of the patch, in voxels.
        dilation: distance of the neighbours, in voxels.

    Returns:
        ``(B, 12, I, J, K)`` in [0, 1]; 1 everywhere where the image is flat.
    """
    d = dilation
    padded = F.pad(image, (2 * d,) * 6, mode="replicate")
    channels = []
    for i, j, sign in _PAIRS:
        a, b = [0, 0, 0], [0, 0, 0]
        a[i], b[j] = d, sign * d
        vector = [q - p for p, q in zip(a, b, strict=True)]
        difference = _shifted(padded, (0, 0, 0), d) - _shifted(padded, vector, d)
        distance = box_mean(difference.square_(), radius)
        channels.append(_shifted(distance, a, d))
        channels.append(_shifted(distance, [-q for q in b], d))
    distance = torch.cat(channels, 1)
    distance -= distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    mean = variance.mean(dim=(2, 3, 4), keepdim=True)
    variance = torch.minimum(torch.maximum(variance, 0.001 * mean), 1000 * mean)
    return torch.exp_(distance.div_(variance.clamp_min_(1e-30)).neg_())


def local_contrast(image: torch.Tensor, *, radius: int = 3) -> torch.Tensor:
    """Each voxel against its neighbourhood: (I - mean) / (SD + 0.1 mean SD), clipped to 3, put in [-1, 1].

    The squared distance of two such maps behaves as the local correlation of the images does, and does not
    care for slow changes of brightness; it means something for images of one modality only.

    Args:
        image: ``(B, 1, I, J, K)``.
        radius: of the neighbourhood, a cube of side 2 radius + 1 voxels.
    """
    mean = box_mean(image, radius)
    spread = (box_mean(image * image, radius) - mean * mean).clamp_min_(0).sqrt_()
    floor = 0.1 * spread.mean(dim=(2, 3, 4), keepdim=True)
    return ((image - mean) / (spread + floor).clamp_min_(1e-30)).clamp_(-3, 3) / 3
