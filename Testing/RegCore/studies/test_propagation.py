"""Labels of several atlases: better than the best of them, and better where the local likeness counts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

import RegCore
from RegCore.evaluation.metrics import dice, mean_of_defined
from RegCore.samples.phantom import LABELS
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Segment, Volume
from RegCore.studies.labels import vote
from RegCore.studies.propagation import local_likeness, propagate, truth_on
from RegCore.studies.workers import LocalPool
from Testing.RegCore.grids import OBLIQUE, SHAPE
from Testing.RegCore.studies.patients import make_patients

NAMES = tuple(Segment(label, name) for label, name in LABELS.items())


@pytest.fixture(scope="module")
def patients():
    return make_patients(6, (22, 21, 20), seed=1)


@pytest.fixture(scope="module")
def found(patients):
    labels = [replace(volume, segments=NAMES) for volume in patients.labels[1:]]
    atlases = list(zip(patients.scans[1:], labels, strict=True))
    with LocalPool(2, 1) as pool:
        return propagate(patients.scans[0], atlases, method="affine", device="cpu", pool=pool)


def test_it_is_better_than_the_best_atlas_and_than_the_majority(patients, found):
    def measured(labels):
        return mean_of_defined(dice(patients.labels[0], labels).values())

    best = max(measured(labels) for labels in found.warped)
    majority = measured(vote([labels.array for labels in found.warped])[0])
    assert measured(found.labels) > majority + 0.005 > best + 0.02


def test_names_and_agreement_are_kept(patients, found):
    assert found.labels.segments == NAMES
    assert found.labels.geometry == patients.scans[0].geometry
    assert found.agreement.array.min() >= 0.2 and found.agreement.array.max() == pytest.approx(1)
    inside = patients.labels[0].array == 4
    assert found.agreement.array[inside].mean() < 1
    assert sum(row["weight"] for row in found.figures) == pytest.approx(1)
    assert all(row["ncc_after"] > row["ncc_before"] for row in found.figures)


def test_of_one_atlas_labels_are_those_that_it_has(patients):
    made = propagate(
        patients.scans[0], [(patients.scans[1], patients.labels[1])], "majority", "rigid", device="cpu"
    )
    expected = RegCore.warp(patients.labels[1], made.transforms[0], patients.scans[0].geometry)
    np.testing.assert_array_equal(made.labels.array, expected.array)
    assert (made.agreement.array == 1).all()


def test_the_likeness_is_the_local_correlation():
    """Against SciPy, where nothing is flat and away from the border."""
    grid = Geometry((16, 15, 14), OBLIQUE.affine)
    rng = np.random.default_rng(0)
    a = rng.normal(size=grid.shape)
    b = 3 * a + 2 * rng.normal(size=grid.shape) + 40
    found = local_likeness(Volume(a, grid), Volume(b, grid), radius=2, gain=1.0)

    def mean(x):
        return uniform_filter(x, 5)

    covariance = mean(a * b) - mean(a) * mean(b)
    expected = covariance / np.sqrt((mean(a * a) - mean(a) ** 2) * (mean(b * b) - mean(b) ** 2))
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.01)
    assert local_likeness(Volume(a, grid), Volume(-b, grid)).max() == pytest.approx(1e-3)


def test_a_flat_window_tells_nothing():
    grid = Geometry((16, 15, 14), OBLIQUE.affine)
    values = np.random.default_rng(0).normal(size=grid.shape) * 1e-4
    values[:4] += np.random.default_rng(1).normal(size=(4, 15, 14))
    found = local_likeness(Volume(values, grid), Volume(values, grid))
    assert found[10:].max() < 0.01 < 0.9 < found[0].min()


def test_a_segmentation_to_measure_with_is_brought_to_the_numbering(patients, found):
    other = np.where(patients.labels[0].array == 4, 9, 0).astype(np.uint8)
    truth = Volume(other, patients.labels[0].geometry, "labels", (Segment(9, "Liver"),))
    np.testing.assert_array_equal(truth_on(found, truth, "t").array == 4, other == 9)


def test_what_can_not_be_used_is_said(patients):
    scan, atlas = patients.scans[0], (patients.scans[1], patients.labels[1])
    with pytest.raises(InputError, match="at least one atlas, but none is given"):
        propagate(scan, [])
    with pytest.raises(InputError, match="is 'locally', expected one of local, majority"):
        propagate(scan, [atlas], "locally")
    with pytest.raises(InputError, match="the names of the atlases must differ"):
        propagate(scan, [atlas, atlas], names=["a", "a"])
    with pytest.raises(InputError, match="each of 1 atlases needs a name, but there are 2"):
        propagate(scan, [atlas], names=["a", "b"])
    with pytest.raises(InputError, match="the scan: the image is constant"):
        propagate(Volume(np.zeros(SHAPE), OBLIQUE), [atlas])
    empty = replace(patients.labels[1], array=np.zeros_like(patients.labels[1].array))
    with pytest.raises(InputError, match="segmentation of atlas 1: the label map is empty"):
        propagate(scan, [(patients.scans[1], empty)])
