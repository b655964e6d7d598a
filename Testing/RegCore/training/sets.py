"""Small labelled data sets in space for the tests of prediction, and configurations of them."""

import copy
import csv
from pathlib import Path

import numpy as np

from RegCore.space.geometry import Geometry
from RegCore.training.config import Config
from Testing.RegCore.grids import LEFT_HANDED, affine
from Testing.RegCore.known_networks import FIXED_SIZE, MOVING_SIZE
from Testing.RegCore.loaders import data
from Testing.RegCore.training.config.samples import GROUPED, PAIRED, UNPAIRED

FIXED = LEFT_HANDED
MOVING = Geometry((11, 6, 13), affine((-0.4, 0.1, 0.7), (0.9, 2.1, -1.3), (32.0, -48.0, 92.0)))
BASES = {"paired": PAIRED, "unpaired": UNPAIRED, "grouped": GROUPED}
CHANNELS = 2


def blob(grid: Geometry, seed: int) -> np.ndarray:
    """Two structures (I, J, K, 2); where the second should be in the first fixed image is nothing."""
    rng = np.random.default_rng(seed)
    index = grid.index_grid() / (np.array(grid.shape) - 1)
    centres = rng.uniform(0.35, 0.65, (CHANNELS, 3))
    inside = [np.linalg.norm(index - centre, axis=-1) < 0.4 for centre in centres]
    return np.stack(inside, -1).astype(np.uint8)


def write_blobs(folder: Path, kind: str = "paired", count: int = 2) -> None:
    """Images of two structures and noise, and their labels; one structure is missing in one of them."""
    sides = [("fixed_", FIXED), ("moving_", MOVING)] if kind == "paired" else [("", FIXED)]
    for number, (side, grid) in enumerate(sides):
        for n, name in enumerate(data.names(kind, count)):
            label = blob(grid, 10 * number + n)
            if (number, n) == (0, 0):
                label[..., 1] = 0
            image = 100.0 * label.sum(-1) + data.image(n + number, grid.shape)
            data.put(folder, "nifti", f"{side}images", name, image.astype(np.float32), grid.affine)
            data.put(folder, "nifti", f"{side}labels", name, label, grid.affine)


def configuration(
    folder: Path, kind: str = "paired", *, labeled: bool = True, method: str = "ddf", backbone=None, **dataset
) -> Config:
    """All splits are the data of the folder; the network is by default the known one."""
    values = copy.deepcopy(BASES[kind])
    split = {"dir": str(folder), "format": "nifti", "labeled": labeled}
    values["dataset"] |= {"train": split, "valid": split, "test": split, **dataset}
    sizes = {"fixed_image_shape": list(FIXED_SIZE), "moving_image_shape": list(MOVING_SIZE)}
    values["dataset"] |= sizes if kind == "paired" else {"image_shape": list(FIXED_SIZE)}
    values["train"] |= {"method": method, "backbone": backbone or {"name": "known"}}
    return Config.from_dict(values)


def figures(path: Path) -> list[dict]:
    """The lines of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
