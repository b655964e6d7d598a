"""Runs what was recorded from DeepReg through the public functions of RegCore.

A recorded case names a function of DeepReg and its keyword arguments; its arrays are float32 with the
channels last. Each section has a file here whose `FUNCTIONS` says for each function how ours is asked the
same: ``function(case, arrays) -> dict`` of what was found, by the names of the case's outputs. Where
DeepReg's behaviour differs from ours by design, the option that brings it back is set there.

A few cases have no arrays: the entry itself holds facts (a number of parameters, an order of samples). Their
function gives back those facts by their names in the entry; `check_facts` compares them for equality, or by
what the section says in its `CHECKS`: ``check(case, found)``, which raises AssertionError.
"""

import numpy as np

from Testing.golden import backbones, classical, layers, loaders, losses, models, preprocess, resampler, warp

SECTIONS = (backbones, classical, layers, loaders, losses, models, preprocess, resampler, warp)
FUNCTIONS = {name: function for section in SECTIONS for name, function in section.FUNCTIONS.items()}
CHECKS = {name: check for section in SECTIONS for name, check in getattr(section, "CHECKS", {}).items()}


def run_case(case: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a recorded case as RegCore computes them, in DeepReg's layout.

    case: an entry of an index file: ``function``, ``kwargs`` and ``outputs`` are used, never ``id``.
    arrays: the arrays of the case by name; the inputs are enough.
    Raises KeyError for a function that is not covered.
    """
    made = FUNCTIONS[case["function"]](case, arrays)
    return {name: np.asarray(made[name]) for name in case["outputs"]}


def check_facts(case: dict) -> None:
    """Compare the facts that a case without outputs states in its own entry with what RegCore says.

    Raises AssertionError where they differ, KeyError for a function that is not covered.
    """
    found = FUNCTIONS[case["function"]](case, {})
    assert found, f"{case['function']} says nothing of this case"
    if case["function"] in CHECKS:
        CHECKS[case["function"]](case, found)
        return
    for name, value in found.items():
        assert value == case[name], f"{name}: found {value}, DeepReg has {case[name]}"
