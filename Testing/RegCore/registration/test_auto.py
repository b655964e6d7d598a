"""The default method: two stages, the second of which has to earn its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from RegCore import register
from RegCore.progress import Cancelled
from RegCore.registration import auto, deformable, methods
from RegCore.registration.auto import AutoSettings, deform_automatically, feature_distances, roughness
from RegCore.registration.compositional import CorrelationSettings
from RegCore.registration.deformable import (
    DeformableTask,
    Settings,
    deform,
    deform_task,
    make_deformable_level,
)
from RegCore.registration.folds import mended_folds
from RegCore.registration.objective import PairObjective
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.resampler import folding_fraction
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, MOVING, density, scan

IDENTITY = AffineTransform.identity()
COARSE = Settings(iterations=12, levels=2, symmetric=False)
FINE = CorrelationSettings(iterations=30, levels=1)


def bent(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) mm moved by up to 6 mm."""
    return points + 4 * np.sin(points[..., [1, 2, 0]] / 25) + [1.0, -0.5, 0.7]


def task(settings: Settings = COARSE) -> DeformableTask:
    return DeformableTask(PairSide(scan(FIXED, bent)), PairSide(scan(MOVING, seed=1)), IDENTITY, settings)


def error(transform) -> float:
    """Mean distance from the truth within the balls, mm."""
    points = FIXED.world_grid()
    apart = np.linalg.norm(transform.map(points) - bent(points), axis=-1)
    return float(apart[density(points) > 0.5].mean())


