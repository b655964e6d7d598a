"""The rules of the house, read from the source: who knows whom, how long things are, what must not occur."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from Testing.paths import ROOT

# What each room of RegCore may import from it: rooms above in this table, which Docs/architecture.md draws.
GROUND = {"progress", "space"}
LOW = GROUND | {"io", "resampler"}
MIDDLE = LOW | {"evaluation", "loaders", "losses", "networks", "samples"}
MAY_KNOW = {
    "__init__": set(),
    "progress": set(),
    "space": set(),
    "io": {"space"},
    "resampler": GROUND,
    "losses": {"space", "resampler"},
    "networks": LOW,
    "loaders": LOW,
    "samples": {"space", "io"},
    "evaluation": LOW,
    "deepreg": {"space", "io", "networks"},
    "registration": MIDDLE | {"deepreg"},
    "slicreg": MIDDLE | {"registration"},
    "training": MIDDLE | {"deepreg", "registration"},
    "studies": LOW | {"evaluation", "networks", "registration", "training"},
    "cli": MIDDLE | {"deepreg", "registration", "slicreg", "studies", "training"},
    "__main__": {"cli"},
}
GUI = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PySide6", "PythonQt", "matplotlib", "itk"}
WITHOUT_TORCH = "__init__.py __main__.py progress.py space io samples cli evaluation/pictures"
WITHOUT_TORCH += " evaluation/memory.py evaluation/overview.py evaluation/report.py evaluation/results.py"
WITHOUT_TORCH += " training/__init__.py training/memory.py training/presets.py"
READERS = {"nibabel", "h5py", "SimpleITK"}
UNIX = {"fcntl", "grp", "pwd", "resource", "termios"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
# Words that were names here and said nothing to a reader of the field, with those to use instead. Whoever
# renames the last thing of that name adds the word.
RETIRED = {
    "Changes": "SceneTransaction",
    "Codes": "LabelEncoding",
    "Contents": "RawImage",
    "Divided": "Oversegmentation",
    "Inflated": "GzipReader",
    "Layers": "FeatureImage",
    "Recipe": "presets",
    "Teacher": "Propagator",
    "Way": "RegistrationMethod",
    "_death": "_on_exit",
    "_press": "_escalate_cancel",
    "at_the_start": "initial_alignment",
    "carried": "propagate",
    "coarser": "downsample",
    "convolving": "conv_backends",
    "exchange": "messages",
    "fitting": "types",
    "give_display": "ensure_display",
    "halved": "downsample2",
    "in_own_units": "rescale_percentiles",
    "leave": "detach",
    "literal": "as_published",
    "meet": "set_template",
    "obstacle": "validate",
    "onto_grid": "resample_to",
    "peek": "read_header",
    "put_under": "set_parent_transform",
    "recipe": "presets",
    "refer": "set_reference",
    "registering": "registration",
    "say": "set_status",
    "sparing": "memory_efficient",
    "still": "fixed",
    "teachers": "label_propagation",
    "things": "arguments",
    "what_is_in": "inspect_dataset",
}


def sources(*folders: str) -> list[Path]:
    """Every Python file of the named top folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


PRODUCT = sources("RegCore", "DeepRegSlicer", "Resources")
ALL = sources("RegCore", "DeepRegSlicer", "Resources", "Testing")


def name_of(path: Path) -> str:
    """The path below the root, for the names of tests and for messages."""
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room_of(path: Path) -> str:
    """The room of a file of RegCore: a module's name, or that of the package it lies in."""
    first = path.relative_to(ROOT / "RegCore").parts[0]
    return first.removesuffix(".py")


def imports(path: Path, nodes=None) -> list[str]:
    """Dotted names that a file, or some of its nodes, imports; relative ones made absolute."""
    found = []
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree_of(path)) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{stem}.{alias.name}" for alias in node.names]
    return found


def tops(names: list[str]) -> set[str]:
    """The packages that dotted names begin with."""
    return {name.split(".")[0] for name in names}


def functions(path: Path) -> list[ast.FunctionDef]:
    """Every function and method of a file, inner ones too."""
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, FUNCTION)]


