"""From a scan as it comes to the common grid: upright, isotropic, of one shape, the body in its middle."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from RegCore.resampler import warp
from RegCore.resampler.pyramid import (
    as_tensor,
    downsample,
    foreground,
    resample_to,
    rescale_percentiles,
    spacing_along,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume, check_image, finite

MODALITIES = ("ct", "mr")
UNIT = 500.0  # Hounsfield units that a network sees as 1
SOFT = 250.0  # HU: the weight of a voxel is high between 0 and this, highest in the middle
AIR = -200.0  # every CT of a body holds voxels darker than this, HU
BODY = -300.0  # HU that divide the body from the air around it
LEAST = 2e4  # mm³: less tissue than this is no body


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the common grid; its intensities are still those of the scanner.

    Args:
        image: on an upright isotropic grid whose centre is that of the body. What was cropped is known from
            the grids: they share their space, so a field on this grid holds for the scan as it came.
        known: bool (I, J, K), False where the grid reaches beyond the scan and border voxels are repeated.
        source: the grid of the scan as it came.
        modality: "ct" or "mr".
    """

    image: Volume
    known: np.ndarray
    source: Geometry
    modality: str


def check_modality(modality: str) -> None:
    """Check that there is such a modality.

    Raises:
        InputError: there is not.
    """
    if modality not in MODALITIES:
        raise InputError(f"the modality is {modality!r}, expected {' or '.join(MODALITIES)}")


def upright_grid(geometry: Geometry, spacing: float) -> Geometry:
    """The isotropic grid along the axes of RAS that covers the voxels of another, oblique or not."""
    ends = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in geometry.shape), indexing="ij")).reshape(3, -1).T
    corners = geometry.to_world(ends)
    extent = np.ptp(corners, axis=0)
    shape = np.maximum(np.rint(extent / spacing), 1).astype(int)
    return centred_grid(corners.min(0) + extent / 2, shape, spacing)


