"""Which images meet: rules that hold for any numbers. The exact orders are those recorded from DeepReg."""

from itertools import product
from random import Random

import pytest

from RegCore.loaders.samplers import (
    all_pairs,
    buffered_shuffle,
    check_grouped,
    grouped_order,
    paired_order,
    unpaired_order,
)
from RegCore.space.geometry import InputError

SIZES = [3, 2, 4, 1, 5]


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_paired_and_unpaired_orders_use_each_image_once(count):
    assert sorted(paired_order(count, Random(1))) == list(range(count))
    pairs = unpaired_order(count, Random(1))
    used = [image for pair in pairs for image in pair]
    assert len(pairs) == count // 2 and len(set(used)) == len(used)


@pytest.mark.parametrize("option", ["forward", "backward", "unconstrained"])
def test_all_pairs_are_each_pair_once(option):
    within = all_pairs(SIZES, True, option)
    half = sum(n * (n - 1) // 2 for n in SIZES)
    assert len(within) == len(set(within)) == half * (2 if option == "unconstrained" else 1)
    assert all(g == h and i != j for g, i, h, j in within)
    if option != "unconstrained":
        assert all((i < j) == (option == "forward") for _, i, _, j in within)
    between = all_pairs(SIZES, False, option)
    assert len(between) == len(set(between)) == sum(SIZES) ** 2 - sum(n * n for n in SIZES)
    assert all(g != h for g, _, h, _ in between)


@pytest.mark.parametrize("probability", [0, 0.3, 1])
@pytest.mark.parametrize("option", ["forward", "backward", "unconstrained"])
def test_sampled_pairs_keep_to_the_options(probability, option):
    within = together = 0
    for seed in range(300):
        pairs = grouped_order(SIZES, probability, option, True, Random(seed))
        groups = [pair[0] for pair in pairs]
        assert len(set(groups)) == len(groups) >= (4 if probability else 5)
        for g, i, h, j in pairs:
            assert 0 <= i < SIZES[g] and 0 <= j < SIZES[h]
            if g == h:
                assert i != j and (option == "unconstrained" or (i < j) == (option == "forward"))
            within, together = within + (g == h), together + 1
    assert within / together == pytest.approx(
        {0: 0, 0.3: 0.3 * 4 / (0.3 * 4 + 0.7 * 5), 1: 1}[probability], abs=0.04
    )


@pytest.mark.parametrize(
    "sizes, probability, option, sampled, sentence",
    [
        ([2, 2], 0.5, "forward", False, "can't be mixed.*it is 0.5"),
        ([2, 2], 1, "wrong", True, "one of forward, backward, unconstrained.*'wrong'"),
        ([2, 2], 1, "wrong", False, "one of forward, backward, unconstrained.*'wrong'"),
        ([2], 0.5, "forward", True, "at least two groups, but there is 1"),
        ([2], 0, "forward", False, "at least two groups, but there is 1"),
        ([2, 2], 1.5, "forward", True, "between 0 and 1, but it is 1.5"),
        ([1, 1], 1, "forward", True, "a group of at least two images"),
    ],
)
def test_groups_that_give_no_pairs_are_refused(sizes, probability, option, sampled, sentence):
    with pytest.raises(InputError, match=sentence):
        check_grouped(sizes, probability, option, sampled)


@pytest.mark.parametrize("size, count", list(product([0, 1, 2, 5, 100], [0, 1, 30])))
def test_the_shuffle_buffer_gives_everything_once_and_holds_back_what_it_can(size, count):
    given = list(range(count))
    out = buffered_shuffle(given, size, Random(3))
    assert sorted(out) == given and out == buffered_shuffle(given, size, Random(3))
    assert all(entry < place + max(size, 1) for place, entry in enumerate(out))
    assert (out == given) == (size < 2 or count < 2)


def test_a_buffer_as_large_as_the_list_draws_uniformly():
    first = [buffered_shuffle(list(range(5)), 5, Random(seed))[0] for seed in range(1000)]
    assert min(first.count(n) for n in range(5)) > 150
