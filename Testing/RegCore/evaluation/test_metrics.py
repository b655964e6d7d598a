"""Metrics against plain loops, NumPy's and SciPy's own functions, SimpleITK, and values known by heart."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates
from scipy.stats import entropy

from RegCore.evaluation import metrics
from RegCore.evaluation.metrics import dice, folding, mean_of_defined, ncc, nmi, sd_log_jacobian, summary, tre
from RegCore.io import load
from RegCore.io.points import load_landmarks
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.paths import REAL
from Testing.RegCore.grids import (
    LEFT_HANDED,
    OBLIQUE,
    SHAPE,
    affine,
    points_inside,
    rough_field,
    smooth_field,
    tilted_affine,
)

LUNGS = [folder for folder in REAL if folder.name == "lungct_elastix"]


def labels(seed: int, values=(0, 1, 2, 5)) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, size=SHAPE).astype(np.uint8)


def test_dice_of_labels_as_simpleitk_counts_it():
    a, b = labels(0), labels(1)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.GetImageFromArray(a), sitk.GetImageFromArray(b))
    found = dice(Volume(a, OBLIQUE, "labels"), b)
    assert set(found) == {1, 2, 5}
    for label, value in found.items():
        assert value == pytest.approx(overlap.GetDiceCoefficient(label))


def test_dice_of_channels_and_of_what_is_missing():
    a = np.stack([labels(0) == 1, labels(0) == 2, labels(0) == 99], -1)
    b = np.stack([labels(1) == 1, labels(0) == 2, labels(0) == 99], -1).astype(np.float32) * 0.9
    found = dice(a, b)
    expected = {0: dice(labels(0), labels(1))[1], 1: 1.0, 2: math.nan}
    assert found == pytest.approx(expected, nan_ok=True)
    assert dice(labels(0), np.zeros(SHAPE, np.uint8)) == {1: 0.0, 2: 0.0, 5: 0.0}
    assert dice(labels(0), labels(0), [2, 7]) == pytest.approx({2: 1.0, 7: math.nan}, nan_ok=True)
    assert mean_of_defined(found.values()) == pytest.approx((found[0] + 1) / 2)
    assert math.isnan(mean_of_defined([math.nan])) and math.isnan(mean_of_defined([]))
    with pytest.raises(InputError, match="one shape"):
        dice(a, b[1:])


def test_tre_is_the_distance_of_each_pair():
    fixed = points_inside(OBLIQUE)
    field = rough_field(OBLIQUE)
    offset = np.random.default_rng(0).normal(size=fixed.shape)
    pairs = np.concatenate([fixed, field.map(fixed) + offset], 1)
    np.testing.assert_allclose(tre(field, pairs), np.sqrt((offset**2).sum(1)), atol=1e-9)
    np.testing.assert_allclose(tre(AffineTransform.identity(), np.array([[0, 0, 0, 3, 0, 4.0]])), [5])


def test_ncc_is_pearsons_correlation():
    rng = np.random.default_rng(0)
    a, b, mask = rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.random(SHAPE) > 0.5
    b = a + 0.7 * b
    assert ncc(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert ncc(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])
    assert ncc(a, -2 * a + 3) == pytest.approx(-1)
    assert ncc(a, np.ones(SHAPE)) == 0
    assert ncc(a, b, np.zeros(SHAPE, bool)) == 0
    big = (a * 1000).astype(np.int16)
    assert ncc(big, big) == pytest.approx(1), "small integers must not overflow"


def test_nmi_is_that_of_the_joint_histogram():
    rng = np.random.default_rng(0)
    a, mask = rng.normal(size=SHAPE), rng.random(SHAPE) > 0.3
    b = np.abs(a) + 0.2 * rng.normal(size=SHAPE)
    for inside in (np.ones(SHAPE, bool), mask):
        joint = np.histogram2d(a[inside], b[inside], 32)[0]
        expected = (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint.ravel())
        assert nmi(a, b, inside) == pytest.approx(expected)
    assert nmi(a, 3 - 5 * a) == pytest.approx(2, abs=0.05)
    assert nmi(a, np.zeros(SHAPE)) == pytest.approx(1)
    assert nmi(np.zeros(SHAPE), np.zeros(SHAPE)) == 1
    assert nmi(a, a, np.zeros(SHAPE, bool)) == 1


def test_folds_and_the_spread_of_the_jacobian_are_those_of_the_inside():
    field = rough_field(OBLIQUE, mm=1.0)
    inside = (slice(1, -1),) * 3
    jacobian = field.jacobian_determinant()[inside].astype(float)
    assert 5 < 100 * (jacobian <= 0).mean() < 95
    assert folding(field) == pytest.approx(100 * (jacobian <= 0).mean())
    assert sd_log_jacobian(field) == pytest.approx(np.log(np.clip(jacobian, 1e-9, 1e9)).std(), rel=1e-4)
    mask = np.random.default_rng(0).random(SHAPE) > 0.5
    part = jacobian[mask[inside]]
    assert folding(field, mask) == pytest.approx(100 * (part <= 0).mean())
    assert sd_log_jacobian(field, mask) == pytest.approx(np.log(np.clip(part, 1e-9, 1e9)).std(), rel=1e-4)


def test_folds_of_simple_transforms():
    mirror = AffineTransform(np.diag([-1.0, 1, 1, 1]))
    assert (folding(tilted_affine()), folding(mirror)) == (0, 100)
    assert sd_log_jacobian(tilted_affine()) == 0
    field = DisplacementField.from_affine(mirror, LEFT_HANDED)
    assert folding(field) == 100
    assert folding(DisplacementField.from_affine(tilted_affine(), LEFT_HANDED)) == 0
    assert sd_log_jacobian(DisplacementField.from_affine(tilted_affine(), LEFT_HANDED)) < 1e-5
    assert folding(field, np.zeros(SHAPE, bool)) == 0
    thin = Geometry((7, 1, 2), OBLIQUE.affine)
    assert folding(DisplacementField(thin, np.zeros((7, 1, 2, 3)))) == 0
    with pytest.raises(InputError, match="mask"):
        folding(field, np.zeros((7, 8, 8), bool))


@pytest.fixture
def case():
    """A pair on differing grids: fixed = moving through a known field, with labels and landmarks."""
    rng = np.random.default_rng(0)
    moving_grid = Geometry((30, 28, 26), affine((0.1, 0, 0.3), (-1.0, 1.2, 1.4), (30, -20, -8)))
    fixed_grid = Geometry((20, 22, 21), affine((0.1, 0.1, 0.3), (-1.1, 1.3, 1.2), (28, -16, -3)))
    at = np.indices(moving_grid.shape)
    image = (
        np.sin(at[0] / 3) + np.cos(at[1] / 4) * np.sin(at[2] / 5) + 0.05 * rng.normal(size=moving_grid.shape)
    )
    segments = ((at[0] > 14).astype(np.uint8) + (at[1] > 12) * 2).astype(np.uint8)
    truth = smooth_field(fixed_grid, mm=6.0, sigma=4.0)
    index = moving_grid.to_index(truth.map(fixed_grid.world_grid())).transpose(3, 0, 1, 2)
    points = points_inside(fixed_grid, 40)
    return {
        "transform": truth,
        "moving": Volume(image, moving_grid),
        "moving_labels": Volume(segments, moving_grid, "labels"),
        "fixed": Volume(map_coordinates(image, index, order=1), fixed_grid),
        "fixed_labels": Volume(map_coordinates(segments, index, order=0), fixed_grid, "labels"),
        "landmarks": np.concatenate([points, truth.map(points)], 1),
    }


def test_the_summary_of_the_truth_is_perfect(case):
    found = summary(warped=case["fixed"], warped_labels=case["fixed_labels"], **case)
    assert found["dice"]["after"] == {1: 1, 2: 1, 3: 1}
    assert found["dice_mean"]["after"] == 1
    assert 0.3 < found["dice_mean"]["before"] < 0.95
    assert found["ncc"]["after"] == pytest.approx(1)
    assert found["ncc"]["before"] < 0.9
    assert found["nmi"]["after"] == pytest.approx(2)
    assert found["nmi"]["before"] < 1.5
    assert found["tre_mm"]["after"] == pytest.approx(0, abs=1e-6)
    start = np.linalg.norm(case["landmarks"][:, :3] - case["landmarks"][:, 3:], axis=1)
    assert found["tre_mm"]["before"] == pytest.approx(start.mean())
    assert found["tre_p95_mm"]["before"] == pytest.approx(np.percentile(start, 95))
    assert found["fold_percent"] == folding(case["transform"])
    assert found["sd_log_jacobian"] == pytest.approx(sd_log_jacobian(case["transform"]))


def test_before_is_measured_through_the_start_by_simpleitks_resampling(case):
    start = tilted_affine(1.02, (1, -2, 0.5))
    found = summary(warped=case["fixed"], warped_labels=case["fixed_labels"], before=start, **case)
    matrix = np.diag([-1, -1, 1, 1]) @ start.matrix @ np.diag([-1, -1, 1, 1])
    through = sitk.AffineTransform(matrix[:3, :3].ravel(), matrix[:3, 3])

    def image(volume):
        grid, lps = volume.geometry, np.array([-1, -1, 1])
        result = sitk.GetImageFromArray(volume.array.T)
        result.SetSpacing(grid.spacing)
        result.SetOrigin(grid.origin * lps)
        result.SetDirection((lps[:, None] * grid.direction).ravel())
        return result

    fixed, moving, nowhere = image(case["fixed"]), image(case["moving"]), -1e6
    resampled = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, through, sitk.sitkLinear, nowhere)).T
    index = case["moving"].geometry.to_index(start.map(case["fixed"].geometry.world_grid()))
    seen = ((index >= 0) & (index <= np.array(case["moving"].geometry.shape) - 1)).all(-1)
    assert 0.3 < seen.mean() < 1
    assert found["ncc"]["before"] == pytest.approx(ncc(case["fixed"], resampled, seen), abs=1e-6)
    segments = sitk.Resample(image(case["moving_labels"]), fixed, through, sitk.sitkNearestNeighbor, 0)
    expected = dice(case["fixed_labels"], sitk.GetArrayFromImage(segments).T)
    assert found["dice"]["before"] == {label: pytest.approx(x, abs=2e-3) for label, x in expected.items()}


def test_only_labels_that_both_maps_hold_count_even_when_they_are_lost(case):
    case["fixed_labels"] = Volume(case["fixed_labels"].array * np.uint8(2), case["fixed"].geometry, "labels")
    lost = Volume(np.zeros_like(case["fixed_labels"].array), case["fixed"].geometry, "labels")
    found = summary(warped=case["fixed"], warped_labels=lost, **case)
    assert found["dice"]["after"] == {2: 0.0}
    assert set(found["dice"]["before"]) == {2}


def test_the_summary_says_only_what_was_asked(case):
    found = summary(case["transform"], case["fixed"], case["moving"], case["fixed"])
    assert set(found) == {"ncc", "nmi", "fold_percent", "sd_log_jacobian"}
    assert summary(tilted_affine(), case["fixed"], case["moving"], case["fixed"])["fold_percent"] == 0


def test_the_summary_keeps_to_the_mask(case):
    inside = np.zeros(case["fixed"].geometry.shape, np.uint8)
    inside[5:15, 5:15, 5:15] = 1
    mask = Volume(inside, case["fixed"].geometry, "labels")
    spoilt = case["fixed"].array.copy()
    spoilt[inside == 0] = 1e3
    spoilt = Volume(spoilt, case["fixed"].geometry)
    found = summary(case["transform"], spoilt, case["moving"], case["fixed"], fixed_mask=mask)
    assert found["ncc"]["after"] == pytest.approx(1)
    assert found["sd_log_jacobian"] == pytest.approx(sd_log_jacobian(case["transform"], inside))
    coarse = case["transform"].resampled(case["fixed"].geometry.resized((10, 11, 12)))
    found = summary(coarse, spoilt, case["moving"], case["fixed"], fixed_mask=mask)
    assert 0 < found["sd_log_jacobian"] != pytest.approx(sd_log_jacobian(coarse))
    elsewhere = Volume(inside, case["fixed"].geometry.moved(tilted_affine().matrix), "labels")
    with pytest.raises(InputError, match="fixed mask"):
        summary(case["transform"], spoilt, case["moving"], case["fixed"], fixed_mask=elsewhere)


def test_giant_volumes_are_measured_on_a_regular_part(case, monkeypatch):
    whole = summary(case["transform"], case["fixed"], case["moving"], case["fixed"])
    monkeypatch.setattr(metrics, "MOST_SAMPLES", 2000)
    part = summary(case["transform"], case["fixed"], case["moving"], case["fixed"])
    assert part["ncc"]["before"] != whole["ncc"]["before"]
    assert part["ncc"]["before"] == pytest.approx(whole["ncc"]["before"], abs=0.1)


if LUNGS:  # a case that may lie beside the repository

    def test_a_real_case_starts_where_its_description_says():
        fixed, moving = load(LUNGS[0] / "fixed.nii.gz"), load(LUNGS[0] / "moving.nii.gz")
        found = summary(
            AffineTransform.identity(),
            fixed,
            moving,
            fixed,
            fixed_labels=load(LUNGS[0] / "fixed_seg.nii.gz", "labels"),
            moving_labels=load(LUNGS[0] / "moving_seg.nii.gz", "labels"),
            warped_labels=load(LUNGS[0] / "fixed_seg.nii.gz", "labels"),
            landmarks=load_landmarks(LUNGS[0] / "landmarks.csv"),
            fixed_mask=load(LUNGS[0] / "fixed_mask.nii.gz", "labels"),
        )
        assert found["tre_mm"]["before"] == pytest.approx(35.3, abs=0.05)
        assert found["dice_mean"] == {"before": pytest.approx(0.7089, abs=1e-3), "after": 1.0}
        assert found["ncc"]["before"] == pytest.approx(0.0572, abs=1e-3)
