"""How coordinates become values: the one place that knows it.

Images are ``(B, C, I, J, K)``, coordinates ``(B, 3, *out)`` in voxels of the image, channel order i, j, k.
"""

from itertools import product

import torch
import torch.nn.functional as F

BORDERS = ("edge", "constant", "zero_boundary")


def _normalised(coordinates: torch.Tensor, shape) -> torch.Tensor:
    """Coordinates ``(B, 3, N)`` in voxels for `grid_sample`: ``(B, N, 3)``, [-1, 1], last axis first."""
    scale = [2.0 / (n - 1) if n > 1 else 0.0 for n in shape]
    return torch.stack([coordinates[:, d] * scale[d] - 1.0 for d in (2, 1, 0)], -1)


def _inside(coordinates: torch.Tensor, shape, border: str) -> torch.Tensor:
    """Where values come from the image, ``(B, 1, ...)``.

    ``constant`` counts a voxel's whole cell as image (from -0.5 to n - 0.5), as ITK does; ``zero_boundary``
    takes 0 < x <= n - 1, which is what DeepReg's resampler amounts to.
    """
    keep = None
    for d, n in enumerate(shape):
        x = coordinates[:, d : d + 1]
        ok = (x >= -0.5) & (x <= n - 0.5) if border == "constant" else (x > 0) & (x <= n - 1)
        keep = ok if keep is None else keep & ok
    return keep


def _linear(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Trilinear values at ``(B, 3, N)``, edge-extended: ``(B, C, N)``.

    torch gives each batch entry of a 3-D `grid_sample` to one core; the points of a single image are
    therefore dealt to as many views of it as there are threads. The values are the same to the last bit.
    """
    batch, channels = image.shape[:2]
    points = coordinates.shape[-1]
    grid = _normalised(coordinates, image.shape[2:])
    parts = torch.get_num_threads() if batch == 1 and image.device.type == "cpu" and points > 4096 else 1
    if parts > 1:
        grid = F.pad(grid, (0, 0, 0, -points % parts)).view(parts, 1, 1, -1, 3)
        image = image.expand(parts, -1, -1, -1, -1)
    else:
        grid = grid.view(batch, 1, 1, points, 3)
    out = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    if parts > 1:
        return out.transpose(0, 1).reshape(1, channels, -1)[..., :points]
    return out.view(batch, channels, points)


def _linear_left(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """As `_linear`, but a whole coordinate counts to the cell before it: there DeepReg takes the slope."""
    flat, low, part, total = image.flatten(2), [], [], 0
    for d, n in enumerate(image.shape[2:]):
        first = torch.ceil(coordinates[:, d].detach()).clamp_(1, max(n - 1, 1)) - 1
        low.append(first.to(torch.int64))
        part.append(coordinates[:, d] - first)
    for corner in product((0, 1), repeat=3):
        index, weight = 0, 1
        for d, (n, upper) in enumerate(zip(image.shape[2:], corner, strict=True)):
            index = index * n + (low[d] + upper).clamp_max(n - 1)
            weight = weight * (part[d] if upper else 1 - part[d])
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
        total = total + weight[:, None] * values
    return total


def _nearest(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Values of the nearest voxels at ``(B, 3, N)``, edge-extended, in the image's dtype: ``(B, C, N)``."""
    index = None
    for d, n in enumerate(image.shape[2:]):
        axis = torch.floor(coordinates[:, d] + 0.5).clamp_(0, n - 1).to(torch.int64)
        index = axis if index is None else index.mul_(n).add_(axis)
    flat = image.flatten(2)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))


def sample(
    image: torch.Tensor,
    coordinates: torch.Tensor,
    *,
    border: str = "edge",
    fill: float = 0.0,
    nearest: bool = False,
) -> torch.Tensor:
    """Values of an image at given places.

    Args:
        image: ``(B, C, I, J, K)``; floating for linear interpolation, anything for nearest.
        coordinates: ``(B, 3, *out)`` in voxels of ``image``; differentiable for linear interpolation.
        border: ``edge`` repeats the outermost voxels; ``constant`` puts ``fill`` beyond the outermost voxels'
            cells; ``zero_boundary`` blanks what DeepReg blanks (index 0 of each axis and all outside).
        fill: the value outside, for ``constant``.
        nearest: take the nearest voxel in place of trilinear interpolation (halves round up).

    Returns:
        ``(B, C, *out)``.

    Raises:
        ValueError: unknown border.
    """
    if border not in BORDERS:
        raise ValueError(f"border is {border!r}, expected one of {', '.join(BORDERS)}")
    flat = coordinates.flatten(2)
    linear = _linear_left if border == "zero_boundary" else _linear
    values = (_nearest if nearest else linear)(image, flat)
    if border != "edge":
        outside = ~_inside(flat, image.shape[2:], border)
        values = values.masked_fill(outside, fill if border == "constant" else 0)
    return values.view(*values.shape[:2], *coordinates.shape[2:])
