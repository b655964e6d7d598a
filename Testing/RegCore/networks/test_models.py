"""Methods: what a network reads, what its answer becomes, how a configuration is read."""

import numpy as np
import pytest
import torch
from torch import nn

from RegCore.networks import models
from RegCore.networks.architectures import NETWORKS
from RegCore.networks.models import MODELS, Prediction, build_model, stacked, warped
from RegCore.space.geometry import InputError

FIXED, MOVING = (7, 8, 9), (6, 9, 8)
BACKBONES = {
    "unet": {"num_channel_initial": 2, "depth": 2},
    "local": {"num_channel_initial": 2, "extract_levels": [0, 1, 2]},
    "global": {"num_channel_initial": 2, "depth": 2},
    "keypoints": {"num_channel_initial": 2, "depth": 2},
}


def random(*shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def pair(size: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fixed image, moving image, moving label."""
    return random(size, 1, *FIXED), random(size, 1, *MOVING, seed=1), random(size, 1, *MOVING, seed=2)


def model(method: str, backbone: str | dict, *, labeled: bool = True, deepreg: bool = False, **options):
    if isinstance(backbone, str):
        backbone = {"name": backbone, **BACKBONES.get(backbone, {}), **options}
    train = {"method": method, "backbone": backbone} | ({"deepreg": True} if deepreg else {})
    return build_model(train, FIXED, MOVING, labeled=labeled)


class Plug(nn.Module):
    """A network of one's own that answers with a constant and remembers how it was made and what it read."""

    value, made = 0.0, {}

    def __init__(self, image_size, out_channels, out_kernel_initializer, out_activation=None, *, extra=1):
        super().__init__()
        names = ("image_size", "out_channels", "out_kernel_initializer", "out_activation", "extra")
        values = (image_size, out_channels, out_kernel_initializer, out_activation, extra)
        Plug.made = dict(zip(names, values, strict=True))
        self.out_channels, self.seen = out_channels, None

    def forward(self, x):
        self.seen = x
        return torch.zeros(len(x), self.out_channels, *x.shape[2:]) + Plug.value


@pytest.fixture
def plug(monkeypatch):
    monkeypatch.setitem(NETWORKS, "plug", Plug)
    monkeypatch.setattr(Plug, "value", 0.0)
    return Plug


# ---- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        ("ddf", "unet"),
        ("ddf", "local"),
        ("ddf", "global"),
        ("ddf", "keypoints"),
        ("dvf", "unet"),
        ("dvf", "local"),
    ],
)
def test_fields_have_the_fixed_shape(method, backbone):
    made = model(method, backbone, out_kernel_initializer="glorot_uniform").eval()
    found = made(*pair())
    assert found.ddf.shape == (2, 3, *FIXED)
    assert (found.dvf is not None) == (method == "dvf")
    assert (found.theta is not None) == (backbone in ("global", "keypoints"))
    assert found.label is None
    assert found.ddf.std() > 1e-3


@pytest.mark.parametrize("backbone", ["unet", "local"])
def test_the_conditional_method_gives_a_label_between_0_and_1(backbone):
    found = model("conditional", backbone).eval()(*pair())
    assert found.label.shape == (2, 1, *FIXED)
    assert 0 < found.label.min() < found.label.max() < 1
    assert (found.ddf, found.dvf, found.theta) == (None, None, None)


@pytest.mark.parametrize("method", ["ddf", "dvf"])
@pytest.mark.parametrize("backbone", ["unet", "local"])
def test_an_untrained_network_moves_nothing(method, backbone):
    found = model(method, backbone)(*pair())
    assert torch.equal(found.ddf, torch.zeros(2, 3, *FIXED))


