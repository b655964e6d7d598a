"""Change one thing at a time in a room of RegCore and tell which changes no test notices.

    python Testing/mutate.py ROOM [--number N] [--seed S]

A change is one operator, comparison, constant or truth. It is made in a copy of the working tree, where the
tests that import the changed module and those of its room are run. What changes no result is listed in
Testing/equivalent_mutants.txt with the reason and is not counted.
"""

import argparse
import ast
import copy
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "Testing" / "equivalent_mutants.txt"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "Data", "build", "dist", "*-output", "*.egg-info")
GOAL = 0.95
NO_TESTS = 5  # what pytest ends with
TOO_LONG, UNSTARTED = "too long", "no test could begin"
OTHERS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, and what it changes into what."""

    path: str
    line: int
    function: str
    change: str

    @property
    def key(self) -> str:
        """What names a change in the list of equivalent ones, whatever line it stands in."""
        return f"{self.path} | {self.function} | {self.change}"


def others(node: ast.AST) -> list[ast.AST]:
    """What an expression may be changed into, each by one change."""
    if isinstance(node, ast.Constant):
        return [ast.Constant(value) for value in _other_constants(node.value)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        return [node.operand]
    if isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(node.test, ast.Name | ast.Attribute):
        return [_with(node, test=ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        return [_with(node, op=other()) for other in OTHERS.get(type(node.op), ())]
    if isinstance(node, ast.Compare):
        return [
            _with(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])
            for i, op in enumerate(node.ops)
            for other in OTHERS[type(op)]
        ]
    return []


def _other_constants(value) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    return [value * 1.1 if value else 1.0] if isinstance(value, float) else []


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _places(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str, str, int | None]]:
    """(parent, function, field, place in its list) of every node but those of annotations."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".strip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield node, function, field, place
                yield from _places(child, function)


def mutants(tree: ast.Module, path: str) -> Iterator[Mutant]:
    """Every change of a file. The tree has the change while its mutant is given out, and only then."""
    seen: Counter[tuple[str, str]] = Counter()
    for parent, function, field, place in list(_places(tree)):
        held = getattr(parent, field)
        node = held if place is None else held[place]
        # a number alone says little
        within = f" in {_said(parent)}" if isinstance(node, ast.Constant) else ""
        for other in others(node):
            change = f"{_said(node)} -> {_said(other)}{within}"
            seen[function, change] += 1
            repeated = f" ({seen[function, change]})" if seen[function, change] > 1 else ""
            _put(parent, field, place, ast.copy_location(other, node))
            yield Mutant(path, node.lineno, function, change + repeated)
            _put(parent, field, place, node)


