"""Several different over-segmentations of a template, each of exactly N connected supervoxels."""

import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from RegCore.io.files import atomic_write
from RegCore.progress import Progress, silent
from RegCore.resampler import affine_coordinates, sample, warp
from RegCore.slicreg.merging import connected_parts, merge_to
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import Transform
from RegCore.space.volume import Volume

SPREAD = 0.05  # standard deviation of the entries of a random affine matrix about the identity, half extents
COMPACTNESS = 1.5  # of SLIC, for intensities as a network sees them
SURPLUS = 1.64  # segments that SLIC is asked for, per supervoxel wanted: 208 for 127
ATTEMPTS = 4  # each with a third more segments than the one before
ITERATIONS = 5  # of SLIC's k-means


@dataclass(frozen=True)
class Supervoxels:
    """Layers of supervoxels on one grid.

    Args:
        labels: (L, I, J, K) uint8 or uint16; 0 is the background, 1..count are the supervoxels of each layer.
        geometry: the grid.
        count: supervoxels of each layer, so there are count + 1 classes.

    Raises:
        InputError: these do not fit together.
    """

    labels: np.ndarray
    geometry: Geometry
    count: int

    def __post_init__(self):
        array = self.labels
        if array.ndim != 4 or array.shape[1:] != self.geometry.shape or array.dtype.kind != "u":
            raise InputError(
                f"layers of supervoxels are whole numbers (L, I, J, K) on the grid {self.geometry.shape}, "
                f"not {array.dtype} {array.shape}"
            )
        if array.size and int(array.max()) > self.count:
            raise InputError(f"supervoxels are numbered to {self.count}, but one is {int(array.max())}")

    @property
    def layers(self) -> int:
        """Number of over-segmentations."""
        return self.labels.shape[0]


def _slic(image: np.ndarray, mask: np.ndarray, segments: int, compactness: float) -> np.ndarray:
    """SLIC supervoxels 1.. within the mask, 0 outside (Achanta et al., PAMI 2012; maskSLIC, Irving 2016).

    compactness: for the intensities as they are: scikit-image divides by their range inside the mask.
    """
    try:
        segmentation = import_module("skimage.segmentation")
    except ImportError as error:
        raise InputError(
            "supervoxels are made by the package scikit-image, which is not installed here; "
            "install it with: pip install scikit-image"
        ) from error
    span = float(np.ptp(image[mask])) or 1.0
    return segmentation.slic(
        image,
        n_segments=segments,
        compactness=compactness / span,
        max_num_iter=ITERATIONS,
        mask=mask,
        channel_axis=None,
        enforce_connectivity=True,
        min_size_factor=0.85,
        start_label=1,
    )


def _random_affine(geometry: Geometry, spread: float, random: np.random.Generator) -> np.ndarray:
    """4×4 index to index: near the identity in units of the half extents, about the centre of the grid."""
    half = np.array(geometry.shape) / 2
    unit = np.diag([*half, 1.0])
    unit[:3, 3] = half - 0.5
    matrix = np.eye(4)
    matrix[:3] += spread * random.standard_normal((3, 4))
    return unit @ matrix @ np.linalg.inv(unit)


def _pulled(array: np.ndarray, matrix: np.ndarray, nearest: bool) -> np.ndarray:
    """An array (I, J, K) seen through an index matrix, edges repeated."""
    at = affine_coordinates(matrix, array.shape)
    tensor = torch.from_numpy(array)[None, None]
    return sample(tensor, at, nearest=nearest)[0, 0].numpy()


