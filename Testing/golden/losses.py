"""DeepReg's losses, their kernels and their parts, as RegCore is asked for them."""

import torch

from RegCore import losses
from RegCore.losses import kernels
from Testing.golden.layout import as_deepreg, channels_first, channels_last, one_channel


def _pair_loss(function):
    def run(case, arrays):
        fixed = one_channel(arrays["y_true"])
        warped = one_channel(arrays["y_pred"]).requires_grad_(True)
        loss = function(fixed, warped, **as_deepreg(function, case["kwargs"]))
        made = {"loss": loss.detach().numpy()}
        if loss.requires_grad:
            loss.sum().backward()
            made["grad_y_pred"] = warped.grad.reshape(arrays["y_pred"].shape).numpy()
        return made

    return run


def _field_loss(function):
    def run(case, arrays):
        ddf = channels_first(arrays["ddf"]).requires_grad_(True)
        loss = function(ddf, **as_deepreg(function, case["kwargs"]))
        loss.sum().backward()
        return {"loss": loss.detach().numpy(), "grad_ddf": channels_last(ddf.grad)}

    return run


def _centroids(case, arrays):
    pair = {"true": one_channel(arrays["y_true"]), "pred": one_channel(arrays["y_pred"])}
    made = {f"centroid_{k}": losses.centroid(v, deepreg=True)[:, 0].numpy() for k, v in pair.items()}
    made |= {f"foreground_{k}": losses.foreground_proportion(v)[:, 0].numpy() for k, v in pair.items()}
    made["distance"] = losses.centroid_distance(*pair.values(), deepreg=True)[:, 0].numpy()
    return made


def _differences(case, arrays):
    x = one_channel(arrays["x"])
    return {n: losses.central_difference(x, a)[:, 0].numpy() for a, n in enumerate(("dx", "dy", "dz"))}


def _kernel(function):
    return lambda case, arrays: {"out": function(**case["kwargs"]).numpy()}


def _separable_filter(case, arrays):
    filtered = kernels.separable_filter(channels_first(arrays["x"]), torch.tensor(arrays["kernel"]))
    return {"out": channels_last(filtered)}


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
}
