"""Docs/deepreg-names.md: every name of ours in it exists, and every name of DeepReg's manuals is in it."""

import builtins
import importlib
import json
import re
from functools import cache

import pytest

from Testing.paths import ROOT, SHARED

SEEDS = SHARED / "seeds"
REGISTERED = SHARED / "golden" / "registry.json"
# The printed manual cuts names at the ends of lines, and its index puts two columns into one.
GARBLED = {
    "demegister_model",
    "model",
    "deepreg.dataset.loader.grouped_loader.GroupedDatal",
    "deepreg.dataset.loader.grouped_loader.Grouped_",
    "deepreg.n",
    "deepreg.predict.build_config_path",
    "deepreg.readthedocs.io",
    "deepreg.registry.F",
    "deepreg.registry.k",
}
WITHOUT = "DeepReg's manuals are not there"


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


def manual(number: int) -> str:
    """The text of a manual without marks, and without the breaks within a dotted name."""
    (path,) = SEEDS.glob(f"{number:03d}_*.txt")
    text = re.sub(r"</?[a-z]+>|[\\*]", "", path.read_text(encoding="utf-8"))
    text = re.sub(r"\bdeep-\s+reg\.", "deepreg.", text)
    return re.sub(r"(deepreg(?:\.\w+)+\.)\s+([A-Za-z]\w+)(?=\s*\()", r"\1\2", text)


@pytest.mark.skipif(not SEEDS.is_dir(), reason=WITHOUT)
@pytest.mark.parametrize("number", range(4))
def test_every_public_name_of_the_manuals_is_listed(number):
    text = manual(number)
    known = {name for theirs, _ in rows() for name in theirs}
    dotted = set(re.findall(r"\bdeepreg(?:\.[A-Za-z]\w*)+|\bdeepreg_[a-z]+", text))
    missing = {name for name in dotted if not any(whole.startswith(name) for whole in known)}
    assert missing <= GARBLED, "a name is not listed"
    last = {name.rpartition(".")[2] for name in known}
    members = set(re.findall(r"^(\w+)\s*\(.*\)\s*→", text, re.MULTILINE))
    members |= set(re.findall(r"^(\w+) ?\(\) \((?:in module|deepreg)", text, re.MULTILINE))
    members |= set(re.findall(r"^(\w+) \(class in", text, re.MULTILINE))
    assert members - last <= GARBLED, "a function, method or class is not listed"
    assert number == 3 or len(dotted | members) > 20, "the manual is not read as it is written"


@pytest.mark.skipif(not REGISTERED.is_file(), reason=WITHOUT)
def test_every_registered_name_is_listed():
    listed = {tuple(theirs) for theirs, _ in rows()}
    for category, names in json.loads(REGISTERED.read_text(encoding="utf-8")).items():
        assert {(category, name) for name in names} <= listed
