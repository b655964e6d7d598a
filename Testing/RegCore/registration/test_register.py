"""`register` on a tiny phantom: every method, what it gives back, that it repeats itself, tells and stops."""

import numpy as np
import pytest

from RegCore.progress import Cancelled
from RegCore.registration import METHODS, methods
from RegCore.registration.pair import PairSide
from RegCore.registration.register import Registration, register
from RegCore.resampler import warp
from RegCore.samples.phantom import PhantomPair, make_phantom
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.grids import points_inside

LINEAR = {"rigid", "affine", "classical-affine"}
QUICK = {
    "auto": {"quality": "fast"},
    "rigid": {},
    "affine": {"label_weight": 2},
    "deformable": {"iterations": 20, "levels": 2},
    "classical-affine": {"max_iter": 40, "working_size": 16},
    "classical-nonrigid": {"max_iter": 8, "working_size": 16, "learning_rate": 0.05},
}


@pytest.fixture(scope="module")
def case() -> PhantomPair:
    """Voxels of about 10 mm, on oblique grids that differ in everything; 12 mm apart on average."""
    return make_phantom(3, fixed_shape=(26, 22, 23), moving_shape=(27, 21, 24), displacement_mm=12.0)


@pytest.fixture(scope="module")
def run(case):
    """Registers the phantom by a method, once; gives the result and all that was told on the way."""
    done = {}

    def registered(method: str) -> tuple[Registration, list]:
        if method not in done:
            told = []
            done[method] = (
                told,
                register(
                    case.fixed,
                    case.moving,
                    method,
                    fixed_labels=case.fixed_labels,
                    moving_labels=case.moving_labels,
                    landmarks=case.landmarks,
                    settings=QUICK[method],
                    device="cpu",
                    progress=lambda *event: told.append(event),
                ),
            )
        told, result = done[method]
        return result, told

    return registered


# ---- results -----------------------------------------------------------------------------------------------


def test_every_method_is_tested_here():
    assert set(METHODS) == set(QUICK)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_the_types_it_promises_on_the_grids_it_promises(run, case, method):
    result, _ = run(method)
    assert isinstance(result.transform, AffineTransform if method in LINEAR else DisplacementField)
    assert type(result.inverse) is type(result.transform)
    if method not in LINEAR:
        assert result.transform.geometry == case.fixed.geometry
        assert result.inverse.geometry == case.moving.geometry
    assert result.warped.geometry == result.warped_labels.geometry == case.fixed.geometry
    assert (result.warped.kind, result.warped_labels.kind) == ("image", "labels")
    assert result.warped.array.dtype == np.float32
    assert result.warped_labels.array.dtype == case.moving_labels.array.dtype


@pytest.mark.parametrize("method", METHODS)
def test_what_is_given_back_is_the_original_moving_volume_through_the_transform(run, case, method):
    result, _ = run(method)
    for warped, moving in ((result.warped, case.moving), (result.warped_labels, case.moving_labels)):
        expected = warp(moving, result.transform, case.fixed.geometry)
        np.testing.assert_array_equal(warped.array, expected.array)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("between", "voxels"), [(False, 0.05), (True, 0.2)], ids=["at voxels", "between them"]
)
def test_the_inverse_leads_back(run, case, method, between, voxels):
    result, _ = run(method)
    fixed, moving = case.fixed.geometry, case.moving.geometry
    points = points_inside(moving, 3000) if between else moving.world_grid().reshape(-1, 3)
    back = result.inverse.map(points)
    index = fixed.to_index(back)
    inside = ((index >= 1) & (index <= np.array(fixed.shape) - 2)).all(1)
    assert inside.mean() > 0.4
    apart = (result.transform.map(back) - points)[inside] @ np.linalg.inv(fixed.affine[:3, :3]).T
    assert np.linalg.norm(apart, axis=1).max() < voxels


@pytest.mark.parametrize(("method", "share"), [("rigid", 0.8), ("affine", 0.7), ("deformable", 0.5)])
def test_landmarks_come_together(run, case, method, share):
    result, _ = run(method)
    tre = result.metrics["tre_mm"]
    start = np.linalg.norm(case.landmarks[:, :3] - case.landmarks[:, 3:], axis=1)
    end = np.linalg.norm(result.transform.map(case.landmarks[:, :3]) - case.landmarks[:, 3:], axis=1)
    assert tre["before"] == pytest.approx(start.mean()) and tre["after"] == pytest.approx(end.mean())
    assert end.mean() < share * start.mean()
    dice = result.metrics["dice_mean"]
    assert dice["after"] > dice["before"] + 0.05


