"""One-dimensional kernels, and the separable filters that losses are made of."""

import torch

from RegCore.resampler.grids import Device
from RegCore.space.geometry import InputError


def rectangular_kernel1d(
    kernel_size: int, *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """``kernel_size`` ones, ``(kernel_size,)``."""
    return torch.ones(kernel_size, dtype=dtype, device=device)


def triangular_kernel1d(
    kernel_size: int, *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """1, 2, ..., n, ..., 2, 1 with n = (kernel_size + 1) / 2, ``(kernel_size,)``.

    Raises:
        InputError: an even size, which has no middle.
    """
    if kernel_size % 2 == 0:
        raise InputError(f"a triangular kernel has an odd size, but kernel_size is {kernel_size}")
    x = torch.arange(kernel_size, dtype=dtype, device=device)
    return torch.minimum(x + 1, kernel_size - x)


def gaussian_kernel1d_size(
    kernel_size: int, *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """exp(-x^2 / (2 s^2)), s = kernel_size / 3, at ``kernel_size`` unit steps centred on 0."""
    x = torch.arange(kernel_size, dtype=dtype, device=device) - (kernel_size - 1) / 2
    return torch.exp(-0.5 * (x * (3 / kernel_size)) ** 2)


def _tail(sigma: float, tail: int, dtype: torch.dtype, device: Device) -> torch.Tensor:
    """x / sigma for the whole numbers x of [-tail, tail].

    Raises:
        InputError: sigma is not positive.
    """
    if sigma <= 0:
        raise InputError(f"the width of a kernel must be positive, but sigma is {sigma}")
    return torch.arange(-tail, tail + 1, dtype=dtype, device=device) / sigma


def gaussian_kernel1d_sigma(
    sigma: float, *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """A Gaussian of ``sigma`` voxels cut at int(3 sigma), sum 1, ``(2 int(3 sigma) + 1,)``."""
    weights = torch.exp(-0.5 * _tail(sigma, int(3 * sigma), dtype, device) ** 2)
    return weights / weights.sum()


def cauchy_kernel1d(
    sigma: float, *, dtype: torch.dtype = torch.float32, device: Device = None
) -> torch.Tensor:
    """1 / (1 + (x / sigma)^2) cut at int(5 sigma), sum 1, ``(2 int(5 sigma) + 1,)``."""
    weights = 1 / (_tail(sigma, int(5 * sigma), dtype, device) ** 2 + 1)
    return weights / weights.sum()


SIZE_KERNELS = {
    "rectangular": rectangular_kernel1d,
    "triangular": triangular_kernel1d,
    "gaussian": gaussian_kernel1d_size,
}
SIGMA_KERNELS = {"gaussian": gaussian_kernel1d_sigma, "cauchy": cauchy_kernel1d}


def _banded(kernel: torch.Tensor, n: int) -> torch.Tensor:
    """The matrix ``(n, n)`` whose product with n values is their zero-padded correlation with ``kernel``."""
    size = kernel.numel()
    index = torch.arange(n, device=kernel.device)
    tap = index[None, :] - index[:, None] + (size - 1) // 2
    return kernel[tap.clamp(0, size - 1)] * ((tap >= 0) & (tap < size))


def separable_filter(x: torch.Tensor, kernel: torch.Tensor, *, adjoint: bool = False) -> torch.Tensor:
    """Correlate each of the last three axes with one kernel; zeros lie outside.

    One product with a banded matrix per axis, so that a kernel longer than the image costs no more than a
    short one. Differentiable in ``x``.

    Args:
        x: ``(..., I, J, K)``.
        kernel: ``(n,)``. An even one reaches one voxel further forward than backward: (n - 1) // 2 before,
            n // 2 after.
        adjoint: apply the transposed map.

    Returns:
        A tensor of the shape of ``x``.
    """
    matrices = [_banded(kernel, n) for n in x.shape[-3:]]
    if adjoint:
        matrices = [m.T for m in matrices]
    x = matrices[1] @ (x @ matrices[2].T)
    return (matrices[0] @ x.flatten(-2)).view(x.shape)
