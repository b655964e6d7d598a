"""Losses of a displacement field alone: how unsmooth it is.

All take ``(B, 3, I, J, K)``, voxels, channel order i, j, k, and return one value per sample ``(B,)``. Each
is a sum of means of squares (or moduli) of small stencils; value and derivative come from the same stencils.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from RegCore.losses.checks import check_field, lengths_mm

AXES = (0, 1, 2)


@dataclass(frozen=True)
class _Stencil:
    """A difference along ``axes``: sum of coefficient * ddf at offset, wherever all offsets exist."""

    taps: tuple[tuple[tuple[int, int, int], float], ...]  # (offset, coefficient)
    axes: tuple[int, ...]  # one axis for each derivative, which spacing divides by
    weight: float = 1.0
    margin: int | None = None  # voxels left out on every side, in place of what the offsets ask for

    def windows(self, shape: Sequence[int]) -> list[tuple[float, tuple[slice, ...]]]:
        """(coefficient, part of the grid) of each tap; parts of one shape, empty if the grid is too small."""
        low = [max(-min(o[d] for o, _ in self.taps), 0) for d in AXES]
        high = [max(max(o[d] for o, _ in self.taps), 0) for d in AXES]
        if self.margin is not None:
            low = high = [self.margin] * 3
        size = [max(n - a - b, 0) for n, a, b in zip(shape, low, high, strict=True)]
        out = []
        for offset, coefficient in self.taps:
            start = [a + o for a, o in zip(low, offset, strict=True)]
            window = tuple(slice(s, s + n) if n else slice(0, 0) for s, n in zip(start, size, strict=True))
            out.append((coefficient, (slice(None), slice(None), *window)))
        return out


def _step(axis: int, length: int) -> tuple[int, int, int]:
    i, j, k = (length if d == axis else 0 for d in AXES)
    return i, j, k


def _first(axis: int, deepreg: bool) -> _Stencil:
    if deepreg:  # central: blind to a field that alternates from voxel to voxel
        return _Stencil(((_step(axis, 1), 0.5), (_step(axis, -1), -0.5)), (axis,), margin=1)
    return _Stencil(((_step(axis, 1), 1.0), (_step(axis, 0), -1.0)), (axis,))


def _second(axis: int, deepreg: bool) -> _Stencil:
    if deepreg:  # the central difference of a central difference
        taps = ((_step(axis, 2), 0.25), (_step(axis, 0), -0.5), (_step(axis, -2), 0.25))
        return _Stencil(taps, (axis, axis), margin=2)
    taps = ((_step(axis, 1), 1.0), (_step(axis, 0), -2.0), (_step(axis, -1), 1.0))
    return _Stencil(taps, (axis, axis))


def _mixed(a: int, b: int, deepreg: bool) -> _Stencil:
    taps = []
    for s in (1, -1):
        for t in (1, -1):
            i, j, k = (s if d == a else t if d == b else 0 for d in AXES)
            taps.append(((i, j, k), 0.25 * s * t))
    return _Stencil(tuple(taps), (a, b), weight=2.0, margin=2 if deepreg else None)


class _StencilEnergy(torch.autograd.Function):
    """sum over stencils of weight * mean of |scaled stencil|^power, ``(B,)``, and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        ddf: torch.Tensor,
        stencils: Sequence[_Stencil],
        scales: Sequence[torch.Tensor | None],
        l1: bool,
        needed: bool,
        skip_empty: bool,
    ) -> torch.Tensor:
        energy = ddf.new_zeros(ddf.shape[0])
        grad = torch.zeros_like(ddf) if needed else None
        for stencil, scale in zip(stencils, scales, strict=True):
            windows = stencil.windows(ddf.shape[2:])
            value = reduce(torch.add, (ddf[window] * coefficient for coefficient, window in windows))
            if value.numel() == 0 and skip_empty:
                continue
            value = value if scale is None else value * scale
            energy += stencil.weight * (value.abs() if l1 else value * value).flatten(1).mean(1)
            if grad is not None and value.numel():
                slope = value.sign() if l1 else value.mul_(2)
                slope = slope.mul_(stencil.weight * len(value) / value.numel())
                slope = slope if scale is None else slope.mul_(scale)
                for coefficient, window in windows:
                    grad[window].add_(slope, alpha=coefficient)
        ctx.save_for_backward(grad)
        return energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_energy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_energy.view(-1, 1, 1, 1, 1), None, None, None, None, None