def length_of(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring, which may take the room it needs."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def offenders(paths: list[Path], rule) -> list[str]:
    """One line for each thing that a rule, a function of a path, has to say about a file."""
    return [f"{name_of(path)}: {found}" for path in paths for found in rule(path)]


def module_of(name: str) -> Path | None:
    """The file of RegCore that a dotted name imports: the module, or the package that holds the name."""
    parts = name.split(".")
    for end in (len(parts), len(parts) - 1):
        place = ROOT.joinpath(*parts[:end])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if parts[0] == "RegCore" and path.is_file():
                return path
    return None


def circles(arrows: dict) -> list[str]:
    """The circles in a graph, each once, as 'a -> b -> a'."""
    found, done = [], set()

    def visit(node, above: tuple) -> None:
        if node in above:
            found.append(" -> ".join(map(str, [*above[above.index(node) :], node])))
        elif node not in done:
            for below in sorted(arrows.get(node, ())):
                visit(below, (*above, node))
            done.add(node)

    for node in sorted(arrows):
        visit(node, ())
    return found


# ---- who knows whom ----------------------------------------------------------------------------------------


def test_the_rooms_are_those_of_the_plan():
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "RegCore").iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in (ROOT / "RegCore").glob("*/__init__.py")}
    assert rooms == set(MAY_KNOW)
    here = [path for path in (ROOT / "RegCore").iterdir() if path.name != "__pycache__"]
    assert sum(path.is_dir() for path in here) <= 14 and sum(path.is_file() for path in here) <= 4


def test_a_room_knows_only_those_below_it():
    def rule(path):
        known = MAY_KNOW[room_of(path)] | {room_of(path), "__version__"}
        return [
            name for name in imports(path) if name.startswith("RegCore.") and name.split(".")[1] not in known
        ]

    # a command may use the public names of the package, as any user does
    assert offenders([path for path in sources("RegCore") if path.name != "__init__.py"], rule) == []
    order = list(MAY_KNOW)
    assert [room for room in order if not MAY_KNOW[room] <= set(order[: order.index(room)])] == []


def test_no_circle_between_files_nor_between_folders():
    # RegCore/__init__.py, which names what it fetches when it is asked for, is the door and no room
    files, folders = {}, {}
    for path in (path for path in sources("RegCore") if path.parent.name != "RegCore"):
        known = {module_of(name) for name in imports(path)} - {None, path, ROOT / "RegCore" / "__init__.py"}
        files[name_of(path)] = {name_of(other) for other in known}
        here, there = name_of(path.parent), {name_of(other.parent) for other in known}
        folders.setdefault(here, set()).update(there - {here, "RegCore"})
    assert circles(files) == []
    assert circles(folders) == []


def test_regcore_knows_no_user_interface_and_reads_files_in_one_place():
    def rule(path):
        found = tops(imports(path)) & (GUI | (set() if room_of(path) == "io" else READERS))
        found |= tops(imports(path, tree_of(path).body)) & READERS  # when a file asks for them, not before
        if name_of(path).removeprefix("RegCore/").startswith(tuple(WITHOUT_TORCH.split())):
            found |= tops(imports(path, tree_of(path).body)) & {"torch"}
        return sorted(found)

    assert offenders(sources("RegCore"), rule) == []


def test_what_only_unix_has_is_not_imported_at_the_top():
    assert offenders(PRODUCT, lambda path: tops(imports(path, tree_of(path).body)) & UNIX) == []


def test_the_slicer_module_leaves_computing_to_the_child_process():
    forbidden = READERS | {"torch", "scipy", "PySide6"}
    assert offenders(sources("DeepRegSlicer"), lambda path: tops(imports(path)) & forbidden) == []


def test_imports_stand_at_the_top_except_where_starting_fast_matters():
    def rule(path):
        inner = [node for function in functions(path) for node in ast.walk(function)]
        return [
            f"line {node.lineno}" for node in inner if isinstance(node, ast.ImportFrom) and _of_regcore(node)
        ]

    late = [path for path in sources("RegCore") if room_of(path) not in {"cli", "__init__"}]
    assert offenders(late, rule) == []


def _of_regcore(node: ast.ImportFrom) -> bool:
    return node.level > 0 or (node.module or "").split(".")[0] == "RegCore"


# ---- how things look ---------------------------------------------------------------------------------------


def test_only_the_module_itself_stands_where_slicer_looks_for_modules():
    found = sorted(path.name for path in (ROOT / "DeepRegSlicer").glob("*.py"))
    assert found == ["DeepRegSlicer.py"]
    assert len((ROOT / "DeepRegSlicer" / "DeepRegSlicer.py").read_text(encoding="utf-8").splitlines()) < 150


def test_files_and_functions_stay_short():
    def rule(path):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long = [function for function in functions(path) if length_of(function) > 40]
        return [f"{lines} lines"] * (lines > 400) + [f"{f.name} has {length_of(f)} lines" for f in long]

    assert offenders(ALL, rule) == []


