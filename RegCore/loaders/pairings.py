"""The three kinds of loaders, and how each is made from folders of files."""

from collections.abc import Callable, Iterator
from random import Random

from RegCore.loaders.images import RoleImages
from RegCore.loaders.loader import Loader, check_channels
from RegCore.loaders.samplers import all_pairs, check_grouped, grouped_order, paired_order, unpaired_order
from RegCore.loaders.sources import Source
from RegCore.space.geometry import InputError

OpenFiles = Callable[..., Source]
"""Called as ``open_files(name, grouped=False)``: the source of, say, "fixed_images" of a split."""


class Paired(Loader):
    """Pairs by name: fixed image n belongs to moving image n. An epoch has every pair once."""

    num_indices = 2

    def __len__(self) -> int:
        return len(self.fixed)

    def _pairs(self, rng: Random) -> Iterator[tuple]:
        for index in paired_order(len(self.fixed), rng):
            yield index, index, [index]

    def _check_pairs(self) -> None:
        for index in range(len(self.fixed) if self.labeled else 0):
            check_channels(self.fixed, index, self.moving, index)


class Unpaired(Loader):
    """Any image with any other. An epoch has ``n // 2`` pairs, no image twice."""

    num_indices = 3

    def __init__(
        self, side: RoleImages, *, sample_label: str, seed: int | None, skip_bad_files: bool = False
    ):
        super().__init__(side, side, sample_label=sample_label, seed=seed, skip_bad_files=skip_bad_files)

    def __len__(self) -> int:
        return len(self.fixed) // 2

    def _pairs(self, rng: Random) -> Iterator[tuple]:
        for moving, fixed in unpaired_order(len(self.fixed), rng):
            yield moving, fixed, [moving, fixed]

    def _check_pairs(self) -> None:
        if len(self) < 1:
            where = self.fixed.images.where(0)
            raise InputError(f"{where}: unpaired images need at least two images, but this is the only one")
        for index in range(len(self.fixed) if self.labeled else 0):
            check_channels(self.fixed, 0, self.fixed, index)


class Grouped(Loader):
    """Images in groups, such as the time points of a patient; pairs within groups, between them, or both.

    An image is (group, image of the group). Options as in `orders.grouped_order`.
    """

    num_indices = 5

    def __init__(
        self,
        side: RoleImages,
        *,
        intra_group_prob: float,
        intra_group_option: str,
        sample_image_in_group: bool,
        sample_label: str,
        seed: int | None,
        skip_bad_files: bool = False,
    ):
        self.options = (intra_group_prob, intra_group_option, sample_image_in_group)
        super().__init__(side, side, sample_label=sample_label, seed=seed, skip_bad_files=skip_bad_files)

    def __len__(self) -> int:
        probability, option, sampled = self.options
        return len(self.sizes) if sampled else len(all_pairs(self.sizes, probability == 1, option))

    @property
    def sizes(self) -> list[int]:
        """Number of images of each group."""
        return [len(group) for group in self.groups]

    def _pairs(self, rng: Random) -> Iterator[tuple]:
        for pair in grouped_order(self.sizes, *self.options, rng):
            yield pair[:2], pair[2:], list(pair)

    def _number(self, index: tuple[int, int]) -> int:
        return self.groups[index[0]][index[1]]

    def _check_pairs(self) -> None:
        self.groups = self.fixed.images.groups
        check_grouped(self.sizes, *self.options)
        if not self.labeled:
            return
        for group in self.groups:
            first = group[0] if self.options[0] == 1 else self.groups[0][0]
            for index in group:
                check_channels(self.fixed, first, self.fixed, index)


def paired(
    open_files: OpenFiles,
    *,
    labeled: bool,
    sample_label: str,
    seed: int | None,
    skip_bad_files: bool,
    fixed_image_shape,
    moving_image_shape,
) -> Paired:
    """Pairs from fixed_images and moving_images, fixed_labels and moving_labels (folders or h5 files)."""
    sides = []
    for role, shape in (("fixed", fixed_image_shape), ("moving", moving_image_shape)):
        grid = checked_shape(shape, f"{role}_image_shape")
        labels = open_files(f"{role}_labels") if labeled else None
        sides.append(RoleImages(role, open_files(f"{role}_images"), labels, grid))
    return Paired(*sides, sample_label=sample_label, seed=seed, skip_bad_files=skip_bad_files)


def unpaired(
    open_files: OpenFiles,
    *,
    labeled: bool,
    sample_label: str,
    seed: int | None,
    skip_bad_files: bool,
    image_shape,
) -> Unpaired:
    """Independent images from images and labels (folders or h5 files)."""
    side = one_side(open_files, labeled, image_shape, grouped=False)
    return Unpaired(side, sample_label=sample_label, seed=seed, skip_bad_files=skip_bad_files)


def grouped(
    open_files: OpenFiles,
    *,
    labeled: bool,
    sample_label: str,
    seed: int | None,
    skip_bad_files: bool,
    image_shape,
    intra_group_prob: float,
    intra_group_option: str,
    sample_image_in_group: bool,
) -> Grouped:
    """Groups of images from images and labels (folders with a folder for each group, or h5 files)."""
    return Grouped(
        one_side(open_files, labeled, image_shape, grouped=True),
        intra_group_prob=intra_group_prob,
        intra_group_option=intra_group_option,
        sample_image_in_group=sample_image_in_group,
        sample_label=sample_label,
        seed=seed,
        skip_bad_files=skip_bad_files,
    )


def one_side(open_files: OpenFiles, labeled: bool, shape, *, grouped: bool) -> RoleImages:
    """The side of unpaired or grouped images."""
    grid = checked_shape(shape, "image_shape")
    labels = open_files("labels", grouped) if labeled else None
    return RoleImages("image", open_files("images", grouped), labels, grid)


def checked_shape(shape, key: str) -> tuple[int, int, int]:
    """A grid of the configuration as a tuple.

    Raises:
        InputError: it is no such grid; the message names the key.
    """
    numbers = list(shape) if isinstance(shape, list | tuple) else [shape]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers)
    if len(numbers) != 3 or not whole:
        raise InputError(f"{key} must be three positive whole numbers [I, J, K], but it is {shape!r}")
    return tuple(numbers)
