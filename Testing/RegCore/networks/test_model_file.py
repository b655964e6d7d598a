"""Model files: what is read equals what was written, and whatever else is given is refused in a sentence."""

import io
import pickle
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from RegCore.networks.model_file import Model, build, read_content, read_model, save_model
from RegCore.space.geometry import InputError
from Testing.RegCore.deepreg.bundles import write_bundle

CONFIG = {
    "dataset": {"image_shape": [7, 8, 9], "train": None},
    "train": {
        "method": "ddf",
        "backbone": {"name": "unet", "num_channel_initial": 1, "depth": 1, "extract_levels": (0, 1)},
        "optimizer": {"name": "Adam", "learning_rate": 1e-4},
    },
}


@pytest.fixture(scope="module")
def trained() -> Model:
    made = build(CONFIG, (7, 8, 9), (6, 5, 4), labeled=True)
    generator = torch.Generator().manual_seed(0)
    for value in made.network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.1 + torch.rand(value.shape, generator=generator))
    made.network.eval()
    return made


@pytest.fixture
def path(tmp_path, trained):
    save_model(tmp_path / "model.pt", trained)
    return tmp_path / "model.pt"


def test_a_model_comes_back_ready_to_predict(path, trained):
    found = read_model(str(path))
    assert (found.fixed_size, found.moving_size, found.labeled) == ((7, 8, 9), (6, 5, 4), True)
    assert found.config["train"]["backbone"]["extract_levels"] == [0, 1]
    assert found.config["train"]["optimizer"] == CONFIG["train"]["optimizer"]
    assert not found.network.training
    fixed, moving = torch.rand((2, 1, 7, 8, 9)), torch.rand((2, 1, 6, 5, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            found.network(fixed, moving).ddf, trained.network(fixed, moving).ddf, rtol=0, atol=0
        )
    for name, value in trained.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value)


def test_the_axes_of_the_training_are_kept_if_they_are_known(path, trained):
    assert read_model(path).axes is None
    save_model(path, replace(trained, axes=("RAS", "LPS")))
    assert read_model(path).axes == ("RAS", "LPS")


def test_the_spacing_of_the_training_is_kept_if_it_is_known(path, trained):
    assert read_model(path).spacing is None
    spacing = {"fixed": [1.5, 1.5, 3.0], "moving": [0.8, 0.9, 2.0]}
    save_model(path, replace(trained, spacing=spacing))
    assert read_model(path).spacing == spacing


def test_writing_replaces_the_file_at_once_and_leaves_nothing_beside_it(path, trained, monkeypatch):
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"model\.pt: can't be written \(No space left on device\)"):
        save_model(path, trained)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_what_a_training_needs_to_go_on_is_kept_beside(path, trained):
    training = {"epoch": 3, "moments": [torch.arange(3.0)]}
    save_model(path, trained, training)
    found = read_content(path)["training"]
    assert found["epoch"] == 3 and torch.equal(found["moments"][0], training["moments"][0])
    save_model(path, read_model(path))
    assert "training" not in read_content(path)


def test_a_folder_that_is_not_there(tmp_path, trained):
    with pytest.raises(InputError, match="can't be written, there is no folder"):
        save_model(tmp_path / "nowhere" / "model.pt", trained)


@pytest.mark.parametrize("value", [np.float32(1), np.ones(2), {1, 2}, object()])
def test_a_configuration_of_other_things_than_plain_values(tmp_path, trained, value):
    config = {**CONFIG, "more": [1, {"deep": value}]}
    odd = Model(config, trained.fixed_size, trained.moving_size, True, trained.network)
    with pytest.raises(TypeError, match=r"configuration\.more\[1\]\.deep is a "):
        save_model(tmp_path / "model.pt", odd)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing.pt", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(InputError, match="there is no such file"):
        read_model(tmp_path / name)


def other_archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    return out.getvalue()


def tensors(content) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


OTHER = {
    "nothing": b"",
    "text": b"a model",
    "another archive": other_archive(),
    "a compressed archive": bomb(),
    "a pickle": pickle.dumps({"format": "DeepRegSlicer model"}),
    "a tensor": tensors(torch.ones(3)),
    "weights alone": tensors({"state": {"weight": torch.ones(3)}}),
    "a whole module": tensors(torch.nn.Linear(2, 2)),
}


