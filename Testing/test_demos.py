"""The demos: every configuration loads, fits its data and trains; what their pages name is there."""

import csv
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

import RegCore.samples.demos
from RegCore.cli import deepreg, main
from RegCore.registration import classical
from RegCore.samples.datasets import EXAMPLES
from RegCore.samples.demos import DEMOS, PAIRS, write_demo
from RegCore.training.config import load_config
from Testing.paths import ROOT

PAGES = ROOT / "Docs" / "demos"
CONFIGS = {
    path.stem: path
    for path in sorted((EXAMPLES / "demos").glob("*/*.yaml"))
    if path.stem.startswith(path.parent.name)
}
TINY = {"image_shape": [16, 16, 8], "fixed_image_shape": [16, 12, 8], "moving_image_shape": [12, 16, 8]}


def files_of(name: str) -> list[Path]:
    return [CONFIGS[name], CONFIGS[name].parent / "small.yaml"]


def folders(split) -> list[str]:
    return [split.dir] if isinstance(split.dir, str) else list(split.dir)


def test_there_are_eleven_and_each_has_data():
    assert len(CONFIGS) == 11 and {path.parent.name for path in CONFIGS.values()} == set(DEMOS)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_small_configuration_keeps_what_the_demo_is_about(name):
    full, small = load_config(CONFIGS[name]), load_config(files_of(name))
    assert (small.train.method, small.train.backbone.name) == (full.train.method, full.train.backbone.name)
    assert small.train.preprocess.data_augmentation == full.train.preprocess.data_augmentation
    for part in ("image", "label", "regularization"):
        losses = [[(loss.name, loss.weight) for loss in getattr(c.train.loss, part)] for c in (full, small)]
        if part == "regularization" and losses[0][0][0] == "bending":  # counts more where voxels are larger
            assert losses[1][0][0] == "bending" and 0 < losses[1][0][1] < losses[0][0][1]
        else:
            assert losses[0] == losses[1]
    assert (small.dataset.type, small.dataset.train) == (full.dataset.type, full.dataset.train)
    assert small.train.seed is not None and small.train.epochs < full.train.epochs
    rest = dict(full.train.backbone.options), dict(small.train.backbone.options)
    assert [options.pop("num_channel_initial") for options in rest][1] < 16 and rest[0] == rest[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_names_the_data_that_are_made(name):
    data, demo = load_config(CONFIGS[name]).dataset, CONFIGS[name].parent.name
    recipe = DEMOS[demo]
    named = {folder for split in (data.train, data.valid, data.test) for folder in folders(split)}
    assert named == {f"demos/{demo}/dataset/{part}" for part in recipe.parts}
    assert (data.type, data.train.format) == (recipe.kind, recipe.file_format)


def test_each_fold_validates_once():
    folder = EXAMPLES / "demos" / "unpaired_us_prostate_cv"
    validated = []
    for path in sorted(folder.glob("run*.yaml")):
        data = load_config([folder / "unpaired_us_prostate_cv.yaml", folder / "small.yaml", path]).dataset
        parts = [[Path(f).name for f in folders(split)] for split in (data.train, data.valid, data.test)]
        assert len(parts[0]) == 8 and parts[2] == ["fold9"]
        assert sorted(parts[0] + parts[1]) == [f"fold{n}" for n in range(9)]
        validated += parts[1]
    assert sorted(validated) == [f"fold{n}" for n in range(9)]


# ---- pages -------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks of a page, those of a loop for the first two turns."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        turns = re.search(r"for (\w+) in (.*); do", block)
        for line in map(str.strip, block.splitlines()):
            if not re.match(r"for |done", line):
                values = turns[2].split()[:2] if turns and f"${turns[1]}" in line else [""]
                found += [line.replace(f"${turns[1]}", value) if value else line for value in values]
    return found


def make_smaller(folder: Path) -> None:
    """Lay tiny images and a single epoch over what the demo's small.yaml says."""
    path = folder / "small.yaml"
    settings = yaml.safe_load(path.read_text())
    shapes = {key: TINY[key] for key in settings["dataset"] if key in TINY}
    path.write_text(
        yaml.safe_dump(
            {
                "dataset": settings["dataset"] | shapes,
                "train": settings["train"] | {"epochs": 1, "save_period": 1, "mixed_precision": "off"},
            }
        )
    )


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """An empty folder to work in; the data of every demo are two patients of a part, at half resolution."""
    monkeypatch.chdir(tmp_path)
    for name, recipe in DEMOS.items():
        scans = tuple(replace(scan, shape=tuple(n // 2 for n in scan.shape)) for scan in recipe.scans)
        monkeypatch.setitem(DEMOS, name, replace(recipe, scans=scans))
    for name in ("HEAD", "GLANDS"):
        scan = getattr(RegCore.samples.demos, name)
        monkeypatch.setattr(
            RegCore.samples.demos, name, replace(scan, shape=tuple(n // 4 for n in scan.shape))
        )

    def write_some(name, folder):  # unpaired images need two in a part; of eleven parts one each will do
        write_demo(name, folder, patients=1 if name == "paired_mrus_prostate" else 2)

    monkeypatch.setattr(RegCore.samples.demos, "write_demo", write_some)
    for kind in ("affine", "nonrigid"):
        function = getattr(classical, f"register_classical_{kind}")
        monkeypatch.setattr(classical, function.__name__, partial(function, max_iter=20))
    return tmp_path


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page, small_world, monkeypatch, capsys):
    lines = commands(page)
    assert any(line.startswith("regcore") for line in lines)
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "cd":
            monkeypatch.chdir(arguments[0])
            continue
        call = main if program == "regcore" else getattr(deepreg, program.removeprefix("deepreg_"))
        assert call(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
        if "download" in line and arguments[-1] in DEMOS:
            make_smaller(small_world / "demos" / arguments[-1])
    for metrics in small_world.glob("logs/*/metrics.csv"):
        rows = list(csv.DictReader(metrics.open(encoding="utf-8")))
        assert len(rows) == 1 and np.isfinite(float(rows[0]["val_loss"]))
    trained = list(small_world.glob("logs/*/save/best.pt"))
    assert len(list(small_world.glob("logs/**/metrics_stats_overall.csv"))) >= len(trained)
    assert trained or list(small_world.glob("demos/*/registered/warped_seg.nii.gz"))


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (PAGES / target).exists(), f"{page.name} names {target}"


def test_every_demo_has_a_page_and_every_page_a_place_for_figures():
    assert {page.stem for page in PAGES.glob("*.md")} == {"README", *DEMOS, *PAIRS}
    for page in PAGES.glob("*.md"):
        name = "demos" if page.stem == "README" else "figures"
        assert re.search(rf"<!-- {name}: begin -->\n.*?\n<!-- {name}: end -->", page.read_text(), re.DOTALL)
