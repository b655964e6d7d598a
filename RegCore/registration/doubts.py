"""Whether a registration may have failed, judged by the images alone."""

import numpy as np
import torch
import torch.nn.functional as F

from RegCore.registration.pair import PairSide, make_feature_image
from RegCore.resampler import sample
from RegCore.resampler.descriptors import mind_ssc
from RegCore.resampler.pyramid import foreground, working_geometry
from RegCore.space.transforms import AffineTransform, Transform

VOXELS = 40_000  # of the grid on which both images are compared
SHIFT = 8  # the moving image is displaced by the length of an axis over this, for comparison
SEEN = 0.1  # share of the fixed body below which the moving image shows too little of it
CHANCE = 0.12  # gain over chance below which nothing speaks for the result
FEWEST = 200  # voxels that can be compared


def _against(fixed: PairSide, moving: PairSide, transform: Transform) -> tuple[torch.Tensor, ...]:
    """Descriptors of both images on a coarse grid, ``(1, C, I, J, K)``, the fixed body and what is known."""
    grid, eye = working_geometry(fixed.image.geometry, VOXELS), np.eye(4)
    linear = transform if isinstance(transform, AffineTransform) else transform.affine_part()
    reference = make_feature_image(fixed, grid, eye, None, "cpu")
    image, inside = reference.image.resampled(grid, eye)
    seen = make_feature_image(moving, grid, linear.matrix, None, "cpu")
    places = transform.map(grid.world_grid())
    index = seen.image.grid.to_index(places)
    known = ((index >= -0.5) & (index <= np.array(seen.image.grid.shape) - 0.5)).all(-1)
    at = torch.from_numpy(np.moveaxis(index, -1, 0)[None].astype(np.float32))
    counts = inside[0, 0] > 0.5
    for mask in reference.masks:
        counts &= mask.resampled(grid, eye)[0][0, 0] > 0.5
    there = torch.from_numpy(known)
    for mask in seen.masks:
        where = mask.grid.to_index(places)
        beside = torch.from_numpy(np.moveaxis(where, -1, 0)[None].astype(np.float32))
        there &= sample(mask.values, beside)[0, 0] > 0.5
    body = torch.from_numpy(foreground(image[0, 0].numpy()))
    near = F.max_pool3d(body.float()[None, None], 3, 1, 1)[0, 0] > 0
    return mind_ssc(image), mind_ssc(sample(seen.image.values, at)), near & counts, there


def _distance(fixed: torch.Tensor, moving: torch.Tensor, where: torch.Tensor) -> float:
    return float((fixed - moving).square().sum(1)[0][where].mean())


def gain_over_chance(fixed: PairSide, moving: PairSide, transform: Transform) -> tuple[float, float]:
    """How much better two images agree than when they are displaced against each other.

    Agreement is the mean squared distance of MIND-SSC descriptors (Heinrich et al., MICCAI 2013) about the
    fixed body. Chance is the mean of it over displacements of the warped image by an eighth of the grid, both
    ways along each axis.

    Args:
        fixed, moving: image, and mask if there is one.
        transform: x_moving = T(x_fixed), RAS mm.

    Returns:
        1 - distance / chance: 1 for equal images, about 0 for unrelated ones, NaN where too few voxels can be
        compared; and the share of the fixed body that the moving image shows.
    """
    features, warped, body, known = _against(fixed, moving, transform)
    share = float((body & known).sum() / body.sum().clamp_min(1))
    if int((body & known).sum()) < FEWEST:
        return float("nan"), share
    chance = []
    for axis in range(3):
        n = body.shape[axis]
        shift = max(2, round(n / SHIFT))
        for way in (shift, -shift):
            elsewhere = torch.roll(known, way, axis)
            elsewhere.narrow(axis, 0 if way > 0 else max(n - shift, 0), min(shift, n)).fill_(False)
            if int((body & elsewhere).sum()) >= FEWEST:
                chance.append(_distance(features, torch.roll(warped, way, axis + 2), body & elsewhere))
    if not chance or np.mean(chance) == 0:
        return float("nan"), share
    return 1 - _distance(features, warped, body & known) / float(np.mean(chance)), share


def doubts(fixed: PairSide, moving: PairSide, transform: Transform) -> list[str]:
    """Sentences on why a registration has probably failed; none where nothing speaks against it.

    Args:
        fixed, moving: image, and mask if there is one.
        transform: x_moving = T(x_fixed), RAS mm.
    """
    gain, share = gain_over_chance(fixed, moving, transform)
    begin = "the registration has probably failed: "
    if share < SEEN:
        return [f"{begin}where it puts the moving volume, that shows {100 * share:.0f} % of the fixed body"]
    if not isinstance(transform, AffineTransform):  # deformation makes unrelated images alike
        gain = min(gain, gain_over_chance(fixed, moving, transform.affine_part())[0])
    if gain < CHANCE:
        told = f"gain over chance {gain:.2f}, at least {CHANCE} is usual"
        return [f"{begin}the volumes agree hardly better than when one is displaced ({told})"]
    return []
