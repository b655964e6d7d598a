"""A loss of one's own with an option: the mean of the p-th power of the difference, p being 1 or 2.

    regcore download
    regcore train --plugin Docs/examples/custom_parameterized_image_label_loss.py \
        Docs/examples/custom_parameterized_image_label_loss.yaml
"""

import torch

from RegCore.space.geometry import InputError
from RegCore.training.plugins import register_loss


@register_loss("lp_norm")
def lp_norm(fixed: torch.Tensor, warped: torch.Tensor, *, p: int = 2) -> torch.Tensor:
    """Mean of |f - w|^p over channels and voxels, ``(B, C, I, J, K)`` twice -> ``(B,)``.

    What stands behind the ``*`` is a key of the loss in the configuration, and is checked against its type.
    Whatever else is wrong with it is said here, and found when the configuration is read.
    """
    if p not in (1, 2):
        raise InputError(f"p must be 1 or 2, but it is {p}")
    return (fixed - warped).abs().pow(p).flatten(1).mean(1)
