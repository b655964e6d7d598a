"""What a network says in voxels arrives in space exactly, on any grids; it sees what it was trained on."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import map_coordinates

from RegCore.io import load, save
from RegCore.loaders import pairs_from_volumes
from RegCore.networks.layers.convolution import Conv3d
from RegCore.networks.model_file import Model, build, save_model
from RegCore.networks.models import DDFModel, Prediction
from RegCore.progress import Cancelled
from RegCore.registration.learned import load_model, predict_batch, predicted_transform
from RegCore.registration.register import register
from RegCore.resampler import warp
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume, reoriented
from Testing.RegCore.grids import (
    GRIDS,
    SHEARED,
    affine,
    map_by_itk,
    points_inside,
    smooth_field,
    tilted_affine,
)
from Testing.RegCore.itk import resampled
from Testing.RegCore.known_networks import FIXED_SIZE, MOVING_SIZE, THETA, Known, field, known

__all__ = ["known"]
OTHER = Geometry((11, 6, 13), affine((-0.4, 0.1, 0.7), (0.9, 2.1, -1.3), (10.0, -20.0, 60.0)))
PLACES = {**GRIDS, "sheared": SHEARED}


def image(geometry: Geometry, seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).normal(50, 20, geometry.shape).astype(np.float32), geometry)


def codes(fixed: Geometry, moving: Geometry) -> tuple[str, str]:
    """Axes of a training whose images had the order of voxels that these have."""
    return fixed.axis_codes, moving.axis_codes


def box_index(geometry: Geometry, size, points) -> np.ndarray:
    """Index on a grid of another size that fills the same box, half-pixel centres; not by `resized_box`."""
    index = (points - geometry.affine[:3, 3]) @ np.linalg.inv(geometry.affine[:3, :3]).T
    return (index + 0.5) * np.array(size) / np.array(geometry.shape) - 0.5


def box_world(geometry: Geometry, size, index) -> np.ndarray:
    own = (index + 0.5) * np.array(geometry.shape) / np.array(size) - 0.5
    return own @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


def expected(fixed: Geometry, moving: Geometry, points: np.ndarray) -> np.ndarray:
    """Where the field of the network takes points, straight from its meaning; constant beyond."""
    index = box_index(fixed, FIXED_SIZE, points)
    ddf = field(FIXED_SIZE)
    shift = [map_coordinates(ddf[..., c], index.T, order=1, mode="nearest") for c in range(3)]
    return box_world(moving, MOVING_SIZE, index + np.stack(shift, -1))


@pytest.mark.parametrize("moving", [*PLACES, "other"])
@pytest.mark.parametrize("fixed", ["oblique", "left-handed", "sheared"])
def test_a_field_in_voxels_becomes_the_exact_transform(known, fixed, moving):
    fixed, moving = PLACES[fixed], {**PLACES, "other": OTHER}[moving]
    found = predicted_transform(known(axes=codes(fixed, moving)), image(fixed), image(moving))
    assert isinstance(found, DisplacementField)
    points = np.concatenate([fixed.world_grid().reshape(-1, 3), points_inside(fixed, margin=-0.5)])
    np.testing.assert_allclose(found.map(points), expected(fixed, moving, points), atol=2e-4)


@pytest.mark.parametrize("place", PLACES)
def test_an_affine_answer_becomes_an_affine_transform(known, place):
    fixed, moving = PLACES[place], OTHER
    found = predicted_transform(known("known-affine", axes=codes(fixed, moving)), image(fixed), image(moving))
    assert isinstance(found, AffineTransform)
    points = points_inside(fixed, margin=-3)
    index = box_index(fixed, FIXED_SIZE, points)
    target = box_world(moving, MOVING_SIZE, np.c_[index, np.ones(len(index))] @ THETA)
    np.testing.assert_allclose(found.map(points), target, atol=1e-4)


def test_a_velocity_is_integrated_before_it_becomes_a_transform(known):
    """The half-way point of a constant flow lies half-way; here: the transform is that of the model's ddf."""
    fixed, moving = image(GRIDS["oblique"]), image(OTHER)
    model = known(method="dvf", axes=codes(fixed.geometry, OTHER))
    found = predicted_transform(model, fixed, moving)
    said = model.network(torch.zeros(1, 1, *FIXED_SIZE), torch.zeros(1, 1, *MOVING_SIZE))
    assert not torch.allclose(said.ddf, said.dvf, atol=0.05)
    index = np.stack(np.meshgrid(*map(np.arange, FIXED_SIZE), indexing="ij"), -1).reshape(-1, 3)
    target = index + said.ddf[0].movedim(0, -1).reshape(-1, 3).numpy()
    points = box_world(fixed.geometry, FIXED_SIZE, index)
    np.testing.assert_allclose(found.map(points), box_world(OTHER, MOVING_SIZE, target), atol=2e-4)