def test_theta_says_what_the_field_of_an_affine_map_is():
    found = model("ddf", "global", deepreg=True).eval()(*pair())
    index = np.stack(np.meshgrid(*map(np.arange, FIXED), indexing="ij"), -1)
    ones = np.concatenate([index, np.ones((*FIXED, 1))], -1)
    for theta, ddf in zip(found.theta.detach().numpy(), found.ddf.detach().numpy(), strict=True):
        assert np.abs(theta - np.eye(4, 3)).max() > 0.01
        np.testing.assert_allclose(np.moveaxis(ddf, 0, -1), ones @ theta - index, rtol=1e-4, atol=1e-4)


def test_a_velocity_is_integrated_and_kept(plug):
    """A constant velocity leads as far in unit time, but DeepReg takes zeros from beyond the border."""
    plug.value = torch.tensor([0.5, -1.0, 0.25]).view(1, 3, 1, 1, 1)
    found = model("dvf", "plug")(*pair())
    torch.testing.assert_close(found.ddf, plug.value.expand(2, 3, *FIXED))
    torch.testing.assert_close(found.dvf, plug.value.expand(2, 3, *FIXED))
    short = model("dvf", "plug", deepreg=True)(*pair()).ddf
    torch.testing.assert_close(short[:, :, 3, 4, 4], plug.value[..., 0, 0, 0].expand(2, 3), rtol=0, atol=0.01)
    assert (short[:, 0, -1] < 0.25).all()


def test_a_velocity_can_be_integrated_on_a_coarser_grid():
    made = model("dvf", "unet", integration_scale=0.5, out_kernel_initializer="glorot_uniform").eval()
    whole = model("dvf", "unet", out_kernel_initializer="glorot_uniform").eval()
    whole.load_state_dict(made.state_dict())
    found, fine = made(*pair()), whole(*pair())
    torch.testing.assert_close(found.dvf, fine.dvf)
    torch.testing.assert_close(found.ddf, models.integrate(fine.dvf, scale=0.5))
    assert not torch.allclose(found.ddf, fine.ddf, atol=1e-3)
    assert torch.equal(model("dvf", "unet", integration_scale=None)(*pair()).ddf, torch.zeros(2, 3, *FIXED))


@pytest.mark.parametrize("method", ["ddf", "dvf"])
@pytest.mark.parametrize("points", [2, [2, 3, 2]])
def test_with_control_points_the_field_is_a_spline(method, points):
    made = model(method, "unet", control_points=points, out_kernel_initializer="glorot_uniform").eval()
    image = pair(1)
    found = made(*image)
    field = found.ddf if method == "ddf" else found.dvf
    free = model(method, "unet", out_kernel_initializer="glorot_uniform").eval()
    free.load_state_dict(made.state_dict())
    rough = free(*image)
    rough = rough.ddf if method == "ddf" else rough.dvf
    assert field.shape == rough.shape == (1, 3, *FIXED)

    def roughness(x):
        return (x.diff(n=3, dim=4).square().mean() / x.var()).item()

    assert roughness(field) < 0.5 * roughness(rough)
    spacing = (points,) * 3 if isinstance(points, int) else tuple(points)
    torch.testing.assert_close(field, models.control_point_field(rough, spacing))


def test_another_dtype_stays(plug):
    made = model("ddf", "unet", out_kernel_initializer="glorot_uniform").double()
    found = made(*(x.double() for x in pair()))
    assert found.ddf.dtype == torch.float64
    plug.value = torch.ones((), dtype=torch.bfloat16)
    assert model("ddf", "plug")(*pair()).ddf.dtype == torch.float32


# ---- what the network reads --------------------------------------------------------------------------------


def test_channels_are_moving_image_fixed_image_moving_label(plug):
    fixed, moving, label = (
        torch.full((2, 1, *s), v) for v, s in ((1.0, FIXED), (2.0, MOVING), (3.0, MOVING))
    )
    made = model("conditional", "plug")
    made(fixed, moving, label)
    assert made.backbone.seen.shape == (2, 3, *FIXED)
    assert made.backbone.seen.amin((0, 2, 3, 4)).tolist() == [2, 1, 3]
    assert made.backbone.seen.amax((0, 2, 3, 4)).tolist() == [2, 1, 3]
    made = model("ddf", "plug")
    made(fixed, moving, label)
    assert made.backbone.seen.amax((0, 2, 3, 4)).tolist() == [2, 1]


