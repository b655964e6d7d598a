"""Linear transforms made exact on intensities: known motion of soft balls, masks, pairs that do not fit."""

import numpy as np
import pytest

from RegCore.progress import Cancelled
from RegCore.registration import methods
from RegCore.registration.affine import align
from RegCore.registration.intensity_refinement import refined_on_intensities, refined_where_explained
from RegCore.registration.motion import is_rigid
from RegCore.registration.pair import PairSide
from RegCore.registration.register import register
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


# ---- where a linear transform explains the pair ------------------------------------------------------------


TRUE = rigid_motion(1.0)


def scans(noise: float = 0.01, true: AffineTransform = TRUE) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of the balls on `OBLIQUE` and of the same moved on `MIRRORED`, in other units."""
    random = np.random.default_rng(0)
    fixed, moving = balls(OBLIQUE, AffineTransform.identity()).array, balls(MIRRORED, true).array
    parts = [x + noise * np.ptp(x) * random.normal(size=x.shape) for x in (fixed, moving)]
    return parts[0], 700 * parts[1] - 300


def side(array: np.ndarray, grid: Geometry, mask: np.ndarray | None = None) -> PairSide:
    marked = None if mask is None else Volume(mask.astype(np.uint8), grid, "labels")
    return PairSide(Volume(array.astype(np.float32), grid), mask=marked)


def error(found: AffineTransform, true: AffineTransform = TRUE) -> float:
    """Mean distance to the truth in voxels."""
    points = points_inside(OBLIQUE)
    apart = np.linalg.norm(found.map(points) - true.map(points), axis=1)
    return float(apart.mean() / OBLIQUE.spacing.mean())


START = AffineTransform(rigid_motion(0.3).matrix @ TRUE.matrix)


@pytest.mark.parametrize("rigid", [True, False], ids=["rigid", "affine"])
def test_scans_of_one_body_in_any_units_come_together(rigid):
    fixed, moving = scans()
    found = refined_where_explained(side(fixed, OBLIQUE), side(moving, MIRRORED), START, rigid=rigid)
    assert error(found) < 0.05 < 0.1 < error(START) and (not rigid or is_rigid(found))


@pytest.mark.parametrize("matrix", [np.eye(4), rigid_motion(0.02).matrix], ids=["exact", "a little off"])
@pytest.mark.parametrize("rigid", [True, False], ids=["rigid", "affine"])
def test_equal_images_stay_where_they_are(matrix, rigid):
    same = side(scans()[0], OBLIQUE)
    found = refined_where_explained(same, same, AffineTransform(matrix), rigid=rigid)
    assert error(found, AffineTransform.identity()) < (1e-9 if (matrix == np.eye(4)).all() else 2e-3)


def test_what_does_not_count_in_either_image_pulls_nothing():
    fixed, moving = scans()
    kept = [np.ones(x.shape, bool) for x in (fixed, moving)]
    kept[0][:7], kept[1][..., -6:] = False, False
    random = np.random.default_rng(1)
    spoilt = [
        np.where(k, x, random.choice(x.ravel(), x.shape)) for k, x in zip(kept, (fixed, moving), strict=True)
    ]
    unknown = [np.where(k, x, np.nan) for k, x in zip(kept, (fixed, moving), strict=True)]

    def found(arrays, masks):
        sides = [side(*each) for each in zip(arrays, (OBLIQUE, MIRRORED), masks, strict=True)]
        return refined_where_explained(*sides, START, rigid=True)

    assert found(spoilt, (None, None)) is START
    assert error(found(spoilt, kept)) < 0.08 and error(found(unknown, (None, None))) < 0.08


def test_what_no_linear_transform_explains_stays():
    fixed, moving = scans()
    bent = np.roll(fixed, 2, axis=1)
    bent[:10] = fixed[:10]
    for other in (-moving, np.random.default_rng(2).normal(size=moving.shape), np.zeros(moving.shape)):
        sides = side(fixed, OBLIQUE), side(other, MIRRORED)
        assert refined_where_explained(*sides, START, rigid=True) is START
    sides = side(bent, OBLIQUE), side(fixed, OBLIQUE)
    given = AffineTransform.identity()
    assert refined_where_explained(*sides, given, rigid=False) is given


def test_cancelling_is_heard():
    def tick():
        raise Cancelled

    fixed, moving = scans()
    with pytest.raises(Cancelled):
        refined_where_explained(side(fixed, OBLIQUE), side(moving, MIRRORED), START, rigid=True, tick=tick)


@pytest.mark.parametrize("method", ["rigid", "affine"])
def test_a_linear_registration_ends_on_intensities(method):
    fixed, moving = (side(x, grid).image for x, grid in zip(scans(0.003), (OBLIQUE, MIRRORED), strict=True))
    assert error(align(PairSide(fixed), PairSide(moving), rigid=method == "rigid")) > 0.1
    assert error(register(fixed, moving, method, device="cpu").transform) < 0.07
    still = register(fixed, fixed, method, device="cpu").transform
    assert error(still, AffineTransform.identity()) < 1e-6


def test_segmentations_that_take_part_have_the_last_word(monkeypatch):
    asked = []
    monkeypatch.setattr(
        methods, "refined_where_explained", lambda *sides, **_: asked.append(1) or AffineTransform.identity()
    )
    fixed, moving = (side(x, grid).image for x, grid in zip(scans(), (OBLIQUE, MIRRORED), strict=True))
    labels = {
        f"{name}_labels": Volume((v.array > np.median(v.array)).astype(np.uint8), v.geometry, "labels")
        for name, v in (("fixed", fixed), ("moving", moving))
    }
    register(fixed, moving, "rigid", device="cpu", **labels)
    assert not asked
    register(fixed, moving, "rigid", device="cpu", settings={"label_weight": 0.0}, **labels)
    assert asked
