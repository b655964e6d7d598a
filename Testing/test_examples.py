"""The examples of Docs/examples: each plugin loads, its YAML file loads with it, and it trains."""

import ast
import re
import shlex
import shutil
import sys

import pytest
import torch

from RegCore.cli import main
from RegCore.losses import IMAGE_LOSSES
from RegCore.networks.models import build_model
from RegCore.registration.optimisers import make_optimiser
from RegCore.samples.datasets import write_examples
from RegCore.space.geometry import InputError
from RegCore.training import plugins
from RegCore.training.config import load_config
from RegCore.training.objective import Objective
from Testing.paths import DEEPREG, ROOT
from Testing.steps import train_step

EXAMPLES = ROOT / "Docs" / "examples"
NAMES = ["custom_backbone", "custom_image_label_loss", "custom_parameterized_image_label_loss"]


@pytest.fixture
def load_example(monkeypatch):
    """A function that loads the plugin of an example; what it enters is gone after the test."""
    before = [dict(table) for table in plugins.TABLES]
    monkeypatch.setattr(plugins, "_plugins", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name: plugins.load_plugin(EXAMPLES / f"{name}.py")
    for plugin in plugins._plugins.values():
        sys.modules.pop(plugin.module.__name__, None)
    for table, entries in zip(plugins.TABLES, before, strict=True):
        table.clear()
        table.update(entries)


def test_all_examples_are_here():
    """Those that `--plugin` takes; the others are scripts for clusters."""
    assert sorted(path.stem for path in EXAMPLES.glob("custom_*.py")) == NAMES
    assert sorted(path.stem for path in EXAMPLES.glob("custom_*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains(load_example, name):
    with pytest.raises(InputError, match="--plugin adds a"):
        load_config(EXAMPLES / f"{name}.yaml")
    load_example(name)
    train = load_config(EXAMPLES / f"{name}.yaml").to_dict()["train"]
    torch.manual_seed(1)
    model = build_model(train, (16, 16, 16), (16, 16, 16), labeled=True).train()
    objective = Objective.from_config(train["loss"], labeled=True)
    optimiser = make_optimiser(train["optimizer"], model.parameters())
    fixed = torch.zeros(2, 1, 16, 16, 16)
    fixed[:, :, 4:11, 5:12, 4:12] = 1
    moving = fixed.roll(2, 2)
    batch = {"fixed_image": fixed, "moving_image": moving, "fixed_label": fixed, "moving_label": moving}
    first = train_step(model, objective, optimiser, [batch])["loss"]
    for _ in range(15):
        last = train_step(model, objective, optimiser, [batch])["loss"]
    assert last < first - 0.002


@pytest.mark.parametrize("name", NAMES)
def test_deepregs_own_file_loads_with_our_plugin(load_example, name):
    load_example(name)
    config = load_config(DEEPREG / "config" / f"config_{name}.yaml")
    assert config.train.backbone.name == ("custom_backbone" if name == "custom_backbone" else "local")


def test_the_losses_are_what_they_say(load_example):
    for name in NAMES[1:]:
        load_example(name)
    fixed, warped = torch.rand(2, 3, 1, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    difference = (fixed - warped).numpy().reshape(3, -1)
    expected = torch.from_numpy((difference**2).mean(1) ** 0.5)
    torch.testing.assert_close(IMAGE_LOSSES["root_mean_square"](fixed, warped), expected)
    for p in (1, 2):
        expected = torch.from_numpy((abs(difference) ** p).mean(1))
        torch.testing.assert_close(IMAGE_LOSSES["lp_norm"](fixed, warped, p=p), expected)


def test_an_option_out_of_range_is_found_when_the_file_is_read(load_example):
    load_example("custom_parameterized_image_label_loss")
    path = EXAMPLES / "custom_parameterized_image_label_loss.yaml"
    with pytest.raises(InputError, match="train.loss.image.p can't be used: p must be 1 or 2, but it is 3"):
        load_config(path, overrides={"train": {"loss": {"image": {"p": 3}}}})


# ---- commands in docstrings --------------------------------------------------------------------------------


def commands_in_docstrings(folder) -> dict[str, list[str]]:
    """The lines of docstrings below a folder that are indented commands, by the file that has them."""
    found: dict[str, list[str]] = {}
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for path in sorted(folder.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = [ast.get_docstring(node, clean=False) or "" for node in nodes if isinstance(node, kinds)]
        whole = "\n".join(texts)
        lines = re.findall(r"^ +((?:regcore|deepreg_\w+)(?: \S.*)?)$", whole, re.MULTILINE)
        if lines:
            found[path.stem] = lines
    return found


COMMANDS = commands_in_docstrings(ROOT / "Docs" / "examples")


def test_every_example_says_how_it_is_run():
    assert sorted(COMMANDS) == NAMES
    assert commands_in_docstrings(ROOT / "RegCore") == {}, "commands there need a test, too"


def test_the_commands_of_the_docstrings_run(load_example, tmp_path, monkeypatch, capsys):
    """In a folder that has the examples where the repository has them; each command once."""
    shutil.copytree(EXAMPLES, tmp_path / "Docs" / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("RegCore.samples.datasets.write_examples", lambda folder: write_examples(folder, 2))
    for line in dict.fromkeys(line for lines in COMMANDS.values() for line in lines):
        program, *arguments = shlex.split(line)
        assert program == "regcore", f"how is {line!r} to be tested?"
        assert main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
    assert capsys.readouterr().out.count("finished, best epoch") == len(NAMES)
