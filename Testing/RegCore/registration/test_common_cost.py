"""One objective for what was found in different ways: the truth costs least, on any grid; both starts."""

import numpy as np
import pytest
import torch

import RegCore
from RegCore.networks.model_file import Model
from RegCore.registration import methods
from RegCore.registration.auto import QUALITIES
from RegCore.registration.common_cost import common_cost
from RegCore.registration.deformable import Settings
from RegCore.registration.pair import LabelEncoding, PairSide
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField

PAIR = RegCore.make_phantom(3, fixed_shape=(40, 36, 30), moving_shape=(36, 41, 33))
SIDES = PairSide(PAIR.fixed, PAIR.fixed_labels), PairSide(PAIR.moving, PAIR.moving_labels)


def moved(mm: float) -> DisplacementField:
    """The truth, and then so many mm to the right."""
    known = PAIR.truth.resampled(PAIR.fixed.geometry)
    return DisplacementField(known.geometry, known.mm + np.array([mm, 0, 0], np.float32))


def test_the_truth_costs_least_and_the_rest_the_more_the_farther_away():
    costs = common_cost(*SIDES, [moved(mm) for mm in (0.0, 6.0, 12.0)], settings=Settings(smoothness=0.0))
    assert costs == sorted(costs) and costs[0] < 0.8 * costs[2]


def test_what_is_mapped_to_where_nothing_is_known_is_no_gain():
    away = np.eye(4)
    away[:3, 3] = 500, 0, 0
    affine = PAIR.truth.affine_part()
    costs = common_cost(*SIDES, [affine, AffineTransform(away)])
    assert costs[1] >= costs[0] * (1 - 1e-6)  # equal but for rounding: each unknown voxel costs the mean


def test_segmentations_and_roughness_count():
    settings = Settings(smoothness=5.0)
    straight = moved(0.0)
    noise = np.random.default_rng(0).normal(0, 3, straight.mm.shape).astype(np.float32)
    rough = DisplacementField(straight.geometry, straight.mm + noise)
    smooth, other = common_cost(*SIDES, [straight, rough], settings=settings)
    assert smooth < other
    encoding = LabelEncoding.of(PAIR.fixed_labels, PAIR.moving_labels, 20.0, 0)
    near, far = common_cost(*SIDES, [moved(0.0), moved(12.0)], encoding=encoding)
    plain = common_cost(*SIDES, [moved(0.0), moved(12.0)])
    assert far - near > 2 * (plain[1] - plain[0])


class Lost(torch.nn.Module):
    """A network that registers in its own way, by a given shift."""

    own_settings = {"own.mm": float}
    refinement = {"levels": 1, "symmetric": False, "iterations": 8}

    def find_transform(self, fixed, moving, *, settings=None, device, progress):
        mm = {"own.mm": 0.0, **(settings or {})}["own.mm"]
        return (
            DisplacementField.from_affine(AffineTransform.identity(), fixed.geometry)
            if mm == 0
            else moved(mm)
        )


def found(**settings) -> RegCore.Registration:
    model = Model({}, PAIR.fixed.geometry.shape, PAIR.moving.geometry.shape, False, Lost())
    return RegCore.register(
        PAIR.fixed, PAIR.moving, model, landmarks=PAIR.landmarks, settings=settings, device="cpu"
    )


def test_a_network_has_settings_and_a_refinement_of_its_own():
    alone = found(**{"own.mm": 60})
    assert alone.metrics["tre_mm"]["after"] == pytest.approx(60, rel=0.05)
    with pytest.raises(InputError, match="no setting 'own.cm'"):
        found(**{"own.cm": 1.0})
    with pytest.raises(InputError, match="starts is 'none', expected network or both"):
        found(refine=True, starts="none")
    with pytest.raises(InputError, match="no setting 'starts'"):
        found(starts="both")


def test_of_two_starts_the_better_one_is_kept():
    lost = found(**{"own.mm": 90.0}, refine=True).metrics["tre_mm"]["after"]
    kept = found(**{"own.mm": 90.0}, refine=True, starts="both").metrics["tre_mm"]["after"]
    plain = RegCore.register(PAIR.fixed, PAIR.moving, "auto", landmarks=PAIR.landmarks, device="cpu").metrics[
        "tre_mm"
    ]["after"]
    assert lost > 30 and kept == pytest.approx(plain, abs=1e-3)
    near = found(**{"own.mm": 0.5}, refine=True).metrics["tre_mm"]["after"]
    both = found(**{"own.mm": 0.5}, refine=True, starts="both").metrics["tre_mm"]["after"]
    assert both in (pytest.approx(near, abs=1e-3), pytest.approx(plain, abs=1e-3))


def test_what_is_asked_of_the_first_stage_of_a_refinement_holds_between_two_contrasts(monkeypatch):
    seen, deform = [], methods.deform_automatically

    def remembered(task, *more):
        seen.append(task.settings.symmetric)
        return deform(task, *more)

    monkeypatch.setattr(methods, "deform_automatically", remembered)
    monkeypatch.setattr(methods, "same_modality", lambda task: False)
    found(**{"own.mm": 0.5}, refine=True, starts="both")
    found(**{"own.mm": 0.5}, refine=True, symmetric=True)
    assert seen == [False, True, True]  # as the network says, as auto does by itself, as was asked for


def test_a_refinement_is_what_the_method_auto_makes_of_the_transform_of_the_network():
    coarse = {name: getattr(QUALITIES["fast"][0], name) for name in Lost.refinement}  # in place of its own
    refined = found(**{"own.mm": 6.0}, refine=True, quality="fast", **coarse)
    automatic = RegCore.register(
        PAIR.fixed,
        PAIR.moving,
        initial=moved(6.0),
        landmarks=PAIR.landmarks,
        settings={"quality": "fast"},
        device="cpu",
    )
    at = PAIR.landmarks[:, :3]
    np.testing.assert_allclose(refined.transform.map(at), automatic.transform.map(at), atol=1e-3)
    with pytest.raises(InputError, match="setting quality is 'none', expected one of fast, balanced, best"):
        found(refine=True, quality="none")
