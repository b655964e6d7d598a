"""Result files of templates and of propagated labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from RegCore.evaluation.metrics import dice, folding, mean_of_defined, ncc, sd_log_jacobian
from RegCore.evaluation.pictures.means import means_picture
from RegCore.io import save
from RegCore.resampler import warp
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume
from RegCore.studies.outputs import (
    save_labels,
    there,
    together,
    verdict_columns,
    write_json,
    write_table,
    write_transforms,
)
from RegCore.studies.propagation import Propagation
from RegCore.studies.template import GroupTemplate

TEMPLATE_FILES = (
    *("linear_mean.nii.gz", "mean.nii.gz", "probabilities.nii.gz", "rounds.csv", "scans.csv"),
    *("template.json", "template.nii.gz", "template.png", "template_seg.nii.gz", "template_seg.seg.nrrd"),
)
TEMPLATE_RESULTS = (*TEMPLATE_FILES, "inverses", "transforms")
"""What `write_template_results` may write: files, and two folders."""
PROPAGATION_FILES = (
    *("agreement.nii.gz", "atlases.csv", "propagate.json"),
    *("propagated_seg.nii.gz", "propagated_seg.seg.nrrd"),
)
PROPAGATION_RESULTS = (*PROPAGATION_FILES, "transforms")
"""What `write_propagation_results` may write: files, and a folder."""


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its own without its endings, with those of its folders where that is not enough.

    Raises:
        InputError: a file is named twice.
    """
    known = [Path(path).absolute() for path in paths]
    if len(set(known)) < len(known):
        twice = next(path for path in known if known.count(path) > 1)
        raise InputError(f"{twice}: the file is named twice")
    stems = [path.name.split(".")[0] or path.name for path in known]
    for depth in range(1, max(len(path.parts) for path in known)):
        if len(set(stems)) == len(stems):
            break
        pairs = zip(stems, known, strict=True)
        stems = [
            f"{path.parts[-1 - depth]}_{stem}" if len(path.parts) > depth + 1 else stem
            for stem, path in pairs
        ]
    return stems if len(set(stems)) == len(stems) else [f"{n}_{stem}" for n, stem in enumerate(stems, 1)]


