"""Networks whose answer is known beforehand, and models made of them: what they say must arrive in space."""

import numpy as np
import pytest
import torch
from torch import nn

from RegCore.networks.architectures import NETWORKS
from RegCore.networks.model_file import Model, build

FIXED_SIZE, MOVING_SIZE = (9, 7, 8), (6, 10, 7)
THETA = np.array([[0.9, 0.1, -0.05], [0.08, 1.3, 0.1], [0.02, -0.1, 0.8], [0.5, -0.7, 0.3]])


def field(shape) -> np.ndarray:
    """Displacements (I, J, K, 3) in voxels that are curved, and alike for no two axes or voxels."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.stack(
        [0.8 * np.sin(2 * j) + 0.3 * k - 0.4, 0.7 * k * i + 0.5 + 0.2 * j, np.cos(2 * i + j) - 0.6 * k], -1
    )


class Known(nn.Module):
    """Answers with `field`, whatever it sees; keeps what it saw."""

    seen: list = []

    def __init__(self, image_size, *, in_channels=2, out_channels=3):
        super().__init__()
        self.image_size = tuple(image_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        ddf = torch.from_numpy(field(self.image_size)).float().movedim(-1, 0)
        return ddf[None].expand(len(images), -1, -1, -1, -1)


class KnownAffine(Known):
    """Answers with `THETA`."""

    def forward(self, images: torch.Tensor):
        theta = torch.from_numpy(THETA).float()[None].expand(len(images), -1, -1)
        index = torch.stack(
            torch.meshgrid(*(torch.arange(n).float() for n in self.image_size), indexing="ij"), -1
        )
        ones = torch.cat([index, torch.ones_like(index[..., :1])], -1)
        ddf = (ones @ torch.from_numpy(THETA).float() - index).movedim(-1, 0)
        return ddf[None].expand(len(images), -1, -1, -1, -1), theta


@pytest.fixture
def known(monkeypatch):
    """Makes models by the names known and known-affine; the networks are forgotten after the test."""
    monkeypatch.setitem(NETWORKS, "known", Known)
    monkeypatch.setitem(NETWORKS, "known-affine", KnownAffine)
    monkeypatch.setattr(Known, "seen", [])

    def make(name: str = "known", method: str = "ddf", axes=None, **dataset) -> Model:
        config = {"dataset": dataset, "train": {"method": method, "backbone": {"name": name}}}
        made = build(config, FIXED_SIZE, MOVING_SIZE, False, axes)
        made.network.eval()
        return made

    return make
