"""A trained network as a method of `register`: from a file, from memory, refined; results as of others."""

import numpy as np
import pytest
from torch import nn

import RegCore
from RegCore.networks.model_file import Model, save_model
from RegCore.progress import Cancelled
from RegCore.registration import methods
from RegCore.registration.learned import load_model
from RegCore.registration.methods import Task, trained_network
from RegCore.registration.pair import PairSide
from RegCore.registration.register import register
from RegCore.resampler import warp
from RegCore.samples.phantom import make_phantom
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.known_networks import Known, known

__all__ = ["known"]


@pytest.fixture(scope="module")
def case():
    """On oblique grids of about 10 mm that differ in everything."""
    return make_phantom(3, fixed_shape=(26, 22, 23), moving_shape=(27, 21, 24), displacement_mm=12.0)


@pytest.fixture
def path(known, tmp_path):
    save_model(tmp_path / "model.pt", known())
    return tmp_path / "model.pt"


def measured(case) -> dict:
    labels = {"fixed_labels": case.fixed_labels, "moving_labels": case.moving_labels}
    return labels | {"landmarks": case.landmarks, "device": "cpu"}


def test_all_ways_to_name_a_network_give_the_same_registration(case, path, known):
    results = [
        load_model(path).register(case.fixed, case.moving, device="cpu"),
        register(case.fixed, case.moving, path, device="cpu"),
        register(case.fixed, case.moving, str(path), device="cpu"),
        register(case.fixed, case.moving, str(path.with_suffix("")), device="cpu"),
        register(case.fixed, case.moving, known(), device="cpu"),
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(other.transform.mm, results[0].transform.mm)
    assert isinstance(RegCore.load_model(path), Model)
    assert [r.metrics["method"] for r in results[2:]] == [
        str(path),
        str(path.with_suffix("")),
        "trained network",
    ]


def test_the_result_is_what_other_methods_promise(case, path):
    result = load_model(path).register(case.fixed, case.moving, **measured(case))
    assert (
        isinstance(result.transform, DisplacementField) and result.transform.geometry == case.fixed.geometry
    )
    assert result.inverse.geometry == case.moving.geometry
    seen = warp(case.moving, result.transform, case.fixed.geometry)
    np.testing.assert_array_equal(result.warped.array, seen.array)
    labels = warp(case.moving_labels, result.transform, case.fixed.geometry)
    np.testing.assert_array_equal(result.warped_labels.array, labels.array)
    assert {"dice", "dice_mean", "tre_mm", "ncc", "fold_percent", "seconds"} <= set(result.metrics)
    errors = np.linalg.norm(result.transform.map(case.landmarks[:, :3]) - case.landmarks[:, 3:], axis=1)
    assert result.metrics["tre_mm"]["after"] == pytest.approx(errors.mean())


def test_an_affine_network_gives_an_affine_transform(case, known):
    result = register(case.fixed, case.moving, known("known-affine"), device="cpu")
    assert isinstance(result.transform, AffineTransform) and isinstance(result.inverse, AffineTransform)


def test_images_that_lie_apart_are_laid_on_each_other_or_where_the_start_says(case, known):
    """A network lays box on box: where they are makes no difference, but a transform to start from does."""
    apart = Volume(case.moving.array, case.moving.geometry.moved(shift(2000.0)))
    here = register(case.fixed, case.moving, known(), device="cpu")
    there = register(case.fixed, apart, known(), device="cpu")
    np.testing.assert_allclose(there.transform.mm, here.transform.mm + [2000, 0, 0], atol=1e-3)
    started = register(case.fixed, apart, known(), initial=AffineTransform(shift(2000.0)), device="cpu")
    assert not np.allclose(started.warped.array, there.warped.array, atol=1)
    np.testing.assert_array_equal(Known.seen[0][:, 1], Known.seen[2][:, 1])
    with pytest.raises(InputError, match="with the initial transform the two volumes do not overlap"):
        register(case.fixed, apart, known(), initial=AffineTransform.identity(), device="cpu")


def shift(mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = mm
    return matrix


@pytest.mark.parametrize("name", ["known", "known-affine"])
def test_refined_the_deformable_method_goes_on_from_the_network(case, known, monkeypatch, name):
    monkeypatch.setattr("Testing.RegCore.known_networks.field", lambda shape: np.zeros((*shape, 3)))
    monkeypatch.setattr("Testing.RegCore.known_networks.THETA", np.eye(4, 3))
    alone = register(case.fixed, case.moving, known(name), **measured(case))
    settings = {"refine": True, "iterations": 20, "levels": 2}
    refined = register(case.fixed, case.moving, known(name), settings=settings, **measured(case))
    assert isinstance(refined.transform, DisplacementField)
    assert refined.metrics["tre_mm"]["after"] < 0.7 * alone.metrics["tre_mm"]["after"]


SENTENCES = {
    "setting refine of method trained network is 'yes', expected true or false": {"refine": "yes"},
    "method trained network has no setting 'levels'; it has refine": {"levels": 2},
    "setting levels of method trained network is 'two', expected a whole number": {
        "refine": True,
        "levels": "two",
    },
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_settings_that_a_network_does_not_have(case, known, sentence):
    with pytest.raises(InputError, match=sentence):
        register(case.fixed, case.moving, known(), settings=SENTENCES[sentence], device="cpu")


def test_a_path_without_a_model(case, tmp_path):
    for name in ("none.pt", "save/ckpt-2"):
        with pytest.raises(InputError, match=f"{name}: there is no such file"):
            register(case.fixed, case.moving, tmp_path / name)
    with pytest.raises(InputError, match="unknown method 'model'; it is one of auto"):
        register(case.fixed, case.moving, "model")


def test_progress_goes_from_beginning_to_end_and_cancel_is_heard(case, known):
    told = []
    register(case.fixed, case.moving, known(), device="cpu", progress=lambda *event: told.append(event))
    fractions = [event[0] for event in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert {"network", "warp", "done"} <= {event[1] for event in told}

    def stop(fraction, text, values):
        if text == "network":
            raise Cancelled

    with pytest.raises(Cancelled):
        register(case.fixed, case.moving, known(), device="cpu", progress=stop)


# ---- by way of a third image -------------------------------------------------------------------------------


class Acquainted(nn.Module):
    """Registers a third image to the two of a pair by maps that are known, and the two by none."""

    def __init__(self, third: Volume | None, pair: tuple[Volume, Volume]):
        super().__init__()
        self.third, self.pair = third, pair

    def stopover(self, fixed: Volume, moving: Volume) -> Volume | None:
        assert (fixed.geometry, moving.geometry) == tuple(image.geometry for image in self.pair)
        return self.third

    def find_transform(self, fixed, moving, *, device, progress):
        progress(0.5, "looking", {})
        if self.third is None or fixed.geometry != self.third.geometry:
            return DisplacementField.from_affine(AffineTransform.identity(), fixed.geometry)
        number = [image.geometry for image in self.pair].index(moving.geometry)
        return DisplacementField.from_affine(AffineTransform(WAYS[number]), fixed.geometry)


WAYS = np.stack([np.eye(4), np.eye(4)])
WAYS[0, :3] = [[1.04, -0.03, 0, 5], [0.02, 0.97, 0, -4], [0, 0.05, 1, 3]]
WAYS[1, :3] = [[0.98, 0, 0.04, -6], [0, 1.03, 0, 2], [-0.02, 0, 1, 8]]


@pytest.mark.parametrize("how", ["stops", "names none", "starts elsewhere", "is not refined"])
def test_a_refinement_goes_by_way_of_the_image_that_a_network_knows_better(case, monkeypatch, how):
    """Each image is registered to that and refined, and from there on the pair: nothing else has a start."""
    third = case.fixed.geometry.resized_box((40, 40, 40))
    between = None if how == "names none" else Volume(np.ones(third.shape, np.float32), third)
    model = Model({}, (8,) * 3, (8,) * 3, False, Acquainted(between, (case.fixed, case.moving)))
    begun, told = [], []

    def refined(task, settings, first, start, progress):
        begun.append((task, start))
        return start

    monkeypatch.setattr(methods, "_in_two_stages", refined)
    mask = Volume(np.ones(case.fixed.array.shape, np.uint8), case.fixed.geometry, "labels")
    sides = PairSide(case.fixed, case.fixed_labels, mask), PairSide(case.moving, case.moving_labels)
    initial = AffineTransform.identity() if how == "starts elsewhere" else None
    settings = {"refine": how != "is not refined", "quality": "fast"}
    settings = {"refine": False} if how == "is not refined" else settings
    task = Task(*sides, case.landmarks, initial, settings, "cpu", 0, lambda *event: told.append(event[0]))
    found = trained_network(task, model)
    points = case.fixed.geometry.centre + 40 * np.vstack([np.eye(3), -np.eye(3)])
    stops = how == "stops"
    wanted = WAYS[1] @ np.linalg.inv(WAYS[0]) if stops else np.eye(4)
    np.testing.assert_allclose(found.map(points), AffineTransform(wanted).map(points), atol=0.05)
    assert told == sorted(told) and len(begun) == (3 if stops else how != "is not refined")
    if stops:
        (first, _), (second, _), (last, start) = begun
        assert first.fixed.image is second.fixed.image is between and last.fixed is sides[0]
        assert first.moving.image is case.fixed and first.moving.mask is mask and start is found
        assert all(leg.landmarks is None and leg.moving.labels is None for leg in (first, second))
        assert last.landmarks is case.landmarks
