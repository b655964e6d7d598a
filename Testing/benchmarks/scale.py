"""What it costs to register many pairs: the engine against the registrations, and its behaviour at size.

    python Testing/benchmarks/scale.py [--pairs 1000] [--rows 100000] [--kills 50] [--write]

Writes its tables into Docs/scale.md with --write. The registrations of the first table are real; those of
the others are replaced by a stub of known cost, which writes a folder as a registration does.
"""

import argparse
import csv
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402
from RegCore.cli.register import _save_pair  # noqa: E402
from RegCore.progress import silent  # noqa: E402
from RegCore.registration import METHODS  # noqa: E402
from RegCore.samples.phantom import make_phantom  # noqa: E402
from RegCore.space.names import Lazy  # noqa: E402
from RegCore.studies import shares  # noqa: E402
from RegCore.studies.folders import read_record, whole_folder  # noqa: E402
from RegCore.studies.manifest import read_manifest  # noqa: E402
from RegCore.studies.report import write_report  # noqa: E402
from RegCore.studies.rows import Row, inputs_of, settings_of, summary_of  # noqa: E402
from RegCore.studies.study import plan_study, register_all  # noqa: E402
from RegCore.studies.workers import THREADS  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

PART = 250  # pairs of the first table that the registrations alone and one worker do in turn
DIFFERENT = 20  # pairs of images that are made; the rows of the manifest share them
STUB = Lazy("Testing.benchmarks.scale", "stub")
METHOD, SETTINGS = "classical-affine", {"max_iter": 5}  # of 32³ in little time; pictures take most of it


ONE_THREAD = {**os.environ, **dict.fromkeys(THREADS, "1")}
"""The environment of processes that compute with one thread, as each worker here does."""


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def stub(arguments, progress):
    """In place of a registration: sleeps as long as the settings say, and writes a folder."""
    from RegCore.studies.folders import new_record

    row, folder = arguments["row"], Path(arguments["folder"])
    time.sleep(row.settings.get("cost", 0.0))
    record = new_record(row.id, inputs_of(row), settings_of(row))
    number = int(row.id)
    record["figures"] = {"ncc_before": 0.5, "ncc_after": 0.5 + number % 97 / 200, "seconds": 1.0}
    record["figures"] |= {f"dice_mean_{when}": number % 89 / 89 for when in ("before", "after")}
    with whole_folder(folder, record):
        return record


