"""Trains SLIC-Reg and its baselines on synthetic torsos; writes the table of the publication: `make bench`.

Everything goes through the commands: `regcore download`, `regcore slicreg prepare`, `train`, `evaluate`, in
bench-output/slicreg, trainings two side by side with one thread each. A finished part is not made again, so
that an interrupted run goes on. It fails unless SLIC-Reg is above regression, and both above the start.
Writes Docs/slicreg.md and its picture.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402 - the lines above come first
import torch  # noqa: E402

from RegCore.evaluation.metrics import folding  # noqa: E402
from RegCore.io import load  # noqa: E402
from RegCore.progress import silent  # noqa: E402
from RegCore.registration.common_cost import common_cost  # noqa: E402
from RegCore.registration.deformable import Settings  # noqa: E402
from RegCore.registration.learned import load_model  # noqa: E402
from RegCore.registration.methods import Task, auto  # noqa: E402
from RegCore.registration.pair import PairSide  # noqa: E402
from RegCore.resampler import warp  # noqa: E402
from RegCore.samples.torso import DATASET, LABELS, TESTED, TRAINED, make_torso  # noqa: E402
from RegCore.slicreg.evaluation import (  # noqa: E402
    LabelledScan,
    RegistrationMethod,
    best_affine,
    evaluate,
    initial_alignment,
    overlap,
    refined_method,
    slicreg_method,
)
from RegCore.slicreg.folder import read_oversegmentation, read_template  # noqa: E402
from RegCore.slicreg.label_propagation import template_to_scan  # noqa: E402
from RegCore.slicreg.matching import match  # noqa: E402
from RegCore.slicreg.methods import SlicReg  # noqa: E402
from RegCore.slicreg.picture import Oversegmentation, supervoxel_picture  # noqa: E402
from RegCore.slicreg.prediction import Method, predict_supervoxels  # noqa: E402
from RegCore.slicreg.preparation import PreparedScan, centred_grid, downsample2, network_units  # noqa: E402
from RegCore.slicreg.presets import LEARNING  # noqa: E402
from RegCore.slicreg.presets import NETWORKS as NETWORKS_OF_PRESETS  # noqa: E402
from RegCore.slicreg.registration import (  # noqa: E402
    REFINEMENT,
    RegistrationSettings,
    prepare_for_model,
    register_prepared,
    register_scans,
)
from RegCore.slicreg.supervoxels import Supervoxels, propagate_supervoxels  # noqa: E402
from RegCore.space.transforms import DisplacementField  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

OUTPUT = ROOT / "bench-output" / "slicreg"
PAGE = ROOT / "Docs" / "slicreg.md"
PICTURE = ROOT / "Docs" / "slicreg_supervoxels.png"
DATA = Path("demos") / DATASET / "dataset"
THREADS = 2
NETWORKS = ("deeplab", "unet", "regression")
GRID = ("--spacing", 4, "--shape", 96, 96, 96, "--layers", 8, "--supervoxels", 31, "--margin", 16)


def run(*arguments, threads: int = THREADS) -> str:
    """A command of regcore in the folder of the benchmark; what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    words = list(map(str, arguments))
    print("regcore", " ".join(words), flush=True)
    more = {"cwd": OUTPUT, "env": environment, "stdout": subprocess.PIPE, "text": True, "check": True}
    return subprocess.run([sys.executable, "-m", "RegCore", *words], **more).stdout


def timed(name: str, make: Callable[[], object], made: Path) -> None:
    """Do a part of the work unless its file is there, and keep how long it took beside it."""
    if not made.exists():
        began = time.perf_counter()
        make()
        (OUTPUT / f"{name}.seconds").write_text(f"{time.perf_counter() - began:.0f}\n", encoding="utf-8")


def seconds_of(name: str) -> str:
    path = OUTPUT / f"{name}.seconds"
    return path.read_text(encoding="utf-8").strip() if path.exists() else "?"


def train(name: str, folder: str, steps: int) -> Path:
    """Train on a prepared folder; the path of the model."""
    out = OUTPUT / "runs" / name
    network = name if name in NETWORKS else "deeplab"
    more = ("--network", network, "--small", "--steps", steps, "--seed", 0, "--out", out, "--quiet")
    timed(name, lambda: run("slicreg", "train", folder, *more, threads=1), out / "save" / "last.pt")
    return out / "save" / "last.pt"


# ---- the table of the publication --------------------------------------------------------------------------


