"""Training pairs changed at random, by affine maps and by smooth fields of displacement.

A batch is a dict with ``fixed_image`` and ``moving_image`` ``(B, 1, I, J, K)`` and, where there are labels,
``fixed_label`` and ``moving_label`` of the same sizes. An augmentation is a function ``(batch, generator)``
that gives back a batch of the same keys; `AUGMENTATIONS` makes one by name from its options.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
import torch

from RegCore.resampler import affine_ddf, compose, resize3d, warp_image_ddf
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, LazyTable

SIDES = ("moving", "fixed")
# Four corners of the cube from -1 to 1, which say what an affine map is: a point and its three neighbours.
CORNERS = ((-1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, -1, -1))

Generator = torch.Generator | np.random.RandomState
Fields = dict[str, torch.Tensor]


def _uniform(generator: Generator, low: float, high: float, shape: Sequence[int]) -> torch.Tensor:
    """Numbers of [low, high), float64 on the CPU."""
    if isinstance(generator, np.random.RandomState):
        return torch.from_numpy(generator.uniform(low, high, shape))
    drawn = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    return low + (high - low) * drawn.cpu()


def _normal(generator: Generator, shape: Sequence[int]) -> torch.Tensor:
    """Numbers of mean 0 and variance 1, float64 on the CPU."""
    if isinstance(generator, np.random.RandomState):
        return torch.from_numpy(generator.standard_normal(shape))
    drawn = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    return drawn.cpu()


def random_affine(batch: int, scale: float, generator: Generator, *, device=None) -> torch.Tensor:
    """Affine maps that draw corners of the cube [-1, 1]^3 inwards.

    Each coordinate of four corners is multiplied by a 1 - r of its own, r of [0, scale); the four determine
    the map: [corner 1] @ theta = corner * (1 - r).

    Args:
        batch: number of maps.
        scale: largest part r of a coordinate that is taken away, from 0 to 1.
        generator: torch's; or numpy's ``RandomState``, whose numbers are those that DeepReg draws.

    Returns:
        theta ``(batch, 4, 3)`` in units of the cube, see `in_voxels`: new = [x y z 1] @ theta.
    """
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    moved = corners * _uniform(generator, 1 - scale, 1, (batch, 4, 3))
    return torch.linalg.solve(torch.cat([corners, torch.ones((4, 1))], 1), moved).float().to(device)


def in_voxels(theta: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Maps ``(B, 4, 3)`` of the cube [-1, 1]^3 laid over a grid as maps ``(B, 4, 3)`` of its voxel indices.

    -1 and 1 are the centres of an axis's first and last voxels, so that 0 is the centre of the grid.
    """
    centre = (torch.tensor(tuple(shape), dtype=theta.dtype, device=theta.device) - 1) / 2
    half = centre.clamp_min(0.5)  # an axis of one voxel
    linear = theta[:, :3] / half[:, None] * half
    shift = theta[:, 3:] * half + centre - centre @ linear[:, None]
    return torch.cat([linear, shift.view(-1, 1, 3)], 1)


def random_ddf(
    batch: int,
    shape: Sequence[int],
    field_strength: float,
    low_res_size: int | Sequence[int],
    generator: Generator,
    *,
    device=None,
) -> torch.Tensor:
    """Smooth random displacements: normal numbers on a coarse grid, interpolated linearly.

    Each field has a strength of its own along each axis, of [0, field_strength), by which the numbers of its
    coarse grid are multiplied.

    Args:
        batch: number of fields.
        shape: voxels along each axis.
        field_strength: largest standard deviation of the numbers, in voxels.
        low_res_size: size of the coarse grid, a number or one for each axis; 1 moves the image as a whole.
        generator: torch's; or numpy's ``RandomState``, whose numbers are those that DeepReg draws.

    Returns:
        A DDF ``(batch, 3, *shape)`` in voxels.
    """
    coarse = (low_res_size,) * 3 if isinstance(low_res_size, int) else tuple(low_res_size)
    strength = _uniform(generator, 0, field_strength, (batch, 1, 1, 1, 3))
    field = strength * _normal(generator, (batch, *coarse, 3))
    return resize3d(field.float().to(device).movedim(-1, 1), shape, align_corners=False)


@dataclass(frozen=True)
class Deformation:
    """An augmentation that pulls images and labels through a field, linearly and once.

    Args:
        draw: ``(images by side, generator)`` -> a DDF ``(B, 3, I, J, K)`` by side, of the images' sizes.
        deepreg: whether what DeepReg blanks is blank, else values are 0 from half a voxel outside the image
            on.
    """

    draw: Callable[[Fields, Generator], Fields]
    deepreg: bool = False

    def __call__(self, batch: dict, generator: Generator) -> dict:
        fields = self.draw({side: batch[f"{side}_image"] for side in SIDES}, generator)
        made = dict(batch)
        for side, ddf in fields.items():
            keys = [key for key in (f"{side}_image", f"{side}_label") if key in batch]
            together = torch.cat([batch[key] for key in keys], 1)
            border = "zero_boundary" if self.deepreg else "constant"
            warped = warp_image_ddf(together, ddf, border=border)
            made |= dict(zip(keys, warped.split([batch[key].shape[1] for key in keys], 1), strict=True))
        return made


