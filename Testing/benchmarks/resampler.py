"""Times smoothing and integration, forward and backward, beside plain formulations: run it as a program.

Smoothing stands beside torch's conv3d, integration on half the grid beside that on all of it. Both of a pair
run on the same tensors and take turns; the best of several rounds counts. Prints a Markdown table.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in losses.py

import torch  # noqa: E402 - reads the variable above
import torch.nn.functional as F  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from RegCore.resampler import gaussian_smooth, integrate  # noqa: E402 - the path comes first
from Testing.benchmarks.losses import compare, step  # noqa: E402


def plain_smooth(image: torch.Tensor, sigma: float, *, separable: bool) -> torch.Tensor:
    """Gaussian smoothing by conv3d: one three-dimensional kernel, or one for each axis."""
    radius = int(3 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    image = F.pad(image, (radius,) * 6, mode="replicate")
    i, j, k = taps.view(1, 1, -1, 1, 1), taps.view(1, 1, 1, -1, 1), taps.view(1, 1, 1, 1, -1)
    if not separable:
        return F.conv3d(image, i * j * k)
    return F.conv3d(F.conv3d(F.conv3d(image, i), j), k)


def smoothing(sigma: float, separable: bool) -> tuple[Callable, Callable]:
    """Ours and the plain one, as losses of an image whose gradient is no constant."""

    def ours(weights, image):
        return gaussian_smooth(image, sigma) * weights

    def plain(weights, image):
        return plain_smooth(image, sigma, separable=separable) * weights

    return ours, plain


def halved(velocity: torch.Tensor, weights: torch.Tensor, rounds: int) -> str:
    """The line of integration on half the grid beside that on all of it, with their largest difference."""
    best = {}
    for scale in [0.5, 1.0] * rounds:
        wall, processor, _ = step(lambda w, v, s=scale: integrate(v, scale=s) * w, weights, velocity)
        before = best.get(scale, (float("inf"),) * 2)
        best[scale] = (min(before[0], wall), min(before[1], processor))
    (wall, processor), (slow_wall, slow_processor) = best[0.5], best[1.0]
    with torch.no_grad():
        apart = float((integrate(velocity, scale=0.5) - integrate(velocity)).abs().max())
    return (
        f"| integration on half the grid (up to {apart:.2f} voxels apart), beside the whole "
        f"| {wall * 1e3:.0f} | {slow_wall * 1e3:.0f} | {slow_wall / wall:.1f} "
        f"| {processor * 1e3:.0f} | {slow_processor * 1e3:.0f} | {slow_processor / processor:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time smoothing and integration beside plain formulations.")
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    shape = (options.size,) * 3
    weights = torch.rand((1, 1, *shape), generator=generator)
    image = torch.rand((1, 1, *shape), generator=generator).requires_grad_(True)
    velocity = gaussian_smooth(torch.randn((1, 3, *shape), generator=generator), options.size / 20)
    velocity = (velocity * (4 / velocity.abs().max())).requires_grad_(True)
    print(f"Size {options.size}^3, {options.threads} threads, best of {options.rounds}, milliseconds.\n")
    print("| forward + backward | ours, wall | plain, wall | ratio | ours, cpu | plain, cpu | ratio |")
    print("|---|---|---|---|---|---|---|")
    for sigma in (1.0, 2.0, 4.0):
        name = f"Gaussian of {sigma:g} voxels, beside 1-D conv3d"
        print(compare(name, *smoothing(sigma, True), weights, image, options.rounds))
    name = "Gaussian of 1 voxel, beside 3-D conv3d"
    print(compare(name, *smoothing(1.0, False), weights, image, options.rounds))
    print(halved(velocity, weights, options.rounds))


if __name__ == "__main__":
    main()
