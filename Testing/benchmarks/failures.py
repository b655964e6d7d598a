"""How well failed registrations are named: on the real cases, right, displaced and of two organs.

The result of the affine method on each case counts as good; the same displaced by a turn or a shift, and the
affine method on images of two organs, as failed. Prints a Markdown table; `--write` puts it on the page.
"""

import argparse
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402 - the path comes first
from RegCore.registration.doubts import doubts  # noqa: E402
from RegCore.registration.pair import PairSide  # noqa: E402
from RegCore.space.transforms import AffineTransform  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402
from Testing.benchmarks.robustness import DATA, IMAGES, loaded  # noqa: E402

CASES = ("ct_torso_gt", "lungct_elastix", "mm_contrast_gt", "brain_vxm_nv", "abdomen_ct_mr", "fetal_1_3")
CASES += ("ms_t1_t2b", "spine_t2s_t2", "hippo_001_003", "hippo_004_006")
WAYS = 5  # in random directions, in which each result is displaced
HEADS = {"mm_contrast_gt/fixed", "brain_vxm_nv/fixed"}  # of the images of several organs those of one
DISPLACED = {"45° and 10 mm": (45, 10), "90° and 10 mm": (90, 10), "180°": (180, 0), "60 mm": (0, 60)}


def displaced(found: AffineTransform, centre: np.ndarray, degrees: float, mm: float, seed: int):
    """A transform after a turn about a centre and a shift, both in random directions."""
    turn, way = (v / np.linalg.norm(v) for v in np.random.default_rng(seed).normal(size=(2, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * turn).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + mm * way
    return AffineTransform(found.matrix @ matrix)


def count(data: Path) -> dict[str, tuple[int, int]]:
    """For each kind of result how many were doubted, of how many."""
    seen: dict[str, list[bool]] = {"right": [], **{f"displaced by {name}": [] for name in DISPLACED}}
    there = [case for case in CASES if (data / case).is_dir()]
    for seed, case in enumerate(there):
        fixed, moving = (
            RegCore.load(data / case / f"{side}.nii.gz", "image") for side in ("fixed", "moving")
        )
        sides = PairSide(fixed), PairSide(moving)
        found = RegCore.register(fixed, moving, "affine", device="cpu").transform
        seen["right"].append(bool(doubts(*sides, found)))
        for name, (degrees, mm) in DISPLACED.items():
            for random in range(seed, seed + WAYS * len(CASES), len(CASES)):
                wrong = displaced(found, fixed.geometry.centre, degrees, mm, random)
                seen[f"displaced by {name}"].append(bool(doubts(*sides, wrong)))
    images = {name: loaded(name, data) for name in IMAGES if (data / f"{name}.nii.gz").exists()}
    pairs = [(images[a], images[b]) for a, b in permutations(images, 2) if {a, b} != HEADS]
    organs = [RegCore.register(a, b, "affine", device="cpu").metrics.get("doubts") for a, b in pairs]
    seen["of two organs"] = [bool(found) for found in organs]
    return {kind: (sum(found), len(found)) for kind, found in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases")
    parser.add_argument("--write", action="store_true", help="put the table on the page of benchmarks")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.exit(1, f"{arguments.data}: the cases are not there; name their folder with --data\n")
    rows = [f"| {kind} | {named} of {of} |" for kind, (named, of) in count(arguments.data).items()]
    table = "\n".join(["| result | called doubtful |", "|---|---|", *rows])
    print(table)
    if arguments.write:
        put("failures", table)


if __name__ == "__main__":
    main()