@pytest.mark.parametrize("method", METHODS)
def test_the_figures_name_method_time_and_memory(run, method):
    result, _ = run(method)
    assert result.metrics["method"] == method
    assert 0 < result.metrics["seconds"] == result.seconds < 600
    assert result.metrics["peak_memory_mib"] > 50
    assert result.metrics["fold_percent"] < 0.5


def test_rigid_is_rigid_and_nothing_mirrors(run):
    turn = run("rigid")[0].transform.matrix[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    for method in LINEAR:
        assert np.linalg.det(run(method)[0].transform.matrix[:3, :3]) > 0


# ---- progress ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_progress_goes_from_nothing_to_done_and_never_back(run, method):
    _, told = run(method)
    fractions = [fraction for fraction, _, _ in told]
    assert fractions == sorted(fractions) and 0 <= fractions[0] < 0.5
    assert told[-1][:2] == (1.0, "done")
    assert all(isinstance(text, str) and text and isinstance(values, dict) for _, text, values in told)
    losses = [values["loss"] for _, _, values in told if "loss" in values]
    assert len(losses) > 3 and np.isfinite(losses).all()
    if method not in {"rigid", "affine"}:
        assert any("iteration" in values for _, _, values in told)


def stopping(at) -> tuple[list, object]:
    """A progress that cancels at the first event for which ``at(event, number)`` holds."""
    told = []

    def progress(*event):
        told.append(event)
        if at(event, len(told)):
            raise Cancelled

    return told, progress


@pytest.mark.parametrize("method", METHODS)
def test_cancelling_ends_a_method_at_once(case, method):
    told, progress = stopping(lambda _, number: number == 2)
    near = AffineTransform(case.truth.affine.matrix)
    with pytest.raises(Cancelled):
        register(
            case.fixed,
            case.moving,
            method,
            initial=near,
            settings=QUICK[method],
            device="cpu",
            progress=progress,
        )
    assert len(told) == 2


@pytest.mark.parametrize("stage", ["warp", "figures", "done"])
def test_cancelling_is_heard_after_the_optimisation_too(case, stage):
    told, progress = stopping(lambda event, _: event[1] == stage)
    settings = {"max_iter": 1, "working_size": 12}
    with pytest.raises(Cancelled):
        register(
            case.fixed,
            case.moving,
            "classical-nonrigid",
            initial=case.truth,
            settings=settings,
            device="cpu",
            progress=progress,
        )
    assert [event[1] for event in told].count(stage) == 1 and told[-1][1] == stage


# ---- determinism, options ----------------------------------------------------------------------------------


def as_array(transform) -> np.ndarray:
    return transform.matrix if isinstance(transform, AffineTransform) else transform.mm


@pytest.mark.parametrize("method", ["deformable", "classical-nonrigid"])
def test_the_same_seed_gives_the_same_transform_to_the_last_bit(case, method):
    settings = (
        {**QUICK[method], "iterations": 3} if method == "deformable" else {"max_iter": 2, "working_size": 12}
    )
    found = [
        register(
            case.fixed,
            case.moving,
            method,
            fixed_labels=case.fixed_labels,
            moving_labels=case.moving_labels,
            initial=case.truth.affine,
            settings=settings,
            device="cpu",
            seed=5,
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(as_array(found[0].transform), as_array(found[1].transform))
    np.testing.assert_array_equal(found[0].warped.array, found[1].warped.array)


def test_what_is_given_is_not_changed(case):
    volumes = [case.fixed, case.moving, case.fixed_labels, case.moving_labels]
    before = [v.array.copy() for v in volumes] + [case.landmarks.copy()]
    settings = {"iterations": 2, "levels": 1, "landmark_weight": 0.1}
    kept = dict(settings)
    register(
        *volumes[:2],
        "deformable",
        fixed_labels=volumes[2],
        moving_labels=volumes[3],
        landmarks=case.landmarks,
        initial=case.truth.affine,
        settings=settings,
        device="cpu",
    )
    for array, old in zip([v.array for v in volumes] + [case.landmarks], before, strict=True):
        np.testing.assert_array_equal(array, old)
    assert settings == kept


def test_a_displacement_field_as_the_start_takes_the_place_of_the_affine_stage(case):
    told = []
    result = register(
        case.fixed,
        case.moving,
        "deformable",
        initial=case.truth,
        settings={"iterations": 2, "levels": 1},
        landmarks=case.landmarks,
        device="cpu",
        progress=lambda *event: told.append(event[1]),
    )
    assert not any(text.startswith("affine") for text in told)
    assert result.metrics["tre_mm"]["after"] < 0.5 * result.metrics["tre_mm"]["before"]


def test_volumes_that_lie_far_apart_are_registered_from_their_centres(case):
    away = np.eye(4)
    away[:3, 3] = 900.0, -700.0, 400.0
    moving = Volume(case.moving.array, case.moving.geometry.moved(away))
    result = register(case.fixed, moving, "rigid", initial="centres", device="cpu")
    truth = AffineTransform(away).compose(case.truth)
    points = case.landmarks[:, :3]
    assert np.linalg.norm(result.transform.map(points) - truth.map(points), axis=1).mean() < 9


def test_masks_and_segmentations_on_other_grids_are_taken_where_they_are(case):
    def elsewhere(volume, shape):
        return warp(volume, AffineTransform.identity(), volume.geometry.resized(shape))

    mask = Volume((case.fixed_labels.array > 0).astype(np.uint8), case.fixed.geometry, "labels")
    result = register(
        case.fixed,
        case.moving,
        "affine",
        fixed_labels=elsewhere(case.fixed_labels, (31, 25, 28)),
        moving_labels=elsewhere(case.moving_labels, (22, 27, 25)),
        fixed_mask=elsewhere(mask, (20, 23, 25)),
        moving_mask=Volume(np.ones(case.moving.geometry.shape, bool), case.moving.geometry, "labels"),
        initial=AffineTransform.identity(),
        landmarks=case.landmarks,
        device="cpu",
    )
    assert result.metrics["tre_mm"]["after"] < 0.8 * result.metrics["tre_mm"]["before"]
    assert result.metrics["dice_mean"]["after"] > result.metrics["dice_mean"]["before"]


@pytest.mark.parametrize(
    ("method", "settings"), [("rigid", {}), ("affine", {}), ("deformable", {"iterations": 1, "rate": 0.0})]
)
def test_segmentations_lead_every_linear_stage_where_images_say_nothing(case, method, settings):
    random = np.random.default_rng(0)
    images = [
        Volume(random.normal(size=v.array.shape).astype(np.float32), v.geometry)
        for v in (case.fixed, case.moving)
    ]
    result = register(
        *images,
        method,
        fixed_labels=case.fixed_labels,
        moving_labels=case.moving_labels,
        initial=AffineTransform.identity(),
        landmarks=case.landmarks,
        settings=settings,
        device="cpu",
    )
    assert result.metrics["tre_mm"]["after"] < 0.7 * result.metrics["tre_mm"]["before"]


def test_without_segmentations_and_landmarks_there_are_no_such_figures(case):
    result = register(case.fixed, case.moving, "rigid", initial=case.truth.affine, device="cpu")
    assert result.warped_labels is None
    assert "dice" not in result.metrics and "tre_mm" not in result.metrics


def test_a_field_on_a_huge_grid_is_kept_on_a_coarser_one(case, monkeypatch):
    monkeypatch.setattr(methods, "FIELD_VOXELS", 3000)
    settings = {"iterations": 2, "levels": 1}
    result = register(
        case.fixed, case.moving, "deformable", initial=case.truth, settings=settings, device="cpu"
    )
    for field, grid in ((result.transform, case.fixed.geometry), (result.inverse, case.moving.geometry)):
        assert field.geometry.voxels <= 3000
        np.testing.assert_allclose(field.geometry.centre, grid.centre)
    assert result.warped.geometry == case.fixed.geometry


def test_a_new_method_is_one_more_entry(case, monkeypatch):
    def shift(task) -> AffineTransform:
        assert isinstance(task.fixed, PairSide) and task.seed == 9
        return AffineTransform(np.eye(4) + np.eye(4, k=3) * 5.0)

    monkeypatch.setitem(METHODS, "shift", shift)
    result = register(case.fixed, case.moving, "shift", seed=9, device="cpu")
    np.testing.assert_allclose(result.transform.map(np.zeros(3)), [5.0, 0, 0])
    assert result.metrics["method"] == "shift"
