"""Methods: what a network's answer about a pair means. `build_model` makes the model of a configuration.

| method | the network answers with | |
|---|---|---|
| ``ddf`` | a displacement field; an affine map: ``global``, ``keypoints`` | theta besides, if affine |
| ``dvf`` | a stationary velocity field | integrated to the displacement field |
| ``conditional`` | the label of the fixed image, given that of the moving one | no field |

Images and labels are ``(B, 1, I, J, K)``, fields ``(B, 3, I, J, K)`` in voxels: moving index = fixed index +
ddf, each index on its own grid. The fixed and the moving grid may differ; the network sees the moving image
resized to the fixed shape, but the original is warped.

A method of one's own is added by ``MODELS["mine"] = MyMethod``; it is called like `DDFModel`.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from RegCore.networks.architectures import NETWORKS
from RegCore.resampler import control_point_field, integrate, resize3d, warp_image_ddf
from RegCore.space.geometry import InputError
from RegCore.space.names import Lazy, LazyTable, check_name, options_of, select


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of pairs; what its method does not give is None.

    Args:
        ddf: displacement field ``(B, 3, I, J, K)`` in voxels.
        dvf: the velocity field that it is the integral of, alike, in voxels per unit time.
        theta: affine map ``(B, 4, 3)``, moving index = [i j k 1] @ theta.
        label: predicted fixed label ``(B, 1, I, J, K)`` in [0, 1].
    """

    ddf: torch.Tensor | None = None
    dvf: torch.Tensor | None = None
    theta: torch.Tensor | None = None
    label: torch.Tensor | None = None


def warped(
    prediction: Prediction,
    moving_image: torch.Tensor,
    moving_label: torch.Tensor | None = None,
    *,
    border: str = "edge",
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The fixed image and label as predicted: what the field makes of the moving ones.

    Args:
        prediction: of a model.
        moving_image, moving_label: ``(B, 1, i, j, k)``; without a label there is no warped one.
        border: what lies outside the moving image, see `RegCore.resampler.sample`; DeepReg's is
            ``zero_boundary``.

    Returns:
        Image and label ``(B, 1, I, J, K)``, the label interpolated linearly, so that a gradient passes. Where
        the method predicts the label itself, that, and no image.
    """
    if prediction.ddf is None:
        return None, prediction.label
    image = warp_image_ddf(moving_image, prediction.ddf, border=border)
    if moving_label is None:
        return image, None
    return image, warp_image_ddf(moving_label, prediction.ddf, border=border)


# ---- the network of a method -------------------------------------------------------------------------------


def make_backbone(options: Mapping, image_size: Sequence[int], defaults: Mapping) -> nn.Module:
    """The network that a ``backbone`` section describes.

    Args:
        options: ``{"name": "unet", "depth": 3, …}``: a name of `NETWORKS` and arguments of that network.
        image_size: voxels (I, J, K) of the fixed image.
        defaults: arguments that the method gives, as far as the network knows them. In ``options`` those
            of the output may be changed, ``in_channels`` and ``out_channels`` may not.

    Raises:
        InputError: no or an unknown name; an argument that the network does not have or lacks.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"the backbone is {options!r}, expected a name and the arguments of a network")
    given = dict(options)
    name = given.pop("name", None)
    takes = partial(options_of, without=("image_size", "in_channels"))
    network = select(NETWORKS, name, given, "the backbone", takes=takes)
    for key in ("in_channels", "out_channels"):
        if key in defaults and given.get(key, defaults[key]) != defaults[key]:
            raise InputError(f"{key} of the backbone is {given[key]}, but the method needs {defaults[key]}")
    parameters = inspect.signature(network).parameters
    any_name = options_of(network) is None
    used = {key: value for key, value in defaults.items() if key in parameters or any_name} | given
    for key, parameter in (options_of(network, without=("image_size",)) or {}).items():
        if parameter.default is parameter.empty and key not in used:
            raise InputError(f"the backbone {name} needs {key}, which is not given")
    return network(tuple(image_size), **used)


def _backbone(
    options: Mapping, image_size, deepreg: bool, channels, initializer: str, activation, no_affine: str = ""
) -> nn.Module:
    """The network of a method with so many channels (in, out), `control_points` left aside.

    `no_affine` is what an error says of a network that gives an affine map, if it is not wanted.
    """
    name = options.get("name") if isinstance(options, Mapping) else None
    if no_affine and isinstance(name, str) and getattr(NETWORKS.get(name), "affine", False):
        raise InputError(f"the backbone {name} gives an affine map{no_affine}")
    defaults = {
        "in_channels": channels[0],
        "out_channels": channels[1],
        "out_kernel_initializer": initializer,
        "out_activation": activation,
    }
    if deepreg:
        defaults["deepreg"] = True
    return make_backbone(options, image_size, defaults)


