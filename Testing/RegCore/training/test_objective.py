"""Lists of weighted losses: what counts, under which name, and what is refused."""

import numpy as np
import pytest
import torch

from RegCore import losses
from RegCore.networks.models import Prediction, warped
from RegCore.space.geometry import Geometry, InputError
from RegCore.training.objective import Objective, summary
from RegCore.training.state import RunningMeans

FIXED, MOVING = (7, 8, 9), (6, 9, 8)
SHIFT = torch.tensor([1.0, 2.0, 0.0]).view(1, 3, 1, 1, 1)


def random(*shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch(labels: bool = True) -> dict:
    made = {"fixed_image": random(2, 1, *FIXED), "moving_image": random(2, 1, *MOVING, seed=1)}
    if labels:
        made["fixed_label"] = random(2, 1, *FIXED, seed=2)
        made["moving_label"] = random(2, 1, *MOVING, seed=3)
    return made


def prediction(dvf: bool = False) -> Prediction:
    ddf = 2 * random(2, 3, *FIXED, seed=4) - 1
    return Prediction(ddf=ddf.requires_grad_(), dvf=random(2, 3, *FIXED, seed=5) if dvf else None)


def objective(labeled: bool = True, deepreg: bool = False, **sections) -> Objective:
    return Objective.from_config(sections, labeled=labeled, deepreg=deepreg)


def loss_names(parts: dict) -> list[str]:
    return [name for name in parts if name.startswith("loss/") and not name.endswith("_weighted")]


def test_the_total_is_the_weighted_sum_of_losses_of_the_warped_images():
    given, answer = batch(), prediction()
    asked = objective(
        image=[{"name": "lncc", "weight": 0.5, "kernel_size": 5}, {"name": "ssd", "scales": [0, 1]}],
        label={"name": "dice", "weight": 2, "scales": [0, 1, 2]},
        regularization={"name": "bending", "weight": 0.1},
    )
    total, parts = asked(answer, given)
    image, label = warped(answer, given["moving_image"], given["moving_label"])
    expected = {
        "image_LocalNormalizedCrossCorrelationLoss": (
            0.5,
            losses.lncc(given["fixed_image"], image, kernel_size=5),
        ),
        "image_SumSquaredDifference": (1.0, losses.ssd(given["fixed_image"], image, scales=[0, 1])),
        "label_DiceScoreLoss": (2.0, losses.dice(given["fixed_label"], label, scales=[0, 1, 2])),
        "regularization_BendingEnergy": (0.1, losses.bending(answer.ddf)),
    }
    assert loss_names(parts) == [f"loss/{name}" for name in expected]
    for name, (weight, value) in expected.items():
        torch.testing.assert_close(parts[f"loss/{name}"], value.detach())
        torch.testing.assert_close(parts[f"loss/{name}_weighted"], weight * value.detach())
    torch.testing.assert_close(total, sum(weight * value for weight, value in expected.values()))
    assert total.shape == (2,)
    assert torch.equal(parts["loss"], total.detach())
    assert total.requires_grad
    assert not any(values.requires_grad for values in parts.values())


def test_two_losses_of_a_kind_have_names_of_their_own():
    asked = objective(
        image=[
            {"name": "ssd"},
            {"name": "ssd", "scales": [1]},
            {"name": "mind"},
            {"name": "mind", "radius": 0},
        ],
        label=[{"name": "ssd"}],
    )
    names = ["image_SumSquaredDifference", "image_SumSquaredDifference_2", "image_mind", "image_mind_2"]
    assert [term.logged for term in asked.terms] == [*names, "label_SumSquaredDifference"]
    _, parts = asked(prediction(), batch())
    first, second = (parts[f"loss/{name}"] for name in names[:2])
    assert (second < first).all()


def test_a_loss_of_weight_zero_is_left_out_and_those_after_it_are_not():
    asked = objective(image=[{"name": "ssd"}, {"name": "lncc", "weight": 0}, {"name": "gmi"}])
    assert [term.name for term in asked.terms] == ["ssd", "gmi"]
    with pytest.raises(InputError, match="no argument 'size'"):
        objective(image=[{"name": "ssd"}, {"name": "lncc", "weight": 0, "size": 3}])


def test_image_and_label_losses_may_change_places():
    given, answer = batch(), prediction()
    total, parts = objective(image={"name": "dice"}, label={"name": "lncc"})(answer, given)
    image, label = warped(answer, given["moving_image"], given["moving_label"])
    expected = losses.dice(given["fixed_image"], image) + losses.lncc(given["fixed_label"], label)
    torch.testing.assert_close(total, expected)
    assert set(loss_names(parts)) == {
        "loss/image_DiceScoreLoss",
        "loss/label_LocalNormalizedCrossCorrelationLoss",
    }


def test_without_labels_no_label_is_looked_at():
    asked = objective(labeled=False, image={"name": "ssd"}, label={"name": "dice"})
    total, parts = asked(prediction(), batch(labels=False))
    assert set(loss_names(parts)) == {"loss/image_SumSquaredDifference"}
    assert not any("label" in name or "TRE" in name for name in parts)
    assert set(parts) > {"metric/ddf_mean", "metric/moving_image_max", "metric/fixed_image_min"}


def test_of_a_predicted_label_only_the_label_losses_are_taken():
    given = batch()
    asked = objective(image={"name": "ssd"}, label={"name": "dice"}, regularization={"name": "bending"})
    answer = Prediction(label=random(2, 1, *FIXED, seed=6))
    total, parts = asked(answer, given)
    torch.testing.assert_close(total, losses.dice(given["fixed_label"], answer.label))
    assert loss_names(parts) == ["loss/label_DiceScoreLoss"]
    assert "metric/ddf_mean" not in parts
    with pytest.raises(InputError, match=r"none of the losses \(ssd\) applies"):
        objective(image={"name": "ssd"})(answer, given)


def test_statistics_are_those_of_each_sample():
    given, answer = batch(), prediction(dvf=True)
    _, parts = objective(image={"name": "ssd"})(answer, given)
    tensors = {**given, "ddf": answer.ddf.detach(), "dvf": answer.dvf}
    for name, x in tensors.items():
        values = x.numpy().reshape(2, -1)
        for kind, function in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            np.testing.assert_allclose(parts[f"metric/{name}_{kind}"], function(values, 1), rtol=1e-4)
    assert len(parts) == 1 + 2 + 1 + 6 * 3


def balls(shape, centres) -> torch.Tensor:
    """A labelled cube of 3 voxels around each centre, one per sample; none where the centre is None."""
    out = torch.zeros(len(centres), 1, *shape)
    for sample, centre in zip(out, centres, strict=True):
        if centre is not None:
            sample[(0, *(slice(c - 1, c + 2) for c in centre))] = 1
    return out


def test_the_distance_of_labels_is_in_voxels_and_missing_where_one_is_empty():
    given = {**batch(), "fixed_label": balls(FIXED, [(3, 3, 4), None])}
    given["moving_label"] = balls(MOVING, [(3, 5, 4), (3, 3, 3)])
    answer = Prediction(ddf=torch.zeros(2, 3, *FIXED))
    _, parts = objective(image={"name": "ssd"})(answer, given)
    np.testing.assert_allclose(parts["metric/TRE"], [2, np.nan], atol=1e-5)
    assert summary(parts)["metric/TRE"] == pytest.approx(2)
    shifted = Prediction(ddf=torch.zeros(2, 3, *FIXED) + torch.tensor([0, 2.0, 0]).view(3, 1, 1, 1))
    _, parts = objective(image={"name": "ssd"})(shifted, given)
    np.testing.assert_allclose(parts["metric/TRE"], [0, np.nan], atol=1e-5)


def test_a_label_that_was_never_drawn_has_no_loss_unless_deepreg_is_asked_for():
    """The second fixed label and the third moving one are empty; the warped labels are none of them empty."""
    given = {"fixed_image": random(3, 1, *FIXED), "moving_image": random(3, 1, *MOVING, seed=1)}
    given["fixed_label"] = balls(FIXED, [(3, 3, 4), None, (3, 3, 4)])
    given["moving_label"] = balls(MOVING, [(3, 5, 4), (3, 3, 3), None])
    answer = Prediction(ddf=torch.zeros(3, 3, *FIXED).requires_grad_())
    sections = {"image": {"name": "ssd"}, "label": {"name": "ssd", "weight": 2}}
    total, parts = objective(**sections)(answer, given)
    image, label = warped(answer, given["moving_image"], given["moving_label"])
    alone = losses.ssd(given["fixed_label"], label).detach()
    expected = losses.ssd(given["fixed_image"], image) + 2 * alone * torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(total, expected)
    logged = parts["loss/label_SumSquaredDifference"]
    np.testing.assert_allclose(logged, [float(alone[0]), np.nan, np.nan], rtol=1e-6)
    means, running = summary(parts), RunningMeans.of(parts).values()
    for found in (means, running):
        assert found["loss/label_SumSquaredDifference"] == pytest.approx(float(alone[0]))
        assert found["loss/label_SumSquaredDifference_weighted"] == pytest.approx(2 * float(alone[0]))
    total, parts = objective(deepreg=True, **sections)(answer, given)
    assert not parts["loss/label_SumSquaredDifference"].isnan().any()
    assert float(parts["loss/label_SumSquaredDifference"][1]) > 0


def test_an_identity_leaves_the_image_as_it_is_and_deepreg_blanks_three_faces():
    image = random(1, 1, 6, 7, 8) + 0.5
    given, answer = {"fixed_image": image, "moving_image": image}, Prediction(ddf=torch.zeros(1, 3, 6, 7, 8))
    total, _ = objective(labeled=False, image={"name": "ssd"})(answer, given)
    assert float(total) < 1e-12
    total, _ = objective(labeled=False, deepreg=True, image={"name": "ssd"})(answer, given)
    blank = image.clone()
    blank[..., 1:, 1:, 1:] = 0
    torch.testing.assert_close(total, (blank**2).mean().view(1))


def test_deepreg_is_asked_of_the_losses_that_know_a_difference():
    """A flat image has nothing in common with any other, but scores best in DeepReg."""
    flat = {"fixed_image": random(1, 1, *FIXED), "moving_image": torch.full((1, 1, *FIXED), 0.5)}
    answer = Prediction(ddf=torch.ones(1, 3, *FIXED) / 4)
    total, _ = objective(labeled=False, image={"name": "gncc"})(answer, flat)
    assert abs(float(total)) < 1e-6
    image, _ = warped(answer, flat["moving_image"], border="zero_boundary")
    total, _ = objective(labeled=False, deepreg=True, image={"name": "gncc"})(answer, flat)
    torch.testing.assert_close(total, losses.gncc(flat["fixed_image"], image, deepreg=True))
    assert float(total) < -0.001


def test_the_diffusion_is_that_of_the_velocity_where_there_is_one():
    asked = objective(image={"name": "ssd", "weight": 1e-12}, regularization={"name": "diffusion"})
    for answer, field in ((prediction(True), "dvf"), (prediction(), "ddf")):
        total, _ = asked(answer, batch())
        torch.testing.assert_close(total, losses.diffusion(getattr(answer, field)))


def test_there_and_back_is_compared_with_the_exchanged_prediction():
    asked = objective(labeled=False, regularization={"name": "inverse-consistency", "weight": 3})
    assert asked.needs_exchanged
    assert not objective(image={"name": "ssd"}).needs_exchanged
    there = Prediction(ddf=SHIFT.expand(2, 3, *FIXED))
    back = Prediction(ddf=-SHIFT.expand(2, 3, *MOVING))
    total, parts = asked(there, batch(), back)
    assert total.tolist() == [0, 0]
    total, parts = asked(there, batch(), there)
    torch.testing.assert_close(total, torch.full((2,), 3 * 4 * 5.0))
    assert loss_names(parts) == ["loss/regularization_inverse-consistency"]
    with pytest.raises(InputError, match="inverse-consistency needs the prediction for the exchanged pair"):
        asked(there, batch())


def test_a_loss_of_ones_own_is_found_by_its_name(monkeypatch):
    def brightness(fixed, warped, *, power: float = 1):
        return (fixed.mean((1, 2, 3, 4)) - warped.mean((1, 2, 3, 4))).abs() ** power

    monkeypatch.setitem(losses.IMAGE_LOSSES, "brightness", brightness)
    given, answer = batch(), prediction()
    total, parts = objective(image={"name": "brightness", "power": 2, "weight": 4})(answer, given)
    image, _ = warped(answer, given["moving_image"])
    torch.testing.assert_close(total, 4 * (given["fixed_image"] - image).mean((1, 2, 3, 4)) ** 2)
    assert loss_names(parts) == ["loss/image_brightness"]


def test_the_summary_is_the_mean_over_the_samples():
    parts = {"loss": torch.tensor([1.0, 2.0]), "metric/TRE": torch.tensor([float("nan"), 3.0])}
    assert summary(parts) == {"loss": 1.5, "metric/TRE": 3.0}
    assert np.isnan(summary({"loss": torch.tensor([1.0, float("nan")])})["loss"])


@pytest.mark.parametrize(
    ("section", "labeled", "sentence"),
    [
        ({"image": {"name": "mse"}}, True, "loss.image: the loss is 'mse', expected one of dice, .*lncc"),
        ({"image": {"name": "lnc"}}, True, "did you mean lncc"),
        ({"image": {"weight": 1}}, True, "loss.image: the loss is missing"),
        ({"label": [{"name": "dice"}, "jaccard"]}, True, "loss.label holds 'jaccard', expected a name"),
        (
            {"regularization": {"name": "ssd"}},
            True,
            "loss.regularization: the loss is 'ssd', expected",
        ),
        (
            {"regularization": {"name": "bending", "l1": True}},
            True,
            "loss.regularization: .*no argument 'l1'",
        ),
        ({"regularisation": {"name": "bending"}}, True, "'regularisation'.*did you mean regularization"),
        ({"image": {"name": "ssd", "weight": "1e-5"}}, True, "weight of ssd in loss.image is '1e-5'.*1.0e-5"),
        ({"image": {"name": "ssd", "weight": None}}, True, "is None, expected a number"),
        ({"image": {"name": "ssd", "weight": True}}, True, "is True, expected a number"),
        ({"image": {"name": "ssd", "weight": float("inf")}}, True, "is inf, expected a number"),
        ({"image": {"name": "ssd", "weight": 0}}, True, "the section loss leaves nothing to minimise$"),
        ({"label": {"name": "dice"}, "image": None}, False, "minimise; label losses need labelled data"),
        ({"image": []}, True, "the section loss leaves nothing to minimise$"),
        (["ssd"], True, "expected the sections image, label, regularization"),
    ],
)
def test_what_is_refused(section, labeled, sentence):
    with pytest.raises(InputError, match=sentence):
        Objective.from_config(section, labeled=labeled)


def test_a_batch_that_lacks_something_is_named():
    asked = objective(image={"name": "ssd"})
    for name in batch():
        with pytest.raises(InputError, match=f"lacks {name}"):
            asked(prediction(), {key: value for key, value in batch().items() if key != name})


def test_regularisers_take_the_voxel_size_of_each_image():
    """``spacing: image``: that of the fixed image on the network's grid; of both sides where both count."""
    given, answer = batch(), prediction(dvf=True)
    sizes = {"fixed": [(1.0, 2.0, 3.0), (0.8, 0.8, 4.0)], "moving": [(1.5, 1.0, 2.0), (2.0, 2.0, 2.0)]}
    for side, spacings in sizes.items():
        given[f"{side}_geometry"] = [Geometry(FIXED, np.diag([*mm, 1.0])) for mm in spacings]
    names = ("bending", "gradient", "diffusion", "inverse-consistency")
    asked = objective(regularization=[{"name": name, "spacing": "image"} for name in names])
    back = Prediction(ddf=random(2, 3, *FIXED, seed=6))
    _, parts = asked(answer, given, back)
    fixed, moving = (torch.tensor(sizes[side]) for side in ("fixed", "moving"))
    expected = {
        "BendingEnergy": losses.bending(answer.ddf, spacing=fixed),
        "GradientNorm": losses.gradient(answer.ddf, spacing=fixed),
        "diffusion": losses.diffusion(answer.dvf, spacing=fixed),
        "inverse-consistency": losses.inverse_consistency(
            answer.ddf, back.ddf, spacing=fixed, moving_spacing=moving
        ),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[f"loss/regularization_{name}"], value.detach())
        assert value[0] != value[1]
    with pytest.raises(InputError, match="spacing: image needs images with a place"):
        asked(answer, batch(), back)
