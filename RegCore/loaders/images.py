"""One side of a pair, fixed or moving: images with their labels, checked, and as the network gets them."""

from dataclasses import dataclass, field

import numpy as np
import torch

from RegCore.loaders.sources import Source
from RegCore.resampler import resize3d, tensor_of
from RegCore.resampler.pyramid import normalize_array
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume

MOST_REMEMBERED = 2**28  # bytes of an array of labels that is kept for its next label
ROUNDING = 1e-5  # by which a label scaled by its file's header may miss 0 and 1


@dataclass
class RoleImages:
    """Images of one role and, if there are any, their labels.

    name: "fixed", "moving", or "image" where both roles have the same images.
    images, labels: sources with the same names; labels None for unlabelled data.
    shape: the network's grid (I, J, K), to which images and labels are resized.
    grids, channels: the grid of each image as its file says, and how many labels it has.
    elsewhere: labels that lie on another grid than their images, found by `check`.
    """

    name: str
    images: Source
    labels: Source | None
    shape: tuple[int, int, int]
    grids: list[Geometry] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    _images: dict[int, torch.Tensor] = field(default_factory=dict)  # the last ones: a pair comes with each
    _labels: dict[int, np.ndarray] = field(default_factory=dict)  # of its labels, one after the other

    def __len__(self) -> int:
        return len(self.images)

    def keep(self, indices: list[int]) -> None:
        """Forget all images but these, and their labels."""
        for source in (self.images, self.labels):
            if source is not None:
                source.keep(indices)
        self.grids = [self.grids[i] for i in indices]
        self.channels = [self.channels[i] for i in indices]

    def close(self) -> None:
        """Close open files and forget what was read; both come back when they are needed."""
        for source in (self.images, self.labels):
            if source is not None:
                source.close()
        self._images.clear()
        self._labels.clear()

    def check(self, index: int, *, whole: bool) -> tuple[Geometry, int]:
        """Grid of an image and number of its labels (0 without labels), by the headers or by all that is in.

        Raises InputError, one sentence that names the file.
        """
        shape, grid = self.images.header(index)
        if len(shape) != 3:
            where = self.images.where(index)
            raise InputError(f"{where}: one 3-D image was expected, but its shape is {tuple(shape)}")
        channels = 0
        if self.labels is not None:
            label_shape, label_grid = self.labels.header(index)
            channels = label_shape[3] if len(label_shape) == 4 else 1
            placed = not np.array_equal(label_grid.affine, np.eye(4))  # else the file says nothing of it
            if label_grid.shape != grid.shape or placed and not label_grid.is_close(grid, 0.1):
                self.elsewhere.append(self.labels.where(index))
        if whole:
            normalised(self.images.read(index)[0], self.images.where(index))
            if self.labels is not None:
                check_label(self.labels.read(index)[0], self.labels.where(index))
        return grid, channels

    def image(self, index: int) -> torch.Tensor:
        """An image (1, I, J, K) on the network's grid, float32 in [0, 1]; an InputError names the file."""
        if index not in self._images:
            array, _ = self.images.read(index)
            _remember(self._images, index, resized(normalised(array, self.images.where(index)), self.shape))
        return self._images[index]

    def label(self, index: int, channel: int) -> torch.Tensor:
        """A label (1, I, J, K) on the network's grid, float32 in [0, 1], soft at its border.

        Raises InputError that names the file where the labels are not in [0, 1].
        """
        array = self._label_array(index)
        return resized(array if array.ndim == 3 else array[..., channel], self.shape)

    def _label_array(self, index: int) -> np.ndarray:
        array = self._labels.get(index)
        if array is None:
            array, _ = self.labels.read(index)
            check_label(array, self.labels.where(index))
            if array.nbytes <= MOST_REMEMBERED:
                _remember(self._labels, index, array)
        return array

    def image_volume(self, index: int) -> Volume:
        """An image as its file holds it."""
        array, grid = self.images.read(index)
        return Volume(array, grid)

    def label_volume(self, index: int, channel: int) -> Volume:
        """A label as its file holds it, in the box of its image: if binary as labels, if soft as an image."""
        array = self._label_array(index)
        array = array if array.ndim == 3 else array[..., channel]
        grid = self.grids[index].resized_box(array.shape)
        binary = bool(((array == 0) | (array == 1)).all())
        return Volume(array.astype(np.uint8 if binary else np.float32), grid, "labels" if binary else "image")


def _remember(last: dict, index: int, value) -> None:
    """Keep the values of two images, the fixed and the moving one."""
    if len(last) > 1:
        del last[next(iter(last))]
    last[index] = value


def normalised(array: np.ndarray, where: str) -> np.ndarray:
    """`RegCore.resampler.pyramid.normalize_array` without a window."""
    return normalize_array(array, where=where)


def check_label(array: np.ndarray, where: str) -> None:
    """Raise InputError that begins with `where` if the values of a label are not in [0, 1]."""
    low, high = array.min(), array.max()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            f"{where}: a label must have values from 0 to 1, one channel for each structure, "
            f"but they go from {low:g} to {high:g}"
        )


def resized(array: np.ndarray, shape) -> torch.Tensor:
    """(I, J, K) as a float32 tensor (1, *shape), linear about half-pixel centres, as TensorFlow resizes."""
    tensor = tensor_of(np.ascontiguousarray(array, np.float32))[None, None]
    return resize3d(tensor, shape, align_corners=False)[0]
