"""DeepReg's commands under their own names and with their own flags: what its users' scripts call."""

from collections.abc import Callable, Sequence

from RegCore.cli import deepreg_arguments, run
from RegCore.cli import download as downloading
from RegCore.cli import vis as visualising
from RegCore.cli import warp as warping
from RegCore.cli.arguments import Parser


def train(argv: Sequence[str] | None = None) -> int:
    """``deepreg_train``: train a network as YAML files say."""
    return _run("deepreg_train", "Trains a registration network.", deepreg_arguments.fill_train, argv)


def predict(argv: Sequence[str] | None = None) -> int:
    """``deepreg_predict``: register the pairs of a data set with a trained network, and measure."""
    return _run(
        "deepreg_predict",
        "Registers the pairs of a data set with a network.",
        deepreg_arguments.fill_predict,
        argv,
    )


def warp(argv: Sequence[str] | None = None) -> int:
    """``deepreg_warp``: warp an image with a displacement field."""
    return _run("deepreg_warp", warping.ABOUT, warping.fill_warp, argv)


def vis(argv: Sequence[str] | None = None) -> int:
    """``deepreg_vis``: show slices of images as pictures and animations."""
    return _run("deepreg_vis", visualising.ABOUT, visualising.fill_vis, argv)


def download(argv: Sequence[str] | None = None) -> int:
    """``deepreg_download``: write example configurations and generated data; no network is used."""
    return _run("deepreg_download", downloading.ABOUT, downloading.fill_download, argv)


def _run(name: str, description: str, fill: Callable[[Parser], None], argv: Sequence[str] | None) -> int:
    def make_parser() -> Parser:
        parser = Parser(prog=name, description=description)
        fill(parser)
        return parser

    return run(make_parser, argv)
