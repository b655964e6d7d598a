"""How good a prediction is: DeepReg's figures on the network's grid, figures in mm on the original."""

from collections.abc import Mapping

import numpy as np
import torch

from RegCore import losses
from RegCore.evaluation.metrics import dice, folding
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume


def on_network_grid(
    batch: Mapping[str, torch.Tensor],
    image: torch.Tensor | None,
    label: torch.Tensor | None,
    *,
    deepreg: bool,
) -> dict[str, float]:
    """The figures of one pair with one label as DeepReg defines them.

    ``image_ssd``: mean squared difference of images in [0, 1]. ``label_binary_dice``: of labels cut at one
    half. ``label_tre``: distance of their centroids in voxels. Both are left out of a pair that
    `is_placeholder`, unless `deepreg`.

    Args:
        batch: ``fixed_image`` and, with labels, ``fixed_label`` and ``moving_label``, ``(1, 1, I, J, K)``.
        image, label: what is predicted for them; what is None has no figure.
    """
    metrics = {}
    if image is not None:
        metrics["image_ssd"] = losses.ssd(batch["fixed_image"], image)
    if label is not None and (deepreg or not is_placeholder(batch)):
        # DeepReg's own score, which calls two empty labels 1: its tables are held against recorded ones
        metrics["label_binary_dice"] = -losses.dice(batch["fixed_label"], label, binary=True)
        metrics["label_tre"] = losses.centroid_distance(batch["fixed_label"], label, deepreg=deepreg)
    return {name: float(value.squeeze()) for name, value in metrics.items()}


def is_placeholder(batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether a label is empty in the fixed or in the moving image, as one that was never drawn."""
    labels = [batch[name] for name in ("fixed_label", "moving_label") if name in batch]
    return not all(bool(label.any()) for label in labels)


def in_space(
    transform: Transform, fixed_label: Volume | None, warped_label: Volume | None
) -> dict[str, float]:
    """Figures on the original fixed grid, by the keys `RegCore.evaluation.figures.IN_SPACE`.

    Returns:
        ``fold_percent``, share of the network's voxels where the transform folds. With labels on one grid
        ``label_dice`` and ``label_tre_mm``, distance of their centroids; NaN where there is nothing to
        measure.
    """
    metrics = {"fold_percent": folding(transform)}
    if fixed_label is not None and warped_label is not None:
        a, b = (np.asarray(volume.array) >= 0.5 for volume in (fixed_label, warped_label))
        metrics["label_dice"] = dice(a, b, [1])[1]
        difference = _centroid(a) - _centroid(b)
        metrics["label_tre_mm"] = float(np.linalg.norm(fixed_label.geometry.affine[:3, :3] @ difference))
    return metrics


def _centroid(inside: np.ndarray) -> np.ndarray:
    """Mean index (3,) of the voxels that are inside; NaN for none."""
    places = np.nonzero(inside)
    return np.array([axis.mean() if len(axis) else np.nan for axis in places])
