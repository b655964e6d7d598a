"""What the trainable methods of SLIC-Reg share: a network, and the template that it was trained for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from RegCore.slicreg.loading import Scans
from RegCore.slicreg.preparation import MODALITIES
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError


class Method(nn.Module):
    """What the methods share: the network, and the template as part of the weights.

    Attributes:
        template: its supervoxels (L, I, J, K).
        image: by which it is known again.
        affine: of its grid, index to RAS mm.
        metadata: number of its modality, and whether all this is known.
    """

    own_loss = True
    tells_supervoxels = True
    """Whether the network tells supervoxels; else places in the template."""

    def __init__(self, network: nn.Module, layers: int, classes: int, size: Sequence[int]):
        super().__init__()
        self.network, self.count = network, classes - 1
        dtype = torch.uint8 if classes <= 256 else torch.int32
        self.register_buffer("template", torch.zeros((layers, *size), dtype=dtype))
        self.register_buffer("image", torch.zeros(tuple(size), dtype=torch.float16))
        self.register_buffer("affine", torch.eye(4))
        self.register_buffer("metadata", torch.zeros(2, dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As every module, but reads ``about``, the name of `metadata` in older model files, as well."""
        if f"{prefix}about" in state_dict:
            state_dict[f"{prefix}metadata"] = state_dict.pop(f"{prefix}about")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def set_template(self, loader: Scans) -> None:
        """Take the template from the loader of a training.

        Raises:
            InputError: it does not fit.
        """
        if not isinstance(loader, Scans):
            raise InputError(
                "dataset.type: the methods of SLIC-Reg need supervoxels, made by regcore slicreg prepare"
            )
        there = loader.template
        wanted = (len(self.template), self.count)
        if (there.supervoxels.layers, there.supervoxels.count) != wanted:
            raise InputError(
                f"train.backbone: has {wanted[0]} layers of {wanted[1] + 1} classes, but the scans were "
                f"prepared with {there.supervoxels.layers} layers of {there.supervoxels.count} supervoxels"
            )
        labels = torch.from_numpy(there.supervoxels.labels.astype("int32"))
        self.template.copy_(labels)
        self.image.copy_(torch.from_numpy(there.image.array))
        self.affine.copy_(torch.tensor(there.image.geometry.affine))
        self.metadata.copy_(torch.tensor([MODALITIES.index(there.modality), 1]))

    @property
    def modality(self) -> str:
        """ "ct" or "mr"."""
        return MODALITIES[int(self.metadata[0])]

    @property
    def supervoxels(self) -> Supervoxels:
        """Those of the template.

        Raises:
            InputError: the model was never trained.
        """
        if not self.metadata[1]:
            raise InputError("this model of SLIC-Reg has no template: it was not trained")
        labels = self.template.cpu().numpy().astype("uint8" if self.count < 256 else "uint16")
        grid = Geometry(labels.shape[1:], self.affine.double().cpu().numpy())
        return Supervoxels(labels, grid, self.count)
