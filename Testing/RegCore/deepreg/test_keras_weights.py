"""Weights by Keras's paths and layouts: recorded networks take them, and give them back."""

import json

import numpy as np
import pytest
import torch

from RegCore.deepreg.keras_weights import from_state, to_state
from RegCore.networks.architectures import NETWORKS
from RegCore.space.geometry import InputError
from Testing.paths import DATA

OPTIONS = {
    "unet": {"num_channel_initial": 2, "depth": 2, "extract_levels": [1, 2], "pooling": False},
    "local": {"num_channel_initial": 2, "extract_levels": [0, 2], "norm_name": "layer"},
    "global": {"num_channel_initial": 2, "depth": 2},
}


def network(name: str):
    return NETWORKS[name]((7, 8, 9), **OPTIONS[name])


def weights_of(made) -> dict:
    rng = np.random.default_rng(0)
    return {path: rng.random(array.shape, np.float32) for path, array in from_state(made).items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_weights_come_back_as_they_were_given(name):
    made = network(name)
    weights = weights_of(made)
    made.load_state_dict(to_state(weights, made))
    back = from_state(made)
    assert set(back) == set(weights)
    for path, array in weights.items():
        np.testing.assert_array_equal(back[path], array, err_msg=path)


def test_layouts_and_words_are_those_of_keras():
    back = from_state(network("global"))
    assert back["encode_convs.1.0.layer.kernel"].shape == (3, 3, 3, 2, 4)
    assert back["output_block.dense.kernel"].shape == (8 * 2 * 2 * 3, 12)
    words = {path.rpartition(".")[2] for path in back}
    assert words == {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}


def test_a_transposed_convolution_keeps_its_input_channels_last():
    """A kernel of one tap: each output channel is the sum over inputs of weight[out, in] x[in]."""
    made = network("unet")
    weights = weights_of(made)
    path = "decode_deconvs.1.layer.kernel"
    assert weights[path].shape == (3, 3, 3, 4, 8)
    weights[path][:] = 0
    weights[path][0, 0, 0] = tap = np.arange(32, dtype=np.float32).reshape(4, 8)
    made.load_state_dict(to_state(weights, made))
    x = torch.rand(1, 8, 2, 2, 2)
    out = made.decode_deconvs["1"].layer(x, (4, 4, 4))
    np.testing.assert_allclose(out[0, :, 0, 0, 0].detach(), tap @ x[0, :, 0, 0, 0].numpy(), rtol=1e-5)


def test_moving_averages_are_taken_over_and_step_counters_kept():
    made = network("unet")
    counter = "encode_convs.0.0.norm.num_batches_tracked"
    made.get_submodule("encode_convs.0.0.norm").num_batches_tracked += 5
    weights = weights_of(made)
    state = to_state(weights, made)
    assert int(state[counter]) == 5
    path = "encode_convs.0.0.norm.moving_variance"
    np.testing.assert_array_equal(state["encode_convs.0.0.norm.running_var"], weights[path])


def test_what_does_not_fit_is_named():
    made = network("unet")
    weights = weights_of(made)
    lacking = {path: array for path, array in weights.items() if "bottom" not in path}
    with pytest.raises(InputError, match=r"lack bottom_block.0.layer.kernel and 14 more"):
        to_state(lacking, made)
    with pytest.raises(InputError, match=r"hold what the network lacks: dense.kernel$"):
        to_state({**weights, "dense.kernel": np.zeros((2, 2))}, made)
    turned = {**weights, "encode_convs.0.0.layer.kernel": np.zeros((2, 2, 3, 3, 3))}
    with pytest.raises(
        InputError, match=r"shape \(2, 2, 3, 3, 3\), but this network expects \(3, 3, 3, 2, 2\)"
    ):
        to_state(turned, made)


@pytest.mark.parametrize("case", ["unet", "local", "global"])
def test_every_recorded_path_exists_with_its_shape(case):
    """The index of the recorded models lists each weight of DeepReg's networks with its shape."""
    index = DATA / "golden" / "index_models.json"
    cases = [c for c in json.loads(index.read_text()) if c["config"]["train"]["backbone"]["name"] == case]
    assert cases
    for recorded in cases:
        options = dict(recorded["config"]["train"]["backbone"])
        options.pop("control_points", None)
        if case != "global":  # the order in which the levels' convolutions are listed
            options["deepreg"] = True
        labels = recorded["method"] == "conditional"
        made = NETWORKS[options.pop("name")](
            recorded["fixed_image_size"], in_channels=2 + labels, out_channels=1 if labels else 3, **options
        )
        shapes = {path: array.shape for path, array in from_state(made).items()}
        assert shapes == {w["path"]: tuple(w["shape"]) for w in recorded["weights"]}
