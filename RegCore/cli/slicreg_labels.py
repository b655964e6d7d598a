"""``regcore slicreg transfer | evaluate``: what a model does with the labels of its template."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from RegCore.cli.arguments import add_file, settings_of, shared
from RegCore.cli.progress import ProgressLine
from RegCore.space.geometry import InputError
from RegCore.space.names import paired_by_name

log = logging.getLogger(__name__)
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


def add_transfer(commands) -> None:
    """Add the command to the subparsers of ``regcore slicreg``."""
    parser = commands.add_parser(
        "transfer",
        parents=[shared()],
        help="carry the labels of the template to many scans",
        description="Registers each scan to the template and writes its segmentation, a picture, and a table "
        "of volumes that names the scans which came out unlike the others. Called again, it makes what is "
        "missing.",
    )
    add_file(parser, "--model", required=True, help="trained model of SLIC-Reg")
    what = "segmentation of the template; of a .seg.nrrd the names and colours are kept"
    add_file(parser, "--template-seg", required=True, help=what)
    add_files(parser, "--scans", required=True, help="scans without labels, or folders of them")
    what = "the template as it was prepared; by default the model's own image of half the resolution"
    add_file(parser, "--template", help=what)
    what = "do not let the images make better what SLIC-Reg found: faster and coarser"
    parser.add_argument("--no-refine", action="store_true", help=what)
    add_set(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.set_defaults(run=_transfer)


def add_evaluate(commands) -> None:
    """Add the command to the subparsers of ``regcore slicreg``."""
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
    add_files(parser, "--scans", required=True, help="labelled scans, or folders of them")
    what = "segmentations, or folders of them, with the names of the scans"
    add_files(parser, "--segs", required=True, help=what)
    what = "folder of true transforms <scan>.h5, template to scan, for the row of the best affine map"
    parser.add_argument("--truth", type=Path, metavar="DIR", help=what)
    what = "label values that count, with their names: 1=Spleen; by default all of the template"
    parser.add_argument("--structures", nargs="+", default=[], metavar="N=NAME", help=what)
    what = "a further line with the mean over these labels; may be repeated"
    parser.add_argument("--average", action="append", nargs="+", type=int, default=[], metavar="N", help=what)
    add_set(parser)
    add_file(parser, "--out", help="JSON file for all figures")
    parser.set_defaults(run=_evaluate)


def add_files(parser: argparse.ArgumentParser, name: str, *, help: str, required: bool = False) -> None:
    """Add an option that names files and folders of files."""
    parser.add_argument(
        name, nargs="+", type=Path, default=[], required=required, metavar="FILE|DIR", help=help
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add the option for settings of the matching."""
    what = "settings of SLIC-Reg, e.g. smoothness=0.005 passes=1; Docs/slicreg.md lists them"
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help=what)


