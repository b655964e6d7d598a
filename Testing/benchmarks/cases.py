"""Registers every real case with DeepRegSlicer and with the programs of others, in one run: `make bench`.

All programs get the same two threads and the same files, and are judged by one script, `evaluate.py`, which
comes with the data. What counts is a whole process, from its start to the field on disk; *warm* is a call in
a process that has registered a pair before, as the panel does. Time and memory are {runs}; on the
pool of pairs, means of one run each. Segmentations are used for evaluation only, except by DeepRegSlicer in
the one case that intensities cannot solve. Writes Docs/benchmarks.md and the table of the README.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from statistics import mean, median
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from Testing.benchmarks.measure import THREADS, measured  # noqa: E402 - the path comes first
from Testing.benchmarks.tables import ABLATIONS, CASES, FIGURES, write_documents  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
OUTPUT = ROOT / "bench-output" / "cases"
PEERS = Path(__file__).with_name("peers.py")
STEERED = {"prostate_mrus_25"}  # its segmentations join the objective
CONTRASTS = {"mm_contrast_gt", "ms_t1_t2b", "abdomen_ct_mr", "prostate_mrus_25", "spine_t2s_t2"}
POOL = {  # subject -> where the data have it
    "001": "hippo_001_003/fixed",
    "003": "hippo_001_003/moving",
    "004": "hippo_004_006/fixed",
    "006": "hippo_004_006/moving",
}
COLD = ("fast", "balanced", "best")
OURS = (*COLD, "warm", *ABLATIONS)
BUSY = 0.7  # load of the machine from which on it is not idle
LIMIT = 900.0  # seconds after which a program is ended
RUNS, BUDGET = 5, 30.0  # runs of a program on a pair at most; no further one after so many seconds


@cache
def judge(data: Path):
    """The module `evaluate.py` beside the data."""
    specification = importlib.util.spec_from_file_location("evaluate", data / "evaluate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def folders(data: Path, case: str) -> list[Path]:
    """The pairs of a case: one, or every ordered pair of the pool of hippocampi."""
    if case != "hippo_pool":
        return [data / case]
    found = []
    for fixed, moving in permutations(POOL, 2):
        folder = OUTPUT / "pool" / f"{fixed}_{moving}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for side, subject in (("fixed", fixed), ("moving", moving)):
            for ending in (".nii.gz", "_seg.nii.gz"):
                (folder / f"{side}{ending}").symlink_to((data / f"{POOL[subject]}{ending}").resolve())
        found.append(folder)
    return found


def command_of(program: str, pair: Path, python: str | None) -> list[str]:
    """What registers the pair in a working folder with a program."""
    if program in COLD:
        files = [f"--{side}={pair / f'{side}.nii.gz'}" for side in ("fixed", "moving")]
        if pair.name in STEERED:
            files += [f"--{side}-seg={pair / f'{side}_seg.nii.gz'}" for side in ("fixed", "moving")]
        options = ["--settings", f"quality={program}", "--device", "cpu", "--quiet", "--out", "."]
        return [sys.executable, "-m", "RegCore", "register", *files, *options]
    if program in OURS:
        return [sys.executable, str(Path(__file__).resolve()), "--here", program, str(pair)]
    return [str(python), str(PEERS), program, *(["--nmi"] if pair.name in CONTRASTS else [])]


def field_in(folder: Path, pair: Path, evaluate) -> np.ndarray:
    """The displacement of every fixed voxel, (I, J, K, 3) RAS mm, that a program left in its folder."""
    import RegCore

    if (folder / "transform.h5").exists():
        grid = RegCore.load(pair / "fixed.nii.gz", "image").geometry.world_grid()
        return (RegCore.load(folder / "transform.h5").map(grid) - grid).astype(np.float32)
    name = "field.npz" if (folder / "field.npz").exists() else "field.nii.gz"
    return evaluate.load_ddf(str(folder / name), name == "field.nii.gz")


def run_pair(data: Path, program: str, pair: Path, python: str | None, runs: int) -> dict | None:
    """The figures of a program on a pair, medians where they differ; None if it gives no field."""
    folder, works, began = OUTPUT / "work", [], time.perf_counter()
    while len(works) < runs and (not works or time.perf_counter() - began < BUDGET):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for side in ("fixed", "moving"):
            (folder / f"{side}.nii.gz").symlink_to((pair / f"{side}.nii.gz").resolve())
        ours = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"} if program in OURS else {}
        work = measured(command_of(program, pair, python), folder, LIMIT, **ours)
        if work["code"] != 0:
            last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
            print(f"  {program}: code {work['code']}: {last[-200:]}", flush=True)
            return None
        if (folder / "warm.json").exists():
            work |= json.loads((folder / "warm.json").read_text(encoding="utf-8"))
        works.append(work)
    found = judge(data).evaluate(str(pair), field_in(folder, pair, judge(data)))
    figures = {name: found[name] for name in ("dice", "tre_mm", "fold_pct", "sdlogj") if name in found}
    return figures | {name: median(work[name] for work in works) for name in ("cpu", "wall", "mib")}


def run_case(data: Path, case: str, program: str, python: str | None, runs: int) -> dict | None:
    """The means of a program's figures over the pairs of a case; None if one of them has no field."""
    found = []
    for pair in folders(data, case):
        once = case == "hippo_pool" or program in ABLATIONS
        found.append(run_pair(data, program, pair, python, 1 if once else runs))
        if found[-1] is None:
            return None
    return {name: mean(figures[name] for figures in found) for name in found[0]}