@pytest.mark.parametrize("place", GRIDS)
def test_the_image_warped_by_it_is_that_of_simpleitk(known, place, tmp_path):
    """Also from the file: it reaches over the whole fixed image, beyond which ITK knows no displacement."""
    fixed, moving = image(GRIDS[place]), image(OTHER)
    found = predicted_transform(known(axes=codes(fixed.geometry, OTHER)), fixed, moving)
    ours = warp(moving, found, fixed.geometry, fill=-100.0)
    theirs = resampled(moving.array, moving.geometry, found, fixed.geometry, fill=-100.0)
    assert 0.2 < np.mean(theirs > -100) < 1
    np.testing.assert_allclose(ours.array, theirs, atol=2e-3)
    save(found, tmp_path / "transform.h5")
    points = fixed.geometry.world_grid().reshape(-1, 3)
    read = map_by_itk(sitk.ReadTransform(str(tmp_path / "transform.h5")), points)
    np.testing.assert_allclose(read, expected(fixed.geometry, OTHER, points), atol=1e-3)
    np.testing.assert_array_equal(load(tmp_path / "transform.h5").mm, found.mm)


def test_onto_gives_the_same_transform_on_the_grid_wanted(known):
    fixed, moving = image(GRIDS["left-handed"]), image(OTHER)
    model = known(axes=codes(fixed.geometry, OTHER))
    found = predicted_transform(model, fixed, moving, onto=fixed.geometry)
    assert found.geometry == fixed.geometry
    points = fixed.geometry.world_grid()
    np.testing.assert_allclose(
        found.map(points).reshape(-1, 3), expected(fixed.geometry, OTHER, points.reshape(-1, 3)), atol=5e-4
    )


# ---- what the network sees ---------------------------------------------------------------------------------


def test_a_pair_is_seen_as_the_loaders_would_show_it(known):
    fixed, moving = image(GRIDS["oblique"], 1), image(OTHER, 2)
    predicted_transform(known(axes=codes(fixed.geometry, OTHER)), fixed, moving)
    loader = pairs_from_volumes(
        [(fixed, moving)], fixed_image_shape=FIXED_SIZE, moving_image_shape=MOVING_SIZE
    )
    model, sample = known(), loader.load(loader.samples()[0])
    model.network(sample["fixed_image"][None], sample["moving_image"][None])
    pair, of_loader = Known.seen
    assert pair.min() >= 0 and pair[:, 1].max() > 0.6
    torch.testing.assert_close(pair, of_loader, rtol=0, atol=0)


def test_images_of_other_orientation_are_turned_to_that_of_the_training(known):
    """Voxels in another order are the same images: the network sees and the transform says the same."""
    fixed, moving = image(GRIDS["oblique"], 1), image(OTHER, 2)
    axes = fixed.geometry.axis_codes, moving.geometry.axis_codes
    assert axes[0] != axes[1]
    model = known(axes=axes)
    found = predicted_transform(model, fixed, moving)
    turned = predicted_transform(model, reoriented(fixed, "IPR"), reoriented(moving, "ASL"))
    torch.testing.assert_close(Known.seen[1], Known.seen[0])
    np.testing.assert_allclose(turned.mm, found.mm, atol=1e-4)


def test_where_the_axes_of_the_training_are_unknown_the_moving_image_gets_the_order_of_the_fixed_one(known):
    fixed, moving = reoriented(image(GRIDS["oblique"], 1), "IPR"), image(OTHER, 2)
    found = predicted_transform(known(), fixed, moving)
    told = predicted_transform(known(axes=("IPR", "IPR")), fixed, moving)
    torch.testing.assert_close(Known.seen[0], Known.seen[1], rtol=0, atol=0)
    np.testing.assert_array_equal(found.mm, told.mm)
    predicted_transform(known(axes=("IPR", OTHER.axis_codes)), fixed, moving)
    assert not torch.allclose(Known.seen[2], Known.seen[0], atol=0.1)


