"""Configurations for the tests: a whole one as plain values, and ways to change a key of it."""

import copy

NOTHING = object()
UNPAIRED = {
    "dataset": {
        "type": "unpaired",
        "image_shape": [16, 16, 16],
        "train": {"dir": "somewhere/train", "format": "nifti", "labeled": True},
        "valid": {"dir": "somewhere/valid", "format": "nifti", "labeled": True},
        "test": {"dir": "somewhere/test", "format": "nifti", "labeled": True},
    },
    "train": {
        "method": "ddf",
        "backbone": {"name": "local", "num_channel_initial": 2, "extract_levels": [0, 1, 2]},
        "loss": {
            "image": {"name": "lncc", "weight": 0.1},
            "label": {"name": "dice", "weight": 1.0, "scales": [0, 1, 2]},
            "regularization": {"name": "bending", "weight": 0.5},
        },
        "optimizer": {"name": "Adam", "learning_rate": 1e-5},
        "preprocess": {
            "batch_size": 2,
            "shuffle_buffer_num_batch": 1,
            "data_augmentation": {"name": "affine"},
        },
        "epochs": 2,
        "save_period": 2,
    },
}
PAIRED = copy.deepcopy(UNPAIRED)
del PAIRED["dataset"]["image_shape"]
PAIRED["dataset"] |= {
    "type": "paired",
    "moving_image_shape": [16, 15, 14],
    "fixed_image_shape": [8, 9, 10],
}
GROUPED = copy.deepcopy(UNPAIRED)
GROUPED["dataset"] |= {
    "type": "grouped",
    "intra_group_prob": 1,
    "intra_group_option": "forward",
    "sample_image_in_group": True,
}


def changed(key: str, value=NOTHING, base: dict = UNPAIRED) -> dict:
    """A copy with the value under a dotted key replaced; without a value the key is taken out."""
    made = copy.deepcopy(base)
    *above, last = key.split(".")
    section = made
    for name in above:
        section = section.setdefault(name, {})
    if value is NOTHING:
        del section[last]
    else:
        section[last] = value
    return made
