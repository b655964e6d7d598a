"""What is left of large deformations: the open images bent by a known field, and registered with themselves.

Each image, at 150 000 voxels, is bent by the exponential of a smooth random velocity whose longest
displacement is a share of the image's length. Both get noise of their own. The error is the mean distance
from the truth over the foreground that both sides show. Prints a Markdown table, a line per image and share,
means over the seeds; `--write` puts it into Docs/benchmarks.md. greedy runs as well where `--peers-python`
names a Python that has it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402 - the path comes first
from RegCore.registration import compositional  # noqa: E402
from RegCore.resampler import field_of, integrate  # noqa: E402
from RegCore.resampler.pyramid import foreground  # noqa: E402
from RegCore.space.geometry import Geometry  # noqa: E402
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from Testing.benchmarks.measure import measured  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402
from Testing.benchmarks.robustness import DATA, IMAGES, NOISE, loaded  # noqa: E402

VOXELS = 150_000
SHARES = (0.1, 0.2)  # of the length: the longest displacement
SMOOTH = 0.12  # standard deviation of the Gaussian that smooths the velocity, as a share of the length
IDENTITY = AffineTransform.identity()


def bent(
    grid: Geometry, share: float, random: np.random.Generator
) -> tuple[DisplacementField, DisplacementField]:
    """A smooth field on a grid, with a longest vector of a share of its length, and its inverse."""
    length = float((np.array(grid.shape) * grid.spacing).max())
    sigma = SMOOTH * length / grid.spacing
    noise = [gaussian_filter(random.normal(size=grid.shape), sigma, mode="reflect") for _ in range(3)]
    velocity = torch.from_numpy(np.stack(noise)[None])
    spacing = torch.from_numpy(grid.spacing).view(1, 3, 1, 1, 1)
    for _ in range(4):  # the longest displacement is not proportional to the velocity
        far = (integrate(velocity) * spacing).square().sum(1).max().sqrt()
        velocity = velocity * (share * length / far)
    forward, back = (field_of(IDENTITY, grid, integrate(v)) for v in (velocity, -velocity))
    return forward, back


def make_pair(image: Volume, share: float, seed: int) -> tuple[Volume, Volume, DisplacementField]:
    """A fixed and a moving view of an image, and x_moving = T(x_fixed)."""
    random = np.random.default_rng([seed, round(100 * share)])
    truth, back = bent(image.geometry, share, random)
    seen = RegCore.warp(image, back, image.geometry)
    noisy = [
        Volume((v.array + NOISE * random.normal(size=v.array.shape)).astype(np.float32), v.geometry)
        for v in (image, seen)
    ]
    return *noisy, truth


def error(found: Transform, truth: Transform, fixed: Volume) -> float:
    """Mean distance from the truth, mm, over the foreground whose true place is on the grid."""
    points = fixed.geometry.to_world(np.argwhere(foreground(fixed.array)))
    index = fixed.geometry.to_index(truth.map(points))
    points = points[((index >= 0) & (index <= np.array(fixed.array.shape) - 1)).all(-1)]
    return float(np.linalg.norm(found.map(points) - truth.map(points), axis=1).mean())


def by_greedy(fixed: Volume, moving: Volume, python: str) -> Transform:
    """The transform that greedy finds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, volume in (("fixed", fixed), ("moving", moving)):
            RegCore.save(volume, folder / f"{side}.nii.gz")
        script = Path(__file__).with_name("peers.py")
        if measured([python, str(script), "greedy"], folder)["code"] != 0:
            raise SystemExit((folder / "log.txt").read_text(encoding="utf-8"))
        return RegCore.load(folder / "field.nii.gz", "transform")


def ways(python: str | None) -> dict:
    """What registers a pair, by name."""

    def ours(fixed: Volume, moving: Volume, **more) -> Transform:
        return RegCore.register(fixed, moving, device="cpu", **more).transform

    def small_steps(fixed: Volume, moving: Volume) -> Transform:
        with mock.patch.object(compositional, "climb_wide", lambda level, u, *more: u):
            return ours(fixed, moving)

    found = {
        "start": lambda fixed, moving: IDENTITY,
        "`deformable`": lambda fixed, moving: ours(fixed, moving, method="deformable"),
        "`auto` without wide steps": small_steps,
        "`auto`": ours,
        "`auto`, fast": lambda fixed, moving: ours(fixed, moving, settings={"quality": "fast"}),
    }
    return found | ({"greedy": lambda *pair: by_greedy(*pair, python)} if python else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases")
    parser.add_argument("--pairs", type=int, default=3, help="of each kind")
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON"), help="one that has greedy")
    parser.add_argument("--write", action="store_true", help="put the table into Docs/benchmarks.md")
    given = parser.parse_args()
    there = [name for name in IMAGES if (given.data / f"{name}.nii.gz").exists()]
    if not there:
        parser.exit(1, f"{given.data}: the images are not there; name their folder with --data\n")
    known = ways(given.peers_python)
    lines = [f"| image | bent by | voxel mm | {' | '.join(known)} |", "|---" * (3 + len(known)) + "|"]
    for name in there:
        image = loaded(name, given.data, VOXELS)
        for share in SHARES:
            pairs = [make_pair(image, share, seed) for seed in range(given.pairs)]
            cells = [name.split("/")[0], f"{share:.0%}", f"{image.geometry.spacing.max():.1f}"]
            for way in known.values():
                left = [error(way(fixed, moving), truth, fixed) for fixed, moving, truth in pairs]
                cells.append(f"{np.mean(left):.2f}")
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    if given.write:
        put("large", "\n".join(lines))


if __name__ == "__main__":
    main()
