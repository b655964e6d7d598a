"""A network with its template, and what it tells of a scan: from cells of its output to voxels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from RegCore.networks.device import all_finite, answer_of
from RegCore.progress import Progress, silent
from RegCore.slicreg.loading import Scans
from RegCore.slicreg.network import STRIDE, SlicNet
from RegCore.slicreg.preparation import MODALITIES, PreparedScan, network_units
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError

PLANES = 4  # read at a time


class Method(nn.Module):
    """What the methods share: the network, and the template as part of the weights.

    Attributes:
        template: its supervoxels (L, I, J, K).
        image: by which it is known again.
        affine: of its grid, index to RAS mm.
        metadata: number of its modality, and whether all this is known.
        passes: how often the network looks at a scan, see `RegCore.slicreg.registration.best_passes`.
    """

    template: torch.Tensor
    image: torch.Tensor
    affine: torch.Tensor
    metadata: torch.Tensor
    passes: torch.Tensor
    network: SlicNet  # or another with the same methods
    own_loss = True
    as_published = False
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
        self.register_buffer("passes", torch.ones((), dtype=torch.int64))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As every module, but reads older model files as well: `metadata` is ``about`` there, `passes` 1."""
        if f"{prefix}about" in state_dict:
            state_dict[f"{prefix}metadata"] = state_dict.pop(f"{prefix}about")
        state_dict.setdefault(f"{prefix}passes", torch.ones((), dtype=torch.int64))
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


def targets(labels: torch.Tensor, *, as_published: bool = False) -> torch.Tensor:
    """The supervoxel that each cell of the output should tell, ``(..., ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)``.

    Cell c is centred on voxel 2 c, whose label it gets.

    Args:
        labels: ``(..., I, J, K)``.
        as_published: the label of voxel 2 c + 1, as published.
    """
    for dim in (-3, -2, -1):
        size = labels.shape[dim]
        index = torch.arange(0, size, STRIDE, device=labels.device) + as_published
        labels = labels.index_select(dim, index.clamp_max(size - 1))
    return labels


def supervoxels_of(
    scores: torch.Tensor, geometry: Geometry, *, as_published: bool = False, progress: Progress = silent
) -> Supervoxels:
    """The most likely supervoxel of each voxel and layer.

    Scores are interpolated linearly between the cells: voxel v lies at cell v / 2. as_published: at
    (v - 1/2) / 2. That, together with `targets` of the published kind, displaces the answer by half a voxel.

    Args:
        scores: ``(1, L, classes, i, j, k)`` of `SlicNet`.
        geometry: the grid that the network saw, (I, J, K).
        progress: told after each layer.
    """
    count = scores.shape[2] - 1
    dtype = torch.uint8 if count < 256 else torch.int32
    found = []
    for layer in range(scores.shape[1]):
        found.append(_most_likely(scores[0, layer].float(), geometry.shape, as_published).to(dtype))
        progress((layer + 1) / scores.shape[1], "reading supervoxels", {"layer": layer + 1})
    array = torch.stack(found).cpu().numpy()
    return Supervoxels(array if count < 256 else array.astype("uint16"), geometry, count)


def _most_likely(cells: torch.Tensor, shape, as_published: bool) -> torch.Tensor:
    """The class ``(I, J, K)`` whose interpolated score is greatest, of cells ``(C, i, j, k)``.

    A few planes at a time, classes last: the scores of all voxels would take far longer to write and to read
    than to compute.
    """
    axes = [_between(n, m, as_published, cells.device) for n, m in zip(shape, cells.shape[1:], strict=True)]
    cells = cells.permute(1, 2, 3, 0).contiguous()
    out = torch.empty(shape, dtype=torch.int64, device=cells.device)
    for start in range(0, shape[0], PLANES):
        values = _along(cells, 0, [part[start : start + PLANES] for part in axes[0]])
        values = _along(_along(values, 1, axes[1]), 2, axes[2])
        out[start : start + PLANES] = values.argmax(-1)
    return out


def _between(voxels: int, cells: int, as_published: bool, device) -> tuple[torch.Tensor, ...]:
    """The cells below and above each voxel of an axis, and the share of the upper one; the last holds on."""
    at = (torch.arange(voxels, device=device) - 0.5 * as_published).div(STRIDE).clamp(0, cells - 1)
    low = at.long()
    return low, (low + 1).clamp_max(cells - 1), at - low


def _along(values: torch.Tensor, dim: int, axis) -> torch.Tensor:
    """Linear interpolation along one axis, see `_between`."""
    low, high, share = axis
    share = share.view([-1 if n == dim else 1 for n in range(values.ndim)])
    return torch.lerp(values.index_select(dim, low), values.index_select(dim, high), share)


@torch.no_grad()
def scores_of(network: nn.Module, scan: PreparedScan, device: str) -> torch.Tensor:
    """What a network of SLIC-Reg, in evaluation mode, answers on a scan, ``(1, L, classes, i, j, k)``.

    Raises:
        InputError: it is not finite, also not in float32.
    """
    image = network_units(scan).to(device)
    found = answer_of(network.to(device), lambda: network(image), lambda scores: [scores])
    if not all_finite([found]):
        raise InputError("what the network says about a scan holds values that are NaN or infinite")
    return found


@torch.no_grad()
def predict_supervoxels(
    network: SlicNet,
    scan: PreparedScan,
    *,
    as_published: bool = False,
    cells: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Supervoxels:
    """What a trained network says of a scan on the grid that it was trained on (`preparation.downsample2`).

    The network answers in evaluation mode and is left in the mode that it was in.

    Args:
        network: of `SlicNet`'s kind.
        scan: on the network's grid.
        as_published: see `supervoxels_of`.
        cells: the most likely supervoxel of each cell alone, which is every second voxel, instead of reading
            between them: a matching loses nothing by it and is had in half the time.
        device: torch device.
        progress: told of each layer that is read.

    Raises:
        InputError: the scores are not finite.
    """
    training = network.training
    network.eval()
    try:
        scores = scores_of(network, scan, device)
        if cells:
            count = scores.shape[2] - 1
            labels = scores[0].argmax(1).cpu().numpy().astype("uint8" if count < 256 else "uint16")
            return Supervoxels(labels, scan.image.geometry, count, STRIDE)
        return supervoxels_of(scores, scan.image.geometry, as_published=as_published, progress=progress)
    finally:
        network.train(training)
