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
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402 - the lines above come first
import torch  # noqa: E402

from RegCore.evaluation.metrics import folding  # noqa: E402
from RegCore.io import load  # noqa: E402
from RegCore.registration.learned import load_model  # noqa: E402
from RegCore.resampler import warp  # noqa: E402
from RegCore.samples.torso import DATASET, LABELS, TESTED, TRAINED, make_torso  # noqa: E402
from RegCore.slicreg.alignment import template_to_scan  # noqa: E402
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
from RegCore.slicreg.matching import match  # noqa: E402
from RegCore.slicreg.methods import SlicReg  # noqa: E402
from RegCore.slicreg.picture import Oversegmentation, supervoxel_picture  # noqa: E402
from RegCore.slicreg.prediction import predict_supervoxels  # noqa: E402
from RegCore.slicreg.preparation import PreparedScan, centred_grid, downsample2, network_units  # noqa: E402
from RegCore.slicreg.registration import prepare_for_model, register_prepared, register_scans  # noqa: E402
from RegCore.slicreg.supervoxels import Supervoxels, propagate_supervoxels  # noqa: E402
from RegCore.slicreg.template import Method  # noqa: E402
from RegCore.space.transforms import DisplacementField  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

OUTPUT = ROOT / "bench-output" / "slicreg"
PAGE = ROOT / "Docs" / "slicreg.md"
PICTURE = ROOT / "Docs" / "slicreg_supervoxels.png"
DATA = Path("demos") / DATASET / "dataset"
THREADS = 2
LONGER = "SLIC-Reg, twice the steps"
NETWORKS = ("deeplab", "unet", "regression")
GRID = ("--spacing", 4, "--shape", 96, 96, 96, "--layers", 8, "--supervoxels", 31, "--margin", 16)


