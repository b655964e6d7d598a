"""The two classical registrations of the DeepReg manual: descent on an affine map and on a free field."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from RegCore.losses import DEFORMATION_LOSSES, IMAGE_LOSSES, make_loss
from RegCore.progress import Progress, silent
from RegCore.registration.minimise import minimise
from RegCore.registration.optimisers import make_optimiser
from RegCore.resampler import reference_grid, resize3d, sample, warp_image_ddf
from RegCore.resampler.grids import Device
from RegCore.resampler.pyramid import (
    as_tensor,
    downsample,
    resample_to,
    rescale_percentiles,
    working_geometry,
)
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField, Transform
from RegCore.space.volume import Volume, check_image

SSD: Mapping = MappingProxyType({"name": "ssd"})
LNCC: Mapping = MappingProxyType({"name": "lncc"})
BENDING: Mapping = MappingProxyType({"name": "bending"})
WORKING_SIZE = 64  # 64^3 voxels: on two cores a minute for 1000 affine steps, six for 3000 non-rigid ones
FIELD_VOXELS = 2**24  # larger fixed grids get their field on the working grid, which covers the same box
NOISE = 1e-3  # standard deviation in voxels of the field that the descent starts from


def _descend(
    parameter: torch.Tensor,
    objective: Callable[[], tuple[torch.Tensor, ...]],
    *,
    optimizer: str,
    learning_rate: float,
    max_iter: int,
    keep_best: bool,
    stage: str,
    progress: Progress,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change ``parameter`` downhill; give it back with the figures of each iteration, taken before its step.

    ``objective`` returns one or more ``(B,)``, the first of which is made small. The batch is summed in the
    gradient and averaged in the figures, as DeepReg does.
    """
    if max_iter < 1:
        raise InputError(f"max_iter is {max_iter}, expected at least 1")
    optimiser = make_optimiser({"name": optimizer, "learning_rate": learning_rate}, [parameter])
    parameter.requires_grad_(True)
    history: list[list[float]] = []

    def loss() -> torch.Tensor:
        terms = objective()
        history.append([float(term.detach().mean()) for term in terms])
        if not np.isfinite(history[-1][0]):
            what = f"{stage}: the loss is {history[-1][0]} at iteration {len(history)}"
            raise InputError(f"{what}, try a learning_rate below {learning_rate}")
        return terms[0]

    def tell(n: int, value: float) -> None:
        progress((n + 1) / max_iter, stage, {"iteration": n + 1, "loss": value})

    descent = minimise(parameter, loss, optimiser, max_iter, tell)
    found = descent.last
    if keep_best:
        with torch.no_grad():
            found = found if float(objective()[0].mean()) <= descent.lowest else descent.best
    return found, torch.tensor(history)


