"""A network of one's own: two convolutions at full resolution, and one that makes the answer.

    regcore download
    regcore train --plugin Docs/examples/custom_backbone.py \
        Docs/examples/custom_backbone.yaml
"""

import torch
from torch import nn

from RegCore.networks.layers import ACTIVATIONS, INITIALISERS
from RegCore.training.plugins import register_backbone


@register_backbone("custom_backbone")
class CustomBackbone(nn.Module):
    """Sees 5 voxels along each axis: enough to show how it is done, too little for real images.

    Args:
        image_size: voxels (I, J, K) of the fixed image; not needed here.
        in_channels, out_channels: of the images that come in, of the field that goes out; from the method.
        out_kernel_initializer, out_activation: of the last convolution, from the method: zeros and none for a
            field, so that an untrained network moves nothing.
        num_channel_initial: channels in between, a key of the section backbone.

    ``(B, in_channels, I, J, K)`` -> ``(B, out_channels, I, J, K)``.
    """

    def __init__(
        self,
        image_size,
        *,
        in_channels: int,
        out_channels: int,
        out_kernel_initializer: str,
        out_activation: str | None,
        num_channel_initial: int,
    ):
        super().__init__()
        self.first = nn.Conv3d(in_channels, num_channel_initial, 3, padding=1)
        self.second = nn.Conv3d(num_channel_initial, num_channel_initial, 3, padding=1)
        self.last = nn.Conv3d(num_channel_initial, out_channels, 1)
        INITIALISERS[out_kernel_initializer](self.last.weight.data)
        nn.init.zeros_(self.last.bias)
        self.activation = ACTIVATIONS[out_activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.activation(self.last(x))
