"""Optimisers under Keras's names, with Keras's arguments, defaults and arithmetic: `make_optimiser`.

They are those of Keras 2.15, which DeepReg's configuration files name. Where torch computes the same from
translated arguments, its optimiser is used; the others put epsilon elsewhere and are written here. State and
number of steps are in ``state_dict``, so that training goes on exactly as if it had not been interrupted.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real

import torch

from RegCore.space.geometry import InputError
from RegCore.space.names import select

Tensors = list[torch.Tensor]

COMMON = {"weight_decay": None, "clipnorm": None, "global_clipnorm": None, "clipvalue": None}
BETAS = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
ADAM = {"learning_rate": 0.001, **BETAS, "amsgrad": False, **COMMON}
FTRL = {
    "learning_rate": 0.001,
    "learning_rate_power": -0.5,
    "initial_accumulator_value": 0.1,
    "l1_regularization_strength": 0.0,
    "l2_regularization_strength": 0.0,
    "l2_shrinkage_regularization_strength": 0.0,
    "beta": 0.0,
    **COMMON,
}
RMSPROP = {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False}
ADAGRAD = {"initial_accumulator_value": 0.1, "epsilon": 1e-7}
# Every name with its arguments and their defaults. None: not used.
OPTIMISERS: dict[str, dict] = {
    "Adam": ADAM,
    "AdamW": {**ADAM, "weight_decay": 0.004},
    "SGD": {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False, **COMMON},
    "RMSprop": {"learning_rate": 0.001, **RMSPROP, **COMMON},
    "Adagrad": {"learning_rate": 0.001, **ADAGRAD, **COMMON},
    "Adadelta": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7, **COMMON},
    "Adamax": {"learning_rate": 0.001, **BETAS, **COMMON},
    "Nadam": {"learning_rate": 0.001, **BETAS, **COMMON},
    "Ftrl": FTRL,
}
FORMULAS = {
    "Adam": "w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon), m and v means of g and g^2",
    "AdamW": "Adam, after the weights shrank by rate weight_decay",
    "SGD": "v = momentum v - rate g, w += v",
    "RMSprop": "s = rho s + (1 - rho) g^2, w -= rate g / sqrt(s + epsilon)",
    "Adagrad": "s += g^2, w -= rate g / sqrt(s + epsilon)",
    "Adadelta": "w -= rate g sqrt((d + epsilon) / (s + epsilon)), s and d means of g^2 and of squared steps",
    "Adamax": "w -= rate / (1 - b1^t) m / (u + epsilon), u = max(b2 u, |g|)",
    "Nadam": "Adam with Nesterov's momentum",
    "Ftrl": "w makes the sum of gradients times w, l1 |w| and l2 w^2 smallest",
}
"""What each does to a weight w with the gradient g; all can shrink weights and clip gradients, too."""
NOT_NEGATIVE = (lambda x: x >= 0, "of at least 0")
MEAN = (lambda x: 0 <= x < 1, "from 0 to below 1")  # weights of moving averages
RANGES = {
    "learning_rate": (lambda x: x > 0, "above 0"),
    "learning_rate_power": (lambda x: x <= 0, "of at most 0"),
    "momentum": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "beta_1": MEAN,
    "beta_2": MEAN,
    "rho": MEAN,
}
CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")


def _check(name: str, argument: str, value: object, default: object) -> None:
    """Raise InputError unless an argument has a value that makes sense."""
    if value is None and default is None:
        return
    what = f"{argument} of the optimiser {name}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise InputError(f"{what} is {value!r}, expected true or false")
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        hint = "; YAML reads 1e-5 as text, write 1.0e-5" if isinstance(value, str) else ""
        raise InputError(f"{what} is {value!r}, expected a number{hint}")
    fits, wanted = RANGES.get(argument, NOT_NEGATIVE)
    if not fits(value):
        raise InputError(f"{what} is {value}, expected a number {wanted}")


def read_options(options: Mapping) -> dict:
    """An ``optimizer`` section with all arguments of its optimiser, defaults filled in.

    Args:
        options: ``{"name": "Adam", "learning_rate": 1e-4, …}``.

    Returns:
        The name, and every argument that `OPTIMISERS` lists for it.

    Raises:
        InputError: no or an unknown name, an unknown argument, a value that makes no sense, two ways to clip.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"the optimizer is {options!r}, expected a name and its arguments")
    given = dict(options)
    name = given.pop("name", None)
    known = select(OPTIMISERS, name, given, "the optimiser", takes=dict)
    for argument, value in given.items():
        _check(name, argument, value, known[argument])
    clips = [clip for clip in CLIPS if given.get(clip)]
    if len(clips) > 1:
        raise InputError(f"the optimiser {name} can clip in one way, but {' and '.join(clips)} are given")
    return {"name": name, **known, **given}