def publish(steps: int) -> bool:
    """The pipeline by its commands, the table, the picture; whether the order of the publication appears."""
    timed("data", lambda: run("download", "--demo", DATASET), OUTPUT / DATA / "template.nii.gz")
    template = ("--template", DATA / "template.nii.gz")
    command = ("slicreg", "prepare", *template, "--scans", DATA / "train", "--out", "prepared", *GRID)
    timed("prepared", lambda: run(*command, "--quiet"), OUTPUT / "prepared" / "supervoxels.png")
    with ThreadPoolExecutor(THREADS) as side_by_side:
        paths = side_by_side.map(lambda name: train(name, "prepared", steps), NETWORKS)
        models = dict(zip(NETWORKS, paths, strict=True))
    command = ["slicreg", "evaluate", "--model", models["deeplab"], "--unet", models["unet"]]
    command += ["--regression", models["regression"], *template, "--template-seg"]
    command += [DATA / "template_seg.nii.gz", "--scans", DATA / "test/images", "--segs", DATA / "test/labels"]
    command += ["--truth", DATA / "test/truth", "--out", "table.json", "--quiet", "--structures"]
    table = run(*command, *(f"{number}={name.capitalize()}" for number, name in LABELS.items()))
    times = ", ".join(f"{name} {seconds_of(name)}" for name in NETWORKS)
    words = (
        f"{TRAINED} training scans, {TESTED} test scans; a grid of 96³ voxels of 4 mm, networks at 48³ "
        f"with half the channels, 8 layers of 31 supervoxels, {steps} steps of 4 scans. "
        f"Preparation took {seconds_of('prepared')} s, the trainings {times} s."
    )
    put("slicreg", f"{table.strip()}\n\n{words}", PAGE)
    draw(models["deeplab"])
    means: dict[str, list[float]] = {}
    for row in json.loads((OUTPUT / "table.json").read_text(encoding="utf-8")):
        means.setdefault(row["method"], []).append(np.mean([row[n.capitalize()] for n in LABELS.values()]))
    start, regression, slic = (np.array(means[name]) for name in ("Initial", "Regression", "Slic-Reg"))
    return slic.mean() > regression.mean() > start.mean() and bool((slic > start).all())


def draw(path: Path) -> None:
    """The picture of the page: template, a scan to train with, a test scan as predicted and as it is."""
    method, cases = load_model(path).network, tests()
    known = read_template(OUTPUT / "prepared")
    shown = [Oversegmentation("template", known.image, known.supervoxels)]
    shown.append(
        read_oversegmentation(next((OUTPUT / "prepared" / "train").glob("*.npz")), "a scan to train with")
    )
    scan = downsample2(prepare_for_model(method, cases[0].image))
    image = Volume(network_units(scan)[0, 0].numpy(), scan.image.geometry)
    shown.append(Oversegmentation("a test scan, predicted", image, predict_on(method, scan)))
    shown.append(Oversegmentation("the same, true", image, true_supervoxels(method, cases[0])))
    supervoxel_picture(shown).save(PICTURE, optimize=True)


# ---- what each part contributes ----------------------------------------------------------------------------


@cache
def case(name: str) -> LabelledScan:
    """A scan of the data set with its labels and, of a test scan, the true map from the template."""
    folder = OUTPUT / DATA
    if name == "template":
        labels = load(folder / "template_seg.nii.gz", "labels")
        return LabelledScan(name, load(folder / "template.nii.gz", "image"), labels)
    image, labels = (folder / "test" / part / f"{name}.nii.gz" for part in ("images", "labels"))
    known = load(folder / "test" / "truth" / f"{name}.h5", "transform")
    return LabelledScan(name, load(image, "image"), load(labels, "labels"), known)


def tests(count: int = TESTED) -> list[LabelledScan]:
    """The first scans that no network learns from."""
    paths = sorted((OUTPUT / DATA / "test" / "images").iterdir())[:count]
    return [case(path.name.removesuffix(".nii.gz")) for path in paths]


def true_supervoxels(method: Method, scan: LabelledScan) -> Supervoxels:
    """The template's supervoxels where they belong in a test scan, on the network's grid."""
    grid = downsample2(prepare_for_model(method, scan.image)).image.geometry
    return propagate_supervoxels(method.supervoxels, scan.truth.inverse(), grid)


def predict_on(method: SlicReg, scan: PreparedScan) -> Supervoxels:
    """What the network says of a scan."""
    return predict_supervoxels(method.network, scan, as_published=method.as_published)


PUBLISHED = RegistrationSettings(passes=1)


def automatic(fixed: LabelledScan, moving: LabelledScan) -> DisplacementField:
    """The method auto."""
    sides = PairSide(fixed.image), PairSide(moving.image)
    return auto(Task(*sides, None, None, {}, "cpu", 0, silent))