def _draw_affine(scale: float, deepreg: bool, images: Fields, generator: Generator) -> Fields:
    first = images["fixed"]
    theta = random_affine(len(first), scale, generator, device=first.device)
    shapes = {side: image.shape[2:] for side, image in images.items()}
    return {s: affine_ddf(theta if deepreg else in_voxels(theta, shapes[s]), shapes[s]) for s in images}


def _draw_ddf(strength: float, coarse: Sequence[int], images: Fields, generator: Generator) -> Fields:
    return {
        side: random_ddf(len(image), image.shape[2:], strength, coarse, generator, device=image.device)
        for side, image in images.items()
    }


def affine(scale: float = 0.1, *, deepreg: bool = False) -> Deformation:
    """One random affine map for each sample, the same for its fixed and its moving image.

    Args:
        scale: largest part of its distance from the centre that a corner is drawn inwards, from 0 to 1.
        deepreg: as DeepReg: the cube [-1, 1]^3 of `random_affine` is one of voxels about the voxel (0, 0, 0),
            from which the image then grows, and index 0 of each axis is blank.

    Raises:
        InputError: a scale outside [0, 1].
    """
    if not 0 <= scale <= 1:
        raise InputError(f"scale must lie between 0 and 1, but it is {scale}")
    return Deformation(partial(_draw_affine, scale, deepreg), deepreg)


def ddf(
    field_strength: float = 1.0, low_res_size: tuple[int, int, int] = (1, 1, 1), *, deepreg: bool = False
) -> Deformation:
    """Random displacements, others for the fixed than for the moving image; see `random_ddf`.

    Args:
        field_strength: largest standard deviation of displacements, in voxels.
        low_res_size: size of the coarse grid on which they are drawn; (1, 1, 1) shifts an image as a whole.
        deepreg: as DeepReg: index 0 of each axis is blank.

    Raises:
        InputError: a negative strength, or a size that is not three positive whole numbers.
    """
    if not field_strength >= 0:
        raise InputError(f"field_strength must not be negative, but it is {field_strength}")
    coarse = (low_res_size,) * 3 if isinstance(low_res_size, int) else tuple(low_res_size)
    if len(coarse) != 3 or not all(isinstance(n, int) and n > 0 for n in coarse):
        raise InputError(f"low_res_size must be three positive whole numbers, but it is {low_res_size}")
    return Deformation(partial(_draw_ddf, field_strength, coarse), deepreg)


AUGMENTATIONS = LazyTable(
    {"affine": affine, "ddf": ddf, "affine-together": Lazy("RegCore.slicreg.loading", "together")}
)


def _draw_in_turn(first: Callable, second: Callable, images: Fields, generator: Generator) -> Fields:
    outer, inner = first(images, generator), second(images, generator)
    return {side: compose(outer[side], inner[side]) for side in images}


def in_turn(augmentations: Iterable[Callable]) -> Callable[[dict, Generator], dict]:
    """Several augmentations as one. Neighbouring deformations are composed, so that images are sampled once.

    Those with ``deepreg`` sample one after the other, as in DeepReg.
    """
    steps: list[Callable] = []
    for each in augmentations:
        last = steps[-1] if steps else None
        if (
            isinstance(last, Deformation)
            and isinstance(each, Deformation)
            and not (last.deepreg or each.deepreg)
        ):
            steps[-1] = Deformation(partial(_draw_in_turn, last.draw, each.draw))
        else:
            steps.append(each)

    def augmented(batch: dict, generator: Generator) -> dict:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return augmented


def augment_each(batch: dict, augmentations: Sequence[Callable], keys: Sequence[str]) -> dict:
    """Augment every sample by itself, so that what is drawn for it does not depend on the size of the batch.

    Args:
        batch: tensors ``(B, …)`` by name; ``indices`` and what is no tensor stay as they are.
        augmentations: entries of `AUGMENTATIONS` with their options.
        keys: a text for each sample; the same text draws the same numbers.

    Returns:
        A batch with the same names.
    """
    changed = []
    for i, key in enumerate(keys):
        generator = torch.Generator().manual_seed(Random(key).getrandbits(63))
        sample = {k: v[i : i + 1] for k, v in batch.items() if isinstance(v, torch.Tensor) and k != "indices"}
        changed.append(in_turn(augmentations)(sample, generator))
    return batch | {key: torch.cat([sample[key] for sample in changed]) for key in changed[0]}
