"""Templates of generated patients: near the true mean shape, sharper than an affine mean, and unbiased."""

from dataclasses import replace

import numpy as np
import pytest

from RegCore.evaluation.metrics import dice, folding, mean_of_defined
from RegCore.resampler import warp
from RegCore.samples.phantom import LABELS
from RegCore.space.geometry import InputError
from RegCore.space.volume import Segment
from RegCore.studies.labels import vote
from RegCore.studies.template import build_template
from RegCore.studies.workers import LocalPool
from Testing.RegCore.studies.patients import make_patients

FAST = {"quality": "fast"}


@pytest.fixture(scope="module")
def patients():
    return make_patients(4, (18, 17, 16))


@pytest.fixture(scope="module")
def template(patients):
    segments = tuple(Segment(label, name) for label, name in LABELS.items())
    named = [replace(labels, segments=segments) for labels in patients.labels]
    with LocalPool(2, 1) as pool:
        return build_template(patients.scans, named, settings=FAST, rounds=2, device="cpu", pool=pool)


def mean_dice(patients, grid, labels: np.ndarray) -> float:
    return mean_of_defined(dice(patients.true_labels(grid), labels).values())


def test_it_is_nearer_to_the_true_mean_shape_than_the_affine_mean(patients, template):
    grid = template.image.geometry
    pairs = zip(template.scan_labels, template.linear, strict=True)
    linear, _ = vote([warp(labels, transform, grid).array for labels, transform in pairs])
    found, before = (mean_dice(patients, grid, made) for made in (template.labels.array, linear))
    assert found > before + 0.02 and found > 0.85
    points = grid.world_grid()[4:-4, 4:-4, 4:-4].reshape(-1, 3)
    pairs = list(zip(template.transforms, patients.maps, strict=True))
    apart = np.array([transform.map(points) - true.map(points) for transform, true in pairs])
    lengths = np.linalg.norm(apart, axis=-1).mean()
    assert lengths < 0.5 * np.mean([np.linalg.norm(true.displacement(points), axis=-1) for _, true in pairs])
    bias = np.linalg.norm(apart.mean(0), axis=-1).mean()
    assert bias < 0.2 * lengths  # what all have in common: none of them is preferred


def test_it_is_sharper_and_the_scans_are_more_alike_than_after_affine_alignment(template):
    first, last = template.rounds[0], template.rounds[-1]
    assert last["sharpness"] > first["sharpness"]
    assert last["spread"] < 0.7 * first["spread"]
    changes = [row["changed_voxels"] for row in template.rounds[1:]]
    assert changes[1] < 0.5 * changes[0]


def test_inverses_lead_back_and_nothing_folds(patients, template):
    for scan, transform, inverse in zip(patients.scans, template.transforms, template.inverses, strict=True):
        assert inverse.geometry == scan.geometry
        points = scan.geometry.world_grid()[5:-5, 5:-5, 5:-5].reshape(-1, 3)
        back = np.linalg.norm(transform.map(inverse.map(points)) - points, axis=1)
        assert np.percentile(back, 99) < 0.05 * scan.geometry.spacing.min()
        assert folding(transform) == folding(inverse) == 0


def test_the_atlas_holds_shares_and_their_vote(patients, template):
    assert template.structures == tuple(range(1, 10))
    grid = template.image.geometry
    warped = [
        warp(labels, transform, grid).array
        for labels, transform in zip(patients.labels, template.transforms, strict=True)
    ]
    expected = np.mean([labels == 4 for labels in warped], axis=0)
    np.testing.assert_allclose(template.probabilities.array[..., 3], expected, rtol=1e-6)
    assert (template.labels.array[template.probabilities.array[..., 3] > 0.5] == 4).all()
    assert [segment.name for segment in template.labels.segments] == list(LABELS.values())


def test_rigid_templates_stay_rigid(patients):
    made = build_template(patients.scans[:2], method="rigid", device="cpu")
    assert len(made.rounds) == 1 and made.settled
    for transform, inverse in zip(made.transforms, made.inverses, strict=True):
        linear = transform.matrix[:3, :3]
        np.testing.assert_allclose(linear.T @ linear, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(transform.matrix @ inverse.matrix, np.eye(4), atol=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scans": 1}, "at least two scans, but there are 1"),
        ({"names": ["a", "a"]}, "the names of the scans must differ"),
        ({"names": ["a"]}, "each of 2 scans needs one, but there are 1 names"),
        ({"segmentations": 1}, "each of 2 scans needs one, but there are 1 segmentations"),
        ({"tolerance": -1.0}, "tolerance is -1.0, expected a number of at least 0"),
        ({"sharpen": float("nan")}, "sharpen is nan, expected"),
        ({"method": "atuo", "rounds": 1}, "scan 1: unknown method 'atuo'"),
    ],
)
def test_what_can_not_be_used_is_said(patients, change, words):
    scans = patients.scans[: change.pop("scans", 2)]
    if "segmentations" in change:
        change["segmentations"] = patients.labels[:1]
    with pytest.raises(InputError, match=words):
        build_template(scans, **change, device="cpu")


def test_a_scan_without_contrast_is_named(patients):
    flat = replace(patients.scans[1], array=np.ones(patients.scans[1].array.shape, np.float32))
    with pytest.raises(InputError, match="scan 2: the image is constant"):
        build_template([patients.scans[0], flat])
