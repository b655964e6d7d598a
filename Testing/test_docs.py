"""The documents agree with the code: examples run, pages name what exists, no room or name is missing."""

import ast
import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import RegCore
from Testing.paths import ROOT
from Testing.test_structure import MAY_KNOW, sources

DOCS = ROOT / "Docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
PAGES = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
ROOMS = {room for room in MAY_KNOW if (ROOT / "RegCore" / room).is_dir()}
NAMES = set(RegCore.__all__) - {"__version__"}
WITH_EXAMPLE = [
    "AffineTransform",
    "DisplacementField",
    "Geometry",
    "Series",
    "Volume",
    "build_template",
    "load",
    "load_model",
    "load_series",
    "make_phantom",
    "predict",
    "propagate",
    "register",
    "register_series",
    "save",
    "train",
    "warp",
]


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(RegCore, name))
    assert "\nExamples:\n" in text
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)
    assert f"RegCore.{name}(" in text or name in ("AffineTransform", "DisplacementField")


def between(page: str, mark: str) -> list[list[str]]:
    """The cells of a page's table between two comments, without its head."""
    block = page.split(f"<!-- {mark}: begin -->")[1].split(f"<!-- {mark}: end -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")[3:] if line]


def quoted(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


# ---- the architecture --------------------------------------------------------------------------------------


def test_the_page_says_who_may_know_whom_as_the_structure_test_does():
    table = {quoted(room)[0]: set(quoted(known)) for room, known in between(ARCHITECTURE, "rooms")}
    assert table == {room: known for room, known in MAY_KNOW.items() if room != "__init__"}


def test_the_drawing_has_every_room_once_each_above_those_it_knows():
    drawing = ARCHITECTURE.split("```text\n")[1].split("```")[0]
    words = [re.split(r"\s{2,}", line.strip(" │├┘─")) for line in drawing.splitlines()]
    floors = {word: floor for floor, line in enumerate(words) for word in line if word in ROOMS}
    assert set(floors) == ROOMS
    assert sum(word in ROOMS for line in words for word in line) == len(ROOMS)
    wrong = [(room, low) for room in ROOMS for low in MAY_KNOW[room] & ROOMS if floors[low] <= floors[room]]
    assert wrong == []


def parameters_of(path: str, function: str) -> list[str]:
    """Names of the parameters of a function of the Slicer module, read from its source."""
    tree = ast.parse((ROOT / "DeepRegSlicer" / "DeepRegSlicerLib" / path).read_text(encoding="utf-8"))
    (found,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    return [argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)]


def test_every_parameter_of_register_is_followed_from_the_panel():
    rows = between(ARCHITECTURE, "parameters")
    assert [quoted(row[0]) for row in rows] == [
        [name] for name in inspect.signature(RegCore.register).parameters
    ]
    fields = (ROOT / "DeepRegSlicer" / "DeepRegSlicerLib" / "parameters.py").read_text(encoding="utf-8")
    logic = parameters_of("logic.py", "register_volumes")
    for _, node, argument, effect in rows:
        assert [name for name in quoted(node) if not re.search(rf"^    {name}: ", fields, re.MULTILINE)] == []
        assert quoted(argument) and set(quoted(argument)) <= set(logic), argument
        task = [name.removeprefix("Task.") for name in quoted(effect) if name.startswith("Task.")]
        known = import_module("RegCore.registration.methods").Task.__dataclass_fields__
        assert set(task) <= set(known)


def test_only_a_model_calls_the_public_door_from_below():
    """Below the commands, `RegCore` itself is used in one place, by `Model.register`."""
    callers = set()
    for path in sources(*(f"RegCore/{room}" for room in ROOMS - {"cli"})):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            public = isinstance(node, ast.Attribute) and node.attr in NAMES
            if public and ast.unparse(node.value) == "RegCore":
                callers.add((path.relative_to(ROOT).as_posix(), node.attr))
    assert callers == {("RegCore/networks/model_file.py", "register")}


# ---- the site and the pages --------------------------------------------------------------------------------


def test_the_reference_has_one_page_a_room_and_lists_every_public_name():
    pages = {path.stem for path in (DOCS / "api").glob("*.md")} - {"index"}
    assert pages == ROOMS
    for room in ROOMS:
        text = (DOCS / "api" / f"{room}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# RegCore.{room}\n") and f"\n::: RegCore.{room}\n" in text
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\([\w.]*#RegCore\.([\w.]+)\.\w+\) \|", index, re.MULTILINE))
    assert listed == RegCore._HOME


def test_the_navigation_names_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"(\S+\.md)$", text, re.MULTILINE))
    assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def resolves(name: str) -> bool:
    """Whether a dotted name of RegCore is a module, or an attribute of one, however deep."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part, None)
        return thing is not None
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_and_files_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    names = {name.rstrip(".") for name in re.findall(r"`(RegCore(?:\.\w+)+)", text)}
    assert [name for name in sorted(names) if not resolves(name)] == []
    folders = "RegCore|DeepRegSlicer|Resources|Testing|Docs"
    files = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", text)):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_citation_is_that_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == RegCore.__version__
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert citation["title"] and citation["authors"] and citation["message"]


# ---- docstrings --------------------------------------------------------------------------------------------


def stray_arguments(path: Path) -> list[str]:
    """Names in the section ``Args:`` of a function's docstring that are no arguments of it."""
    found, file = [], path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        section = re.search(r"\nArgs:\n((?:    .*\n|\n)*)", (ast.get_docstring(node) or "") + "\n")
        names = re.findall(r"^    ([\w*]+(?:, [\w*]+)*):", section[1], re.MULTILINE) if section else []
        has = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        has |= {a.arg for a in (node.args.vararg, node.args.kwarg) if a is not None}
        strays = {name.strip("*") for line in names for name in line.split(", ")} - has
        found += [f"{file}: {node.name} has no argument {n}" for n in sorted(strays)]
    return found


def test_docstrings_describe_arguments_that_exist():
    assert [line for path in sources("RegCore") for line in stray_arguments(path)] == []
