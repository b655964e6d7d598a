"""Measures the peak memory of a training step for grids, channels and networks, beside the estimate of it.

    python Testing/benchmarks/training_memory.py

The constants of `RegCore.training.memory` come from this table. Each case runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from RegCore.training.memory import needed_mib  # noqa: E402

CASES = [{"size": [n] * 3, "channels": c} for n in (32, 48, 64) for c in (8, 16)]
CASES += [{"size": [96] * 3, "channels": 16}, {"size": [80] * 3, "channels": 32}]
CASES += [
    {"size": [64] * 3, "channels": 16, "batch_size": 4},
    {"size": [48] * 3, "channels": 8, "batch_size": 2},
]
CASES += [
    {"size": [n] * 3, "channels": 16, "network": name}
    for n in (64, 96)
    for name in ("local", "keypoints", "global")
]


def measure(case: dict) -> dict:
    """The case with the peak of this process after one step of a training, MiB."""
    import nibabel
    import torch

    from RegCore.evaluation.memory import peak_memory_mib
    from RegCore.training import train
    from RegCore.training.config import Config
    from RegCore.training.presets import TrainingPreset

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        for kind in ("fixed_images", "moving_images", "fixed_labels", "moving_labels"):
            (data / kind).mkdir(parents=True)
            for n in range(case.get("batch_size", 1)):
                array = random.random((32, 32, 32)).astype(np.float32)
                voxels = (array > 0.5).astype(np.uint8) if "labels" in kind else array
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), data / kind / f"{n}.nii.gz")
        method = TrainingPreset.method_for(case.get("network", "unet"))
        preset = TrainingPreset(str(data), epochs=1, method=method, **{**case, "size": tuple(case["size"])})
        config = Config.from_dict(preset.configuration(), "benchmark")
        train(config, log_dir=Path(folder), exp_name="run", device="cpu", max_epochs=1)
    return {**case, "peak": round(peak_memory_mib())}


def main() -> None:
    """The table, or the figure of one case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=json.loads, metavar="JSON", help="measure this case in this process")
    one = parser.parse_args().one
    if one is not None:
        print(json.dumps(measure(one)))
        return
    print("grid          channels  pairs  network    measured  estimated")
    for case in CASES:
        command = [sys.executable, __file__, "--one", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, batch = json.loads(done.stdout.splitlines()[-1])["peak"], case.get("batch_size", 1)
        grid, name = " x ".join(map(str, case["size"])), case.get("network", "unet")
        estimate = needed_mib(tuple(case["size"]), case["channels"], batch, network=name)
        print(f"{grid:13} {case['channels']:8} {batch:6}  {name:9} {peak:9} {estimate:10.0f}", flush=True)


if __name__ == "__main__":
    main()
