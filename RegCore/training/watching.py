"""What shows how a training goes: a small picture of a validation pair, and the same for TensorBoard."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import nn

from RegCore.evaluation.pictures.slices import Scene, tile_picture
from RegCore.io.files import atomic_write
from RegCore.networks.models import warped
from RegCore.resampler import resize3d
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume
from RegCore.training.batches import on_device
from RegCore.training.gradients import predict
from RegCore.training.prepare import Run

NEWEST, FOLDER = "validation.png", "pictures"
MOST_KEPT = 50  # pictures of a training that stay in the folder


def watch(run: Run) -> None:
    """After a validation: its picture into the run's folder and to TensorBoard, which gets the weights, too.

    ``validation.png`` is the newest, ``pictures/epoch-<n>.png`` are those of every so many epochs.

    Args:
        run: of the first process, its history with the row of this epoch.
    """
    if run.boards is not None:
        run.boards.weights(run.state.position.epoch, run.trained.network)
    if run.valid is None or run.valid_objective is None:
        return
    batch = next(iter(run.valid.epoch(0, seed=run.state.seed, most=1)), None)
    if batch is None:
        return
    structures = run.valid.loader.structures
    channel = int(batch["indices"][0, -1])
    name = structures[channel] if structures and channel >= 0 else ""
    border = "zero_boundary" if run.config.train.deepreg else "edge"
    picture = picture_of(run.trained.network, on_device(batch, run.group.device), name, border=border)
    epoch = run.state.position.epoch
    paths = [run.folder.path / NEWEST]
    if epoch % -(-run.epochs // MOST_KEPT) == 0 or epoch == run.epochs:
        paths.append(run.folder.path / FOLDER / f"epoch-{epoch}.png")
        paths[-1].parent.mkdir(exist_ok=True)
    for path in paths:
        with atomic_write(path) as side:
            picture.save(side, "PNG")
    if run.boards is not None:
        run.boards.picture("validation", "pair", epoch, np.asarray(picture))


@torch.no_grad()
def picture_of(network: nn.Module, batch: Mapping, name: str = "", *, border: str = "edge") -> Image.Image:
    """The first pair of a batch on the network's grid: fixed, moving and warped image, with outlines.

    Args:
        network: in evaluation mode.
        batch: as in training, on the network's device. Of the label, the fixed one is outlined first (green),
            the moving or warped one second (orange).
        name: of the structure.
        border: see `RegCore.networks.models.warped`.

    Returns:
        600 × 200 pixels: the slice in which the fixed label is largest, or the middle one. A network that
        predicts labels alone has the fixed image in place of the warped one.
    """
    one = {key: value[:1] for key, value in batch.items() if isinstance(value, torch.Tensor)}
    prediction = predict(network, one)
    image, label = warped(prediction, one["moving_image"], one.get("moving_label"), border=border)
    grid = batch["fixed_geometry"][0]
    moving = resize3d(one["moving_image"], grid.shape, align_corners=False)
    scenes = [_scene(one["fixed_image"], grid), _scene(moving, grid)]
    scenes.append(scenes[0] if image is None else _scene(image, grid))
    number = grid.shape[2] // 2
    if "fixed_label" in one:
        fixed_label = one["fixed_label"]
        number = int((fixed_label[0, 0] > 0.5).sum((0, 1)).argmax()) if fixed_label.max() > 0.5 else number
        moving_label = resize3d(one["moving_label"], grid.shape, align_corners=False)
        outlines = [_labels(grid, fixed_label), _labels(grid, fixed_label, moving_label)]
        outlines.append(_labels(grid, fixed_label, fixed_label if label is None else label))
        scenes = [Scene(scene.image, line) for scene, line in zip(scenes, outlines, strict=True)]
    titles = [f"fixed: {name}" if name else "fixed", "moving", "warped" if image is not None else "predicted"]
    return tile_picture(scenes, [number], titles)


def _scene(image: torch.Tensor, grid: Geometry) -> Scene:
    return Scene(Volume(image[0, 0].float().cpu().numpy(), grid))


def _labels(grid: Geometry, *labels: torch.Tensor) -> Volume:
    """Labels cut at one half, a channel for each."""
    channels = [label[0, 0].float().cpu().numpy() > 0.5 for label in labels]
    return Volume(np.stack(channels, -1).astype(np.uint8), grid, "labels")
