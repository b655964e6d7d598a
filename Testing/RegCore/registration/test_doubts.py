"""Whether a registration may have failed: known good, displaced, unrelated and apart pairs."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from RegCore import make_phantom, register, save
from RegCore.cli import main
from RegCore.cli.pair_arguments import DOUBTFUL
from RegCore.registration.doubts import doubts, gain_over_chance, gain_over_turns
from RegCore.registration.pair import PairSide
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume
from Testing.RegCore.registration.blobs import FIXED, MOVING, scan

IDENTITY = AffineTransform.identity()


def shifted(*mm: float) -> AffineTransform:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return AffineTransform(matrix)


def noise(geometry, seed: int) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=geometry.shape).astype(np.float32), geometry)


def test_an_image_gains_all_over_chance_against_itself_and_nothing_against_noise():
    side = PairSide(scan(FIXED))
    assert gain_over_chance(side, side, IDENTITY) == pytest.approx((1.0, 1.0), abs=1e-5)
    assert gain_over_chance(PairSide(noise(FIXED, 0)), PairSide(noise(MOVING, 1)), IDENTITY)[0] < 0.05


def test_the_gain_falls_with_the_distance_from_the_truth():
    fixed, moving = PairSide(scan(FIXED)), PairSide(scan(MOVING, seed=1))
    gains = [gain_over_chance(fixed, moving, shifted(d, -d, d / 2))[0] for d in (0.0, 6.0, 15.0)]
    assert gains[0] > 0.5 and gains[0] > gains[1] > gains[2]


def test_a_good_result_is_not_doubted_and_a_failed_one_is_by_a_sentence():
    fixed, moving = PairSide(scan(FIXED)), PairSide(scan(MOVING, seed=1))
    assert doubts(fixed, moving, IDENTITY) == []
    (unrelated,) = doubts(fixed, PairSide(noise(MOVING, 2)), IDENTITY)
    assert "probably failed" in unrelated and "gain over chance" in unrelated
    (apart,) = doubts(fixed, moving, shifted(900.0, 0.0, 0.0))
    assert "probably failed" in apart and "shows 0 % of the fixed body" in apart


def ball(turn: np.ndarray, noise: float = 0.05, texture: float = 0.5, seed: int = 0) -> PairSide:
    """A ball, textured within, that was turned about its middle."""
    points = FIXED.world_grid() - FIXED.centre
    inside = np.linalg.norm(points, axis=-1) < 0.42 * (np.array(FIXED.shape) * FIXED.spacing).min()
    values = inside * (1 + texture * np.sin(points @ turn / 12 + [0.3, 1.0, 2.0]).prod(-1))
    values += noise * np.random.default_rng(seed).normal(size=FIXED.shape)
    return PairSide(Volume(values.astype(np.float32), FIXED))


def test_a_body_that_lies_turned_within_its_own_outline_is_doubted(monkeypatch):
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", (75, 50), degrees=True).as_matrix()
    turn[:3, 3] = FIXED.centre - turn[:3, :3] @ FIXED.centre
    fixed, wrong = ball(np.eye(3)), AffineTransform(turn)
    other = ball(np.eye(3), seed=1)
    assert gain_over_turns(fixed, other, IDENTITY) > 0.5
    assert gain_over_turns(fixed, other, wrong) < 0.1 < gain_over_chance(fixed, other, wrong)[0]
    monkeypatch.setattr("RegCore.registration.doubts.OUTLINE", 0.9)  # what agrees otherwise is the outline
    assert doubts(fixed, other, IDENTITY) == []
    (sentence,) = doubts(fixed, other, wrong)
    assert "when one is turned by 30°" in sentence and "gain over turns" in sentence


def test_a_ball_that_is_one_from_all_sides_is_not_doubted():
    sides = [ball(np.eye(3), noise=0.2, texture=0.0, seed=seed) for seed in (0, 1)]
    assert gain_over_turns(*sides, IDENTITY) < 0.1
    assert doubts(*sides, IDENTITY) == []


def test_what_a_mask_leaves_out_does_not_count():
    fixed, moving = scan(FIXED), scan(MOVING, seed=1)
    half = np.zeros(FIXED.shape, np.uint8)
    half[: FIXED.shape[0] // 2] = 1
    spoilt = fixed.array.copy()
    spoilt[FIXED.shape[0] // 2 :] = noise(FIXED, 3).array[FIXED.shape[0] // 2 :] * fixed.array.std()
    sides = [PairSide(Volume(spoilt, FIXED), mask=m) for m in (None, Volume(half, FIXED))]
    without, masked = (gain_over_chance(side, PairSide(moving), IDENTITY)[0] for side in sides)
    assert masked > without + 0.1


@pytest.mark.parametrize("strict", [True, False])
def test_strict_ends_with_code_3_and_the_results_are_there(tmp_path, caplog, strict):
    pair = make_phantom(fixed_shape=(24, 20, 18), moving_shape=(22, 21, 20))
    save(pair.fixed, tmp_path / "fixed.nii.gz")
    save(noise(pair.moving.geometry, 4), tmp_path / "moving.nii.gz")
    files = ["--fixed", str(tmp_path / "fixed.nii.gz"), "--moving", str(tmp_path / "moving.nii.gz")]
    options = ["--out", str(tmp_path / "out"), "--method", "rigid", "--device", "cpu", "--quiet"]
    code = main(["register", *files, *options, *(["--strict"] if strict else [])])
    assert code == (DOUBTFUL if strict else 0)
    (sentence,) = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["doubts"]
    assert "probably failed" in sentence


def test_what_a_deformation_made_alike_is_judged_by_its_linear_part():
    fixed, other = PairSide(scan(FIXED)), PairSide(noise(MOVING, 5))
    found = register(fixed.image, other.image, device="cpu", settings={"quality": "fast"})
    assert "gain over chance" in found.metrics["doubts"][0]


def test_structures_that_overlap_leave_no_doubt():
    half = np.zeros(FIXED.shape, np.uint8)
    half[: FIXED.shape[0] // 2] = 1
    labels = {f"{side}_labels": Volume(half, FIXED, "labels") for side in ("fixed", "moving")}
    pair = Volume(scan(FIXED).array, FIXED), noise(FIXED, 6)
    assert "doubts" in register(*pair, "rigid", device="cpu").metrics
    found = register(*pair, "rigid", device="cpu", **labels).metrics
    assert found["dice_mean"]["after"] > 0.5 and "doubts" not in found
