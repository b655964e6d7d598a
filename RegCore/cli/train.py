"""``regcore train`` and what ``deepreg_train`` does: training from YAML files, stopped by Ctrl-C, resumed."""

import argparse
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from RegCore.cli.arguments import add_number, shared
from RegCore.cli.preset_arguments import add_preset, preset_of
from RegCore.cli.progress import ProgressLine
from RegCore.cli.signals import stopped_by_signals
from RegCore.progress import Cancelled, duration
from RegCore.space.geometry import InputError

log = logging.getLogger("RegCore.cli")


def add_train(commands) -> None:
    """Add the command to the subparsers of ``regcore``."""
    parser = commands.add_parser(
        "train",
        parents=[shared(plugin=True)],
        help="train a network as YAML files say, or on a folder of data",
        description="Trains a registration network as YAML files say, DeepReg's among them, or on a folder "
        "of data with the settings of Slicer's Train panel (--data). Writes config.yaml, metrics.csv, "
        "pictures of validation pairs and the folder save with the checkpoints and best.pt. Ctrl-C stops "
        "after the present step and keeps a checkpoint; --resume goes on from it. Under torchrun several "
        "processes share each batch.",
    )
    what = "YAML files; values of later ones replace those of earlier ones"
    parser.add_argument("config", nargs="*", help=what, type=Path, metavar="YAML")
    what = "folder of the run; by default logs/ and the time of day"
    parser.add_argument("--out", type=Path, metavar="DIR", help=what)
    what = "go on with the run in this folder where it was interrupted"
    parser.add_argument("--resume", type=Path, metavar="DIR", help=what)
    what = "begin with the weights of this checkpoint or model file"
    parser.add_argument("--start-from", metavar="CKPT", help=what)
    add_number(parser, "--max-epochs", help="number of epochs in place of that of the configuration")
    what = "processes that read data, in place of dataset.workers"
    add_number(parser, "--workers", least=0, help=what)
    add_preset(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    preset = preset_of(arguments)
    if arguments.resume is None and not arguments.config and preset is None:
        raise InputError(
            "give the YAML files of a training, a folder of --data, or --resume with the folder of an "
            "interrupted training"
        )
    if preset is not None and (arguments.config or arguments.resume):
        raise InputError("--data makes a configuration: neither YAML files nor --resume go with it")
    if arguments.resume is not None and (arguments.out or arguments.start_from):
        raise InputError("--resume goes on in its own folder: --out and --start-from do not go with it")
    folder = arguments.resume or arguments.out or Path("logs")
    configs = preset.configuration() if preset else arguments.config or [folder / "config.yaml"]
    named = arguments.resume or arguments.out
    options = {
        "log_dir": folder.parent if named else folder,
        "exp_name": folder.name if named else "",
        "resume": arguments.resume is not None,
        "start_from": arguments.start_from,
        "max_epochs": arguments.max_epochs,
        "workers": arguments.workers,
        "device": arguments.device,
    }
    train_from_files(configs, arguments.plugin, options, quiet=arguments.quiet, closing=True)


def run_train(arguments: argparse.Namespace) -> None:
    """``deepreg_train`` with DeepReg's arguments."""
    if arguments.num_workers > 0:
        os.environ["OMP_NUM_THREADS"] = str(arguments.num_workers)  # read when torch is loaded
    options = {
        "log_dir": arguments.log_dir,
        "exp_name": arguments.exp_name,
        "start_from": arguments.ckpt_path or None,
        "max_epochs": arguments.max_epochs if arguments.max_epochs > 0 else None,
        "device": device_of(arguments.gpu),
    }
    train_from_files(arguments.config_path, getattr(arguments, "plugin", []), options)


def device_of(gpus: tuple[int, ...] | None) -> str:
    """The device for DeepReg's --gpu: numbers of cards that may be used, none for the CPU, None for any.

    Raises:
        InputError: there is no such card.
    """
    from RegCore.networks.device import choose_device

    if gpus is None:
        return "auto"
    if not gpus:
        return "cpu"
    named = os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    if len(gpus) > 1 and "WORLD_SIZE" not in os.environ:
        log.warning("--gpu %s: one process uses one card; torchrun starts a process for each", named)
    try:
        return choose_device("cuda")
    except InputError:
        raise InputError(
            f'--gpu {named}: PyTorch finds no such graphics card here; --gpu "" computes on the CPU'
        ) from None


def train_from_files(
    configs, plugins, options: dict, *, quiet: bool = False, closing: bool = False, again: str = ""
) -> None:
    """Train with `RegCore.training.train`; the first process shows progress and a closing line.

    Args:
        configs: YAML files, or the plain values of a configuration.
        plugins: files with parts of one's own.
        options: of `RegCore.training.train`.
        quiet: show nothing.
        closing: judge the best model on validation pairs: a table, and a picture in the folder.
        again: what makes a stopped training go on; by default ``regcore train --resume``.
    """
    from RegCore.io.files import timed_folder
    from RegCore.training import train
    from RegCore.training.config import Config, load_config
    from RegCore.training.plugins import load_plugin

    for plugin in plugins:
        load_plugin(plugin)
    config = Config.from_dict(configs, "--data") if isinstance(configs, dict) else load_config(configs)
    for sentence in config.changes:
        log.warning("%s: %s", config.source, sentence)
    first = os.environ.get("RANK", "0") == "0"
    line = ProgressLine(sys.stderr, quiet or not first)
    with stopped_by_signals() as stopping, ExitStack() as stack:
        folder = Path(options["log_dir"]).expanduser() / options["exp_name"]
        if first and not options["exp_name"]:  # made here, to be named where the training is stopped
            folder = stack.enter_context(timed_folder(folder))
            options["exp_name"] = folder.name

        def progress(fraction: float, text: str, values: dict) -> None:
            figures = {"loss": values["loss"]} | {k: v for k, v in values.items() if k == "val_loss"}
            line(fraction, text, {**figures, "left": duration(values["seconds_left"])})
            if stopping:
                raise Cancelled

        try:
            done = train(config, **options, progress=progress)
        except (Cancelled, KeyboardInterrupt) as end:
            line.end()
            if first:
                _say_stopped(folder, end, again or f"regcore train --resume {folder}")
            raise SystemExit(130 if first else 0) from None  # at another's 130 torchrun would end the first
        finally:
            line.end()
    if first and closing and done.best:
        _close(done, config, options["device"], line)
    if first and not quiet and done.best:
        _say_ended(done)


def _close(done, config, device: str, line: ProgressLine) -> None:
    """Judge the best model on validation pairs; a table on the screen, and a picture in the folder."""
    from RegCore.training.closing import PICTURE, close

    try:
        judged = close(done.model, config, done.folder, device=device, progress=line)
    finally:
        line.end()
    if judged and not line.quiet:
        print(f"{judged}\n\n{done.folder / PICTURE}: the best and the worst of these pairs")


def _say_ended(done) -> None:
    """Where a training is, how it ended, and its best epoch."""
    best = done.best
    what = "val_loss" if "val_loss" in best else "loss"
    print(f"{done.folder}: {done.ended}, best epoch {best['epoch']} with {what} {best[what]:.5g}")


def _say_stopped(folder: Path, end: BaseException, again: str) -> None:
    """How a stopped training can be taken up. Raises what ended it if there is no checkpoint."""
    if not (folder / "save" / "last.pt").is_file():
        raise end
    how = "after a checkpoint" if isinstance(end, Cancelled) else "at once, with the last checkpoint kept"
    print(f"stopped {how}; go on with: {again}", file=sys.stderr)
