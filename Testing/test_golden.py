"""Every case that was recorded from DeepReg and that `golden.FUNCTIONS` covers, within its own tolerance."""

import json
from functools import cache

import numpy as np
import pytest

from Testing.golden import FUNCTIONS, check_facts, run_case
from Testing.paths import RECORDED


def _cases():
    for index in sorted(RECORDED.glob("index_*.json")):
        section = index.stem.removeprefix("index_")
        yield from ({"section": section, **case} for case in json.loads(index.read_text()))


@cache
def _arrays(section: str) -> dict[str, dict[str, np.ndarray]]:
    by_case = {}
    with np.load(RECORDED / f"{section}.npz") as arrays:
        for key in arrays.files:
            name, _, array = key.rpartition("|")
            by_case.setdefault(name, {})[array] = arrays[key]
    return by_case


@pytest.mark.parametrize("case", [pytest.param(c, id=c["id"]) for c in _cases()])
def test_recorded_case(case):
    if not case["outputs"]:
        return check_facts(case)
    arrays = _arrays(case["section"])[case["id"]]
    made = run_case(case, {name: arrays[name] for name in case["inputs"]})
    assert set(made) == set(case["outputs"])
    for name, values in made.items():
        assert values.shape == arrays[name].shape
        np.testing.assert_allclose(values, arrays[name], case["rtol"], case["atol"], err_msg=name)


def test_a_function_that_is_not_covered_is_named():
    assert "loss:lncc" in FUNCTIONS
    with pytest.raises(KeyError, match="unheard_of"):
        run_case({"function": "unheard_of", "kwargs": {}, "outputs": []}, {})
