"""Every derivative that RegCore makes itself, against finite differences in double precision.

The classes are found, not listed: a new subclass of `torch.autograd.Function` anywhere in RegCore fails until
it has a case here. What exists in single precision only is compared with the derivative of a plain way to
compute the same in double precision.
"""

import importlib
import pkgutil

import pytest
import torch
import torch.nn.functional as F

import RegCore
from RegCore.features import mind_ssc
from RegCore.layers.convolution import _OneDnnConvolution
from RegCore.losses import bending, gmi, gradient, jacobian, lncc
from RegCore.resampler import gaussian_smooth

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


KERNELS = (("rectangular", 3), ("rectangular", 4), ("triangular", 3), ("gaussian", 4))
# class -> cases; a case is a function of the tensors that follow it
CASES = {
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
    "RegCore.features._SelfSimilarity": [
        (lambda x, r=r, d=d: one_number(mind_ssc(x, radius=r, dilation=d)), images(shape)[0])
        for r, d, shape in ((1, 2, (2, 1, 4, 3, 5)), (2, 1, (1, 1, 3, 4, 1)), (0, 1, (1, 1, 2, 2, 2)))
    ],
    "RegCore.resampler.smoothing._Smoothing": [
        (lambda x, s=s: gaussian_smooth(x, s), images(shape)[0])
        for s, shape in ((1.0, (2, 2, 4, 3, 5)), ((0.6, 0, 2.0), (1, 1, 4, 2, 3)), (0.2, (1, 1, 2, 1, 3)))
    ],
}


def convolution_case(strides, padding, bias: bool):
    """(ours in single precision, plain, tensors) of a convolution."""
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 3, 5, 4, 6), (4, 3, 3, 3, 3)] + [(4,)] * bias
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    geometry = [strides] * 3, [padding] * 3

    def ours(x, weight, bias=None):
        return _OneDnnConvolution.apply(x, weight, bias, *geometry)

    return ours, lambda x, weight, bias=None: F.conv3d(x, weight, bias, *geometry), tensors


SINGLE_PRECISION = {
    "RegCore.layers.convolution._OneDnnConvolution": [
        convolution_case(strides, padding, bias)
        for strides, padding, bias in ((1, 1, False), (2, 0, True), (2, 1, False))
    ]
}


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
    assert own_functions() == {*CASES, *SINGLE_PRECISION}


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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, cases in SINGLE_PRECISION.items() for n in range(len(cases))]
)
def test_own_derivative_in_single_precision_is_that_of_a_plain_formulation(name, number):
    ours, plain, tensors = SINGLE_PRECISION[name][number]
    found = []
    for function, dtype in ((ours, torch.float32), (plain, torch.float64)):
        inputs = [x.to(dtype).requires_grad_(True) for x in tensors]
        value = one_number(function(*inputs).double())
        found.append([value, *torch.autograd.grad(value, inputs)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4 * double.abs().max().item())
