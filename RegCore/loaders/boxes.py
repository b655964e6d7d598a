"""The grid of a network whose voxels have a given size: laid about the body, images are not stretched."""

from collections.abc import Sequence

import numpy as np
import torch

from RegCore.resampler.pyramid import as_tensor, downsample, foreground, resample_to, spacing_along
from RegCore.space.geometry import Geometry
from RegCore.space.volume import Volume

OUTSIDE = 0.5  # percent of the body's voxels on each side that its extent leaves out: noise around it


def box_about_body(volume: Volume, shape: Sequence[int], spacing: Sequence[float]) -> Geometry:
    """A grid of this shape and spacing along the axes of an image, in the middle of it or of the body.

    Along an axis on which the grid covers the image it lies about the image's middle; along one that must be
    cropped, about the body's, but within the image.

    Args:
        volume: the image, as a scanner gives it or scaled.
        shape: voxels (I, J, K).
        spacing: three lengths in mm along the axes of the image.
    """
    grid = volume.geometry
    extent, wanted = np.array(grid.shape) * grid.spacing, np.array(shape) * np.asarray(spacing, float)
    centre = (np.array(grid.shape) - 1) / 2
    if (wanted < extent).any():
        places = np.nonzero(foreground(volume.array))
        for axis in np.flatnonzero(wanted < extent):
            if len(places[axis]):
                centre[axis] = np.percentile(places[axis], [OUTSIDE, 100 - OUTSIDE]).mean()
            reach = wanted[axis] / grid.spacing[axis] / 2  # voxels of the image from the middle to the face
            centre[axis] = np.clip(centre[axis], reach - 0.5, grid.shape[axis] - 0.5 - reach)
    return centred(grid, shape, spacing, centre)


def centred(grid: Geometry, shape: Sequence[int], spacing: Sequence[float], centre: np.ndarray) -> Geometry:
    """A grid of another shape and spacing along the same axes, whose middle is at an index of the first."""
    i, j, k = (int(n) for n in shape)
    affine = np.eye(4)
    affine[:3, :3] = grid.affine[:3, :3] * (np.asarray(spacing, float) / grid.spacing)
    affine[:3, 3] = grid.to_world(centre) - affine[:3, :3] @ ((np.array([i, j, k]) - 1) / 2)
    return Geometry((i, j, k), affine)


def seen_in(volume: Volume, box: Geometry) -> torch.Tensor:
    """An image or a label in [0, 1] as it lies in space on another grid, ``(1, *box.shape)``, 0 outside.

    What is finer than the grid is smoothed away before, so that nothing aliases.
    """
    along = spacing_along(box, volume.geometry.direction)
    whole = as_tensor(volume)
    image, grid = downsample(whole, volume.geometry, along, least=1)
    seen, inside = resample_to(image, grid, box, np.eye(4))
    if grid is not volume.geometry:  # whose edges lie further out than those of the smaller one
        inside = resample_to(whole, volume.geometry, box, np.eye(4))[1]
    return (seen * inside)[0]
