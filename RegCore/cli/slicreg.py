"""``regcore slicreg prepare | train | register | evaluate``: registration by predicting supervoxels."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_choice, add_file, add_number, shared, whole_number
from RegCore.cli.progress import ProgressLine
from RegCore.cli.register import register_files
from RegCore.cli.train import train_from_files
from RegCore.space.geometry import InputError

NETWORKS = ("deeplab", "unet", "regression")
MODALITIES = ("ct", "mr")
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


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
    _add_evaluate(inner)


def _add_prepare(commands) -> None:
    parser = commands.add_parser(
        "prepare",
        parents=[shared(seed=True)],
        help="divide a template into supervoxels and propagate them to the scans to train with",
        description="Brings scans to a common grid, divides the template into supervoxels and registers it "
        "to each scan, without any labels. Called again after an interruption, it goes on.",
    )
    add_file(parser, "--template", required=True, help="scan that is divided into supervoxels")
    _add_files(parser, "--scans", required=True, help="scans to train with, or folders of them")
    _add_files(parser, "--valid", help="scans to watch the training with")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder that is made")
    what = "of the common grid, by default 2 mm; the network's voxels are twice as large"
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM", help=what)
    what = "voxels of the common grid, by default what holds the scan of median size"
    parser.add_argument("--shape", nargs=3, type=whole_number(16), metavar="N", help=what)
    what = "ct: Hounsfield units; mr: any other"
    add_choice(parser, "--modality", choices=MODALITIES, default="ct", help=what)
    add_number(parser, "--layers", default=16, help="over-segmentations, by default 16")
    add_number(parser, "--supervoxels", default=127, help="of each, by default 127")
    what = "millimetres around the template's body that are divided as well, by default 20"
    parser.add_argument("--margin", type=float, default=20.0, metavar="MM", help=what)
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
    what = "let the images make the field better, by the method deformable"
    parser.add_argument("--refine", action="store_true", help=what)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.set_defaults(run=_register)


def _add_evaluate(commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        parents=[shared()],
        help="measure trained models on labelled scans: the table of the publication",
        description="Brings labelled scans to the template by each model and prints the overlap of each "
        "structure, from the start on, in percent.",
    )
    add_file(parser, "--model", required=True, help="trained model of SLIC-Reg")
    add_file(parser, "--regression", help="trained baseline that regresses displacements")
    add_file(parser, "--unet", help="trained baseline with a U-Net")
    add_file(parser, "--template", required=True, help="the template that was prepared")
    add_file(parser, "--template-seg", required=True, help="its segmentation")
    _add_files(parser, "--scans", required=True, help="labelled scans, or folders of them")
    what = "segmentations, or folders of them, in the order of the scans"
    _add_files(parser, "--segs", required=True, help=what)
    what = "folder of true transforms <scan>.h5, template to scan, for the row of the best affine map"
    parser.add_argument("--truth", type=Path, metavar="DIR", help=what)
    what = "label values that count, with their names: 1=Spleen; by default all of the template"
    parser.add_argument("--structures", nargs="+", default=[], metavar="N=NAME", help=what)
    what = "a further line with the mean over these labels; may be repeated"
    parser.add_argument("--average", action="append", nargs="+", type=int, default=[], metavar="N", help=what)
    add_file(parser, "--out", help="JSON file for all figures")
    parser.set_defaults(run=_evaluate)


def _add_files(parser: argparse.ArgumentParser, name: str, *, help: str, required: bool = False) -> None:
    """Add an option that names files and folders of files."""
    parser.add_argument(
        name, nargs="+", type=Path, default=[], required=required, metavar="FILE|DIR", help=help
    )


def _files(given: list[Path]) -> list[Path]:
    """Files, and those in folders, each folder's sorted by name."""
    found = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(ENDINGS))
            if not inside:
                raise InputError(f"{path}: there is no file {', '.join(ENDINGS)} in this folder")
            found += inside
        else:
            found.append(path)
    return found


# ---- prepare and train -------------------------------------------------------------------------------------


