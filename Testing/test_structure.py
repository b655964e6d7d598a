"""The rules of the house, read from the source: who knows whom, how long things are, what must not occur."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPACE = {"geometry", "volume", "transforms"}
OPTIMISERS = SPACE | {"preprocess", "resampler", "features", "losses", "metrics", "progress"}
EVERYTHING = OPTIMISERS | {"io", "exchange", "optimise", "registration", "phantom", "visualise", "report"}
EVERYTHING |= {"worker", "results", "checkpoint_import", "generate", "config", "plugins", "training"}
EVERYTHING |= {"checks", "demos", "names", "inference", "prediction", "slicreg", "trained"}

# What each room of RegCore may import from RegCore. A new room is entered here on purpose.
MAY_KNOW = {
    "geometry": set(),
    "progress": set(),
    "memory": set(),
    "volume": {"geometry"},
    "transforms": {"geometry"},
    "exchange": SPACE,
    "io": SPACE,
    "metrics": SPACE | {"resampler"},
    "resampler": SPACE | {"progress"},
    "preprocess": SPACE | {"resampler", "progress"},
    "augmentation": {"geometry", "resampler"},
    "features": {"geometry", "resampler", "progress"},
    "losses": {"geometry", "resampler", "features"},
    "layers": {"geometry", "resampler"},
    "networks": {"geometry", "layers"},
    "loaders": SPACE | {"io", "preprocess", "resampler"},
    "tfbundle": {"geometry"},
    "keras_weights": {"geometry"},
    "names": set(),
    "methods": {"geometry", "names", "resampler", "networks"},
    "objective": {"geometry", "names", "losses", "methods"},
    "optimisers": {"geometry", "names"},
    "steps": {"geometry", "methods", "objective"},
    "model_file": {"geometry", "io", "methods", "slicreg", "tfbundle"},
    "checkpoint_import": {"config", "geometry", "keras_weights", "model_file", "tfbundle"},
    "plugins": {"geometry", "augmentation", "loaders", "losses", "methods", "networks"},
    "config": {"geometry", "names", "io", "augmentation", "loaders", "losses", "methods", "networks"}
    | {"optimisers", "slicreg"},
    "training": {"augmentation", "checkpoint_import", "checks", "config", "geometry", "layers", "loaders"}
    | {"model_file", "objective", "optimisers", "progress", "steps", "tfbundle"},
    "optimise": OPTIMISERS,
    "checks": OPTIMISERS | {"optimise"},
    "inference": SPACE
    | {"checkpoint_import", "loaders", "methods", "model_file", "preprocess", "progress"}
    | {"resampler", "slicreg"},
    "prediction": SPACE
    | {"checks", "config", "inference", "io", "loaders", "losses", "methods", "metrics"}
    | {"model_file", "progress", "resampler", "results"},
    "slicreg": SPACE
    | {"augmentation", "checks", "features", "io", "loaders", "methods", "metrics", "networks", "optimise"}
    | {"preprocess", "progress", "resampler", "visualise"},
    "registration": OPTIMISERS | {"optimise", "checks", "inference", "memory", "model_file", "names"},
    "trained": SPACE | {"checks", "inference", "model_file", "progress", "registration"},
    "phantom": SPACE,
    "anatomies": SPACE | {"phantom"},
    "generate": SPACE | {"anatomies", "io", "phantom"},
    "demos": SPACE | {"generate", "io", "names"},
    "visualise": SPACE | {"report"},
    "report": set(),
    "results": SPACE | {"io", "visualise"},
    "worker": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": {"cli"},
    "__init__": set(),
}
GUI = {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PySide6", "PythonQt", "matplotlib", "SimpleITK", "itk"}
WITHOUT_TORCH = SPACE | {"io", "memory", "progress", "phantom", "visualise", "report", "results", "cli"}
WITHOUT_TORCH |= {"__main__", "__init__", "anatomies", "demos", "generate"}
READERS = {"nibabel", "h5py"}
UNIX = {"fcntl", "grp", "pwd", "resource", "termios"}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


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


def imports(path: Path) -> list[str]:
    """Dotted names of all that a file imports, relative ones made absolute."""
    found = []
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{stem}.{alias.name}" for alias in node.names]
    return found


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


@pytest.mark.parametrize("path", sources("RegCore"), ids=name_of)
def test_a_room_knows_only_those_below_it(path):
    room = room_of(path)
    assert room in MAY_KNOW, f"RegCore/{room} is new: say in MAY_KNOW which rooms it may import"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "RegCore" or len(parts) < 2:
            continue
        inside = parts[1] == room or not ((ROOT / "RegCore" / parts[1]).exists() or _is_module(parts[1]))
        assert inside or parts[1] in MAY_KNOW[room], f"{name_of(path)} must not import RegCore.{parts[1]}"


def _is_module(name: str) -> bool:
    return (ROOT / "RegCore" / f"{name}.py").exists()


@pytest.mark.parametrize("path", sources("RegCore"), ids=name_of)
def test_regcore_knows_no_user_interface_and_reads_files_in_one_place(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & GUI, f"{name_of(path)} imports {sorted(tops & GUI)}"
    if room_of(path) in WITHOUT_TORCH:
        assert "torch" not in tops, f"{name_of(path)} imports torch"
    if room_of(path) != "io":
        assert not tops & READERS, f"{name_of(path)} imports {sorted(tops & READERS)}: only io.py does"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_what_only_unix_has_is_not_imported_at_the_top(path):
    top = [node for node in tree_of(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert not names & UNIX, f"{name_of(path)} can't be imported on Windows: {sorted(names & UNIX)}"


@pytest.mark.parametrize("path", sources("DeepRegSlicer"), ids=name_of)
def test_the_slicer_module_leaves_computing_to_the_child_process(path):
    tops = {name.split(".")[0] for name in imports(path)}
    forbidden = tops & (READERS | {"torch", "scipy", "PySide6"})
    assert not forbidden, f"{name_of(path)} imports {sorted(forbidden)}"


def test_only_the_module_itself_stands_where_slicer_looks_for_modules():
    found = sorted(path.name for path in (ROOT / "DeepRegSlicer").glob("*.py"))
    assert found == ["DeepRegSlicer.py"]
    assert len((ROOT / "DeepRegSlicer" / "DeepRegSlicer.py").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_files_and_functions_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{name_of(path)} has {lines} lines; a file has at most 400"
    long = {function.name: length_of(function) for function in functions(path) if length_of(function) > 40}
    assert not long, f"{name_of(path)}: functions of more than 40 lines {long}"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_file_says_in_its_first_line_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    if not text:
        assert path.name == "__init__.py", f"{name_of(path)} is empty"
        return
    docstring = ast.get_docstring(tree_of(path))
    assert docstring and docstring.splitlines()[0].strip(), f"{name_of(path)} does not begin with its purpose"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_library_code_neither_prints_nor_asserts_nor_passes_options_through(path):
    for node in ast.walk(tree_of(path)):
        where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Assert), f"{where} asserts; raise InputError with a sentence"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert room_or_none(path) in {"cli", "worker"}, f"{where} prints"
        if isinstance(node, ast.ExceptHandler):
            swallowed = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert node.type is not None and not swallowed, f"{where} swallows an exception"
    for function in functions(path):
        kwarg = function.args.kwarg
        assert kwarg is None, f"{name_of(path)}: {function.name} takes **{kwarg.arg}"


def room_or_none(path: Path) -> str | None:
    return room_of(path) if path.is_relative_to(ROOT / "RegCore") else None


@pytest.mark.parametrize("path", sources("RegCore"), ids=name_of)
def test_imports_stand_at_the_top_except_where_starting_fast_matters(path):
    if room_of(path) in {"cli", "worker", "__init__"}:
        return
    inner = [node for function in functions(path) for node in ast.walk(function)]
    late = [node.lineno for node in inner if isinstance(node, ast.ImportFrom) and _from_regcore(node)]
    assert not late, f"{name_of(path)} imports from RegCore inside a function, lines {late}"


def _from_regcore(node: ast.ImportFrom) -> bool:
    return node.level > 0 or (node.module or "").split(".")[0] == "RegCore"


def test_importing_the_package_brings_neither_torch_nor_readers_of_files():
    heavy = {"torch", "nibabel", "h5py", "scipy", "PIL"}
    code = f"import sys, RegCore; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


STARTS = {
    "the command": "import RegCore.cli as cli; cli.busy = lambda: {busy}; cli.main(['--help'])",
    "python -m RegCore": "import runpy, sys, RegCore.cli as cli; cli.busy = lambda: {busy}\n"
    "sys.argv[1:] = ['--help']\n"
    "try: runpy.run_module('RegCore', run_name='__main__')\nexcept SystemExit: ...",
    "pytest": "import runpy; runpy.run_path('Testing/conftest.py')",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("chosen", [None, "active"])
@pytest.mark.parametrize("busy", [False, True])
def test_on_a_busy_computer_waiting_threads_sleep_unless_the_user_wants_otherwise(start, chosen, busy):
    """OpenMP reads the variable when torch is loaded, so it must be there before."""
    code = STARTS[start].replace("{busy}", str(busy))
    code += "\nimport os, sys\nprint(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    expected = chosen or ("passive" if busy or start == "pytest" else None)
    assert run.stdout.splitlines()[-1] == f"{expected} False"


def test_a_running_neighbour_makes_the_computer_busy(tmp_path, monkeypatch):
    from RegCore import cli

    monkeypatch.setattr(cli, "LOAD", tmp_path / "loadavg")
    assert not cli.busy()
    for running, expected in (("1/300", False), ("3/300", True)):
        cli.LOAD.write_text(f"0.10 0.20 0.30 {running} 4242\n")
        assert cli.busy() is expected


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
    paths = [*inside, *ROOT.glob("*")]
    return sorted(p for p in paths if p.is_file() and p.suffix in kinds and not p.is_relative_to(output))


def test_no_path_of_one_machine_is_written_down():
    homes = "|".join(["work", "root", "home/[a-z]", "Users/[A-Za-z]"])
    pattern = re.compile(rf"(?<![\w./:])/(?:{homes})\b[^\s'\"`)]*")
    found = {name_of(path): pattern.findall(path.read_text(encoding="utf-8")) for path in text_files()}
    assert {name: hits for name, hits in found.items() if hits} == {}
