"""Every key is documented: in the source on the line below it, in Docs/configuration.md with its default."""

import ast
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from RegCore.loaders import intensity
from RegCore.training.config import Config, registries, schema
from Testing import option_tables
from Testing.paths import ROOT

PAGE = ROOT / "Docs" / "configuration.md"
MODULES = (schema, intensity)
SECTIONS = {
    name: cls
    for module in MODULES
    for name, cls in vars(module).items()
    if is_dataclass(cls) and cls.__module__ == module.__name__ and isinstance(cls, type)
}


def documented() -> dict[str, dict[str, str]]:
    """Class -> field -> the text on the line below it."""
    found = {}
    sources = (Path(module.__file__).read_text(encoding="utf-8") for module in MODULES)
    for node in (node for source in sources for node in ast.parse(source).body):
        if not isinstance(node, ast.ClassDef):
            continue
        pairs = zip(node.body, [*node.body[1:], None], strict=True)
        found[node.name] = {
            field.target.id: below.value.value
            for field, below in pairs
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
        }
    return found


def row(cls: type, name: str, text: str) -> str:
    """The line of the page about a key."""
    item = {item.name: item for item in fields(cls)}[name]
    default = "needed" if item.default is MISSING and item.default_factory is MISSING else ""
    if item.default is not MISSING:
        words = {None: "", False: "`false`", True: "`true`", (): ""}
        plain = isinstance(item.default, bool) or item.default in (None, ())
        default = words[item.default] if plain else f"`{item.default}`"
    text = text.replace("``", "`").replace("None", "`null`")
    return f"| `{name}` | {default} | {text} |"


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_documented_in_source_and_page(name):
    texts, page = documented()[name], PAGE.read_text(encoding="utf-8")
    assert set(texts) == {item.name for item in fields(SECTIONS[name])}
    for key, text in texts.items():
        if key != "options":
            assert row(SECTIONS[name], key, text) in page


def test_the_example_of_the_page_is_a_configuration():
    example = PAGE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    config = Config.from_dict(yaml.safe_load(example))
    assert config.changes and config.train.preprocess.data_augmentation == (schema.Component("affine"),)


# ---- all names ---------------------------------------------------------------------------------------------


def test_the_page_lists_every_name_as_the_code_has_it():
    """Made by ``python Testing/option_tables.py``."""
    page = PAGE.read_text(encoding="utf-8")
    listed = page.split("<!-- options: begin -->\n")[1].split("\n<!-- options: end -->")[0]
    assert listed == option_tables.text().strip(), "run python Testing/option_tables.py"


REGISTRIES = [value for value in vars(registries).values() if isinstance(value, registries.Registry)]


@pytest.mark.parametrize("table", REGISTRIES, ids=lambda table: table.kind)
def test_no_name_and_no_key_of_it_is_missing(table):
    """Whatever the tables leave out, they say so: what the method fills in, and what SLIC-Reg adds."""
    text, kinds = PAGE.read_text(encoding="utf-8"), option_tables
    for name, made in table.names().items():
        assert f"`{name}`" in text
        if name in kinds.SLIC or name in kinds.PLAIN or table in (registries.OPTIMISER, registries.LOADER):
            continue  # keys of a loader are those of the section dataset
        described = kinds.described(made) if table.arguments(made) else {}
        assert set(table.arguments(made) or ()) <= set(described), f"a key of {name} has no text"
    if table is registries.NETWORK:
        keys = {key for name in kinds.PLAIN for key in table.arguments(table.names()[name])}
        missing = {key for key in keys if f"| `{key}` |" not in text}
        assert missing == {*kinds.INSIDE, "out_channels"}
    if table is registries.OPTIMISER:
        assert list(kinds.FORMULAS) == list(kinds.OPTIMISERS) and set(kinds.OF_COMMON) == set(kinds.COMMON)