def _split(backbone) -> tuple[Mapping, tuple[int, int, int] | None]:
    """A ``backbone`` section without ``control_points``, and these as three numbers. Raises InputError."""
    if not isinstance(backbone, Mapping):
        return backbone, None
    rest = {key: value for key, value in backbone.items() if key != "control_points"}
    points = backbone.get("control_points")
    if not points:
        return rest, None
    spacing = list(points) if isinstance(points, list | tuple) else [points] * 3
    whole = [n for n in spacing if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    if len(spacing) != 3 or len(whole) != 3:
        raise InputError(f"control_points must be one or three positive whole numbers, but it is {points!r}")
    return rest, tuple(spacing)


def _without_scale(backbone) -> tuple[Mapping, float]:
    """A ``backbone`` section without ``integration_scale``, and this, 1 if not given. Raises InputError."""
    if not isinstance(backbone, Mapping):
        return backbone, 1.0
    rest = {key: value for key, value in backbone.items() if key != "integration_scale"}
    scale = backbone.get("integration_scale")
    if scale is None:
        return rest, 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= 1:
        raise InputError(f"integration_scale must be above 0 and at most 1, but it is {scale!r}")
    return rest, float(scale)


def stacked(
    fixed_image: torch.Tensor, moving_image: torch.Tensor, moving_label: torch.Tensor | None = None
) -> torch.Tensor:
    """What a network reads: moving image, fixed image, moving label, if any, as channels of the fixed grid.

    The moving ones are resized trilinearly, box onto box. ``(B, 1, …)`` each -> ``(B, 2 or 3, I, J, K)``.

    Raises:
        InputError: the images have other shapes.
    """
    given = {"fixed image": fixed_image, "moving image": moving_image, "moving label": moving_label}
    for what, x in given.items():
        if x is not None and (x.ndim != 5 or x.shape[:2] != (len(fixed_image), 1)):
            wanted = f"({len(fixed_image)}, 1, I, J, K)"
            raise InputError(f"the {what} has the shape {tuple(x.shape)}, but {wanted} is expected")
    shape = fixed_image.shape[2:]
    parts = [moving_image, fixed_image] + ([] if moving_label is None else [moving_label])
    return torch.cat([resize3d(x, shape, align_corners=False) for x in parts], 1)


def _checked(field: torch.Tensor, channels: int, fixed_image: torch.Tensor) -> torch.Tensor:
    """A network's answer in the dtype of the images. Raises InputError unless it has the right shape."""
    wanted = (len(fixed_image), channels, *fixed_image.shape[2:])
    if not isinstance(field, torch.Tensor) or tuple(field.shape) != wanted:
        came = tuple(field.shape) if isinstance(field, torch.Tensor) else type(field).__name__
        raise InputError(f"the network's answer must be a tensor {wanted}, but it is {came}")
    return field.to(fixed_image.dtype)


# ---- methods -----------------------------------------------------------------------------------------------


class DDFModel(nn.Module):
    """Predicts a displacement field, or an affine map where the network answers with (ddf, theta).

    ``forward(fixed_image, moving_image, moving_label=None)`` -> `Prediction`.

    Args:
        backbone: name and arguments of the network; with ``control_points``, one or three distances in
            voxels, the field is that of cubic B-splines on a coarse grid of such points.
        fixed_size, moving_size: voxels of the images.
        labeled: whether there are labels; makes no difference here.
        deepreg: as DeepReg: zeros where it has them, and its order of extracted levels.

    Raises:
        InputError: the arguments do not fit the network or each other.
    """

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        super().__init__()
        self.deepreg = deepreg
        backbone, self.control_points = _split(backbone)
        no_affine = ", which can't have control_points" if self.control_points else ""
        self.backbone = _backbone(backbone, fixed_size, deepreg, (2, 3), "zeros", None, no_affine)

    def forward(
        self,
        fixed_image: torch.Tensor,
        moving_image: torch.Tensor,
        moving_label: torch.Tensor | None = None,
    ) -> Prediction:
        """Images ``(B, 1, …)`` -> `Prediction` with the DDF and, of an affine network, theta."""
        answer = self.backbone(stacked(fixed_image, moving_image))
        theta = None
        if isinstance(answer, tuple):
            answer, theta = answer
            theta = theta.to(fixed_image.dtype)
        ddf = _checked(answer, 3, fixed_image)
        if self.control_points:
            ddf = control_point_field(ddf, self.control_points, deepreg=self.deepreg)
        return Prediction(ddf=ddf, theta=theta)


class DVFModel(nn.Module):
    """Predicts a stationary velocity field, whose integral is a diffeomorphism.

    Arguments as `DDFModel`; with ``integration_scale`` in the backbone, 0.5 say, the field is integrated on a
    grid of that part of the size, see `RegCore.resampler.integrate`.
    """

    backbone_options: ClassVar = {"integration_scale": float | None}

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        super().__init__()
        self.deepreg = deepreg
        backbone, self.integration_scale = _without_scale(backbone)
        backbone, self.control_points = _split(backbone)
        no_affine = ": it goes with the method ddf, not with dvf"
        self.backbone = _backbone(backbone, fixed_size, deepreg, (2, 3), "zeros", None, no_affine)

    def forward(
        self,
        fixed_image: torch.Tensor,
        moving_image: torch.Tensor,
        moving_label: torch.Tensor | None = None,
    ) -> Prediction:
        """Images ``(B, 1, …)`` -> `Prediction` with the velocity field and its integral, the DDF."""
        dvf = _checked(self.backbone(stacked(fixed_image, moving_image)), 3, fixed_image)
        if self.control_points:
            dvf = control_point_field(dvf, self.control_points, deepreg=self.deepreg)
        border = "zero_boundary" if self.deepreg else "edge"
        ddf = integrate(dvf, border=border, scale=self.integration_scale)
        return Prediction(ddf=ddf, dvf=dvf)


class ConditionalModel(nn.Module):
    """Predicts the fixed label from both images and the moving label, without a field.

    Hu et al., Conditional segmentation in lieu of image registration, MICCAI 2019. Arguments as `DDFModel`,
    but without ``control_points``.

    Raises:
        InputError: there are no labels.
    """

    def __init__(self, backbone: Mapping, fixed_size, moving_size, *, labeled: bool, deepreg: bool = False):
        super().__init__()
        if not labeled:
            raise InputError(
                "the method conditional predicts labels, but the data for training are not labelled"
            )
        backbone, points = _split(backbone)
        if points:
            raise InputError("the method conditional predicts no field, which control_points are for")
        output, no_affine = ("glorot_uniform", "sigmoid"), ": it goes with the method ddf only"
        self.backbone = _backbone(backbone, fixed_size, deepreg, (3, 1), *output, no_affine)

    def forward(
        self,
        fixed_image: torch.Tensor,
        moving_image: torch.Tensor,
        moving_label: torch.Tensor | None = None,
    ) -> Prediction:
        """Images and moving label ``(B, 1, …)`` -> `Prediction` with the fixed label ``(B, 1, I, J, K)``.

        Raises:
            InputError: the moving label is not given.
        """
        if moving_label is None:
            raise InputError("the method conditional needs the moving label, which is not given")
        answer = self.backbone(stacked(fixed_image, moving_image, moving_label))
        return Prediction(label=_checked(answer, 1, fixed_image))


MODELS = LazyTable(
    {
        "ddf": DDFModel,
        "dvf": DVFModel,
        "conditional": ConditionalModel,
        "slicreg": Lazy("RegCore.slicreg.methods", "SlicReg"),
        "slicreg-regression": Lazy("RegCore.slicreg.methods", "SlicRegression"),
    }
)


def build_model(train: Mapping, fixed_size, moving_size, *, labeled: bool) -> nn.Module:
    """The model that the ``train`` section of a configuration describes, not yet trained.

    Args:
        train: holds ``method``, a name of `MODELS`, and ``backbone``, name and arguments of a network.
            ``deepreg: true`` makes the model compute what DeepReg computes, where ours differs: for its
            trained weights.
        fixed_size, moving_size: voxels (I, J, K) of the images.
        labeled: whether labels take part.

    Returns:
        A module whose ``forward(fixed_image, moving_image, moving_label=None)`` gives a `Prediction`; its
        network is ``backbone``.

    Raises:
        InputError: an unknown method or network, arguments that these do not have, a combination that makes
            no sense.
    """
    name = train.get("method")
    check_name(name, MODELS, "the method")
    if "backbone" not in train:
        raise InputError("the section train has no backbone, which names the network")
    deepreg = train.get("deepreg", False)
    if not isinstance(deepreg, bool):
        raise InputError(f"deepreg in the section train is {deepreg!r}, expected true or false")
    return MODELS[name](train["backbone"], fixed_size, moving_size, labeled=labeled, deepreg=deepreg)
