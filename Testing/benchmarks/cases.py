"""Registers every real case and sets the figures beside those of other programs: `make bench`.

Each case runs in a separate process with two threads, so that its peak memory can be measured; segmentations
are used for evaluation only, except in the one case that intensities cannot solve. All programs are evaluated
by the same script, `evaluate.py`, which comes with the data. Writes Docs/benchmarks.md and the table of
the README.
"""

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from Testing.benchmarks.page import put  # noqa: E402 - the path comes first

DATA = ROOT.parent / "shared" / "data"
OUTPUT = ROOT / "bench-output"
PEERS = Path(__file__).with_name("peers.csv")
CASES = {
    "ct_torso_gt": ("CT torso", "tre_mm"),
    "lungct_elastix": ("CT lung", "tre_mm"),
    "mm_contrast_gt": ("MR contrasts", "tre_mm"),
    "brain_vxm_nv": ("MR brain", "dice"),
    "hippo_001_003": ("MR hippocampus, 1", "dice"),
    "hippo_004_006": ("MR hippocampus, 2", "dice"),
    "prostate_mrus_25": ("MR–ultrasound prostate", "dice"),
}
STEERED = {"prostate_mrus_25"}  # its segmentations join the objective
COLUMNS = {
    "elastix": "elastix_default",
    "ANTs SyN": "ants_SyN",
    "ConvexAdam": "convexadam",
    "Demons": "sitk_demons",
    "deeds": "deeds",
}
THREADS = 2


def judge(data: Path):
    """The module `evaluate.py` beside the data."""
    specification = importlib.util.spec_from_file_location("evaluate", data / "evaluate.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run_case(data: Path, case: str) -> dict:
    """Register one case in this process and return its figures, before and after."""
    import torch

    import RegCore

    torch.set_num_threads(THREADS)
    folder = data / case
    fixed, moving = (RegCore.load(folder / f"{name}.nii.gz", "image") for name in ("fixed", "moving"))
    labels = {}
    if case in STEERED:
        sides = ("fixed", "moving")
        labels = {f"{side}_labels": RegCore.load(folder / f"{side}_seg.nii.gz", "labels") for side in sides}
    done = RegCore.register(fixed, moving, device="cpu", **labels)
    grid = fixed.geometry.world_grid()
    field = (done.transform.map(grid) - grid).astype(np.float32)
    evaluate = judge(data).evaluate
    after, before = evaluate(str(folder), field), evaluate(str(folder))
    work = {"seconds": done.seconds, "peak_memory_mib": done.metrics["peak_memory_mib"]}
    return {"before": before, "after": after, **work}


def run_all(data: Path, cases: list[str]) -> None:
    """Run each case in a child process and keep its figures in bench-output/."""
    OUTPUT.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT)}
    for case in cases:
        print(f"{case} ...", flush=True)
        command = [sys.executable, __file__, "--data", str(data), "--one", case]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        (OUTPUT / f"{case}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        key = CASES[case][1]
        told = f"{key} {found['before'][key]:.3f} -> {found['after'][key]:.3f}"
        print(f"  {told}, folds {found['after']['fold_pct']:.4f} %, {found['seconds']:.1f} s", flush=True)


def peers() -> dict[tuple[str, str], dict[str, str]]:
    """Figures of the other programs by case and program; the better of two starts where there are two."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    with open(PEERS, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            method = row["method"].removesuffix("_nolin")
            old = found.get((row["case"], method))
            if old is None or float(row["dice"] or 0) > float(old["dice"] or 0):
                found[row["case"], method] = row
    return found


def digits(key: str, value) -> str:
    return f"{float(value):.{2 if key == 'tre_mm' else 3}f}"


def summary_table(ours: dict[str, dict]) -> str:
    """One line per case: the figure that counts, of every program."""
    others = peers()
    lines = [f"| case | start | DeepRegSlicer | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 3) + "|"]
    for case, (title, key) in CASES.items():
        if case in ours:
            cells = [digits(key, ours[case]["before"][key]), f"**{digits(key, ours[case]['after'][key])}**"]
            cells += [digits(key, others[case, method][key]) for method in COLUMNS.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def detail_table(case: str, ours: dict) -> str:
    """All figures of one case, a line per program."""
    lines = ["| program | Dice | TRE mm | folds % | SD log J | s | MiB |", "|---|---|---|---|---|---|---|"]
    after = ours["after"]
    own = (after.get("dice"), after.get("tre_mm"), after["fold_pct"], after["sdlogj"])
    own += (ours["seconds"], ours["peak_memory_mib"])
    formats = ("{:.3f}", "{:.2f}", "{:.3f}", "{:.3f}", "{:.1f}", "{:.0f}")
    pairs = zip(formats, own, strict=True)
    cells = [form.format(value) if value is not None else "" for form, value in pairs]
    lines.append(f"| **DeepRegSlicer** | {' | '.join(cells)} |")
    for title, method in COLUMNS.items():
        row = peers()[case, method]
        lines.append(f"| {title} | {' | '.join(list(row.values())[2:])} |")
    return "\n".join(lines)


def write_documents() -> None:
    """Docs/benchmarks.md and the table of the README, from the figures in bench-output/."""
    paths = {case: OUTPUT / f"{case}.json" for case in CASES}
    ours = {case: json.loads(path.read_text()) for case, path in paths.items() if path.exists()}
    parts = [__doc__.split("\n\n", 1)[1].strip().rsplit(" Writes", 1)[0]]
    parts += ["TRE in mm for the first three cases, Dice for the others.", summary_table(ours)]
    parts.append(
        "Times of the other programs are from one run on a busy machine and should be read as upper bounds. "
        "Our column is bold throughout, even where another program does better. In the last case "
        "DeepRegSlicer was given the segmentations, which the others did not use. Its settings were tuned "
        "on these same cases."
    )
    for case in ours:
        parts += [f"### {CASES[case][0]} (`{case}`)", detail_table(case, ours[case])]
    put("cases", "\n\n".join(parts))
    if len(ours) == len(CASES):
        put("benchmarks", summary_table(ours), ROOT / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases and of evaluate.py")
    parser.add_argument("--one", metavar="CASE", help="register this case here and print its figures as JSON")
    parser.add_argument("cases", nargs="*", help="the cases to run; all that are there by default")
    arguments = parser.parse_args()
    if not (arguments.data / "evaluate.py").exists():
        parser.exit(1, f"{arguments.data}: the cases are not there; name their folder with --data\n")
    if arguments.one:
        print(json.dumps(run_case(arguments.data, arguments.one)))
        return
    there = [case for case in CASES if (arguments.data / case).is_dir()]
    run_all(arguments.data, arguments.cases or there)
    write_documents()


if __name__ == "__main__":
    main()
