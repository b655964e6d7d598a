"""How coordinates become values: the one place that knows it.

Images are ``(B, C, I, J, K)``, coordinates ``(B, 3, *out)`` in voxels of the image, channel order i, j, k.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from RegCore.resampler.grids import get_n_bits_combinations
from RegCore.space.geometry import InputError

Interpolation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
BORDERS = ("edge", "constant", "zero_boundary")


def pyramid_combination(
    values: Sequence[torch.Tensor],
    weight_floor: Sequence[torch.Tensor] | None = None,
    weight_ceil: Sequence[torch.Tensor] | None = None,
    *,
    weights: Sequence[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Weighted sum over the corners of an n-dimensional cell, folded axis by axis from the last.

    sum over corners b of values[b] * product over axes d of weight_floor[d] if b[d] = 0, else weight_ceil[d]:
    with weights 1 - t and t the multilinear interpolation at t.

    Args:
        values: 2**n tensors in the order of `get_n_bits_combinations`.
        weight_floor, weight_ceil: n tensors each, with as many axes as the values and broadcast against
            them. The second are by default 1 minus the first, as in older versions of DeepReg.
        weights: what these older versions call `weight_floor`, in its place.

    Returns:
        A tensor of the shape of one of the values.

    Raises:
        InputError: the numbers of values and weights don't belong together, or their shapes; no weights, or
            `weights` beside others.
    """
    if weights is not None and (weight_floor is not None or weight_ceil is not None):
        raise InputError("weights stand in place of weight_floor and weight_ceil, but both were given")
    weight_floor = weights if weight_floor is None else weight_floor
    if weight_floor is None:
        raise InputError("weight_floor is missing, the weights of the corners below")
    if weight_ceil is None:
        weight_ceil = [1 - weight for weight in weight_floor]
    if len(weight_ceil) != len(weight_floor) or len(values) != 2 ** len(weight_floor):
        raise InputError(
            f"n weights of each kind combine 2**n values, but {len(values)} values came with"
            f" {len(weight_floor)} floor and {len(weight_ceil)} ceil weights"
        )
    shapes = [tuple(one.shape) for one in (*values, *weight_floor, *weight_ceil)]
    if any(len(shape) != len(shapes[0]) or not _broadcast(shape, shapes[0]) for shape in shapes):
        raise InputError(
            "values and weights must have equally many axes, each of one length or of 1, but there are shapes"
            f" {', '.join(map(str, dict.fromkeys(shapes)))}"
        )
    for low, high in zip(reversed(weight_floor), reversed(weight_ceil), strict=True):
        values = [a * low + b * high for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def _broadcast(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes of equally many axes go together."""
    return all(n == m or 1 in (n, m) for n, m in zip(one, other, strict=True))


def _normalised(coordinates: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Coordinates ``(B, 3, N)`` in voxels for `grid_sample`: ``(B, N, 3)``, [-1, 1], last axis first."""
    scale = [2.0 / (n - 1) if n > 1 else 0.0 for n in shape]
    return torch.stack([coordinates[:, d] * scale[d] - 1.0 for d in (2, 1, 0)], -1)


def _inside(coordinates: torch.Tensor, shape: Sequence[int], border: str) -> torch.Tensor:
    """Where values come from the image, ``(B, 1, ...)``.

    ``constant`` counts a voxel's whole cell as image (from -0.5 to n - 0.5), as ITK does; ``zero_boundary``
    takes 0 < x <= n - 1, which is what DeepReg's resampler amounts to.
    """
    keep = torch.ones_like(coordinates[:, :1], dtype=torch.bool)
    for d, n in enumerate(shape):
        x = coordinates[:, d : d + 1]
        keep &= (x >= -0.5) & (x <= n - 0.5) if border == "constant" else (x > 0) & (x <= n - 1)
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
    """As `_linear`, but a whole coordinate counts to the cell before it: there DeepReg takes the slope.

    Outside, and at the index 0, which has no cell before it, the slope is zero.
    """
    flat, low, part = image.flatten(2), [], []
    for d, n in enumerate(image.shape[2:]):
        x = coordinates[:, d : d + 1]
        x = torch.where((x > 0) & (x <= n - 1), x, x.detach().clamp(0, n - 1))
        first = torch.ceil(x.detach()).clamp_min_(1) - 1
        low.append(first[:, 0].nan_to_num(0).to(torch.int64))
        part.append(x - first)
    corners = []
    for bits in get_n_bits_combinations(3):
        index = torch.zeros_like(low[0])
        for d, n in enumerate(image.shape[2:]):
            index = index * n + (low[d] + bits[d]).clamp_max(n - 1)
        corners.append(flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)))
    return pyramid_combination(corners, [1 - p for p in part], part)