def _prepare(arguments: argparse.Namespace) -> None:
    if arguments.deeds and arguments.model:
        raise InputError("--deeds and --model do not go together: only one can propagate the supervoxels")
    line = ProgressLine(sys.stderr, arguments.quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.slicreg.folder import FolderSettings, prepare_folder

    shape = None if arguments.shape is None else tuple(arguments.shape)
    settings = FolderSettings(
        spacing=arguments.spacing,
        shape=shape,
        modality=arguments.modality,
        layers=arguments.layers,
        count=arguments.supervoxels,
        margin=arguments.margin,
        seed=arguments.seed,
    )
    scans, valid = _files(arguments.scans), _files(arguments.valid)
    same = arguments.template.resolve()
    scans = [path for path in scans if path.resolve() not in (same, *(v.resolve() for v in valid))]
    try:
        prepare_folder(
            arguments.out,
            arguments.template,
            scans,
            valid,
            settings=settings,
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


def _propagator(arguments: argparse.Namespace) -> Any:
    from RegCore.networks.device import choose_device
    from RegCore.slicreg.label_propagation import deeds_propagator, image_propagator, model_propagator

    device = choose_device(arguments.device)
    if arguments.deeds:
        return deeds_propagator(arguments.deeds, arguments.template)
    if arguments.model:
        return model_propagator(_model(arguments.model, device), device)
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


# ---- register and evaluate ---------------------------------------------------------------------------------


def _model(path: Path, device: str) -> Any:
    """The network of a model file, if it is one of SLIC-Reg."""
    from RegCore.registration.learned import load_model
    from RegCore.slicreg.template import Method

    network = load_model(path, device=device).network
    if not isinstance(network, Method):
        raise InputError(f"{path}: this model was not trained by regcore slicreg train; see regcore register")
    return network


def _register(arguments: argparse.Namespace) -> None:
    """`regcore register` with the model as its method, once it is known to be one of SLIC-Reg."""
    _model(arguments.model, "cpu")
    register_files(
        arguments.fixed,
        arguments.moving,
        arguments.out,
        method=str(arguments.model.absolute()),
        optional={"fixed_seg": arguments.fixed_seg, "moving_seg": arguments.moving_seg},
        settings={"refine": True} if arguments.refine else None,
        device=arguments.device,
        quiet=arguments.quiet,
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    line = ProgressLine(sys.stderr, arguments.quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.networks.device import choose_device
    from RegCore.slicreg.evaluation import evaluate

    device = choose_device(arguments.device)
    template, scans = _labelled(arguments)
    structures, averages = _structures(arguments, template)
    try:
        found = evaluate(template, scans, _methods(arguments, device), structures, line)
    finally:
        line.end()
    if arguments.out:
        from RegCore.io.files import atomic_write

        with atomic_write(arguments.out) as side:
            side.write_text(json.dumps(found.rows(), indent=2) + "\n", encoding="utf-8")
    print(found.table(averages))


def _labelled(arguments: argparse.Namespace) -> tuple[Any, list]:
    """The template and the scans with their segmentations and, where they are, true transforms."""
    from RegCore.io import load
    from RegCore.slicreg.evaluation import LabelledScan
    from RegCore.slicreg.folder import stem

    images, labels = _files(arguments.scans), _files(arguments.segs)
    if len(images) != len(labels):
        raise InputError(f"each scan needs a segmentation, but there are {len(images)} and {len(labels)}")
    found = []
    for image, seg in zip(images, labels, strict=True):
        truth = None
        if arguments.truth:
            truth = load(arguments.truth / f"{stem(image)}.h5", "transform")
        found.append(LabelledScan(stem(image), load(image, "image"), load(seg, "labels"), truth))
    template = load(arguments.template, "image"), load(arguments.template_seg, "labels")
    return LabelledScan(stem(arguments.template), *template), found


def _structures(arguments: argparse.Namespace, template: Any) -> tuple[dict[int, str], dict[str, list[int]]]:
    """Names by label value, and the labels of each further average by its title."""
    structures = {}
    for text in arguments.structures:
        number, equals, name = text.partition("=")
        if not number.isdecimal() or not equals or not name:
            raise InputError(f"argument --structures: N=NAME was expected, not {text!r}")
        structures[int(number)] = name
    structures = structures or {label: f"label {label}" for label in template.labels.labels()}
    averages = {}
    for labels in arguments.average:
        unknown = [label for label in labels if label not in structures]
        if unknown:
            raise InputError(f"argument --average: there is no structure {unknown[0]}")
        averages[f"Avg. {len(labels)} ({','.join(map(str, labels))})"] = labels
    return structures, averages


def _methods(arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    """The columns of the table."""
    from RegCore.slicreg.evaluation import best_affine, initial_alignment, refined_method, slicreg_method

    model = _model(arguments.model, device)
    methods = {"Initial": initial_alignment(model)}
    if arguments.truth:
        methods["Oracle affine"] = best_affine
    for title, path in (("Regression", arguments.regression), ("Slic-UNet", arguments.unet)):
        if path:
            methods[title] = slicreg_method(_model(path, device), device)
    return methods | {"Slic-Reg": slicreg_method(model, device), "refined": refined_method(model, device)}
