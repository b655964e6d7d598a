"""Runs what was recorded from DeepReg through the public functions of RegCore.

A recorded case names a function of DeepReg and its keyword arguments; its arrays are float32 with the
channels last. `FUNCTIONS` says for each function how ours is asked the same. Where DeepReg's behaviour
differs from ours by design, the option that brings it back is set here.
"""

import inspect
import re

import numpy as np
import torch

from RegCore import losses
from RegCore.losses import kernels
from RegCore.optimise.classical import classical_affine, classical_nonrigid
from RegCore.resampler import warp_image_ddf


def run_case(case: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a recorded case as RegCore computes them, in DeepReg's layout.

    case: an entry of an index file: ``function``, ``kwargs`` and ``outputs`` are used, never ``id``.
    arrays: the arrays of the case by name; the inputs are enough.
    Raises KeyError for a function that is not covered.
    """
    made = FUNCTIONS[case["function"]](case, arrays)
    return {name: np.asarray(made[name]) for name in case["outputs"]}


def _channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def _as_deepreg(function, options: dict) -> dict:
    """The options, with DeepReg's behaviour asked for where the function knows a difference."""
    return {**options, "deepreg": True} if "deepreg" in inspect.signature(function).parameters else options


# ---- losses ------------------------------------------------------------------------------------------------


def _one_channel(array: np.ndarray) -> torch.Tensor:
    """``(B, ...)`` as ``(B, 1, I, J, K)``: DeepReg pools all that follows, so channels join the last axis."""
    shape = array.shape + (1,) * (4 - array.ndim)
    return torch.tensor(array).reshape(shape[0], 1, shape[1], shape[2], -1)


def _pair_loss(function):
    def run(case, arrays):
        fixed = _one_channel(arrays["y_true"])
        warped = _one_channel(arrays["y_pred"]).requires_grad_(True)
        loss = function(fixed, warped, **_as_deepreg(function, case["kwargs"]))
        made = {"loss": loss.detach().numpy()}
        if loss.requires_grad:
            loss.sum().backward()
            made["grad_y_pred"] = warped.grad.reshape(arrays["y_pred"].shape).numpy()
        return made

    return run


def _field_loss(function):
    def run(case, arrays):
        ddf = _channels_first(arrays["ddf"]).requires_grad_(True)
        loss = function(ddf, **_as_deepreg(function, case["kwargs"]))
        loss.sum().backward()
        return {"loss": loss.detach().numpy(), "grad_ddf": _channels_last(ddf.grad)}

    return run


def _centroids(case, arrays):
    pair = {"true": _one_channel(arrays["y_true"]), "pred": _one_channel(arrays["y_pred"])}
    made = {f"centroid_{k}": losses.centroid(v, deepreg=True)[:, 0].numpy() for k, v in pair.items()}
    made |= {f"foreground_{k}": losses.foreground_proportion(v)[:, 0].numpy() for k, v in pair.items()}
    made["distance"] = losses.centroid_distance(*pair.values(), deepreg=True)[:, 0].numpy()
    return made


def _differences(case, arrays):
    x = _one_channel(arrays["x"])
    return {n: losses.central_difference(x, a)[:, 0].numpy() for a, n in enumerate(("dx", "dy", "dz"))}


def _kernel(function):
    return lambda case, arrays: {"out": function(**case["kwargs"]).numpy()}


def _separable_filter(case, arrays):
    filtered = kernels.separable_filter(_channels_first(arrays["x"]), torch.tensor(arrays["kernel"]))
    return {"out": _channels_last(filtered)}


# ---- classical registration --------------------------------------------------------------------------------


def _options(case: dict) -> dict:
    """Settings of a classical registration; its losses as DeepReg computes them."""
    options = dict(case["kwargs"])
    for name in ("image_loss", "deform_loss"):
        if name in options:
            table = losses.IMAGE_LOSSES if name == "image_loss" else losses.DEFORMATION_LOSSES
            options[name] = _as_deepreg(table[options[name]["name"]], options[name])
    return options


def _steps(case: dict, prefix: str) -> list[int]:
    """The numbers of steps after which the parameter was recorded, ascending."""
    return sorted(
        int(m[1]) for name in case["outputs"] if (m := re.fullmatch(rf"{prefix}_after_(\d+)", name))
    )


def _nonrigid(case, arrays):
    fixed, moving = _one_channel(arrays["fixed"]), _one_channel(arrays["moving"])
    made = {}
    for steps in _steps(case, "ddf"):
        ddf, history = classical_nonrigid(
            fixed,
            moving,
            **_options(case),
            max_iter=steps,
            border="zero_boundary",
            initial_ddf=_channels_first(arrays["init_ddf"]),
        )
        made[f"ddf_after_{steps}"] = _channels_last(ddf)
    made["history"] = history.numpy()
    made["warped"] = warp_image_ddf(moving, ddf, border="zero_boundary")[:, 0].numpy()
    return made


def _affine(case, arrays):
    fixed, moving = _one_channel(arrays["fixed"]), _one_channel(arrays["moving"])
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


_LABEL = "deepreg.loss.label."
_KERNEL = "deepreg.loss.kernel."
FUNCTIONS = {
    **{f"loss:{name}": _pair_loss(f) for name, f in (losses.IMAGE_LOSSES | losses.LABEL_LOSSES).items()},
    **{f"loss:{name}": _field_loss(f) for name, f in losses.DEFORMATION_LOSSES.items()},
    f"{_LABEL}compute_centroid/compute_centroid_distance/foreground_proportion": _centroids,
    f"{_LABEL}compute_centroid": _centroids,
    f"{_LABEL}compute_centroid_distance": _centroids,
    f"{_LABEL}foreground_proportion": _centroids,
    "deepreg.loss.deform.gradient_dx/dy/dz": _differences,
    f"{_KERNEL}rectangular_kernel1d": _kernel(kernels.rectangular_kernel1d),
    f"{_KERNEL}triangular_kernel1d": _kernel(kernels.triangular_kernel1d),
    f"{_KERNEL}gaussian_kernel1d_size": _kernel(kernels.gaussian_kernel1d_size),
    f"{_KERNEL}gaussian_kernel1d_sigma": _kernel(kernels.gaussian_kernel1d_sigma),
    f"{_KERNEL}cauchy_kernel1d": _kernel(kernels.cauchy_kernel1d),
    "deepreg.loss.util.separable_filter": _separable_filter,
    "demos/classical_mr_prostate_nonrigid": _nonrigid,
    "demos/classical_ct_headneck_affine": _affine,
}