def affine_coordinates_of(theta: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Moving indices ``(B, 3, *shape)`` = [i j k 1] @ theta of the voxels of a grid; theta ``(B, 4, 3)``."""
    grid = reference_grid(shape, dtype=theta.dtype, device=theta.device).flatten(2)
    points = theta[:, :3].transpose(1, 2) @ grid + theta[:, 3, :, None]
    return points.view(-1, 3, *shape)


def classical_affine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    *,
    image_loss: Mapping = SSD,
    learning_rate: float = 0.01,
    max_iter: int = 1000,
    optimizer: str = "Adam",
    border: str = "edge",
    initial_theta: torch.Tensor | None = None,
    keep_best: bool = False,
    progress: Progress = silent,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient descent on the 12 numbers of an affine map of voxel indices (DeepReg manual, 3.10.1).

    Args:
        fixed: ``(B, 1, I, J, K)``, intensities in [0, 1].
        moving: ``(B, 1, i, j, k)``, intensities in [0, 1].
        image_loss: a name of `IMAGE_LOSSES` and its arguments.
        learning_rate: of the optimiser, above 0.
        max_iter: number of steps.
        optimizer: a name of `RegCore.registration.optimisers.OPTIMISERS`; in DeepReg ``Adam`` or ``SGD``.
        border: what lies outside the moving image, see `RegCore.resampler.sample`; DeepReg's is
            ``zero_boundary``.
        initial_theta: ``(B, 4, 3)``; by default each index is mapped to itself.
        keep_best: give back the best map met; otherwise the last, as DeepReg does.
        progress: told after each step, with iteration and loss.

    Returns:
        theta ``(B, 4, 3)``, moving index = [i j k 1] @ theta, and the loss before each step ``(max_iter,)``.

    Raises:
        InputError: an unknown loss or optimiser, a bad argument of either, a loss that is not finite.
    """
    loss = make_loss(image_loss, IMAGE_LOSSES)
    if initial_theta is None:
        initial_theta = torch.eye(4, 3).expand(fixed.shape[0], -1, -1)
    theta = initial_theta.detach().to(fixed, copy=True)

    def objective() -> tuple[torch.Tensor, ...]:
        at = affine_coordinates_of(theta, fixed.shape[2:])
        return (loss(fixed, sample(moving, at, border=border)),)

    theta, history = _descend(
        theta,
        objective,
        optimizer=optimizer,
        learning_rate=learning_rate,
        max_iter=max_iter,
        keep_best=keep_best,
        stage="classical-affine",
        progress=progress,
    )
    return theta, history[:, 0]


def classical_nonrigid(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    *,
    image_loss: Mapping = LNCC,
    deform_loss: Mapping = BENDING,
    weight_deform_loss: float = 1.0,
    learning_rate: float = 0.1,
    max_iter: int = 3000,
    optimizer: str = "Adam",
    border: str = "edge",
    initial_ddf: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    keep_best: bool = False,
    progress: Progress = silent,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient descent on a free displacement field (DeepReg manual, 3.10.2).

    Args:
        fixed, moving, image_loss, learning_rate, max_iter, optimizer, border, keep_best, progress: as in
            `classical_affine`.
        deform_loss: a name of `DEFORMATION_LOSSES` and its arguments.
        weight_deform_loss: weight of it against the image loss.
        initial_ddf: ``(B, 3, I, J, K)`` in voxels; by default drawn from N(0, 0.001^2).
        generator: of those random numbers, on the CPU.

    Returns:
        The DDF ``(B, 3, I, J, K)`` in voxels, moving index = fixed index + ddf, and ``(max_iter, 3)``: total
        loss, image loss and deformation loss (without its weight) before each step.

    Raises:
        InputError: as `classical_affine`.
    """
    compare, regularise = make_loss(image_loss, IMAGE_LOSSES), make_loss(deform_loss, DEFORMATION_LOSSES)
    if initial_ddf is None:
        initial_ddf = NOISE * torch.randn(fixed.shape[0], 3, *fixed.shape[2:], generator=generator)
    ddf = initial_ddf.detach().to(fixed, copy=True)

    def objective() -> tuple[torch.Tensor, ...]:
        image = compare(fixed, warp_image_ddf(moving, ddf, border=border))
        deformation = regularise(ddf)
        return image + weight_deform_loss * deformation, image, deformation

    return _descend(
        ddf,
        objective,
        optimizer=optimizer,
        learning_rate=learning_rate,
        max_iter=max_iter,
        keep_best=keep_best,
        stage="classical-nonrigid",
        progress=progress,
    )


# ---- volumes in space --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two images in [0, 1], ``(1, 1, I, J, K)`` of one shape, each on its own grid."""

    fixed: torch.Tensor
    moving: torch.Tensor
    fixed_grid: Geometry
    moving_grid: Geometry


def _on_grid(volume: Volume, grid: Geometry, device: Device) -> torch.Tensor:
    """The image on a grid over the same corner voxels, smoothed if that is downsample, scaled to [0, 1]."""
    geometry = volume.geometry
    image = as_tensor(Volume(rescale_percentiles(volume.array), geometry), device=device)
    if grid != geometry:
        image, geometry = downsample(image, geometry, grid.spacing)
        image, _ = resample_to(image, geometry, grid, np.eye(4))
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low)


def _pair(fixed: Volume, moving: Volume, working_size: int, device: Device) -> _Pair:
    """Both images at the working size; the moving one is stretched onto the shape of the fixed one.

    Corner voxels keep their places: index m of a moving axis of M voxels stands at m (F - 1) / (M - 1) of F.
    """
    if working_size < 4:
        raise InputError(f"working_size is {working_size}, expected at least 4 voxels")
    check_image(fixed, "the fixed image")
    check_image(moving, "the moving image")
    fixed_grid = working_geometry(fixed.geometry, int(working_size) ** 3)
    moving_grid = moving.geometry.resized(fixed_grid.shape)
    return _Pair(
        _on_grid(fixed, fixed_grid, device), _on_grid(moving, moving_grid, device), fixed_grid, moving_grid
    )


def _theta_of(transform: AffineTransform, pair: _Pair) -> torch.Tensor:
    """An affine transform in RAS mm as theta ``(1, 4, 3)`` between the indices of the two working grids."""
    matrix = np.linalg.inv(pair.moving_grid.affine) @ transform.matrix @ pair.fixed_grid.affine
    return torch.from_numpy(matrix[:3].T.copy())[None]


def _transform_of(theta: torch.Tensor, pair: _Pair) -> AffineTransform:
    """theta ``(1, 4, 3)`` between indices of the working grids as an affine transform in RAS mm."""
    matrix = np.eye(4)
    matrix[:3] = theta[0].double().cpu().numpy().T
    return AffineTransform(pair.moving_grid.affine @ matrix @ np.linalg.inv(pair.fixed_grid.affine))


def _ddf_of(transform: Transform, pair: _Pair) -> torch.Tensor:
    """A transform in RAS mm as a DDF ``(1, 3, I, J, K)`` between indices of the two working grids."""
    index = pair.fixed_grid.index_grid()
    transformed = pair.moving_grid.to_index(transform.map(pair.fixed_grid.to_world(index)))
    return torch.from_numpy(transformed - index).permute(3, 0, 1, 2)[None]


def _field_of(ddf: torch.Tensor, pair: _Pair, onto: Geometry) -> DisplacementField:
    """A DDF between indices of the working grids in mm on the fixed grid.

    The working grid has the corners of the fixed one, so that stretching the millimetres with aligned corners
    is the linear interpolation by which a field is defined.
    """
    voxels = ddf[0].permute(1, 2, 3, 0).cpu().numpy()
    field = DisplacementField.from_voxels(voxels, pair.fixed_grid, pair.moving_grid)
    if onto == pair.fixed_grid or onto.voxels > FIELD_VOXELS:
        return field
    mm = resize3d(torch.from_numpy(field.mm).permute(3, 0, 1, 2)[None], onto.shape)
    return DisplacementField(onto, mm[0].permute(1, 2, 3, 0).numpy())


def register_classical_affine(
    fixed: Volume,
    moving: Volume,
    *,
    image_loss: Mapping = SSD,
    learning_rate: float = 0.01,
    max_iter: int = 1000,
    optimizer: str = "Adam",
    border: str = "edge",
    working_size: int = WORKING_SIZE,
    initial: AffineTransform | None = None,
    device: Device = "cpu",
    progress: Progress = silent,
) -> AffineTransform:
    """`classical_affine` of two volumes scaled to [0, 1], the moving one stretched onto the fixed shape.

    Args:
        fixed, moving: one-channel images.
        image_loss, learning_rate, max_iter, optimizer, border: as in `classical_affine`.
        working_size: the descent works on at most working_size^3 voxels over the same box.
        initial: start, fixed -> moving in RAS mm; by default corner voxels are laid on corner voxels, as
            DeepReg does, whatever the headers say.
        device: where to compute.
        progress: told after each step.

    Returns:
        The transform fixed -> moving in RAS mm that had the lowest loss.

    Raises:
        InputError: as `classical_affine`; an image that `check_image` refuses, a working size below 4.
    """
    pair = _pair(fixed, moving, working_size, device)
    theta, _ = classical_affine(
        pair.fixed,
        pair.moving,
        image_loss=image_loss,
        learning_rate=learning_rate,
        max_iter=max_iter,
        optimizer=optimizer,
        border=border,
        initial_theta=None if initial is None else _theta_of(initial, pair),
        keep_best=True,
        progress=progress,
    )
    return _transform_of(theta, pair)


def register_classical_nonrigid(
    fixed: Volume,
    moving: Volume,
    *,
    image_loss: Mapping = LNCC,
    deform_loss: Mapping = BENDING,
    weight_deform_loss: float = 1.0,
    learning_rate: float = 0.1,
    max_iter: int = 3000,
    optimizer: str = "Adam",
    border: str = "edge",
    working_size: int = WORKING_SIZE,
    initial: Transform | None = None,
    device: Device = "cpu",
    seed: int = 0,
    progress: Progress = silent,
) -> DisplacementField:
    """`classical_nonrigid` of two volumes, prepared as in `register_classical_affine`.

    Args:
        fixed, moving, working_size, initial, device, progress: as in `register_classical_affine`; ``initial``
            may be a field.
        image_loss ... border: as in `classical_nonrigid`.
        seed: of the field that the descent starts from.

    Returns:
        The field fixed -> moving in RAS mm that had the lowest loss, on the fixed grid, or on the working
        grid over the same box if the fixed one has more than 2^24 voxels.

    Raises:
        InputError: as `register_classical_affine`.
    """
    pair = _pair(fixed, moving, working_size, device)
    generator = torch.Generator().manual_seed(seed)
    start = NOISE * torch.randn(1, 3, *pair.fixed_grid.shape, generator=generator)
    if initial is not None:
        start = start + _ddf_of(initial, pair)
    ddf, _ = classical_nonrigid(
        pair.fixed,
        pair.moving,
        image_loss=image_loss,
        deform_loss=deform_loss,
        weight_deform_loss=weight_deform_loss,
        learning_rate=learning_rate,
        max_iter=max_iter,
        optimizer=optimizer,
        border=border,
        initial_ddf=start,
        keep_best=True,
        progress=progress,
    )
    return _field_of(ddf, pair, fixed.geometry)
