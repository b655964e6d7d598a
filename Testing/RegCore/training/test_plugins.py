"""Parts of one's own: entered by decorators, read from files, refused in one sentence where they can't be."""

import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from RegCore.losses import DEFORMATION_LOSSES, IMAGE_LOSSES, LABEL_LOSSES
from RegCore.networks.architectures import NETWORKS, UNet
from RegCore.networks.models import MODELS, DDFModel, build_model
from RegCore.space.geometry import InputError
from RegCore.training import plugins
from RegCore.training.config import Config
from RegCore.training.objective import Objective
from RegCore.training.plugins import (
    load_plugin,
    loaded_plugins,
    register_backbone,
    register_data_augmentation,
    register_data_loader,
    register_file_loader,
    register_loss,
    register_model,
)
from Testing.RegCore.training.config.samples import UNPAIRED, changed


@pytest.fixture(autouse=True)
def tables_as_before(monkeypatch):
    """All tables and the list of plugins as they were, after each test."""
    before = [dict(table) for table in plugins.TABLES]
    monkeypatch.setattr(plugins, "_plugins", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for plugin in plugins._plugins.values():
        sys.modules.pop(plugin.module.__name__, None)
    for table, entries in zip(plugins.TABLES, before, strict=True):
        table.clear()
        table.update(entries)


class Still(nn.Module):
    """A network that moves nothing."""

    def __init__(self, image_size, *, out_channels: int, scale: float = 1.0):
        super().__init__()
        self.out_channels, self.scale = out_channels, nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return x[:, :1].expand(-1, self.out_channels, -1, -1, -1) * 0 * self.scale


def half(fixed, warped, *, power: int = 1):
    return (fixed - warped).abs().pow(power).flatten(1).mean(1) / 2


def size(ddf):
    return ddf.flatten(1).norm(dim=1)


# ---- decorators --------------------------------------------------------------------------------------------


def test_a_network_is_entered_checked_and_built():
    assert register_backbone("still")(Still) is Still
    assert NETWORKS["still"] is Still
    values = changed("train.backbone", {"name": "still", "scale": 2.5})
    train = Config.from_dict(values).to_dict()["train"]
    model = build_model(train, (4, 5, 6), (4, 5, 6), labeled=True)
    image = torch.rand(1, 1, 4, 5, 6)
    assert not model(image, image).ddf.any()
    with pytest.raises(InputError, match="the network still has no such key, did you mean scale"):
        Config.from_dict(changed("train.backbone", {"name": "still", "scales": 2}))
    with pytest.raises(InputError, match="scale is 'big', but a number was expected"):
        Config.from_dict(changed("train.backbone", {"name": "still", "scale": "big"}))


def test_a_network_of_any_options_gets_them_all():
    given = {}

    def anything(image_size, **options):
        given.update(options)
        return Still(image_size, out_channels=options["out_channels"])

    register_backbone("anything", anything)
    Config.from_dict(changed("train.backbone", {"name": "anything", "colour": "red"}))
    assert given["colour"] == "red" and given["in_channels"] == 2


def test_a_network_that_fails_is_told_with_its_key():
    @register_backbone("broken")
    def broken(image_size, *, depth: int):
        raise ZeroDivisionError(f"nothing at depth {depth}")

    with pytest.raises(
        InputError, match="my.yaml: train.backbone.depth can't be used: ZeroDivisionError: noth"
    ):
        Config.from_dict(changed("train.backbone", {"name": "broken", "depth": 2}), "my.yaml")


def test_a_network_that_needs_real_tensors_is_made_with_them():
    @register_backbone("concrete")
    def concrete(image_size, *, out_channels):
        if torch.ones(2).sum().item() != 2:
            raise InputError("not reached")
        return Still(image_size, out_channels=out_channels)

    before = torch.random.get_rng_state()
    Config.from_dict(changed("train.backbone", {"name": "concrete"}))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_losses_go_where_their_arguments_say():
    register_loss("half", half)
    register_loss("size", size)
    assert IMAGE_LOSSES["half"] is LABEL_LOSSES["half"] is half and "half" not in DEFORMATION_LOSSES
    assert DEFORMATION_LOSSES["size"] is size and "size" not in IMAGE_LOSSES
    loss = {
        "image": {"name": "half", "power": 2},
        "label": {"name": "half"},
        "regularization": {"name": "size"},
    }
    section = Config.from_dict(changed("train.loss", loss)).to_dict()["train"]["loss"]
    objective = Objective.from_config(section, labeled=True)
    assert [term.name for term in objective.terms] == ["half", "half", "size"]
    with pytest.raises(InputError, match="power is 'two', but a whole number"):
        Config.from_dict(changed("train.loss.image", {"name": "half", "power": "two"}))
    with pytest.raises(InputError, match="train.loss.regularization.name is 'half'"):
        Config.from_dict(changed("train.loss.regularization", {"name": "half"}))


def test_methods_loaders_files_and_augmentations_are_entered():
    class Mine(DDFModel):
        pass

    def pairs(open_files, *, labeled, sample_label, seed, skip_bad_files, image_shape, gap: int = 1):
        raise NotImplementedError

    def volumes(folders, name, grouped=False):
        raise NotImplementedError

    def flips(*, axis: int = 0):
        return lambda batch, generator: batch

    register_model("mine", Mine)
    register_data_loader("pairs", pairs)
    register_file_loader("raw", volumes)
    register_data_augmentation("flip", flips)
    values = changed("train.method", "mine")
    values["dataset"] |= {"type": "pairs", "gap": 3}
    values["dataset"]["train"]["format"] = "raw"
    values["train"]["preprocess"]["data_augmentation"] = [{"name": "flip", "axis": 1}, {"name": "affine"}]
    config = Config.from_dict(values)
    assert config.dataset.options == {"gap": 3} and MODELS[config.train.method] is Mine
    assert config.to_dict() == values
    values["dataset"]["gap"] = "wide"
    with pytest.raises(InputError, match="dataset.gap is 'wide', but a whole number was expected"):
        Config.from_dict(values)


def test_a_name_is_taken_once_unless_by_force():
    with pytest.raises(InputError, match="the network 'unet' is there already; see force=True"):
        register_backbone("unet", Still)
    assert NETWORKS["unet"] is UNet
    register_backbone("unet", Still, force=True)
    assert NETWORKS["unet"] is Still
    with pytest.raises(InputError, match="the loss 'dice' is there already"):
        register_loss("dice", half)
    assert "half" not in IMAGE_LOSSES and LABEL_LOSSES["dice"] is not half and "dice" not in IMAGE_LOSSES


@pytest.mark.parametrize("name", [None, "", 3, Still])
def test_a_part_needs_a_name(name):
    with pytest.raises(InputError, match="the name of a network must be a text"):
        register_backbone(name)


class Plain:
    def __init__(self, image_size):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("register", "part", "words"),
    [
        (register_backbone, Plain, "torch.nn.Module"),
        (register_backbone, 3, "must be a class or a function, but it is a int"),
        (register_backbone, lambda: None, "callable as network"),
        (register_model, Plain, "torch.nn.Module"),
        (register_model, lambda backbone: None, "callable as method"),
        (register_loss, Still, "is a class"),
        (register_loss, lambda: 0, "must take"),
        (register_loss, lambda fixed, warped, p=2: 0, r"after the \*"),
        (register_loss, lambda *tensors: 0, "must take"),
        (register_loss, max, "does not say what arguments"),
        (register_data_loader, lambda open_files: 0, "callable as loader"),
        (register_file_loader, lambda folders: 0, "callable as file loader"),
        (register_data_augmentation, "affine", "must be a class or a function"),
    ],
)
def test_what_is_of_another_kind_is_refused(register, part, words):
    with pytest.raises(InputError, match=words):
        register("mine", part)
    assert not any("mine" in table for table in plugins.TABLES)


