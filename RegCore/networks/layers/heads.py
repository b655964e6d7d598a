"""The ends of networks: outputs gathered from several levels, an affine map, and what turns them into fields.

Tensors are ``(B, C, I, J, K)``, fields in voxels.
"""

from collections.abc import Sequence

import torch
from torch import nn

from RegCore.networks.layers.convolution import ACTIVATIONS, Conv3d, lookup
from RegCore.resampler import affine_ddf, integrate, reference_grid, resize3d, warp_image_ddf
from RegCore.space.geometry import InputError

RIDGE = 0.01  # in squares of half the image's size, beside the spread of keypoints


class Extraction(nn.Module):
    """Mean of what convolutions (kernel 3, bias) make of several decoder levels, resized to the image.

    Args:
        channels: channels of the decoder's levels, from `min(extract_levels)` downwards.
        extract_levels: levels that are used; 0 is the full size.
        out_channels, out_kernel_initializer, out_activation: of the convolutions.
        deepreg: as DeepReg: the convolution of level L looks at level min + max - L. For gapless sets of
            levels these are the same levels in another order, for [0, 1, 3] they are the levels 3, 2, 0.

    ``forward(levels, shape)``: the decoder's tensors, finest first -> ``(B, out_channels, *shape)``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        extract_levels: Sequence[int],
        out_channels: int = 3,
        out_kernel_initializer: str = "zeros",
        out_activation: str | None = None,
        *,
        deepreg: bool = False,
    ):
        super().__init__()
        levels = sorted(extract_levels)
        if deepreg:
            levels = [levels[0] + levels[-1] - level for level in extract_levels]
        self.places = [level - min(extract_levels) for level in levels]
        start = out_kernel_initializer
        made = [
            Conv3d(channels[p], out_channels, use_bias=True, kernel_initializer=start) for p in self.places
        ]
        self.layers = nn.ModuleList(nn.ModuleList([convolution]) for convolution in made)
        self.act = lookup(ACTIVATIONS, out_activation, "activation")

    def forward(self, levels: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
        """Features ``(B, C, i, j, k)`` of all levels -> their mean answer ``(B, out_channels, *shape)``."""
        total = 0
        for place, (convolution,) in zip(self.places, self.layers, strict=True):
            made = self.act(convolution(levels[place])).contiguous()  # few channels are resized faster so
            made = made.to(torch.promote_types(made.dtype, torch.float32))  # half precision can't hold fields
            total = total + resize3d(made, shape, align_corners=False)
        return total / len(self.places)


class AffineHead(nn.Module):
    """A dense layer that gives the affine map of the whole image (Hu et al., ISBI 2018).

    Args:
        in_channels, in_shape: of the tensor it reads, which has a fixed size for that reason.
        image_size: shape of the field.

    ``(B, in_channels, *in_shape)`` -> the DDF ``(B, 3, *image_size)`` in voxels and theta ``(B, 4, 3)``:
    rows i, j, k and translation, new = [i j k 1] @ theta; begins near the identity.
    """

    def __init__(self, in_channels: int, in_shape: Sequence[int], image_size: Sequence[int]):
        super().__init__()
        self.image_size, self.in_shape = tuple(image_size), tuple(in_shape)
        self.dense = nn.Linear(in_channels * self.in_shape[0] * self.in_shape[1] * self.in_shape[2], 12)
        nn.init.xavier_uniform_(self.dense.weight)
        self.dense.bias.data = torch.eye(4, 3).flatten()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Deepest features ``(B, C, i, j, k)`` -> DDF ``(B, 3, I, J, K)`` in voxels, and theta ``(B, 4, 3)``.

        Raises:
            InputError: the features have another shape than those of the images the network was built for.
        """
        if tuple(x.shape[2:]) != self.in_shape:
            raise InputError(
                f"this network was built for images of {self.image_size} voxels, whose deepest level has"
                f" {self.in_shape}, but it came as {tuple(x.shape[2:])}"
            )
        with torch.autocast(x.device.type, enabled=False):  # half precision would move the border by a voxel
            features = x.to(torch.promote_types(x.dtype, self.dense.weight.dtype))
            theta = self.dense(features.movedim(1, -1).flatten(1)).view(-1, 4, 3)
        return affine_ddf(theta, self.image_size), theta


