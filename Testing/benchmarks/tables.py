"""The tables of the registered cases, from what cases.py measured and what peers.csv recorded."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from Testing.benchmarks.page import ROOT, put

RECORDED = Path(__file__).with_name("peers.csv")
CASES = {
    "ct_torso_gt": ("CT torso", "tre_mm"),
    "lungct_elastix": ("CT lung", "tre_mm"),
    "mm_contrast_gt": ("MR contrasts", "tre_mm"),
    "ms_t1_t2b": ("MR T1 and T2, multiple sclerosis", "tre_mm"),
    "brain_vxm_nv": ("MR brain", "dice"),
    "hippo_001_003": ("MR hippocampus, 1", "dice"),
    "hippo_004_006": ("MR hippocampus, 2", "dice"),
    "hippo_pool": ("MR hippocampus, mean of 12 pairs", "dice"),
    "fetal_1_3": ("MR fetal brain", "dice"),
    "spine_t2s_t2": ("MR spine, T2* and T2", "dice"),
    "abdomen_ct_mr": ("CT and MR abdomen", "dice"),
    "prostate_mrus_25": ("MR–ultrasound prostate", "dice"),
}
"""Case -> title and the figure that counts; ``hippo_pool`` is made of the two cases before it."""

UNITS = {"tre_mm": "TRE mm", "dice": "Dice"}
FIGURES = {  # name -> title and digits
    "dice": ("Dice", 3),
    "tre_mm": ("TRE mm", 2),
    "fold_pct": ("folds %", 3),
    "sdlogj": ("SD log J", 3),
    "cpu": ("processor s", 1),
    "wall": ("s", 1),
    "mib": ("MiB", 0),
}
OURS = {
    "balanced": "**DeepRegSlicer**",
    "fast": "DeepRegSlicer, fast",
    "best": "DeepRegSlicer, best",
    "warm": "DeepRegSlicer, warm",
}
OTHERS = {
    "greedy": "greedy",
    "ants": "ANTs SyN",
    "elastix": "elastix",
    "demons": "Demons",
    "convexadam": "ConvexAdam",
    "fireants": "FireANTs",
    "syntx": "syntx",
    "deeds": "deeds",
}
METHODS = {"elastix_default": "elastix", "ants_SyN": "ants", "sitk_demons": "demons"}  # names in peers.csv
ABLATIONS = {
    "linear stage alone": ("self-similarity", "correlation"),
    "without self-similarity": ("self-similarity",),
    "without correlation": ("correlation",),
    "one grid": ("levels",),
    "without the guard": ("guard",),
}
"""Name -> what is left out: stages, the coarser grids, the guard of the second stage."""

Figures = Mapping[str, float]
Records = Mapping[str, Mapping[str, Figures | None]]  # case -> program -> figures, None where it gave nothing


def recorded() -> dict[str, dict[str, dict[str, float]]]:
    """Figures of earlier runs by case and program; the better of two starts where there are two."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    names = {"fold_percent": "fold_pct", "sd_log_jacobian": "sdlogj"}
    with open(RECORDED, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            method = row["method"].removesuffix("_nolin")
            kept = ("dice", "tre_mm", "fold_percent", "sd_log_jacobian")
            figures = {names.get(name, name): float(row[name]) for name in kept if row[name]}
            programs = found.setdefault(row["case"], {})
            old = programs.get(METHODS.get(method, method))
            if old is None or figures.get("dice", 0) > old.get("dice", 0):
                programs[METHODS.get(method, method)] = figures
    return found


def digits(name: str, figures: Figures | None) -> str:
    """A figure as it stands in a table; a dash for that of a program without a result, nothing for none."""
    if figures is None:
        return "–"
    return f"{figures[name]:.{FIGURES[name][1]}f}" if name in figures else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def summary_table(records: Records) -> str:
    """One line per case: the figure that counts, of every program; a star where it is of an earlier run."""
    rows, old = [], recorded()
    for case, (title, key) in CASES.items():
        if case not in records:
            continue
        found = records[case]
        cells = [digits(key, found["start"]), f"**{digits(key, found['balanced'])}**"]
        for name in OTHERS:
            earlier = old.get(case, {}).get(name)
            star = f"{digits(key, earlier)}*" if earlier else ""
            cells.append(digits(key, found[name]) if name in found else star)
        rows.append([f"{title}, {UNITS[key]}", *cells])
    return _table(["case", "start", "DeepRegSlicer", *OTHERS.values()], rows)


def detail_table(found: Mapping[str, Figures | None]) -> str:
    """All figures of one case, a line per program that was run."""
    rows = [
        [title, *(digits(name, found[program]) for name in FIGURES)]
        for program, title in (OURS | OTHERS).items()
        if program in found
    ]
    return _table(["program", *(title for title, _ in FIGURES.values())], rows)


def ratio_table(records: Records) -> str:
    """One line per case: processor seconds and memory of ours, in those of greedy's whole process."""
    rows = []
    for case, found in records.items():
        greedy = found.get("greedy")
        if greedy:
            ours = [(found.get(name), "cpu") for name in OURS] + [(found.get("balanced"), "mib")]
            ratios = [f"{figures[name] / greedy[name]:.2f}" if figures else "–" for figures, name in ours]
            rows.append([CASES[case][0], digits("cpu", greedy), *ratios])
    head = ["case", "greedy, processor s", *(name for name in OURS), "memory, balanced"]
    return _table(head, rows)


def ablation_table(records: Records) -> str:
    """One line per case: the figure that counts, and SD log J, of the method without one of its parts."""
    rows = []
    for case, found in records.items():
        key = CASES[case][1]
        ablated = [found.get(name) for name in ("balanced", *ABLATIONS)]
        cells = [f"{digits(key, f)} ({digits('sdlogj', f)})" if f else "–" for f in ablated]
        rows.append([f"{CASES[case][0]}, {UNITS[key]}", *cells])
    return _table(["case", "whole", *ABLATIONS], rows)


def write_documents(folder: Path, words: str, machine: str, versions: Mapping[str, str]) -> None:
    """Docs/benchmarks.md and the table of the README, or the same printed where a case was not measured.

    Args:
        folder: holds a JSON file of the figures of each case.
        words: what to say of the run.
        machine: the processor.
        versions: those of the programs of others.
    """
    paths = {case: folder / f"{case}.json" for case in CASES}
    records = {case: json.loads(path.read_text("utf-8")) for case, path in paths.items() if path.exists()}
    records = {case: found for case, found in records.items() if "balanced" in found}
    named = f", beside {', '.join(versions.values())}" if versions else ""
    parts = [f"{words}\n\nMeasured on {machine}{named}.", summary_table(records)]
    parts.append(
        "Our column, at the default quality, is bold throughout, even where another program does better; a "
        "dash is a program that ended without a result, or not within a quarter of an hour, an empty cell "
        "one that was not run. Figures with a star are of an earlier run, without times. Demons and "
        "ConvexAdam have no linear stage of their own and start from elastix's affine transform, whose time "
        "and memory are in theirs. In the last case DeepRegSlicer was given the segmentations, which the "
        "others did not use. Its settings were chosen on these same cases."
    )
    parts += ["### Time and memory in those of greedy", ratio_table(records)]
    parts += ["### Each part left out", "The SD log J in brackets.", ablation_table(records)]
    for case, found in records.items():
        parts += [f"### {CASES[case][0]} (`{case}`)", detail_table(found)]
    if len(records) < len(CASES):
        print("\n\n".join(parts), "", "Not every case was measured: the pages stay as they are.", sep="\n")
        return
    put("cases", "\n\n".join(parts))
    put("benchmarks", summary_table(records), ROOT / "README.md")
