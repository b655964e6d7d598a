"""A small training for tests: labelled pairs written as NIfTI files, a network that learns in seconds."""

import numpy as np

from RegCore.io import save
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume
from RegCore.training.config import Config

SHAPE = (12, 10, 11)


def write_pairs(folder, count: int = 5, seed: int = 0) -> None:
    """A ball that lies elsewhere in the moving image, on grids of other shapes and spacings."""
    random = np.random.default_rng(seed)
    for kind, shape, spacing in (("fixed", (14, 12, 13), 1.0), ("moving", (12, 12, 10), 1.2)):
        for i in range(count):
            grid = Geometry(shape, np.diag([spacing, spacing, 1.1 * spacing, 1.0]))
            centre = np.array(shape) / 2 + random.uniform(-1.5, 1.5, 3)
            distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
            image = (distance < 3.5) + random.normal(0, 0.05, shape)
            ball = (distance < 3.5).astype(np.uint8)
            for name, array in ((f"{kind}_images", image.astype(np.float32)), (f"{kind}_labels", ball)):
                (folder / name).mkdir(parents=True, exist_ok=True)
                save(Volume(array, grid), folder / name / f"case{i}.nii.gz")


def configuration(folder, *, valid: bool = True, labeled: bool = True, **train) -> Config:
    """Training on those pairs; ``train`` replaces keys of that section."""
    split = {"dir": str(folder), "format": "nifti", "labeled": labeled}
    loss = {"image": {"name": "ssd", "weight": 1.0}, "regularization": {"name": "gradient", "weight": 0.01}}
    if labeled:
        loss["label"] = {"name": "dice", "weight": 1.0}
    section = {
        "method": "ddf",
        "backbone": {"name": "unet", "num_channel_initial": 2, "depth": 2},
        "loss": loss,
        "optimizer": {"name": "Adam", "learning_rate": 0.01},
        "preprocess": {
            "data_augmentation": {"name": "affine", "scale": 0.1},
            "batch_size": 2,
            "shuffle_buffer_num_batch": 1,
        },
        "epochs": 3,
        "save_period": 2,
        "seed": 3,
        **train,
    }
    dataset = {
        "type": "paired",
        "fixed_image_shape": list(SHAPE),
        "moving_image_shape": [10, 10, 8],
        "train": split,
    }
    return Config.from_dict({"dataset": dataset | ({"valid": split} if valid else {}), "train": section})
