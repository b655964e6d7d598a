"""Pairs of random shapes: labels and images of both sides are the same body, seen through smooth maps."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from RegCore.samples.shapes import EXTENT_MM, NAMES, REGIONS, make_shapes


@pytest.fixture(scope="module")
def cases():
    return list(make_shapes(8, size=32))


def test_pairs_are_numbered_the_same_each_time_and_no_two_alike(cases):
    assert [case.name for case in cases[:2]] == ["case000000", "case000001"]
    (again,) = make_shapes(1, first=3, size=32)
    (other,) = make_shapes(1, first=3, size=32, seed=1)
    for name in NAMES:
        assert np.array_equal(again.volumes[name].array, cases[3].volumes[name].array)
        assert not np.array_equal(other.volumes[name].array, cases[3].volumes[name].array)
    firsts = [case.volumes["fixed_images"].array for case in cases]
    assert not any(np.array_equal(firsts[0], one) for one in firsts[1:])


def test_grids_span_the_same_cube_whatever_their_size(cases):
    for size, volume in ((32, cases[0].volumes["fixed_images"]), (20, None)):
        grid = (volume or next(make_shapes(1, size=size)).volumes["fixed_images"]).geometry
        assert grid.shape == (size, size, size) and grid.spacing == pytest.approx(3 * (EXTENT_MM / size,))
        corners = grid.to_world(np.array([[-0.5] * 3, [size - 0.5] * 3]))
        np.testing.assert_allclose(corners, [[-EXTENT_MM / 2] * 3, [EXTENT_MM / 2] * 3])


def test_a_region_has_one_intensity_in_each_image_and_both_sides_show_most_regions(cases):
    for case in cases:
        both = set()
        for side in ("fixed", "moving"):
            image, labels = (case.volumes[f"{side}_{what}"].array for what in ("images", "labels"))
            present = set(np.unique(labels)) - {0}
            both = both & present if both else present
            inside = {n: binary_erosion(labels == n) for n in present}
            spread = [image[where].std() for where in inside.values() if where.sum() > 20]
            assert spread and np.median(spread) < 0.5 * image[labels > 0].std() + 60
            assert 0.03 < (labels > 0).mean() < 0.8
        assert len(both) > REGIONS / 2


def test_the_two_sides_overlap_but_differ(cases):
    """Enough in common to be registered, and enough to learn."""
    dices = []
    for case in cases:
        one, two = (case.volumes[f"{side}_labels"].array for side in ("fixed", "moving"))
        found = [
            2 * ((one == n) & (two == n)).sum() / ((one == n).sum() + (two == n).sum())
            for n in np.union1d(one, two)
            if n
        ]
        dices.append(np.mean(found))
    assert 0.2 < np.mean(dices) < 0.75 and max(dices) < 0.95


def test_most_pairs_have_like_contrast_and_some_another(cases):
    """The means of the regions rank alike, or not."""
    ranks = []
    for case in (*cases, *make_shapes(8, first=8, size=32)):
        means = []
        for side in ("fixed", "moving"):
            image, labels = (case.volumes[f"{side}_{what}"].array for what in ("images", "labels"))
            means.append([image[labels == n].mean() if (labels == n).any() else np.nan for n in range(1, 13)])
        known = ~np.isnan(means).any(0)
        ranks.append(np.corrcoef(*(np.argsort(np.argsort(np.array(m)[known])) for m in means))[0, 1])
    assert np.median(ranks) > 0.8 and min(ranks) < 0.5
