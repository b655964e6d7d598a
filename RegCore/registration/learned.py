"""A trained network applied to one pair: what it says in voxels becomes a transform in space."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from RegCore.deepreg.checkpoint import import_checkpoint
from RegCore.deepreg.tfbundle import index_path, is_bundle
from RegCore.loaders.boxes import box_about_body, centred, seen_in
from RegCore.loaders.images import resized
from RegCore.loaders.intensity import intensity_of, is_unlike
from RegCore.networks.device import all_finite, answer_of, choose_device, device_of, predicts_in_bf16
from RegCore.networks.model_file import Model, read_model
from RegCore.networks.models import ConditionalModel, Prediction
from RegCore.progress import Progress, silent
from RegCore.resampler import warp
from RegCore.resampler.pyramid import padded
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, reoriented

log = logging.getLogger(__name__)
LABELS_ONLY = "this model predicts labels, not a transform; it goes with a data set: regcore predict"


def load_model(path: str | Path, config: str | Path | Mapping | None = None, device: str = "auto") -> Model:
    """The trained network of a file, set to predict.

    Args:
        path: a model file, or a checkpoint ``save/ckpt-2``, ours (then with .pt) or DeepReg's.
        config: for a checkpoint of DeepReg, where its ``../config.yaml`` is missing or wrong; see
            `RegCore.import_checkpoint`.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        InputError: the sentence names the file.

    Examples:
        >>> import RegCore
        >>> from RegCore.networks.model_file import build
        >>> backbone = {"name": "unet", "num_channel_initial": 2, "depth": 1}
        >>> config = {"train": {"method": "ddf", "backbone": backbone}}
        >>> RegCore.save_model("untrained.pt", build(config, (9, 8, 7), (9, 8, 7), labeled=False))
        >>> model = RegCore.load_model("untrained.pt", device="cpu")
        >>> model.fixed_size
        (9, 8, 7)
    """
    file, device = Path(path).expanduser(), choose_device(device)
    with_ending = file.with_name(file.name + ".pt")
    file = with_ending if not file.is_file() and with_ending.is_file() else file
    named_by_prefix = not file.is_file() or index_path(file).stem != file.name
    if not named_by_prefix or not is_bundle(file):
        return read_model(file, device)
    model = import_checkpoint(file, config)
    model.network.to(device)
    return model


@torch.no_grad()
def predict_batch(
    trained: Model,
    fixed_image: torch.Tensor,
    moving_image: torch.Tensor,
    moving_label: torch.Tensor | None = None,
) -> Prediction:
    """What a network says about a batch, computed where the network is and brought to the CPU.

    In bfloat16 where `predicts_in_bf16` says so or `torch.autocast` is around the call, but in float32 where
    that, or half precision of its weights, overflows.

    Args:
        trained: the network.
        fixed_image: ``(B, 1, I, J, K)`` as the loaders give it.
        moving_image: ``(B, 1, i, j, k)``, alike.
        moving_label: of the size of the moving image, for networks that take one.
    """
    given = (fixed_image, moving_image, moving_label)
    device = device_of(trained.network)
    there = [x if x is None else x.to(device) for x in given]
    half = predicts_in_bf16(trained.bf16, device)
    with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
        answer = answer_of(trained.network, lambda: trained.network(*there), _parts)
    return Prediction(*(part if part is None else part.cpu() for part in _parts(answer)))


def pair_of(prediction: Prediction, number: int) -> Prediction:
    """What is said about one pair of a batch, as a batch of one.

    Raises:
        InputError: a number of it is NaN or infinite.
    """
    one = [part if part is None else part[number : number + 1] for part in _parts(prediction)]
    if not all_finite(one):
        raise InputError("what the network says about this pair holds values that are NaN or infinite")
    return Prediction(*one)


def _parts(prediction: Prediction) -> tuple[torch.Tensor | None, ...]:
    return prediction.ddf, prediction.dvf, prediction.theta, prediction.label


def transform_of(prediction: Prediction, number: int, fixed: Geometry, moving: Geometry) -> Transform:
    """The transform in space of one pair of a batch.

    Args:
        prediction: with a displacement field, on the CPU.
        number: of the pair in the batch.
        fixed, moving: the network's grids in space.

    Returns:
        x_moving = T(x_fixed) in RAS mm: A_moving θ A_fixed⁻¹ where the network gives an affine map θ; else a
        field on the network's fixed grid with one voxel more on each side, where the displacement in voxels
        is that of the border. So it reaches over the outer half of the border voxels, too.

    Raises:
        InputError: what the network gives is not finite, or no displacement.
    """
    if prediction.theta is not None:
        theta = prediction.theta[number].double().numpy()
        if not np.isfinite(theta).all():
            raise InputError("the affine map that the network gives holds values that are NaN or infinite")
        index_map = np.vstack([theta.T, [0, 0, 0, 1]])
        return AffineTransform(moving.affine @ index_map @ np.linalg.inv(fixed.affine))
    if prediction.ddf is None:
        raise InputError(LABELS_ONLY)
    ddf = prediction.ddf[number].movedim(0, -1).double().numpy()
    ddf = np.pad(ddf, ((1, 1), (1, 1), (1, 1), (0, 0)), mode="edge")
    return DisplacementField.from_voxels(ddf, padded(fixed, 1), padded(moving, 1))


def predicted_transform(
    trained: Model,
    fixed: Volume,
    moving: Volume,
    *,
    initial: Transform | None = None,
    onto: Geometry | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Transform:
    """The transform that a trained network finds between two images of any shape, spacing and orientation.

    Their axes are put in the order of the training, or those of the moving image in that of the fixed one
    where it is not known. Then both are normalised and resized as the loaders do it: the box of the one image
    lies on that of the other, wherever they are in space. With a transform to start from, the moving image is
    first seen through it in the box of the fixed one; so it is, where it lies, by a network that was trained
    with ``dataset.space: header``.

    A network that finds transforms in a way of its own has a method ``find_transform(fixed, moving, *,
    device, progress)``, which gets the volumes as they are and gives x_moving = T(x_fixed) in RAS mm. If it
    has settings for that, ``own_settings`` holds their types by name, and the method takes ``settings``.
    Its method ``stopover(fixed, moving)``, if it has one, gives a third image by way of which a refinement
    begins, or None.

    Args:
        trained: the network, on the device that it shall compute on.
        fixed, moving: images.
        initial: fixed -> moving, RAS mm; the result contains it.
        onto: the grid that a field is given back on; by default that of the network, one voxel wider.
        settings: of the network's own way, by name.
        progress: told of the stages.

    Returns:
        x_moving = T(x_fixed), RAS mm: affine if the network and `initial` are.

    Raises:
        InputError: the network predicts labels, or something that is not finite.
    """
    if isinstance(trained.network, ConditionalModel):
        raise InputError(LABELS_ONLY)
    progress(0.0, "preparing the images", {})
    in_space = (trained.config.get("dataset") or {}).get("space") == "header"
    if initial is None and in_space and fixed.geometry.overlaps(moving.geometry):
        initial = AffineTransform(np.eye(4))
    start = moving if initial is None else warp(moving, initial, fixed.geometry)
    own_way = getattr(trained.network, "find_transform", None)
    if own_way is not None:
        device = str(device_of(trained.network))
        more = {"settings": settings} if settings else {}
        found = own_way(fixed, start, **more, device=device, progress=progress)
        return _after(initial, found, onto)
    fixed_axes, moving_axes = trained.axes or [fixed.geometry.axis_codes] * 2
    if in_space and initial is not None:  # such a network saw moving images along the axes of the fixed ones
        moving_axes = fixed_axes
    fixed, moving = reoriented(fixed, fixed_axes), reoriented(start, moving_axes)
    images, grids = _as_in_training(trained, fixed, moving, seen_in_fixed=initial is not None)
    warn_if_unlike(trained, dict(zip(("fixed", "moving"), images, strict=True)), "")
    progress(0.2, "network", {})
    prediction = predict_batch(trained, *images)
    progress(0.7, "displacements", {})
    found = _after(initial, transform_of(pair_of(prediction, 0), 0, *grids), onto)
    progress(1.0, "displacements", {})
    return found


def _as_in_training(
    trained: Model, fixed: Volume, moving: Volume, *, seen_in_fixed: bool
) -> tuple[list[torch.Tensor], list[Geometry]]:
    """Both images ``(1, 1, I, J, K)`` as the loaders give them, and the grids that they are on.

    seen_in_fixed: the moving image lies in the box of the fixed one already, and is cropped as that is.
    """
    dataset = trained.config.get("dataset") or {}
    intensity, spacing = intensity_of(dataset), dataset.get("spacing")
    images: list[torch.Tensor] = []
    grids: list[Geometry] = []
    sizes = (trained.fixed_size, trained.moving_size)
    for volume, side, size in zip((fixed, moving), ("fixed", "moving"), sizes, strict=True):
        scaled = replace(volume, array=intensity(volume.array, f"the {side} image"))
        if spacing is None:
            images.append(resized(scaled.array, size)[None])
            grids.append(volume.geometry.resized_box(size))
            continue
        if grids and seen_in_fixed:
            grids.append(centred(grids[0], size, spacing, (np.array(grids[0].shape) - 1) / 2))
        else:
            grids.append(box_about_body(scaled, size, spacing))
        images.append(seen_in(scaled, grids[-1])[None])
    return images, grids


def warn_if_unlike(trained: Model, images: Mapping[str, torch.Tensor], where: str) -> None:
    """Warn of images whose intensities are far from all that the network saw in its training.

    Args:
        trained: the network.
        images: "fixed" and "moving" as the network gets them.
        where: what stands before the sentence.
    """
    for side, image in images.items():
        if trained.seen is not None and is_unlike(image.numpy(), trained.seen[side]):
            log.warning(
                "%sthe %s image has other intensities than those of the training: another sequence or unit,"
                " or a few voxels of extreme values; check the result",
                where,
                side,
            )


def _after(initial: Transform | None, found: Transform, onto: Geometry | None) -> Transform:
    """x -> initial(found(x)), a field on the grid wanted."""
    if isinstance(initial, DisplacementField):
        return initial.compose(found, onto)
    if initial is not None:
        found = initial.compose(found)
    return found if onto is None or isinstance(found, AffineTransform) else found.resampled(onto)