def methods(method: SlicReg) -> dict[str, RegistrationMethod]:
    """The lines of the table of parts."""

    def images(template, scan):
        sides = prepare_for_model(method, template.image), prepare_for_model(method, scan.image)
        return template_to_scan(*sides)

    def true(matches: int) -> RegistrationMethod:
        settings = replace(PUBLISHED, matches=matches)
        return lambda template, scan: match(
            method.supervoxels, true_supervoxels(method, scan), settings=settings
        )

    return {
        "start": initial_alignment(method),
        "oracle affine": best_affine,
        "images alone, affine and deformable": images,
        "images alone, `auto`": automatic,
        "true supervoxels, matched once": true(1),
        "true supervoxels, matched twice": true(2),
        "SLIC-Reg, one pass": slicreg_method(method, settings=PUBLISHED),
        "SLIC-Reg, one pass matched twice": slicreg_method(method, settings=replace(PUBLISHED, matches=2)),
        "SLIC-Reg": slicreg_method(method),
        "SLIC-Reg, refined by the images": refined_method(method),
    }


def pairs(scans: list[LabelledScan], field_of: Callable) -> np.ndarray:
    """Dice and folds of each test scan registered to the next one, (N, 2); the template takes no part."""
    found = []
    for fixed, moving in zip(scans, scans[1:] + scans[:1], strict=True):
        field = field_of(fixed, moving)
        dice = np.nanmean(overlap(fixed.labels, moving.labels, field, list(LABELS)))
        found.append((dice, folding(field)))
    return np.array(found)


def register_without_template(
    method: SlicReg, fixed: LabelledScan, moving: LabelledScan
) -> DisplacementField:
    """The field between two scans, of neither of which the supervoxels are known."""
    return register_prepared(
        method, prepare_for_model(method, fixed.image), prepare_for_model(method, moving.image)
    )


def accuracy(method: SlicReg, scans: list[LabelledScan]) -> float:
    """Share of the voxels inside supervoxels, over all layers, whose supervoxel is predicted correctly."""
    shares = []
    for scan in scans:
        known = true_supervoxels(method, scan).labels
        right = predict_on(method, downsample2(prepare_for_model(method, scan.image))).labels == known
        shares.append(right[known > 0].mean())
    return float(np.mean(shares))


def model_of_parts(steps: int) -> SlicReg:
    """The model of eight torsos, made if need be."""
    template, scans = DATA / "template.nii.gz", [DATA / f"train/torso{n:03}.nii.gz" for n in range(1, 9)]
    timed("data", lambda: run("download", "--demo", DATASET), OUTPUT / template)
    command = ("slicreg", "prepare", "--template", template, "--out", "prepared-8", *GRID, "--quiet")
    made = OUTPUT / "prepared-8" / "supervoxels.png"
    timed("prepared-8", lambda: run(*command, "--scans", *scans), made)
    return load_model(train("eight", "prepared-8", steps)).network


def contribute(steps: int, count: int = 6) -> bool:
    """The table of parts; whether SLIC-Reg alone is above the start and above the published way."""
    method = model_of_parts(steps)
    known, measured = case("template"), tests(count)
    found = evaluate(known, measured, methods(method), LABELS)
    lines = ["| | mean Dice | lowest | folds, most |", "|---" * 4 + "|"]
    for row, name in enumerate(found.methods):
        each = found.each(name)
        lines.append(f"| {name} | {each.mean():.3f} | {each.min():.3f} | {found.folds[row].max():.3f} % |")
    for name, field_of in {
        "true supervoxels, each test scan to the next": lambda fixed, moving: match(
            true_supervoxels(method, fixed), true_supervoxels(method, moving)
        ),
        "SLIC-Reg, each test scan to the next": partial(register_without_template, method),
        "SLIC-Reg, refined by the images, each test scan to the next": refined_method(method),
        "images alone, `auto`, each test scan to the next": automatic,
    }.items():
        each, folds = pairs(measured, field_of).T
        lines.append(f"| {name} | {each.mean():.3f} | {each.min():.3f} | {folds.max():.3f} % |")
    words = (
        f"8 torsos to train with, {count} to test; {steps} steps. {100 * accuracy(method, measured):.0f} % "
        "of the voxels inside supervoxels are assigned correctly."
    )
    put("slicreg small", "\n".join(lines) + f"\n\n{words}", PAGE)
    alone, start, published = (found.each(name) for name in ("SLIC-Reg", "start", "SLIC-Reg, one pass"))
    return bool((alone > start).all()) and alone.mean() >= published.mean() - 0.005


# ---- bodies far apart --------------------------------------------------------------------------------------

FAR, FIRST_FAR = 2.5, 201


