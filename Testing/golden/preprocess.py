"""DeepReg's preparation of images and its random transforms, as RegCore is asked for them."""

import numpy as np
import torch

from RegCore.loaders.augmentation import CORNERS, random_affine, random_ddf
from RegCore.resampler import get_reference_grid, resize3d, sample, warp_grid, warp_image_ddf
from RegCore.resampler.pyramid import normalize_array
from Testing.golden.layout import channels_first, channels_last


def _normalise(case, arrays):
    return {"out": normalize_array(arrays["arr"], **case["kwargs"])}


def _random_affine(case, arrays):
    options = case["kwargs"]
    theta = random_affine(
        options["batch_size"], options["scale"], np.random.RandomState(options["seed"])
    ).numpy()
    corners = np.array(CORNERS, np.float32)
    moved = np.concatenate([corners, np.ones((4, 1), np.float32)], 1) @ theta
    return {"theta": theta, "noise": moved / corners}


def _random_ddf(case, arrays):
    options = case["kwargs"]
    coarse = tuple(options["low_res_size"])

    def drawn(shape):
        seeded = np.random.RandomState(options["seed"])
        field = random_ddf(options["batch_size"], shape, options["field_strength"], coarse, seeded)
        return channels_last(field)

    return {"low_res_field": drawn(coarse), "ddf": drawn(options["image_size"])}


def _affine(case, arrays):
    image = torch.tensor(arrays["image"])[:, None]
    places = warp_grid(get_reference_grid(image.shape[2:]), torch.tensor(arrays["theta"]))
    return {"out": sample(image, places, border="zero_boundary")[:, 0].numpy()}


def _ddf(case, arrays):
    image = torch.tensor(arrays["image"])[:, None]
    warped = warp_image_ddf(image, channels_first(arrays["ddf"]), border="zero_boundary")
    return {"out": warped[:, 0].numpy()}


def _resize(case, arrays):
    made = {}
    for name, array in arrays.items():
        size = case["kwargs"][f"{name.split('_')[0]}_image_size"]
        found = resize3d(torch.tensor(array)[(None,) * (5 - array.ndim)], size, align_corners=False)
        made[f"out:{name}"] = found.view(*array.shape[:-3], *size).numpy()
    return made


_PREPROCESS = "deepreg.dataset.preprocess."
FUNCTIONS = {
    "deepreg.dataset.loader.util.normalize_array": _normalise,
    f"{_PREPROCESS}gen_rand_affine_transform": _random_affine,
    f"{_PREPROCESS}gen_rand_ddf": _random_ddf,
    f"{_PREPROCESS}resize_inputs": _resize,
    "RandomAffineTransform3D.transform(image, grid_ref, params)": _affine,
    "RandomDDFTransform3D.transform(image, grid_ref, params)": _ddf,
}
