"""How often linear registration succeeds where the start is bad: turns, shifts, crops, thick slices.

Pairs are made of the open images that come with the benchmarks: each is resampled to 4 mm, and seen again
through a known rigid motion, with another contrast and noise in both. Success is a mean distance from the
truth of less than 3 mm (or half a slice, where slices are thicker than that) over the foreground that both
sides show. The gain of the result over chance stands beside it: what tells failures from successes. Prints
a Markdown table, a line per kind of pair; `--write` puts it into Docs/benchmarks.md.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402 - the path comes first
from RegCore.registration.affine import COARSE_VOXELS, align  # noqa: E402
from RegCore.registration.affine_level import make_affine_level  # noqa: E402
from RegCore.registration.pair import PairSide  # noqa: E402
from RegCore.resampler.pyramid import foreground, working_geometry  # noqa: E402
from RegCore.space.geometry import Geometry  # noqa: E402
from RegCore.space.transforms import AffineTransform  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
IMAGES = ("ct_torso_gt/fixed", "mm_contrast_gt/fixed", "brain_vxm_nv/fixed", "lungct_elastix/moving")
VOXELS = 60_000
SUCCESS = 3.0  # mm
NOISE = 0.03  # of the robust range

# For each kind: the turn in degrees, the shift and what is kept of the longest axis, in shares of its length,
# what is kept of the others, and the factor by which slices are thicker.
KINDS = {
    "30° turn": (30, 0.05, 1.0, 1.0, 1),
    "60° turn": (60, 0.05, 1.0, 1.0, 1),
    "120° turn": (120, 0.05, 1.0, 1.0, 1),
    "180° turn": (180, 0.05, 1.0, 1.0, 1),
    "shift by 0.6 of the length": (5, 0.6, 1.0, 1.0, 1),
    "two thirds in common": (10, 0.1, 0.75, 1.0, 1),
    "half in common": (10, 0.1, 0.67, 1.0, 1),
    "fixed cropped to 0.6 of each side": (10, 0.05, 0.6, 0.6, 1),
    "slices 4 times as thick": (10, 0.05, 1.0, 1.0, 4),
}


def _cropped(volume: Volume, axis: int, keep: float, others: float, upper: bool) -> Volume:
    """The upper or lower end of an axis, and the middle of the others."""
    shape = np.array(volume.array.shape)
    share = np.where(np.arange(3) == axis, keep, others)
    size = np.maximum((shape * share).astype(int), 6)
    start = (shape - size) // 2
    start[axis] = shape[axis] - size[axis] if upper else 0
    part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    return Volume(volume.array[part].copy(), volume.geometry.cropped(start, start + size))


def _thickened(volume: Volume, factor: int) -> Volume:
    """Means over slices along the last axis."""
    slices = volume.array.shape[2] // factor
    array = volume.array[..., : slices * factor].reshape(*volume.array.shape[:2], slices, factor).mean(-1)
    affine = volume.geometry.affine @ np.diag([1, 1, factor, 1.0])
    affine[:3, 3] = volume.geometry.to_world([0, 0, (factor - 1) / 2])
    return Volume(array.astype(np.float32), Geometry(array.shape, affine))


def make_pair(
    image: Volume, kind: str, random: np.random.Generator
) -> tuple[Volume, Volume, AffineTransform]:
    """A fixed and a moving view of an image, and the true transform.

    Args:
        image: scaled to about 0 to 1.
        kind: a name of `KINDS`.
        random: of axis, direction and noise.
    """
    degrees, shift, keep, others, thick = KINDS[kind]
    length = np.array(image.array.shape) * image.geometry.spacing
    axis = int(length.argmax())
    turn, way = (v / np.linalg.norm(v) for v in random.normal(size=(2, 3)))
    if shift > 0.5:
        way = image.geometry.direction[:, axis]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * turn).as_matrix()
    centre = image.geometry.centre
    matrix[:3, 3] = centre + shift * length.max() * way - matrix[:3, :3] @ centre
    seen = Volume(np.clip(image.array, 0, None) ** 0.7, image.geometry.moved(matrix))
    fixed = _cropped(image, axis, keep, others, False)
    shown = seen if others < 1 else _cropped(seen, axis, keep, 1.0, True)
    moving = _thickened(shown, thick)
    noisy = [
        Volume((v.array + NOISE * random.normal(size=v.array.shape)).astype(np.float32), v.geometry)
        for v in (fixed, moving)
    ]
    return *noisy, AffineTransform(matrix)


def error(found: AffineTransform, truth: AffineTransform, fixed: Volume, moving: Geometry) -> float:
    """Mean distance from the truth, mm, over the fixed foreground that the moving image shows."""
    points = fixed.geometry.to_world(np.argwhere(foreground(fixed.array)))
    index = moving.to_index(truth.map(points))
    points = points[((index > -0.5) & (index < np.array(moving.shape) - 0.5)).all(-1)]
    return float(np.linalg.norm(found.map(points) - truth.map(points), axis=1).mean())


def loaded(name: str, data: Path, voxels: int = VOXELS) -> Volume:
    """An image of at most about so many voxels, scaled to about 0 to 1."""
    volume = RegCore.load(data / f"{name}.nii.gz", "image")
    small = RegCore.warp(volume, AffineTransform.identity(), working_geometry(volume.geometry, voxels))
    low, high = np.percentile(small.array, [0.5, 99.5])
    return Volume(((small.array - low) / (high - low)).astype(np.float32), small.geometry)


def run_kind(kind: str, images: list[Volume], pairs: int, seed: int) -> str:
    """The line of one kind in the table."""
    errors, gains, good = [], [], []
    began = time.process_time()
    for n in range(pairs):
        random = np.random.default_rng([seed, n, *kind.encode()])
        fixed, moving, truth = make_pair(images[n % len(images)], kind, random)
        sides = PairSide(fixed), PairSide(moving)
        found = align(*sides, rigid=True)
        errors.append(error(found, truth, fixed, moving.geometry))
        good.append(bool(errors[-1] < max(SUCCESS, moving.geometry.spacing.max() / 2)))
        gains.append(make_affine_level(*sides, COARSE_VOXELS, None, "cpu").gain(found.matrix))
    seconds = (time.process_time() - began) / pairs
    told = []
    for wanted in (True, False):
        some = [gain for gain, fine in zip(gains, good, strict=True) if fine is wanted]
        told.append(f"{min(some):.2f} to {max(some):.2f}" if some else "")
    cells = (kind, f"{sum(good)} of {pairs}", f"{np.median(errors):.2f}", f"{max(errors):.1f}", *told)
    return f"| {' | '.join(cells)} | {seconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases")
    parser.add_argument("--pairs", type=int, default=12, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into Docs/benchmarks.md")
    parser.add_argument("kinds", nargs="*", help="beginnings of kinds; all by default")
    arguments = parser.parse_args()
    there = [name for name in IMAGES if (arguments.data / f"{name}.nii.gz").exists()]
    if not there:
        parser.exit(1, f"{arguments.data}: the images are not there; name their folder with --data\n")
    images = [loaded(name, arguments.data) for name in there]
    lines = ["| kind | success | median mm | worst mm | gains of successes | of failures | processor s |"]
    lines.append("|---" * 7 + "|")
    print(*lines, sep="\n")
    for kind in KINDS:
        if not arguments.kinds or any(kind.startswith(start) for start in arguments.kinds):
            lines.append(run_kind(kind, images, arguments.pairs, arguments.seed))
            print(lines[-1], flush=True)
    if arguments.write:
        put("robustness", "\n".join(lines))


if __name__ == "__main__":
    main()