def texture(points: np.ndarray) -> np.ndarray:
    """Waves of 25 to 60 mm in all directions: structure in every window."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(60, 3))
    waves *= (2 * np.pi / rng.uniform(25, 60, 60) / np.linalg.norm(waves, axis=1))[:, None]
    return np.cos(points @ waves.T + rng.uniform(0, 6, 60)).sum(-1)


@pytest.mark.parametrize("inverted", [False, True], ids=["one contrast", "two contrasts"])
def test_the_second_stage_betters_the_first(inverted):
    short = replace(COARSE, iterations=3)
    moving = texture(MOVING.world_grid())
    volumes = (
        Volume(texture(bent(FIXED.world_grid())), FIXED),
        Volume(-moving if inverted else moving, MOVING),
    )
    pair = DeformableTask(*map(PairSide, volumes), IDENTITY, short)
    first = deform(pair.fixed, pair.moving, IDENTITY, settings=short)
    found = deform_automatically(pair, FINE)
    assert error(found) < 0.8 * error(first) < 0.8 * error(IDENTITY)
    assert (found.jacobian_determinant() > 0).all()


def test_both_directions_give_fields_that_undo_each_other():
    pair, both = task(replace(COARSE, symmetric=True)), replace(FINE, symmetric=True)
    forward = deform_automatically(pair, both)
    backward = deform_automatically(pair.reversed(), both)
    points = FIXED.world_grid()[density(FIXED.world_grid()) > 0.5]
    apart = np.linalg.norm(backward.map(forward.map(points)) - points, axis=-1) / FIXED.spacing.mean()
    assert apart.mean() < 0.25
    assert error(forward) < 0.5 * error(IDENTITY)


def wild(task, result, settings, progress):
    """In place of the second stage: a field that is smooth and wrong."""
    at = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in FIXED.shape), indexing="ij"))[None]
    return result.ddf + 2.5 * torch.sin(at / 4), FIXED


def folding(task, result, settings, progress):
    """In place of the second stage: a field torn in two."""
    ddf = result.ddf.clone()
    ddf[:, :, 13:] -= 60
    return ddf, FIXED


@pytest.mark.parametrize("stage", [wild, folding])
def test_a_second_stage_that_spoils_the_first_is_refused(monkeypatch, stage):
    pair = task()
    first = deform(pair.fixed, pair.moving, IDENTITY, settings=COARSE)
    monkeypatch.setattr(auto, "_correlated", stage)
    np.testing.assert_array_equal(deform_automatically(pair, FINE).mm, first.mm)


def test_structures_must_not_get_further_apart(monkeypatch):
    """Noise with structures: correlation finds what it likes, the structures say that it is nothing."""
    random, maps = np.random.default_rng(0), []
    for geometry, mapping in ((FIXED, bent), (MOVING, lambda points: points)):
        values = np.digitize(density(mapping(geometry.world_grid())), [0.3, 0.6, 0.9])
        maps.append(Volume(values.astype(np.uint8), geometry, "labels"))
    images = [Volume(random.normal(size=m.geometry.shape).astype(np.float32), m.geometry) for m in maps]
    sides = [PairSide(image, labels) for image, labels in zip(images, maps, strict=True)]
    encoding = LabelEncoding.of(*maps, 20.0, 0)
    pair = DeformableTask(*sides, IDENTITY, COARSE, encoding=encoding)
    first = deform(*sides, IDENTITY, settings=COARSE, encoding=encoding)
    np.testing.assert_array_equal(deform_automatically(pair, FINE).mm, first.mm)
    monkeypatch.setattr(auto, "RISE", 1e9)  # with no say for the images
    np.testing.assert_array_equal(deform_automatically(pair, FINE).mm, first.mm)


def test_landmarks_with_a_weight_must_not_get_further_apart():
    points = FIXED.world_grid()[density(FIXED.world_grid()) > 0.7][::40]
    astray = np.hstack([points, points + [6.0, 6.0, 0]])
    settings = replace(COARSE, landmark_weight=5.0)
    pair = replace(task(settings), landmarks=astray)
    first = deform(pair.fixed, pair.moving, IDENTITY, settings=settings, landmarks=astray)
    np.testing.assert_array_equal(deform_automatically(pair, FINE).mm, first.mm)


def test_distances_of_features_are_taken_where_both_images_are_known():
    pair = DeformableTask(PairSide(scan(FIXED)), PairSide(scan(FIXED)), IDENTITY, COARSE)
    level = make_deformable_level(pair, FIXED, 0.0)
    nowhere = torch.zeros((1, 3, *FIXED.shape))
    assert feature_distances(level, nowhere).shape == (12,)
    assert float(feature_distances(level, nowhere).max()) < 1e-9
    assert float(feature_distances(level, nowhere + 1.5).min()) > 1e-3


def test_roughness_is_that_of_the_jacobian():
    at = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 3, 12, 5, 4)
    u = torch.zeros((1, 3, 12, 5, 4))
    assert roughness(u) == 0
    u[:, :1] = torch.where(at[:, :1] < 6, 0.5 * at[:, :1], 3 + 0.0 * at[:, :1])
    slope = torch.tensor([np.log(1.5)] * 6 + [0.0] * 5)
    assert roughness(u) == pytest.approx(float(slope.repeat_interleave(12).std()), rel=1e-4)
    assert roughness(torch.zeros((1, 3, 4, 1, 5))) == 0
    assert folding_fraction(u) == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"quality": "quick"}, "setting quality is 'quick', expected one of fast, balanced, best"),
        ({"smoothness": -1.0}, "setting smoothness is -1.0, expected a number of at least 0"),
        ({"smoothnes": 1.0}, "method auto has no setting 'smoothnes'"),
    ],
)
def test_settings_out_of_range_are_named(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        register(scan(FIXED), scan(MOVING), "auto", settings=settings, device="cpu")


def test_smoothness_reaches_both_stages():
    coarse, fine = AutoSettings(smoothness=5.0, landmark_weight=2.0).stages()
    plain, light = AutoSettings().stages()
    assert (coarse.smoothness, coarse.landmark_weight) == (5.0, 2.0)
    assert plain.smoothness == Settings().smoothness == 1.25
    assert fine.field_smoothing == pytest.approx(2 * light.field_smoothing)


def test_cancelling_stops_in_either_stage():
    for name in ("deformable", "correlation"):

        def stop(fraction, text, values, name=name):
            if text.startswith(name):
                raise Cancelled

        with pytest.raises(Cancelled):
            deform_automatically(task(), FINE, stop)


def test_register_knows_it_and_gives_field_and_inverse():
    settings = {"quality": "fast"}
    result = register(scan(FIXED, bent), scan(MOVING, seed=1), "auto", settings=settings, device="cpu")
    assert error(result.transform) < 0.5 * error(IDENTITY)
    points = FIXED.world_grid()[6:-6, 6:-6, 6:-6]
    back = result.inverse.map(result.transform.map(points))
    assert np.linalg.norm(back - points, axis=-1).mean() < 0.1 * FIXED.spacing.mean()
    assert result.metrics["method"] == "auto"


@pytest.mark.parametrize(
    ("quality", "inverted", "expected"),
    [
        ("fast", True, (False, False)),
        ("balanced", False, (False, False)),
        ("balanced", True, (True, False)),
        ("best", False, (True, True)),
    ],
)
def test_both_directions_are_for_unlike_images_or_the_best(monkeypatch, quality, inverted, expected):
    seen, moving = [], texture(MOVING.world_grid())
    images = Volume(texture(FIXED.world_grid()), FIXED), Volume(-moving if inverted else moving, MOVING)

    def remembered(pair, fine, progress):
        seen.append((pair.settings.symmetric, fine.symmetric))
        return DisplacementField.from_affine(IDENTITY, FIXED)

    monkeypatch.setattr(methods, "deform_automatically", remembered)
    register(*images, "auto", settings={"quality": quality}, initial=IDENTITY, device="cpu")
    assert seen == [expected]


def test_a_fold_is_smoothed_away_where_it_is_and_nothing_else_changes():
    grid = FIXED.resized((25, 22, 19))
    index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in grid.shape), indexing="ij"))
    bump = torch.exp(-((index - torch.tensor([8.0, 9, 7]).view(3, 1, 1, 1)) ** 2).sum(0) / 6)
    ddf = 0.02 * index.flip(0) + 3.5 * bump
    assert folding_fraction(ddf[None]) > 0
    mended = mended_folds(ddf[None], grid)
    assert mended is not None and folding_fraction(mended) == 0
    torch.testing.assert_close(mended[0, :, 19:, 18:, 15:], ddf[:, 19:, 18:, 15:], rtol=0, atol=0)
    mirrored = torch.stack([-2 * index[0], 0 * index[1], 0 * index[2]])
    assert mended_folds(mirrored[None], grid) is None


def test_the_deformable_method_leaves_no_fold_either(monkeypatch):
    found = deform_task(task())
    index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in found.ddf.shape[2:]), indexing="ij"))
    middle = torch.tensor(found.ddf.shape[2:]).view(3, 1, 1, 1) // 2
    bump = 3.5 * torch.exp(-((index - middle) ** 2).sum(0) / 4)
    folded = replace(found, ddf=found.ddf + bump)
    assert folding_fraction(folded.ddf) > 0 and folding_fraction(found.ddf) == 0
    monkeypatch.setattr(deformable, "_in_directions", lambda *_: folded)
    mended = deform_task(task())
    assert folding_fraction(mended.ddf) == 0 and mended.cost(mended.ddf) < mended.start_cost
    torch.testing.assert_close(mended.ddf[..., :2], found.ddf[..., :2], rtol=0, atol=1e-3)
    monkeypatch.setattr(deformable, "_in_directions", lambda *_: found)
    assert deform_task(task()) is found


def test_like_images_are_followed_more_closely(monkeypatch):
    first, seen = deform_task(task()), []

    def remembered(*pair_and_start, settings, **options):
        seen.append(settings)
        return pair_and_start[3:5]

    monkeypatch.setattr(auto, "raise_correlation", remembered)
    for alike in (True, False):
        result = replace(first, alike=alike)
        monkeypatch.setattr(auto, "deform_task", lambda *a, result=result: result)
        deform_automatically(task(), FINE)
    assert [s.looser * s.field_smoothing for s in seen] == pytest.approx([0.525, 0.7])
    assert seen[0].fixed_pull > 0 == seen[1].fixed_pull


def test_structures_and_weighted_landmarks_lead_the_way_alone(monkeypatch):
    first, seen = deform_task(task()), []
    led = PairObjective(first.level, replace(COARSE, landmark_weight=0.1))
    labelled = replace(first.level, label_channels=1)
    for result in (first, replace(first, objective=led), replace(first, level=labelled)):
        monkeypatch.setattr(auto, "deform_task", lambda *a, result=result: result)
        climb = lambda *a, settings, **_: seen.append(settings) or a[3:5]  # noqa: E731
        monkeypatch.setattr(auto, "raise_correlation", climb)
        monkeypatch.setattr(auto, "_sound", lambda *a: True)
        deform_automatically(task(), FINE)
    assert [s.wide_iterations for s in seen] == [60, 0, 0]
