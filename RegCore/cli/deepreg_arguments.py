"""Arguments of training and prediction under DeepReg's names; the work itself is called from here."""

import argparse

from RegCore.cli.arguments import add_choice, add_number, add_plugin
from RegCore.cli.predict import SPLITS, run_predict
from RegCore.cli.train import run_train


def fill_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``deepreg_train`` to a parser."""
    _add_machine(parser)
    parser.add_argument("--ckpt_path", "-k", default="", metavar="PATH", help="checkpoint to go on from")
    _add_logs(parser, "-l", "-n")
    what = "YAML files; values of later ones replace those of earlier ones"
    parser.add_argument("--config_path", "-c", nargs="+", required=True, metavar="YAML", help=what)
    what = "number of epochs in place of that of the configuration (-1: as configured)"
    parser.add_argument("--max_epochs", type=int, default=-1, metavar="N", help=what)
    parser.set_defaults(run=run_train)


def fill_predict(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``deepreg_predict`` to a parser."""
    _add_machine(parser)
    what = "checkpoint, as logs/<name>/save/ckpt-<epoch>, or a model file"
    parser.add_argument("--ckpt_path", "-k", required=True, metavar="PATH", help=what)
    add_choice(parser, "--split", choices=SPLITS, required=True, help="part of the data")
    add_number(parser, "--batch_size", "-b", default=1, help="pairs predicted at a time")
    _add_logs(parser, "-n", "-l")
    for kind, default in (("nifti", True), ("png", False)):
        name = {"nifti": "NIfTI files", "png": "a PNG file of each slice"}[kind]
        on, off = (" (default)", "") if default else ("", " (default)")
        parser.add_argument(f"--save_{kind}", dest=kind, action="store_true", help=f"write {name}{on}")
        parser.add_argument(f"--no_{kind}", dest=kind, action="store_false", help=f"do not{off}")
        parser.set_defaults(**{kind: default})
    what = (
        "YAML files, by default the config.yaml beside the checkpoint's folder; "
        "files without the section train are laid over that"
    )
    parser.add_argument("--config_path", "-c", nargs="*", default=[], metavar="YAML", help=what)
    parser.set_defaults(run=run_predict)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    what = 'numbers of the GPUs to use, as "0" or "0,1"; "" for the CPU; by default a GPU if there is one'
    parser.add_argument("--gpu", "-g", type=_gpus, default=None, metavar="LIST", help=what)
    what = "accepted for DeepReg's sake and without effect: memory of a GPU is always taken as needed"
    parser.add_argument("--gpu_allow_growth", "-gr", nargs="?", default=False, metavar="BOOL", help=what)
    what = "number of CPU cores to use; 0 or less, and by default: all"
    parser.add_argument("--num_workers", type=int, default=0, metavar="N", help=what)
    add_plugin(parser)


def _add_logs(parser: argparse.ArgumentParser, *short: str) -> None:
    parser.add_argument("--log_dir", default="logs", metavar="DIR", help="folder of all experiments")
    what = "folder of this experiment within --log_dir, by default date and time"
    parser.add_argument("--exp_name", *short, default="", metavar="NAME", help=what)


def _gpus(text: str) -> tuple[int, ...]:
    """``"0, 1"`` as (0, 1); the empty text and ``-1`` stand for none, the CPU."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["-1"]:
        return ()
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f'numbers as "0" or "0,1", or "" for the CPU, not {text!r}')
    return tuple(int(word) for word in words)
