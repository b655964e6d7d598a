"""DeepReg's classical registrations: descent, conversion to millimetres, settings, progress."""

import numpy as np
import pytest
import torch

from RegCore.progress import Cancelled
from RegCore.registration import classical
from RegCore.registration.classical import (
    classical_affine,
    classical_nonrigid,
    register_classical_affine,
    register_classical_nonrigid,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume

FIXED_SHAPE, MOVING_SHAPE = (17, 16, 15), (14, 17, 19)


def oblique(shape, spacing, angle, flip=1.0):
    """A turned, anisotropic grid; left-handed with flip -1."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing) @ np.diag([1, 1, flip])
    affine[:3, 3] = [11.0, -7.0, 5.0]
    return Geometry(shape, affine)


def waves(share):
    """An image with structure everywhere, of places in [0, 1]^3, ``(..., 3)``."""
    directions = np.array([[7.0, 3.0, 1.0], [-2.0, 8.0, 3.0], [3.0, -1.0, 9.0]])
    return np.sin(share @ directions.T + [0.3, 1.1, 2.0]).sum(-1)


FIXED_GRID = oblique(FIXED_SHAPE, (1.2, 0.8, 1.7), 0.3)
MOVING_GRID = oblique(MOVING_SHAPE, (1.5, 0.9, 1.1), -0.2, flip=-1.0)


def share(geometry):
    """Index of each voxel as a share of the extent, ``(I, J, K, 3)`` in [0, 1]."""
    return geometry.index_grid() / (np.array(geometry.shape) - 1)


def stretch(shares_matrix, shift):
    """The RAS transform that takes share p of the fixed box to share M p + t of the moving box."""
    to_share = np.diag([*(1 / (np.array(FIXED_SHAPE) - 1)), 1.0])
    to_index = np.diag([*(np.array(MOVING_SHAPE) - 1.0), 1.0])
    middle = np.eye(4)
    middle[:3, :3], middle[:3, 3] = shares_matrix, shift
    inverse = np.linalg.inv(FIXED_GRID.affine)
    return AffineTransform(MOVING_GRID.affine @ to_index @ middle @ to_share @ inverse)


TURNED = np.array([[0.98, 0.05, 0], [-0.06, 1.03, 0.02], [0.0, 0.03, 0.97]])
SHIFT = np.array([0.05, -0.04, 0.03])


def pair():
    """Fixed and moving volume with moving(M p + t) = fixed(p), p in shares of the box."""
    fixed = waves(share(FIXED_GRID))
    moving = waves((share(MOVING_GRID) - SHIFT) @ np.linalg.inv(TURNED).T)
    return Volume(100 * fixed + 7, FIXED_GRID), Volume(3 * moving - 1, MOVING_GRID)


def corner_error(found, truth):
    """Largest distance in mm over the inner half of the fixed box."""
    points = FIXED_GRID.to_world(share(FIXED_GRID)[4:13, 4:12, 4:11] * (np.array(FIXED_SHAPE) - 1))
    return float(np.linalg.norm(found.map(points) - truth.map(points), axis=-1).max())


def test_affine_descent_finds_a_known_map_between_grids_that_differ():
    fixed, moving = pair()
    truth = stretch(TURNED, SHIFT)
    start = corner_error(stretch(np.eye(3), np.zeros(3)), truth)
    found = register_classical_affine(fixed, moving, max_iter=300)
    assert start > 1.0
    assert corner_error(found, truth) < 0.1 * start


def test_without_a_step_worth_taking_corners_lie_on_corners():
    fixed, moving = pair()
    found = register_classical_affine(fixed, moving, max_iter=1, learning_rate=1e-9)
    np.testing.assert_allclose(found.matrix, stretch(np.eye(3), np.zeros(3)).matrix, atol=1e-6)


def test_the_start_may_be_given_in_millimetres():
    fixed, moving = pair()
    truth = stretch(TURNED, SHIFT)
    found = register_classical_affine(fixed, moving, max_iter=1, learning_rate=1e-9, initial=truth)
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-5)
    field = register_classical_nonrigid(fixed, moving, max_iter=1, learning_rate=1e-9, initial=truth)
    assert corner_error(field, truth) < 0.02


def test_nonrigid_descent_lowers_the_difference_and_lives_on_the_fixed_grid():
    fixed, moving = pair()
    truth = stretch(TURNED, SHIFT)
    found = register_classical_nonrigid(fixed, moving, max_iter=60, image_loss={"name": "lncc"})
    assert found.geometry == FIXED_GRID
    points = FIXED_GRID.to_world(np.array([[6.0, 6.4, 7.0], [10.4, 9.0, 5.6]]))
    start = stretch(np.eye(3), np.zeros(3)).map(points) - truth.map(points)
    error = found.map(points) - truth.map(points)
    assert np.linalg.norm(error) < 0.35 * np.linalg.norm(start)


def test_a_smaller_working_grid_means_the_same_millimetres(monkeypatch):
    fixed, moving = pair()
    truth = stretch(TURNED, SHIFT)
    affine = register_classical_affine(fixed, moving, max_iter=200, working_size=10)
    assert corner_error(affine, truth) < 0.2 * corner_error(stretch(np.eye(3), np.zeros(3)), truth)
    settings = {"max_iter": 3, "working_size": 9}
    fine = register_classical_nonrigid(fixed, moving, **settings)
    monkeypatch.setattr(classical, "FIELD_VOXELS", 100)
    coarse = register_classical_nonrigid(fixed, moving, **settings)
    assert np.prod(coarse.geometry.shape) <= 9**3 and fine.geometry == FIXED_GRID
    assert corner_error(fine, coarse) < 0.05  # only where linear cells of the two grids differ


def test_the_field_of_a_known_ddf_is_that_of_the_definition():
    fixed, moving = pair()
    found = register_classical_nonrigid(fixed, moving, max_iter=1, learning_rate=1e-9, seed=3)
    noise = 1e-3 * torch.randn(1, 3, *FIXED_SHAPE, generator=torch.Generator().manual_seed(3))
    moving_grid = MOVING_GRID.resized(FIXED_SHAPE)
    expected = DisplacementField.from_voxels(noise[0].permute(1, 2, 3, 0).numpy(), FIXED_GRID, moving_grid)
    np.testing.assert_allclose(found.mm, expected.mm, atol=1e-5)


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, 7, 8, 9, generator=generator), torch.rand(1, 1, 8, 7, 6, generator=generator)


def test_the_best_is_kept_where_it_is_asked_for():
    fixed, moving = tensors()
    settings = {"learning_rate": 0.5, "max_iter": 12}  # far too fast: the loss goes up and down
    last, history = classical_affine(fixed, moving, **settings)
    best, same = classical_affine(fixed, moving, **settings, keep_best=True)
    torch.testing.assert_close(history, same)
    assert history.argmin() < 11

    def loss_at(theta):
        return classical_affine(fixed, moving, initial_theta=theta, max_iter=1)[1].item()

    assert loss_at(best) == pytest.approx(history.min().item())
    assert loss_at(last) > loss_at(best)


def test_plain_descent_follows_the_gradient():
    fixed, moving = tensors()
    ddf = 0.3 * torch.ones(1, 3, 7, 8, 9)
    found, history = classical_nonrigid(
        fixed,
        moving,
        image_loss={"name": "ssd"},
        optimizer="SGD",
        learning_rate=2.0,
        max_iter=2,
        initial_ddf=ddf,
        weight_deform_loss=0.25,
    )
    assert history.shape == (2, 3)
    torch.testing.assert_close(history[:, 0], history[:, 1] + 0.25 * history[:, 2])
    assert history[1, 0] < history[0, 0]
    assert not torch.equal(found, ddf) and (ddf == 0.3).all()


def test_a_seed_fixes_the_result():
    fixed, moving = pair()
    a, b, c = (register_classical_nonrigid(fixed, moving, max_iter=2, seed=s).mm for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_progress_tells_each_iteration_and_may_cancel():
    told = []

    def listen(fraction, text, values):
        told.append((fraction, text, values))
        if values["iteration"] == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        classical_affine(*tensors(), max_iter=10, progress=listen)
    assert [values["iteration"] for _, _, values in told] == [1, 2, 3]
    assert told[1][0] == pytest.approx(0.2) and told[1][1] == "classical-affine"
    assert told[1][2]["loss"] != told[0][2]["loss"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": "Adamant"}, "'Adamant', expected one of Adam, .*, did you mean Adam?"),
        ({"max_iter": 0}, "max_iter is 0, expected at least 1"),
        ({"learning_rate": -1.0}, "learning_rate of the optimiser Adam is -1.0, expected a number above 0"),
        ({"image_loss": {"name": "dice"}}, "the loss is 'dice'"),
        ({"image_loss": {"name": "lncc", "size": 3}}, "no argument 'size'"),
        ({"working_size": 2}, "working_size is 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        register_classical_affine(*pair(), **settings)


def test_a_loss_that_is_not_finite_ends_the_descent():
    fixed, moving = tensors()
    with pytest.raises(InputError, match="the loss is nan at iteration 1"):
        classical_affine(fixed, moving * torch.nan)


def test_a_constant_image_is_refused():
    fixed, _ = pair()
    flat = Volume(np.full(MOVING_SHAPE, 4.0), MOVING_GRID)
    with pytest.raises(InputError, match="the moving image: the image is constant"):
        register_classical_affine(fixed, flat)