# ---- files -------------------------------------------------------------------------------------------------

LOSS = """
from RegCore.training.plugins import register_loss

CALLS = []

@register_loss("{name}")
def loss(fixed, warped):
    return (fixed - warped).flatten(1).mean(1)
"""


def write(folder, text: str, name: str = "my_parts.py"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_executed_once_and_again_when_it_has_changed(tmp_path):
    path = write(tmp_path, LOSS.format(name="first"))
    module = load_plugin(path)
    assert IMAGE_LOSSES["first"] is module.loss
    assert load_plugin(str(path)) is module
    write(tmp_path, LOSS.format(name="second"))
    changed_module = load_plugin(path)
    assert changed_module is not module and IMAGE_LOSSES["second"] is changed_module.loss
    assert "first" not in IMAGE_LOSSES and "first" not in LABEL_LOSSES
    assert loaded_plugins() == [path]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["my_parts.py"], "nothing is written"


def test_two_files_may_not_take_the_same_name(tmp_path):
    first = write(tmp_path, LOSS.format(name="mine"))
    load_plugin(first)
    second = write(tmp_path, LOSS.format(name="mine"), "others.py")
    with pytest.raises(InputError, match=f"others.py, line 6: .*is there already, from {first}"):
        load_plugin(second)
    assert loaded_plugins() == [first]


FAILURES = {
    "import nothing_like_this\n": "line 1: ModuleNotFoundError: No module named 'nothing_like_this'",
    "a = 1\nb = c\n": "line 2: NameError",
    "def f(:\n    pass\n": "line 1: SyntaxError",
    "import sys\n\nsys.exit(3)\n": "line 3: SystemExit: 3",
    "def f():\n    raise ValueError('two\\nlines')\n\n\nf()\n": "line 2: ValueError: two lines",
    "raise KeyError\n": "line 1: KeyError: no reason given",
    "import json\njson.loads('{')\n": "line 2: JSONDecodeError",
    "import RegCore.training.plugins as p\np.register_loss('dice', 3)\n": "line 2: the loss 'dice' must be",
    "a = '\0'\n": "SyntaxError|ValueError",
}


@pytest.mark.parametrize("text", FAILURES)
def test_a_file_that_fails_is_told_with_its_line_and_leaves_nothing(tmp_path, text):
    entry = "import RegCore.training.plugins as p\np.register_loss('early', lambda fixed, warped: 0)\n"
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=f"{path}.*{FAILURES[text]}") as caught:
        load_plugin(path)
    assert "\n" not in str(caught.value)
    write(tmp_path, entry + text)
    with pytest.raises(InputError):
        load_plugin(path)
    assert "early" not in IMAGE_LOSSES and not loaded_plugins() and "my_parts" not in sys.modules
    write(tmp_path, entry)
    load_plugin(path)
    assert "early" in IMAGE_LOSSES