def run(*arguments, threads: int = THREADS) -> str:
    """A command of regcore in the folder of the benchmark; what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    words = list(map(str, arguments))
    print("regcore", " ".join(words), flush=True)
    command = [sys.executable, "-m", "RegCore", *words]
    return subprocess.run(
        command, cwd=OUTPUT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def timed(name: str, make: Callable[[], object], made: Path) -> None:
    """Do a part of the work unless its file is there, and keep how long it took beside it."""
    if not made.exists():
        began = time.perf_counter()
        make()
        seconds = time.perf_counter() - began
        (OUTPUT / f"{name}.seconds").write_text(f"{seconds:.0f}\n", encoding="utf-8")


def seconds_of(name: str) -> str:
    path = OUTPUT / f"{name}.seconds"
    return path.read_text(encoding="utf-8").strip() if path.exists() else "?"


def train(name: str, folder: str, steps: int, **changes) -> Path:
    """Train on a prepared folder, with changes of the backbone; the path of the model."""
    out, config = OUTPUT / "runs" / name, OUTPUT / f"{name}.yaml"
    network = name if name in NETWORKS else "deeplab"

    def make() -> None:
        more = ("--network", network, "--small", "--steps", steps, "--seed", 0, "--write", config)
        run("slicreg", "train", folder, *more)
        text = config.read_text(encoding="utf-8")
        for key, value in changes.items():
            text = text.replace("  backbone:\n", f"  backbone:\n    {key}: {value}\n")
        config.write_text(text, encoding="utf-8")
        run("train", config, "--out", out, "--quiet", threads=1)

    timed(name, make, out / "save" / "last.pt")
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


def methods(method: SlicReg, as_published: SlicReg) -> dict[str, RegistrationMethod]:
    """The lines of the table of parts."""

    def both(template: LabelledScan, scan: LabelledScan) -> tuple[PreparedScan, PreparedScan]:
        return prepare_for_model(method, template.image), prepare_for_model(method, scan.image)

    def images(template, scan):
        fixed, moving = both(template, scan)
        return template_to_scan(fixed, moving)

    def true(template, scan):
        return match(method.supervoxels, true_supervoxels(method, scan))

    return {
        "start": initial_alignment(method),
        "oracle affine": best_affine,
        "images alone, affine and deformable": images,
        "true supervoxels, matched": true,
        "SLIC-Reg, half a voxel apart as published, one pass": slicreg_method(as_published, passes=1),
        "SLIC-Reg, one pass": slicreg_method(method, passes=1),
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


def contribute(steps: int, count: int = 6) -> bool:
    """The table of parts; whether SLIC-Reg alone is above the start and above the published variant."""
    template, scans = DATA / "template.nii.gz", [DATA / f"train/torso{n:03}.nii.gz" for n in range(1, 9)]
    command = ("slicreg", "prepare", "--template", template, "--out", "prepared-8", *GRID)
    made = OUTPUT / "prepared-8" / "supervoxels.png"
    timed("prepared-8", lambda: run(*command, "--quiet", "--scans", *scans), made)
    with ThreadPoolExecutor(THREADS) as side_by_side:
        half_apart = {"as_published": "true"}
        wanted = {"eight": (steps, {}), "published": (steps, half_apart), "longer": (2 * steps, {})}
        paths = side_by_side.map(
            lambda name: train(name, "prepared-8", wanted[name][0], **wanted[name][1]), wanted
        )
        method, as_published, longer = (load_model(path).network for path in paths)
    known, measured = case("template"), tests(count)
    found = evaluate(
        known, measured, methods(method, as_published) | {LONGER: slicreg_method(longer)}, LABELS
    )
    lines = ["| | mean Dice | lowest | folds, most | s |", "|---" * 5 + "|"]
    for row, name in enumerate(found.methods):
        each = found.each(name)
        cells = f"{each.mean():.3f}", f"{each.min():.3f}", f"{found.folds[row].max():.3f} %"
        lines.append(f"| {name} | {' | '.join(cells)} | {found.seconds[row].mean():.1f} |")
    for name, field_of in {
        "true supervoxels, each test scan to the next": lambda fixed, moving: match(
            true_supervoxels(method, fixed), true_supervoxels(method, moving)
        ),
        "SLIC-Reg, each test scan to the next": partial(register_without_template, method),
        f"{LONGER}, each test scan to the next": partial(register_without_template, longer),
    }.items():
        each, folds = pairs(measured, field_of).T
        lines.append(f"| {name} | {each.mean():.3f} | {each.min():.3f} | {folds.max():.3f} % | |")
    words = (
        f"{steps} steps, {seconds_of('eight')} s. {100 * accuracy(method, measured):.0f} % of the voxels "
        "inside supervoxels are assigned correctly."
    )
    put("slicreg small", "\n".join(lines) + f"\n\n{words}", PAGE)
    alone, start = found.each("SLIC-Reg"), found.each("start")
    apart, once = (found.mean(name) for name in list(found.methods)[4:6])
    return bool((alone > start).all()) and once > apart


# ---- the published size ------------------------------------------------------------------------------------


def published_size() -> None:
    """Time and memory of a step of training and of a registration with 16 layers of 128 classes."""
    lines = ["| at 192 × 160 × 256 voxels, 16 layers of 127 | s | GiB |", "|---|---|---|"]
    for name, title in (("step", "a step of training, 4 scans"), ("registration", "a registration")):
        command = [sys.executable, __file__, "--one", name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        lines.append(f"| {title} | {found['seconds']:.0f} | {found['gib']:.1f} |")
        print(lines[-1], flush=True)
    put("slicreg size", "\n".join([*lines, "", "On two threads of a processor."]), PAGE)


def one(name: str) -> dict:
    """Measure one of them in this process, with a network that was not trained: that makes no difference."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    size, layers, classes = (96, 80, 128), 16, 128
    grid = centred_grid((0, 0, 0), size, 4.0)
    blocks = np.random.default_rng(0).integers(1, classes, (layers, 12, 10, 16))
    labels = torch.from_numpy(np.kron(blocks, np.ones((1, 8, 8, 8))).astype(np.uint8))
    backbone = {"name": "deeplab", "layers": layers, "classes": classes, "norm": "batch"}
    method = SlicReg(backbone | {"checkpointing": True}, size, size, labeled=False)
    if name == "step":
        batch = {"image": torch.randn(4, 1, *size), "supervoxels": labels[None].expand(4, -1, -1, -1, -1)}
        began = time.perf_counter()
        method(batch)[0].sum().backward()
        torch.optim.Adam(method.parameters(), 0.004).step()
    else:
        method.template.copy_(labels)
        method.affine.copy_(torch.tensor(grid.affine))
        method.metadata.copy_(torch.tensor([0, 1]))
        whole = grid.resized_box(tuple(2 * n for n in size))
        fixed, moving = (make_torso(seed, geometry=whole).image for seed in (101, 102))
        began = time.perf_counter()
        warp(moving, register_scans(method, fixed, moving), fixed.geometry)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of each training of the published table")
    parser.add_argument("--one", choices=("step", "registration"), help="measure this here")
    what = "some of table, parts, size; all by default"
    parser.add_argument("what", nargs="*", metavar="WHAT", help=what)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one)))
        return 0
    torch.set_num_threads(THREADS)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    wanted, fine = arguments.what or ["table", "parts", "size"], True
    if "table" in wanted:
        fine = publish(arguments.steps) and fine
    if "parts" in wanted:
        fine = contribute(300) and fine
    if "size" in wanted:
        published_size()
    if not fine:
        print("the order of the publication did not appear", file=sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
