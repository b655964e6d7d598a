"""Several passes: what the network sees in each, and how the steps make one field."""

import numpy as np
import pytest

from RegCore.resampler import warp
from RegCore.slicreg import registration
from RegCore.slicreg.preparation import downsample2, prepare
from RegCore.slicreg.registration import RegistrationSettings, settings_from
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.RegCore.slicreg import synthetic

TURNED, MOVED = np.eye(4), np.eye(4)
TURNED[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
MOVED[:3, 3] = 20, -12, 7


def test_a_further_pass_sees_the_scan_as_warped_and_its_step_comes_first(monkeypatch):
    scan = downsample2(prepare(synthetic.ball(), synthetic.SHAPE, synthetic.SPACING))
    grid, seen, told = scan.image.geometry, [], []
    steps = [DisplacementField.from_affine(AffineTransform(matrix), grid) for matrix in (TURNED, MOVED)]

    def predicted(method, image, device, progress):
        seen.append(image)
        return f"told {len(seen)}"

    class Known:
        geometry = grid

    def match(known, other, **rest):
        assert other == f"told {len(seen)}" and known is Known
        rest["progress"](1.0, "matching", {})
        return steps[len(seen) - 1]

    monkeypatch.setattr(registration, "_predict", predicted)
    monkeypatch.setattr(registration, "match", match)

    better = [True]
    monkeypatch.setattr(registration, "_agrees_better", lambda *given: better[0])

    def found(passes: int) -> DisplacementField:
        seen.clear()
        options = RegistrationSettings(passes=passes), "cpu", lambda *event: told.append(event[0])
        return registration._match(None, Known, scan.image, scan, *options)

    points = grid.centre + 20 * np.eye(3)
    np.testing.assert_allclose(found(1).map(points), steps[0].map(points), atol=1e-4)
    assert len(seen) == 1 and seen[0] is scan
    both = found(2)
    assert seen[0] is scan and np.array_equal(seen[1].image.array, warp(scan.image, steps[0], grid).array)
    assert np.abs(seen[1].image.array - scan.image.array).max() > 50 and seen[1].known.all()
    expected = AffineTransform(TURNED @ MOVED).map(points)
    assert np.abs(expected - AffineTransform(MOVED @ TURNED).map(points)).max() > 2
    np.testing.assert_allclose(both.map(points), expected, atol=1e-3)
    assert told == [1.0, 0.5, 1.0]
    better[0] = False  # the further pass is dropped
    np.testing.assert_allclose(found(2).map(points), steps[0].map(points), atol=1e-4)


def test_a_pass_that_takes_the_images_apart_is_seen():
    scan = downsample2(prepare(synthetic.ball(), synthetic.SHAPE, synthetic.SPACING))
    moved = downsample2(prepare(synthetic.ball((20.0, -12.0, 7.0)), synthetic.SHAPE, synthetic.SPACING))
    grid = scan.image.geometry
    right, wrong = (
        DisplacementField.from_affine(AffineTransform(matrix), grid) for matrix in (MOVED, TURNED @ MOVED)
    )
    assert registration._agrees_better(scan.image, moved, right, wrong, "cpu")
    assert not registration._agrees_better(scan.image, moved, wrong, right, "cpu")


def test_settings_are_taken_by_name():
    found = settings_from({"match.smoothness": 1, "match.passes": 3}, "match.")
    assert found == RegistrationSettings(smoothness=1.0, passes=3)
    with pytest.raises(InputError, match="no setting 'smothness'"):
        settings_from({"smothness": 1})
    with pytest.raises(InputError, match="setting passes is 0, expected at least 1"):
        settings_from({"passes": 0})