@torch.no_grad()
def _prepare(
    clip: str | None,
    bound: float,
    decay: float,
    optimiser: torch.optim.Optimizer,
    args: tuple,
    kwargs: dict,
) -> None:
    """What Keras does before each step: clip the gradients (in place), then shrink the weights.

    clipnorm: each gradient g becomes g bound / max(|g|, bound); global_clipnorm: the same with the norm of
    all together; clipvalue: each entry to [-bound, bound]. Decay (Loshchilov and Hutter, ICLR 2019):
    w -= w decay rate.
    """
    active = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in active]
    if clip == "clipvalue":
        torch._foreach_clamp_min_(grads, -bound)
        torch._foreach_clamp_max_(grads, bound)
    elif clip is not None and grads:
        norms = torch.stack(torch._foreach_norm(grads))
        norms = norms if clip == "clipnorm" else norms.norm().expand(len(grads))
        torch._foreach_mul_(grads, list(bound / norms.clamp_min(bound)))
    for group in optimiser.param_groups if decay else ():
        for p in group["params"]:
            if p.grad is not None:
                p.mul_(1 - decay * group["lr"])


class KerasOptimiser(torch.optim.Optimizer):
    """An optimiser made of two functions, stepping all parameters at once.

    Args:
        parameters: as torch takes them.
        options: arguments of the rule; ``learning_rate`` is kept as ``lr``, as torch's schedules expect.
        start: (parameter, group) -> its state, a dict of tensors.
        update: (group, step from 1 on, parameters, gradients, lists of states by name) changes parameters
            and states in place.
    """

    # torch wraps these so that they load its compiler first, which takes a second and 70 MiB
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(self, parameters: Iterable, options: Mapping, start: Callable, update: Callable):
        rest = {key: value for key, value in options.items() if key != "learning_rate"}
        super().__init__(parameters, {"lr": options["learning_rate"], "steps": 0, **rest})
        self._start, self._update = start, update

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step along the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            active = [p for p in group["params"] if p.grad is not None]
            if not active:
                continue
            for p in active:
                if not self.state[p]:
                    self.state[p].update(self._start(p, group))
            group["steps"] += 1
            states = [self.state[p] for p in active]
            lists = {name: [state[name] for state in states] for name in states[0]}
            self._update(group, group["steps"], active, [p.grad for p in active], lists)
        return loss


def _adam_start(p: torch.Tensor, group: dict) -> dict:
    names = ("m", "v", "v_hat") if group.get("amsgrad") else ("m", "v")
    return {name: torch.zeros_like(p) for name in names}


def _moments(group: dict, grads: Tensors, state: dict) -> None:
    """m += (1 - beta_1)(g - m), v += (1 - beta_2)(g^2 - v)."""
    torch._foreach_lerp_(state["m"], grads, 1 - group["beta_1"])
    torch._foreach_mul_(state["v"], group["beta_2"])
    torch._foreach_addcmul_(state["v"], grads, grads, 1 - group["beta_2"])


def _adam(group: dict, t: int, parameters: Tensors, grads: Tensors, state: dict) -> None:
    """w -= rate sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon) (Kingma and Ba, ICLR 2015, section 2).

    amsgrad: the greatest v so far in place of v (Reddi et al., ICLR 2018).
    """
    _moments(group, grads, state)
    second = state["v"]
    if group["amsgrad"]:
        torch._foreach_maximum_(state["v_hat"], second)
        second = state["v_hat"]
    rate = group["lr"] * math.sqrt(1 - group["beta_2"] ** t) / (1 - group["beta_1"] ** t)
    denominators = torch._foreach_sqrt(second)
    torch._foreach_add_(denominators, group["epsilon"])
    torch._foreach_addcdiv_(parameters, state["m"], denominators, -rate)


def _adamax_start(p: torch.Tensor, group: dict) -> dict:
    return {"m": torch.zeros_like(p), "u": torch.zeros_like(p)}


def _adamax(group: dict, t: int, parameters: Tensors, grads: Tensors, state: dict) -> None:
    """u = max(b2 u, |g|), w -= rate / (1 - b1^t) m / (u + epsilon) (Kingma and Ba, section 7)."""
    torch._foreach_lerp_(state["m"], grads, 1 - group["beta_1"])
    torch._foreach_mul_(state["u"], group["beta_2"])
    torch._foreach_maximum_(state["u"], torch._foreach_abs(grads))
    denominators = torch._foreach_add(state["u"], group["epsilon"])
    rate = group["lr"] / (1 - group["beta_1"] ** t)
    torch._foreach_addcdiv_(parameters, state["m"], denominators, -rate)


def _rmsprop_start(p: torch.Tensor, group: dict) -> dict:
    names = ["square"] + ["mean"] * group["centered"] + ["velocity"] * (group["momentum"] > 0)
    return {name: torch.zeros_like(p) for name in names}


