"""What the loaders and augmentations do without options: what DeepReg does, and the first epoch in order."""

import numpy as np
import pytest
import torch

from RegCore.loaders import batches, images_from_volumes
from RegCore.loaders.augmentation import AUGMENTATIONS, CORNERS


def pair() -> dict:
    random = np.random.default_rng(0)
    shapes = {"fixed_image": (2, 1, 7, 8, 9), "moving_image": (2, 1, 9, 7, 8)}
    return {name: torch.from_numpy(random.random(shape)).float() for name, shape in shapes.items()}


def test_the_corners_are_those_of_deepreg():
    """A corner of the cube from -1 to 1 and its three neighbours, the last axis first."""
    first, *neighbours = np.array(CORNERS)
    assert first.tolist() == [-1, -1, -1]
    np.testing.assert_array_equal(np.array(neighbours) - first, 2 * np.eye(3)[::-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [("affine", {"scale": 0.1}), ("ddf", {"field_strength": 1.0, "low_res_size": (1, 1, 1)})],
)
def test_augmentations_have_the_strength_that_they_have_in_deepreg(name, options):
    plain, asked = (
        AUGMENTATIONS[name](**given)(pair(), torch.Generator().manual_seed(3))
        for given in ({}, options | {"deepreg": False})
    )
    for key in plain:
        assert torch.equal(plain[key], asked[key]) and not torch.equal(plain[key], pair()[key])


def test_batches_are_those_of_the_first_epoch_one_sample_each():
    images = [np.random.default_rng(n).random((3, 4, 5)).astype(np.float32) for n in range(12)]
    loader = images_from_volumes(images, image_shape=[3, 4, 5])
    options = {"seed": 0, "start_at": 0, "workers": 0, "shuffle_buffer": 0, "drop_last": False}
    plain, asked = (list(made) for made in (batches(loader), batches(loader, 0, 1, **options)))
    assert len(plain) == 6 and [len(batch["fixed_image"]) for batch in plain] == [1] * 6
    order = [batch["indices"].tolist() for batch in plain]
    assert order == [batch["indices"].tolist() for batch in asked]
    assert [[[*sample.indices, -1]] for sample in loader.samples()] == order  # -1: without a label
    assert order != [batch["indices"].tolist() for batch in batches(loader, 1)]
    assert order != [batch["indices"].tolist() for batch in batches(loader, seed=1)]
    whole = [batch["indices"].tolist() for batch in batches(loader, batch_size=4)]
    assert [len(batch) for batch in whole] == [4, 2]
    assert len(list(batches(loader, batch_size=4, drop_last=True))) == 1
