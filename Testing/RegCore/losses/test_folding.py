"""The Jacobian penalty against determinants that are known, and SciPy's trilinear interpolation."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

import RegCore.losses.folding as penalty
from RegCore.losses import jacobian
from RegCore.space.geometry import InputError

SHAPE = (7, 8, 9)


def index_of(shape=SHAPE) -> torch.Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij"))


def linear_field(matrix, shape=SHAPE) -> torch.Tensor:
    """u(x) = (matrix - 1) x."""
    step = torch.as_tensor(matrix, dtype=torch.float64) - torch.eye(3)
    return torch.einsum("rc,cijk->rijk", step, index_of(shape))[None]


def noise(shape=(2, 3, *SHAPE), size=1.0, seed=0) -> torch.Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRICES = {
    "shear": [[1, 0.7, 0], [0, 1, -0.4], [0, 0, 1]],
    "stretch": [[1.5, 0, 0], [0, 0.8, 0], [0.2, 0, 1.1]],
    "mirror": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "exchange of axes": [[0, 2, 0], [1, 0, 0], [0, 0, 1]],
    "turn": [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_linear_map_has_the_determinant_of_its_matrix(name):
    determinant = np.linalg.det(MATRICES[name])
    field = linear_field(MATRICES[name])
    assert jacobian(field).item() == pytest.approx(max(-determinant, 0), abs=1e-12)
    if determinant > 0:
        found = jacobian(field, log_weight=0.5).item()
        assert found == pytest.approx(0.5 * np.log(determinant) ** 2, abs=1e-12)


def test_a_product_of_monotonous_maps_has_the_product_of_their_slopes():
    field, logs = torch.zeros(1, 3, *SHAPE, dtype=torch.float64), []
    for d, n in enumerate(SHAPE):
        steps = 0.4 + torch.rand(n - 1, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
        place = torch.cat([torch.zeros(1), steps.cumsum(0)])
        field[0, d] = (place - torch.arange(n)).view([-1 if e == d else 1 for e in range(3)])
        logs.append(steps.log().numpy())
    expected = np.square(logs[0][:, None, None] + logs[1][:, None] + logs[2]).mean()
    assert jacobian(field).item() == 0
    assert jacobian(field, log_weight=1.0).item() == pytest.approx(expected)


def test_it_is_the_fold_of_the_trilinear_map_at_the_corners_of_its_cells():
    shape, near, eps = (3, 4, 3), 1e-6, 1e-7
    field = noise((1, 3, *shape), 0.5)
    folds = []
    for cell in product(*(range(n - 1) for n in shape)):
        for corner in product((0, 1), repeat=3):
            place = np.array(cell) + np.array(corner) + near * (1 - 2 * np.array(corner))
            ends = place[:, None, None] + eps * np.stack([np.eye(3), -np.eye(3)], -1)
            u = np.stack([map_coordinates(x, ends.reshape(3, -1), order=1) for x in field[0].numpy()])
            slope = u.reshape(3, 3, 2) @ [1, -1] / (2 * eps)
            folds.append(max(0, -np.linalg.det(np.eye(3) + slope)))
    assert max(folds) > 0.1
    assert jacobian(field).item() == pytest.approx(np.mean(folds), rel=1e-4)


def test_it_sees_the_folds_of_a_field_that_alternates_from_voxel_to_voxel():
    sign = 1 - 2 * (index_of().sum(0) % 2)
    field = (0.6 * sign).expand(1, 3, *SHAPE).clone()
    central = np.gradient(field[0].numpy(), axis=(1, 2, 3))  # nothing but at the border
    assert max(np.abs(c[:, 1:-1, 1:-1, 1:-1]).max() for c in central) == 0
    assert jacobian(field).item() > 0.1


def test_the_charge_of_a_change_of_volume_goes_on_below_its_floor_without_a_step_or_a_kink():
    d = torch.tensor([penalty.FLOOR * (1 + s) for s in (-1e-6, 1e-6)], dtype=torch.float64)
    value, slope = penalty._charge(d, 0.7)
    assert value[0] == pytest.approx(value[1].item(), rel=1e-4) == 0.7 * np.log(penalty.FLOOR) ** 2
    assert slope[0] == pytest.approx(slope[1].item(), rel=1e-4)
    assert penalty._charge(torch.tensor([-3.0]), 0.7)[0] > 3


@pytest.mark.parametrize("log_weight", [0.0, 0.05])
def test_descending_it_unfolds_a_field(log_weight):
    field = noise((1, 3, 6, 5, 7), 0.6).requires_grad_(True)
    adam = torch.optim.Adam([field], lr=0.02)
    start = jacobian(field).item()
    for _ in range(150):
        adam.zero_grad()
        jacobian(field, log_weight=log_weight).sum().backward()
        adam.step()
    assert start > 0.05 and jacobian(field).item() < 0.01 * start


def test_neither_slabs_nor_samples_nor_a_wanted_slope_change_the_value(monkeypatch):
    whole = jacobian(noise(), log_weight=0.3)
    torch.testing.assert_close(whole[1:], jacobian(noise()[1:], log_weight=0.3))
    fields = [noise().requires_grad_(True) for _ in range(2)]
    for field, cells in zip(fields, (10**9, 100), strict=True):
        monkeypatch.setattr(penalty, "SLAB_CELLS", cells)
        found = jacobian(field, log_weight=0.3)
        torch.testing.assert_close(found.detach(), whole)
        found.sum().backward()
    torch.testing.assert_close(fields[0].grad, fields[1].grad)


def test_an_axis_of_one_voxel_has_no_slope():
    field = noise((1, 3, 6, 1, 5), 0.8)
    plane = torch.stack([field[0, 0, :, 0], field[0, 2, :, 0]])
    i, k = plane.diff(dim=1), plane.diff(dim=2)
    folds = []
    for low, high in product((slice(None, -1), slice(1, None)), repeat=2):
        a, b = i[:, :, high], k[:, low]
        folds.append((-((1 + a[0]) * (1 + b[1]) - a[1] * b[0])).clamp_min(0).mean().item())
    assert jacobian(field).item() == pytest.approx(np.mean(folds))
    assert jacobian(torch.randn(1, 3, 1, 1, 1)).item() == 0


@pytest.mark.parametrize(
    ("shape", "weight", "sentence"),
    [((1, 2, 5, 5, 5), 0, r"but it is \(1, 2, 5, 5, 5\)"), ((1, 3, 5, 5, 5), -1, "log_weight must be at")],
)
def test_what_cannot_be_is_refused(shape, weight, sentence):
    with pytest.raises(InputError, match=sentence):
        jacobian(torch.zeros(shape), log_weight=weight)