def _rmsprop(group: dict, t: int, parameters: Tensors, grads: Tensors, state: dict) -> None:
    """s += (1 - rho)(g^2 - s); w -= rate g / sqrt(s + epsilon) (Tieleman and Hinton, 2012).

    centered: the squared mean of g, averaged alike, is taken off s (Graves, 2013). momentum: w -= a velocity,
    velocity = momentum velocity + rate g / sqrt(…).
    """
    rho = group["rho"]
    torch._foreach_mul_(state["square"], rho)
    torch._foreach_addcmul_(state["square"], grads, grads, 1 - rho)
    roots = torch._foreach_add(state["square"], group["epsilon"])
    if group["centered"]:
        torch._foreach_lerp_(state["mean"], grads, 1 - rho)
        torch._foreach_addcmul_(roots, state["mean"], state["mean"], -1)
    torch._foreach_sqrt_(roots)
    if group["momentum"] > 0:
        torch._foreach_mul_(state["velocity"], group["momentum"])
        torch._foreach_addcdiv_(state["velocity"], grads, roots, group["lr"])
        torch._foreach_sub_(parameters, state["velocity"])
    else:
        torch._foreach_addcdiv_(parameters, grads, roots, -group["lr"])


def _sum_start(p: torch.Tensor, group: dict) -> dict:
    return {"sum": torch.full_like(p, group["initial_accumulator_value"])}


def _adagrad(group: dict, t: int, parameters: Tensors, grads: Tensors, state: dict) -> None:
    """s += g^2, w -= rate g / sqrt(s + epsilon) (Duchi et al., JMLR 12, 2011)."""
    torch._foreach_addcmul_(state["sum"], grads, grads)
    roots = torch._foreach_add(state["sum"], group["epsilon"])
    torch._foreach_sqrt_(roots)
    torch._foreach_addcdiv_(parameters, grads, roots, -group["lr"])


def _ftrl_start(p: torch.Tensor, group: dict) -> dict:
    return {**_sum_start(p, group), "linear": torch.zeros_like(p)}


def _ftrl(group: dict, t: int, parameters: Tensors, grads: Tensors, state: dict) -> None:
    """Follow the regularised leader (McMahan et al., KDD 2013, algorithm 1), whose beta is in the L2 term.

    s' = s + g^2; z += g + 2 shrinkage w - (s'^-p - s^-p) w / rate; w = (clip(z, l1) - z) / (s'^-p / rate
    + 2 l2 + beta / rate), p the learning_rate_power.
    """
    rate, power = group["lr"], -group["learning_rate_power"]
    l1, l2 = group["l1_regularization_strength"], group["l2_regularization_strength"]
    shrinkage = group["l2_shrinkage_regularization_strength"]
    for w, g, s, z in zip(parameters, grads, state["sum"], state["linear"], strict=True):
        before = s**power
        after = s.addcmul_(g, g) ** power
        z.add_(g).add_(w, alpha=2 * shrinkage).addcmul_(after - before, w, value=-1 / rate)
        quadratic = after.div_(rate).add_(2 * l2 + group["beta"] / rate)
        w.copy_((z.clamp(-l1, l1) - z) / quadratic)


RULES: dict[str, tuple[Callable, Callable]] = {
    "Adam": (_adam_start, _adam),
    "AdamW": (_adam_start, _adam),
    "RMSprop": (_rmsprop_start, _rmsprop),
    "Adagrad": (_sum_start, _adagrad),
    "Adamax": (_adamax_start, _adamax),
    "Ftrl": (_ftrl_start, _ftrl),
}


def _of_torch(name: str, o: Mapping, parameters: Iterable) -> torch.optim.Optimizer:
    """One of torch's optimisers whose arithmetic is Keras's once its arguments are translated."""
    rate = o["learning_rate"]
    if name == "SGD":
        nesterov = o["nesterov"] and o["momentum"] > 0
        return torch.optim.SGD(parameters, rate, momentum=o["momentum"], nesterov=nesterov)
    if name == "Adadelta":
        return torch.optim.Adadelta(parameters, rate, rho=o["rho"], eps=o["epsilon"])
    betas = (
        o["beta_1"],
        o["beta_2"],
    )  # Keras's schedule of the momentum is 1 - 0.96^t / 2, torch's 0.96^(decay t)
    return torch.optim.NAdam(parameters, rate, betas, eps=o["epsilon"], momentum_decay=1.0)


def make_optimiser(options: Mapping, parameters: Iterable) -> torch.optim.Optimizer:
    """The optimiser that an ``optimizer`` section describes.

    Args:
        options: ``{"name": "Adam", "learning_rate": 1e-4, …}``: a name of `OPTIMISERS` and any of the
            arguments listed there.
        parameters: ``model.parameters()``; a frozen one, without a gradient, is left alone.

    Returns:
        The optimiser; where it clips, it changes the gradients in place.

    Raises:
        InputError: as `read_options`.
    """
    made = read_options(options)
    name = made.pop("name")
    common = {key: made.pop(key) for key in COMMON}
    optimiser: torch.optim.Optimizer
    if name in RULES:
        optimiser = KerasOptimiser(parameters, made, *RULES[name])
    else:
        optimiser = _of_torch(name, made, parameters)
    clip = next((key for key in CLIPS if common[key]), None)
    if clip or common["weight_decay"]:
        bound, decay = common[clip] if clip else 0.0, common["weight_decay"] or 0.0
        optimiser.register_step_pre_hook(partial(_prepare, clip, bound, decay))
    return optimiser
