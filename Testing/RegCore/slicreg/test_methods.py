"""Training by the common loop: the loss falls, the template travels with the weights, models register."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from RegCore.io import save
from RegCore.loaders import make_loader
from RegCore.networks.model_file import build
from RegCore.registration.learned import load_model, predicted_transform
from RegCore.slicreg.folder import read_settings, read_template
from RegCore.slicreg.loading import together
from RegCore.slicreg.methods import random_boxes
from RegCore.slicreg.prediction import targets
from RegCore.slicreg.presets import NETWORKS, training_config
from RegCore.slicreg.registration import place_in_template, prepare_for_model, register_scans, template_of
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.volume import Volume
from RegCore.training import train
from RegCore.training.config import Config
from Testing.RegCore.slicreg import synthetic


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return synthetic.prepare(monkeypatch, tmp_path / "prepared", synthetic.files(tmp_path, save))


def config(folder, network: str = "deeplab", steps: int = 20) -> dict:
    plain = training_config(folder, network=network, small=True, steps=steps, batch_size=2, seed=0)
    if network == "unet":
        plain["train"]["backbone"]["depth"] = 2
    plain["train"]["mixed_precision"] = "off"
    return plain


def batch(folder) -> dict:
    loader = make_loader(config(folder)["dataset"], "train")
    samples = [loader.load(sample) for sample in loader.samples()[:2]]
    return {key: torch.stack([s[key] for s in samples]) for key in ("image", "supervoxels", "places")}


@pytest.mark.parametrize("network", NETWORKS)
def test_ten_steps_make_the_loss_fall(folder, network):
    plain = config(folder, network)
    plain["dataset"]["repeats"] = 1  # an epoch is one step
    plain["train"] |= {"epochs": 10, "save_period": 10, "learning_rate_schedule": None}
    done = train(Config.from_dict(plain), log_dir=folder.parent, exp_name=network, device="cpu")
    losses = [row["loss"] for row in done.history]
    assert losses[-1] < 0.8 * losses[0] and "val_loss" in done.history[0]
    if network != "regression":
        assert done.history[-1]["metric/supervoxel_accuracy"] > done.history[0]["metric/supervoxel_accuracy"]


def test_a_trained_model_is_a_model_file_that_registers(folder):
    wanted = Config.from_dict(config(folder, steps=80))
    done = train(wanted, log_dir=folder.parent, exp_name="run", device="cpu")
    trained = load_model(done.model)
    known = read_template(folder).supervoxels
    assert np.array_equal(trained.network.supervoxels.labels, known.labels)
    template, scan = synthetic.ball(), synthetic.ball((14.0, -10.0, 6.0), 2)
    assert place_in_template(trained.network, prepare_for_model(trained.network, template)) is not None
    fresh = build(config(folder), (16,) * 3, (16,) * 3, False).network
    fresh.set_template(make_loader(config(folder)["dataset"], "train"))
    assert synthetic.share_right(fresh, scan) < 0.3 and synthetic.share_right(trained.network, scan) > 0.8
    for fixed in (template, synthetic.ball((21.0, -15.0, 9.0), 3)):
        shift = scan.geometry.origin - fixed.geometry.origin
        found = predicted_transform(trained, fixed, scan, onto=fixed.geometry)
        middle = fixed.geometry.centre + 20 * np.eye(3)
        error = np.linalg.norm(found.map(middle) - middle - shift, axis=1)
        assert found.geometry == fixed.geometry and error.max() < 2 * synthetic.SPACING
    check_that_the_template_is_known(trained.network, template, scan)


def check_that_the_template_is_known(network, template, scan):
    """On either side, in part, and as the model keeps it; then no supervoxel of it is predicted."""
    own, middle = template_of(network), scan.geometry.centre + 20 * np.eye(3)
    forth = register_scans(network, template, scan)
    for image in (template, own, part_of(template)):
        back = register_scans(network, scan, image)
        nodes = back.geometry.to_world(np.rint(back.geometry.to_index(middle)))
        np.testing.assert_allclose(forth.map(back.map(nodes)), nodes, atol=0.2)
        assert network.stopover(image, scan) is network.stopover(scan, image) is None
    np.testing.assert_allclose(register_scans(network, own, scan).map(middle), forth.map(middle), atol=0.02)
    third = network.stopover(scan, synthetic.ball((21.0, -15.0, 9.0), 3))
    assert third.geometry == own.geometry and np.array_equal(third.array, own.array)
    air = Volume(np.full_like(scan.array, -1000), scan.geometry)
    for images, name in (((air, scan), "fixed"), ((scan, air), "moving")):
        with pytest.raises(InputError, match=f"the {name} image: the image is constant"):
            network.stopover(*images)


def part_of(image: Volume) -> Volume:
    """All but a slice at each end of an axis."""
    first = image.geometry.to_world([0, 0, 1])
    affine = image.geometry.affine.copy()
    affine[:3, 3] = first
    array = image.array[:, :, 1:-1]
    return Volume(array, Geometry(array.shape, affine))


def test_the_loss_is_the_cross_entropy_of_all_layers_and_voxels(folder):
    plain, given = config(folder), batch(folder)
    plain["train"]["backbone"] |= {"background": 0.25}
    network = build(plain, (16,) * 3, (16,) * 3, False).network.eval()
    loss, parts = network(given)
    scores = network.network(given["image"])
    wanted = given["supervoxels"][..., ::2, ::2, ::2].long()
    each = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(0, 1), reduction="none").reshape(wanted.shape)
    weight = 0.25 + 0.75 * (wanted > 0)
    expected = (each * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    torch.testing.assert_close(loss, expected)
    assert bool((parts["metric/supervoxel_accuracy"] <= 1).all())
    assert not torch.equal(targets(given["supervoxels"]), targets(given["supervoxels"], as_published=True))


def test_a_step_learns_from_a_random_box_of_the_cells_as_the_whole_would_have_it(folder):
    """The head answers in the box as it does in the whole: the border that it reads is there as well."""
    plain, given = training_config(folder, small=True, share=0.125), batch(folder)
    method = build(plain, (16,) * 3, (16,) * 3, False).network
    assert method.share == 0.125
    method.network.eval()  # fixed statistics, no dropout
    method.training = True
    context = method.network.context(given["image"])
    wanted = targets(given["supervoxels"])[0]
    torch.manual_seed(3)
    loss, mean, right = method._one(context[:1], wanted)
    torch.manual_seed(3)
    box, around, inner = random_boxes((wanted > 0).any(0), 0.125)
    scores = method.network.scores(context[:1])[0][(..., *box)]
    torch.testing.assert_close(scores, method.network.scores(context[:1][(..., *around)], inner)[0])
    part = wanted[(..., *box)].long()
    each = F.cross_entropy(scores, part, reduction="none")
    weight = 0.1 + 0.9 * (part > 0)
    torch.testing.assert_close(mean, (each * weight).sum() / weight.sum())
    whole = (0.1 + 0.9 * (wanted > 0)).sum()
    torch.testing.assert_close(loss, (each * weight).sum() / (whole * part.numel() / wanted.numel()))
    torch.testing.assert_close(right, (scores.argmax(1) == part)[part > 0].float().mean())


def test_boxes_reach_every_cell_about_equally_often_and_hold_some_of_the_body():
    body = torch.zeros((8, 9, 7), dtype=torch.bool)
    seen = torch.zeros(body.shape)
    torch.manual_seed(0)
    body[:] = True
    for _ in range(3000):
        box, around, inner = random_boxes(body, 0.125)
        assert [s.stop - s.start for s in box] == [4, 4, 4]
        for n, b, a, i in zip(body.shape, box, around, inner, strict=True):
            assert a.start == max(0, b.start - 1) and a.stop == min(n, b.stop + 1)
            assert (a.start + i.start, a.start + i.stop) == (b.start, b.stop)
        seen[box] += 1
    assert seen.min() > 0.03 * 3000 and seen.max() < 10 * seen.min()
    body[:] = False
    body[0, 0, 0] = True
    hits = [bool(body[random_boxes(body, 0.125)[0]].any()) for _ in range(50)]
    assert np.mean(hits) > 0.15  # 0.05 at the first try, there are eight


def test_one_scan_at_a_time_can_be_learnt_from_and_a_batch_norm_of_one_is_refused(folder):
    plain = training_config(folder, small=True, steps=2, batch_size=1, seed=0)
    plain["dataset"]["repeats"], plain["train"]["epochs"] = 1, 1
    train(Config.from_dict(plain), log_dir=folder.parent, exp_name="one", device="cpu")
    for network in ("deeplab", "regression"):
        plain = training_config(folder, network=network, small=True, steps=2, batch_size=1, seed=0)
        plain["train"]["backbone"]["norm"] = "batch"
        with pytest.raises(InputError, match="batches of at least 2 scans; choose norm: group for 1"):
            train(Config.from_dict(plain), log_dir=folder.parent, exp_name=network, device="cpu")


@pytest.mark.parametrize(("network", "passes"), [("deeplab", 2), ("regression", 1)])
def test_a_training_finds_out_how_often_its_network_should_look(folder, monkeypatch, caplog, network, passes):
    monkeypatch.setattr("RegCore.slicreg.methods.best_passes", lambda *given: 2)
    plain = training_config(folder, network=network, small=True, steps=2, batch_size=2, seed=0)
    plain["dataset"]["repeats"], plain["train"]["epochs"] = 1, 1
    made = train(Config.from_dict(plain), log_dir=folder.parent, exp_name=f"{network}-looks", device="cpu")
    model = load_model(made.model).network
    assert int(model.passes) == passes

    def refuse(*given):
        raise InputError("it lies in one plane")

    monkeypatch.setattr("RegCore.slicreg.methods.best_passes", refuse)
    model.settle(batch(folder))
    assert int(model.passes) == passes and ("in one plane" in caplog.text) == (network == "deeplab")


def test_without_spread_nothing_is_changed_and_with_it_all_move_together(folder):
    given = batch(folder)
    still = together(0.0)(given, torch.Generator().manual_seed(0))
    for key, value in given.items():
        torch.testing.assert_close(still[key].to(value.dtype), value, atol=1e-4, rtol=0)
    moved = together(0.1, bending=0.05)(given, torch.Generator().manual_seed(0))
    again = together(0.1, bending=0.05)(given, torch.Generator().manual_seed(0))
    assert all(torch.equal(moved[key], again[key]) for key in moved)
    # the octant of a voxel follows from its place: both were pulled alike
    body = targets(moved["supervoxels"])[:, 0]
    octant = 1 + sum((moved["places"][:, d] > 0) * 2**d for d in range(3))
    sure = (body > 0) & (moved["places"].abs() > 0.2).all(1)
    assert sure.sum() > 30 and (octant == body)[sure].float().mean() > 0.97


def test_a_model_says_what_it_needs(folder):
    plain = config(folder)
    plain["train"]["backbone"]["layers"] = 3
    with pytest.raises(InputError, match="has 3 layers of 9 classes, but the scans were prepared with 2"):
        train(Config.from_dict(plain), log_dir=folder.parent, exp_name="other", device="cpu")
    new = build(config(folder), (16,) * 3, (16,) * 3, False).network
    with pytest.raises(InputError, match="it was not trained"):
        register_scans(new, synthetic.ball(), synthetic.ball())
    for key, value, sentence in (
        ("wide", 2, "wide"),
        ("norm", "other", "norm is 'other'"),
        ("background", -1.0, "must not be negative"),
        ("share", 0.0, "share of the backbone is 0.0"),
    ):
        plain = config(folder)
        plain["train"]["backbone"][key] = value
        with pytest.raises(InputError, match=sentence):
            build(plain, (16,) * 3, (16,) * 3, False)
    plain = config(folder)
    plain["train"]["loss"] = {"image": {"name": "ssd"}}
    with pytest.raises(InputError, match="slicreg has its own"):
        Config.from_dict(plain)


def test_the_recipe_follows_from_the_folder(folder):
    plain = training_config(folder, steps=3000, batch_size=4)
    assert plain["train"]["backbone"]["layers"] == synthetic.LAYERS
    assert plain["train"]["backbone"]["classes"] == synthetic.COUNT + 1
    assert plain["train"]["preprocess"]["batch_size"] == 3  # no more than there are scans
    steps = plain["train"]["epochs"] * math.floor(plain["dataset"]["repeats"] * 3 / 3)
    assert abs(steps - 3000) < 30
    backbones = [
        training_config(folder, **options)["train"]["backbone"] for options in ({}, {"share": 0.125})
    ]
    assert [b["checkpointing"] for b in backbones] == [True, False]  # what the page measures
    small = training_config(folder, small=True)["train"]
    assert not small["backbone"]["checkpointing"] and small["backbone"]["dropout"] == 0
    other = {"network": "regression"}, {"network": "unet"}, {"batch_size": 1}
    rates = [
        training_config(folder, **options)["train"]["optimizer"]["learning_rate"]
        for options in ({}, {"small": True}, *({"small": True, **more} for more in other))
    ]
    assert rates == [0.004, 0.016, 0.016, 0.004, 0.004]  # with group norm, too, smaller steps are safe
    with pytest.raises(InputError, match="share goes with networks that tell supervoxels"):
        training_config(folder, network="regression", share=0.5)
    with pytest.raises(InputError, match="the network is 'vgg'"):
        training_config(folder, network="vgg")


def test_model_files_and_folders_of_earlier_versions_are_still_read(folder):
    plain = config(folder)
    plain["train"]["backbone"] |= {"literal": True}
    Config.from_dict(plain)
    network = build(plain, (16,) * 3, (16,) * 3, False).network
    assert network.as_published
    network.set_template(make_loader(plain["dataset"], "train"))
    state = network.state_dict()
    state["about"] = state.pop("metadata")
    fresh = build(plain, (16,) * 3, (16,) * 3, False).network
    fresh.load_state_dict(state)
    assert torch.equal(fresh.metadata, network.metadata) and fresh.modality == "ct"
    settings = folder / "settings.json"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace('"propagator"', '"teacher"'), encoding="utf-8")
    assert '"propagator"' in text and read_settings(folder)["propagator"] == "centres"
