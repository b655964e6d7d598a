"""Every command and every piece of Python in the README does what it says."""

import ast
import re
import shlex

import pytest

import RegCore.samples.phantom
from RegCore.cli import main
from RegCore.evaluation.results import FILES
from Testing.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines of all shell blocks, without comments."""
    lines = (line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def small_phantom(tmp_path, monkeypatch):
    """An empty folder to work in, and a phantom that is registered in seconds."""
    monkeypatch.chdir(tmp_path)
    make = RegCore.samples.phantom.make_phantom
    shapes = {"fixed_shape": (30, 26, 22), "moving_shape": (28, 27, 24)}
    monkeypatch.setattr(RegCore.samples.phantom, "make_phantom", lambda seed=0: make(seed, **shapes))
    return tmp_path


def test_every_command_runs(small_phantom, capsys):
    ran = 0
    for line in commands():
        program, *arguments = shlex.split(line)
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif program == "regcore":
            assert main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
            ran += 1
        else:
            pytest.fail(f"how is {line!r} to be tested?")
    assert ran >= 3
    assert sorted(path.name for path in (small_phantom / "demo-output").iterdir()) == sorted(FILES)


def test_every_piece_of_python_runs(small_phantom, capsys):
    assert main(["demo", "--save-pair=pair", "--out=demo-output", "--method=rigid", "--quiet"]) == 0
    for line in commands():  # the model that is loaded comes from the commands
        if line.startswith(("regcore download", "regcore train")):
            assert main(shlex.split(line)[1:]) == 0
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (small_phantom / "transform.h5").exists() and (small_phantom / "warped.nii.gz").exists()
    assert names["warped"].array.shape == names["fixed"].array.shape
    assert "fold_percent" in capsys.readouterr().out


def test_the_table_of_files_names_all_that_are_written():
    table = README.split("## Command line")[1].split("\n## ")[0]
    assert re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE) == list(FILES)


def test_the_table_of_methods_names_every_method():
    table = README.split("## Methods")[1].split("\n## ")[0]
    listed = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert re.findall(r"`([\w-]+)`", " ".join(listed)) == list(RegCore.METHODS)


def test_links_and_pictures_are_in_the_repository():
    for target in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), f"README.md names {target}"


def test_pieces_for_the_console_of_slicer_call_what_is_there():
    """They can't run here; the functions they import must exist and take what is given."""
    for block in blocks("python slicer"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("DeepRegSlicerLib"):
                file = ROOT / "DeepRegSlicer" / (node.module.replace(".", "/") + ".py")
                body = ast.parse(file.read_text(encoding="utf-8")).body
                defined = {item.name: item for item in body if isinstance(item, ast.FunctionDef)}
                for alias in node.names:
                    _check_calls(tree, defined[alias.name])


def _check_calls(tree: ast.Module, function: ast.FunctionDef) -> None:
    known = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function.name:
            assert len(node.args) <= len(function.args.args)
            assert {keyword.arg for keyword in node.keywords} <= known