def run_all(data: Path, cases: list[str], programs: list[str], options: argparse.Namespace) -> None:
    """Run each case with each program in turn, and keep the figures in bench-output/."""
    for case in cases:
        path = OUTPUT / f"{case}.json"
        keep = path.exists() and (options.resume or options.programs)
        records = json.loads(path.read_text(encoding="utf-8")) if keep else {}
        starts = [judge(data).evaluate(str(pair)) for pair in folders(data, case)]
        key = CASES[case][1]
        records["start"] = {key: mean(start[key] for start in starts)}
        print(f"{case}, start: {key} {records['start'][key]:.3f}", flush=True)
        for program in programs:
            if options.resume and program in records:
                continue
            found = records[program] = run_case(data, case, program, options.peers_python, options.runs)
            path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
            if found:
                told = ", ".join(f"{name} {found[name]:.3f}" for name in FIGURES if name in found)
                print(f"{case}, {program}: {told}", flush=True)


def register_here(program: str, pair: Path) -> None:
    """Register a small pair, then this one in this process; leaves field.npz and warm.json of the latter."""
    import torch

    import RegCore
    from RegCore.evaluation.memory import keep_freed_memory, peak_memory_mib

    keep_freed_memory()  # as the commands and Slicer's child process do
    torch.set_num_threads(THREADS)
    fixed, moving = (RegCore.load(pair / f"{name}.nii.gz", "image") for name in ("fixed", "moving"))
    sides = ("fixed", "moving") if pair.name in STEERED else ()
    labels = {f"{side}_labels": RegCore.load(pair / f"{side}_seg.nii.gz", "labels") for side in sides}
    phantom = RegCore.make_phantom(fixed_shape=(30, 26, 22), moving_shape=(28, 27, 24))
    with ablated(*ABLATIONS.get(program, ())):
        RegCore.register(phantom.fixed, phantom.moving, device="cpu")
        cpu, wall = time.process_time(), time.perf_counter()
        done = RegCore.register(fixed, moving, device="cpu", **labels)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    work = {"cpu": cpu, "wall": wall, "mib": peak_memory_mib()}
    grid = fixed.geometry.world_grid()
    np.savez("field.npz", ddf=(done.transform.map(grid) - grid).astype(np.float32))
    Path("warm.json").write_text(json.dumps(work), encoding="utf-8")


def ablated(*left_out: str) -> ExitStack:
    """Within it the method ``auto`` goes without stages, coarser grids ("levels") or its guard ("guard")."""
    from RegCore.registration import auto

    coarse, fine = auto.QUALITIES["balanced"]
    if "self-similarity" in left_out:
        coarse = replace(coarse, rate=0.0, iterations=1, levels=1)
    if "levels" in left_out:
        coarse, fine = replace(coarse, levels=1), replace(fine, levels=1)
    stack = ExitStack()
    stack.enter_context(mock.patch.dict(auto.QUALITIES, balanced=(coarse, fine)))
    if "correlation" in left_out:
        kept = lambda task, result, settings, progress: (result.ddf, result.level.grid)  # noqa: E731
        stack.enter_context(mock.patch.object(auto, "_correlated", kept))
    if "guard" in left_out:
        stack.enter_context(mock.patch.object(auto, "_sound", lambda result, ddf: True))
    return stack


def versions(python: str | None) -> dict[str, str]:
    """The programs of others that a Python has, with their versions; says which of all are not there."""
    from Testing.benchmarks.peers import PEERS as ALL

    found = {}
    if python is not None:
        listed = subprocess.run([python, str(PEERS), "--list"], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(listed.stdout)
    for name in sorted(set(ALL) - set(found)):
        print(f"{name} is not there and left out; --peers-python names a Python that has it", flush=True)
    return found


def machine() -> str:
    """The processor of this machine, and whether it is busy."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    busy = os.getloadavg()[0]
    other = f", which did other work as well (load {busy:.0f})" if busy > BUSY else ""
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}{other}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases and of evaluate.py")
    parser.add_argument("--peers", action="store_true", help="run the programs of others, too")
    what = "the Python that has them; by default that of the environment variable PEERS_PYTHON"
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON"), metavar="PATH", help=what)
    parser.add_argument("--programs", nargs="+", metavar="NAME", help="only these; all by default")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each program on each pair, at most")
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run measured")
    parser.add_argument("--here", nargs=2, metavar=("PROGRAM", "PAIR"), help=argparse.SUPPRESS)
    parser.add_argument("cases", nargs="*", help="the cases to run; all that are there by default")
    options = parser.parse_args()
    if options.here:
        register_here(options.here[0], Path(options.here[1]))
        return
    data = options.data.resolve()
    if not (data / "evaluate.py").exists():
        parser.exit(1, f"{data}: the cases are not there; name their folder with --data\n")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    others = versions(options.peers_python) if options.peers else {}
    programs = [name for name in (*OURS, *others) if not options.programs or name in options.programs]
    there = [case for case in CASES if case == "hippo_pool" or (data / case).is_dir()]
    where = machine()
    run_all(data, options.cases or there, programs, options)
    several = f"medians of up to {options.runs} runs, as many as half a minute holds"
    runs = several if options.runs > 1 else "those of one run"
    text = __doc__.split("\n\n", 1)[1].strip().rsplit(" Writes", 1)[0].format(runs=runs)
    write_documents(OUTPUT, text, where, others)


if __name__ == "__main__":
    main()