def test_the_moving_image_is_resized_box_onto_box():
    """A ramp along an axis of 4 voxels on one of 8: voxel i stands at (i + 1/2) / 2 - 1/2, ends repeated."""
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 3, 5)
    made = stacked(torch.zeros(1, 1, 8, 3, 5), ramp)[0, 0, :, 1, 2]
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_warping_takes_the_original_images_with_voxels_of_their_own_grid():
    _, image, label = pair()
    ddf = torch.tensor([1.0, 0, -2]).view(1, 3, 1, 1, 1).expand(2, 3, *FIXED)
    found = warped(Prediction(ddf=ddf), image, label)
    i, j, k = np.indices(FIXED)
    at = [np.clip(x, 0, n - 1) for x, n in zip((i + 1, j, k - 2), MOVING, strict=True)]
    for out, source in zip(found, (image, label), strict=True):
        np.testing.assert_allclose(out[:, 0], source[:, 0].numpy()[(slice(None), *at)], atol=1e-5)
    blanked = warped(Prediction(ddf=ddf), image, border="zero_boundary")
    assert blanked[1] is None
    inside = (i + 1 < MOVING[0]) & (j > 0) & (k - 2 > 0) & (j < MOVING[1]) & (k - 2 < MOVING[2])
    expected = np.where(inside, image[:, 0].numpy()[(slice(None), *at)], 0)
    np.testing.assert_allclose(blanked[0][:, 0], expected, atol=1e-5)


def test_a_predicted_label_is_not_warped():
    _, image, label = pair()
    found = warped(Prediction(label=random(2, 1, *FIXED)), image, label)
    assert found[0] is None
    assert torch.equal(found[1], random(2, 1, *FIXED))


# ---- configurations ----------------------------------------------------------------------------------------


def test_a_network_of_ones_own_gets_the_arguments_that_it_knows(plug):
    model("ddf", {"name": "plug", "extra": 5})
    expected = {"image_size": FIXED, "out_channels": 3, "out_kernel_initializer": "zeros"}
    assert plug.made == {**expected, "out_activation": None, "extra": 5}
    model("conditional", "plug")
    expected = {"image_size": FIXED, "out_channels": 1, "out_kernel_initializer": "glorot_uniform"}
    assert plug.made == {**expected, "out_activation": "sigmoid", "extra": 1}
    model("ddf", {"name": "plug", "out_activation": "tanh", "out_channels": 3})
    assert plug.made["out_activation"] == "tanh"


def test_a_network_may_take_any_argument(monkeypatch):
    taken = {}

    def anything(image_size, **options):
        taken.update(options)
        return nn.Identity()

    monkeypatch.setitem(NETWORKS, "anything", anything)
    model("ddf", {"name": "anything", "colour": "blue"}, deepreg=True)
    assert taken["colour"] == "blue"
    assert (taken["in_channels"], taken["out_channels"], taken["deepreg"]) == (2, 3, True)


def test_deepreg_reaches_the_network():
    """The level whose features an output convolution reads is seen by its number of channels."""
    first = {
        deepreg: model("ddf", "local", deepreg=deepreg).backbone.output_block.layers[0][0].weight.shape[1]
        for deepreg in (False, True)
    }
    assert first == {False: 2, True: 8}


def test_a_method_of_ones_own_is_found_by_its_name(monkeypatch):
    class Still(nn.Module):
        def __init__(self, backbone, fixed_size, moving_size, *, labeled, deepreg=False):
            super().__init__()
            self.given = (backbone, fixed_size, moving_size, labeled, deepreg)

    monkeypatch.setitem(MODELS, "still", Still)
    assert model("still", {"name": "none"}, deepreg=True).given == (
        {"name": "none"},
        FIXED,
        MOVING,
        True,
        True,
    )


