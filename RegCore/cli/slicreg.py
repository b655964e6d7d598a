"""``regcore slicreg prepare | train | register | transfer | evaluate``: by predicting supervoxels."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_choice, add_file, add_number, real, shared, whole_number
from RegCore.cli.progress import ProgressLine
from RegCore.cli.register import register_files
from RegCore.cli.slicreg_labels import (
    add_evaluate,
    add_files,
    add_set,
    add_transfer,
    files_of,
    model_of,
    own_settings,
)
from RegCore.cli.slicreg_task import other_than
from RegCore.cli.train import train_from_files
from RegCore.space.geometry import InputError

NETWORKS = ("deeplab", "unet", "regression")
MODALITIES = ("ct", "mr")


def add_slicreg(commands) -> None:
    """Add the commands to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "slicreg",
        help="train and use SLIC-Reg: a network predicts the supervoxels of a template in any scan",
        description="SLIC-Reg: a template is divided into supervoxels, a network learns to predict them in "
        "any scan, and two scans are registered by these predictions. A trained model is used by regcore "
        "register --method as well.",
    )
    inner = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_prepare(inner)
    _add_train(inner)
    _add_register(inner)
    add_transfer(inner)
    add_evaluate(inner)


def _add_prepare(commands) -> None:
    parser = commands.add_parser(
        "prepare",
        parents=[shared(seed=True)],
        help="divide a template into supervoxels and propagate them to the scans to train with",
        description="Brings scans to a common grid, divides the template into supervoxels and registers it "
        "to each scan, without any labels. Called again after an interruption, it goes on.",
    )
    add_file(parser, "--template", required=True, help="scan that is divided into supervoxels")
    add_files(parser, "--scans", required=True, help="scans to train with, or folders of them")
    add_files(parser, "--valid", help="scans to watch the training with")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder that is made")
    what = "of the common grid, by default 2 mm; the network's voxels are twice as large"
    parser.add_argument("--spacing", type=real, default=2.0, metavar="MM", help=what)
    what = "voxels of the common grid, by default what holds the scan of median size"
    parser.add_argument("--shape", nargs=3, type=whole_number(16), metavar="N", help=what)
    what = "ct: Hounsfield units; mr: any other"
    add_choice(parser, "--modality", choices=MODALITIES, default="ct", help=what)
    add_number(parser, "--layers", default=16, help="over-segmentations, by default 16")
    add_number(parser, "--supervoxels", default=127, help="of each, by default 127")
    what = "millimetres around the template's body that are divided as well, by default 20"
    parser.add_argument("--margin", type=real, default=20.0, metavar="MM", help=what)
    what = "of SLIC: larger makes supervoxels rounder and cares less for intensities, by default 1.5"
    parser.add_argument("--compactness", type=real, default=1.5, metavar="X", help=what)
    add_number(parser, "--slic-iterations", default=5, help="of SLIC's k-means, by default 5")
    what = "by how much the over-segmentations differ, by default 0.05"
    parser.add_argument("--spread", type=real, default=0.05, metavar="X", help=what)
    what = "folder of what deeds found: <scan>_matrix.txt and <scan>_displacements.dat, template moving"
    parser.add_argument("--deeds", type=Path, metavar="DIR", help=what)
    what = "trained model whose registrations propagate the supervoxels, for a second round"
    add_file(parser, "--model", help=what)
    parser.set_defaults(run=_prepare)


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        parents=[shared()],
        help="train on a prepared folder",
        description="Writes the configuration of a training on a prepared folder and trains, as regcore "
        "train does; it is resumed by regcore train --resume.",
    )
    parser.add_argument("prepared", type=Path, metavar="DIR", help="made by regcore slicreg prepare")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run")
    what = "write the configuration to this file and do not train: for changes, or for the panel in Slicer"
    add_file(parser, "--write", metavar="YAML", help=what)
    what = "deeplab, or one of the two baselines"
    add_choice(parser, "--network", choices=NETWORKS, default="deeplab", help=what)
    what = "half the channels: for few supervoxels, or without a GPU"
    parser.add_argument("--small", action="store_true", help=what)
    add_number(parser, "--steps", default=3000, help="of the optimiser, by default 3000")
    add_number(parser, "--batch-size", default=4, help="scans in a step, by default 4")
    what = "of the cells of each scan that a step learns from, by default 1; 0.125 saves memory and time"
    parser.add_argument("--share", type=real, default=1.0, metavar="X", help=what)
    add_number(parser, "--seed", least=0, help="of the training")
    parser.set_defaults(run=_train)


