"""``regcore train-general``: a network that is bound to no part of the body, from pairs made at random."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_number, shared
from RegCore.cli.progress import ProgressLine
from RegCore.cli.train import train_from_files
from RegCore.space.geometry import InputError

NOTES = (
    "Trained by regcore train-general on {pairs} pairs of random shapes of {size} voxels along each edge, of "
    "one contrast or of two, and on no image of a patient. It is meant to begin a training with: for a "
    "registration without one, the method auto is more accurate. Licence: that of DeepRegSlicer."
)
VALIDATION, ELSEWHERE = 16, 1_000_000  # pairs that are not learnt from, and the number of the first
SMALLEST = 16  # voxels along an edge: below, regions are lost between them


def add_general(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "train-general",
        parents=[shared()],
        help="train a network for images of any kind, on pairs made at random",
        description="Makes pairs of random shapes with labels, without any anatomy, and trains the default "
        "network of the Train panel on them: a model to begin a training with (--start-from) where there are "
        "few data. The pairs go to pairs/ in the folder, the training to model/, its best model, in half "
        "precision and without what only the training needs, to general.pt. Called again, it goes on.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for pairs and model")
    add_number(parser, "--pairs", default=400, help="pairs to learn from")
    add_number(parser, "--epochs", default=8, help="passes over them")
    add_number(parser, "--size", default=64, least=SMALLEST, help="voxels along each edge of an image")
    add_number(parser, "--channels", default=16, help="channels of the network's first level")
    add_number(parser, "--seed", default=0, least=0, help="another one makes other pairs")
    parser.set_defaults(run=_run, left="what was made so far is kept; the same command goes on")


def _run(arguments: argparse.Namespace) -> None:
    from RegCore.training.presets import TrainingPreset

    out = arguments.out
    folder = out / "model"
    home = out / "pairs" / f"{arguments.pairs}-of-{arguments.size}-seed-{arguments.seed}"
    resume = (folder / "save" / "last.pt").is_file()
    if resume:
        _check_same(folder, home.name, arguments.channels)
    line = ProgressLine(sys.stderr, arguments.quiet)
    try:
        _write(home / "train", 0, arguments.pairs, arguments, line)
        _write(home / "valid", ELSEWHERE, VALIDATION, arguments, line)
    finally:
        line.end()
    preset = TrainingPreset.for_folder(str(home / "train"), str(home / "valid"))
    chosen = {"size": 3 * (arguments.size,), "epochs": arguments.epochs, "channels": arguments.channels}
    options = {
        "log_dir": out,
        "exp_name": folder.name,
        "resume": resume,
        "device": arguments.device,
    }
    config = replace(preset, **chosen).configuration()
    train_from_files(config, [], options, quiet=arguments.quiet, again="the same command")
    _hand_over(folder / "save" / "best.pt", out / "general.pt", arguments)


def _hand_over(best: Path, target: Path, arguments: argparse.Namespace) -> None:
    """A small copy of a model with notes, which names no folder of this computer."""
    from RegCore.cli.tasks import model_command
    from RegCore.networks.model_file import read_content, write_content
    from RegCore.progress import silent

    content = read_content(best)
    for name in ("training", "seen", "structures"):  # it is for images and structures of any kind
        content.pop(name, None)
    content["state"] = {name: _halved(values) for name, values in content["state"].items()}
    for split in ("train", "valid"):
        content["config"]["dataset"][split]["dir"] = "random shapes"
    content["figures"] = model_command({"path": str(best)}, silent)["figures"]
    content["notes"] = NOTES.format(pairs=arguments.pairs, size=arguments.size)
    write_content(target, content)


def _halved(values: Any) -> Any:
    """A tensor in half precision, unless it is of whole numbers or some are too large for that."""
    half = values.half() if values.is_floating_point() else values
    return half if half.isfinite().all() else values


def _check_same(folder: Path, pairs: str, channels: int) -> None:
    """Check, before pairs are made, that the network in the folder learns from these and is of this size.

    Raises:
        InputError: it does not.
    """
    from RegCore.networks.model_file import read_content

    config = read_content(folder / "save" / "last.pt")["config"]
    source, backbone = config.get("dataset", {}).get("train", {}).get("dir"), config["train"]["backbone"]
    source = source[0] if isinstance(source, list) and source else source
    there = Path(str(source)).parent.name, backbone.get("num_channel_initial")
    if there != (pairs, channels):
        raise InputError(
            f"{folder}: its network has {there[1]} channels and learns from the pairs {there[0]}, not"
            f" {channels} and {pairs}: give the same --pairs, --size, --seed and --channels to go on with it,"
            " or another --out"
        )


def _write(folder: Path, first: int, count: int, arguments: argparse.Namespace, line: ProgressLine) -> None:
    """Make the pairs that are not there yet."""
    from RegCore.samples.datasets import write_dataset
    from RegCore.samples.shapes import NAMES, make_shapes

    there = {path.name.split(".")[0] for path in (folder / NAMES[-1]).glob("*")}  # written last
    for number in range(first, first + count):
        if f"case{number:06d}" not in there:
            line((number - first) / count, f"making pair {number - first + 1} of {count}", {})
            made = make_shapes(1, first=number, seed=arguments.seed, size=arguments.size)
            write_dataset(folder, list(made))
