"""``regcore template`` and ``regcore propagate``: the mean of many scans, and labels of several atlases."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_choice, add_file, add_number, real, settings_of, shared
from RegCore.cli.kept import LEFT, at_work, steps_of
from RegCore.cli.series import add_common, chosen_pool, tell_doubts
from RegCore.space.geometry import InputError

log = logging.getLogger(__name__)
FUSIONS = ("local", "majority")


def add_groups(commands) -> None:
    """Add both commands to the subparsers of ``regcore``."""
    _add_template(commands)
    _add_propagate(commands)


def _add_template(commands) -> None:
    parser = commands.add_parser(
        "template",
        parents=[shared(seed=True)],
        help="make the unbiased mean of many scans",
        description="Aligns scans affinely, then registers all to their evolving mean until the transforms "
        "stand still, with the mean of the transforms taken out. Writes the template, the transform and the "
        "inverse of each scan, tables and a picture; with segmentations also a vote and probabilities.",
    )
    what = "at least two images of one kind"
    parser.add_argument("--scans", nargs="+", required=True, type=Path, metavar="FILE", help=what)
    what = "their segmentations, in the same order; they make an atlas and do not lead the registration"
    parser.add_argument("--segs", nargs="+", type=Path, metavar="FILE", help=what)
    add_file(parser, "--grid", help="image whose grid the template gets; by default like the first scan's")
    add_number(parser, "--rounds", least=0, default=6, help="rounds at most, by default 6")
    what = "voxels; a round that changes the transforms by less is the last one, by default 0.1"
    parser.add_argument("--tolerance", type=real, default=0.1, metavar="X", help=what)
    what = "share of the blurred detail that is added to the template, by default 0.5"
    parser.add_argument("--sharpen", type=real, default=0.5, metavar="X", help=what)
    add_common(parser, method="auto")
    parser.set_defaults(run=_run_template, left=LEFT)


def _add_propagate(commands) -> None:
    parser = commands.add_parser(
        "propagate",
        parents=[shared(seed=True)],
        help="segment a scan by the labels of several atlases",
        description="Registers every atlas to the scan and puts their labels to the vote. Writes the "
        "segmentation, the share of the votes that each voxel has, the transforms and a table.",
    )
    add_file(parser, "--scan", required=True, help="image to segment")
    what = "images of the atlases"
    parser.add_argument("--atlases", nargs="+", required=True, type=Path, metavar="FILE", help=what)
    what = "their segmentations, in the same order"
    parser.add_argument("--atlas-segs", nargs="+", required=True, type=Path, metavar="FILE", help=what)
    what = "how votes count: by the local likeness of atlas and scan, or all the same; by default local"
    add_choice(parser, "--fusion", choices=FUSIONS, default="local", help=what)
    add_file(parser, "--seg", help="segmentation of the scan, to measure with only")
    add_common(parser, method="auto")
    parser.set_defaults(run=_run_propagate, left=LEFT)


def _volumes(paths: Sequence[Path], kind: str) -> list[Any]:
    from RegCore.io import load

    return [load(path, kind) for path in paths]


def _check_counts(option: str, segmentations: Sequence[Path], images: Sequence[Path]) -> None:
    if len(segmentations) != len(images):
        raise InputError(
            f"argument {option}: one segmentation for each of {len(images)} images was expected, in the same "
            f"order, but {len(segmentations)} are given"
        )


def _run_template(arguments: argparse.Namespace) -> None:
    from RegCore.studies.group_outputs import names_of

    if arguments.segs is not None:
        _check_counts("--segs", arguments.segs, arguments.scans)
    names = names_of(arguments.scans)
    inputs = {f"scan {name}": path for name, path in zip(names, arguments.scans, strict=True)}
    inputs |= {f"segmentation {name}": path for name, path in zip(names, arguments.segs or (), strict=False)}
    inputs |= {"grid": arguments.grid}
    keys = ("rounds", "tolerance", "sharpen", "settings")
    steps = steps_of(arguments, inputs, {"names": names, **{key: getattr(arguments, key) for key in keys}})
    if steps is not None:
        _make_template(arguments, steps, names)


def _make_template(arguments: argparse.Namespace, steps: Any, names: list[str]) -> None:
    from RegCore.io import read_header
    from RegCore.studies.group_outputs import TEMPLATE_FILES, write_template_results
    from RegCore.studies.template import build_template

    options = {key: getattr(arguments, key) for key in ("rounds", "tolerance", "sharpen", "device", "seed")}
    options |= {"settings": settings_of(arguments.settings, "argument --settings"), "names": names}
    with at_work(arguments, steps, TEMPLATE_FILES) as (folder, progress):
        scans = _volumes(arguments.scans, "image")
        options["segmentations"] = None if arguments.segs is None else _volumes(arguments.segs, "labels")
        options["grid"] = None if arguments.grid is None else read_header(arguments.grid)[1]
        options |= {"steps": steps, "progress": progress}
        with chosen_pool(arguments, folder) as pool:
            made = build_template(scans, method=arguments.method, **options, pool=pool)
        progress(1.0, "writing the results", {})
        about = {"scans": [str(path) for path in arguments.scans], "method": arguments.method}
        written = steps.finish(lambda: write_template_results(folder, made, scans, names, about))
    tell_doubts(names, made.doubts)
    _tell_template(made, arguments.quiet)
    if not arguments.quiet:
        print(f"\n{arguments.out}: {', '.join(written)}")


def _tell_template(made: Any, quiet: bool) -> None:
    """Print the figures of the rounds; warn of a template that does not stand still."""
    if not made.settled:
        changed = made.rounds[-1]["changed_voxels"]
        log.warning("the last round still changed the transforms by %.2g voxels; give more --rounds", changed)
    if not quiet:
        print("round  changed (voxels)  spread  sharpness")
        for number, row in enumerate(made.rounds):
            changed = f"{row['changed_voxels']:.3f}" if number else "affine"
            print(f"{number:5}  {changed:>16}  {row['spread']:.4f}  {row['sharpness']:9.4f}")


def _run_propagate(arguments: argparse.Namespace) -> None:
    from RegCore.studies.group_outputs import names_of

    _check_counts("--atlas-segs", arguments.atlas_segs, arguments.atlases)
    names = names_of(arguments.atlases)
    inputs = {"scan": arguments.scan, "segmentation": arguments.seg}
    for name, image, labels in zip(names, arguments.atlases, arguments.atlas_segs, strict=True):
        inputs |= {f"atlas {name}": image, f"segmentation of {name}": labels}
    settings = {"names": names, "fusion": arguments.fusion, "settings": arguments.settings}
    steps = steps_of(arguments, inputs, settings)
    if steps is not None:
        _propagate(arguments, steps, names)


def _propagate(arguments: argparse.Namespace, steps: Any, names: list[str]) -> None:
    from RegCore.studies.group_outputs import PROPAGATION_FILES, write_propagation_results
    from RegCore.studies.propagation import propagate, truth_on

    options = {key: getattr(arguments, key) for key in ("method", "fusion", "device", "seed")}
    options |= {"settings": settings_of(arguments.settings, "argument --settings"), "names": names}
    with at_work(arguments, steps, PROPAGATION_FILES) as (folder, progress):
        scan = _volumes([arguments.scan], "image")[0]
        images, labels = _volumes(arguments.atlases, "image"), _volumes(arguments.atlas_segs, "labels")
        seg = None if arguments.seg is None else _volumes([arguments.seg], "labels")[0]
        options |= {"steps": steps, "progress": progress}
        with chosen_pool(arguments, folder) as pool:
            found = propagate(scan, list(zip(images, labels, strict=True)), **options, pool=pool)
        truth = None if seg is None else truth_on(found, seg, str(arguments.seg))
        files = {"scan": arguments.scan, "atlases": [str(path) for path in arguments.atlases]}
        about = {**files, "method": arguments.method, "fusion": arguments.fusion}
        written = steps.finish(lambda: write_propagation_results(folder, found, names, about, truth))
        steps.keep_only([f"atlas {name}" for name in names])
    tell_doubts(names, found.doubts)
    if not arguments.quiet:
        _tell_labels(found, truth)
        print(f"\n{arguments.out}: {', '.join(written)}")


def _tell_labels(found: Any, truth: Any) -> None:
    """Print the size of each structure and, with a segmentation to measure with, its overlap."""
    from RegCore.evaluation.metrics import dice, mean_of_defined

    known = {segment.label: segment.name for segment in found.labels.segments}
    overlap = {} if truth is None else dice(truth, found.labels)
    for label in found.labels.labels():
        size = int((found.labels.array == label).sum())
        measured = f"  Dice {overlap[label]:.3f}" if label in overlap else ""
        print(f"{known.get(label) or f'label {label}':24}  {size} voxels{measured}")
    if overlap:
        print(f"{'mean':24}  Dice {mean_of_defined(overlap.values()):.3f}")
