"""Times the losses, forward and backward, beside their plain formulations in torch: run it as a program.

Both stand in one run on the same tensors, so that the ratio means something on a busy machine; the best of
several rounds counts, in which the two take turns. Prints a Markdown table.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads cost a busy machine most of the ratio

import torch  # noqa: E402 - reads the variable above
import torch.nn.functional as F  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from RegCore.losses import bending, dice, gmi, jacobian, lncc, mind  # noqa: E402 - the path comes first
from RegCore.losses.kernels import gaussian_kernel1d_sigma, gaussian_kernel1d_size  # noqa: E402

SCALES = (1, 2, 4, 8)  # voxels, of the Gaussians that labels are smoothed with


def plain_lncc(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """lncc with windows of 9 voxels as autograd and avg_pool3d make it."""

    def mean(x):
        return F.avg_pool3d(x, 9, stride=1, padding=4, count_include_pad=False)

    mean_f, mean_w = mean(fixed), mean(warped)
    cross = 729 * (mean(fixed * warped) - mean_f * mean_w)
    var_f = (729 * (mean(fixed * fixed) - mean_f * mean_f)).clamp_min(0)
    var_w = (729 * (mean(warped * warped) - mean_w * mean_w)).clamp_min(0)
    return -(cross**2 / (var_f * var_w + 1e-5)).flatten(1).mean(1)


def plain_filter(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """A separable filter of odd size as three one-dimensional conv3d make it."""
    for dim in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[dim + 2], pad[dim] = len(kernel), len(kernel) // 2
        x = F.conv3d(x, kernel.view(shape), padding=pad)
    return x


def plain_dice(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """Dice at the scales of `SCALES` as autograd makes it of one-dimensional conv3d."""
    total = 0
    for sigma in SCALES:
        kernel = gaussian_kernel1d_sigma(sigma)
        f, w = plain_filter(fixed, kernel), plain_filter(warped, kernel)
        total = total - (2 * (f * w).flatten(1).sum(1) + 1e-5) / ((f + w).flatten(1).sum(1) + 1e-5)
    return total / len(SCALES)


def plain_gaussian_lncc(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """lncc with a Gaussian window of 9 voxels as autograd and three one-dimensional conv3d make it."""
    kernel = gaussian_kernel1d_size(9)

    def total(x):
        return plain_filter(x, kernel)

    inside, volume = total(torch.ones_like(fixed)), float(kernel.sum() ** 3)
    mean_f, mean_w = total(fixed) / inside, total(warped) / inside
    cross = volume * (total(fixed * warped) / inside - mean_f * mean_w)
    var_f = (volume * (total(fixed * fixed) / inside - mean_f * mean_f)).clamp_min(0)
    var_w = (volume * (total(warped * warped) / inside - mean_w * mean_w)).clamp_min(0)
    return -(cross**2 / (var_f * var_w + 1e-5)).flatten(1).mean(1)


def plain_bending(_: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """Bending energy as autograd makes it of slices."""

    def along(x, dim):
        n = x.shape[dim]
        return x.narrow(dim, 2, n - 2) - 2 * x.narrow(dim, 1, n - 2) + x.narrow(dim, 0, n - 2)

    def central(x, dim):
        n = x.shape[dim]
        return (x.narrow(dim, 2, n - 2) - x.narrow(dim, 0, n - 2)) / 2

    energy = sum((along(ddf, d) ** 2).flatten(1).mean(1) for d in (2, 3, 4))
    for a, b in ((2, 3), (2, 4), (3, 4)):
        energy = energy + 2 * (central(central(ddf, a), b) ** 2).flatten(1).mean(1)
    return energy


def plain_gmi(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """Mutual information with the memberships of all voxels held at once."""
    centres, sigma = torch.linspace(0, 1, 23), 0.5 / 22
    f, w = (
        torch.softmax(-((x.flatten()[:, None] - centres) ** 2) / (2 * sigma**2), 1) for x in (fixed, warped)
    )
    joint = f.T @ w / len(f)
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return -(joint * torch.log((joint + 1e-5) / (product + 1e-5))).sum()[None]


def plain_mind(fixed: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """MIND-SSC of both images as autograd makes it of rolled images and avg_pool3d."""

    def moved(x, offset):
        index = [(torch.arange(n) + o).clamp(0, n - 1) for n, o in zip(x.shape[2:], offset, strict=True)]
        return x[:, :, index[0]][:, :, :, index[1]][..., index[2]]

    def descriptors(x):
        near = [tuple(2 * s * (d == a) for d in range(3)) for a in range(3) for s in (1, -1)]
        pairs = [
            (a, b) for n, a in enumerate(near) for b in near[n + 1 :] if any(map(sum, zip(a, b, strict=True)))
        ]
        wide = F.pad(x, (1,) * 6, mode="replicate")
        square = [(moved(wide, a) - moved(wide, b)) ** 2 for a, b in pairs]
        distance = torch.cat([F.avg_pool3d(s, 3, 1) for s in square], 1)
        distance = distance - distance.amin(1, keepdim=True)
        spread = distance.mean(1, keepdim=True)
        mean = spread.mean(dim=(2, 3, 4), keepdim=True)
        return torch.exp(-distance / torch.minimum(torch.maximum(spread, 0.001 * mean), 1000 * mean))

    return ((descriptors(fixed) - descriptors(warped)) ** 2).flatten(1).mean(1)


def plain_jacobian(_: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
    """Folds at the eight corners of each cell as autograd makes them of slices."""
    n = [size - 1 for size in ddf.shape[2:]]
    total = 0
    for corner in product((0, 1), repeat=3):
        columns = []
        for d in range(3):
            column = ddf.diff(dim=d + 2)
            for e in range(3):
                column = column if e == d else column.narrow(e + 2, corner[e], n[e])
            columns.append(column + torch.eye(3)[d].view(1, 3, 1, 1, 1))
        determinant = (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=1)).sum(1)
        total = total + (-determinant).clamp_min(0).flatten(1).mean(1) / 8
    return total


def step(loss: Callable, fixed: torch.Tensor, moved: torch.Tensor) -> tuple[float, float, torch.Tensor]:
    """Wall seconds, processor seconds and the gradient of one evaluation forward and backward."""
    moved.grad = None
    wall, processor = time.perf_counter(), time.process_time()
    loss(fixed, moved).sum().backward()
    return time.perf_counter() - wall, time.process_time() - processor, moved.grad


def compare(name: str, ours: Callable, plain: Callable, fixed, moved, rounds: int) -> str:
    """One line of the table; raises RuntimeError if the two gradients are not of one function."""
    best = {ours: (float("inf"),) * 2, plain: (float("inf"),) * 2}
    grads = {}
    for _ in range(rounds):
        for loss in (ours, plain):
            wall, processor, grads[loss] = step(loss, fixed, moved)
            best[loss] = (min(best[loss][0], wall), min(best[loss][1], processor))
    difference = float((grads[ours] - grads[plain]).norm() / grads[plain].norm())
    if difference > 0.01:
        raise RuntimeError(f"{name}: the gradients differ by {difference:.2g} of their size")
    (wall, processor), (slow_wall, slow_processor) = best[ours], best[plain]
    return (
        f"| {name} | {wall * 1e3:.0f} | {slow_wall * 1e3:.0f} | {slow_wall / wall:.1f} "
        f"| {processor * 1e3:.0f} | {slow_processor * 1e3:.0f} | {slow_processor / processor:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the losses beside their plain formulations.")
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, options.size, options.size, options.size)
    fixed = torch.rand(shape, generator=generator)
    warped = (0.7 * fixed + 0.3 * torch.rand(shape, generator=generator)).requires_grad_(True)
    ddf = torch.randn((1, 3, *shape[2:]), generator=generator).requires_grad_(True)

    def gaussian_lncc(f, w):
        return lncc(f, w, kernel_type="gaussian")

    print(f"Size {options.size}^3, {options.threads} threads, best of {options.rounds}, milliseconds.\n")
    print("| forward + backward | ours, wall | plain, wall | ratio | ours, cpu | plain, cpu | ratio |")
    print("|---|---|---|---|---|---|---|")
    print(compare("lncc 9, box, beside avg_pool3d", lncc, plain_lncc, fixed, warped, options.rounds))
    rest = (fixed, warped, options.rounds)
    print(compare("lncc 9, Gaussian, beside 1-D conv3d", gaussian_lncc, plain_gaussian_lncc, *rest))
    print(
        compare(
            "dice at four scales, beside 1-D conv3d",
            lambda f, w: dice(f, w, scales=SCALES),
            plain_dice,
            *rest,
        )
    )
    print(compare("gmi", gmi, plain_gmi, *rest))
    print(compare("mind", mind, plain_mind, *rest))
    folding = (0.3 * ddf.detach()).requires_grad_(True)
    ours = ("jacobian", lambda _, u: jacobian(u), plain_jacobian, fixed, folding)
    print(compare(*ours, options.rounds))
    print(compare("bending", lambda _, u: bending(u), plain_bending, fixed, ddf, options.rounds))


if __name__ == "__main__":
    main()
