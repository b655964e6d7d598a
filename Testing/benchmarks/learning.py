"""Trains six kinds of models for a few minutes and measures what they learn of patients they never saw.

The patients are made up by `RegCore.samples.datasets`: scans of 64³ voxels with two structures, no two alike.
Each model is trained from nothing in a process of its own, with one thread, so that the number of cores
changes no figure, and a fixed seed, in a few hundred steps of one pair; two models are trained side by side.
It fails if a model gains less Dice than stated here. Besides, the default of `regcore train --data` is held
against the method `deformable` on patients of two kinds. `--write` puts the tables on the page of the
benchmarks.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402 - the lines above come first
import torch  # noqa: E402
from demos import Still  # noqa: E402
from page import put  # noqa: E402

from RegCore import AffineTransform, Volume, load_model, predict, register, train, warp  # noqa: E402
from RegCore.evaluation.metrics import dice, mean_of_defined  # noqa: E402
from RegCore.loaders import make_loader  # noqa: E402
from RegCore.registration.learned import predicted_transform  # noqa: E402
from RegCore.samples.datasets import ScanProtocol, make_cases, write_dataset  # noqa: E402
from RegCore.training.config import Config  # noqa: E402
from RegCore.training.presets import TrainingPreset  # noqa: E402

THREADS, TOGETHER = 1, 2
SHAPES = ScanProtocol("mr", (64, 64, 64), (92, 88, 88), (0, 0, 0), ((1, 2, 3, 4), (2,)), "prostate")
PATIENTS = {"train": 16, "valid": 8}  # 8 pairs an epoch to learn from, 4 held out
VARIATION_MM, SHIFT_MM = 5.0, 6.0
SMOOTH = {"name": "bending", "weight": 0.1}
OVERLAP = {"name": "dice", "weight": 1.0, "scales": [0, 1, 2, 4]}
SMALL_KERNELS = {"encode_kernel_sizes": 3}  # a LocalNet's own, 7 voxels wide, take half of its time
LNCC = {"name": "lncc", "weight": 1.0}


@dataclass(frozen=True)
class Model:
    """What is trained, and how much Dice of the held-out pairs it must gain."""

    title: str
    method: str
    backbone: dict
    loss: dict
    gain: float
    labeled: bool = True
    epochs: int = 30
    rate: float = 4.0e-3
    shift_mm: float = 0.0


MODELS = {
    "unsupervised": Model(
        "U-Net, displacement, images alone (lncc)",
        "ddf",
        {"name": "unet", "num_channel_initial": 4, "depth": 3},
        {"image": LNCC, "regularization": SMOOTH},
        gain=0.04,
        labeled=False,
    ),
    "weakly": Model(
        "LocalNet, displacement, labels alone (Dice)",
        "ddf",
        {"name": "local", "num_channel_initial": 4, "extract_levels": [0, 1, 2, 3]} | SMALL_KERNELS,
        {"label": OVERLAP, "regularization": SMOOTH},
        gain=0.025,
    ),
    "velocity": Model(
        "U-Net, velocity, images alone (lncc)",
        "dvf",
        {"name": "unet", "num_channel_initial": 4, "depth": 3},
        {"image": LNCC, "regularization": SMOOTH},
        gain=0.04,
        labeled=False,
        epochs=24,
    ),
    "affine": Model(
        "GlobalNet, affine, images and labels, of patients who lie shifted",
        "ddf",
        {"name": "global", "num_channel_initial": 4, "extract_levels": [0, 1, 2, 3, 4]},
        {"image": LNCC, "label": OVERLAP},
        gain=0.015,
        shift_mm=SHIFT_MM,
        epochs=60,
        rate=1.0e-5,  # each weight of the dense layer moves a whole matrix, whose unit is a voxel per voxel
    ),
    "keypoints": Model(
        "Keypoints, affine, images and labels, of the same patients",
        "ddf",
        {"name": "keypoints", "num_channel_initial": 4, "depth": 3},
        {"image": LNCC, "label": OVERLAP},
        gain=0.25,
        shift_mm=SHIFT_MM,
    ),
    "conditional": Model(
        "U-Net, conditional, labels alone",
        "conditional",
        {"name": "unet", "num_channel_initial": 4, "depth": 3},
        {"label": OVERLAP},
        gain=0.035,
        epochs=20,
    ),
}


def configuration(model: Model, folder: Path) -> Config:
    """Everything that the training of a model is told."""
    parts = {
        part: {"dir": str(folder / part), "format": "h5", "labeled": model.labeled or part != "train"}
        for part in PATIENTS
    }
    dataset = {**parts, "type": "unpaired", "image_shape": list(SHAPES.shape), "cache": 0.5}
    settings = {
        "method": model.method,
        "backbone": model.backbone,
        "loss": model.loss,
        "optimizer": {"name": "Adam", "learning_rate": model.rate},
        "learning_rate_schedule": {"name": "cosine"},
        "preprocess": {"batch_size": 1, "shuffle_buffer_num_batch": 1},
        "epochs": model.epochs,
        "save_period": model.epochs,
        "mixed_precision": "auto",
        "seed": 0,
    }
    return Config.from_dict(copy.deepcopy({"dataset": dataset, "train": settings}))


def held_out_dice(model, config: Config, folder: Path) -> float:
    """Mean Dice of the pairs that were not learnt from, over pairs and structures."""
    done = predict(model, config, split="valid", log_dir=folder, save_nifti=False)
    return float(np.mean([row["label_binary_dice"] for row in done.metrics]))


def learn(name: str) -> dict:
    """Train one model in this process; its figures."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as scratch:
        folder, first = Path(scratch), 0
        for part, count in PATIENTS.items():
            made = {"variation_mm": VARIATION_MM, "shift_mm": MODELS[name].shift_mm}
            cases = make_cases("unpaired", SHAPES, count=count, first=first, **made)
            write_dataset(folder / part, cases, "h5")
            first += count
        config = configuration(MODELS[name], folder)
        began = time.process_time()
        done = train(config, log_dir=folder, exp_name=name)
        seconds, trained = time.process_time() - began, load_model(done.model)
        still = replace(trained, network=Still())
        before, after = (held_out_dice(model, config, folder / "found") for model in (still, trained))
    steps = MODELS[name].epochs * (PATIENTS["train"] // 2)
    return {"steps": steps, "seconds": seconds, "before": before, "after": after}


# ---- the default of `regcore train --data` -----------------------------------------------------------------


@dataclass(frozen=True)
class DefaultCase:
    """Patients on whom the default configuration is held against the optimiser."""

    scans: ScanProtocol
    variation_mm: float


DEFAULTS = {
    "default-mr": DefaultCase(SHAPES, VARIATION_MM),
    "default-ct": DefaultCase(
        ScanProtocol("ct", (64, 56, 64), (268, 216, 226), (3, -2, 1), (4, 7, 9), window=(-160, 240)), 8.0
    ),
}
SHARE = 0.9  # of the gain of the method `deformable` that the network alone must reach
FOLDS = 0.1  # per cent of the voxels that it may fold at most
DEFAULT_EPOCHS = 60  # of 8 steps


def learn_default(name: str) -> dict:
    """Train the default network of a folder in this process; its figures beside those of ``deformable``."""
    torch.set_num_threads(THREADS)
    case = DEFAULTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder, first = Path(scratch), 0
        for part, count in PATIENTS.items():
            cases = make_cases(
                "unpaired", case.scans, count=count, first=first, variation_mm=case.variation_mm
            )
            write_dataset(folder / part, cases, "nifti")
            first += count
        preset = TrainingPreset.for_folder(str(folder / "train"), str(folder / "valid"))
        preset = replace(preset, size=case.scans.shape, epochs=DEFAULT_EPOCHS)
        began = time.process_time()
        done = train(Config.from_dict(preset.configuration()), log_dir=folder, exp_name=name)
        seconds = time.process_time() - began
        model, loader = load_model(done.model), make_loader(preset.configuration()["dataset"], "valid")
        pairs = {sample.indices: sample for sample in loader.samples()}.values()
        found = [_compared(loader, sample, model) for sample in pairs]
    means = {key: float(np.mean([pair[key] for pair in found])) for key in found[0]}
    return {"steps": DEFAULT_EPOCHS * (PATIENTS["train"] // 2), "seconds": seconds, **means}


def _compared(loader, sample, model) -> dict[str, float]:
    """Dice of a pair before and after by the network and by the optimiser, folds and processor seconds."""
    sides = (loader.fixed, sample.fixed), (loader.moving, sample.moving)
    volumes = [side.image_volume(index) for side, index in sides]
    labels = [Volume(*side.labels.read(index), "labels") for side, index in sides]
    still = warp(labels[1], AffineTransform(np.eye(4)), labels[0].geometry)
    figures = {"before": mean_of_defined(dice(labels[0], still).values())}
    began = time.process_time()
    predicted_transform(model, *volumes)
    figures["alone_seconds"] = time.process_time() - began
    for name, method in (("network", model), ("deformable", "deformable")):
        began = time.process_time()
        done = register(*volumes, method, device="cpu")
        figures[f"{name}_seconds"] = time.process_time() - began
        warped = warp(labels[1], done.transform, labels[0].geometry)
        figures[name] = mean_of_defined(dice(labels[0], warped).values())
        figures[f"{name}_folds"] = done.metrics["fold_percent"]
        figures[f"{name}_rough"] = done.metrics["sd_log_jacobian"]
    return figures


def default_table(found: dict[str, dict]) -> str:
    """A line for each kind of patients."""
    head = ("patients", "steps", "training s", "start", "deformable", "network", "of its gain")
    head += ("folds %", "SD log J", "processor s a pair")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, f in found.items():
        share = (f["network"] - f["before"]) / (f["deformable"] - f["before"])
        dices = (f"{f['before']:.3f}", f"{f['deformable']:.3f}", f"**{f['network']:.3f}**")
        both = [
            f"{f[f'network_{what}']:.{digits}f}, deformable {f[f'deformable_{what}']:.{digits}f}"
            for what, digits in (("folds", 2), ("rough", 2), ("seconds", 1))
        ]
        both[-1] += f"; finding the field alone {f['alone_seconds']:.2f}"
        cells = (name, str(f["steps"]), f"{f['seconds']:.0f}", *dices, f"{share:.0%}", *both)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def learn_apart(name: str) -> dict:
    """`learn` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, __file__, "--one", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    after = found["after" if "after" in found else "network"]
    print(f"{name}: {found['before']:.3f} -> {after:.3f}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict]) -> str:
    """A line for each model."""
    lines = ["| model | steps | held-out Dice | at least + |", "|---" * 4 + "|"]
    for name, figures in found.items():
        dice = f"{figures['before']:.3f} → **{figures['after']:.3f}**"
        cells = (MODELS[name].title, str(figures["steps"]), dice, f"{MODELS[name].gain:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reported(found: dict[str, dict], *, write: bool) -> list[str]:
    """Print the tables, put them on the page if asked to, and return who gained less than stated."""
    learnt = {name: found[name] for name in found if name in MODELS}
    defaults = {name: found[name] for name in found if name in DEFAULTS}
    for what, part, made in (("learning", learnt, table), ("learning by default", defaults, default_table)):
        if part:
            print(made(part))
        if part and write:
            put(what, made(part))
    short = [name for name, f in learnt.items() if f["after"] - f["before"] < MODELS[name].gain]
    short += [
        name
        for name, f in defaults.items()
        if f["network"] - f["before"] < SHARE * (f["deformable"] - f["before"]) or f["network_folds"] > FOLDS
    ]
    return short


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--one", choices=[*MODELS, *DEFAULTS], help="train this one here and print its figures as JSON"
    )
    parser.add_argument("--write", action="store_true", help="put the table into Docs/benchmarks.md")
    what = f"models that are trained side by side ({TOGETHER} by default)"
    parser.add_argument("--together", type=int, default=TOGETHER, metavar="N", help=what)
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"some of {', '.join([*MODELS, *DEFAULTS])}; all by default",
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps((learn_default if arguments.one in DEFAULTS else learn)(arguments.one)))
        return 0
    known = [*MODELS, *DEFAULTS]
    unknown = [name for name in arguments.models if name not in known]
    if unknown:
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(known)}")
    names = arguments.models or known
    with ThreadPoolExecutor(arguments.together) as pool:
        found = dict(zip(names, pool.map(learn_apart, names), strict=True))
    short = reported(found, write=arguments.write)
    if short:
        print(f"gained less than stated, or folds: {', '.join(short)}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
