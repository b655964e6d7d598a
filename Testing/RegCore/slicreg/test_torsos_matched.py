"""Through the template, on synthetic torsos: true supervoxels matched, the template aligned, refined."""

from functools import cache

import numpy as np
import pytest

from RegCore.evaluation.metrics import dice, folding
from RegCore.registration.deformable import Settings
from RegCore.resampler import warp
from RegCore.samples.torso import LABELS, make_torso, true_transform
from RegCore.slicreg.label_propagation import refine_field, template_to_scan
from RegCore.slicreg.matching import match
from RegCore.slicreg.preparation import body_mask, downsample2, network_units, prepare
from RegCore.slicreg.supervoxels import oversegment, propagate_supervoxels
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

FULL, SPACING = (96, 96, 96), 4.0
TESTS = (101, 104)  # of 101..106; the second one begins farthest away


@cache
def torso(seed: int):
    return make_torso(seed, FULL)


@cache
def prepared(seed: int):
    return prepare(torso(seed).image, FULL, SPACING)


@cache
def template():
    """Eight layers of 31 supervoxels on the grid of 48³ voxels."""
    half = downsample2(prepared(0))
    image = Volume(network_units(half)[0, 0].numpy(), half.image.geometry)
    return oversegment(image, body_mask(half, 16.0), layers=8, count=31)


@cache
def true_supervoxels(seed: int):
    grid = downsample2(prepared(seed)).image.geometry
    return propagate_supervoxels(template(), true_transform(torso(seed), torso(0), grid), grid)


def overlap(seed: int, transform) -> float:
    """Mean Dice of the structures of a scan on the template as it came."""
    labels = warp(torso(seed).labels, transform, torso(0).labels.geometry)
    return float(np.mean(list(dice(torso(0).labels.array, labels.array, list(LABELS)).values())))


def initial_alignment(seed: int) -> AffineTransform:
    """Both bodies in the middle of their grids."""
    fixed, moving = prepared(0).image.geometry, prepared(seed).image.geometry
    return AffineTransform(moving.affine @ np.linalg.inv(fixed.affine))


@cache
def matched(seed: int):
    return match(template(), true_supervoxels(seed))


def test_true_supervoxels_bring_the_structures_together():
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    before = [overlap(seed, initial_alignment(seed)) for seed in TESTS]
    after = [overlap(seed, matched(seed)) for seed in TESTS]
    assert np.mean(before) < 0.55 and np.mean(after) >= 0.86 and min(after) > 0.83
    assert all(folding(matched(seed)) < 0.1 for seed in TESTS)


def test_any_two_scans_are_matched_through_the_template():
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    first, second = TESTS
    pair = match(true_supervoxels(first), true_supervoxels(second))
    fixed = torso(first).labels
    labels = warp(torso(second).labels, pair, fixed.geometry)
    found = np.mean(list(dice(fixed.array, labels.array, list(LABELS)).values()))
    assert found > 0.84 and folding(pair) < 0.1


def test_the_images_refine_what_the_supervoxels_found():
    pytest.importorskip("skimage", reason="scikit-image makes the supervoxels")
    seed = TESTS[0]
    field = refine_field(prepared(0), prepared(seed), matched(seed))
    assert overlap(seed, field) > max(0.9, overlap(seed, matched(seed)) + 0.02)
    assert field.geometry == prepared(0).image.geometry and folding(field) < 0.1


def test_the_template_is_laid_over_a_scan_without_any_labels():
    scan, model = (downsample2(prepare(torso(seed).image, (72, 72, 72), 5.4)) for seed in (TESTS[0], 0))
    told = []
    quick = Settings(iterations=20, levels=2, smoothness=0.6, symmetric=False)
    field = template_to_scan(scan, model, settings=quick, progress=lambda *event: told.append(event[0]))
    assert field.geometry == scan.image.geometry and folding(field) < 0.1
    fixed = torso(TESTS[0]).labels
    labels = warp(torso(0).labels, field, fixed.geometry)
    found = np.mean(list(dice(fixed.array, labels.array, list(LABELS)).values()))
    assert found > 0.82 and told == sorted(told) and 0.8 < told[-1] <= 1
