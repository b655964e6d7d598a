"""Local correlation climbed by composed steps, against SciPy, autograd and known motions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from RegCore.progress import Cancelled
from RegCore.registration.compositional import (
    CorrelationLevel,
    CorrelationSettings,
    LocalCorrelation,
    climb,
    climb_wide,
    composed,
    correlation_grids,
    raise_correlation,
)
from RegCore.registration.pair import PairSide
from RegCore.resampler import compose, field_of, folding_fraction, voxel_jacobian
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, MOVING, centred, density, scan

QUICK = CorrelationSettings(iterations=30, levels=1)
NOWHERE = torch.zeros((1, 3, *FIXED.shape))


def noise(shape, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# ---- the slope ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radii", [(2, 2, 2), (1, 3, 1)])
def test_the_slope_is_what_autograd_finds(radii):
    fixed, warped = noise((7, 8, 9)), noise((7, 8, 9), 1).requires_grad_(True)
    fixed -= fixed.mean()
    moved = fixed.clone().requires_grad_(True)  # the fixed image, as what may move
    weight = (noise((7, 8, 9), 2) > -1).double()
    similarity = LocalCorrelation(fixed, radii)
    kernel = torch.ones((1, 1, *(2 * r + 1 for r in radii)), dtype=torch.float64)

    def mean(x):
        def total(y):
            return torch.nn.functional.conv3d(y[None, None], kernel, padding=radii)[0, 0]

        return total(x) / total(torch.ones_like(x))

    own = mean(warped * warped) - mean(warped) ** 2
    own = own + 1e-3 * own.mean().detach()
    other = mean(moved * moved) - mean(moved) ** 2
    other = other + 1e-3 * other.mean().detach()
    covariance = mean(moved * warped) - mean(moved) * mean(warped)
    score = covariance**2 / (own * other)
    (0.5 * (score * weight).sum()).backward()
    value, slope, by_fixed = similarity.slopes(warped.detach(), weight, both=True)
    torch.testing.assert_close(slope, warped.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(by_fixed, moved.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(similarity.slopes(warped.detach(), weight)[1:], (slope, None))
    assert value == pytest.approx(float((score * weight).sum().detach() / weight.sum()))
    assert similarity.value(warped.detach(), weight) == pytest.approx(value)


def test_brightness_contrast_and_sign_do_not_matter():
    fixed, warped = noise((9, 8, 7)), noise((9, 8, 7), 1)
    similarity, ones = LocalCorrelation(fixed, (2, 2, 2)), torch.ones((9, 8, 7), dtype=torch.float64)
    assert similarity.value(300 - 40 * warped, ones) == pytest.approx(similarity.value(warped, ones))


@pytest.mark.parametrize("turned", [False, True], ids=["along the fixed axes", "oblique"])
def test_a_small_step_raises_the_correlation_by_what_the_slope_promises(turned):
    grid = MOVING if turned else FIXED
    moving = Volume(density(grid.world_grid() + 2.0).astype(np.float32), grid)
    level = CorrelationLevel(PairSide(scan(FIXED)), PairSide(moving), np.eye(4), FIXED, 2, "cpu")
    nowhere = torch.zeros((3, *FIXED.shape))
    before, step = level.step(nowhere, level.gaussian(1.75), 0.05)
    assert level.value(composed(nowhere, step)) > before
    assert level.value(composed(nowhere, -step)) < before
    assert float((step[0] ** 2 + step[1] ** 2 + step[2] ** 2).max().sqrt()) < 0.06  # voxels are nearly cubes


# ---- steps -------------------------------------------------------------------------------------------------


def test_steps_compose_as_displacements_do():
    wave = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (15, 14, 13)), indexing="ij"))
    u = torch.stack([torch.sin(wave[1] / 3), torch.cos(wave[2] / 4), torch.sin(wave[0] / 5)])
    step = 0.2 * torch.stack([torch.cos(wave[0] / 3), torch.sin(wave[1] / 4), torch.cos(wave[2] / 5)])
    expected = compose(u[None], step[None])[0]
    inner = (slice(None), *(slice(1, -1),) * 3)
    torch.testing.assert_close(composed(u, step)[inner], expected[inner], atol=0.02, rtol=0)
    assert (expected - u).abs().max() > 0.2


def test_equal_images_stay_where_they_are():
    side = PairSide(scan(FIXED))
    found, grid = raise_correlation(side, side, np.eye(4), NOWHERE, FIXED, settings=QUICK)
    assert grid == FIXED and not found.any()


def bent(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) mm moved by up to 5 mm."""
    return points + 4 * np.sin(points[..., [1, 2, 0]] / 25) + [1.0, -0.5, 0.7]


