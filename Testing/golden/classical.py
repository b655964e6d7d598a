"""DeepReg's demos of registration without training, as RegCore is asked for them."""

import re

import torch

from RegCore import losses
from RegCore.registration.classical import classical_affine, classical_nonrigid
from RegCore.resampler import warp_image_ddf
from Testing.golden.layout import as_deepreg, channels_first, channels_last, one_channel


def _options(case: dict) -> dict:
    """Settings of a classical registration; its losses as DeepReg computes them."""
    options = dict(case["kwargs"])
    for name in ("image_loss", "deform_loss"):
        if name in options:
            table = losses.IMAGE_LOSSES if name == "image_loss" else losses.DEFORMATION_LOSSES
            options[name] = as_deepreg(table[options[name]["name"]], options[name])
    return options


def _steps(case: dict, prefix: str) -> list[int]:
    """The numbers of steps after which the parameter was recorded, ascending."""
    return sorted(
        int(m[1]) for name in case["outputs"] if (m := re.fullmatch(rf"{prefix}_after_(\d+)", name))
    )


def _nonrigid(case, arrays):
    fixed, moving = one_channel(arrays["fixed"]), one_channel(arrays["moving"])
    made = {}
    for steps in _steps(case, "ddf"):
        ddf, history = classical_nonrigid(
            fixed,
            moving,
            **_options(case),
            max_iter=steps,
            border="zero_boundary",
            initial_ddf=channels_first(arrays["init_ddf"]),
        )
        made[f"ddf_after_{steps}"] = channels_last(ddf)
    made["history"] = history.numpy()
    made["warped"] = warp_image_ddf(moving, ddf, border="zero_boundary")[:, 0].numpy()
    return made


def _affine(case, arrays):
    fixed, moving = one_channel(arrays["fixed"]), one_channel(arrays["moving"])
    made = {}
    for steps in _steps(case, "theta"):
        theta, history = classical_affine(
            fixed,
            moving,
            **_options(case),
            max_iter=steps,
            border="zero_boundary",
            initial_theta=torch.tensor(arrays["init_theta"]),
        )
        made[f"theta_after_{steps}"] = theta.numpy()
    made["history"] = history.numpy()
    return made


FUNCTIONS = {
    "demos/classical_mr_prostate_nonrigid": _nonrigid,
    "demos/classical_ct_headneck_affine": _affine,
}