def _layer(image, mask, geometry, count: int, compactness: float, random) -> np.ndarray:
    """One over-segmentation, from the image seen through a random affine matrix; (I, J, K)."""
    for attempt in range(ATTEMPTS):
        matrix = _random_affine(geometry, SPREAD, random)
        turned = _pulled(image, matrix, nearest=False)
        inside = _pulled(mask.astype(np.uint8), matrix, nearest=True) > 0
        segments = round(SURPLUS * count * (4 / 3) ** attempt)
        found = _slic(turned, inside, segments, compactness) if inside.any() else np.zeros_like(mask, int)
        back = _pulled(found.astype(np.int32), np.linalg.inv(matrix), nearest=True)
        parts = connected_parts(np.where(mask, back, 0))
        if parts.max() >= count:
            break
    return merge_to(parts, count)


def oversegment(
    image: Volume,
    mask: np.ndarray,
    *,
    layers: int = 16,
    count: int = 127,
    compactness: float = COMPACTNESS,
    seed: int = 0,
    progress: Progress = silent,
) -> Supervoxels:
    """Several over-segmentations of an image, so that together they tell places apart finely.

    Each layer is SLIC within the mask on the image seen through a random affine matrix near the identity,
    carried back; its connected parts are then merged to exactly `count` supervoxels (Heinrich et al., IPMI
    2013 and MIDL 2021). The same input and seed give the same layers.

    Args:
        image: the template in the units that a network sees (`network_units`).
        mask: bool (I, J, K), what is to be divided; the rest is the background.
        layers: number of over-segmentations.
        count: supervoxels of each.
        compactness: of SLIC; larger makes supervoxels rounder and cares less for intensities.
        seed: of the random matrices.
        progress: told after each layer.

    Raises:
        InputError: nothing to divide, fewer supervoxels than asked for, or scikit-image is missing.
    """
    mask = np.asarray(mask, bool)
    if mask.shape != image.geometry.shape:
        raise InputError(f"the mask {mask.shape} does not fit the grid of the image {image.geometry.shape}")
    if layers < 1 or not 1 <= count < 2**16:
        raise InputError(f"expected at least 1 layer of 1 to 65535 supervoxels, got {layers} of {count}")
    if np.count_nonzero(mask) < count:
        raise InputError(
            f"{count} supervoxels were asked for, but the mask has only {np.count_nonzero(mask)} voxels"
        )
    random = np.random.default_rng([seed, 7])
    array = np.ascontiguousarray(image.array, np.float32)
    found = []
    for layer in range(layers):
        found.append(_layer(array, mask, image.geometry, count, compactness, random))
        progress((layer + 1) / layers, "supervoxels", {"layer": layer + 1})
    return Supervoxels(np.stack(found), image.geometry, count)


def propagate_supervoxels(supervoxels: Supervoxels, transform: Transform, onto: Geometry) -> Supervoxels:
    """The supervoxels of a template on the grid of a scan, nearest voxel, background beyond the template.

    Args:
        transform: x_template = T(x_scan), RAS mm.
    """
    layers = np.moveaxis(supervoxels.labels, 0, -1)
    maps = [
        warp(Volume(layers[..., n], supervoxels.geometry, "labels"), transform, onto)
        for n in range(supervoxels.layers)
    ]
    return Supervoxels(np.stack([found.array for found in maps]), onto, supervoxels.count)


def save_supervoxels(supervoxels: Supervoxels, path) -> None:
    """Write layers of supervoxels to an .npz file, compressed, whole or not at all."""
    arrays = {
        "supervoxels": supervoxels.labels,
        "affine": supervoxels.geometry.affine,
        "count": np.array(supervoxels.count),
    }
    with atomic_write(Path(path)) as side, open(side, "xb") as file:
        np.savez_compressed(file, **arrays)


def load_supervoxels(path) -> Supervoxels:
    """Read what `save_supervoxels` wrote.

    Raises:
        InputError: the file is no such; the message names it.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels, affine, count = (archive[name] for name in ("supervoxels", "affine", "count"))
        return Supervoxels(labels, Geometry(labels.shape[1:], affine), int(count))
    except KeyError as error:
        raise InputError(f"{path}: layers of supervoxels were expected, but there is no {error}") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: layers of supervoxels can't be read ({error})") from error