def bent_scan(geometry: Geometry, seed: int = 0) -> Volume:
    values = density(bent(geometry.world_grid()))
    noise = np.random.default_rng(seed).normal(size=geometry.shape) * 0.01 * np.ptp(values)
    return Volume((values + noise).astype(np.float32), geometry)


THICK = centred((40, 38, 15), (0.1, -0.2, 0.15), (3.6, 3.8, 9.4))
ODD = centred((27, 20, 25), (0.3, 0.1, -0.2), (-5.4, 7.0, 6.0))


@pytest.mark.parametrize("fixed", [FIXED, THICK, ODD], ids=["cubes", "thick slices", "left-handed, odd"])
@pytest.mark.parametrize("linear", [False, True], ids=["headers", "through an affine"])
def test_a_known_motion_is_found(fixed, linear):
    matrix = np.eye(4)
    if linear:
        matrix[:3] = [[1.02, 0.1, 0, 3], [-0.1, 0.98, 0.05, -4], [0, -0.05, 1.0, 5]]
    moving = scan(MOVING.moved(matrix), AffineTransform(np.linalg.inv(matrix)).map, seed=3)
    sides = PairSide(bent_scan(fixed)), PairSide(moving)
    start = torch.zeros((1, 3, *fixed.shape))
    found, grid = raise_correlation(*sides, matrix, start, fixed, settings=QUICK)
    points = fixed.world_grid()
    body = density(points) > 0.5
    transform = field_of(AffineTransform(matrix), grid, found)
    apart = np.linalg.norm(transform.map(points) - AffineTransform(matrix).map(bent(points)), axis=-1)[body]
    before = np.linalg.norm(points - bent(points), axis=-1)[body]
    assert apart.mean() < 0.45 * before.mean()
    assert folding_fraction(found) == 0


TEXTURED = centred((34, 32, 30), (0.1, -0.2, 0.15), (5.0, 5.2, -5.4))


def far_bent(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) mm moved by up to 53 mm, a third of the grid's length, and by 30 mm in the mean."""
    weight = np.exp(-(points**2).sum(-1, keepdims=True) / (2 * 60.0**2))
    return points + 40 * weight * np.sin(points[..., [1, 2, 0]] / 60 + [0.8, 1.5, 0.3])


def scan_of_waves(mapping=None, sign: float = 1.0) -> Volume:
    """Waves of 18 to 40 mm in all directions at T(x), x the voxel centres."""
    points = TEXTURED.world_grid()
    rng = np.random.default_rng(5)
    waves = rng.normal(size=(40, 3))
    waves *= (2 * np.pi / rng.uniform(18, 40, 40) / np.linalg.norm(waves, axis=1))[:, None]
    points = points if mapping is None else mapping(points)
    values = np.cos(points @ waves.T + rng.uniform(0, 6, 40)).sum(-1)
    return Volume((sign * values).astype(np.float32), TEXTURED)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["one contrast", "inverted"])
def test_wide_steps_find_what_small_ones_do_not(sign):
    sides = PairSide(scan_of_waves(far_bent)), PairSide(scan_of_waves(sign=sign))
    points = TEXTURED.world_grid()[4:-4, 4:-4, 4:-4]
    apart, nowhere = [], torch.zeros((1, 3, *TEXTURED.shape))
    for steps in (0, 60):
        settings = replace(QUICK, iterations=50, wide_iterations=steps)
        found, grid = raise_correlation(*sides, np.eye(4), nowhere, TEXTURED, settings=settings)
        transform = field_of(AffineTransform.identity(), grid, found)
        apart.append(float(np.linalg.norm(transform.map(points) - far_bent(points), axis=-1).mean()))
        assert folding_fraction(found) == 0
    assert apart[0] > 10 > 1 > apart[1]  # mm


