"""DeepReg's checkpoints: the imported model computes what DeepReg computed; nothing is left out unsaid."""

import copy
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from RegCore.deepreg.checkpoint import import_checkpoint, read_weights
from RegCore.deepreg.keras_weights import from_state
from RegCore.networks.model_file import build, read_model
from RegCore.networks.models import build_model, warped
from RegCore.registration.learned import load_model
from RegCore.resampler import resize3d
from RegCore.space.geometry import InputError
from RegCore.training.folder import RunFolder
from RegCore.training.processes import Group
from RegCore.training.state import TrainingState
from Testing.paths import DEEPREG, RECORDED
from Testing.RegCore.deepreg.bundles import graph, write_bundle, write_checkpoint

CONFIG = {
    "dataset": {"image_shape": [7, 8, 9], "train": {"labeled": True}},
    "train": {"method": "ddf", "backbone": {"name": "unet", "num_channel_initial": 2, "depth": 2}},
}


def config_with(method="ddf", **backbone) -> dict:
    return {**CONFIG, "train": {"method": method, "backbone": backbone}}


def saved(tmp_path, config: dict, more=None, change=None) -> tuple[Path, torch.nn.Module]:
    """A checkpoint of a network with random weights as DeepReg would have it, and the network."""
    generator = torch.Generator().manual_seed(0)
    train = {**config["train"], "deepreg": True}
    network = build_model(train, (7, 8, 9), (7, 8, 9), labeled=True).eval()
    for parameter in network.state_dict().values():
        if parameter.is_floating_point():
            parameter.copy_(0.1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    weights = from_state(network.backbone)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    if change is not None:
        change(weights)
    return write_checkpoint(tmp_path / "save" / "ckpt-2", weights, more), network


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((1, 1, 7, 8, 9), generator=generator) for _ in range(3)]


