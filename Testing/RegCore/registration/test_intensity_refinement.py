"""Linear transforms made exact on intensities: known motion of soft balls, masks, hopeless starts."""

import numpy as np
import pytest

from RegCore.registration.intensity_refinement import refined_on_intensities
from RegCore.registration.motion import is_rigid
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.grids import points_inside, tilted_affine
from Testing.RegCore.registration.blobs import density
from Testing.RegCore.studies.frames import MIRRORED, OBLIQUE, rigid_motion


def balls(grid: Geometry, motion: AffineTransform) -> Volume:
    return Volume(density(motion.inverse().map(grid.world_grid())).astype(np.float32), grid)


@pytest.mark.parametrize("grid", [OBLIQUE, MIRRORED], ids=["oblique", "left-handed"])
@pytest.mark.parametrize("rigid", [True, False], ids=["rigid", "affine"])
def test_a_transform_is_made_exact_on_intensities(rigid, grid):
    true = rigid_motion(2.0) if rigid else tilted_affine(1.02, (2.0, -1.0, 1.5))
    start = AffineTransform(rigid_motion(0.4).matrix @ true.matrix)
    found = refined_on_intensities(
        balls(grid, AffineTransform.identity()), balls(grid, true), start, rigid=rigid
    )
    points = points_inside(grid)
    error = np.linalg.norm(found.map(points) - true.map(points), axis=1).max()
    assert (
        error < (0.1 if rigid else 0.4) < np.linalg.norm(start.map(points) - true.map(points), axis=1).mean()
    )
    assert is_rigid(found) == rigid


def test_what_lies_outside_of_the_mask_does_not_count():
    fixed, true = balls(OBLIQUE, AffineTransform.identity()), rigid_motion(0.5)
    half = np.zeros(OBLIQUE.shape, np.uint8)
    half[:10] = 1
    spoilt = fixed.array.copy()
    spoilt[10:] = np.roll(spoilt[10:], 2, axis=1)
    fixed, mask = Volume(spoilt, OBLIQUE), Volume(half, OBLIQUE, "labels")
    points = OBLIQUE.world_grid()[:10].reshape(-1, 3)

    def error(mask):
        found = refined_on_intensities(
            fixed, balls(OBLIQUE, true), AffineTransform.identity(), rigid=True, mask=mask
        )
        return np.linalg.norm(found.map(points) - true.map(points), axis=1).mean()

    assert error(mask) < 0.2 < error(None)


def test_a_start_far_from_everything_stays():
    far = np.eye(4)
    far[:3, 3] = 1e4
    images = balls(OBLIQUE, AffineTransform.identity()), balls(OBLIQUE, rigid_motion(1))
    assert refined_on_intensities(*images, AffineTransform(far), rigid=True).matrix[0, 3] == 1e4