def write_pairs(folder: Path, rows: int) -> Path:
    """A manifest of pairs of 32³ voxels."""
    for number in range(DIFFERENT):
        shape = (32, 32, 32)
        _save_pair(folder / str(number), make_phantom(number, fixed_shape=shape, moving_shape=shape))
    with open(folder / "manifest.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("id", "fixed", "moving"))
        for number in range(rows):
            place = number % DIFFERENT
            lines.writerow((f"{number:06}", f"{place}/fixed.nii.gz", f"{place}/moving.nii.gz"))
    return folder / "manifest.csv"


def rows_of(manifest: Path) -> list[Row]:
    return read_manifest(manifest, Row("", {}, method=METHOD, settings=SETTINGS), METHODS)


def timed(work):
    """Seconds, processor seconds, and what the work gave."""
    began, before = time.perf_counter(), processor_seconds()
    found = work()
    return time.perf_counter() - began, processor_seconds() - before, found


# ---- the registrations -------------------------------------------------------------------------------------


def alone(manifest: Path, out: Path) -> None:
    """The same registrations in one warm process, without the engine."""
    from RegCore.studies.pair import register_pair

    for row in rows_of(manifest):
        about = {"row": row, "device": "cpu", "version": RegCore.__version__}
        register_pair({**about, "folder": out / "pairs" / row.id}, silent)


def parts_of(manifest: Path) -> list[Path]:
    """The manifest in parts of at most `PART` rows each, beside it."""
    head, *lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    found = []
    for start in range(0, len(lines), PART):
        found.append(manifest.with_name(f"part{start}.csv"))
        found[-1].write_text(head + "".join(lines[start : start + PART]), encoding="utf-8")
    return found


def by_workers(rows: list[Row], out: Path, workers: int) -> tuple[float, float]:
    """Seconds and processor seconds of the engine."""
    shares.processors = lambda: workers  # one thread for each worker, also where there is only one
    return timed(lambda: register_all(rows, out, workers=workers, device="cpu"))[:2]


def measure_engine(folder: Path, pairs: int, loop: int) -> list[str]:
    """The table of the engine against the registrations alone and against a shell loop.

    The registrations alone and one worker take turns, part by part, so that a machine which is busy for a
    while slows both.
    """
    manifest = write_pairs(folder, pairs)
    rows, spent = rows_of(manifest), {name: np.zeros(2) for name in ("alone", "1", "2")}
    for part in parts_of(manifest):
        command = [sys.executable, __file__, "--alone", str(part), "--out", str(folder / "alone")]
        spent["alone"] += timed(lambda c=command: subprocess.run(c, check=True, env=ONE_THREAD))[:2]
        spent["1"] += by_workers(rows_of(part), folder / part.stem, 1)
        print(part.stem, {name: np.round(value, 1).tolist() for name, value in spent.items()}, flush=True)
    spent["2"] += by_workers(rows, folder / "workers2", 2)
    lines = ["| | pairs | seconds | processor seconds | more than the first |", "|---|---|---|---|---|"]
    names = {"alone": "one process, without the engine", "1": "1 worker", "2": "2 workers"}
    for name, (wall, work) in spent.items():
        more = f"{100 * (work / spent['alone'][1] - 1):+.1f} %" if name != "alone" else ""
        lines.append(f"| {names[name]} | {pairs} | {wall:.0f} | {work:.0f} | {more} |")
    lines.append(_shell_loop(rows[:loop], folder / "loop", pairs))
    text = f"Two workers are {spent['1'][0] / spent['2'][0]:.2f} times as fast as one. "
    return [*lines, "", text + _memory(folder / "workers2", rows)]


def _shell_loop(rows: list[Row], out: Path, pairs: int) -> str:
    def work() -> None:
        for row in rows:
            words = [f"--{name}={row.files[name]}" for name in ("fixed", "moving")]
            words += ["--settings", *(f"{key}={value}" for key, value in SETTINGS.items())]
            words += [f"--method={METHOD}", "--device=cpu", f"--out={out / row.id}", "--quiet"]
            command = [sys.executable, "-m", "RegCore", "register", *words]
            subprocess.run(command, check=True, cwd=ROOT, env=ONE_THREAD)

    wall, spent, _ = timed(work)
    scale = pairs / len(rows)
    what = f"a shell loop over `regcore register` ({len(rows)} measured)"
    return f"| {what} | {pairs} | {wall * scale:.0f} | {spent * scale:.0f} | |"


def _memory(out: Path, rows: list[Row]) -> str:
    """How the memory of the workers went, by the records in the order of their ends."""
    records = [out / "pairs" / row.id / "record.json" for row in rows]
    records.sort(key=lambda path: path.stat().st_mtime_ns)
    peaks = [json.loads(path.read_text())["figures"]["peak_memory_mib"] for path in records]
    part = max(1, len(peaks) // 5)
    first, last = (sum(some) / len(some) for some in (peaks[part : 2 * part], peaks[-part:]))
    told = f"{first:.0f} MiB in the second fifth of the pairs, {last:.0f} MiB in the last"
    return f"Peak memory of a worker: {told}."


# ---- size --------------------------------------------------------------------------------------------------


def measure_rows(folder: Path, count: int) -> list[str]:
    """The table of a study of very many rows."""
    manifest = write_pairs(folder, count)
    out = folder / "out"
    lines = ["| | seconds | processor seconds |", "|---|---|---|"]

    def line(what: str, work):
        wall, spent, found = timed(work)
        lines.append(f"| {what} | {wall:.1f} | {spent:.1f} |")
        return found

    rows = line("read and check the manifest", lambda: rows_of(manifest))
    line("plan, with nothing done", lambda: plan_study(rows, out))
    line(
        "do all of them with a stub that costs nothing, 2 workers",
        lambda: register_all(rows, out, workers=2, job=STUB),
    )
    plan = line("plan again, with all done", lambda: plan_study(rows, out))
    line("write `results.csv` and `report.html`", lambda: write_report(out, list(plan.summaries.values())))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    size = (out / "report.html").stat().st_size / 2**20
    return [*lines, "", f"Peak memory of all this: {memory:.0f} MiB. `report.html` has {size:.1f} MiB."]


# ---- kills -------------------------------------------------------------------------------------------------


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that a command has started and that are alive."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def measure_kills(folder: Path, kills: int) -> list[str]:
    """Kill a study, or a worker of it, at random moments, and go on; what was lost or done twice."""
    pairs = max(400, 60 * kills)  # so many that the kills come before their end
    manifest, out = write_pairs(folder, pairs), folder / "out"
    chance, victims, seen, twice = random.Random(0), {"the command": 0, "a worker": 0}, {}, 0
    command = [sys.executable, __file__, "--stub", str(manifest), "--out", str(out)]
    while True:
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and not workers_of(process):
            time.sleep(0.02)
        while process.poll() is None and sum(victims.values()) < kills:
            time.sleep(chance.uniform(0.0, 3.0))
            victim, workers = chance.choice(list(victims)), workers_of(process)
            if process.poll() is None and (workers or victim == "the command"):
                (chance.choice(workers) if victim == "a worker" else process).kill()
                victims[victim] += 1
            if victim == "the command":
                process.wait()
        process.wait()
        for path in (out / "pairs").glob("*/record.json"):
            inode = path.stat().st_ino
            twice += seen.setdefault(path.parent.name, inode) != inode
        if process.returncode == 0:
            break
    found = [read_record(out / "pairs" / row.id) for row in rows_of(manifest)]
    lost = sum(record is None or summary_of(record)["status"] != "done" for record in found)
    told = " and ".join(f"{count} times {victim}" for victim, count in victims.items())
    return [
        f"Killed {told}, at random moments: of {pairs} pairs {lost} were lost and {twice} were done twice."
    ]


# ---- the page ----------------------------------------------------------------------------------------------


def machine() -> str:
    load = os.getloadavg()[0]
    where = f"{os.cpu_count()} processors ({platform.machine()}), which other programs used as well"
    return f"Measured on {where} (load {load:.0f})."


def main() -> None:
    """Measure what is asked for, print it, and write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=50, help="pairs of the shell loop")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stub", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        return alone(given.alone, given.out)
    if given.stub:
        rows = read_manifest(given.stub, Row("", {}, settings={"cost": 0.05}), METHODS)
        return register_all(rows, given.out, workers=2, job=STUB) and None
    parts = (("pairs", measure_engine, (given.pairs, given.loop)), ("rows", measure_rows, (given.rows,)))
    for name, work, numbers in (*parts, ("kills", measure_kills, (given.kills,))):
        if not numbers[0]:
            continue
        folder = Path(tempfile.mkdtemp(prefix=f"scale-{name}-"))
        try:
            text = "\n".join([machine(), "", *work(folder, *numbers)])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(text, flush=True)
        if given.write:
            put(name, text, ROOT / "Docs" / "scale.md")


if __name__ == "__main__":
    main()
