"""Several passes: what the network sees in each, and how the steps make one field."""

import numpy as np
import pytest

from RegCore.resampler import warp
from RegCore.slicreg import registration
from RegCore.slicreg.preparation import PreparedScan, downsample2, prepare
from RegCore.slicreg.registration import RegistrationSettings, settings_from
from RegCore.slicreg.supervoxels import Supervoxels
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
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

    class Model:
        passes = 1

    monkeypatch.setattr(registration, "_predict", predicted)
    monkeypatch.setattr(registration, "match", match)

    def found(passes: int) -> DisplacementField:
        seen.clear()
        options = RegistrationSettings(passes=passes), "cpu", lambda *event: told.append(event[0])
        return registration._match(Model, Known, scan, *options)

    points = grid.centre + 20 * np.eye(3)
    np.testing.assert_allclose(found(1).map(points), steps[0].map(points), atol=1e-4)
    assert len(seen) == 1 and seen[0] is scan
    both = found(2)
    assert seen[0] is scan and np.array_equal(seen[1].image.array, warp(scan.image, steps[0], grid).array)
    assert np.abs(seen[1].image.array - scan.image.array).max() > 50 and seen[1].known.all()
    expected = AffineTransform(TURNED @ MOVED).map(points)
    assert np.abs(expected - AffineTransform(MOVED @ TURNED).map(points)).max() > 2
    np.testing.assert_allclose(both.map(points), expected, atol=1e-3)
    assert told == [1.0, 0.5, 1.0] and len(seen) == 2
    Model.passes = 2
    np.testing.assert_array_equal(found(0).map(points), both.map(points))


@pytest.mark.parametrize(("second", "passes"), [(MOVED, 2), (np.linalg.inv(MOVED), 1)])
def test_a_model_looks_again_if_that_brought_scans_of_its_training_nearer(monkeypatch, second, passes):
    """Half of the way is found first; the rest is found, or lost again, with the second look."""
    grid = Geometry((12, 14, 10), np.diag([8.0, 8.0, 8.0, 1.0]))
    labels = np.zeros((1, *grid.shape), np.uint8)
    labels[:, 3:9, 4:10, 2:8] = 1
    scan = PreparedScan(Volume(np.zeros(grid.shape, np.float32), grid), np.ones(grid.shape, bool), grid, "mr")
    steps = [DisplacementField.from_affine(AffineTransform(matrix), grid) for matrix in (MOVED, second)]
    monkeypatch.setattr(registration, "_predict", lambda *given: None)
    monkeypatch.setattr(registration, "match", lambda *given, **rest: steps.pop(0))

    class Model:
        supervoxels = Supervoxels(labels, grid, 1)

    cells = np.stack(np.meshgrid(*(np.arange(0, n, 2) for n in grid.shape), indexing="ij"), -1)
    there = grid.to_index(grid.to_world(cells) - 2 * MOVED[:3, 3])
    places = np.moveaxis((there + 0.5) / (np.array(grid.shape) / 2) - 1, -1, 0)
    assert registration.best_passes(Model, [scan], places[None], "cpu") == passes


def test_settings_are_taken_by_name():
    found = settings_from({"match.smoothness": 1, "match.passes": 3}, "match.")
    assert found == RegistrationSettings(smoothness=1.0, passes=3)
    with pytest.raises(InputError, match="no setting 'smothness'"):
        settings_from({"smothness": 1})
    with pytest.raises(InputError, match="setting passes is -1, expected at least 0"):
        settings_from({"passes": -1})
