"""Docs/deepreg-names.md: every name of ours in it exists, and every name of DeepReg's manuals is in it."""

import builtins
import importlib
import json
import re
from functools import cache

import pytest

from Testing.paths import RECORDED, ROOT


@cache
def rows() -> list[tuple[list[str], str]]:
    """(names of DeepReg, ours) of each row of the document's tables."""
    found = []
    for line in (ROOT / "Docs" / "deepreg-names.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            theirs, ours, _ = line.strip("|").split("|")
            found.append((re.findall(r"`([^`]+)`", theirs), re.findall(r"`([^`]+)`", ours)[0]))
    return found


def resolve(name: str):
    """What a dotted name stands for, with ``["key"]`` at its end or without. Raises ImportError, KeyError."""
    dotted, _, key = name.partition('["')
    parts = dotted.split(".")
    if hasattr(builtins, parts[0]):
        found, rest = getattr(builtins, parts[0]), parts[1:]
    else:
        found, rest = importlib.import_module(parts[0]), parts[1:]
    for number, part in enumerate(rest):
        if not hasattr(found, part):  # a module that nothing has imported yet
            importlib.import_module(".".join(parts[: number + 2]))
        found = getattr(found, part)
    return found[key.removesuffix('"]')] if key else found


def commands() -> dict[str, str]:
    """Commands that an installation brings, and where they begin."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^(\w+) = "(RegCore[\w.]*:\w+)"$', text, re.MULTILINE))


@pytest.mark.parametrize("ours", sorted({ours for _, ours in rows()}))
def test_our_name_exists(ours):
    if ours in commands():
        ours = commands()[ours].replace(":", ".")
    assert resolve(ours) is not None


def test_every_command_of_deepreg_is_installed():
    assert {ours for _, ours in rows() if ours.startswith("deepreg_")} <= set(commands())


@pytest.mark.parametrize("page", ["manual", "layers", "losses"])
def test_every_public_name_of_the_manuals_is_listed(page):
    """Modules and classes by their whole names, functions, methods and classes by their last ones."""
    names = json.loads((RECORDED / "names.json").read_text(encoding="utf-8"))[page]
    known = {name for theirs, _ in rows() for name in theirs}
    parents = {name[: dot.start()] for name in known for dot in re.finditer(r"\.", name)}
    assert set(names["dotted"]) <= known | parents
    assert set(names["members"]) <= {name.rpartition(".")[2] for name in known}
    assert len(names["dotted"]) > 20


def test_every_registered_name_is_listed():
    listed = {tuple(theirs) for theirs, _ in rows()}
    for category, names in json.loads((RECORDED / "registry.json").read_text(encoding="utf-8")).items():
        assert {(category, name) for name in names} <= listed