def _add_register(commands) -> None:
    parser = commands.add_parser(
        "register",
        parents=[shared()],
        help="register a scan to another one, or to the template",
        description="Registers with a trained model and writes the files that regcore register writes.",
    )
    add_file(parser, "--model", required=True, help="trained model")
    what = "image that stays; if it is the template, its known supervoxels are used"
    add_file(parser, "--fixed", required=True, help=what)
    add_file(parser, "--moving", required=True, help="image that is brought to it")
    add_file(parser, "--fixed-seg", help="segmentation of the fixed image; measures only")
    add_file(parser, "--moving-seg", help="segmentation of the moving image")
    what = "let the images make the field better, by the method auto"
    parser.add_argument("--refine", action="store_true", help=what)
    what = "with --refine: begin from a linear registration as well, and keep what fits better"
    parser.add_argument("--both-starts", action="store_true", help=what)
    add_set(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.set_defaults(run=_register)


# ---- prepare and train -------------------------------------------------------------------------------------


def _prepare(arguments: argparse.Namespace) -> None:
    if arguments.deeds and arguments.model:
        raise InputError("--deeds and --model do not go together: only one can propagate the supervoxels")
    line = ProgressLine(sys.stderr, arguments.quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.slicreg.folder_making import prepare_folder

    scans, valid = files_of(arguments.scans), files_of(arguments.valid)
    scans = other_than(arguments.template, scans, valid)
    try:
        prepare_folder(
            arguments.out,
            arguments.template,
            scans,
            valid,
            settings=_folder_settings(arguments),
            propagator=_propagator(arguments),
            progress=line,
        )
    finally:
        line.end()
    if not arguments.quiet:
        print(
            f"{arguments.out}: {len(scans)} scans to train with, {len(valid)} to watch; "
            f"now: regcore slicreg train {arguments.out}"
        )


def _folder_settings(arguments: argparse.Namespace) -> Any:
    from RegCore.slicreg.folder import FolderSettings

    shape = None if arguments.shape is None else tuple(arguments.shape)
    return FolderSettings(
        spacing=arguments.spacing,
        shape=shape,
        modality=arguments.modality,
        layers=arguments.layers,
        count=arguments.supervoxels,
        margin=arguments.margin,
        seed=arguments.seed,
        compactness=arguments.compactness,
        iterations=arguments.slic_iterations,
        spread=arguments.spread,
    )


def _propagator(arguments: argparse.Namespace) -> Any:
    from RegCore.networks.device import choose_device
    from RegCore.slicreg.label_propagation import deeds_propagator, image_propagator, model_propagator

    device = choose_device(arguments.device)
    if arguments.deeds:
        return deeds_propagator(arguments.deeds, arguments.template)
    if arguments.model:
        return model_propagator(model_of(arguments.model, device), device, arguments.model)
    return image_propagator(device)


def _train(arguments: argparse.Namespace) -> None:
    import yaml

    from RegCore.slicreg.presets import training_config

    config = training_config(
        arguments.prepared,
        network=arguments.network,
        small=arguments.small,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        share=arguments.share,
        seed=arguments.seed,
    )
    text = yaml.safe_dump(config, sort_keys=False)
    if arguments.write:
        from RegCore.io.files import atomic_write

        with atomic_write(arguments.write) as side:
            side.write_text(text, encoding="utf-8")
        return
    out = arguments.out or Path("logs") / f"slicreg-{arguments.network}"
    options = {"log_dir": out.parent, "exp_name": out.name, "device": arguments.device}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slicreg.yaml"
        path.write_text(text, encoding="utf-8")
        train_from_files([path], [], options, quiet=arguments.quiet)


# ---- register ---------------------------------------------------------------------------------


def _register(arguments: argparse.Namespace) -> None:
    """`regcore register` with the model as its method, once it is known to be one of SLIC-Reg."""
    if arguments.both_starts and not arguments.refine:
        raise InputError("--both-starts goes with --refine: what both starts lead to is found by the images")
    settings: dict[str, Any] = own_settings(model_of(arguments.model, "cpu"), arguments)
    settings |= {"refine": True} if arguments.refine else {}
    settings |= {"starts": "both"} if arguments.both_starts else {}
    register_files(
        arguments.fixed,
        arguments.moving,
        arguments.out,
        method=str(arguments.model.absolute()),
        optional={"fixed_seg": arguments.fixed_seg, "moving_seg": arguments.moving_seg},
        settings=settings,
        device=arguments.device,
        quiet=arguments.quiet,
    )