@pytest.mark.parametrize("what", OTHER)
def test_files_that_are_none(tmp_path, what):
    (tmp_path / "model.pt").write_bytes(OTHER[what])
    with pytest.raises(InputError, match=r"model\.pt: this is not a model file"):
        read_model(tmp_path / "model.pt")


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_in_a_file_can_run_code(tmp_path):
    torch.save(
        {"format": "DeepRegSlicer model", "x": _Evil(str(tmp_path / "written"))}, tmp_path / "model.pt"
    )
    with pytest.raises(InputError, match="not a model file"):
        read_model(tmp_path / "model.pt")
    assert not (tmp_path / "written").exists()


CHANGES = {
    "newer": ({"version": 2}, "has the version 2, .*newer DeepRegSlicer is needed"),
    "no version": ({"version": None}, "version None"),
    "no configuration": ({"config": None}, "config is missing or not a dict"),
    "no state": ({"state": 3}, "state is missing or not a dict"),
    "one axis": ({"axes": ["RAS"]}, "axes is"),
    "axes of numbers": ({"axes": [1, 2]}, "axes is"),
    "axes as a word": ({"axes": "RS"}, "axes is 'RS'"),
    "a spacing of one side": ({"spacing": {"fixed": [1.0, 1.0, 1.0]}}, "spacing is"),
    "a spacing as a number": ({"spacing": 1.5}, "spacing is 1.5"),
    "structures as numbers": ({"structures": [1, 2]}, r"structures is \[1, 2\]"),
    "structures as a word": ({"structures": "liver"}, "structures is 'liver'"),
    "a precision in words": ({"bf16": "yes"}, "bf16 is 'yes'"),
    "a size of two": ({"fixed_size": [7, 8]}, "size of fixed images must be 3 positive"),
    "a size of texts": ({"moving_size": ["a", "b", "c"]}, "size of moving images must be 3 positive"),
    "no train": ({"config": {}}, "lacks the section train"),
    "an unknown network": ({"config": {"train": {"method": "ddf", "backbone": {"name": "mine"}}}}, "mine"),
    "other weights": ({"state": {"backbone.x": torch.ones(2)}}, "do not fit the network"),
    "weights that are none": ({"state": {1: 2}}, "do not fit the network"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_files_whose_content_can_not_be(path, what):
    changes, sentence = CHANGES[what]
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)
    with pytest.raises(InputError, match=rf"model\.pt: .*{sentence}") as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape(path):
    content = torch.load(path, weights_only=True)
    name = next(iter(content["state"]))
    content["state"][name] = torch.ones(5)
    torch.save(content, path)
    with pytest.raises(InputError, match="do not fit the network .*size mismatch"):
        read_model(path)


def test_a_file_that_was_cut_off(path):
    data = path.read_bytes()
    for length in range(0, len(data), 997):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"model\.pt: this is not a model file"):
            read_model(path)


def test_changed_bytes_of_weights_are_noticed(path, trained):
    """An entry of the archive has a checksum; what lies between the entries means nothing."""
    data = path.read_bytes()
    chance = random.Random(0)
    noticed = 0
    for _ in range(150):
        at = chance.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        try:
            found = read_model(path)
        except InputError as error:
            noticed += 1
            assert str(error).startswith(str(path))
        else:
            for name, value in trained.network.state_dict().items():
                assert torch.equal(found.network.state_dict()[name], value)
    assert noticed > 50


def test_an_entry_that_is_marked_as_a_folder(path):
    """torch would take it for empty and leave the weight as the memory happens to be."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 38] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match="this is not a model file"):
        read_model(path)


@pytest.mark.parametrize("name", ["ckpt-2", "ckpt-2.index", "ckpt-2.data-00000-of-00001"])
def test_a_checkpoint_of_tensorflow_is_named_with_the_command_that_converts_it(tmp_path, name):
    write_bundle(tmp_path / "ckpt-2", {"a": np.ones(3, "f4")})
    with pytest.raises(InputError, match=r"checkpoint of TensorFlow.*regcore import-checkpoint .*ckpt-2"):
        read_model(tmp_path / name)