def _energy(
    ddf: torch.Tensor,
    stencils: Sequence[_Stencil],
    spacing: Sequence[float] | torch.Tensor | None,
    l1: bool,
    deepreg: bool,
) -> torch.Tensor:
    check_field(ddf)
    scales: list[torch.Tensor | None] = [None] * len(stencils)
    if spacing is not None:
        mm = lengths_mm(spacing, torch.zeros(len(ddf), dtype=torch.float64))
        steps = (mm[..., list(s.axes)].prod(-1, keepdim=True) for s in stencils)
        scales = [(mm / step).to(ddf).view(-1, 3, 1, 1, 1) for step in steps]
    needed = torch.is_grad_enabled() and ddf.requires_grad
    return _StencilEnergy.apply(ddf, stencils, scales, l1, needed, not deepreg)


def bending(
    ddf: torch.Tensor, *, spacing: Sequence[float] | torch.Tensor | None = None, deepreg: bool = False
) -> torch.Tensor:
    """Bending energy, mean of u_ii^2 + u_jj^2 + u_kk^2 + 2 (u_ij^2 + u_ik^2 + u_jk^2) over all components.

    Rueckert et al., IEEE TMI 18 (1999); second central differences u(i+1) - 2 u(i) + u(i-1), mixed ones over
    the four diagonal neighbours, each averaged over the voxels that have the neighbours. An axis too short
    for a difference adds nothing. Zero for every affine displacement.

    Args:
        ddf: ``(B, 3, I, J, K)`` in voxels.
        spacing: of the grid, three lengths in mm, or three for each sample ``(B, 3)``: displacements are then
            in mm and derivatives per mm. None: all in voxels.
        deepreg: as DeepReg: a central difference of a central difference, which reaches two voxels, does not
            see a field that alternates from voxel to voxel, and is NaN if an axis has fewer than five voxels.

    Returns:
        ``(B,)``; without spacing in 1 / voxel^2, with it in 1 / mm^2.

    Raises:
        InputError: another shape, a spacing that is not three positive lengths.
    """
    stencils = [_second(a, deepreg) for a in AXES]
    stencils += [_mixed(a, b, deepreg) for a, b in ((0, 1), (0, 2), (1, 2))]
    return _energy(ddf, stencils, spacing, False, deepreg)


def gradient(
    ddf: torch.Tensor,
    *,
    l1: bool = False,
    spacing: Sequence[float] | torch.Tensor | None = None,
    deepreg: bool = False,
) -> torch.Tensor:
    """Mean of u_i^2 + u_j^2 + u_k^2 over voxels and components, or of |u_i| + |u_j| + |u_k| with ``l1``.

    Differences of neighbours u(i+1) - u(i), each averaged over all pairs of them; an axis of one voxel adds
    nothing.

    Args:
        ddf: ``(B, 3, I, J, K)`` in voxels.
        l1: moduli in place of squares (total variation).
        spacing: as in `bending`.
        deepreg: as DeepReg: central differences (u(i+1) - u(i-1)) / 2 without the outermost voxels, which do
            not see a field that alternates from voxel to voxel; NaN if an axis has fewer than three voxels.

    Returns:
        ``(B,)``, without unit.

    Raises:
        InputError: another shape, a spacing that is not three positive lengths.
    """
    return _energy(ddf, [_first(a, deepreg) for a in AXES], spacing, l1, deepreg)


def diffusion(
    velocity: torch.Tensor, *, spacing: Sequence[float] | torch.Tensor | None = None
) -> torch.Tensor:
    """Diffusion energy of a stationary velocity field v, mean of v_i^2 + v_j^2 + v_k^2.

    The regulariser of Fischer and Modersitzki (Contemporary Mathematics 313, 2002), laid on the
    velocity as in Dalca et al., Medical Image Analysis 57 (2019): there it bounds how uneven each small step
    is, while on the displacement it would charge large smooth motions, too. It is `gradient` with squares
    under another name, so that a list of losses can hold one for the velocity and one for the displacement.
    A training objective gives it the velocity where the method predicts one, else the displacement:
    ``RegCore.losses.ON_VELOCITY`` names the losses that are treated so. DeepReg has no such loss.

    Args:
        velocity: ``(B, 3, I, J, K)`` in voxels per unit time.
        spacing: as in `bending`.

    Returns:
        ``(B,)``.

    Raises:
        InputError: another shape, a spacing that is not three positive lengths.
    """
    return gradient(velocity, spacing=spacing)


def central_difference(x: torch.Tensor, axis: int) -> torch.Tensor:
    """(x(i+1) - x(i-1)) / 2 along one axis, without the outer voxels.

    Args:
        x: ``(B, C, I, J, K)``.
        axis: 0, 1 or 2 for i, j or k.

    Returns:
        ``(B, C, I - 2, J - 2, K - 2)``.
    """
    (_, after), (_, before) = _first(axis, True).windows(x.shape[2:])
    return (x[after] - x[before]) / 2