def template_figures(
    made: GroupTemplate, scans: Sequence[Volume], names: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns of the table of the scans of a template.

    Args:
        made: the template.
        scans: as they were given.
        names: of the scans.

    Returns:
        "scan"; "ncc_linear" and "ncc", the correlation with the mean after the affine alignment and with the
        final one; "moved_mm", the mean length of the displacement without its affine part; "fold_percent",
        "inverse_fold_percent" and "sd_log_jacobian"; with segmentations "dice", with the vote; and those of
        `verdict_columns`.
    """
    grid = made.mean.geometry
    columns: dict[str, list[Any]] = {"scan": list(names)}
    world = grid.world_grid()
    for number, (scan, transform) in enumerate(zip(scans, made.transforms, strict=True)):
        seen = warp(scan, transform, grid)
        there = transform.map(world)
        affine = getattr(transform, "affine_part", lambda kept=transform: kept)()
        row: dict[str, float] = {
            "ncc_linear": ncc(made.linear_mean, warp(scan, affine, grid)),
            "ncc": ncc(made.mean, seen),
            "moved_mm": float(np.linalg.norm(there - affine.map(world), axis=-1).mean()),
            "fold_percent": folding(transform),
            "inverse_fold_percent": folding(made.inverses[number]),
            "sd_log_jacobian": sd_log_jacobian(transform),
        }
        if made.labels is not None:
            overlap = dice(made.labels, warp(made.scan_labels[number], transform, grid))
            row["dice"] = mean_of_defined(overlap.values())
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns | verdict_columns(columns["ncc_linear"], columns["ncc"], made.doubts)


def write_template_results(
    folder: Path, made: GroupTemplate, scans: Sequence[Volume], names: Sequence[str], about: Mapping[str, Any]
) -> list[str]:
    """Write a template.

    template.nii.gz, mean.nii.gz, linear_mean.nii.gz: the sharpened mean, the mean, and that after the affine
    alignment alone; template_seg and probabilities.nii.gz, with segmentations: the vote, and the share of the
    scans that have each structure, one channel each; transforms/NAME.h5, inverses/NAME.h5: template to scan
    and back; scans.csv, rounds.csv: the figures; template.png: the means; template.json: all else.

    Args:
        folder: it must exist.
        made: the template.
        scans: as they were given.
        names: of the scans, which name their files.
        about: method, names of files and the like.

    Returns:
        The names of what was written.

    Raises:
        InputError: the results can't be written.
    """
    with together(folder, TEMPLATE_RESULTS) as side:
        images = {"template": made.image, "mean": made.mean, "linear_mean": made.linear_mean}
        for name, image in images.items():
            save(image, side / f"{name}.nii.gz")
        segments: list[dict[str, Any]] = []
        if made.labels is not None and made.probabilities is not None:
            save_labels(made.labels, side, "template_seg")
            save(made.probabilities, side / "probabilities.nii.gz")
            known = {segment.label: segment.name for segment in made.labels.segments}
            segments = [{"label": label, "name": known.get(label, "")} for label in made.structures]
        write_transforms(side / "transforms", zip(names, made.transforms, strict=True))
        write_transforms(side / "inverses", zip(names, made.inverses, strict=True))
        columns = template_figures(made, scans, names)
        write_table(side / "scans.csv", columns)
        rounds = {"round": list(range(len(made.rounds)))}
        write_table(side / "rounds.csv", rounds | {k: [r[k] for r in made.rounds] for k in made.rounds[0]})
        rows = [("affine mean", made.linear_mean), ("mean", made.mean), ("template", made.image)]
        means_picture(rows).save(side / "template.png")
        end = {"settled": made.settled, "channels": segments, "seconds": made.seconds}
        write_json(side / "template.json", {**about, **end})
        return there(side, TEMPLATE_RESULTS)


def write_propagation_results(
    folder: Path,
    found: Propagation,
    names: Sequence[str],
    about: Mapping[str, Any],
    truth: Volume | None = None,
) -> list[str]:
    """Write propagated labels.

    propagated_seg: the labels; agreement.nii.gz: the share of the votes that each has; transforms/NAME.h5:
    scan to atlas; atlases.csv: the figures of each atlas; propagate.json: all else.

    Args:
        folder: it must exist.
        found: what `RegCore.studies.propagation.propagate` gave.
        names: of the atlases.
        about: method, names of files and the like.
        truth: a segmentation of the scan on its grid, in the numbering of the atlases, to be measured with.

    Returns:
        The names of what was written.

    Raises:
        InputError: the results can't be written.
    """
    with together(folder, PROPAGATION_RESULTS) as side:
        save_labels(found.labels, side, "propagated_seg")
        save(found.agreement, side / "agreement.nii.gz")
        write_transforms(side / "transforms", zip(names, found.transforms, strict=True))
        columns: dict[str, list[Any]] = {"atlas": list(names)}
        columns |= {name: [row[name] for row in found.figures] for name in found.figures[0]}
        known = {segment.label: asdict(segment) for segment in found.labels.segments}
        end: dict[str, Any] = {"seconds": found.seconds}
        if truth is not None:
            each = [dice(truth, labels) for labels in found.warped]
            columns["dice"] = [mean_of_defined(overlap.values()) for overlap in each]
            fused = dice(truth, found.labels)
            end["dice"] = {
                known.get(label, {}).get("name", str(label)): value for label, value in fused.items()
            }
            end["dice_mean"] = mean_of_defined(fused.values())
        columns |= verdict_columns(columns["ncc_before"], columns["ncc_after"], found.doubts)
        write_table(side / "atlases.csv", columns)
        write_json(side / "propagate.json", {**about, **end})
        return there(side, PROPAGATION_RESULTS)
