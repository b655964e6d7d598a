"""Makes the template of generated patients whose mean shape is known: figures and picture of the page.

    python Testing/benchmarks/template.py --write

Writes the table into Docs/series-and-groups.md and the picture Docs/template.png; without --write it prints
the table alone.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from RegCore.evaluation.metrics import dice, folding, mean_of_defined  # noqa: E402 - the path comes first
from RegCore.evaluation.pictures.means import means_picture  # noqa: E402
from RegCore.resampler import warp  # noqa: E402
from RegCore.samples.phantom import anatomy  # noqa: E402
from RegCore.space.volume import Volume  # noqa: E402
from RegCore.studies.labels import vote  # noqa: E402
from RegCore.studies.template import GroupTemplate, build_template  # noqa: E402
from RegCore.studies.workers import LocalPool  # noqa: E402
from Testing.benchmarks.page import put  # noqa: E402
from Testing.RegCore.studies.patients import Patients, make_patients  # noqa: E402

PAGE, PICTURE = ROOT / "Docs" / "series-and-groups.md", ROOT / "Docs" / "template.png"
EDGE = 4  # voxels at the border of the template in which maps are not compared


def errors(made: GroupTemplate, patients: Patients, transforms) -> tuple[float, float]:
    """Mean distance of found and true places in the scans, and the length of its mean over the scans, mm."""
    inner = made.mean.geometry.world_grid()[(slice(EDGE, -EDGE),) * 3].reshape(-1, 3)
    pairs = zip(transforms, patients.maps, strict=True)
    apart = np.array([found.map(inner) - true.map(inner) for found, true in pairs])
    lengths = np.linalg.norm(apart, axis=-1)
    return float(lengths.mean()), float(np.linalg.norm(apart.mean(0), axis=-1).mean())


def figures(made: GroupTemplate, patients: Patients) -> list[tuple[str, float, float, str]]:
    """Name, value after the affine alignment, value of the template, and format of each figure."""
    grid, ends = made.mean.geometry, (made.rounds[0], made.rounds[-1])
    true = patients.true_labels(grid)
    columns = []
    for transforms in (made.linear, made.transforms):
        pairs = zip(made.scan_labels, transforms, strict=True)
        warped = [warp(labels, transform, grid).array for labels, transform in pairs]
        overlap = mean_of_defined(dice(true, vote(warped)[0]).values())
        each = np.mean([mean_of_defined(dice(true, labels).values()) for labels in warped])
        columns.append((overlap, float(each), *errors(made, patients, transforms)))
    folds = [max(folding(t) for t in part) for part in (made.linear, (*made.transforms, *made.inverses))]
    names = (
        ("Dice of the vote with the true mean shape", ".3f"),
        ("Dice of each patient with it, mean", ".3f"),
        ("distance to the true places in the patients, mm", ".2f"),
        ("the same of the mean over the patients (bias), mm", ".2f"),
    )
    rows = [(name, a, b, form) for (name, form), a, b in zip(names, *columns, strict=True)]
    for name, key in (
        ("SD over the patients", "spread"),
        ("RMS gradient of the mean, per voxel", "sharpness"),
    ):
        rows.append((f"{name}, % of the intensity range", *(100 * row[key] for row in ends), ".2f"))
    return [*rows, ("folded voxels of transforms and inverses, at most, %", *folds, ".3g")]


def table(made: GroupTemplate, patients: Patients, shape: tuple[int, ...]) -> str:
    """What stands on the page."""
    size, spacing = "×".join(map(str, shape)), made.mean.geometry.spacing.mean()
    lines = [
        f"{len(patients.scans)} patients of {size} voxels of about {spacing:.0f} mm, {len(made.rounds) - 1} "
        f"rounds with `quality=fast`, {made.seconds:.0f} s with two workers on a busy machine.",
        "",
        "| | after the affine alignment | template |",
        "|---|---|---|",
        *(f"| {name} | {a:{form}} | {b:{form}} |" for name, a, b, form in figures(made, patients)),
    ]
    changes = ", ".join(f"{row['changed_voxels']:.2f}" for row in made.rounds[1:])
    return "\n".join([*lines, "", f"The rounds changed the transforms by {changes} voxels."])


def picture(made: GroupTemplate, patients: Patients):
    """A patient, the two means, the template, and the true mean."""
    grid = made.mean.geometry
    true = Volume(anatomy(grid.world_grid(), patients.noise, "ct")[0], grid)
    one = warp(patients.scans[0], made.linear[0], grid)
    rows = (("a patient", one), ("affine mean", made.linear_mean), ("mean", made.mean))
    return means_picture([*rows, ("template", made.image), ("true mean", true)])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--size", type=int, default=32, help="voxels along each side")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--write", action="store_true", help="write into the page")
    arguments = parser.parse_args()
    shape = (arguments.size,) * 3
    patients = make_patients(arguments.patients, shape)
    with LocalPool(2, 1) as pool:
        made = build_template(
            patients.scans,
            patients.labels,
            rounds=arguments.rounds,
            settings={"quality": "fast"},
            device="cpu",
            pool=pool,
        )
    text = table(made, patients, shape)
    sys.stdout.write(text + "\n")
    if arguments.write:
        picture(made, patients).save(PICTURE)
        put("template", text, PAGE)


if __name__ == "__main__":
    main()
