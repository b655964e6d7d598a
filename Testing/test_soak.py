"""Ten kills of the long commands, and the ways in which a folder, a disk or a terminal goes wrong."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from RegCore.cli import run as run_command
from RegCore.evaluation.results import RESULTS
from RegCore.io import load, save
from RegCore.io.scratch import Scratch, put_in_place, scratch, sweep
from Testing.paths import ROOT
from Testing.RegCore.registration.blobs import centred, scan

posix = pytest.mark.skipif(os.name != "posix", reason="signals and modes of POSIX")
MOVES = ("replace", "rename")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
QUICK = ["--method", "classical-affine", "--settings", "max_iter=2", "working_size=12", "--device", "cpu"]
WRITTEN = sorted(name for name in RESULTS if "seg" not in name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    grid = centred((14, 13, 12), (0.1, 0, 0.2), (9.0, 9.5, 10.0))
    save(scan(grid), folder / "fixed.nii.gz")
    save(scan(grid, seed=4), folder / "moving.nii.gz")
    return folder


def command(pair: Path, out, *more: str, fixed=None, moving=None) -> list[str]:
    """`regcore register` as a process of its own."""
    files = [f"--fixed={fixed or pair / 'fixed.nii.gz'}", f"--moving={moving or pair / 'moving.nii.gz'}"]
    return [sys.executable, "-m", "RegCore", "register", *files, *QUICK, f"--out={out}", *more]


def run(argv: list[str], **options) -> subprocess.CompletedProcess:
    given = {"capture_output": True, "text": True, "env": ENVIRONMENT, "cwd": ROOT, "timeout": 300} | options
    return subprocess.run(argv, check=False, **given)


@posix
@pytest.mark.slow
def test_ten_kills_leave_nothing_and_lose_nothing():
    done = run([sys.executable, "-W", "ignore", "-m", "Testing.soak", "10", "3"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'trainings resumed to the same bits': 1" in done.stdout


# ---- private folders ---------------------------------------------------------------------------------------


def test_a_private_folder_is_the_users_alone_and_goes_on_every_way_out(tmp_path):
    with scratch(tmp_path) as side:
        assert side.parent == tmp_path and side.name.startswith(".unfinished-")
        if os.name == "posix":
            assert side.stat().st_mode & 0o777 == 0o700
        (side / "file").write_text("x")
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@posix
def test_what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from RegCore.io.scratch import Scratch\n"
        "made = Scratch(Path(sys.argv[1])); (made.path / 'patient').write_text('x')\n"
        "print(made.path, flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    children = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT) for _ in range(2)
    ]
    folders = [Path(child.stdout.readline().strip()) for child in children]
    mine, other = Scratch(tmp_path), tmp_path / ".unfinished-by-another-program"
    other.mkdir()
    assert sweep(tmp_path) == []
    children[0].kill()
    children[0].wait()
    assert sweep(tmp_path) == [folders[0]]
    assert folders[1].is_dir() and mine.path.is_dir() and other.is_dir()
    children[1].kill()
    children[1].wait()
    mine.remove()
    with scratch(tmp_path):
        assert not folders[1].exists()
    assert list(tmp_path.iterdir()) == [other]


@posix
@pytest.mark.parametrize("place", ["mkdir", "flock", "replace"])
def test_a_process_killed_before_it_could_lock_its_folder_leaves_nothing_for_good(tmp_path, place):
    child = os.fork()
    if not child:
        import fcntl

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        if place == "mkdir":  # right after it
            Scratch._begin = die
        else:
            setattr({"flock": fcntl, "replace": os}[place], place, die)
        Scratch(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and sweep(tmp_path) == left and list(tmp_path.iterdir()) == []


@posix
def test_a_folder_taken_away_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    begin, seen = Scratch._begin, []

    def late(self, unlocked):
        if not seen:
            seen.extend(sweep(tmp_path))  # by another run, between the making and the locking
        begin(self, unlocked)

    monkeypatch.setattr(Scratch, "_begin", late)
    made = Scratch(tmp_path)
    assert len(seen) == 1 and made.path != seen[0] and made.path.is_dir()
    assert sweep(tmp_path) == []
    made.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(5))
def test_results_that_cannot_all_be_moved_leave_all_as_it_was(tmp_path, monkeypatch, number):
    names = ("a", "b", "c")
    (tmp_path / "a").write_text("old a")
    (tmp_path / "c").write_text("old c")
    moves, calls = {name: getattr(os, name) for name in MOVES}, []

    def failing(move):
        def fail(source, target):
            calls.append(target)
            if len(calls) == number + 1:
                raise OSError(5, "Input/output error")
            move(source, target)

        return fail

    with scratch(tmp_path) as side:
        for name in ("a", "b"):
            (side / name).write_text(f"new {name}")
        for name, move in moves.items():
            monkeypatch.setattr(os, name, failing(move))
        with pytest.raises(OSError, match="Input/output"):
            put_in_place(side, tmp_path, names)
        for name, move in moves.items():
            monkeypatch.setattr(os, name, move)
        assert {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()} == {
            "a": "old a",
            "c": "old c",
        }
        assert put_in_place(side_of(side), tmp_path, names) == [tmp_path / "a", tmp_path / "b"]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "new a", "b": "new b"}


def side_of(side: Path) -> Path:
    """The new files once more, after an attempt that failed."""
    (side / "before").rmdir()
    for name in ("a", "b"):
        (side / name).write_text(f"new {name}")
    return side


OLD, NEW = {"a": "old a", "b": "old b", "c": "old c"}, {"b": "new b", "c": "new c", "d": "new d"}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def killed_after(folder: Path, count: int) -> int:
    """A process puts `NEW` in place of what is there, and is killed after some moves; its exit code."""
    child = os.fork()
    if not child:
        calls = []

        def deadly(move):
            def moved(source, target):
                if len(calls) == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls.append(move(source, target))

            return moved

        side = Scratch(folder)
        for name, text in NEW.items():
            (side.path / name).write_text(text)
        for name in MOVES:
            setattr(os, name, deadly(getattr(os, name)))
        put_in_place(side.path, folder, tuple("abcd"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@posix
@pytest.mark.parametrize("count", range(8))
def test_a_run_killed_between_two_moves_leaves_no_mixture_and_loses_nothing(tmp_path, count):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    assert killed_after(tmp_path, count) == (-signal.SIGKILL if count < 7 else 0)
    seen = contents(tmp_path)
    assert seen.items() <= OLD.items() or seen.items() <= NEW.items()
    assert len(sweep(tmp_path)) == 1
    assert contents(tmp_path) == (OLD if count < 4 else NEW)
    assert all(path.is_file() for path in tmp_path.iterdir())


@posix
@pytest.mark.parametrize("count", range(5))
def test_results_that_come_after_a_killed_run_are_not_mixed_with_its_own(tmp_path, count):
    with scratch(tmp_path) as side:  # this one begins before the other is killed, and ends after it
        assert killed_after(tmp_path, count) == (-signal.SIGKILL if count < 4 else 0)
        (side / "a").write_text("mine")
        put_in_place(side, tmp_path, tuple("abcd"))
    sweep(tmp_path)
    assert contents(tmp_path) == {"a": "mine"} and all(path.is_file() for path in tmp_path.iterdir())


# ---- signals -----------------------------------------------------------------------------------------------


@posix
@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_registration_with_one_sentence_and_nothing_left(pair, tmp_path, sign):
    argv = command(pair, tmp_path / "out")
    argv[argv.index("max_iter=2")] = "max_iter=100000"
    heed = partial(signal.signal, sign, signal.SIG_DFL)  # who runs in the background may ignore it
    options = {"stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT, "cwd": ROOT}
    child = subprocess.Popen(argv, preexec_fn=heed, **options)
    for line in child.stderr:
        if "affine" in line:
            break
    child.send_signal(sign)
    rest = child.stderr.read()
    assert child.wait(60) == (130 if sign == signal.SIGINT else 143)
    assert rest.strip().splitlines()[-1].startswith("regcore: ") and "nothing was written" in rest
    assert "Traceback" not in rest and list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_a_library_makes_another_error_of_counts_as_the_signal(sign, capsys, monkeypatch):
    def interrupted(arguments):
        try:
            os.kill(os.getpid(), sign)
            time.sleep(10)
        except BaseException:
            raise ImportError("half of a library") from None

    def make_parser():
        parser = argparse.ArgumentParser("regcore")
        parser.set_defaults(run=interrupted)
        return parser

    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # in the background it is ignored
    before = signal.signal(sign, signal.SIG_DFL)
    signal.signal(sign, before)
    assert run_command(make_parser, []) == (130 if sign == signal.SIGINT else 143)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nothing was written" in said and "half" not in said
    assert signal.signal(sign, before) == before


# ---- folders and disks -------------------------------------------------------------------------------------


def test_a_result_whose_name_a_folder_has_is_refused_before_the_work(pair, tmp_path):
    (tmp_path / "overview.png").mkdir()
    (tmp_path / "metrics.json").write_text("old")
    done = run(command(pair, tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{tmp_path}: the results can't be written, since overview.png is a folder there" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "overview.png"]


def test_no_result_takes_the_place_of_what_it_is_made_of(pair, tmp_path):
    moving = tmp_path / "warped.nii.gz"
    moving.write_bytes((pair / "moving.nii.gz").read_bytes())
    for other in (tmp_path, tmp_path / "x" / ".."):
        done = run(command(pair, other, moving=moving))
        assert done.returncode == 2 and f"{moving}: a result in {other} would take its place" in done.stderr
    assert moving.read_bytes() == (pair / "moving.nii.gz").read_bytes()


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_refused(pair, tmp_path):
    tmp_path.chmod(0o500)
    done = run(command(pair, tmp_path / "out"))
    tmp_path.chmod(0o700)
    assert done.returncode == 2 and "can't be written (Permission denied)" in done.stderr


@posix
@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_earlier_results(pair, tmp_path):
    assert run(command(pair, tmp_path)).returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    argv = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command(pair, tmp_path, "--seed=1")]
    done = run(argv)
    assert done.returncode == 2 and "can't be written" in done.stderr and "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_two_runs_into_one_folder_leave_the_files_of_one(pair, tmp_path):
    argv = [command(pair, tmp_path, moving=pair / f"{side}.nii.gz") for side in ("fixed", "moving")]
    children = [subprocess.Popen(a, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL) for a in argv]
    assert [child.wait(300) for child in children] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN
    moving = load(json.loads((tmp_path / "metrics.json").read_text())["moving"])
    transform, warped = load(tmp_path / "transform.h5"), load(tmp_path / "warped.nii.gz")
    from RegCore.resampler import warp

    np.testing.assert_allclose(warp(moving, transform, warped.geometry).array, warped.array, atol=1e-4)


NAMES = ["with blanks, Umläute\nand 'two' lines", "-leading 日本"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_files_and_folders_of_any_name(pair, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for side in ("fixed", "moving"):
        (folder / f"{name}{side}.nii.gz").write_bytes((pair / f"{side}.nii.gz").read_bytes())
    more = {side: f"{name}/{name}{side}.nii.gz" for side in ("fixed", "moving")}
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(command(pair, f"{name}/out", **more), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "out").iterdir()) == WRITTEN


# ---- terminals ---------------------------------------------------------------------------------------------


@posix
@pytest.mark.slow
@pytest.mark.parametrize("way", [">/dev/full", "| true", "2>&1 | true", "<&- >&- 2>&-"])
def test_who_prints_to_nobody_still_writes_the_results(pair, tmp_path, way):
    if "/dev/full" in way and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    done = run(["sh", "-c", f'"$@" {way}', "sh", *command(pair, tmp_path)])
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN
    if way == ">/dev/full":
        assert done.returncode == 1 and "standard output can't be written to" in done.stderr


# ---- whoever asked is gone ---------------------------------------------------------------------------------


@posix
def test_a_worker_ends_with_who_asked_and_takes_the_request_along(tmp_path):
    grid = centred((14, 13, 12), (0.1, 0, 0.2), (9.0, 9.5, 10.0))
    from RegCore.io import messages

    job = Scratch(tmp_path, "deepregslicer-")
    settings = {"max_iter": 100000, "working_size": 12}
    request = {"fixed": scan(grid), "moving": scan(grid, seed=4), "method": "classical-affine"}
    messages.write(job.path / "request.npz", request | {"settings": settings, "device": "cpu"})
    argv = [sys.executable, "-m", "RegCore", "worker"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT, cwd=ROOT)
    child.stdin.write(json.dumps({"id": 1, "command": "register", "folder": str(job.path)}) + "\n")
    child.stdin.flush()
    next(line for line in child.stdout if "iteration" in line)
    child.stdin.close()
    assert child.wait(60) == 0
    assert not job.path.exists()


@posix
@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", b'{"id": [1], "command": "x", "folder": "y"}\n', b"[" * 200000 + b"\n", b"7\n"]
)
def test_a_worker_that_is_told_nonsense_says_so_and_still_ends(line):
    argv = [sys.executable, "-m", "RegCore", "worker"]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd=ROOT
    )
    out, _ = child.communicate(line, timeout=60)
    assert child.returncode == 0 and b'"kind": "request"' in out
