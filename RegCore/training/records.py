"""What a training writes down as it runs: ``metrics.csv``, and TensorBoard's files where it is installed."""

import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from RegCore.space.geometry import InputError
from RegCore.space.names import READABLE

log = logging.getLogger(__name__)


def write_table(path: Path, rows: list[dict]) -> None:
    """One line for each epoch, ``epoch`` first; written aside, then put in place.

    Raises:
        InputError: the file can't be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    aside = path.with_name(path.name + ".part")
    try:
        aside.write_text(text.getvalue(), encoding="utf-8", errors=READABLE)
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path}: the figures can't be written here ({error.strerror})") from None


class TensorBoard:
    """Scalars by DeepReg's names in ``train`` and ``validation``; nothing without the package tensorboard."""

    def __init__(self, folder: Path):
        self.writers: dict[str, Any] = {}
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            text = "TensorBoard's files are not written: the package tensorboard is not installed (%s)"
            log.info(text, "pip install tensorboard")
            return
        self.writers = {part: SummaryWriter(str(folder / part)) for part in ("train", "validation")}

    def add(self, part: str, prefix: str, step: int, numbers: dict[str, float]) -> None:
        """Numbers of a step: ``epoch_loss``, ``epoch_metric/TRE`` … with the prefix ``epoch_``."""
        if part in self.writers:
            for name, value in numbers.items():
                self.writers[part].add_scalar(f"{prefix}{name}", value, step)
            self.writers[part].flush()

    def picture(self, part: str, name: str, step: int, pixels: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 of a step."""
        if part in self.writers:
            self.writers[part].add_image(name, pixels, step, dataformats="HWC")
            self.writers[part].flush()

    def weights(self, step: int, network: nn.Module) -> None:
        """A histogram of each tensor of weights."""
        if "train" in self.writers:
            for name, values in network.named_parameters():
                self.writers["train"].add_histogram(f"weights/{name}", values.detach().float().cpu(), step)

    def close(self) -> None:
        """Close the files of the log."""
        for writer in self.writers.values():
            writer.close()