def test_a_file_says_in_its_first_line_what_it_is_for():
    def rule(path):
        text = path.read_text(encoding="utf-8")
        docstring = ast.get_docstring(tree_of(path)) or ""
        empty = path.name == "__init__.py" and not text
        return [] if empty or docstring.strip() else ["does not begin with its purpose"]

    assert offenders(ALL, rule) == []


def public(nodes: list[ast.stmt], owner: str = ""):
    """Name and docstring of each function, method and class that is for others to use."""
    for node in nodes:
        if isinstance(node, FUNCTION | ast.ClassDef) and not node.name.startswith("_"):
            yield owner + node.name, ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{node.name}.")


def test_what_is_public_is_documented_in_one_dialect():
    def rule(path):
        for name, text in public(tree_of(path).body):
            if not text.strip():
                yield f"{name} has no docstring"
            if re.search(r"\b[Rr]aises? `*\w*(Error|Cancelled)\b", text):
                yield f"{name} tells its errors outside a section 'Raises:'"

    assert offenders(sources("RegCore"), rule) == []


def test_library_code_neither_prints_nor_asserts_nor_passes_options_through():
    def rule(path):
        for node in ast.walk(tree_of(path)):
            at = f"line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Assert):
                yield f"{at} asserts; raise InputError with a sentence"
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "print"
                and not _is_command(path)
            ):
                yield f"{at} prints"
            if isinstance(node, ast.ExceptHandler):
                swallowed = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                if node.type is None or swallowed:
                    yield f"{at} swallows an exception"
        yield from (f"{f.name} takes **{f.args.kwarg.arg}" for f in functions(path) if f.args.kwarg)

    assert offenders(PRODUCT, rule) == []


def identifiers(path: Path) -> set[str]:
    """Every name that a file brings in or uses, with its own and those of its folders."""
    names = {path.stem, *path.relative_to(ROOT).parent.parts}
    for node in ast.walk(tree_of(path)):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            names.update(name.split(".") if isinstance(name, str) else ())
    return names


def test_retired_words_are_no_names():
    def rule(path):
        return [f"{word} (use {RETIRED[word]})" for word in sorted(identifiers(path) & set(RETIRED))]

    assert offenders(PRODUCT, rule) == []


def test_a_class_name_stands_for_one_thing():
    places = {}
    for path in sources("RegCore"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name_of(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def _is_command(path: Path) -> bool:
    return path.is_relative_to(ROOT / "RegCore" / "cli")


# ---- starting ----------------------------------------------------------------------------------------------


def test_importing_the_package_brings_neither_torch_nor_readers_of_files():
    heavy = {"torch", "nibabel", "h5py", "SimpleITK", "scipy", "PIL"}
    for modules, without in (("RegCore", heavy), ("RegCore.io, RegCore.io.messages", heavy - {"scipy"})):
        code = f"import sys, {modules}; print(sorted({without} & set(sys.modules)))"
        found = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
        assert found.strip() == "[]"


STARTS = {
    "the command": "import RegCore.cli as cli; cli.main(['--help'])",
    "python -m RegCore": "import runpy, sys\n"
    "sys.argv[1:] = ['--help']\n"
    "try: runpy.run_module('RegCore', run_name='__main__')\nexcept SystemExit: ...",
    "pytest": "import runpy; runpy.run_path('Testing/conftest.py')",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("chosen", [None, "active"])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(start, chosen):
    """OpenMP reads the variable when torch is loaded, so it must be there before."""
    code = STARTS[start]
    code += "\nimport os, sys\nprint(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1].lower() == f"{chosen or 'passive'} false"


def test_every_public_name_can_be_fetched_and_is_documented():
    import RegCore

    for name in RegCore.__all__:
        assert getattr(RegCore, name) is not None


def text_files() -> list[Path]:
    """Every text file of the repository, whoever made it."""
    folders = [ROOT / name for name in ("RegCore", "DeepRegSlicer", "Resources", "Testing", "Docs", ".ci")]
    kinds = {".py", ".md", ".txt", ".ui", ".yaml", ".sh", ".json", ".cmake", ".toml", ""}
    inside = (path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts)
    output = ROOT / "Testing" / "output"
    paths = [*inside, *(path for path in ROOT.glob("*") if path.name != ".git")]
    return sorted(p for p in paths if p.is_file() and p.suffix in kinds and not p.is_relative_to(output))


def test_no_path_of_one_machine_is_written_down():
    homes = "|".join(["work", "root", "home/[a-z]", "Users/[A-Za-z]"])
    pattern = re.compile(rf"(?<![\w./:])/(?:{homes})\b[^\s'\"`)]*")
    found = {name_of(path): pattern.findall(path.read_text(encoding="utf-8")) for path in text_files()}
    assert {name: hits for name, hits in found.items() if hits} == {}