class KeypointHead(nn.Module):
    """Points of an image: the centres of mass of what a convolution (kernel 1) makes of its features.

    Of each of the convolution's answers the softmax over all cells tells the weight of every cell. Yu et al.,
    KeyMorph: Robust Multi-modal Affine Registration via Unsupervised Keypoint Detection, MIDL 2022, which
    weighs with the positive answers instead.

    Args:
        in_channels: of the features.
        keypoints: how many.
        cell: voxels of the image between two cells of the features.
        kernel_initializer: name in `INITIALISERS`.
    """

    def __init__(
        self, in_channels: int, keypoints: int, cell: int, kernel_initializer: str = "glorot_uniform"
    ):
        super().__init__()
        self.cell = cell
        self.layer = Conv3d(in_channels, keypoints, 1, kernel_initializer=kernel_initializer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(B, C, i, j, k)`` -> points ``(B, K, 3)``, voxels from the middle of the image."""
        with torch.autocast(x.device.type, enabled=False):  # half precision would move points by a voxel
            features = x.to(torch.promote_types(x.dtype, self.layer.weight.dtype))
            weights = self.layer(features).flatten(2).softmax(-1)
            places = reference_grid(x.shape[2:], dtype=weights.dtype, device=weights.device)[0].flatten(1)
            return self.cell * (weights @ (places - places.mean(1, keepdim=True)).T)


def fit_theta(fixed: torch.Tensor, moving: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The affine map that takes points to others, by least squares; gradients flow.

    The linear part is drawn towards the identity, the more the less the points spread, so that points in a
    plane or in one place have an answer as well.

    Args:
        fixed: points ``(B, K, 3)``, voxels from the middle of the image.
        moving: where each should come to lie, alike.
        shape: voxels (I, J, K) of the image.

    Returns:
        theta ``(B, 4, 3)``: new index = [i j k 1] @ theta.
    """
    half = torch.tensor(shape, dtype=fixed.dtype, device=fixed.device) / 2
    points, steps = fixed / half, (moving - fixed) / half
    middle, step = points.mean(1, keepdim=True), steps.mean(1, keepdim=True)
    spread = points - middle
    one = torch.eye(3, dtype=fixed.dtype, device=fixed.device)
    normal = spread.mT @ spread / fixed.shape[1] + RIDGE * one
    change = torch.linalg.solve(normal, spread.mT @ (steps - step) / fixed.shape[1])
    linear = one + change * half / half[:, None]
    origin = half - 0.5  # the middle of the image
    shift = origin + half * (step - middle @ change) - origin @ linear[:, None]
    return torch.cat([linear, shift.view(-1, 1, 3)], 1)


class IntDVF(nn.Module):
    """A stationary velocity field to the displacement it leads to; see `RegCore.resampler.integrate`."""

    def __init__(self, num_steps: int = 7, *, border: str = "edge"):
        super().__init__()
        self.num_steps, self.border = num_steps, border

    def forward(self, dvf: torch.Tensor) -> torch.Tensor:
        """Velocity field ``(B, 3, I, J, K)`` in voxels per unit time -> DDF of the same shape in voxels."""
        return integrate(dvf, self.num_steps, border=self.border)


class Warping(nn.Module):
    """An image pulled by a DDF; see `RegCore.resampler.warp_image_ddf`. ``forward(ddf, image)``."""

    def __init__(self, *, border: str = "edge", nearest: bool = False):
        super().__init__()
        self.border, self.nearest = border, nearest

    def forward(self, ddf: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """DDF ``(B, 3, I, J, K)`` in voxels, image ``(B, C, i, j, k)`` -> warped ``(B, C, I, J, K)``."""
        return warp_image_ddf(image, ddf, border=self.border, nearest=self.nearest)