# ---- a transform to start from -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["affine", "field"])
def test_with_a_start_the_network_sees_the_moving_image_through_it_in_the_box_of_the_fixed_one(known, kind):
    fixed, moving = image(GRIDS["oblique"], 1), image(OTHER, 2)
    start = tilted_affine(1.05, moving.geometry.centre - fixed.geometry.centre)
    if kind == "field":
        start = start.compose(smooth_field(fixed.geometry, mm=2.0, sigma=2.0))
    found = predicted_transform(known(), fixed, moving, initial=start, onto=fixed.geometry)
    points = fixed.geometry.world_grid().reshape(-1, 3)
    target = start.map(expected(fixed.geometry, fixed.geometry, points))
    np.testing.assert_allclose(found.map(points), target, atol=2e-3)
    seen_through = warp(moving, start, fixed.geometry)
    predicted_transform(known(), fixed, seen_through)
    torch.testing.assert_close(Known.seen[0], Known.seen[1])


def test_an_affine_start_and_an_affine_answer_stay_affine(known):
    fixed, moving = image(GRIDS["oblique"]), image(GRIDS["left-handed"])
    start = tilted_affine(1.0, (1.0, 2.0, 3.0))
    found = predicted_transform(known("known-affine"), fixed, moving, initial=start)
    assert isinstance(found, AffineTransform)
    points = points_inside(fixed.geometry)
    index = np.c_[box_index(fixed.geometry, FIXED_SIZE, points), np.ones(len(points))]
    alone = box_world(fixed.geometry, MOVING_SIZE, index @ THETA)
    np.testing.assert_allclose(found.map(points), start.map(alone), atol=1e-4)
    bent = smooth_field(fixed.geometry)
    both = predicted_transform(known("known-affine"), fixed, moving, initial=bent, onto=fixed.geometry)
    nodes = fixed.geometry.world_grid().reshape(-1, 3)
    index = np.c_[box_index(fixed.geometry, FIXED_SIZE, nodes), np.ones(len(nodes))]
    target = bent.map(box_world(fixed.geometry, MOVING_SIZE, index @ THETA))
    np.testing.assert_allclose(both.map(nodes), target, atol=1e-3)


# ---- what can't be used ------------------------------------------------------------------------------------


def test_labels_alone_are_no_transform(known, monkeypatch):
    model = known()
    monkeypatch.setattr(DDFModel, "forward", lambda *given: Prediction(label=torch.zeros(1, 1, *FIXED_SIZE)))
    with pytest.raises(InputError, match="this model predicts labels, not a transform; .* regcore predict"):
        predicted_transform(model, image(OTHER), image(OTHER))


@pytest.mark.parametrize("name", ["known", "known-affine"])
def test_an_answer_that_is_not_finite_is_refused(known, monkeypatch, name):
    module = "Testing.RegCore.known_networks"
    monkeypatch.setattr(f"{module}.field", lambda shape: np.full((*shape, 3), np.nan))
    monkeypatch.setattr(f"{module}.THETA", np.full((4, 3), np.inf))
    with pytest.raises(InputError, match="NaN or infinite"):
        predicted_transform(known(name), image(OTHER), image(OTHER))


def curved(large: bool) -> Model:
    """A network of random weights; if large, its numbers are beyond float16."""
    backbone = {"name": "unet", "num_channel_initial": 4, "depth": 2}
    torch.manual_seed(0)
    model = build({"train": {"method": "ddf", "backbone": backbone}}, FIXED_SIZE, FIXED_SIZE, False)
    first, *others = model.network.parameters()
    with torch.no_grad():
        for parameter in others:
            parameter.add_(0.1 * torch.randn(parameter.shape))
        first.mul_(1e6 if large else 1)
    model.network.eval()
    return model


def displacements(model: Model, dtype: torch.dtype | None = None) -> np.ndarray:
    """What `register` finds, within `torch.autocast` if there is a type for that."""
    pair = image(GRIDS["oblique"], 1), image(OTHER, 2)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        found = register(*pair, model, device="cpu").transform
    return found.mm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", [True, False], ids=["weights", "autocast"])
