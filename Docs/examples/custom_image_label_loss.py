"""A loss of one's own, for images and labels: the root of the mean squared difference.

    regcore download
    regcore train --plugin Docs/examples/custom_image_label_loss.py \
        Docs/examples/custom_image_label_loss.yaml
"""

import torch

from RegCore.training.plugins import register_loss


@register_loss("root_mean_square")
def root_mean_square(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """Root of the mean of (f - w)^2 over channels and voxels, ``(B, C, I, J, K)`` twice -> ``(B,)``.

    The root has no finite slope at 0, so a little is added below it.
    """
    return (((fixed - warped) ** 2).flatten(1).mean(1) + 1e-12).sqrt()