def own_settings(network: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` says, checked, by the names that the method of the model has for it."""
    from RegCore.slicreg.registration import PREFIX, settings_from

    given = settings_of(arguments.set, "argument --set") or {}
    if given and not network.own_settings:
        raise InputError("--set: the settings are those of SLIC-Reg, but the model is a regression")
    settings_from(given)
    return {PREFIX + name: value for name, value in given.items()}


def files_of(given: list[Path]) -> list[Path]:
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


def model_of(path: Path, device: str) -> Any:
    """The network of a model file, if it is one of SLIC-Reg."""
    from RegCore.registration.learned import load_model
    from RegCore.slicreg.prediction import Method

    network = load_model(path, device=device).network
    if not isinstance(network, Method):
        raise InputError(f"{path}: this model was not trained by regcore slicreg train; see regcore register")
    return network


# ---- transfer and evaluate ---------------------------------------------------------------------------------


def _transfer(arguments: argparse.Namespace) -> None:
    line = ProgressLine(sys.stderr, arguments.quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.networks.device import choose_device
    from RegCore.registration.learned import load_model
    from RegCore.slicreg.transfer import read_source, transfer_labels

    device = choose_device(arguments.device)
    settings = own_settings(model_of(arguments.model, device), arguments)
    source = read_source(
        load_model(arguments.model, device=device),
        arguments.model,
        arguments.template_seg,
        arguments.template,
        refine=not arguments.no_refine,
        settings=settings,
        device=device,
    )
    try:
        found = transfer_labels(source, files_of(arguments.scans), arguments.out, line)
    finally:
        line.end()
    for scan, words in found.unlike.items():
        log.warning("%s is unlike the others: %s", scan, "; ".join(words))
    if not arguments.quiet:
        print(f"{arguments.out}: segmentations and pictures of scans ({len(found.rows)}), and volumes.csv")
    if found.failed:
        total = len(found.failed) + len(found.rows)
        raise InputError(f"{len(found.failed)} of {total} scans can't be used: {'; '.join(found.failed)}")


def _evaluate(arguments: argparse.Namespace) -> None:
    line = ProgressLine(sys.stderr, arguments.quiet)
    line(0.0, "loading PyTorch", {})
    from RegCore.networks.device import choose_device
    from RegCore.slicreg.evaluation import evaluate

    device = choose_device(arguments.device)
    template, scans = _labelled(arguments)
    structures, averages = _structures(arguments, template)
    try:
        found = evaluate(template, scans, _methods(arguments, device, template), structures, line)
    finally:
        line.end()
    if arguments.out:
        from RegCore.io.files import atomic_write

        with atomic_write(arguments.out) as side:
            side.write_text(json.dumps(found.rows(), indent=2) + "\n", encoding="utf-8")
    print(found.table(averages))
    for method, scans in found.worse().items():
        log.warning("%s leaves scans worse than they began: %s", method, ", ".join(scans))


def _labelled(arguments: argparse.Namespace) -> tuple[Any, list]:
    """The template and the scans with their segmentations and, where they are, true transforms."""
    from RegCore.io import load
    from RegCore.slicreg.evaluation import LabelledScan
    from RegCore.slicreg.folder_making import stem
    from RegCore.space.volume import check_image

    images, labels = files_of(arguments.scans), files_of(arguments.segs)
    pairs = paired_by_name([stem(path) for path in images], [stem(path) for path in labels])
    if pairs is None:
        listed = not any(path.is_dir() for path in (*arguments.scans, *arguments.segs))
        if not listed or len(images) != len(labels):
            raise InputError(
                f"each scan needs a segmentation of like name, but {images[0].name} and {labels[0].name} are "
                "not alike; name all files of both in the same order"
            )
        pairs = list(range(len(images)))
    found = []
    for image, number in zip(images, pairs, strict=True):
        truth = None
        if arguments.truth:
            truth = load(arguments.truth / f"{stem(image)}.h5", "transform")
        seg = load(labels[number], "labels")
        found.append(LabelledScan(stem(image), load(image, "image"), seg, truth))
    template = load(arguments.template, "image"), load(arguments.template_seg, "labels")
    check_image(template[0], str(arguments.template))
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


def _methods(arguments: argparse.Namespace, device: str, template: Any) -> dict[str, Any]:
    """The columns of the table; every model must be one of the template."""
    from RegCore.slicreg.evaluation import best_affine, initial_alignment, refined_method, slicreg_method
    from RegCore.slicreg.registration import check_template, settings_from

    def opened(path: Path) -> Any:
        network = model_of(path, device)
        check_template(network, template.image, str(arguments.template), str(path))
        return network

    model = opened(arguments.model)
    own_settings(model, arguments)
    settings = settings_from(settings_of(arguments.set, "argument --set") or {})
    methods: dict[str, Any] = {"Initial": initial_alignment(model)}
    if arguments.truth:
        methods["Oracle affine"] = best_affine
    for title, path in (("Regression", arguments.regression), ("Slic-UNet", arguments.unet)):
        if path:
            methods[title] = slicreg_method(opened(path), device, settings)
    methods["Slic-Reg"] = slicreg_method(model, device, settings)
    return methods | {"refined": refined_method(model, device, settings)}