def test_half_precision_gives_about_what_float32_gives(caplog, dtype, weights):
    wanted, model = displacements(curved(False)), curved(False)
    if weights:
        model.network.to(dtype)
    for _ in range(2):
        found = displacements(model, None if weights else dtype)
        np.testing.assert_allclose(found, wanted, atol=0.1)
    assert "too large" not in caplog.text
    assert caplog.text.count(f"weights are {dtype}: it is made to compute in float32") == weights


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("bf16", [True, False, None])
def test_a_model_that_learnt_in_bfloat16_predicts_in_it_where_the_processor_is_made_for_it(
    tmp_path, monkeypatch, amx, bf16
):
    model, seen = curved(False), []
    wanted = displacements(model)
    save_model(tmp_path / "model.pt", replace(model, bf16=bf16))
    model = load_model(tmp_path / "model.pt", device="cpu")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    first = next(part for part in model.network.modules() if isinstance(part, Conv3d))
    first.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    found = [displacements(model) for _ in range(2)]
    low = bool(bf16 and amx)
    assert seen == [torch.bfloat16 if low else torch.float32] * 2
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], wanted, atol=0.1)
    assert np.array_equal(found[0], wanted) is not low


def test_where_half_precision_overflows_float32_is_used_and_that_is_said_once(caplog):
    model = curved(True)
    wanted = displacements(model)
    assert np.isfinite(wanted).all() and wanted.std() > 0.5
    for _ in range(2):
        np.testing.assert_allclose(displacements(model, torch.float16), wanted, rtol=1e-5)
    assert caplog.text.count("are too large for torch.float16: from here on it computes in float32") == 1


def test_what_is_not_finite_in_float32_either_is_refused(caplog):
    model = curved(False)
    with torch.no_grad():
        next(model.network.parameters())[0] = np.nan
    for dtype in (None, torch.float16):
        with pytest.raises(InputError, match="says about this pair holds values that are NaN or infinite"):
            displacements(model, dtype)
    assert "too large" not in caplog.text


def test_cancel_is_heard(known):
    def stop(fraction, text, values):
        raise Cancelled

    with pytest.raises(Cancelled):
        predicted_transform(known(), image(OTHER), image(OTHER), progress=stop)


def test_a_checkpoint_is_found_with_and_without_its_ending(known, tmp_path):
    save_model(tmp_path / "ckpt-2.pt", known(axes=("RAS", "LPS")))
    for name in ("ckpt-2", "ckpt-2.pt"):
        found = load_model(tmp_path / name)
        assert found.fixed_size == FIXED_SIZE and found.axes == ("RAS", "LPS")
        assert not found.network.training
    with pytest.raises(InputError, match="ckpt-3: there is no such file"):
        load_model(tmp_path / "ckpt-3")


@pytest.mark.parametrize("start", [False, True])
def test_a_network_of_a_given_spacing_sees_images_as_its_loader_gives_them(known, start, monkeypatch):
    """Cropped or padded about the body; with a transform to start from the moving image in the fixed box."""
    fixed, moving = image(GRIDS["oblique"], 1), image(OTHER, 2)
    dataset = {"spacing": [2.0, 1.5, 2.5], "space": "axes"}
    backbone = {"name": "known"}
    network = DDFModel(backbone, FIXED_SIZE, FIXED_SIZE, labeled=False)
    axes = (fixed.geometry.axis_codes,) * 2
    config = {"dataset": dataset, "train": {"method": "ddf", "backbone": backbone}}
    model = Model(config, FIXED_SIZE, FIXED_SIZE, False, network, axes)
    given = []
    monkeypatch.setattr(
        "RegCore.registration.learned.predict_batch",
        lambda _, *x: given.extend(x) or predict_batch(model, *x),
    )
    matrix = np.eye(4)
    matrix[:3, 3] = moving.geometry.centre - fixed.geometry.centre
    initial = AffineTransform(matrix) if start else None
    found = predicted_transform(model, fixed, moving, initial=initial)
    loader = pairs_from_volumes([(fixed, moving)], fixed_image_shape=FIXED_SIZE)
    if start:
        loader = pairs_from_volumes(
            [(fixed, warp(moving, initial, fixed.geometry))], fixed_image_shape=FIXED_SIZE
        )
    loader.place("header" if start else "axes", axes, tuple(dataset["spacing"]))
    loaded = loader.load(loader.samples()[0])
    for tensor, name in zip(given, ("fixed_image", "moving_image"), strict=False):
        torch.testing.assert_close(tensor[0], loaded[name])
    points = points_inside(loaded["fixed_geometry"], margin=1.0)
    index = loaded["fixed_geometry"].to_index(points)
    ddf = field(FIXED_SIZE)
    shift = [map_coordinates(ddf[..., c], index.T, order=1, mode="nearest") for c in range(3)]
    wanted = loaded["moving_geometry"].to_world(index + np.stack(shift, -1))
    wanted = wanted if initial is None else initial.map(wanted)
    np.testing.assert_allclose(found.map(points), wanted, atol=1e-3)
