"""How time and memory grow with the voxels: a made-up pair from 64³ to 256³, and a CT of 512 × 512 × 400.

The pair is the phantom with noise, seen on finer and finer grids. What is measured is the whole command
`regcore register` on two threads, and greedy beside it where PEERS_PYTHON names a Python that has it.
Writes the table and its picture into Docs/benchmarks.md, with the power of the voxels that each curve fits.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402 - the path comes first
from RegCore.space.transforms import AffineTransform  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from Testing.benchmarks.measure import measured  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

OUTPUT = ROOT / "bench-output" / "growth"
PICTURE = ROOT / "Docs" / "growth.svg"
PEERS = Path(__file__).with_name("peers.py")
SIZES = (64, 96, 128, 192, 256)
LARGE = (512, 512, 400)
COLOURS = ("#0072b2", "#56b4e9", "#d55e00")
Shape = tuple[int, int, int]


def write_pair(shape: Shape, folder: Path) -> None:
    """The phantom's two images on grids of a shape, as int16, with noise in each voxel."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pair, random = RegCore.make_phantom(), np.random.default_rng(0)
    for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        fine = RegCore.warp(image, AffineTransform.identity(), image.geometry.resized(shape))
        array = np.empty(shape, np.int16)
        for n, plane in enumerate(fine.array):  # plane by plane: noise is float64
            array[n] = plane + 20 * random.standard_normal(plane.shape)
        RegCore.save(Volume(array, fine.geometry, "image"), folder / f"{side}.nii.gz")


def measure(shape: Shape, python: str | None, qualities: list[str]) -> dict[str, dict]:
    """What each program needs for the pair of a shape."""
    folder, found = OUTPUT / "pair", {}
    write_pair(shape, folder)
    files = ["--fixed=fixed.nii.gz", "--moving=moving.nii.gz", "--out=.", "--quiet", "--device=cpu"]
    for quality in qualities:
        command = [sys.executable, "-m", "RegCore", "register", *files, "--settings", f"quality={quality}"]
        found[quality] = measured(command, folder, PYTHONPATH=str(ROOT), OMP_WAIT_POLICY="PASSIVE")
    if python:
        found["greedy"] = measured([python, str(PEERS), "greedy"], folder)
    shutil.rmtree(folder)
    return {name: work for name, work in found.items() if work["code"] == 0}


def exponent(rows: list[tuple[Shape, dict]], program: str, figure: str) -> float:
    """The power of the voxels that a program's time or memory fits best, over the cubes."""
    points = [(math.prod(shape), found[program][figure]) for shape, found in rows if program in found]
    return float(np.polyfit(*np.log(np.array(points)).T, 1)[0])


def picture(rows: list[tuple[Shape, dict]], programs: list[str]) -> str:
    """Processor seconds and memory over voxels, both axes logarithmic, as SVG."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 330" font-family="sans-serif">']
    parts.append('<rect width="760" height="330" fill="white"/>')
    parts += _plot(rows, programs, "cpu", "processor seconds", 60)
    parts += _plot(rows, programs, "mib", "peak memory, MiB", 440)
    for n, program in enumerate(programs):
        x, colour = 60 + 200 * n, COLOURS[n]
        parts.append(f'<rect x="{x}" y="300" width="20" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 26}" y="306" font-size="12">{_title(program)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _plot(rows, programs: list[str], figure: str, title: str, left: int) -> list[str]:
    """The elements of one of the two plots, 290 wide and 220 high."""
    values = [found[p][figure] for _, found in rows for p in programs if p in found]
    voxels = [math.prod(shape) for shape, _ in rows]
    (low, high), (near, far) = (
        (math.log2(min(numbers)) - margin, math.log2(max(numbers)) + margin)
        for numbers, margin in ((values, 0.2), (voxels, 0.3))
    )

    def x(n: int) -> float:
        return left + 290 * (math.log2(n) - near) / (far - near)

    def y(value: float) -> float:
        return 260 - 220 * (math.log2(value) - low) / (high - low)

    parts = [f'<text x="{left}" y="25" font-size="14">{title}</text>']
    parts.append(f'<path d="M{left},40V260H{left + 290}" fill="none" stroke="black"/>')
    for (shape, _), n in zip(rows, voxels, strict=True):
        parts.append(f'<text x="{x(n):.0f}" y="277" font-size="11" text-anchor="middle">{shape[0]}³</text>')
    for value in (2**power for power in range(math.ceil(low), math.floor(high) + 1)):
        at = y(value)
        parts.append(f'<path d="M{left},{at:.0f}h290" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 4}" y="{at + 4:.0f}" font-size="11" text-anchor="end">{value}</text>')
    for program, colour in zip(programs, COLOURS, strict=False):
        points = [(math.prod(shape), found[program][figure]) for shape, found in rows if program in found]
        line = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return parts


def _title(program: str) -> str:
    return program if program == "greedy" else f"DeepRegSlicer, {program}"


def document(rows: list[tuple[Shape, dict]], large: dict | None, programs: list[str]) -> str:
    """The tables and the sentence of what they fit."""
    heads = [f"{_title(p)}, {unit}" for p in programs for unit in ("processor s", "MiB")]
    lines = [f"| voxels | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    shown = [(f"{shape[0]}³", found) for shape, found in rows]
    for name, found in [*shown, *([(" × ".join(map(str, LARGE)), large)] if large else [])]:
        works = [found.get(program) for program in programs]
        cells = [f"{work['cpu']:.1f} | {work['mib']:.0f}" if work else "– | –" for work in works]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    fits = [f"{exponent(rows, p, 'cpu'):.2f} | {exponent(rows, p, 'mib'):.2f}" for p in programs]
    lines.append(f"| power of the voxels, over the cubes | {' | '.join(fits)} |")
    return "\n".join([*lines, "", "![Time and memory over voxels](growth.svg)"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="sides of the cubes")
    parser.add_argument("--no-large", action="store_true", help=f"leave out {LARGE}")
    parser.add_argument("--qualities", nargs="+", default=["fast", "balanced"], help="two at most")
    what = "a Python that has greedy; by default that of the environment variable PEERS_PYTHON"
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON"), metavar="PATH", help=what)
    parser.add_argument("--write", action="store_true", help="into Docs/benchmarks.md, with the picture")
    options = parser.parse_args()
    python = options.peers_python
    if python and "greedy" not in json.loads(subprocess.check_output([python, str(PEERS), "--list"])):
        print(f"greedy is not there for {python} and left out")
        python = None
    programs = [*options.qualities, *(["greedy"] if python else [])]
    rows = []
    for size in options.sizes:
        rows.append(((size,) * 3, measure((size,) * 3, python, options.qualities)))
        print(size, json.dumps(rows[-1][1]), flush=True)
    large = None if options.no_large else measure(LARGE, None, ["balanced"])
    text = document(rows, large, programs)
    print(text)
    if options.write:
        PICTURE.write_text(picture(rows, programs), encoding="utf-8")
        put("growth", text)


if __name__ == "__main__":
    main()