def test_a_file_that_is_spoilt_later_leaves_what_worked(tmp_path):
    path = write(tmp_path, LOSS.format(name="mine"))
    module = load_plugin(path)
    write(tmp_path, "1 / 0\n")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_plugin(path)
    assert IMAGE_LOSSES["mine"] is module.loss and sys.modules[module.__name__] is module


def test_what_is_no_file_of_python_is_refused(tmp_path):
    with pytest.raises(InputError, match="none.py: the plugin can't be read"):
        load_plugin(tmp_path / "none.py")
    with pytest.raises(InputError, match="can't be read"):
        load_plugin(tmp_path)
    with pytest.raises(InputError, match="ends in .py"):
        load_plugin(write(tmp_path, "", "my.txt"))


def test_a_file_may_import_what_lies_beside_it_but_hides_no_package(tmp_path):
    write(tmp_path, "VALUE = 5\n", "helper_of_mine.py")
    path = write(
        tmp_path, "import json\nfrom helper_of_mine import VALUE\nvalues = json.loads('[1]')\n", "json.py"
    )
    module = load_plugin(path)
    assert module.VALUE == 5 and module.values == [1]
    assert sys.modules["json"] is not module
    sys.modules.pop("helper_of_mine")


def test_another_process_finds_the_parts_of_a_pickle_by_the_name_of_the_file(tmp_path):
    """Workers that read data are started afresh on some systems and are handed a loader by pickle."""
    path = write(tmp_path, "class Mine:\n    value = 4\n", "parts_for_pickle.py")
    handed = tmp_path / "handed.pickle"
    handed.write_bytes(pickle.dumps(load_plugin(path).Mine()))
    code = f"import pickle; print(pickle.loads(open({str(handed)!r}, 'rb').read()).value)"
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))  # as multiprocessing hands it on
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "4"


def test_a_configuration_knows_the_parts_of_a_plugin(tmp_path):
    load_plugin(write(tmp_path, LOSS.format(name="mine")))
    values = changed("train.loss.image", {"name": "mine"})
    assert Config.from_dict(values).train.loss.image[0].name == "mine"
    assert Config.from_dict(UNPAIRED).train.loss.image[0].name == "lncc"
