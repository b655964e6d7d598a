"""Which scans came out unlike the others: robust scores by hand, few scans, what is missing."""

import numpy as np
import pytest

from RegCore.slicreg.transfer import find_unlike, robust_scores
from RegCore.space.geometry import InputError
from RegCore.space.names import paired_by_name


def rows(volumes, distances=None) -> list[dict]:
    distances = distances or [0.5] * len(volumes)
    return [
        {"scan": f"s{n}", "distance": d, "volumes": {"liver": v, "spleen": 200.0}}
        for n, (v, d) in enumerate(zip(volumes, distances, strict=True))
    ]


def test_scores_are_distances_from_the_median_in_robust_standard_deviations():
    values = np.array([1.0, 2.0, 4.0, 4.5, 50.0])
    np.testing.assert_allclose(robust_scores(values, 0.1), (values - 4) / (1.4826 * 2.0))
    np.testing.assert_allclose(robust_scores(np.array([3.0, 3.0, 3.5]), 0.25), [0, 0, 2])


def test_a_small_or_missing_structure_and_a_distant_image_are_named():
    normal = [1500.0, 1650.0, 1400.0, 1700.0, 1550.0, 1480.0]
    assert find_unlike(rows(normal), ["liver", "spleen"]) == {}
    found = find_unlike(
        rows([*normal, 300.0, 0.0], [0.5, 0.52, 0.48, 0.51, 0.5, 0.49, 0.53, 0.95]), ["liver", "spleen"]
    )
    assert set(found) == {"s6", "s7"}
    assert len(found["s6"]) == 1 and found["s6"][0].startswith("liver is small: 300.0 ml (z -")
    assert found["s7"][0].startswith("the images agree less") and found["s7"][1] == "liver is missing"
    assert find_unlike(rows([*normal[:3], 3.0]), ["liver", "spleen"]) == {}  # too few to say


def test_names_that_only_say_what_a_file_is_make_no_difference():
    assert paired_by_name(["img0001", "img0004"], ["label0004", "label0001"]) == [1, 0]
    assert paired_by_name(["case_7", "case_12"], ["case_12_seg", "case_7_seg"]) == [1, 0]
    assert paired_by_name(["liver_2_0000", "liver_10_0000"], ["liver_10", "liver_2", "liver_3"]) == [1, 0]
    assert paired_by_name(["a"], ["b"]) == [0]
    assert paired_by_name(["a", "b"], ["c", "d"]) is None
    with pytest.raises(InputError, match="img3: there is no segmentation of this name"):
        paired_by_name(["img1", "img3"], ["label1", "label2"])
    with pytest.raises(InputError, match="a_1: it can't be told"):
        paired_by_name(["a_1", "a_2"], ["a_1_seg", "seg_a_1", "a_2"])
