"""Loaders of paired, unpaired and grouped images: what is sampled in an epoch, and what a sample holds."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from RegCore.loaders.boxes import centred
from RegCore.loaders.images import RoleImages, has_place
from RegCore.loaders.samplers import label_indices
from RegCore.loaders.sources import Source
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.names import check_name
from RegCore.space.volume import Volume

log = logging.getLogger(__name__)
LABEL_SAMPLINGS = ("sample", "all")
NOWHERE = Geometry((1, 1, 1), np.eye(4))  # of a file that is left out
SPACES = ("file", "axes", "header")


class Sample(NamedTuple):
    """What is loaded as one sample: images by their number in the sources, and a label.

    Args:
        indices: how DeepReg names the pair: (i,), (moving, fixed) or (group, image, group, image).
        label: the channel; -1 without labels.
    """

    moving: int
    fixed: int
    indices: tuple[int, ...]
    label: int


class Loader:
    """Images in pairs, with or without labels. `Paired`, `Unpaired` and `Grouped` say which images meet.

    On construction all headers are read, so that what can't be used is told before anything is computed.

    Args:
        fixed, moving: the two sides; one and the same object where every image can be either.
        sample_label: "sample" takes one label of each pair at random, "all" each in turn.
        seed: of the order of pairs, then the same in every epoch; None: it follows from the epoch and from
            the seed of the run.
        skip_bad_files: read every file now, and leave out, with a warning that names it, what can't be used.

    Raises:
        InputError: images and labels do not belong together or can't be used; the message names the file.
    """

    space = "file"  # what places in space are used for, see `place`
    num_indices = 0  # numbers that name a sample: DeepReg's indices of the images, and the label's

    def __init__(
        self,
        fixed: RoleImages,
        moving: RoleImages,
        *,
        sample_label: str,
        seed: int | None,
        skip_bad_files: bool = False,
    ):
        if sample_label not in LABEL_SAMPLINGS:
            raise InputError(f"sample_label must be 'sample' or 'all', but it is {sample_label!r}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise InputError(f"seed must be a whole number or null, but it is {seed!r}")
        if (fixed.labels is None) != (moving.labels is None):
            raise InputError("fixed and moving images must both have labels, or neither")
        self.fixed, self.moving = fixed, moving
        self.sample_label, self.seed = sample_label, seed
        self._check_files(skip_bad_files)
        self._check_pairs()
        self.close()

    # ---- what there is ----

    @property
    def sides(self) -> list[RoleImages]:
        """The sides that differ: one if every image can be fixed and moving."""
        return [self.fixed] if self.fixed is self.moving else [self.fixed, self.moving]

    @property
    def labeled(self) -> bool:
        """Whether samples have labels."""
        return self.fixed.labels is not None

    @property
    def names(self) -> list[str]:
        """What the images are called below their folders; a name is that of a fixed and a moving image."""
        return ["/".join(name[1:]) for name in self.fixed.images.names]

    @property
    def structures(self) -> list[str] | None:
        """Names of the labels by channel, where they come from label maps."""
        return self.fixed.structures

    @property
    def fixed_image_shape(self) -> tuple[int, int, int]:
        """The network's grid (I, J, K) of fixed images."""
        return self.fixed.shape

    @property
    def moving_image_shape(self) -> tuple[int, int, int]:
        """The network's grid (I, J, K) of moving images."""
        return self.moving.shape

    @property
    def axes(self) -> tuple[str, str] | None:
        """Where the voxel axes of all fixed and of all moving images run, as `Geometry.axis_codes` says it.

        None if images of one side differ, or if a file has no place in space (its affine is the identity).
        """
        fixed, moving = (side_axes(side) for side in (self.fixed, self.moving))
        return None if fixed is None or moving is None else (fixed, moving)

    @property
    def spacing(self) -> dict[str, list[float]] | None:
        """The size of the network's voxels in mm, for "fixed" and "moving": the median of all images.

        None if the files of a side do not say where they are.
        """
        boxes = self.fixed if self.space == "header" else self.moving  # that moving images are seen in
        sides = {"fixed": (self.fixed, self.fixed.shape), "moving": (boxes, self.moving.shape)}
        found = {name: network_spacing(*side) for name, side in sides.items()}
        return {name: size for name, size in found.items() if size} if all(found.values()) else None

    def place(
        self,
        space: str,
        axes: tuple[str, str] | None = None,
        spacing: tuple[float, float, float] | None = None,
    ) -> None:
        """Say what the places of the images in space, as their files have them, are used for.

        Args:
            space: one of `SPACES`. "file": nothing, voxels are taken in the order of their files. "axes": the
                voxel axes of all images of a side are made to run alike. "header": besides, the moving image
                is seen in the box of the fixed one, where their boxes meet.
            axes: how the axes of fixed and of moving images shall run, see `Geometry.axis_codes`; by default
                as in most files of a side.
            spacing: size of the network's voxels in mm, along the axes as they then run: images are cropped
                or padded about the body to the network's grid. None: they are stretched to it.

        Raises:
            InputError: there is no such space; files do not say where they are, but a spacing is given.
        """
        check_name(space, SPACES, "dataset.space:")
        for side in self.sides if spacing is not None else ():
            nowhere = [index for index, grid in enumerate(side.grids) if not has_place(grid)]
            if nowhere:
                where = side.images.where(nowhere[0])
                raise InputError(f"{where}: dataset.spacing needs the size of voxels, which this file lacks")
        self.space = space
        for number, side in enumerate((self.fixed, self.moving)):
            codes = Counter(grid.axis_codes for grid in side.grids if has_place(grid)).most_common(1)
            common = codes[0][0] if codes else None
            side.spacing = spacing
            side.axes = None if space == "file" else common if axes is None else axes[number]
        self.close()

    def __len__(self) -> int:
        """Number of pairs in an epoch, as DeepReg counts them."""
        raise NotImplementedError

    # ---- what is sampled ----

    def sample_indices(self, epoch: int = 0, seed: int = 0) -> list[tuple]:
        """The pairs of an epoch in order: (moving, fixed, indices), as DeepReg's recorded orders have them.

        Args:
            seed: of the run; used only where the loader itself has none.
        """
        return list(self._pairs(self._rng(epoch, seed)))

    def samples(self, epoch: int = 0, seed: int = 0) -> list[Sample]:
        """The samples of an epoch in order: each pair with a label drawn, with each label, or without.

        Labels drawn at random differ between epochs even if the loader has a seed of its own.
        """
        chosen: list[Sample] = []
        for moving, fixed, indices in self.sample_indices(epoch, seed):
            moving, fixed = self._number(moving), self._number(fixed)
            labels = [-1]
            if self.labeled:
                rng = Random(f"label/{seed}/{epoch}/{len(chosen)}")
                labels = self._label_indices(moving, fixed, rng)
            chosen += [Sample(moving, fixed, tuple(indices), label) for label in labels]
        return chosen

    def _label_indices(self, moving: int, fixed: int, rng: Random) -> list[int]:
        """Labels of a pair: of label maps those that both images have, if there are any."""
        sides = (self.fixed, fixed), (self.moving, moving)
        there = [side.labels.present(index) for side, index in sides if side.labels is not None]
        if None in there or not (both := [n for n in there[0] or () if n in (there[1] or ())]):
            return label_indices(self.fixed.channels[fixed], self.sample_label, rng)
        return [both[n] for n in label_indices(len(both), self.sample_label, rng)]

    def _rng(self, epoch: int, seed: int) -> Random:
        return Random(self.seed if self.seed is not None else f"order/{seed}/{epoch}")

    def _pairs(self, rng: Random) -> Iterator[tuple]:
        raise NotImplementedError

    def _number(self, index) -> int:
        """The number of an image in its source, from what `_pairs` calls it."""
        return index

    # ---- what a sample holds ----

    def load(self, sample: Sample, part: Callable | None = None) -> dict:
        """One sample, ready for the network.

        Args:
            sample: an entry of `samples`.
            part: called as ``part(side, index, channel)`` to get a tensor (1, I, J, K); channel None is the
                image. By default it is read from its file; a cache comes in here.

        Returns:
            ``fixed_image (1, I, J, K)``, ``moving_image (1, i, j, k)``, with labels ``fixed_label`` and
            ``moving_label`` of the same shapes, all float32 in [0, 1]; ``indices``, list of `num_indices`
            whole numbers; ``fixed_geometry`` (the network's grid in space), ``fixed_file_geometry`` (the
            image's own), ``fixed_name``, and the same of ``moving``.

        Raises:
            InputError: the file can't be used; the message names it.
        """
        part = part or read_part
        loaded: dict[str, Any] = {"indices": [*sample.indices, sample.label]}
        names = [("image", None)] + [("label", sample.label)] * self.labeled
        for role, side, index, box in (
            ("fixed", self.fixed, sample.fixed, None),
            ("moving", self.moving, sample.moving, self._shared_box(sample)),
        ):
            for name, channel in names:
                seen = part(side, index, channel) if box is None else side.seen_on(box, index, channel)
                loaded[f"{role}_{name}"] = seen
            loaded[f"{role}_geometry"] = box or side.network_grid(index)
            loaded[f"{role}_file_geometry"] = side.grids[index]
            loaded[f"{role}_name"] = "/".join(side.images.names[index][1:])
        return loaded

    def _shared_box(self, sample: Sample) -> Geometry | None:
        """The network's moving grid laid over the fixed image, if the moving one is to be seen there."""
        if self.space != "header":
            return None
        fixed, moving = self.fixed.grid(sample.fixed), self.moving.grid(sample.moving)
        overlap = has_place(fixed) and has_place(moving) and fixed.overlaps(moving)
        if not overlap:
            return None
        if self.moving.spacing is None:
            return fixed.resized_box(self.moving.shape)
        box = self.fixed.network_grid(sample.fixed)
        return centred(box, self.moving.shape, self.moving.spacing, (np.array(box.shape) - 1) / 2)

    def volumes(self, sample: Sample) -> dict[str, Volume]:
        """The same sample as its files hold it: fixed_image, moving_image, fixed_label, moving_label."""
        found = {}
        for role, side, index in (
            ("fixed", self.fixed, sample.fixed),
            ("moving", self.moving, sample.moving),
        ):
            found[f"{role}_image"] = side.image_volume(index)
            if self.labeled:
                found[f"{role}_label"] = side.label_volume(index, sample.label)
        return found

    def close(self) -> None:
        """Close open files; they are opened again when they are needed."""
        for side in self.sides:
            side.close()

    # ---- checks ----

    def _sources(self) -> list[Source]:
        sources = [source for side in self.sides for source in (side.images, side.labels)]
        return [source for source in sources if source is not None]

    def _check_files(self, skip: bool) -> None:
        """Match names, then read the headers (with `skip`: everything); the numbers of all sides agree."""
        match_names(self._sources(), skip)
        bad = set()
        for side in self.sides:
            side.grids, side.channels, side.elsewhere = [], [], []
            for index in range(len(side)):
                try:
                    grid, channels = side.check(index, whole=skip)
                except InputError as error:
                    if not skip:
                        raise
                    log.warning("left out: %s", error)
                    bad.add(index)
                    grid, channels = NOWHERE, 0
                side.grids.append(grid)
                side.channels.append(channels)
            if side.elsewhere:
                text = "labels on another grid than their images, whose box they are made to fill: %d (%s)"
                log.warning(text, len(side.elsewhere), side.elsewhere[0])
        left = [i for i in range(len(self.fixed)) if i not in bad]
        if not left:
            raise InputError(f"none of the {self.fixed.images.title} can be used; the warnings say why")
        for side in self.sides:
            side.keep(left)

    def _check_pairs(self) -> None:
        """Raise InputError where images that may meet have different numbers of labels, or no pair exists."""
        raise NotImplementedError