def text_with(text: str, mutant: Mutant) -> str:
    """A file with the change."""
    tree = ast.parse(text)
    return next(ast.unparse(tree) for found in mutants(tree, mutant.path) if found == mutant)


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _said(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 90 else f"{text[:89]}…"


def equivalent(path: Path = EQUIVALENT) -> set[str]:
    """The keys of changes that change no result; each line of the file ends with the reason."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line.rpartition(" | ")[0] for line in lines if line and not line.startswith("#")}


def imported(path: Path) -> set[str]:
    """Dotted names that a test imports, each with the names above it that may be modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tests_of(tree: Path, path: str, everywhere: bool = True) -> list[str]:
    """The tests that import a module, `everywhere` or in its room, then the others of its room."""
    module, room = path.removesuffix(".py").removesuffix("/__init__").replace("/", "."), path.split("/")[1]
    files = [
        file for file in (tree / "Testing").rglob("test_*.py") if "Slicer" not in str(file.relative_to(tree))
    ]
    mine = [file for file in files if file.is_relative_to(tree / "Testing" / "RegCore" / room)]
    near = [file for file in (files if everywhere else mine) if module in imported(file)]
    stem = Path(path).stem
    near.sort(key=lambda file: (stem not in file.stem, file not in mine, str(file)))
    ordered = dict.fromkeys([*near, *sorted(mine)])
    return [file.relative_to(tree).as_posix() for file in ordered]


def run_tests(tree: Path, tests: list[str], limit: float, more: list[str]) -> str:
    """The first test that failed, `TOO_LONG` after so many seconds, `UNSTARTED`, or "" if all passed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        *more,
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return TOO_LONG
        output.seek(0)
        text = output.read()
    if code == 0:
        return ""
    if code == NO_TESTS:
        raise SystemExit(f"there are no tests in {', '.join(tests)}")
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    return failed[1] if failed else UNSTARTED


def copy_tree(folder: Path) -> Path:
    """A copy of the working tree whose test data are those of the original."""
    tree = folder / "copy"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    (tree / "Testing" / "Data").symlink_to(ROOT / "Testing" / "Data")
    return tree


class Judge:
    """Runs the tests with a change in the copy, and takes it back.

    A test that fails without any change as well tells nothing: it is found when it fails first, and left out.
    """

    def __init__(self, tree: Path, limit: float, more: list[str], everywhere: bool = True):
        self.tree, self.limit, self.more, self.everywhere = tree, limit, more, everywhere
        self.sound: set[str] = set()
        self.unsound: set[str] = set()

    def __call__(self, mutant: Mutant) -> str:
        """What noticed it, as `run_tests` says it, or ""."""
        file = self.tree / mutant.path
        original = file.read_text(encoding="utf-8")
        changed = text_with(original, mutant)
        while True:
            tests = tests_of(self.tree, mutant.path, self.everywhere)
            tests = [test for test in tests if test not in self.unsound]
            without = [f"--deselect={test}" for test in self.unsound]
            file.write_text(changed, encoding="utf-8")
            try:
                by = run_tests(self.tree, tests, self.limit, [*self.more, *without])
            finally:
                file.write_text(original, encoding="utf-8")
            if by in ("", TOO_LONG, UNSTARTED) or by in self.sound:
                return by
            if run_tests(self.tree, [by], self.limit, self.more) == "":
                self.sound.add(by)
                return by
            print(f"left out, since it fails without a change: {by}", flush=True)
            self.unsound.add(by)


def chosen(room: str, number: int, seed: int, root: Path = ROOT) -> list[Mutant]:
    """So many changes of a room, drawn at random, without those that change no result."""
    files = sorted((root / "RegCore" / room).rglob("*.py"))
    if not files:
        raise SystemExit(f"RegCore has no room {room}")
    found = []
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += mutants(tree, file.relative_to(root).as_posix())
    known = equivalent()
    found = [mutant for mutant in found if mutant.key not in known]
    return random.Random(seed).sample(found, min(number, len(found)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("room", help="a folder of RegCore")
    parser.add_argument("--number", type=int, default=15, help="how many changes (15)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the tests of one change (900)")
    parser.add_argument("--room-only", action="store_true", help="without the tests of other rooms")
    parser.add_argument("--fast", action="store_true", help="without the tests marked as slow")
    parser.add_argument("--only", default="", help="a part of the name of the files and functions to change")
    given = parser.parse_args(arguments)
    drawn = [m for m in chosen(given.room, given.number, given.seed) if given.only in m.key]
    survivors, more = [], ["-m", "not slow"] if given.fast else []
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(copy_tree(Path(folder)), given.limit, more, not given.room_only)
        for mutant in drawn:
            begun = time.monotonic()
            by = judge(mutant)
            survivors += [] if by else [mutant]
            word = "killed  " if by else "survived"
            print(f"{word} {mutant.path}:{mutant.line} {mutant.function}: {mutant.change}", flush=True)
            print(f"         {time.monotonic() - begun:.0f} s, {by or 'no test failed'}", flush=True)
    killed = len(drawn) - len(survivors)
    print(f"{killed} of {len(drawn)} killed in {given.room} (seed {given.seed}); survivors:")
    for mutant in survivors:
        print(f"{mutant.key} |")
    return 0 if killed >= GOAL * len(drawn) else 1


if __name__ == "__main__":
    sys.exit(main())
