"""Small rules of a training: ranges, sentences, presets, sums, names of earlier folders, half precision."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

from RegCore import losses
from RegCore.space.geometry import InputError
from RegCore.training import predict, prepare, train
from RegCore.training.config import Config
from RegCore.training.history import best_epoch
from RegCore.training.precision import bf16_pays
from RegCore.training.presets import TrainingPreset
from RegCore.training.state import Position, RunningMeans, TrainingState
from Testing.RegCore.training.config.samples import GROUPED, PAIRED, changed
from Testing.RegCore.training.runs import configuration, write_pairs

SHARES = {
    "train.learning_rate_schedule": lambda value: {"name": "one_cycle", "rise": value},
    "dataset.intra_group_prob": lambda value: value,
}


@pytest.mark.parametrize(("key", "base"), [(key, GROUPED) for key in SHARES])
@pytest.mark.parametrize(("value", "fine"), [(0, True), (1, True), (1.01, False), (-0.01, False)])
def test_a_share_lies_from_0_to_1(key, base, value, fine):
    given = changed(key, SHARES[key](value), base)
    if fine:
        Config.from_dict(given)
        return
    with pytest.raises(InputError, match=f"is {value}, .*from 0 to 1"):
        Config.from_dict(given)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("train.epoch", "train.epoch is 3, but there is no such key, did you mean epochs?"),
        (
            "train.optimizer.learnig_rate",
            "train.optimizer.learnig_rate is 3, but the optimiser Adam has no such key,"
            " did you mean learning_rate?",
        ),
        ("dataset.epochs", "dataset.epochs is 3, but there is no such key, it belongs to train"),
    ],
)
def test_an_unknown_key_is_told_with_its_owner_and_the_nearest_or_its_home(key, sentence):
    with pytest.raises(InputError) as caught:
        Config.from_dict(changed(key, 3, PAIRED), "my.yaml")
    assert str(caught.value) == f"my.yaml: {sentence}"


@pytest.mark.parametrize("kind", ["paired", "unpaired", "grouped"])
def test_a_preset_says_what_its_fields_are_documented_to_be(tmp_path, kind):
    made = TrainingPreset(str(tmp_path), kind=kind).configuration()
    shapes = {key: value for key, value in made["dataset"].items() if key.endswith("shape")}
    expected = ["fixed_image_shape", "moving_image_shape"] if kind == "paired" else ["image_shape"]
    assert shapes == {key: [64, 64, 64] for key in expected}
    train = made["train"]
    assert (train["epochs"], train["save_period"], train["seed"]) == (100, 10, 0)
    assert train["optimizer"] == {"name": "Adam", "learning_rate": 0.004}
    assert train["learning_rate_schedule"] == {"name": "cosine", "warmup_epochs": 5}
    assert train["preprocess"]["batch_size"] == 1 and train["mixed_precision"] == "auto"
    assert train["preprocess"]["data_augmentation"] == {"name": "affine"}
    assert train["backbone"] == {
        "name": "unet",
        "num_channel_initial": 16,
        "depth": 3,
        "extract_levels": [1],
        "integration_scale": 0.5,
    }
    assert train["method"] == "dvf"
    assert train["loss"] == {
        "image": {"name": "lncc", "weight": 1.0},
        "label": {"name": "dice", "weight": 1.0, "scales": [0, 1, 2, 4]},
        "regularization": [{"name": "bending", "weight": 0.5}],
    }
    displaced = TrainingPreset(str(tmp_path), kind=kind, method="ddf").configuration()["train"]
    assert displaced["loss"]["regularization"] == [
        {"name": "bending", "weight": 0.5},
        {"name": "jacobian", "weight": 5.0},
    ]
    assert "integration_scale" not in displaced["backbone"]


def test_a_field_of_few_voxels_and_a_label_are_found_at_full_resolution(tmp_path):
    for network in ("unet", "local"):
        small = TrainingPreset(str(tmp_path), network=network, size=(40, 31, 40)).configuration()["train"]
        label = TrainingPreset(str(tmp_path), network=network, method="conditional").configuration()["train"]
        for section in (small, label):
            assert 0 in section["backbone"].get("extract_levels", [0])
            assert "integration_scale" not in section["backbone"]


def test_conditional_takes_labels_alone_and_weights_of_0_take_their_loss_out(tmp_path):
    conditional = TrainingPreset(str(tmp_path), method="conditional").configuration()["train"]["loss"]
    assert set(conditional) == {"label"}
    for left_out, name in (("image", "image"), ("label", "label"), ("smoothness", "regularization")):
        loss = TrainingPreset(str(tmp_path), **{f"{left_out}_weight": 0}).configuration()["train"]["loss"]
        assert set(loss) == {"image", "label", "regularization"} - {name}
    assert "label" not in TrainingPreset(str(tmp_path), labeled=False).configuration()["train"]["loss"]


def test_running_means_are_those_over_the_samples_that_have_a_figure():
    nan = math.nan
    parts = [
        {"loss": torch.tensor([1.0, 2.0]), "metric/a": torch.tensor([4.0, nan])},
        {"loss": torch.tensor([6.0]), "metric/a": torch.tensor([5.0]), "metric/b": torch.tensor([nan])},
    ]
    totals = RunningMeans.of(parts[0]).plus(RunningMeans.of(parts[1]))
    found = totals.values()
    assert found["loss"] == pytest.approx(3.0) and found["metric/a"] == pytest.approx(4.5)
    assert math.isnan(found["metric/b"]) and totals.counts == {"loss": 3, "metric/a": 2, "metric/b": 0}
    assert math.isnan(RunningMeans.of({"loss": torch.tensor([1.0, nan])}).values()["loss"])


def test_earlier_predictions_keep_everything_under_the_next_free_number(tmp_path, caplog):
    folder = tmp_path / "test"
    for text in "abcd":
        made = tmp_path / "made"
        made.mkdir()
        (made / "file").write_text(text)
        predict._put_in_place(made, folder)
    held = {path.name: (path / "file").read_text() for path in tmp_path.iterdir()}
    assert held == {"test": "d", "test-1": "a", "test-2": "b", "test-3": "c"}


@pytest.mark.parametrize("answer", [False, True])
def test_a_process_that_is_not_the_first_leaves_half_precision_to_it(answer):
    asked = []
    group = SimpleNamespace(first=False, any=lambda own: asked.append(own) or answer)
    train = SimpleNamespace(mixed_precision="auto")
    run = SimpleNamespace(group=group, config=SimpleNamespace(train=train))
    assert prepare._uses_bf16(run) is answer and asked == [False]


@pytest.mark.parametrize(("wish", "bf16"), [("bf16", True), ("off", False)])
def test_a_wish_for_half_precision_is_followed(wish, bf16):
    run = SimpleNamespace(config=SimpleNamespace(train=SimpleNamespace(mixed_precision=wish)))
    assert prepare._uses_bf16(run) is bf16


@pytest.mark.parametrize("faster", [True, False])
def test_only_work_decides_whether_half_precision_pays_and_not_waiting(faster):
    """On a shared machine the fast way can take longer by the clock on the wall."""

    def step(bf16: bool) -> None:
        if bf16 == faster:
            time.sleep(0.05)
            return
        began = time.process_time()
        while time.process_time() < began + 0.02:
            pass

    assert bf16_pays(torch.nn.Linear(1, 1), step) == faster


def test_an_epoch_whose_validation_is_not_finite_is_the_worst_and_later_ones_still_count(
    tmp_path, caplog, monkeypatch
):
    write_pairs(tmp_path / "pairs", count=2)
    told = []

    def unsound_at_first(fixed, moving):
        loss = (fixed - moving).square().mean((1, 2, 3, 4))
        first = told and not any(text.startswith("epoch 2") for text in told)
        return loss * (math.nan if first and not torch.is_grad_enabled() else 1)

    monkeypatch.setitem(losses.IMAGE_LOSSES, "unsound", unsound_at_first)
    loss = {"image": {"name": "unsound", "weight": 1.0}, "regularization": {"name": "bending", "weight": 0.1}}
    config = configuration(tmp_path / "pairs", labeled=False, loss=loss)
    done = train(
        config,
        log_dir=tmp_path,
        exp_name="run",
        device="cpu",
        workers=0,
        progress=lambda *event: told.append(event[1]),
    )
    values = [row["val_loss"] for row in done.history]
    assert math.isnan(values[0]) and done.best["val_loss"] == min(values[1:])
    assert done.model.name == "best.pt" and "epoch 1: val_loss is not finite" in caplog.text


def test_the_best_epoch_is_told_from_a_table_alike():
    rows = [
        {"epoch": n, "loss": 9 - n, "val_loss": v} for n, v in enumerate((math.nan, 0.4, 0.3, 0.3, math.inf))
    ]
    as_text = [{key: str(value) for key, value in row.items()} for row in rows]
    assert best_epoch(rows)["epoch"] == 3 and best_epoch(as_text)["epoch"] == "3"
    assert best_epoch([{**row, "val_loss": ""} for row in as_text])["epoch"] == "4"
    assert best_epoch([{"loss": 2.0}, {"loss": 0.0, "val_loss": 0.0}])["loss"] == 0.0
    assert best_epoch([]) is None


def test_a_state_is_read_back_also_by_the_names_of_older_checkpoints():
    state = TrainingState(
        7, Position(2, 5, 11), RunningMeans({"loss": 3.0}, {"loss": 2}), True, [{"loss": 1.5}]
    )
    values = state.to_dict()
    assert TrainingState.from_dict(values) == state
    older = {"position": "place", "means": "totals", "bf16": "half"}
    assert TrainingState.from_dict({older.get(name, name): value for name, value in values.items()}) == state
    with pytest.raises(InputError, match="the state of the training can't be read"):
        TrainingState.from_dict({"seed": 7})


def test_a_loss_of_both_directions_is_tried_on_two_fields_and_others_on_one(monkeypatch):
    """As `inverse-consistency` needs it; both may stand in one list."""
    both = changed("train.loss.regularization", [{"name": "inverse-consistency"}, {"name": "bending"}])
    config = Config.from_dict(both)
    assert [loss.name for loss in config.train.loss.regularization] == ["inverse-consistency", "bending"]
    tried = []
    monkeypatch.setitem(
        losses.BIDIRECTIONAL_LOSSES, "inverse-consistency", lambda *fields: tried.append(fields)
    )
    monkeypatch.setitem(losses.DEFORMATION_LOSSES, "bending", lambda *fields: tried.append(fields))
    Config.from_dict(both)
    shapes = [[tuple(field.shape[:2]) for field in fields] for fields in tried]
    assert shapes == [[(1, 3)] * 2, [(1, 3)]]