def check_channels(one: RoleImages, first: int, other: RoleImages, second: int) -> None:
    """Check that two images that may meet have the same number of labels.

    Raises:
        InputError: they have not; the message names both files.
    """
    counts = one.channels[first], other.channels[second]
    if counts[0] != counts[1]:
        files = one.labelled().where(first), other.labelled().where(second)
        raise InputError(
            "images that meet must have the same number of labels, but "
            f"{files[0]} has {counts[0]} and {files[1]} has {counts[1]}"
        )


def side_axes(side: RoleImages) -> str | None:
    """How the voxel axes of all images of a side run, as the network gets them; None if they differ."""
    codes = {side.axes or grid.axis_codes for grid in side.grids}
    return codes.pop() if len(codes) == 1 and all(map(has_place, side.grids)) else None


def network_spacing(side: RoleImages, shape: tuple[int, int, int]) -> list[float] | None:
    """The size in mm of the voxels of a grid of this shape that the images of a side fill, as their median.

    None if no file says where it is.
    """
    if side.spacing is not None:
        return [float(length) for length in side.spacing]
    places = [index for index, grid in enumerate(side.grids) if has_place(grid)]
    sizes = [side.grid(index).resized_box(shape).spacing for index in places]
    return np.median(sizes, 0).tolist() if sizes else None


def read_part(side: RoleImages, index: int, channel: int | None) -> torch.Tensor:
    """An image (channel None) or a label of it from its file, on the network's grid: (1, I, J, K)."""
    return side.image(index) if channel is None else side.label(index, channel)


def match_names(sources: list[Source], skip: bool) -> None:
    """Bring all sources to the same names in the same order.

    Args:
        sources: those of images and of labels.
        skip: leave out a name that one of them lacks, with a warning.

    Raises:
        InputError: one of them has a name that another lacks; the message names the file.
    """
    common = set.intersection(*(set(source.names) for source in sources))
    for source in sources:
        for index, name in enumerate(source.names):
            if name in common:
                continue
            other = next(s for s in sources if name not in s.names)
            counts = f"{len(source)} {source.title}, {len(other)} {other.title}"
            sentence = f"{source.where(index)}: has no counterpart among the {other.title} ({counts})"
            if not skip:
                raise InputError(sentence)
            log.warning("left out: %s", sentence)
    order = [name for name in sources[0].names if name in common]
    for source in sources:
        number = {name: index for index, name in enumerate(source.names)}
        source.keep([number[name] for name in order])