def centred_grid(centre, shape, spacing: float) -> Geometry:
    """The isotropic grid along the axes of RAS of a shape about a point (mm)."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = np.asarray(centre, float) - spacing * (np.array(shape) - 1) / 2
    return Geometry(tuple(int(n) for n in shape), affine)


def resample_with_mask(volume: Volume, onto: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """An image on another grid, without aliasing, and where it is known: float32 and bool ``(I, J, K)``.

    Beyond the image its border voxels are repeated.
    """
    spacing = spacing_along(onto, volume.geometry.direction)
    image, grid = downsample(as_tensor(volume), volume.geometry, spacing)
    values, known = resample_to(image, grid, onto, np.eye(4))
    return values[0, 0].numpy(), known[0, 0].numpy() > 0


def soft_tissue(image: torch.Tensor) -> torch.Tensor:
    """How much each voxel counts towards the centre of the body, in [0, 1], of HU ``(1, 1, I, J, K)``.

    σ(10 - 10 |HU / 125 - 1|), which is one half at 0 and 250 HU and near one between them, then the least
    value of the 3³ neighbourhood: what is thin or noisy does not count.
    """
    weight = torch.sigmoid(10 - 10 * (image / SOFT * 2 - 1).abs())
    return -F.max_pool3d(-weight, 3, stride=1, padding=1)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (the mask itself if it is empty)."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def _weights(image: np.ndarray, modality: str, name: str) -> np.ndarray:
    """What counts towards the centre of the body, (I, J, K) in [0, 1]."""
    if modality == "mr":
        return _largest(foreground(image)).astype(np.float32)
    if image.min() > AIR:
        raise InputError(
            f"{name}: Hounsfield units were expected, but no voxel is below {AIR:g} (the darkest is "
            f"{image.min():g}); if this is no CT, choose the modality mr"
        )
    return soft_tissue(torch.from_numpy(image)[None, None])[0, 0].numpy()


def body_centre(volume: Volume, spacing: float, modality: str = "ct", name: str = "the scan") -> np.ndarray:
    """The centre of mass of the body, (3,) RAS mm.

    CT: of `soft_tissue`, the weight of Heinrich et al. (MIDL 2021). MR: of the largest connected part of
    the foreground by Otsu's threshold.

    Args:
        volume: the scan as it came.
        spacing: mm of the isotropic grid on which masses are summed.
        name: of the scan, for errors.

    Raises:
        InputError: the modality does not fit the intensities, or there is no body.
    """
    check_modality(modality)
    check_image(volume, name)
    volume = finite(volume)
    grid = upright_grid(volume.geometry, spacing)
    image, known = resample_with_mask(volume, grid)
    weight = _weights(image, modality, name) * known
    total = float(weight.sum(dtype=np.float64))
    empty = total * spacing**3 < LEAST or (modality == "mr" and weight[known].mean() > 0.995)
    if empty:
        wanted = f"soft tissue of 0 to {SOFT:g} HU" if modality == "ct" else "a bright body on a dark ground"
        raise InputError(f"{name}: no body was found; {wanted} was expected")
    sums = [
        (weight.sum(tuple(b for b in range(3) if b != a)) * np.arange(n)).sum()
        for a, n in enumerate(grid.shape)
    ]
    return grid.to_world(np.array(sums, float) / total)


def prepare(
    volume: Volume,
    shape: tuple[int, int, int],
    spacing: float,
    *,
    modality: str = "ct",
    name: str = "the scan",
) -> PreparedScan:
    """Put a scan on the common grid: along RAS, isotropic, cropped or padded about the body's centre.

    Args:
        volume: the scan, on any grid.
        shape: voxels of the common grid, the same for all scans.
        spacing: mm, the same for all scans.
        modality: "ct" or "mr", see `body_centre`.
        name: of the scan, for errors.

    Raises:
        InputError: as `body_centre`.
    """
    centre = body_centre(volume, spacing, modality, name)
    volume = finite(volume)
    grid = centred_grid(centre, shape, spacing)
    image, known = resample_with_mask(volume, grid)
    return PreparedScan(Volume(image, grid), known, volume.geometry, modality)


def labels_on(labels: Volume, prepared: PreparedScan) -> Volume:
    """A segmentation of the scan on the common grid, nearest voxel, 0 beyond the scan."""
    return warp(labels, AffineTransform.identity(), prepared.image.geometry)


def common_shape(geometries: list[Geometry], spacing: float, multiple: int = 16) -> tuple[int, int, int]:
    """A shape that holds the middle sized of the given scans, rounded up to a multiple of voxels.

    Raises:
        InputError: there is no scan.
    """
    if not geometries:
        raise InputError("at least one scan is needed to choose a common shape")
    sizes = np.median([upright_grid(geometry, spacing).shape for geometry in geometries], axis=0)
    return tuple(int(n) for n in np.ceil(sizes / multiple) * multiple)


def downsample2(prepared: PreparedScan) -> PreparedScan:
    """The same scan with voxels of twice the size, the mean of eight: what the network sees.

    An odd axis loses its last plane.
    """
    image = prepared.image
    even = tuple(n // 2 * 2 for n in image.geometry.shape)
    inner = image.geometry.cropped((0, 0, 0), even)
    grid = inner.resized_box(tuple(n // 2 for n in even))
    part = torch.from_numpy(np.stack([image.array, prepared.known.astype(np.float32)]))[None]
    mean = F.avg_pool3d(part, 2)[0].numpy()
    return PreparedScan(Volume(mean[0], grid), mean[1] > 0.5, prepared.source, prepared.modality)


def network_units(prepared: PreparedScan) -> torch.Tensor:
    """The intensities as a network sees them, ``(1, 1, I, J, K)``: HU / 500, or an MR's robust range."""
    if prepared.modality == "mr":
        return torch.from_numpy(rescale_percentiles(prepared.image.array))[None, None]
    return as_tensor(prepared.image) / UNIT


def body_mask(prepared: PreparedScan, margin: float = 0.0, name: str = "the scan") -> np.ndarray:
    """Where the body is, bool (I, J, K), without any segmentation: the largest part that is not air, filled.

    Holes are filled slice by slice along S, so lungs that the upper border cuts belong to the body as well.

    Args:
        prepared: the scan.
        margin: mm by which the mask is enlarged (within the scan).
        name: of the scan, for errors.

    Raises:
        InputError: nothing but air.
    """
    image = prepared.image
    bright = image.array > BODY if prepared.modality == "ct" else foreground(image.array)
    body = _largest(bright & prepared.known)
    volume = body.sum() * float(np.prod(image.geometry.spacing))
    if volume < LEAST:
        raise InputError(f"{name}: no body was found; {volume / 1000:.0f} ml are brighter than air")
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(body, 2, 0)], 2)
    if margin > 0:
        distance = ndimage.distance_transform_edt(~body, sampling=image.geometry.spacing)
        body = distance <= margin
    return body & prepared.known
