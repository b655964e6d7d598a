"""Made-up parts of the body: every structure is seen, patients differ, breathing moves what it should."""

import numpy as np
import pytest

from RegCore.samples.anatomies import (
    PARTS,
    appearance,
    breathed,
    labels_of,
    modalities_of,
    scale_of,
    texture_of,
)
from RegCore.samples.phantom import LABELS, Noise
from RegCore.space.geometry import InputError


def grid(extent_mm: float, count: int = 40) -> np.ndarray:
    axis = (np.arange(count) + 0.5) / count * extent_mm - extent_mm / 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


@pytest.fixture(scope="module")
def noises():
    return [Noise(np.random.default_rng(seed)) for seed in (0, 1)]


@pytest.mark.parametrize("part", PARTS)
def test_every_structure_of_every_patient_is_seen(part, noises):
    points = grid(340 * scale_of(part))
    for noise in noises:
        _, labels = appearance(part, points, noise, modalities_of(part)[0])
        assert set(np.unique(labels)) == {0, *labels_of(part)}
    other = appearance(part, points, noises[0], modalities_of(part)[0])[1]
    assert 0.001 < np.mean(labels != other) < 0.5


@pytest.mark.parametrize("part", [part for part in PARTS if len(modalities_of(part)) > 1])
def test_scanners_see_the_same_structures_otherwise(part, noises):
    points = grid(300 * scale_of(part), 24)
    seen = {name: appearance(part, points, noises[0], name) for name in modalities_of(part)}
    (first, labels), *others = seen.values()
    for image, again in others:
        np.testing.assert_array_equal(again, labels)
        assert np.corrcoef(first.ravel(), image.ravel())[0, 1] < 0.97


def test_structures_have_the_intensity_of_their_tissue(noises):
    for part, about in PARTS.items():
        points = grid(300 * about.scale, 36)
        for modality, tissues in about.tissues.items():
            image, labels = appearance(part, points, noises[0], modality)
            for structure in about.structures:
                inside = labels == structure.label
                if structure.label and not structure.within and np.count_nonzero(inside) > 60:
                    alike = {s.tissue for s in about.structures if s.label == structure.label}
                    wanted = [tissues[name] for name in alike]
                    slack = 2.5 * texture_of(part, modality) + 60
                    assert min(wanted) - slack < np.median(image[inside]) < max(wanted) + slack


def test_the_torso_is_that_of_the_phantom(noises):
    assert labels_of("torso") == LABELS and scale_of("torso") == 1.0
    points = grid(200, 20)
    mr, us = (appearance("torso", points, noises[0], name) for name in ("mr", "us"))
    np.testing.assert_array_equal(mr[1], us[1])
    assert us[0].min() >= 0 and us[0].max() <= 255


def test_breathing_moves_the_diaphragm_and_leaves_the_spine_and_the_neck():
    places = np.array([[40.0, 20, 0], [0, -78, 0], [30, 10, 130]])
    out = breathed(places, 1.0)
    assert 18 < places[0, 2] - out[0, 2] < 25  # what is here came from below
    np.testing.assert_allclose(out[1:], places[1:], atol=1e-9)
    np.testing.assert_array_equal(breathed(places, 0.0), places)
    points = grid(240, 24)
    step = 240 / 24
    slopes = np.stack(np.gradient(breathed(points, 1.0), step, axis=(0, 1, 2)), -1)
    assert np.linalg.det(slopes).min() > 0.3


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="parts of the body are torso, abdomen, .* not 'knee'"):
        labels_of("knee")
