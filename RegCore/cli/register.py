"""``regcore register`` and ``regcore demo``: register files, or a phantom, and write the results."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_file, one_of, settings_of, shared
from RegCore.cli.progress import ProgressLine
from RegCore.registration import METHODS
from RegCore.space.geometry import InputError
from RegCore.space.names import is_path
from RegCore.space.segments import pair_segments

log = logging.getLogger(__name__)


def add_register(commands) -> None:
    """Add both commands to the subparsers of ``regcore``."""
    _add_register(commands)
    _add_demo(commands)


def _add_register(commands) -> None:
    parser = commands.add_parser(
        "register",
        parents=[shared(plugin=True, seed=True)],
        help="register the moving image to the fixed one",
        description="Registers the moving image to the fixed one and writes transform.h5, inverse.h5, "
        "warped.nii.gz, warped_seg.nii.gz (with segmentations), metrics.json and overview.png.",
    )
    add_file(parser, "--fixed", required=True, help="image that stays: a file, or a folder of DICOM slices")
    add_file(parser, "--moving", required=True, help="image that is brought to the fixed one")
    what = "UID of the DICOM series to take from a folder that holds several; may be repeated"
    parser.add_argument("--series", action="append", metavar="UID", help=what)
    add_file(parser, "--fixed-seg", help="segmentation of the fixed image; helps and measures")
    add_file(parser, "--moving-seg", help="segmentation of the moving image")
    add_file(parser, "--fixed-mask", help="where the fixed image counts")
    add_file(parser, "--moving-mask", help="where the moving image counts")
    what = "CSV with fx,fy,fz,mx,my,mz in RAS mm, or two files of points, fixed and moving; measures only"
    parser.add_argument("--landmarks", nargs="+", type=Path, metavar="FILE", help=what)
    add_file(parser, "--initial", help="transform to start from, or the word centres")
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the method, e.g. levels=3"
    )
    _add_common(parser)
    parser.set_defaults(run=run_register)


def _add_demo(commands) -> None:
    parser = commands.add_parser(
        "demo",
        parents=[shared(seed=True)],
        help="register a synthetic phantom with a known answer",
        description="Makes two scans of a synthetic torso whose exact deformation is known, registers them "
        "and shows how near the answer came. Downloads nothing.",
    )
    parser.add_argument(
        "--save-pair", type=Path, metavar="DIR", help="write the scans, segmentations and landmarks there too"
    )
    _add_common(parser)
    parser.set_defaults(run=_run_demo)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    what = f"{', '.join(METHODS)}, or the path of a trained model"
    parser.add_argument("--method", default="auto", type=_method, metavar="METHOD", help=what)


def _method(text: str) -> str:
    """A method by name, or the path of a model file or checkpoint."""
    return text if is_path(text) else one_of("method", METHODS)(text)


def run_register(arguments: argparse.Namespace) -> None:
    """Register files as the arguments say."""
    names = ("fixed_seg", "moving_seg", "fixed_mask", "moving_mask", "landmarks", "initial")
    optional = {name: getattr(arguments, name) for name in names}
    _load_plugins(arguments.plugin)
    register_files(
        arguments.fixed,
        arguments.moving,
        arguments.out,
        method=arguments.method,
        optional=optional,
        settings=settings_of(arguments.settings, "argument --settings"),
        device=arguments.device,
        seed=arguments.seed,
        quiet=arguments.quiet,
        series=arguments.series,
    )


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    method: str,
    optional: Mapping[str, Path | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    series: list[str] | None = None,
) -> None:
    """Register a file to another one, write the results into a folder and print the table.

    Args:
        fixed, moving: images.
        out: folder for the results.
        method: a name of `RegCore.registration.METHODS`, or the path of a trained model.
        optional: further files, by the names "fixed_seg", "moving_seg", "fixed_mask", "moving_mask",
            "landmarks" and "initial" (a transform, or the word ``centres``).
        settings, device, seed: as in `RegCore.register`.
        quiet: neither progress nor table.
        series: UIDs of the DICOM series to take where a folder holds several.

    Raises:
        InputError: a file that can't be used, or that does not overlap its image in space.
    """
    from RegCore.io.points import load_landmarks

    files = {"fixed": fixed, "moving": moving, **(optional or {})}
    landmarks = files.get("landmarks")
    if isinstance(landmarks, Path | str):
        landmarks = [landmarks]
    if landmarks is not None and len(landmarks) > 2:
        raise InputError(f"argument --landmarks: one file or two were expected, not {len(landmarks)}")
    segmentations = pair_segments(_labels(files.get("fixed_seg")), _labels(files.get("moving_seg")))
    given = {
        "fixed": _image(fixed, series),
        "moving": _image(moving, series),
        "fixed_labels": segmentations[0],
        "moving_labels": segmentations[1],
        "fixed_mask": _labels(files.get("fixed_mask")),
        "moving_mask": _labels(files.get("moving_mask")),
        "landmarks": None if landmarks is None else load_landmarks(*landmarks),
        "initial": _initial(files.get("initial")),
        "settings": settings,
    }
    _check_places(files, given)
    paths = {name: str(files[name]) for name in ("fixed", "moving")}
    names = {s.label: s.name for side in segmentations[::-1] if side is not None for s in side.segments}
    _register_and_write(given, paths, names, method=method, out=out, device=device, seed=seed, quiet=quiet)


def _load_plugins(paths: list[Path]) -> None:
    if paths:
        from RegCore.training.plugins import load_plugin

        for path in paths:
            load_plugin(path)


def _initial(path: Path | None) -> Any:
    """The transform to start from; the word ``centres`` stays a word."""
    from RegCore.io import load

    if path is None or str(path) == "centres":
        return path and str(path)
    return load(path, "transform")


def _image(path: Path, series: list[str] | None) -> Any:
    """An image that can be registered; one that looks like a label map is named: roles may be mixed up."""
    from RegCore.io import load
    from RegCore.space.volume import check_image, looks_like_labels

    volume = load(path, "image", series=series if path.is_dir() else None)
    check_image(volume, str(path))
    if looks_like_labels(volume.array):
        log.warning("%s: this looks like a label map, but is registered as an image", path)
    return volume


def _labels(path: Path | None) -> Any:
    """A label map or a mask with something in it; None for no path."""
    from RegCore.io import load
    from RegCore.space.volume import check_labels

    if path is None:
        return None
    volume = load(path, "labels")
    check_labels(volume, str(path))
    return volume


def _check_places(files: Mapping[str, Path | None], given: dict[str, Any]) -> None:
    """Segmentations and masks must overlap their image in space, and the images where --initial puts them."""
    from RegCore.space.volume import extent

    pairs = (("fixed_seg", "fixed_labels"), ("moving_seg", "moving_labels"))
    for option, name in (*pairs, ("fixed_mask", "fixed_mask"), ("moving_mask", "moving_mask")):
        image = name.split("_")[0]
        if given[name] is not None and not extent(given[name]).overlaps(given[image].geometry):
            where = f"what it marks does not overlap the {image} image {files[image]} in space"
            raise InputError(f"{files[option]}: {where}")
    fixed, moving, initial = given["fixed"].geometry, given["moving"].geometry, given["initial"]
    if initial not in (None, "centres") and not fixed.overlaps(moving, initial.map):
        raise InputError(f"{files['initial']}: with this transform the two images do not overlap in space")


def _run_demo(arguments: argparse.Namespace) -> None:
    from RegCore.samples.phantom import LABELS, make_phantom

    case = make_phantom(arguments.seed)
    if arguments.save_pair is not None:
        _save_pair(arguments.save_pair, case)
    names = ("fixed", "moving", "fixed_labels", "moving_labels", "landmarks")
    given = {name: getattr(case, name) for name in names}
    options = {name: getattr(arguments, name) for name in ("method", "out", "device", "seed", "quiet")}
    _register_and_write(given, {"fixed": "phantom", "moving": "phantom"}, LABELS, **options)


def _register_and_write(
    given: dict[str, Any],
    files: dict[str, str],
    names: Mapping[int, str] | None,
    *,
    method: str,
    out: Path,
    device: str,
    seed: int,
    quiet: bool,
) -> None:
    """Register, write the six files and print the table; the folder is made sure of before the work."""
    from RegCore.evaluation.report import table
    from RegCore.evaluation.results import prepared_folder, write_results

    progress = ProgressLine(sys.stderr, quiet)
    with prepared_folder(out) as folder:
        progress(0.0, "loading PyTorch", {})
        from RegCore.registration.register import register

        try:
            result = register(method=method, **given, device=device, seed=seed, progress=progress)
            progress(1.0, "writing the results", {})
            volumes = (given[name] for name in ("fixed", "moving", "fixed_labels", "moving_labels"))
            about = {"method": method, "seed": seed, **files}
            about |= {"structures": dict(names)} if names else {}
            written = write_results(folder, result, *volumes, about)
        finally:
            progress.end()
    for note in result.metrics.get("notes", ()):
        log.warning("%s", note)
    if not quiet:
        print(table(result.metrics, result.seconds, names))
        print(f"\n{out}: {', '.join(path.name for path in written)}")


def _save_pair(folder: Path, case: Any) -> None:
    """Write a phantom's scans, label maps and landmarks as files to register."""
    from RegCore.evaluation.results import prepared_folder
    from RegCore.io import save

    with prepared_folder(folder):
        for name, volume in (("fixed", case.fixed), ("moving", case.moving)):
            save(volume, folder / f"{name}.nii.gz")
        for name, volume in (("fixed_seg", case.fixed_labels), ("moving_seg", case.moving_labels)):
            save(volume, folder / f"{name}.nii.gz")
        rows = [",".join(f"{value:.6f}" for value in row) for row in case.landmarks]
        text = "\n".join(["fx,fy,fz,mx,my,mz", *rows, ""])
        (folder / "landmarks.csv").write_text(text, encoding="utf-8")
