"""``regcore register`` and ``regcore demo``: register files, or a phantom, and write the results."""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_file, settings_of, shared
from RegCore.cli.pair_arguments import DOUBTFUL, OPTIONAL, add_method, add_pair_options
from RegCore.cli.progress import ProgressLine

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
    add_pair_options(parser)
    _add_out(parser)
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
    add_method(parser)
    _add_out(parser)
    parser.set_defaults(run=_run_demo)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")


def run_register(arguments: argparse.Namespace) -> int:
    """Register files as the arguments say; give the exit code."""
    optional = {name: getattr(arguments, name) for name in OPTIONAL}
    _load_plugins(arguments.plugin)
    sound = register_files(
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
    return 0 if sound or not arguments.strict else DOUBTFUL


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    *,
    method: str,
    optional: Mapping[str, Path | list[Path] | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
    series: list[str] | None = None,
) -> bool:
    """Register a file to another one, write the results into a folder and print the table.

    Args:
        fixed, moving: images.
        out: folder for the results.
        method: a name of `RegCore.registration.METHODS`, or the path of a trained model.
        optional: further files, by the names "fixed_seg", "moving_seg", "fixed_mask", "moving_mask",
            "landmarks" and "initial" (a file, a list of files in the order of `load_chain`, or the
            word ``centres``).
        settings, device, seed: as in `RegCore.register`.
        quiet: neither progress nor table.
        series: UIDs of the DICOM series to take where a folder holds several.

    Returns:
        Whether nothing speaks against the result; see `RegCore.registration.doubts`.

    Raises:
        InputError: a file that can't be used, or that does not overlap its image in space.
    """
    from RegCore.registration.files import read_pair

    files = {"fixed": fixed, "moving": moving, **(optional or {})}
    _check_kept(out, files)
    given, names = read_pair(files, series)
    given["settings"] = settings
    paths = {name: str(files[name]) for name in ("fixed", "moving")}
    options = {"method": method, "out": out, "device": device, "seed": seed, "quiet": quiet}
    return _register_and_write(given, paths, names, **options)


def _check_kept(out: Path, files: Mapping[str, Any]) -> None:
    """No result may take the place of what it is made of."""
    from RegCore.evaluation.results import RESULTS, check_apart

    for given in files.values():
        paths = given if isinstance(given, list | tuple) else [given]
        check_apart(out, RESULTS, (path for path in paths if isinstance(path, Path)))


def _load_plugins(paths: list[Path]) -> None:
    if paths:
        from RegCore.training.plugins import load_plugin

        for path in paths:
            load_plugin(path)


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
) -> bool:
    """Register, write the six files, print the table and say whether nothing speaks against the result.

    The folder is made sure of before the work.
    """
    from RegCore.evaluation.report import table
    from RegCore.evaluation.results import RESULTS, prepared_folder, write_results

    progress = ProgressLine(sys.stderr, quiet)
    with prepared_folder(out, RESULTS) as folder:
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
    unsure = result.metrics.get("doubts", [])
    for sentence in (*result.metrics.get("notes", ()), *unsure):
        log.warning("%s", sentence)
    if not quiet:
        print(table(result.metrics, result.seconds, names))
        print(f"\n{out}: {', '.join(path.name for path in written)}")
    return not unsure


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
