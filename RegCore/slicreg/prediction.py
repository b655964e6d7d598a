"""Between the cells of the network's output and the voxels of the scan: what is learnt, and what is read."""

import torch
import torch.nn.functional as F

from RegCore.geometry import Geometry
from RegCore.progress import Progress, silent
from RegCore.slicreg.network import STRIDE, SlicNet
from RegCore.slicreg.preparation import Prepared, network_units
from RegCore.slicreg.supervoxels import Supervoxels


def targets(labels: torch.Tensor, *, literal: bool = False) -> torch.Tensor:
    """The supervoxel that each cell of the output should tell, ``(..., ⌈I/2⌉, ⌈J/2⌉, ⌈K/2⌉)``.

    Cell c is centred on voxel 2 c, whose label it gets. literal: that of voxel 2 c + 1, as published.

    labels: ``(..., I, J, K)``.
    """
    for dim in (-3, -2, -1):
        size = labels.shape[dim]
        index = torch.arange(0, size, STRIDE, device=labels.device) + literal
        labels = labels.index_select(dim, index.clamp_max(size - 1))
    return labels


def supervoxels_of(
    scores: torch.Tensor, geometry: Geometry, *, literal: bool = False, progress: Progress = silent
) -> Supervoxels:
    """The most likely supervoxel of each voxel and layer.

    Scores are interpolated linearly between the cells: voxel v lies at cell v / 2. literal: at (v - 1/2) / 2,
    as published. That, together with `targets` of the published kind, displaces the answer by half a voxel.

    Args:
        scores: ``(1, L, classes, i, j, k)`` of `SlicNet`.
        geometry: the grid that the network saw, (I, J, K).
        progress: told after each layer.
    """
    count = scores.shape[2] - 1
    dtype = torch.uint8 if count < 256 else torch.int32
    found = []
    for layer in range(scores.shape[1]):
        found.append(_spread(scores[:, layer].float(), geometry.shape, literal).argmax(1).to(dtype))
        progress((layer + 1) / scores.shape[1], "reading supervoxels", {"layer": layer + 1})
    array = torch.cat(found).cpu().numpy()
    return Supervoxels(array if count < 256 else array.astype("uint16"), geometry, count)


def _spread(cells: torch.Tensor, shape, literal: bool) -> torch.Tensor:
    """Cells ``(1, C, i, j, k)`` read at every voxel; beyond the last cell its value holds."""
    if literal:
        values = F.interpolate(cells, scale_factor=STRIDE, mode="trilinear", align_corners=False)
    else:
        between = [STRIDE * (n - 1) + 1 for n in cells.shape[2:]]
        values = F.interpolate(cells, size=between, mode="trilinear", align_corners=True)
    missing = [max(n - m, 0) for n, m in zip(shape, values.shape[2:], strict=True)]
    if any(missing):
        values = F.pad(values, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")
    return values[..., : shape[0], : shape[1], : shape[2]]


@torch.no_grad()
def predict_supervoxels(
    network: SlicNet,
    scan: Prepared,
    *,
    literal: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Supervoxels:
    """What a trained network says of a scan on the grid that it was trained on (`preparation.halved`).

    The network answers in evaluation mode and is left in the mode that it was in.
    """
    training = network.training
    network.eval()
    try:
        image = network_units(scan).to(device)
        scores = network.to(device)(image)
        return supervoxels_of(scores, scan.image.geometry, literal=literal, progress=progress)
    finally:
        network.train(training)
