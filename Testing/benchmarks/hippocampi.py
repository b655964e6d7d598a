"""Trains the networks of the Train panel on real hippocampi and measures them on patients they never saw.

    python Testing/benchmarks/hippocampi.py DIR [--write]

DIR holds ``images`` and ``labels`` of Task04 (hippocampus) of the Medical Segmentation Decathlon; it is not
part of the project. The patients are shuffled with a fixed seed: 40 are paired for the test, 20 for the
validation, all others train, with the defaults of ``regcore train --data`` but for size and epochs. Only the
epochs were chosen on them. Trainings and tests have one thread each, two run side by side.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402 - the lines above come first
import torch  # noqa: E402

from RegCore import AffineTransform, Model, load, load_model, register, train, warp  # noqa: E402
from RegCore.evaluation.metrics import dice, mean_of_defined  # noqa: E402
from RegCore.training.config import Config  # noqa: E402
from RegCore.training.presets import LEARNING_RATES, TrainingPreset  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

TEST, VALID = 40, 20
SIZE = (48, 64, 48)  # the images have about 36 x 50 x 35 voxels of 1 mm
EPOCHS = {"unet": 24, "keypoints": 15, "global": 15}  # of half as many steps as there are patients
TITLES = {
    "start": "as they come",
    "affine": "`affine`",
    "deformable": "`deformable`",
    "auto": "`auto`",
    "unet": "default network",
    "unet refined": "default network, refined",
    "keypoints": "keypoints, affine",
    "global": "GlobalNet, affine",
}


def split(data: Path, folder: Path) -> int:
    """Links to the files of each part in ``folder/<part>/images`` and ``labels``; how many patients train."""
    names = [
        p.name for p in sorted((data / "images").glob("*.nii.gz")) if (data / "labels" / p.name).is_file()
    ]
    if len(names) < TEST + VALID + 2:
        raise SystemExit(f"{data}: more than {TEST + VALID} patients in images and labels were expected")
    random.Random(0).shuffle(names)
    parts = {"test": names[:TEST], "valid": names[TEST : TEST + VALID], "train": names[TEST + VALID :]}
    for part, inside in parts.items():
        for what in ("images", "labels"):
            (folder / part / what).mkdir(parents=True)
            for name in inside:
                (folder / part / what / name).symlink_to((data / what / name).resolve())
    return len(parts["train"])


def learn(network: str, folder: Path) -> Model:
    """The network of a preset, trained on the patients of a folder."""
    preset = TrainingPreset.for_folder(str(folder / "train"), str(folder / "valid"))
    method, rate = TrainingPreset.method_for(network), LEARNING_RATES[network]
    preset = replace(preset, network=network, method=method, learning_rate=rate)
    preset = replace(preset, size=SIZE, epochs=EPOCHS[network])
    config = Config.from_dict(preset.configuration())
    return load_model(train(config, log_dir=folder, exp_name=network, device="cpu").model)


def tested(method: str | Model, folder: Path, **settings) -> dict[str, float]:
    """Means over the pairs of the test: Dice, folds, roughness, processor seconds."""
    names = sorted(p.name for p in (folder / "test" / "images").iterdir())
    rows = []
    for pair in zip(names[::2], names[1::2], strict=True):
        images = [load(folder / "test" / "images" / name) for name in pair]
        labels = [load(folder / "test" / "labels" / name, "labels") for name in pair]
        began, found = time.process_time(), {"fold_percent": 0.0, "sd_log_jacobian": 0.0}
        transform = AffineTransform.identity()
        if method != "start":
            done = register(*images, method, device="cpu", settings=settings or None)
            transform, found = done.transform, done.metrics
        seconds = time.process_time() - began
        overlap = mean_of_defined(dice(labels[0], warp(labels[1], transform, labels[0].geometry)).values())
        rows.append((overlap, found["fold_percent"], found["sd_log_jacobian"], seconds))
    means = np.mean(rows, axis=0)
    return {
        "dice": means[0],
        "lowest": min(rows)[0],
        "folds": means[1],
        "rough": means[2],
        "seconds": means[3],
    }


def measured(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """The rows of a method, or of a network that is trained first, in this process."""
    if name not in EPOCHS:
        return {name: tested(name, folder)}
    began = time.process_time()
    model = learn(name, folder)
    seconds = time.process_time() - began
    found = {name: tested(model, folder) | {"training": seconds}}
    if name == "unet":
        found["unet refined"] = tested(model, folder, refine=True)
    return found


def apart(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--one", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(f"{name}: {done.stdout.splitlines()[-1]}", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, dict[str, float]], patients: int) -> str:
    """A line for each method."""
    head = ("", "steps", "training s", "Dice", "lowest", "folds %", "SD log J", "processor s a pair")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, title in TITLES.items():
        f = found[name]
        training = (
            (str(EPOCHS[name] * (patients // 2)), f"{f['training']:.0f}") if name in EPOCHS else ("", "")
        )
        figures = (f"**{f['dice']:.3f}**", f"{f['lowest']:.3f}", f"{f['folds']:.2f}", f"{f['rough']:.2f}")
        cells = (title, *training, *figures, f"{f['seconds']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DIR", help="folder with images and labels")
    parser.add_argument("--one", choices=[*TITLES], help="measure this one in a folder that is split already")
    parser.add_argument("--write", action="store_true", help="put the table into Docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.one:
        torch.set_num_threads(1)
        print(json.dumps(measured(arguments.one, arguments.data)))
        return 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        folder, found = Path(scratch), {}
        patients = split(arguments.data, folder)
        for rows in pool.map(
            lambda name: apart(name, folder), (*EPOCHS, "start", "affine", "deformable", "auto")
        ):
            found |= rows
    print(table(found, patients))
    if arguments.write:
        put("hippocampi", table(found, patients))
    return 0


if __name__ == "__main__":
    sys.exit(main())
