"""One side of a pair, fixed or moving: images with their labels, checked, and as the network gets them."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch

from RegCore.loaders.boxes import box_about_body, seen_in
from RegCore.loaders.intensity import Intensity, MinMax, quantiles
from RegCore.loaders.sources import Source
from RegCore.loaders.structures import LabelMaps
from RegCore.resampler import resize3d, tensor_of, warp
from RegCore.resampler.pyramid import as_tensor, resample_to
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume, finite, reoriented, unknown_voxels

log = logging.getLogger(__name__)
MOST_REMEMBERED = 2**28  # bytes of an array of labels that is kept for its next label


@dataclass
class RoleImages:
    """Images of one role and, if there are any, their labels.

    Args:
        name: "fixed", "moving", or "image" where both roles have the same images.
        images, labels: sources with the same names; labels None for unlabelled data.
        shape: the network's grid (I, J, K), to which images and labels are resized.
        grids, channels: the grid of each image as its file says, and how many labels it has.
        elsewhere: labels that lie on another grid than their images, found by `check`.
        axes: how the voxel axes of all images run as the network gets them, see `Geometry.axis_codes`; None:
            as in each file. What has no place in space (its affine is the identity) stays as in its file.
        intensity: how intensities become numbers in [0, 1].
        spacing: size of the network's voxels in mm; None: as large as the image divided by `shape` says.
    """

    name: str
    images: Source
    labels: Source | None
    shape: tuple[int, int, int]
    grids: list[Geometry] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    axes: str | None = None
    intensity: Intensity = MinMax()
    spacing: tuple[float, float, float] | None = None
    _boxes: dict[int, Geometry] = field(default_factory=dict)  # where each image is seen with a spacing
    _images: dict[int, torch.Tensor] = field(default_factory=dict)  # the last ones: a pair comes with each
    _labels: dict[int, np.ndarray] = field(default_factory=dict)  # of its labels, one after the other
    _told: set[int] = field(default_factory=set)  # images with unknown voxels, of which one warning is enough

    def __len__(self) -> int:
        return len(self.images)

    def keep(self, indices: list[int]) -> None:
        """Forget all images but these, and their labels."""
        for source in (self.images, self.labels):
            if source is not None:
                source.keep(indices)
        self.grids = [self.grids[i] for i in indices]
        self.channels = [self.channels[i] for i in indices]
        self._boxes.clear()

    def close(self) -> None:
        """Close open files and forget what was read; both come back when they are needed."""
        for source in (self.images, self.labels):
            if source is not None:
                source.close()
        self._images.clear()
        self._labels.clear()

    def check(self, index: int, *, whole: bool) -> tuple[Geometry, int]:
        """Grid of an image and number of its labels (0 without labels), by the headers or by all that is in.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        shape, grid = self.images.header(index)
        if len(shape) != 3:
            where = self.images.where(index)
            raise InputError(f"{where}: one 3-D image was expected, but its shape is {tuple(shape)}")
        channels = 0
        if self.labels is not None:
            label_shape, label_grid = self.labels.header(index)
            channels = label_shape[3] if len(label_shape) == 4 else 1
            other = (
                label_grid.shape != grid.shape or has_place(label_grid) and not label_grid.is_close(grid, 0.1)
            )
            if other and not self._in_space(label_grid, grid):
                self.elsewhere.append(self.labels.where(index))
        if whole:
            self.intensity(self._read(index)[0], self.images.where(index))
            if self.labels is not None:
                self.labels.check(self.labels.read(index)[0], index)
        return grid, channels

    def grid(self, index: int) -> Geometry:
        """The grid of an image with its axes as the network gets them."""
        grid = self.grids[index]
        return self._turned(np.broadcast_to(np.uint8(0), grid.shape), grid).geometry

    def image(self, index: int) -> torch.Tensor:
        """An image (1, I, J, K) on the network's grid, float32 in [0, 1]; an InputError names the file."""
        if index not in self._images:
            array, grid = self._read(index)
            volume = self._turned(self.intensity(array, self.images.where(index)), grid)
            if self.spacing is None:
                image = resized(volume.array, self.shape)
            else:
                image = seen_in(volume, self.network_grid(index, volume))
            _remember(self._images, index, image)
        return self._images[index]

    def _read(self, index: int) -> tuple[np.ndarray, Geometry]:
        """The voxels of an image and their grid, where that is wanted without those that are not known."""
        array, grid = self.images.read(index)
        unknown = unknown_voxels(array) if self.images.unknown_is_background else 0
        if not unknown:
            return array, grid
        where = self.images.where(index)
        if unknown == array.size:
            raise InputError(f"{where}: all voxels are NaN or infinite, there is nothing to align")
        if index not in self._told:
            self._told.add(index)
            text = "%s: voxels that are NaN or infinite count as background: %d of %d"
            log.warning(text, where, unknown, array.size)
        return finite(Volume(array, grid)).array, grid

    def network_grid(self, index: int, volume: Volume | None = None) -> Geometry:
        """Where the voxels that the network gets of an image lie in space.

        Args:
            index: of the image.
            volume: the image itself, turned, if it was read already.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        if self.spacing is None:
            return self.grid(index).resized_box(self.shape)
        if index not in self._boxes:
            if volume is None:
                volume = self._turned(*self._read(index))
            self._boxes[index] = box_about_body(volume, self.shape, self.spacing)
        return self._boxes[index]

    def intensity_range(self, most: int = 16) -> list[list[float]]:
        """What `RegCore.loaders.intensity.is_unlike` compares with, from so many images at most."""
        chosen = np.unique(np.linspace(0, len(self) - 1, most).round().astype(int))
        found = np.array([quantiles(self.image(int(index)).numpy()) for index in chosen])
        return [found.min(0).tolist(), found.max(0).tolist()]

    def label(self, index: int, channel: int) -> torch.Tensor:
        """A label (1, I, J, K) on the network's grid, float32 in [0, 1], soft at its border.

        Raises:
            InputError: the labels are not in [0, 1]; the message names the file.
        """
        volume = self._label(index, channel)
        if self.spacing is not None:
            return seen_in(volume, self.network_grid(index))
        return resized(self._turned(volume.array, volume.geometry).array, self.shape)

    def seen_on(self, box: Geometry, index: int, channel: int | None) -> torch.Tensor:
        """An image (channel None) or a label as it lies in space on another grid: (1, *box.shape), 0 outside.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        if channel is None:
            array, grid = self._read(index)
            volume = Volume(self.intensity(array, self.images.where(index)), grid)
        else:
            volume = self._label(index, channel)
        if self.spacing is not None:
            return seen_in(volume, box)
        seen, inside = resample_to(as_tensor(volume), volume.geometry, box, np.eye(4))
        return (seen * inside)[0]

    def _label(self, index: int, channel: int) -> Volume:
        """One label in the box of its image."""
        array = self.labelled().channel(self._label_array(index), channel)
        return Volume(array, self.grids[index].resized_box(array.shape))

    def labelled(self) -> Source:
        """The source of labels, for what is asked of labelled images only; InputError without labels."""
        if self.labels is None:
            raise InputError(f"the {self.name} images have no labels")
        return self.labels

    def _turned(self, array: np.ndarray, grid: Geometry) -> Volume:
        """An array on a grid with its axes as the network gets them."""
        volume = Volume(array, grid)
        return volume if self.axes is None or not has_place(grid) else reoriented(volume, self.axes)

    def _label_array(self, index: int) -> np.ndarray:
        array = self._labels.get(index)
        if array is None:
            array, grid = self.labelled().read(index)
            self.labelled().check(array, index)
            image = self.grids[index]
            if self._in_space(grid, image) and not (grid.shape == image.shape and grid.is_close(image, 0.1)):
                array = self._as_the_image(array, grid, image)
            elif self.axes is not None and has_place(grid) and has_place(image):
                array = reoriented(Volume(array, grid), image.axis_codes).array
            if array.nbytes <= MOST_REMEMBERED:
                _remember(self._labels, index, array)
        return array

    @property
    def structures(self) -> list[str] | None:
        """Names of the labels, if they come from label maps."""
        return self.labels.structures if isinstance(self.labels, LabelMaps) else None

    def label_map(self, index: int) -> Volume | None:
        """The label map of an image as its file holds it; None where labels are no label maps."""
        return self.labels.volume(index) if isinstance(self.labels, LabelMaps) else None

    def _in_space(self, grid: Geometry, image: Geometry) -> bool:
        """Whether a label lies where its header says: of label maps, such as those that Slicer crops."""
        return self.structures is not None and has_place(grid) and has_place(image)

    def _as_the_image(self, array: np.ndarray, grid: Geometry, image: Geometry) -> np.ndarray:
        """Channel numbers or channels on the grid of the image, each voxel that of the nearest one."""
        return warp(Volume(array, grid, "labels"), AffineTransform(np.eye(4)), image).array

    def image_volume(self, index: int) -> Volume:
        """An image as its file holds it."""
        array, grid = self.images.read(index)
        return Volume(array, grid)

    def label_volume(self, index: int, channel: int) -> Volume:
        """A label as its file holds it, in the box of its image: if binary as labels, if soft as an image."""
        label = self._label(index, channel)
        array, grid = label.array, label.geometry
        binary = bool(((array == 0) | (array == 1)).all())
        return Volume(array.astype(np.uint8 if binary else np.float32), grid, "labels" if binary else "image")


def has_place(grid: Geometry) -> bool:
    """Whether a file says where its voxels are; one that says nothing has the identity as its affine."""
    return not np.array_equal(grid.affine, np.eye(4))


def _remember(last: dict, index: int, value) -> None:
    """Keep the values of two images, the fixed and the moving one."""
    if len(last) > 1:
        del last[next(iter(last))]
    last[index] = value


def resized(array: np.ndarray, shape) -> torch.Tensor:
    """(I, J, K) as a float32 tensor (1, *shape), linear about half-pixel centres, as TensorFlow resizes."""
    tensor = tensor_of(np.ascontiguousarray(array, np.float32))[None, None]
    return resize3d(tensor, shape, align_corners=False)[0]
