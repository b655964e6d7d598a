"""How many steps an epoch has, what is left over, and what is told of the way."""

import pytest
import torch

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
