"""Random changes of training pairs: what is drawn, where it takes effect, and that a seed brings it back."""

import numpy as np
import pytest
import torch

from RegCore.loaders import augmentation
from RegCore.loaders.augmentation import AUGMENTATIONS, CORNERS, in_turn, in_voxels, random_affine, random_ddf
from RegCore.resampler import reference_grid, warp_grid
from RegCore.space.geometry import InputError

FIXED, MOVING = (7, 8, 9), (10, 6, 8)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).float()


def pair(size=2, labeled=True) -> dict:
    batch = {"fixed_image": noise(size, 1, *FIXED), "moving_image": noise(size, 1, *MOVING, seed=1)}
    if labeled:
        batch |= {"fixed_label": 1 - batch["fixed_image"], "moving_label": 1 - batch["moving_image"]}
    return batch | {"indices": [0, 1]}


def in_cube(shape) -> torch.Tensor:
    """Coordinates ``(1, 3, *shape)`` from -1 to 1 between the corner voxels."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_corners_of_the_cube_are_drawn_inwards_by_no_more_than_the_scale(scale):
    theta = random_affine(200, scale, seeded()).double()
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    kept = (torch.cat([corners, torch.ones(4, 1)], 1) @ theta) / corners
    assert theta.shape == (200, 4, 3)
    assert 1 - scale - 1e-5 <= float(kept.min()) and float(kept.max()) <= 1 + 1e-5
    assert float(kept.mean()) == pytest.approx(1 - scale / 2, abs=0.03 * scale + 1e-6)
    assert float(kept.std()) == pytest.approx(scale / 12**0.5, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("shape", [FIXED, MOVING, (1, 5, 2)])
def test_a_map_of_the_cube_is_the_same_map_of_the_voxels_of_any_grid(shape):
    theta = random_affine(3, 0.3, seeded()).double()
    centre = (torch.tensor(shape, dtype=torch.float64).view(1, 3, 1, 1, 1) - 1) / 2
    half = centre.clamp_min(0.5)
    voxels = reference_grid(shape, dtype=torch.float64)
    found = warp_grid(voxels, in_voxels(theta, shape))
    expected = warp_grid((voxels - centre) / half, theta) * half + centre
    torch.testing.assert_close(found, expected)


def test_random_fields_have_the_strength_asked_for_and_a_value_at_each_node():
    field = random_ddf(4000, (2, 2, 2), 3.0, (2, 2, 2), seeded())
    assert field.shape == (4000, 3, 2, 2, 2)
    assert abs(float(field.mean())) < 0.05
    assert float(field.square().mean()) == pytest.approx(3.0**2 / 3, rel=0.05)  # mean of s^2, s of [0, 3)
    each = field.square().mean((2, 3, 4)).sqrt()  # of one field along one axis
    assert float(each.std()) > 0.5
    shifts = random_ddf(2, FIXED, 1.0, 1, seeded())
    assert torch.equal(shifts, shifts[..., :1, :1, :1].expand(2, 3, *FIXED))


@pytest.mark.parametrize("name, options", [("affine", {}), ("ddf", {"low_res_size": (2, 3, 2)})])
@pytest.mark.parametrize("deepreg", [False, True])
def test_a_seed_brings_back_the_same_batch_and_nothing_global_is_touched(name, options, deepreg):
    augment, batch = AUGMENTATIONS[name](**options, deepreg=deepreg), pair()
    before, state = {k: v.clone() for k, v in batch.items() if k != "indices"}, torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    first, again, other = (augment(batch, seeded(s)) for s in (5, 5, 6))
    assert list(first) == list(batch) and first["indices"] == [0, 1]
    for key in before:
        assert first[key].shape == batch[key].shape and first[key].dtype == torch.float32
        assert torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key])
        assert torch.equal(batch[key], before[key])
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("name, still", [("affine", {"scale": 0}), ("ddf", {"field_strength": 0})])
def test_no_strength_changes_nothing_but_what_deepreg_blanks(name, still):
    batch = pair()
    ours, theirs = (AUGMENTATIONS[name](**still, deepreg=d)(batch, seeded()) for d in (False, True))
    for key in ("fixed_image", "moving_image", "fixed_label", "moving_label"):
        torch.testing.assert_close(ours[key], batch[key], atol=1e-5, rtol=0)
        blank = torch.zeros_like(batch[key])
        blank[..., 1:, 1:, 1:] = batch[key][..., 1:, 1:, 1:]
        torch.testing.assert_close(theirs[key], blank, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["affine", "ddf"])
def test_labels_go_where_their_images_go(name):
    batch = pair()
    batch |= {"fixed_label": batch["fixed_image"] / 2, "moving_label": batch["moving_image"] / 2}
    made = AUGMENTATIONS[name]()(batch, seeded())
    bare = AUGMENTATIONS[name]()(pair(labeled=False), seeded())
    for side in ("fixed", "moving"):
        torch.testing.assert_close(made[f"{side}_label"], made[f"{side}_image"] / 2)
        assert torch.equal(bare[f"{side}_image"], made[f"{side}_image"]) and f"{side}_label" not in bare


def test_an_affine_map_moves_the_same_anatomy_in_both_images_of_a_sample():
    """Coordinates of the cube as images, which linear interpolation follows exactly."""
    axis = {side: in_cube(shape)[:, :1].float() for side, shape in (("fixed", FIXED), ("moving", MOVING))}
    batch = {f"{side}_image": x.expand(3, -1, -1, -1, -1) for side, x in axis.items()}
    made = AUGMENTATIONS["affine"](0.4)(batch, seeded(3))
    theta = random_affine(3, 0.4, seeded(3)).double()
    assert float((theta[0] - theta[1]).abs().min()) > 1e-4
    for side, shape in (("fixed", FIXED), ("moving", MOVING)):
        target = warp_grid(in_cube(shape), theta)
        inside = (target.abs() <= 1).all(1, keepdim=True)
        found = made[f"{side}_image"].double()
        assert float(inside.double().mean()) > 0.5
        torch.testing.assert_close(found[inside], target[:, :1][inside], atol=1e-5, rtol=0)
        beyond = (target.abs() > 1 + 2 / 5).any(1, keepdim=True)  # more than half a voxel outside
        assert not found[beyond].any()


def test_fields_differ_between_the_images_of_a_sample():
    batch = {f"{side}_image": noise(1, 1, *FIXED) for side in ("fixed", "moving")}
    made = AUGMENTATIONS["ddf"](2.0, (3, 3, 3))(batch, seeded())
    assert float((made["fixed_image"] - made["moving_image"]).abs().max()) > 0.1


def test_deformations_in_turn_sample_once_and_end_where_one_after_the_other_does(monkeypatch):
    ramp = {
        side: in_cube(s).sum(1, keepdim=True).float() for side, s in (("fixed", FIXED), ("moving", MOVING))
    }
    batch = {f"{side}_image": x for side, x in ramp.items()}
    steps = [AUGMENTATIONS["affine"](0.3), AUGMENTATIONS["ddf"](0.2, (2, 2, 2)), AUGMENTATIONS["affine"](0.2)]
    generator = seeded()
    one_by_one = batch
    for step in steps:
        one_by_one = step(one_by_one, generator)
    warps, warp = [], augmentation.warp_image_ddf
    monkeypatch.setattr(augmentation, "warp_image_ddf", lambda *a, **k: warps.append(a) or warp(*a, **k))
    together = in_turn(steps)(batch, seeded())
    assert len(warps) == 2  # one for each side
    inner = (Ellipsis, *[slice(2, -2)] * 3)
    for key in batch:
        torch.testing.assert_close(together[key][inner], one_by_one[key][inner], atol=1e-5, rtol=0)
        assert float((together[key] - batch[key])[inner].abs().max()) > 0.05


def test_in_turn_keeps_the_order_of_what_is_no_deformation():
    def darker(batch, generator):
        return {**batch, "fixed_image": batch["fixed_image"] / 2}

    steps = [AUGMENTATIONS["affine"](deepreg=True), AUGMENTATIONS["ddf"](deepreg=True), darker]
    generator, expected = seeded(), pair()
    for step in steps:
        expected = step(expected, generator)
    made = in_turn(steps)(pair(), seeded())
    for key in ("fixed_image", "moving_image", "fixed_label"):
        assert torch.equal(made[key], expected[key])
    same = pair()
    assert in_turn([])(same, seeded()) is same


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("affine", {"scale": 1.5}, "scale must lie between 0 and 1, but it is 1.5"),
        ("affine", {"scale": -0.1}, "scale must lie"),
        ("ddf", {"field_strength": -1}, "field_strength must not be negative"),
        ("ddf", {"field_strength": float("nan")}, "field_strength must not be negative"),
        ("ddf", {"low_res_size": (2, 2)}, "low_res_size must be three positive"),
        ("ddf", {"low_res_size": (2, 0, 2)}, "low_res_size must be three positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, text):
    with pytest.raises(InputError, match=text):
        AUGMENTATIONS[name](**options)
