"""Inverse consistency and landmark distance against SciPy's interpolation and the transforms in space."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from RegCore.evaluation.metrics import tre
from RegCore.losses import inverse_consistency, landmark_distance
from RegCore.resampler import integrate
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import DisplacementField

FIXED, MOVING = (7, 8, 9), (8, 6, 7)


def noise(shape, size=1.0, seed=0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(shape, size=1.0, seed=0) -> torch.Tensor:
    """A field of low waves that vanishes at the border of its grid."""
    axes = [torch.sin(torch.linspace(0, torch.pi, n, dtype=torch.float64)) for n in shape]
    bump = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return noise((1, 3, 1, 1, 1), size, seed) * bump**2


def at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of (3, i, j, k) at (3, ...), linear, the edge value outside."""
    return np.stack([map_coordinates(x, points, order=1, mode="nearest") for x in field])


def there_and_back(u: np.ndarray, v: np.ndarray, spacing) -> float:
    grid = np.indices(u.shape[1:]).astype(float)
    missed = (u + at(v, grid + u)) * np.reshape(spacing, (3, 1, 1, 1))
    return float((missed**2).sum(0).mean())


@pytest.mark.parametrize(
    "spacings", [(None, None), ((0.5, 2.0, 3.0), (1.0, 1.5, 0.7)), ((0.5, 2.0, 3.0), None)]
)
def test_inverse_consistency_is_the_mean_square_of_what_is_missed_there_and_back(spacings):
    u, v = noise((2, 3, *FIXED)), noise((2, 3, *MOVING), seed=1)
    of_fixed = spacings[0] or (1, 1, 1)
    of_moving = spacings[1] or of_fixed
    expected = [
        (there_and_back(a, b, of_fixed) + there_and_back(b, a, of_moving)) / 2
        for a, b in zip(u.numpy(), v.numpy(), strict=True)
    ]
    found = inverse_consistency(u, v, spacing=spacings[0], moving_spacing=spacings[1])
    np.testing.assert_allclose(found, expected)
    if spacings == (None, None):
        torch.testing.assert_close(inverse_consistency(v, u), found)


def test_a_shift_and_its_reverse_are_consistent_and_a_shift_there_and_there_again_is_not():
    shift = torch.tensor([1.5, -2.0, 0.25], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, *FIXED)
    assert inverse_consistency(shift, -shift).item() == pytest.approx(0, abs=1e-20)
    assert inverse_consistency(shift, shift).item() == pytest.approx(4 * (1.5**2 + 4 + 0.25**2))


def test_a_velocity_forward_and_backward_is_nearly_consistent_and_a_negated_displacement_is_less_so():
    velocity = smooth((17, 18, 19), 1.5)
    ddf = integrate(velocity)
    exact = inverse_consistency(ddf, integrate(-velocity)).item()
    assert exact < 0.02**2
    assert inverse_consistency(ddf, -ddf).item() > 20 * exact


def test_inverse_consistency_has_the_slope_of_finite_differences():
    pair = tuple(
        noise((1, 3, *shape), 0.4, seed).requires_grad_(True) for seed, shape in enumerate([(3, 2, 4)] * 2)
    )
    assert torch.autograd.gradcheck(lambda u, v: inverse_consistency(u, v, spacing=(1, 2, 0.5)), pair)


