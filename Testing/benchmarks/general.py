"""What a general model is good for: a start for trainings with few data, and a prediction for any pair.

    python Testing/benchmarks/general.py [MODEL] [--write]

MODEL is what `regcore train-general` makes, by default the one that the extension brings. The first table
holds trainings of few patients and few steps that begin with it against those that begin with nothing, on the
same patients, made up by `RegCore.samples.datasets`, or on two of the four real hippocampi of the benchmarks,
held against the other two; they have one thread. The second one predicts real pairs that have been brought
together by `affine`.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from RegCore import AffineTransform, load, load_model, register, train, warp  # noqa: E402
from RegCore.evaluation.metrics import dice, mean_of_defined  # noqa: E402
from RegCore.loaders import make_loader  # noqa: E402
from RegCore.registration.learned import predicted_transform  # noqa: E402
from RegCore.samples.datasets import make_cases, write_dataset  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from RegCore.training.config import Config  # noqa: E402
from RegCore.training.presets import TrainingPreset  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
PATIENTS, HELD_OUT = (4, 16), 8
STEPS = (0, 20, 60)
FINE = 0.25  # of the usual learning rate, as the Train panel proposes to fine-tune with
SIDES = ("fixed", "moving")
REAL = ("brain_vxm_nv", "hippo_001_003", "hippo_004_006", "fetal_1_3", "lungct_elastix")


def overlap(fixed: Volume, moving: Volume, way) -> float:
    """Mean Dice of two segmentations, the moving one seen through a transform."""
    return mean_of_defined(dice(fixed, warp(moving, way, fixed.geometry)).values())


def judged(model, loader) -> float:
    """Mean Dice of the held-out pairs."""
    found = []
    for sample in {sample.indices: sample for sample in loader.samples()}.values():
        sides = (loader.fixed, sample.fixed), (loader.moving, sample.moving)
        volumes = [side.image_volume(index) for side, index in sides]
        labels = [Volume(*side.labels.read(index), "labels") for side, index in sides]
        way = AffineTransform(np.eye(4)) if model is None else predicted_transform(model, *volumes)
        found.append(overlap(*labels, way))
    return float(np.mean(found))


def few(model: Path) -> list[str]:
    """The table of trainings with few patients."""
    from Testing.benchmarks.learning import DEFAULTS

    case = DEFAULTS["default-mr"]
    lines = ["| learn from | begin with | " + " | ".join(f"{n} steps" for n in STEPS) + " |"]
    lines.append("|---|---|" + "---|" * len(STEPS))
    with tempfile.TemporaryDirectory() as scratch:
        folder, made = Path(scratch), {"variation_mm": case.variation_mm}
        write_dataset(folder / "valid", make_cases("unpaired", case.scans, count=HELD_OUT, first=100, **made))
        for patients in PATIENTS:
            home = folder / f"train{patients}"
            write_dataset(home, make_cases("unpaired", case.scans, count=patients, **made))
            lines += rows(f"{patients} patients", model, home, folder / "valid", patients // 2)
        for split, case in {"hippocampi": "hippo_001_003", "others": "hippo_004_006"}.items():
            for what, ending in (("images", ""), ("labels", "_seg")):
                (folder / split / what).mkdir(parents=True)
                for side in SIDES:
                    shutil.copy(
                        DATA / case / f"{side}{ending}.nii.gz", folder / split / what / f"{side}.nii.gz"
                    )
        lines += rows("2 real hippocampi", model, folder / "hippocampi", folder / "others", 1)
    return lines


def rows(title: str, model: Path, learnt: Path, held_out: Path, pairs: int) -> list[str]:
    """Two lines of the table: trainings on a folder, with so many pairs an epoch, judged on another one."""
    preset, lines = replace(TrainingPreset.for_folder(str(learnt)), kind="unpaired"), []
    dataset = preset.configuration()["dataset"]
    loader = make_loader({**dataset, "valid": {**dataset["train"], "dir": str(held_out)}}, "valid")
    for name, start in (("nothing", None), ("the general model", model)):
        found = [judged(None if start is None else load_model(start), loader)]
        for steps in STEPS[1:]:
            rate = preset.learning_rate * (1 if start is None else FINE)
            now = replace(preset, epochs=steps // pairs, learning_rate=rate)
            options = {"log_dir": learnt.parent / "runs", "exp_name": f"{title}-{name}-{steps}"}
            done = train(Config.from_dict(now.configuration()), **options, start_from=start)
            found.append(judged(load_model(done.model), loader))
            print(title, name, steps, f"{found[-1]:.3f}", file=sys.stderr, flush=True)
        lines.append(f"| {title} | {name} | " + " | ".join(f"{x:.3f}" for x in found) + " |")
    return lines


def real(model: Path) -> list[str]:
    """The table of real pairs."""
    lines = ["| case | start | affine | affine and the general model | folds % |", "|---|---|---|---|---|"]
    for case in REAL:
        volumes = [load(DATA / case / f"{side}.nii.gz", "image") for side in SIDES]
        labels = [load(DATA / case / f"{side}_seg.nii.gz", "labels") for side in SIDES]
        line = register(*volumes, "affine", device="cpu")
        found = register(*volumes, load_model(model), initial=line.transform, device="cpu")
        ways = (AffineTransform(np.eye(4)), line.transform, found.transform)
        dices = [overlap(*labels, way) for way in ways]
        cells = [case, *(f"{x:.3f}" for x in dices), f"{found.metrics['fold_percent']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Measure, print, and write what was asked for into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=ROOT / "Resources" / "Models" / "general.pt")
    parser.add_argument("--parts", nargs="+", choices=("real", "few"), default=("real", "few"))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        lines = real(given.model) if part == "real" else few(given.model)
        print("\n".join(lines), flush=True)
        if given.write:
            put(f"general {part}", "\n".join(lines))


if __name__ == "__main__":
    main()