def test_the_configuration_is_not_changed():
    backbone = {"name": "unet", **BACKBONES["unet"], "control_points": 2}
    kept = dict(backbone)
    model("ddf", backbone)
    assert backbone == kept


UNET = {"name": "unet", **BACKBONES["unet"]}


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ({"backbone": UNET}, "the method is missing, expected one of ddf, dvf, conditional"),
        ({"method": "DVF", "backbone": UNET}, "'DVF'.*did you mean dvf"),
        ({"method": "ddf"}, "train has no backbone"),
        ({"method": "ddf", "backbone": "unet"}, "the backbone is 'unet', expected a name and the arguments"),
        ({"method": "ddf", "backbone": {**UNET, "name": "unit"}}, "is 'unit'.*did you mean unet"),
        ({"method": "ddf", "backbone": {**UNET, "dept": 3}}, "no argument 'dept'.*did you mean depth"),
        ({"method": "ddf", "backbone": {**UNET, "in_channels": 2}}, "no argument 'in_channels'"),
        ({"method": "ddf", "backbone": {**UNET, "out_channels": 1}}, "is 1, but the method needs 3"),
        ({"method": "ddf", "backbone": {"name": "unet", "depth": 2}}, "needs num_channel_initial"),
        ({"method": "ddf", "backbone": {**UNET, "control_points": 0.5}}, "control_points must be.*0.5"),
        ({"method": "ddf", "backbone": {**UNET, "control_points": [2, 2]}}, "one or three positive"),
        ({"method": "dvf", "backbone": {**UNET, "integration_scale": 0}}, "at most 1, but it is 0"),
        ({"method": "dvf", "backbone": {**UNET, "integration_scale": 1.5}}, "at most 1, but it is 1.5"),
        ({"method": "dvf", "backbone": {**UNET, "integration_scale": True}}, "at most 1, but it is True"),
        ({"method": "ddf", "backbone": {**UNET, "integration_scale": 0.5}}, "no argument .integration_scale"),
        ({"method": "ddf", "backbone": UNET, "deepreg": "yes"}, "deepreg.*'yes', expected true or false"),
        ({"method": "conditional", "backbone": {**UNET, "control_points": 2}}, "predicts no field"),
    ],
)
def test_what_is_refused(train, sentence):
    with pytest.raises(InputError, match=sentence):
        build_model(train, FIXED, MOVING, labeled=True)


@pytest.mark.parametrize("name", ["global", "keypoints"])
def test_an_affine_network_goes_with_displacements_only(name):
    for method in ("dvf", "conditional"):
        with pytest.raises(InputError, match=f"{name} gives an affine map: it goes with the method ddf"):
            model(method, name)
    with pytest.raises(InputError, match="can't have control_points"):
        model("ddf", name, control_points=2)


def test_the_conditional_method_needs_labels():
    with pytest.raises(InputError, match="conditional predicts labels, but the data.*not labelled"):
        model("conditional", "unet", labeled=False)
    with pytest.raises(InputError, match="needs the moving label"):
        model("conditional", "unet")(*pair()[:2])


def test_wrong_tensors_are_named(plug):
    fixed, moving, _ = pair()
    made = model("ddf", "unet")
    with pytest.raises(
        InputError, match=r"moving image has the shape \(1, 1, 6, 9, 8\), but \(2, 1, I, J, K\)"
    ):
        made(fixed, moving[:1])
    with pytest.raises(InputError, match=r"fixed image has the shape \(2, 7, 8, 9\)"):
        made(fixed[:, 0], moving)
    plug.value = torch.zeros(2, 1, 1, 1, 1, 1)
    with pytest.raises(
        InputError, match=r"answer must be a tensor \(2, 3, 7, 8, 9\), but it is \(2, 2, 3, 7"
    ):
        model("ddf", "plug")(fixed, moving)