def landmarks(number=5, seed=0):
    """Places inside the fixed and the moving grid, (2, N, 3) in voxels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand((2, number, 3), generator=generator, dtype=torch.float64) * (torch.tensor(shape) - 1)
        for shape in (FIXED, MOVING)
    ]


def oblique(shape, spacing, left_handed: bool) -> Geometry:
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    if (np.linalg.det(turn) < 0) != left_handed:
        turn[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, (10, -20, 30)
    return Geometry(shape, affine)


@pytest.mark.parametrize("left_handed", [False, True])
def test_the_distance_of_landmarks_in_mm_is_the_error_of_the_transform_in_space(left_handed):
    fixed, moving = oblique(FIXED, (2, 1, 0.7), left_handed), oblique(MOVING, (0.9, 3, 1.2), not left_handed)
    ddf, (p, q) = noise((2, 3, *FIXED)), landmarks()
    expected = []
    for n in range(2):
        transform = DisplacementField.from_voxels(ddf[n].permute(1, 2, 3, 0).numpy(), fixed, moving)
        pairs = np.concatenate([fixed.to_world(p[n].numpy()), moving.to_world(q[n].numpy())], 1)
        expected.append(tre(transform, pairs).mean())
    for options in ({"affine": torch.tensor(moving.affine)}, {"spacing": moving.spacing}):
        np.testing.assert_allclose(landmark_distance(ddf, p, q, **options), expected, rtol=1e-5)
    both = torch.from_numpy(np.stack([moving.affine, 2 * moving.affine]))
    np.testing.assert_allclose(landmark_distance(ddf, p, q, affine=both), np.multiply(expected, [1, 2]), 1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_the_distance_in_voxels_is_that_of_scipys_interpolation(squared):
    ddf, (p, q) = noise((2, 3, *FIXED)), landmarks()
    triples = zip(ddf.numpy(), p.numpy(), q.numpy(), strict=True)
    missed = np.stack([a.T + at(u, a.T) - b.T for u, a, b in triples])
    expected = np.linalg.norm(missed, axis=1) ** (2 if squared else 1)
    np.testing.assert_allclose(landmark_distance(ddf, p, q, squared=squared), expected.mean(1))


def test_a_pair_with_nan_does_not_count_and_brings_no_nan_into_the_slope():
    ddf, (p, q) = noise((2, 3, *FIXED)).requires_grad_(True), landmarks()
    p[0, 3], q[0, 4, 1], q[1] = torch.nan, torch.nan, torch.nan
    found = landmark_distance(ddf, p, q)
    torch.testing.assert_close(found[:1], landmark_distance(ddf[:1], p[:1, :3], q[:1, :3]))
    assert found[1] == 0
    found.sum().backward()
    assert ddf.grad.isfinite().all() and ddf.grad[0].abs().sum() > 0 and not ddf.grad[1].any()


def test_landmarks_that_meet_have_no_distance_and_a_finite_slope():
    ddf, (p, _) = torch.zeros((2, 3, *FIXED), dtype=torch.float64, requires_grad=True), landmarks()
    found = landmark_distance(ddf, p, p.clone())
    found.sum().backward()
    assert not found.any() and not ddf.grad.any()


@pytest.mark.parametrize("squared", [False, True])
def test_the_distance_has_the_slope_of_finite_differences(squared):
    ddf, (p, q) = noise((2, 3, 4, 3, 5)).requires_grad_(True), landmarks(2)
    p = (p * 0.3).requires_grad_(True)
    call = lambda u, a: landmark_distance(u, a, q, spacing=(1, 2, 0.5), squared=squared)  # noqa: E731
    assert torch.autograd.gradcheck(call, (ddf, p))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda u, p: inverse_consistency(u, u[:1]), "but there are 2 and 1"),
        (lambda u, p: inverse_consistency(u, u[:, :2]), r"but it is \(2, 2, 7, 8, 9\)"),
        (lambda u, p: inverse_consistency(u, u, spacing=(1, 1)), "three positive lengths"),
        (lambda u, p: landmark_distance(u, p, p[:, :2]), r"they are \(2, 5, 3\) and \(2, 2, 3\)"),
        (lambda u, p: landmark_distance(u, p[:1], p[:1]), "with B = 2"),
        (lambda u, p: landmark_distance(u, p, p, spacing=(1, 1, 1), affine=torch.eye(4)), "not both"),
        (lambda u, p: landmark_distance(u, p, p, affine=torch.eye(2)), r"its shape is \(2, 2\)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(noise((2, 3, *FIXED)), landmarks()[0])
