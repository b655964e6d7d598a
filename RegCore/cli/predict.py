"""``regcore predict`` and what ``deepreg_predict`` does: a trained network on the pairs of a data set."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_choice, add_number, shared
from RegCore.cli.progress import ProgressLine
from RegCore.cli.train import device_of

SPLITS = ("train", "valid", "test")


def add_predict(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "predict",
        parents=[shared(plugin=True)],
        help="register the pairs of a data set with a trained network, and measure",
        description="Registers each pair of a data set with a trained network and writes, into the folder "
        "test of --out, metrics.csv, its statistics, and for each pair the images, labels, fields, "
        "transform.h5 and the moving image warped in its own resolution. For a single pair there is "
        "regcore register --method MODEL.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="model file, or a checkpoint logs/<name>/save/ckpt-<n>"
    )
    what = "YAML files that say where the data are, over those of the training if they lack train"
    parser.add_argument("config", nargs="*", help=what, type=Path, metavar="YAML")
    add_choice(parser, "--split", choices=SPLITS, default="test", help="part of the data, by default test")
    what = "folder for the results; by default logs/ and the time of day"
    parser.add_argument("--out", type=Path, metavar="DIR", help=what)
    add_number(parser, "--batch-size", default=1, help="pairs predicted at a time")
    parser.add_argument("--no-nifti", action="store_true", help="neither NIfTI files nor transforms")
    parser.add_argument("--png", action="store_true", help="a PNG file of each slice")
    what = "processes that read data, in place of dataset.workers"
    add_number(parser, "--workers", least=0, help=what)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    options = {
        "split": arguments.split,
        "log_dir": arguments.out.parent if arguments.out else Path("logs"),
        "exp_name": arguments.out.name if arguments.out else "",
        "batch_size": arguments.batch_size,
        "save_nifti": not arguments.no_nifti,
        "save_png": arguments.png,
        "workers": arguments.workers,
        "device": arguments.device,
    }
    _predict(arguments.model, arguments.config, arguments.plugin, options, quiet=arguments.quiet)


def run_predict(arguments: argparse.Namespace) -> None:
    """``deepreg_predict`` with DeepReg's arguments."""
    if arguments.num_workers > 0:
        os.environ["OMP_NUM_THREADS"] = str(arguments.num_workers)  # read when torch is loaded
    options = {
        "split": arguments.split,
        "log_dir": arguments.log_dir,
        "exp_name": arguments.exp_name,
        "batch_size": arguments.batch_size,
        "save_nifti": arguments.nifti,
        "save_png": arguments.png,
        "device": device_of(arguments.gpu),
    }
    _predict(arguments.ckpt_path, arguments.config_path, getattr(arguments, "plugin", []), options)


def _predict(model, configs: list, plugins: list, options: dict[str, Any], *, quiet: bool = False) -> None:
    """Predict with `RegCore.training.predict.predict`; show progress and a closing line."""
    line = ProgressLine(sys.stderr, quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.training.plugins import load_plugin
    from RegCore.training.predict import predict

    try:
        for plugin in plugins:
            load_plugin(plugin)
        done = predict(model, configs or None, **options, progress=line)
    finally:
        line.end()
    if not quiet:
        print(f"{done.folder}: {_summary(done.metrics)}")


def _summary(rows: list[dict]) -> str:
    """How many pairs there were, and the means of their figures."""
    from RegCore.evaluation.figures import DEEPREG, FIGURES
    from RegCore.evaluation.metrics import mean_of_defined

    pairs = len({tuple(row["pair_index"]) for row in rows})
    parts = [f"{pairs} pair{'s' * (pairs != 1)}"]
    for key in DEEPREG:
        mean = mean_of_defined(row.get(key, math.nan) for row in rows)
        if not math.isnan(mean):
            parts.append(f"{FIGURES[key].title}: {FIGURES[key].text(mean)}")
    return "; ".join(parts)
