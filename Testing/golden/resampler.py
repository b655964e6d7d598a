"""DeepReg's sampling, warping, resizing and control points, as RegCore is asked for them."""

import numpy as np
import torch

from RegCore import resampler
from Testing.golden.layout import channels_first, channels_last


def _grid(case, arrays):
    return {"out": resampler.get_reference_grid(case["kwargs"]["grid_size"])[0].movedim(0, -1).numpy()}


def _bits(case, arrays):
    return {"out": np.array(resampler.get_n_bits_combinations(**case["kwargs"]), np.float32)}


def _pyramid(case, arrays):
    values, floor, ceil = (list(torch.tensor(arrays[k])) for k in ("values", "weight_floor", "weight_ceil"))
    return {"out": resampler.pyramid_combination(values, floor, ceil).numpy()}


def _with_gradients(function, upstream: np.ndarray, leaves: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The result and the derivatives of sum(result * upstream), in the layout of the leaves."""
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    out = function(*leaves.values())
    (out * torch.tensor(upstream)).sum().backward()
    return {"out": out.detach().numpy(), **{f"grad_{k}": leaf.grad.numpy() for k, leaf in leaves.items()}}


def _first(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    """``(B, *axes[, C])`` as ``(B, C, *axes)``."""
    return (tensor[..., None] if tensor.ndim == axes + 1 else tensor).movedim(-1, 1)


def _resample(case, arrays):
    border = "zero_boundary" if case["kwargs"].get("zero_boundary", True) else "edge"
    nearest = case["kwargs"].get("interpolation", "linear") == "nearest"
    axes = arrays["loc"].shape[-1]
    one_channel = arrays["vol"].ndim == axes + 1

    def run(vol, loc):
        image, places = _first(vol, axes), loc.movedim(-1, 1)
        out = resampler.resample(image, places, border=border, nearest=nearest, deepreg=True)
        return out[:, 0] if one_channel else out.movedim(1, -1)

    leaves = {name: torch.tensor(arrays[name]) for name in ("vol", "loc")}
    return _with_gradients(run, arrays.get("upstream", np.float32(1)), leaves)


def _warping(case, arrays):
    one_channel = arrays["image"].ndim == 4

    def run(image, ddf):
        out = resampler.warp_image_ddf(_first(image, 3), ddf.movedim(-1, 1), border="zero_boundary")
        return out[:, 0] if one_channel else out.movedim(1, -1)

    leaves = {name: torch.tensor(arrays[name]) for name in ("image", "ddf")}
    return _with_gradients(run, arrays.get("upstream", np.float32(1)), leaves)


def _integration(case, arrays):
    steps = case["kwargs"].get("num_steps", 7)

    def run(dvf):
        return resampler.integrate(dvf.movedim(-1, 1), steps, border="zero_boundary").movedim(1, -1)

    leaves = {"dvf": torch.tensor(arrays["dvf"])}
    return _with_gradients(run, arrays.get("upstream", np.float32(1)), leaves)


def _warp_grid(case, arrays):
    grid = torch.tensor(arrays["grid"]).movedim(-1, 0)[None]
    return {"out": channels_last(resampler.warp_grid(grid, torch.tensor(arrays["theta"])))}


def _resize(case, arrays):
    x, options = torch.tensor(arrays["x"]), case["kwargs"]
    nearest = options.get("method", "bilinear") == "nearest"
    image = {3: x[None, None], 4: x[:, None]}[x.ndim] if x.ndim < 5 else x.movedim(-1, 1)
    out = resampler.resize3d(image, options["shape"], align_corners=False, nearest=nearest)
    return {"out": ({3: out[0, 0], 4: out[:, 0]}[x.ndim] if x.ndim < 5 else out.movedim(1, -1)).numpy()}


def _gaussian(case, arrays):
    kernel = resampler.gaussian_filter_3d(**case["kwargs"]).numpy()
    return {"out": kernel[..., None, None] * np.eye(3, dtype=np.float32)}


def _deconvolution(case, arrays):
    if "args" not in arrays:
        return {"out": resampler.deconv_output_padding(**case["kwargs"])}
    paddings = ("same", "valid", "full")
    rows = [(*row[:4], paddings[row[4]]) for row in arrays["args"].astype(int).tolist()]
    return {"out": [resampler.deconv_output_padding(*row) for row in rows]}


def _control_points(case, arrays):
    spacing = case["kwargs"]["control_point_spacing"]
    steps = (spacing,) * 3 if isinstance(spacing, int) else spacing
    points = resampler.onto_control_points(channels_first(arrays["x"]), spacing, deepreg=True)
    impulse = torch.zeros((1, 1, 1, 1, 1)) + 1  # a single point shows the filter
    field = resampler.control_point_field(channels_first(arrays["x"]), spacing, deepreg=True)
    return {
        "gauss_kernel": resampler.gaussian_filter_3d([0.44 * s for s in steps]).numpy(),
        "cp": channels_last(points),
        "bspline_filter": resampler.bspline_field(impulse, spacing, deepreg=True)[0, 0].numpy(),
        "full": channels_last(resampler.bspline_field(points, spacing, deepreg=True)),
        "out": channels_last(field),
    }


_UTIL, _LAYER = "deepreg.model.layer_util.", "deepreg.model.layer."
FUNCTIONS = {
    f"{_UTIL}get_reference_grid": _grid,
    f"{_UTIL}get_n_bits_combinations": _bits,
    f"{_UTIL}pyramid_combination": _pyramid,
    f"{_UTIL}resample": _resample,
    f"{_UTIL}warp_grid": _warp_grid,
    f"{_UTIL}gaussian_filter_3d": _gaussian,
    f"{_UTIL}deconv_output_padding": _deconvolution,
    f"{_LAYER}Resize3d": _resize,
    f"{_LAYER}Warping": _warping,
    f"{_LAYER}IntDVF": _integration,
    f"{_LAYER}ResizeCPTransform -> BSplines3DTransform": _control_points,
}