def far_apart(steps: int, count: int) -> bool:
    """Torsos 2.5 times as far from the template as usual: plain, from SLIC-Reg, and what is kept of both."""
    method, fixed, rows = model_of_parts(steps), case("template"), []
    for seed in range(FIRST_FAR, FIRST_FAR + count):
        torso = make_torso(seed, misalignment=FAR)
        moving = LabelledScan(f"torso{seed}", torso.image, torso.labels)
        start = initial_alignment(method)(fixed, moving)
        plain, ours = automatic(fixed, moving), refined_method(method)(fixed, moving)
        sides = PairSide(fixed.image), PairSide(moving.image)
        costs = common_cost(*sides, [ours, plain], settings=Settings(**REFINEMENT))
        kept = ours if costs[0] <= costs[1] else plain
        found = [overlap(fixed.labels, moving.labels, t, list(LABELS)) for t in (start, plain, ours, kept)]
        rows.append([float(np.nanmean(dice)) for dice in found])
    table = np.array(rows)
    names = "bodies centred", "`auto`", "`register --refine`", "both, the lower objective kept"
    cells = [f"{column.mean():.3f} | {column.min():.3f}" for column in table.T]
    lines = ["| | mean Dice | lowest |", "|---|---|---|"]
    lines += [f"| {name} | {cell} |" for name, cell in zip(names, cells, strict=True)]
    right = int((table[:, 3] >= table[:, 1:3].max(1)).sum())
    words = f"The objective kept the better of the two for {right} of {len(table)} torsos."
    put("slicreg far", "\n".join(lines) + f"\n\n{words}", PAGE)
    return bool(table[:, 3].mean() >= table[:, 1].mean())


# ---- the published size ------------------------------------------------------------------------------------


SIZES = {
    "step": "a step of training, 4 scans",
    "eighth": "the same from an eighth of the cells (`--share 0.125`)",
    "registration": "a registration",
}


def published_size() -> None:
    """Time and memory of a step of training and of a registration with 16 layers of 128 classes."""
    lines = ["| at 192 × 160 × 256 voxels, 16 layers of 127 | processor s | GiB |", "|---|---|---|"]
    for name, title in SIZES.items():
        command = [sys.executable, __file__, "--one", name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        lines.append(f"| {title} | {found['seconds']:.0f} | {found['gib']:.1f} |")
        print(lines[-1], flush=True)
    put("slicreg size", "\n".join(lines), PAGE)


def one(name: str) -> dict:
    """Measure one of them in this process, with a network that was not trained: that makes no difference."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    size, layers, classes = (96, 80, 128), 16, 128
    grid = centred_grid((0, 0, 0), size, 4.0)
    blocks = np.random.default_rng(0).integers(1, classes, (layers, 12, 10, 16))
    labels = torch.from_numpy(np.kron(blocks, np.ones((1, 8, 8, 8))).astype(np.uint8))
    shipped = NETWORKS_OF_PRESETS["deeplab"][1] | LEARNING  # what `regcore slicreg train` writes
    more = {"share": 0.125, "checkpointing": False} if name == "eighth" else {}
    method = SlicReg(shipped | {"layers": layers, "classes": classes} | more, size, size, labeled=False)
    if name != "registration":
        batch = {"image": torch.randn(4, 1, *size), "supervoxels": labels[None].expand(4, -1, -1, -1, -1)}
        began = time.process_time()
        method(batch)[0].sum().backward()
        torch.optim.Adam(method.parameters(), 0.004).step()
    else:
        method.template.copy_(labels)
        method.affine.copy_(torch.tensor(grid.affine))
        method.metadata.copy_(torch.tensor([0, 1]))
        whole = grid.resized_box(tuple(2 * n for n in size))
        fixed, moving = (make_torso(seed, geometry=whole).image for seed in (101, 102))
        began = time.process_time()
        warp(moving, register_scans(method, fixed, moving), fixed.geometry)
    seconds = time.process_time() - began
    return {"seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of each training of the published table")
    parser.add_argument("--one", choices=tuple(SIZES), help="measure this here")
    parser.add_argument("--count", type=int, default=10, help="torsos of the part far")
    what = "some of table, parts, far, size; all by default"
    parser.add_argument("what", nargs="*", metavar="WHAT", help=what)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return 0
    torch.set_num_threads(THREADS)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    wanted, fine = arguments.what or ["table", "parts", "far", "size"], True
    if "table" in wanted:
        fine = publish(arguments.steps) and fine
    if "parts" in wanted:
        fine = contribute(300) and fine
    if "far" in wanted:
        fine = far_apart(300, arguments.count) and fine
    if "size" in wanted:
        published_size()
    if not fine:
        print("the order of the publication did not appear", file=sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
