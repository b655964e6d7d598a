"""Whether a registration may have failed, judged by the images alone."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from RegCore.registration.pair import PairSide, make_feature_image
from RegCore.resampler import sample
from RegCore.resampler.descriptors import mind_ssc
from RegCore.resampler.pyramid import foreground, working_geometry
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform, Transform

VOXELS = 40_000  # of the grid on which both images are compared
SHIFT = 8  # the warped image is displaced by the length of an axis over this, for comparison
TURN = 30  # degrees by which the moving image is turned about the middle of the fixed body, for comparison
SEEN = 0.1  # share of the fixed body below which the moving image shows too little of it
CHANCE = 0.12  # gain over displacements below which nothing speaks for the result
OUTLINE = 0.3  # the same from which on no turn can excuse or accuse: a ball is one from all sides
TURNED = 0.15  # gain over turns below which little but the outline agrees
FEWEST = 200  # voxels that can be compared


class _Beside:
    """Descriptors of both images on a coarse grid, wherever the moving one is looked at."""

    def __init__(self, fixed: PairSide, moving: PairSide, linear: AffineTransform):
        self.grid, eye = working_geometry(fixed.image.geometry, VOXELS), np.eye(4)
        reference = make_feature_image(fixed, self.grid, eye, None, "cpu")
        image, inside = reference.image.resampled(self.grid, eye)
        self.seen = make_feature_image(moving, self.grid, linear.matrix, None, "cpu")
        counts = inside[0, 0] > 0.5
        for mask in reference.masks:
            counts &= mask.resampled(self.grid, eye)[0][0, 0] > 0.5
        body = torch.from_numpy(foreground(image[0, 0].numpy()))
        near = F.max_pool3d(body.float()[None, None], 3, 1, 1)[0, 0] > 0
        self.features, self.body = mind_ssc(image), near & counts

    def at(self, places: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Descriptors ``(1, C, I, J, K)`` of the moving image at places ``(I, J, K, 3)`` mm; where known."""

        def index_in(grid: Geometry) -> torch.Tensor:
            index = np.moveaxis(grid.to_index(places), -1, 0)[None]
            return torch.from_numpy(index.astype(np.float32))

        index = index_in(self.seen.image.grid)
        size = torch.tensor(self.seen.image.grid.shape).view(1, 3, 1, 1, 1)
        known = ((index >= -0.5) & (index <= size - 0.5)).all(1)[0]
        for mask in self.seen.masks:
            known &= sample(mask.values, index_in(mask.grid))[0, 0] > 0.5
        return mind_ssc(sample(self.seen.image.values, index)), known

    def distance(self, warped: torch.Tensor, known: torch.Tensor) -> float:
        """Mean squared distance of the descriptors about the body; NaN where too little is known."""
        where = self.body & known
        if int(where.sum()) < FEWEST:
            return float("nan")
        return float((self.features - warped).square().sum(1)[0][where].mean())

    def displaced(self, warped: torch.Tensor, known: torch.Tensor) -> list[float]:
        """Distances with the warped image displaced by an eighth of the grid both ways along each axis."""
        found = []
        for axis in range(3):
            n = self.body.shape[axis]
            shift = max(2, round(n / SHIFT))
            for way in (shift, -shift):
                elsewhere = torch.roll(known, way, axis)
                elsewhere.narrow(axis, 0 if way > 0 else max(n - shift, 0), min(shift, n)).fill_(False)
                found.append(self.distance(torch.roll(warped, way, axis + 2), elsewhere))
        return found

    def turned(self, linear: AffineTransform) -> list[float]:
        """Distances with the fixed body turned before the transform both ways about each axis."""
        points = self.grid.world_grid()
        centre = points[self.body.numpy()].mean(0)
        turns = [Rotation.from_euler(axis, way * TURN, degrees=True) for axis in "xyz" for way in (1, -1)]
        places = ((points - centre) @ turn.as_matrix().T + centre for turn in turns)
        return [self.distance(*self.at(linear.map(place))) for place in places]


def _gain(distance: float, others: list[float]) -> float:
    """1 - distance / the mean of the others that are known; NaN where none is."""
    chance = [other for other in others if np.isfinite(other)]
    return 1 - distance / float(np.mean(chance)) if chance and np.mean(chance) > 0 else float("nan")


def _linear(transform: Transform) -> AffineTransform:
    return transform if isinstance(transform, AffineTransform) else transform.affine_part()


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
    pair = _Beside(fixed, moving, _linear(transform))
    warped, known = pair.at(transform.map(pair.grid.world_grid()))
    share = float((pair.body & known).sum() / pair.body.sum().clamp_min(1))
    return _gain(pair.distance(warped, known), pair.displaced(warped, known)), share


def gain_over_turns(fixed: PairSide, moving: PairSide, linear: AffineTransform) -> float:
    """The same with turns of the fixed body by 30 degrees about each axis in place of displacements.

    An image that lies turned within its own outline agrees better than a displaced one, but not than a turned
    one.
    """
    pair = _Beside(fixed, moving, linear)
    return _gain(pair.distance(*pair.at(linear.map(pair.grid.world_grid()))), pair.turned(linear))


def doubts(fixed: PairSide, moving: PairSide, transform: Transform) -> list[str]:
    """Sentences on why a registration has probably failed; none where nothing speaks against it.

    Args:
        fixed, moving: image, and mask if there is one.
        transform: x_moving = T(x_fixed), RAS mm.
    """
    gain, share = gain_over_chance(fixed, moving, transform)
    begin, linear = "the registration has probably failed: ", _linear(transform)
    if share < SEEN:
        return [f"{begin}where it puts the moving volume, that shows {100 * share:.0f} % of the fixed body"]
    if linear is not transform:  # deformation makes unrelated images alike
        gain = min(gain, gain_over_chance(fixed, moving, linear)[0])
    if gain < CHANCE:
        told = f"gain over chance {gain:.2f}, at least {CHANCE} is usual"
        return [f"{begin}the volumes agree hardly better than when one is displaced ({told})"]
    if gain < OUTLINE and (turned := gain_over_turns(fixed, moving, linear)) < TURNED:
        told = f"gain over turns {turned:.2f}, at least {TURNED} is usual"
        return [f"{begin}the volumes agree hardly better than when one is turned by {TURN}° ({told})"]
    return []
