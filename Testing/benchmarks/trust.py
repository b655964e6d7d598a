"""How well the disagreement of the two directions predicts the error of a registration, where it is known.

Each case is registered from fixed to moving and from moving to fixed. The disagreement at a point x is
|B(F(x)) - x| in mm, F and B being the two results, smoothed by a Gaussian of 3 mm. It is compared with the
true error of the result inside the body: the rank correlation (Spearman), and how the mean of the error that
the disagreement predicts relates to the true one, by a straight line fitted to the other cases. The method
``deformable`` computes both directions by itself and gives their mean: its disagreement is that of the two.
Prints a Markdown table; `--write` puts it on the page of benchmarks.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import RegCore  # noqa: E402 - the path comes first
from Testing.benchmarks.cases import DATA, judge  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402

CASES = {
    "ct_torso_gt": "CT torso",
    "mm_contrast_gt": "MR contrasts",
    "ms_t1_t2b": "MR T1 and T2, multiple sclerosis",
    "lungct_elastix": "CT lung, 51 landmarks",
}
METHODS = {"auto": ({}, {}), "deformable": ({}, {"symmetric": False})}  # settings of result and directions
POINTS = 40_000  # at most, of a case
SMOOTH = 3.0  # mm
HEAD = """| method | case | error, mm | disagreement, mm | rank correlation | predicted to true error |
|---|---|---|---|---|---|"""


def disagreement(forward, backward, grid, points: np.ndarray) -> np.ndarray:
    """|B(F(x)) - x| smoothed by `SMOOTH`, at points (N, 3) RAS mm; (N,) mm.

    forward, backward: transforms fixed -> moving and back. grid: the fixed `Geometry`.
    """
    world = grid.world_grid().reshape(-1, 3)
    apart = np.linalg.norm(backward.map(forward.map(world)) - world, axis=1).reshape(grid.shape)
    smooth = gaussian_filter(apart, SMOOTH / grid.spacing)
    return map_coordinates(smooth, grid.to_index(points).T, order=1, mode="nearest")


def truth(folder: Path, grid, judged) -> tuple[np.ndarray, np.ndarray]:
    """Points of the fixed image inside the body and their true places in the moving one, (N, 3) RAS mm."""
    if (folder / "landmarks.csv").is_file():
        table = np.loadtxt(folder / "landmarks.csv", delimiter=",", skiprows=1)
        return table[:, :3], table[:, 3:]
    index = np.argwhere(judged.load(str(folder / "fixed_eval_mask.nii.gz"))[0] > 0)
    chosen = np.random.default_rng(0).permutation(len(index))[:POINTS]
    field = judged.gt_from_npz(str(folder / "gt_ddf.npz"), grid.shape)[tuple(index[chosen].T)]
    points = grid.to_world(index[chosen])
    return points, points + field


def measure(folder: Path, judged, method: str) -> tuple[np.ndarray, np.ndarray]:
    """The true error of a method on a case and the disagreement of its two directions, (N,) mm each."""
    fixed, moving = (RegCore.load(folder / f"{side}.nii.gz", "image") for side in ("fixed", "moving"))
    own, one_way = METHODS[method]

    def found(first, second, settings):
        return RegCore.register(first, second, method, settings=settings or None, device="cpu").transform

    forward, backward = found(fixed, moving, one_way), found(moving, fixed, one_way)
    result = forward if own == one_way else found(fixed, moving, own)
    points, places = truth(folder, fixed.geometry, judged)
    error = np.linalg.norm(result.map(points) - places, axis=1)
    return error, disagreement(forward, backward, fixed.geometry, points)


def line_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Offset and slope of the error over the disagreement, (2,); every case counts the same."""
    rows = [np.stack([np.ones_like(apart), apart, error]) / len(error) ** 0.5 for error, apart in pairs]
    both = np.concatenate(rows, axis=1)
    return np.linalg.lstsq(both[:2].T, both[2], rcond=None)[0]


def rows_of(method: str, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """A row of the table for each case; pairs: (error, disagreement) by the case's name."""
    out = []
    for name, (error, apart) in pairs.items():
        offset, slope = line_of([pair for other, pair in pairs.items() if other != name])
        ratio = float(np.mean(offset + slope * apart) / np.mean(error))
        rank = float(spearmanr(error, apart)[0])
        figures = f"{np.mean(error):.2f} | {np.mean(apart):.2f} | {rank:.2f} | {ratio:.2f}"
        out.append(f"| `{method}` | {CASES.get(name, name)} | {figures} |")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the cases")
    parser.add_argument("--write", action="store_true", help="put the table on the page of benchmarks")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.exit(1, f"{arguments.data}: the cases are not there; name their folder with --data\n")
    judged, rows = judge(arguments.data), []
    for method in METHODS:
        found = {case: measure(arguments.data / case, judged, method) for case in CASES}
        rows += rows_of(method, found)
    table = "\n".join([HEAD, *rows])
    print(table)
    if arguments.write:
        put("trust", table)


if __name__ == "__main__":
    main()