NETWORKS = {
    "unet": config_with(name="unet", num_channel_initial=2, depth=2),
    "unet, several levels": config_with(
        name="unet", num_channel_initial=2, depth=3, extract_levels=[3, 0, 1]
    ),
    "unet, without pooling": config_with(name="unet", num_channel_initial=1, depth=1, pooling=False),
    "local": config_with(name="local", num_channel_initial=2, extract_levels=[1, 2]),
    "local, dvf": config_with("dvf", name="local", num_channel_initial=2, extract_levels=[0, 1]),
    "global": config_with(name="global", num_channel_initial=2, depth=2),
    "conditional": config_with("conditional", name="unet", num_channel_initial=2, depth=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_as_it_was(tmp_path, name):
    prefix, network = saved(tmp_path, NETWORKS[name])
    made = load_model(prefix)
    assert (made.fixed_size, made.moving_size, made.labeled) == ((7, 8, 9), (7, 8, 9), True)
    assert made.config["train"]["method"] == NETWORKS[name]["train"]["method"]
    with torch.no_grad():
        expected, found = network(*images()), made.network(*images())
    for field in ("ddf", "dvf", "theta", "label"):
        if getattr(expected, field) is not None:
            assert getattr(expected, field).abs().max() > 0.01
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=0, atol=0)


def test_the_file_that_is_written_holds_the_same_model(tmp_path):
    prefix, network = saved(tmp_path, CONFIG)
    import_checkpoint(prefix, out=tmp_path / "model.pt")
    for path in (tmp_path / "model.pt", prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        made = load_model(path)
        with torch.no_grad():
            torch.testing.assert_close(made.network(*images()).ddf, network(*images()).ddf, rtol=0, atol=0)
    assert made.config == read_model(tmp_path / "model.pt").config
    assert made.config["dataset"] == CONFIG["dataset"]


def test_an_affine_head_gets_its_inputs_in_the_order_of_channels_last(tmp_path):
    """Against numpy: theta = flattened features · kernel + bias, the features with the channels last."""
    config = config_with(name="global", num_channel_initial=2, depth=1)
    prefix, _ = saved(tmp_path, config)
    weights, made = read_weights(prefix), import_checkpoint(prefix)
    features = []
    made.network.backbone.bottom_block.register_forward_hook(lambda *given: features.append(given[-1]))
    with torch.no_grad():
        theta = made.network(*images()[:2]).theta.numpy()
    flat = features[0].numpy().transpose(0, 2, 3, 4, 1).reshape(1, -1)
    expected = flat @ weights["output_block.dense.kernel"] + weights["output_block.dense.bias"]
    np.testing.assert_allclose(theta.reshape(1, 12), expected, rtol=1e-4, atol=1e-4)


def test_outputs_belong_to_the_levels_that_deepreg_took_them_from(tmp_path):
    """Level min + max - L for the output of level L, in the order as written; channels tell them apart."""
    levels = [3, 0, 1]
    config = config_with(name="local", num_channel_initial=2, extract_levels=levels)
    prefix, _ = saved(tmp_path, config)
    weights = read_weights(prefix)
    channels = [weights[f"output_block.layers.{i}.0.kernel"].shape[3] for i in range(3)]
    assert channels == [2 * 2 ** (3 - level) for level in levels]
    assert import_checkpoint(prefix).network.backbone.output_block.places == [0, 3, 2]


@pytest.mark.parametrize("levels", [[0, 1, 2], [0, 2, 3], [3, 0, 1], [1]])
def test_without_the_option_the_outputs_move_to_their_levels(tmp_path, levels):
    """So that a training can go on with a network that takes level L from level L."""
    config = config_with(name="local", num_channel_initial=2, extract_levels=levels, depth=3)
    prefix, network = saved(tmp_path, config)
    made = import_checkpoint(prefix, deepreg=False)
    assert made.config["train"]["deepreg"] is False
    used = sorted(min(levels) + max(levels) - level for level in levels)
    assert made.config["train"]["backbone"]["extract_levels"] == used
    with torch.no_grad():
        expected, found = network(*images()).ddf, made.network(*images()).ddf
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("deepreg", [False, True])
def test_a_training_begins_with_a_checkpoint_of_tensorflow(tmp_path, deepreg):
    config = config_with(name="local", num_channel_initial=2, extract_levels=[0, 1, 2])
    prefix, network = saved(tmp_path, config)
    begun = build({**config, "train": {**config["train"], "deepreg": deepreg}}, (7, 8, 9), (7, 8, 9), True)
    optimiser = torch.optim.SGD(begun.network.parameters())
    folder = RunFolder(tmp_path, Group("cpu"))
    state = folder.started_from(prefix, TrainingState.new(0), begun, optimiser)
    assert state.position.epoch == 2
    with torch.no_grad():
        expected, found = network(*images()).ddf, begun.network.eval()(*images()).ddf
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_sizes_of_fixed_and_moving_images_may_differ(tmp_path):
    dataset = {"fixed_image_shape": [7, 8, 9], "moving_image_shape": [12, 5, 6], "train": {"labeled": False}}
    prefix, _ = saved(tmp_path, CONFIG)
    made = import_checkpoint(prefix, {**CONFIG, "dataset": dataset})
    assert (made.fixed_size, made.moving_size, made.labeled) == ((7, 8, 9), (12, 5, 6), False)


def test_kernels_of_local_are_those_that_deepreg_takes_whatever_is_written(tmp_path):
    config = config_with(name="local", num_channel_initial=2, extract_levels=[0, 1])
    prefix, _ = saved(tmp_path, config)
    written = copy.deepcopy(config)
    written["train"]["backbone"]["encode_kernel_sizes"] = [3, 3]
    made = import_checkpoint(prefix, written)
    assert made.network.backbone.encode_convs[0][0].layer.weight.shape[2:] == (7, 7, 7)


def test_the_optimisers_numbers_of_older_tensorflow_and_metrics_are_left_out(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG, more={"model/_model/layer_with_weights-1/total": np.float32(4)})
    assert len(read_weights(prefix)) == len(from_state(import_checkpoint(prefix).network.backbone))
    key = "model/_model/layer_with_weights-0/{}kernel{}/.ATTRIBUTES/VARIABLE_VALUE"
    keys = key.format("", ""), key.format("", "/.OPTIMIZER_SLOT/optimizer/m")
    nodes = [({"model": 1, "optimizer": 5}, {}), ({"_model": 2}, {}), ({"layer_with_weights-0": 3}, {})]
    nodes += [
        ({"kernel": 4}, {}),
        ({}, {"VARIABLE_VALUE": keys[0]}),
        ({}, {}, 6),
        ({}, {"VARIABLE_VALUE": keys[1]}),
    ]
    tensors = {key: np.full(3, i, "f4") for i, key in enumerate(keys)}
    write_bundle(tmp_path / "old", {**tensors, "_CHECKPOINTABLE_OBJECT_GRAPH": [graph(nodes)]})
    assert {path: list(value) for path, value in read_weights(tmp_path / "old").items()} == {
        "kernel": [0, 0, 0]
    }


# ---- what is refused ---------------------------------------------------------------------------------------


def test_without_a_configuration_the_sentence_says_how_to_give_one(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"index: the configuration of .*config\.yaml, is missing.*--config"):
        import_checkpoint(prefix)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(CONFIG))
    assert import_checkpoint(prefix, tmp_path / "other.yaml").fixed_size == (7, 8, 9)


def test_a_configuration_of_deepreg_0_1_1(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG)
    backbone = {"num_channel_initial": 2, "depth": 2}
    old = {
        "dataset": {"dir": {"train": "data"}, "labeled": True, "image_shape": [7, 8, 9]},
        "train": {"model": {"method": "ddf", "backbone": "unet", "unet": backbone}},
    }
    assert import_checkpoint(prefix, old).config["train"]["backbone"] == {"name": "unet", **backbone}


def test_configurations_are_laid_over_each_other(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG)
    (tmp_path / "more.yaml").write_text("dataset: {image_shape: [5, 6, 7]}")
    made = import_checkpoint(prefix, [tmp_path / "config.yaml", tmp_path / "more.yaml"])
    assert made.fixed_size == (5, 6, 7)


CONFIGS = {
    "no YAML": ("a: [1", "not valid YAML"),
    "no mapping": ("[1, 2]", "sections dataset and train were expected"),
    "no train": ("dataset: {image_shape: [7, 8, 9]}", "lacks the section train"),
    "no backbone": ("{train: {method: ddf}, dataset: {image_shape: [7, 8, 9]}}", "train with a backbone"),
    "no dataset": (yaml.safe_dump({"train": CONFIG["train"]}), "lacks the section dataset"),
    "no size": (yaml.safe_dump({**CONFIG, "dataset": {}}), "lacks fixed_image_shape or image_shape"),
    "a size of two numbers": (
        yaml.safe_dump({**CONFIG, "dataset": {"image_shape": [7, 8]}}),
        "3 positive whole",
    ),
    "a size of none": (yaml.safe_dump({**CONFIG, "dataset": {"image_shape": [7, 8, 0]}}), "3 positive whole"),
    "an unknown network": (yaml.safe_dump(config_with(name="unett")), "unett"),
    "an unknown method": (yaml.safe_dump({**CONFIG, "train": {**CONFIG["train"], "method": "x"}}), "method"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_configuration_that_describes_no_network(tmp_path, what):
    prefix, _ = saved(tmp_path, CONFIG)
    text, sentence = CONFIGS[what]
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"config\.yaml.*: .*{sentence}"):
        import_checkpoint(prefix)


def test_a_configuration_of_another_network_is_named_with_the_weight(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG)
    other = config_with(name="unet", num_channel_initial=3, depth=2)
    with pytest.raises(InputError, match=r"ckpt-2\.index.*encode_convs\.0\.0\.layer\.kernel has the shape"):
        import_checkpoint(prefix, other)
    deeper = config_with(name="unet", num_channel_initial=2, depth=3)
    with pytest.raises(InputError, match=r"ckpt-2\.index.*lack encode_convs\.2"):
        import_checkpoint(prefix, deeper)
    flatter = config_with(name="unet", num_channel_initial=2, depth=1)
    with pytest.raises(InputError, match=r"ckpt-2\.index.*what the network lacks: "):
        import_checkpoint(prefix, flatter)


def test_a_weight_that_is_missing_is_named(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG, change=lambda weights: weights.pop("bottom_block.0.norm.gamma"))
    with pytest.raises(InputError, match=r"ckpt-2\.index.*lack bottom_block\.0\.norm\.gamma"):
        import_checkpoint(prefix)


def test_weights_outside_of_the_network_are_named(tmp_path):
    prefix, _ = saved(tmp_path, CONFIG, more={"model/_model/layer_with_weights-1/kernel": np.ones(2, "f4")})
    with pytest.raises(InputError, match=r"outside of the network: model/_model/layer_with_weights-1/kernel"):
        import_checkpoint(prefix)


def test_a_checkpoint_without_a_network(tmp_path):
    nodes = [({"save_counter": 1}, {}), ({}, {})]
    write_bundle(tmp_path / "ckpt-1", {"_CHECKPOINTABLE_OBJECT_GRAPH": [graph(nodes)]})
    with pytest.raises(InputError, match=r"ckpt-1\.index: this is not a checkpoint of DeepReg"):
        import_checkpoint(tmp_path / "ckpt-1", CONFIG)


# ---- what DeepReg computed ---------------------------------------------------------------------------------


def recorded_models() -> list[dict]:
    index = RECORDED / "index_models.json"
    return json.loads(index.read_text()) if index.is_file() else []


@pytest.mark.parametrize("case", recorded_models(), ids=lambda case: case["id"])
def test_models_that_were_recorded(tmp_path, case):
    """Weights as a checkpoint would hold them; the prediction is that of DeepReg's own Keras model."""
    arrays = np.load(RECORDED / "models.npz")
    arrays = {name.split("|")[1]: arrays[name] for name in arrays.files if name.startswith(case["id"] + "|")}
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w:")}
    sizes = {f"{side}_image_shape": case[f"{side}_image_size"] for side in ("fixed", "moving")}
    config = {"dataset": {**sizes, "train": {"labeled": case["labeled"]}}, **case["config"]}
    made = import_checkpoint(write_checkpoint(tmp_path / "ckpt-1", weights), config, tmp_path / "model.pt")
    made = read_model(tmp_path / "model.pt")
    names = ("fixed_image", "moving_image", "moving_label")
    given = [torch.from_numpy(arrays[name])[:, None] if name in arrays else None for name in names]
    with torch.no_grad():
        prediction = made.network(*given)
        image, label = warped(prediction, *given[1:], border="zero_boundary")
    found = {"ddf": prediction.ddf, "dvf": prediction.dvf, "theta": prediction.theta}
    found |= {"pred_fixed_image": image, "pred_fixed_label": label}
    for name in (output[6:] for output in case["outputs"] if output.startswith("infer:")):
        expected = arrays[f"infer:{name}"]
        value = found[name].movedim(1, -1).numpy() if found[name].ndim == 5 else found[name].numpy()
        np.testing.assert_allclose(value.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)


def deepreg_image(folder: Path, name: str, size) -> torch.Tensor:
    """A file as DeepReg's network gets it: values in [0, 1], then resized."""
    (path,) = folder.glob(f"{name}.nii*")
    array = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    array = (array - array.min()) / (array.max() - array.min())
    return resize3d(torch.from_numpy(array)[None, None], size, align_corners=False)


PAIRS = {
    "paired_affine": [("pair_0", "case000025", "case000025"), ("pair_1", "case000026", "case000026")],
    "unpaired_ddf": [("pair_0_1", "case000025", "case000026")],
}
PAIRS = [(model, *pair) for model, pairs in PAIRS.items() for pair in pairs]


@pytest.mark.parametrize(("model", "pair", "moving", "fixed"), PAIRS)
def test_a_model_that_deepreg_trained_predicts_what_deepreg_predicted(model, pair, moving, fixed):
    made = import_checkpoint(DEEPREG / "trained" / model / "train" / "save" / "ckpt-2")
    folder = DEEPREG / made.config["dataset"]["test"]["dir"]
    names = ("fixed_images", "moving_images") if model.startswith("paired") else ("images", "images")
    given = {
        "fixed_image": deepreg_image(folder / names[0], fixed, made.fixed_size),
        "moving_image": deepreg_image(folder / names[1], moving, made.moving_size),
    }
    with torch.no_grad():
        prediction = made.network(*given.values())
        image, _ = warped(prediction, given["moving_image"], border="zero_boundary")
    found = {**given, "pred_fixed_image": image, "ddf": prediction.ddf}
    written = DEEPREG / "trained" / model / "predicted" / "test" / pair
    for name, value in found.items():
        expected = np.asarray(nibabel.load(written / f"{name}.nii.gz").dataobj)
        value = value[0].movedim(0, -1).numpy().reshape(expected.shape)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    if prediction.theta is not None:
        expected = np.loadtxt(written / "affine.txt", delimiter=",")
        np.testing.assert_allclose(prediction.theta[0].numpy(), expected, rtol=0, atol=1e-6)
