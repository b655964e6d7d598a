"""An editor sees the real types of the public names, while importing the package stays cheap."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

import RegCore
from Testing import check_types
from Testing.paths import ROOT

SNIPPET = """
import RegCore

{reveals}
RegCore.register(1, 2, nonsense=3)
RegCore.regster
"""


def declared() -> dict[str, str]:
    """The names that the block for type checkers imports, with the module of each."""
    tree = ast.parse((ROOT / "RegCore" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        # "name as name" is what makes an import public in a package with py.typed
        assert all(alias.name == alias.asname for alias in node.names), ast.unparse(node)
        found |= {alias.name: node.module.removeprefix("RegCore.") for alias in node.names}
    return found


def test_the_block_for_checkers_names_what_the_lazy_table_names():
    assert declared() == RegCore._HOME
    assert (ROOT / "RegCore" / "py.typed").is_file()


def test_a_checker_sees_every_public_name_and_refuses_nonsense(tmp_path):
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    names = sorted(RegCore._HOME)
    reveals = "\n".join(f"reveal_type(RegCore.{name})" for name in names)
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET.format(reveals=reveals))
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", ROOT / ".mypy_cache"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    run = subprocess.run([*command, file], cwd=ROOT, env=environment, capture_output=True, text=True)
    revealed = [line for line in run.stdout.splitlines() if "Revealed type is" in line]
    assert len(revealed) == len(names), run.stdout + run.stderr
    types = dict(
        zip(names, (line.split("Revealed type is ")[1].strip('"') for line in revealed), strict=True)
    )
    assert [name for name, kind in types.items() if kind == "Any"] == []
    assert types["register"].endswith("-> RegCore.registration.register.Registration")
    assert 'Unexpected keyword argument "nonsense"' in run.stdout
    assert 'Module has no attribute "regster"' in run.stdout


def test_an_error_in_a_clean_room_is_refused_and_so_is_one_more_elsewhere():
    elsewhere = ["RegCore/cli/vis.py:1: error: wrong  [misc]"] * check_types.ELSEWHERE
    assert check_types.verdict(elsewhere)[0]
    assert not check_types.verdict([*elsewhere, "RegCore/losses/image.py:1: error: wrong  [misc]"])[0]
    accepted, report = check_types.verdict(["RegCore/space/volume.py:1: error: wrong  [misc]"])
    assert not accepted and "RegCore/space/volume.py:1" in report
    assert (
        f"set ELSEWHERE in check_types.py to {check_types.ELSEWHERE - 1}"
        in check_types.verdict(elsewhere[1:])[1]
    )