def _interpolated(image: torch.Tensor, coordinates: torch.Tensor, linear: Interpolation) -> torch.Tensor:
    """Trilinear values at ``(B, 3, N)``, edge-extended, in single precision or better: ``(B, C, N)``."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, coordinates.dtype), torch.float32)
    values = linear(image.to(dtype), coordinates.to(dtype))
    return values.to(image.dtype) if image.is_floating_point() else values


def _nearest(image: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Values of the nearest voxels at ``(B, 3, N)``, edge-extended, in the image's dtype: ``(B, C, N)``."""
    index = torch.zeros_like(coordinates[:, 0], dtype=torch.int64)
    for d, n in enumerate(image.shape[2:]):
        axis = torch.floor(coordinates[:, d] + 0.5).clamp_(0, n - 1).to(torch.int64)
        index.mul_(n).add_(axis)
    flat = image.flatten(2)
    return flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))


def _in_space(image: torch.Tensor, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A line or a plane as a volume one voxel thick, and coordinates ``(B, n, N)`` on it."""
    lacking = 5 - image.ndim
    if lacking:
        image = image.view(*image.shape, *[1] * lacking)
        coordinates = F.pad(coordinates, (0, 0, 0, lacking))
    return image, coordinates


def sample(
    image: torch.Tensor,
    coordinates: torch.Tensor,
    *,
    border: str = "edge",
    fill: float = 0.0,
    nearest: bool = False,
    deepreg: bool = False,
) -> torch.Tensor:
    """Values of an image at given places.

    Args:
        image: ``(B, C, I, J, K)``; a plane ``(B, C, I, J)`` or a line ``(B, C, I)`` will do as well.
        coordinates: ``(B, 3, *out)`` in voxels of ``image``, a row for each of its axes; differentiable for
            linear interpolation.
        border: ``edge`` repeats the outermost voxels; ``constant`` puts ``fill`` beyond the outermost voxels'
            cells; ``zero_boundary`` blanks what DeepReg blanks (index 0 of each axis and all outside).
        fill: the value outside, for ``constant``.
        nearest: take the nearest voxel in place of trilinear interpolation (halves round up).
        deepreg: as DeepReg: the slope at whole coordinates, where there are two, is that of the cell before.
            ``zero_boundary`` has it anyway. It costs several times as much.

    Returns:
        ``(B, C, *out)`` in the dtype of the image (float32 for whole numbers interpolated linearly).

    Raises:
        InputError: unknown border; as many rows of coordinates as the image has axes were expected.
    """
    if border not in BORDERS:
        raise InputError(f"border is {border!r}, expected one of {', '.join(BORDERS)}")
    shape, flat = image.shape[2:], coordinates.flatten(2)
    if not 1 <= len(shape) == flat.shape[1] <= 3:
        raise InputError(
            "an image has one to three axes and a row of coordinates for each,"
            f" but {flat.shape[1]} rows came with {len(shape)} axes"
        )
    image, places = _in_space(image, flat)
    linear = _linear_left if deepreg or border == "zero_boundary" else _linear
    values = _nearest(image, places) if nearest else _interpolated(image, places, linear)
    if border != "edge":
        outside = ~_inside(flat, shape, border)
        values = values.masked_fill(outside, fill if border == "constant" else 0)
    return values.view(*values.shape[:2], *coordinates.shape[2:])


resample = sample  # DeepReg's name