def test_wide_steps_are_left_out_where_the_first_of_them_raise_nothing(monkeypatch):
    level = CorrelationLevel(PairSide(scan(FIXED)), PairSide(scan(FIXED)), np.eye(4), FIXED, 2, "cpu")
    steps, seen = CorrelationLevel.step, []
    monkeypatch.setattr(CorrelationLevel, "step", lambda *a: seen.append(1) or steps(*a))
    begin = NOWHERE[0]
    assert climb_wide(level, begin, QUICK) is begin and len(seen) == 10


def test_more_smoothing_makes_smoother_fields():
    sides = PairSide(bent_scan(FIXED)), PairSide(scan(MOVING))
    rough = []
    for sigma in (0.5, 1.2):
        settings = replace(QUICK, field_smoothing=sigma)
        found, _ = raise_correlation(*sides, np.eye(4), NOWHERE, FIXED, settings=settings)
        rough.append(float(voxel_jacobian(found).log().std()))
    assert rough[1] < 0.7 * rough[0]


def test_what_lies_beyond_a_mask_does_not_count():
    spoilt = scan(MOVING).array.copy()
    spoilt[12:] = 50 * np.random.default_rng(1).normal(size=spoilt[12:].shape)
    mask = np.ones(MOVING.shape, np.uint8)
    mask[12:] = 0
    side = PairSide(Volume(spoilt, MOVING), mask=Volume(mask, MOVING, "labels"))
    level = CorrelationLevel(PairSide(bent_scan(FIXED)), side, np.eye(4), FIXED, 2, "cpu")
    _, weight = level.warped(NOWHERE[0])
    at = MOVING.to_index(FIXED.world_grid())
    inside = ((at > -0.5) & (at < np.array(MOVING.shape) - 0.5)).all(-1)
    clear = np.abs(at[..., 0] - 11.5) > 0.6
    np.testing.assert_array_equal(weight.numpy()[clear], (inside & (at[..., 0] < 11.5))[clear])


def test_a_coarse_grid_that_leads_astray_is_left_out(monkeypatch):
    def astray(level, u, settings, progress=None):
        return u if level.grid == FIXED else u + 3

    monkeypatch.setattr("RegCore.registration.compositional.climb", astray)
    monkeypatch.setattr("RegCore.registration.compositional.FEWEST_VOXELS", 100)
    side = PairSide(scan(FIXED))
    settings = CorrelationSettings(levels=2)
    assert len(correlation_grids(FIXED, settings)) == 2
    found, _ = raise_correlation(
        side, PairSide(scan(FIXED, seed=1)), np.eye(4), NOWHERE, FIXED, settings=settings
    )
    assert not found.any()


def test_flat_images_and_planes_are_left_alone():
    flat = Geometry((9, 8, 1), np.diag([2.0, 2, 5, 1]))
    for array in (np.ones(flat.shape), np.random.default_rng(0).normal(size=flat.shape)):
        side = PairSide(Volume(array.astype(np.float32), flat))
        start = torch.zeros((1, 3, *flat.shape))
        found, _ = raise_correlation(side, side, np.eye(4), start, flat, settings=QUICK)
        assert not found.any()


def test_large_grids_get_fewer_steps_and_cancelling_stops():
    settings = CorrelationSettings(iterations=50, work=1_000_000)
    assert [settings.steps(n) for n in (10_000, 40_000, 10**7)] == [50, 25, 8]
    level = CorrelationLevel(PairSide(scan(FIXED)), PairSide(bent_scan(MOVING)), np.eye(4), FIXED, 2, "cpu")

    def stop(*event):
        raise Cancelled

    with pytest.raises(Cancelled):
        climb(level, NOWHERE[0], QUICK, stop)
    with pytest.raises(InputError, match="setting radius is 0, expected at least 1"):
        CorrelationSettings(radius=0)


def test_out_of_the_plane_of_a_single_slice_nothing_is_known():
    grid = Geometry((9, 8, 3), np.eye(4))
    image = np.random.default_rng(0).normal(size=(9, 8, 1)).astype(np.float32)
    fixed = PairSide(Volume(np.repeat(image, 3, 2), grid))
    level = CorrelationLevel(
        fixed, PairSide(Volume(image, Geometry((9, 8, 1), np.eye(4)))), np.eye(4), grid, 2, "cpu"
    )
    warped, weight = level.warped(torch.zeros(3, 9, 8, 3))
    assert weight[..., 0].min() == 1 and weight[..., 1:].max() == 0
    assert torch.isfinite(warped).all()
