"""Measures the memory and time in which a full-size CT is warped: run it as a program.

Each case runs in a process of its own, whose peak memory is that of the case. Prints a Markdown table and
ends with code 1 if a case needs more than the limit.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from RegCore.evaluation.memory import peak_memory_mib  # noqa: E402
from RegCore.resampler import warp  # noqa: E402
from RegCore.space.geometry import Geometry  # noqa: E402 - the path comes first
from RegCore.space.transforms import AffineTransform, DisplacementField  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402

CASES = {
    "affine, image": ("affine", "image"),
    "affine, labels": ("affine", "labels"),
    "field on every second voxel, image": ("field", "image"),
}


def volume_of(shape, kind: str) -> Volume:
    """A volume that fills its memory, int16 as a CT or uint8 as a segmentation, without a second copy."""
    array = np.empty(shape, np.int16 if kind == "image" else np.uint8)
    for number, plane in enumerate(array):
        plane[:] = number % 100
    return Volume(array, Geometry(shape, np.diag([-0.7, -0.7, 1.0, 1.0])), kind)


def transform_of(kind: str, geometry: Geometry):
    """A small tilt, as a matrix or as a field on a grid of half the resolution."""
    matrix = np.eye(4)
    matrix[:3] += np.array([[0, 0.02, 0, 3.0], [-0.02, 0, 0.01, -4.0], [0, -0.01, 0, 2.0]])
    affine = AffineTransform(matrix)
    if kind == "affine":
        return affine
    return DisplacementField.from_affine(affine, geometry.resized(tuple(n // 2 for n in geometry.shape)))


def measure(name: str, shape) -> None:
    """Do one case and print its row."""
    transform, kind = CASES[name]
    volume = volume_of(shape, kind)
    mapping = transform_of(transform, volume.geometry)
    began = time.perf_counter()
    warp(volume, mapping, volume.geometry)
    print(f"| {name} | {time.perf_counter() - began:.1f} | {peak_memory_mib():.0f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory in which a CT is warped.")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400), metavar="VOXELS")
    parser.add_argument("--limit-mib", type=float, default=4096)
    parser.add_argument("--case", choices=list(CASES), help="only this one, in this process")
    options = parser.parse_args()
    if options.case:
        measure(options.case, tuple(options.shape))
        return 0
    print(f"Warp of {'x'.join(map(str, options.shape))} voxels, limit {options.limit_mib:.0f} MiB.\n")
    print("| case | seconds | peak memory of the process, MiB |")
    print("|---|---|---|")
    within = True
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--shape", *map(str, options.shape)]
        row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(row, flush=True)
        within &= float(row.split("|")[3]) <= options.limit_mib
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
