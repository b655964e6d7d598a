"""``regcore import-checkpoint``: a network that DeepReg trained becomes a model file of this program."""

import argparse
from pathlib import Path

from RegCore.cli.arguments import add_file


def add_import(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "import-checkpoint",
        help="make a model file of a network that DeepReg trained",
        description="Reads a checkpoint that DeepReg wrote with TensorFlow, which is not needed, and writes "
        "a model file whose network computes the same.",
    )
    what = "checkpoint, e.g. logs/<name>/save/ckpt-<epoch>, without .index"
    parser.add_argument("checkpoint", help=what, type=Path, metavar="CKPT")
    add_file(parser, "--out", "-o", required=True, help="model file to write, e.g. model.pt")
    what = "configuration of the training (YAML), by default the config.yaml above the checkpoint's folder"
    add_file(parser, "--config", "-c", help=what, metavar="YAML")
    parser.set_defaults(run=_run_import)


def _run_import(arguments: argparse.Namespace) -> None:
    from RegCore.deepreg.checkpoint import import_checkpoint

    made = import_checkpoint(arguments.checkpoint, arguments.config, arguments.out)
    train = made.config["train"]
    fixed, moving = ("×".join(map(str, size)) for size in (made.fixed_size, made.moving_size))
    what = f"{train['backbone']['name']} network for the method {train['method']}"
    print(f"{arguments.out}: {what}, fixed images {fixed}, moving images {moving} voxels")
