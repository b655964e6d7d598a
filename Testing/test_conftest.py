"""The list of slow tests, which `make test-fast` leaves out: its lines are tests, and get the marker."""

import ast
from types import SimpleNamespace

from Testing.paths import ROOT

LINES = (ROOT / "Testing" / "slow_tests.txt").read_text(encoding="utf-8").splitlines()
SLOW = [line for line in LINES if not line.startswith("#")]


def test_every_line_names_a_test():
    """A test that was renamed would be taken for a fast one."""
    there = {}
    for path in {line.partition("::")[0] for line in SLOW}:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        there[path] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert [line for line in SLOW if line.partition("::")[2] not in there[line.partition("::")[0]]] == []
    assert sorted(set(SLOW)) == SLOW


def test_a_listed_test_is_marked_with_all_its_parameters(request):
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "Testing" / "conftest.py"))
    marked = []
    items = [
        SimpleNamespace(nodeid=name, add_marker=lambda mark, name=name: marked.append((name, mark.name)))
        for name in (SLOW[0], f"{SLOW[0]}[7-8]", f"{SLOW[0]}_too", "Testing/test_conftest.py::test_else")
    ]
    conftest.pytest_collection_modifyitems(items)
    assert marked == [(SLOW[0], "slow"), (f"{SLOW[0]}[7-8]", "slow")]
