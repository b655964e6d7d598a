"""How many steps an epoch has, what is left over, and what is told of the way."""

import numpy as np
import pytest
import torch
from torch import nn

from RegCore.networks.architectures import NETWORKS
from RegCore.networks.model_file import read_model
from RegCore.space.geometry import InputError
from RegCore.training.loop import train
from Testing.RegCore.training.runs import configuration, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, count=5)
    return folder


def trained(folder, out, batch_size: int, accumulate: int, epochs: int = 2):
    """A training on five pairs without validation: the history, steps done, and the events told."""
    told = []
    preprocess = {"batch_size": batch_size, "shuffle_buffer_num_batch": 1}
    config = configuration(
        folder, valid=False, preprocess=preprocess, accumulate=accumulate, epochs=epochs, save_period=1
    )
    run = train(config, log_dir=out, exp_name="run", progress=lambda *event: told.append(event))
    state = torch.load(run.folder / "save" / "last.pt", weights_only=True)["training"]["state"]
    return run.history, state["position"], told


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "steps"),
    [
        (1, 1, 5),
        (1, 2, 2),  # the fifth is left over
        (1, 7, 1),  # fewer than are to be added up: all there is
        (2, 1, 2),
        (2, 2, 1),
        (5, 1, 1),
        (9, 1, 1),
    ],
)
def test_an_epoch_has_so_many_steps(pairs, tmp_path, batch_size, accumulate, steps):
    history, place, told = trained(pairs, tmp_path, batch_size, accumulate)
    assert place == {"epoch": 2, "sample": 0, "steps": 2 * steps}
    assert [row["epoch"] for row in history] == [1, 2]
    training = [(fraction, text) for fraction, text, _ in told if text.endswith(": training")]
    assert [text for _, text in training] == [
        f"epoch {n} of 2: training" for n in (1, 2) for _ in range(steps)
    ]
    seen = min(batch_size * accumulate, 5)  # samples of a step
    of_all = 5 if batch_size in (1, 5, 9) else 4  # what batches of two leave over is dropped
    expected = [(epoch + min(n * seen / of_all, 1)) / 2 for epoch in (0, 1) for n in range(1, steps + 1)]
    assert [fraction for fraction, _ in training] == pytest.approx(expected)
    done = [fraction for fraction, text, _ in told if text.endswith(": epoch done")]
    assert done == pytest.approx([0.5, 1.0])


def test_what_is_told_of_an_epoch_is_its_row(pairs, tmp_path):
    history, _, told = trained(pairs, tmp_path, 2, 1, epochs=1)
    ((_, text, values),) = [event for event in told if event[1].endswith("epoch done")]
    assert text == "epoch 1 of 1: epoch done" and (values["epoch"], values["epochs"]) == (1, 1)
    assert values["loss"] == history[0]["loss"] and values["seconds_left"] == 0


class Overflowing(nn.Module):
    """A small network whose numbers, or whose gradient, are too large for half precision in one call."""

    where, in_float32, calls = "step", False, 0

    def __init__(self, image_size, *, in_channels=2, out_channels=3):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm3d(2), nn.Conv3d(2, 3, 3, padding=1)

    def forward(self, images):
        half = torch.is_autocast_enabled("cpu")
        Overflowing.calls += self.training
        call = {"step": 2, "gradient": 2, "statistics": 3}.get(self.where)  # two steps, then the statistics
        now = self.calls == call if self.training else self.where == "validation"
        factor = float("inf") if now and (half or self.in_float32) else 1.0
        if self.where == "gradient":
            images = self.norm(images)
            if factor != 1.0:
                images.register_hook(lambda gradient: gradient * factor)
            return self.layer(images).float()
        return self.layer(self.norm(images * factor)).float()


@pytest.fixture
def overflowing(monkeypatch, pairs, tmp_path):
    """Trains it on four pairs in two steps an epoch, in bfloat16, and gives the run and the state kept."""
    monkeypatch.setitem(NETWORKS, "overflowing", Overflowing)

    def run(where: str, in_float32: bool = False, **train_keys):
        monkeypatch.setattr(Overflowing, "where", where)
        monkeypatch.setattr(Overflowing, "in_float32", in_float32)
        monkeypatch.setattr(Overflowing, "calls", 0)
        keys = {"backbone": {"name": "overflowing"}, "mixed_precision": "bf16", "epochs": 3, **train_keys}
        done = train(configuration(pairs, **keys), log_dir=tmp_path, exp_name="run", device="cpu")
        kept = torch.load(done.folder / "save" / "last.pt", weights_only=True)
        return done, kept

    return run


@pytest.mark.parametrize("where", ["step", "gradient"])
def test_a_step_that_overflows_in_bfloat16_is_done_in_float32(overflowing, caplog, where):
    done, kept = overflowing(where)
    assert done.ended == "finished" and all(np.isfinite(row["val_loss"]) for row in done.history)
    assert all(value.isfinite().all() for value in kept["state"].values())
    assert kept["training"]["state"]["bf16"] is False
    assert caplog.text.count("epoch 1: bfloat16 overflows; from here on float32 is used") == 1


@pytest.mark.parametrize("where", ["validation", "statistics"])
def test_what_overflows_in_bfloat16_after_the_steps_is_done_in_float32(overflowing, where):
    done, kept = overflowing(where)
    assert all(np.isfinite(row["val_loss"]) for row in done.history) and done.model.name == "best.pt"
    assert all(value.isfinite().all() for value in read_model(done.model).network.state_dict().values())
    assert kept["training"]["state"]["bf16"] is True


def test_a_gradient_that_is_not_finite_spoils_no_checkpoint(overflowing, tmp_path):
    """In the last step of an epoch, whose weights are kept: it was noticed in the next step alone."""
    with pytest.raises(InputError, match="the gradient of the loss of epoch 1 is not finite, so training"):
        overflowing("gradient", in_float32=True, mixed_precision="off")
    weights = read_model(tmp_path / "run" / "save" / "last.pt").network.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
