"""Block matching: displacements that are known, parabolas, what is unknown, what stands out."""

from itertools import product

import numpy as np
import pytest
import torch

from RegCore.registration.block_matching import FLAT, best_displacements, block_costs, offsets


def noise(shape, channels=2, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((1, channels, *shape)).astype(np.float32))


def test_offsets_are_the_cube_of_displacements_i_slowest():
    assert offsets(1).tolist() == [list(o) for o in product((-1, 0, 1), repeat=3)]
    assert offsets(0).tolist() == [[0, 0, 0]]


def naive_costs(fixed, moving, radius, block, valid, outside) -> np.ndarray:
    """The definition in the docstring of `block_costs`, in numpy: (D, blocks...)."""
    shape = fixed.shape[2:]
    fixed, moving, rows = fixed[0].numpy(), moving[0].numpy(), []
    known = np.ones(shape) if valid is None else valid[0, 0].numpy()
    counts = [n // block for n in shape]
    for offset in product(range(-radius, radius + 1), repeat=3):
        index = np.indices(shape) + np.array(offset).reshape(3, 1, 1, 1)
        inside = np.all([(x >= 0) & (x < n) for x, n in zip(index, shape, strict=True)], 0)
        index = tuple(np.clip(x, 0, n - 1) for x, n in zip(index, shape, strict=True))
        cost = ((fixed - moving[(slice(None), *index)]) ** 2).sum(0)
        if valid is not None:
            cost = np.where(inside & (known[index] > 0), cost, outside)
        cost = cost[tuple(slice(0, c * block) for c in counts)]
        rows.append(cost.reshape([n for c in counts for n in (c, block)]).mean((1, 3, 5)))
    return np.array(rows)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("radius", "block"), [(1, 1), (2, 3), (1, 4)])
def test_costs_are_mean_squared_distances_of_blocks(radius, block, masked):
    fixed, moving = noise((7, 8, 9)), noise((7, 8, 9), seed=1)
    valid = (noise((7, 8, 9), 1, seed=2) > 0.3).float() if masked else None
    found = block_costs(fixed, moving, radius, block, valid=valid, outside=1.7)
    expected = naive_costs(fixed, moving, radius, block, valid, 1.7)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_matching_changes_neither_image_nor_mask():
    fixed, moving, valid = noise((6, 6, 6)), noise((6, 6, 6), seed=1), torch.ones((1, 1, 6, 6, 6))
    before = [t.clone() for t in (fixed, moving, valid)]
    block_costs(fixed, moving, 1, 2, valid=valid, outside=1.0)
    assert all(torch.equal(a, b) for a, b in zip((fixed, moving, valid), before, strict=True))


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 0), (-2, 1, 2), (1, 2, -2)])
def test_a_known_shift_is_found_by_every_inner_block(shift):
    moving = noise((16, 17, 18))
    fixed = torch.roll(moving, [-s for s in shift], (2, 3, 4))  # fixed(x) = moving(x + shift)
    costs = block_costs(fixed, moving, 2, 4)
    found, contrast = best_displacements(costs, 2)
    found = found.view(*costs.shape[1:], 3)[1:-1, 1:-1, 1:-1]
    assert found.numel() >= 3 * 8
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(shift, found.shape), atol=0.1)
    assert float(contrast.view(costs.shape[1:])[1:-1, 1:-1, 1:-1].min()) > 0.1


@pytest.mark.parametrize("least", [(0.3, -0.4, 0.1), (-1.2, 0.45, 0.0), (0.0, 0.0, 0.0)])
def test_a_parabola_finds_the_least_cost_between_voxels(least):
    apart = offsets(2).numpy() - np.array(least)
    costs = torch.from_numpy((apart**2 @ [1.0, 2.0, 0.5]) + 3.0).view(-1, 1, 1, 1)
    found, contrast = best_displacements(costs, 2)
    np.testing.assert_allclose(found.numpy(), [least], atol=1e-9)
    assert float(contrast[0]) == pytest.approx(float(costs.mean() - costs.min()))


def test_at_the_border_of_the_search_there_is_no_parabola():
    costs = torch.from_numpy(offsets(2).numpy() @ [1.0, -1.0, 0.0]).view(-1, 1, 1, 1)
    found, _ = best_displacements(costs, 2)
    assert found[0, :2].tolist() == [-2.0, 2.0] and abs(float(found[0, 2])) <= 2


def test_a_flat_cost_stands_out_by_nothing():
    found, contrast = best_displacements(torch.full((27, 2, 1, 1), 0.7), 1)
    assert float(contrast.abs().max()) < 1e-6 < FLAT and torch.isfinite(found).all()


def test_what_is_unknown_does_not_attract():
    moving = noise((12, 12, 12))
    fixed = torch.roll(moving, -1, 2)
    valid = torch.ones((1, 1, 12, 12, 12))
    valid[:, :, 6:] = 0
    decoy = moving.clone()
    decoy[:, :, 6:] = fixed[:, :, 6:]  # beyond what is known, the image would match where it stands
    found, _ = best_displacements(block_costs(fixed, decoy, 2, 4, valid=valid, outside=0.05), 2)
    np.testing.assert_allclose(found.view(3, 3, 3, 3)[0, :, :, 0].numpy(), 1.0, atol=0.1)
    hidden = block_costs(fixed, decoy, 2, 4, valid=torch.zeros_like(valid), outside=0.05)
    np.testing.assert_allclose(hidden.numpy(), 0.05, atol=1e-6)
