"""The script that changes one thing at a time: what it changes, which tests it runs, what it says of them."""

import ast
from pathlib import Path

import pytest

from Testing import mutate
from Testing.paths import ROOT

SOURCE = '''\
"""Not 3."""
LIMIT: int | None = 2


def inside(x: float, low=0.5) -> int | None:
    """Not 4."""
    if low <= x and x < LIMIT:
        return x + 1
    return None


class Shape:
    closed = True

    def turned(self, flag):
        return -1 if flag else not self.closed
'''


def changes(text: str) -> list[str]:
    return [f"{m.function}: {m.change}" for m in mutate.mutants(ast.parse(text), "a.py")]


def test_each_operator_comparison_constant_and_truth_is_changed_and_nothing_else():
    assert sorted(changes(SOURCE)) == sorted(
        [
            ": 2 -> 3 in LIMIT: int | None = 2",
            "inside: 0.5 -> 0.55 in x: float, low=0.5",
            "inside: low <= x and x < LIMIT -> low <= x or x < LIMIT",
            "inside: low <= x -> low < x",
            "inside: low <= x -> low > x",
            "inside: x < LIMIT -> x <= LIMIT",
            "inside: x < LIMIT -> x >= LIMIT",
            "inside: x + 1 -> x - 1",
            "inside: 1 -> 2 in x + 1",
            "Shape: True -> False in closed = True",
            "Shape.turned: -1 if flag else not self.closed -> -1 if not flag else not self.closed",
            "Shape.turned: -1 -> 1",
            "Shape.turned: 1 -> 2 in -1",
            "Shape.turned: not self.closed -> self.closed",
        ]
    )


def test_the_text_has_one_change_and_the_tree_none_afterwards():
    tree = ast.parse(SOURCE)
    plain = ast.unparse(tree)
    found = list(mutate.mutants(tree, "a.py"))
    assert ast.unparse(tree) == plain and len(set(found)) == len(found)
    for mutant in found:
        text = mutate.text_with(SOURCE, mutant)
        differing = [a != b for a, b in zip(text.splitlines(), plain.splitlines(), strict=True)]
        assert sum(differing) == 1
        line = plain.splitlines()[differing.index(True)]
        assert line.split()[0] in SOURCE.splitlines()[mutant.line - 1]


def test_a_change_that_occurs_twice_in_a_function_is_numbered():
    assert changes("a = b + c\nd = b + c\n") == [": b + c -> b - c", ": b + c -> b - c (2)"]


@pytest.fixture
def tree(tmp_path) -> Path:
    """A room with one module, one test that tells something about it, and one that tells nothing."""
    (tmp_path / "RegCore" / "room").mkdir(parents=True)
    for folder in (tmp_path / "RegCore", tmp_path / "RegCore" / "room"):
        (folder / "__init__.py").write_text("")
    (tmp_path / "RegCore" / "room" / "sums.py").write_text(
        "def total(a, b):\n    while b > 9:\n        b -= 1\n    return a + b\n"
    )
    tests = tmp_path / "Testing" / "RegCore" / "room"
    tests.mkdir(parents=True)
    (tests / "test_else.py").write_text("def test_nothing():\n    pass\n")
    (tests / "test_sums.py").write_text(
        "from RegCore.room import sums\n\n\ndef test_total():\n    assert sums.total(1, 2) == 3\n"
    )
    (tmp_path / "Testing" / "test_afar.py").write_text("import RegCore.room.sums\n")
    return tmp_path


def test_tests_that_import_the_module_come_first_then_those_of_the_room(tree):
    room = "Testing/RegCore/room"
    expected = [f"{room}/test_sums.py", "Testing/test_afar.py", f"{room}/test_else.py"]
    assert mutate.tests_of(tree, "RegCore/room/sums.py") == expected


def test_what_a_test_notices_is_killed_and_what_none_notices_survives(tree):
    path = "RegCore/room/sums.py"
    text = (tree / path).read_text()
    found = {m.change: m for m in mutate.mutants(ast.parse(text), path)}

    judge = mutate.Judge(tree, 60, [])
    assert judge(found["a + b -> a - b"]) == "Testing/RegCore/room/test_sums.py::test_total"
    assert judge(found["b > 9 -> b >= 9"]) == ""
    assert judge(found["9 -> 10 in b > 9"]) == ""
    assert (tree / path).read_text() == text and not judge.unsound
    assert mutate.run_tests(tree, mutate.tests_of(tree, path), 0.01, []) == "too long"


def test_a_test_that_fails_without_a_change_kills_none(tree):
    spoilt = tree / "Testing" / "RegCore" / "room" / "test_else.py"
    spoilt.write_text("def test_never():\n    assert False\n")
    (tree / "Testing" / "test_afar.py").write_text("import RegCore.room.sums, nowhere_at_all\n")
    path = "RegCore/room/sums.py"
    found = {m.change: m for m in mutate.mutants(ast.parse((tree / path).read_text()), path)}
    judge = mutate.Judge(tree, 60, [])
    assert judge(found["b > 9 -> b >= 9"]) == ""
    assert judge.unsound == {"Testing/test_afar.py", "Testing/RegCore/room/test_else.py::test_never"}
    assert judge(found["a + b -> a - b"]) == "Testing/RegCore/room/test_sums.py::test_total"


def test_every_change_listed_as_equivalent_can_be_made():
    made: dict[str, set[str]] = {}
    for key in mutate.equivalent():
        path = key.split(" | ")[0]
        if path not in made:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            made[path] = {mutant.key for mutant in mutate.mutants(tree, path)}
        assert key in made[path], "this change is no longer possible: take its line out"
