"""Loaders of volumes and segmentations that are in memory already, with the interface of those of files."""

from RegCore.loaders.images import RoleImages
from RegCore.loaders.pairings import Grouped, Paired, Unpaired, checked_shape
from RegCore.loaders.sources import Volumes
from RegCore.space.geometry import InputError
from RegCore.space.volume import Volume


def pairs_from_volumes(
    pairs: list[tuple],
    *,
    fixed_image_shape,
    moving_image_shape=None,
    sample_label: str = "all",
    seed: int | None = None,
) -> Paired:
    """A loader of pairs in memory.

    Args:
        pairs: (fixed, moving) or (fixed, moving, fixed label, moving label), each a `Volume` or an array
            (I, J, K); labels as in `Volumes`. A label map of whole numbers gives a channel for each structure
            that occurs in any of them; where one lacks it, its label is empty.
        fixed_image_shape, moving_image_shape: the network's grids; the second is by default the first.
        sample_label, seed: as for `Loader`.

    Raises:
        InputError: a volume can't be used; the message names it by its role and number.
    """
    lengths = {len(pair) for pair in pairs}
    if not lengths <= {2, 4} or len(lengths) != 1:
        raise InputError(
            "pairs must all be (fixed, moving) or all (fixed, moving, fixed label, moving label)"
        )
    columns = [list(column) for column in zip(*pairs, strict=True)]
    structures = _structures(columns[2] + columns[3]) if len(columns) == 4 else None
    shapes = (fixed_image_shape, fixed_image_shape if moving_image_shape is None else moving_image_shape)
    sides = []
    for number, role in enumerate(("fixed", "moving")):
        grid = checked_shape(shapes[number], f"{role}_image_shape")
        images = Volumes(columns[number], f"{role}_images")
        has_labels = len(columns) == 4
        labels = Volumes(columns[2 + number], f"{role}_labels", structures=structures) if has_labels else None
        sides.append(RoleImages(role, images, labels, grid))
    return Paired(*sides, sample_label=sample_label, seed=seed)


def images_from_volumes(
    images: list,
    labels: list | None = None,
    *,
    image_shape,
    groups: list | None = None,
    intra_group_prob: float = 1,
    intra_group_option: str = "unconstrained",
    sample_image_in_group: bool = True,
    sample_label: str = "all",
    seed: int | None = None,
) -> Unpaired | Grouped:
    """A loader of images in memory, of which any may meet any other, or of groups of images.

    Args:
        images, labels: each a `Volume` or an array, labels as for `pairs_from_volumes`.
        image_shape: the network's grid.
        groups: for each image the name of its group; None: unpaired images. The three options that follow
            are those of `orders.grouped_order`.
        sample_label, seed: as for `Loader`.

    Raises:
        InputError: a volume can't be used; the message names it by its number.
    """
    grid = checked_shape(image_shape, "image_shape")
    side = RoleImages("image", Volumes(images, "images", groups=groups), None, grid)
    if labels is not None:
        side.labels = Volumes(labels, "labels", groups=groups, structures=_structures(labels))
    if groups is None:
        return Unpaired(side, sample_label=sample_label, seed=seed)
    return Grouped(
        side,
        intra_group_prob=intra_group_prob,
        intra_group_option=intra_group_option,
        sample_image_in_group=sample_image_in_group,
        sample_label=sample_label,
        seed=seed,
    )


def _structures(labels: list) -> list[int] | None:
    """All label values of the label maps among these; None if there is no label map (I, J, K)."""
    maps = [v for v in labels if isinstance(v, Volume) and v.kind == "labels" and v.array.ndim == 3]
    values = sorted({value for volume in maps for value in volume.labels()})
    if maps and not values:
        raise InputError("the label maps are all empty, but at least one structure was expected")
    return values or None
