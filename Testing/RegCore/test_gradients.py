"""Every derivative that RegCore makes itself, against finite differences in double precision.

The classes are found, not listed: a new subclass of `torch.autograd.Function` anywhere in RegCore fails until
it has a case here.
"""

import importlib
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import RegCore
from RegCore.losses import bending, gmi, gradient, jacobian, lncc
from RegCore.networks.layers import BatchNorm3d, Conv3dBlock, recomputed
from RegCore.networks.layers.convolution import _OverProcesses
from RegCore.networks.layers.memory_efficient import _Chain
from RegCore.registration.deformable_level import DeformableTask, Settings, make_deformable_level
from RegCore.registration.objective import PairObjective
from RegCore.registration.pair import PairSide
from RegCore.resampler import gaussian_smooth
from RegCore.resampler.band_filters import BLOCK, BandFilter, means_inside, means_of_repeated
from RegCore.resampler.descriptors import mind_ssc
from RegCore.space.geometry import Geometry
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

SPACING = (0.8, 1.5, 2.5)


def images(shape=(2, 1, 4, 3, 5), seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two double-precision images in (0, 1) that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    fixed, noise = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return 0.1 + 0.8 * fixed, 0.1 + 0.5 * fixed + 0.3 * noise


def field(shape=(2, 3, 4, 3, 5), size=0.4, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def one_number(found: torch.Tensor) -> torch.Tensor:
    """A weighted sum, whose slope is cheaper to have by differences than that of every entry."""
    weights = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    return (weights * found).sum()


def chain_case(sizes, recompute: bool):
    """A chain of convolutions with these sizes of kernels, two channels each, and its tensors."""
    generator = torch.Generator().manual_seed(3)
    norms = [BatchNorm3d(2).double() for _ in sizes]
    tensors = [torch.randn(2, 1, 3, 4, 3, generator=generator, dtype=torch.float64)]
    for n, size in enumerate(sizes):
        for shape in ((2, 2 if n else 1, *size), (2,), (2,)):
            tensors.append(torch.randn(shape, generator=generator, dtype=torch.float64))
    return lambda x, *rest: one_number(_Chain.apply(x, recompute, norms, *rest)), *tensors


def block_case():
    block = Conv3dBlock(1, 2, activation="tanh").double()
    x = torch.randn(1, 1, 3, 4, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return lambda x: one_number(recomputed(block, block, x)), x


def objective_case():
    sides = [PairSide(Volume(image[0, 0].float().numpy(), GRID)) for image in images((1, 1, 6, 5, 7))]
    settings = Settings(smoothness=0.3)
    level = make_deformable_level(DeformableTask(*sides, AffineTransform.identity(), settings), GRID, 0.0)
    tensors = {name: getattr(level, name).double() for name in ("fixed", "moving", "weight")}
    return PairObjective(replace(level, **tensors), settings), field((1, 3, 6, 5, 7))


def filter_case(size: int):
    bands = BandFilter([means_of_repeated(size, 1, 2), means_inside(3, (0.5, 0.3)), torch.eye(2)], field())
    return lambda x: one_number(bands(x)), field((2, size, 3, 2))


GRID = Geometry((6, 5, 7), np.diag([1.5, 2.0, 1.0, 1.0]))
KERNELS = (("rectangular", 3), ("rectangular", 4), ("triangular", 3), ("gaussian", 4))
# class -> cases; a case is a function of the tensors that follow it
CASES = {
    "RegCore.networks.layers.memory_efficient._Chain": [
        chain_case(sizes, recompute)
        for recompute in (False, True)
        for sizes in ([(3, 1, 1)] * 2, [(1, 1, 3), (1, 1, 1), (1, 3, 1)])
    ],
    "RegCore.networks.layers.memory_efficient._Recomputed": [block_case()],
    "RegCore.losses.lncc._LocalCorrelation": [
        (
            lambda f, w, k=k, n=n, d=d: lncc(f, w, kernel_type=k, kernel_size=n, deepreg=d),
            *images((2, 1, 3, 2, 2)),
        )
        for k, n in KERNELS
        for d in (False, True)
    ],
    "RegCore.losses.image._JointHistogram": [
        (lambda f, w: gmi(f, w, num_bins=6), *images()),
        (lambda f, w: gmi(f, w, num_bins=9, sigma_ratio=1.0), *images((1, 2, 3, 4, 2))),
    ],
    "RegCore.losses.deform._StencilEnergy": [
        (lambda u, s=s, d=d: bending(u, spacing=s, deepreg=d), field((1, 3, 5, 5, 6)))
        for s in (None, SPACING)
        for d in (False, True)
    ]
    + [
        (lambda u, s=s, d=d, one=one: gradient(u, l1=one, spacing=s, deepreg=d), field())
        for s in (None, SPACING)
        for d in (False, True)
        for one in (False, True)
    ]
    + [(lambda u: bending(u) + gradient(u), field((2, 3, 1, 2, 4)))],
    "RegCore.losses.folding._JacobianPenalty": [
        (lambda u, w=w: jacobian(u, log_weight=w), field(shape, size))
        for w in (0.0, 0.3)
        for shape in ((2, 3, 3, 2, 4), (1, 3, 1, 3, 2), (1, 3, 3, 1, 1))
        for size in (0.15, 1.0)
    ],
    "RegCore.networks.layers.convolution._OverProcesses": [
        (lambda x: one_number(_OverProcesses.apply(x.movedim(1, -1))), images()[0])
    ],
    "RegCore.registration.objective._Distance": [objective_case()],
    "RegCore.resampler.band_filters._Filtered": [filter_case(BLOCK + 2), filter_case(5)],
    "RegCore.resampler.descriptors._SelfSimilarity": [
        (lambda x, r=r, d=d: one_number(mind_ssc(x, radius=r, dilation=d)), images(shape)[0])
        for r, d, shape in ((1, 2, (2, 1, 4, 3, 5)), (2, 1, (1, 1, 3, 4, 1)), (0, 1, (1, 1, 2, 2, 2)))
    ],
    "RegCore.resampler.smoothing._Smoothing": [
        (lambda x, s=s: gaussian_smooth(x, s), images(shape)[0])
        for s, shape in ((1.0, (2, 2, 4, 3, 5)), ((0.6, 0, 2.0), (1, 1, 4, 2, 3)), (0.2, (1, 1, 2, 1, 3)))
    ],
}


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """A group of this process alone, for what is summed over processes; several have tests of their own."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def own_functions() -> set[str]:
    """Dotted names of all subclasses of `torch.autograd.Function` that modules of RegCore define."""
    for module in pkgutil.walk_packages(RegCore.__path__, "RegCore."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    pending, found = [torch.autograd.Function], set()
    while pending:
        pending += (children := pending.pop().__subclasses__())
        found |= {f"{c.__module__}.{c.__qualname__}" for c in children if c.__module__.startswith("RegCore")}
    return found


def test_every_own_derivative_has_a_case():
    assert own_functions() == set(CASES)


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, cases in CASES.items() for number in range(len(cases))]
)
def test_own_derivative_is_that_of_finite_differences(name, number):
    function, *tensors = CASES[name][number]
    inputs = tuple(x.clone().requires_grad_(True) for x in tensors)
    used, pending = set(), [function(*inputs).grad_fn]
    while pending:
        node = pending.pop()
        used.add(type(node).__name__)
        pending += [child for child, _ in node.next_functions if child is not None]
    assert f"{name.rpartition('.')[2]}Backward" in used, "the case does not reach the derivative it is for"
    assert torch.autograd.gradcheck(function, inputs)
    for n in range(len(inputs) if len(inputs) > 1 else 0):  # one alone may take another way
        alone = [x.detach() for x in inputs]
        alone[n] = inputs[n]
        assert torch.autograd.gradcheck(function, alone)
