"""Training: it learns, goes on after any interruption as if there had been none, and loses nothing."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from RegCore.networks.model_file import read_model
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.training import checkpoint_at, train
from RegCore.training.config import load_config
from Testing.RegCore.training.runs import configuration, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_model(path).network.state_dict()


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(configuration(pairs), log_dir=tmp_path_factory.mktemp("logs"), exp_name="whole")


def test_a_run_leaves_its_configuration_figures_checkpoints_and_best_model(whole):
    names = {path.relative_to(whole.folder).as_posix() for path in whole.folder.rglob("*") if path.is_file()}
    names = {name for name in names if "tfevents" not in name}
    saved = {f"save/{name}.pt" for name in ("ckpt-2", "ckpt-3", "last", "best")}
    pictures = {"validation.png", *(f"pictures/epoch-{n}.png" for n in (1, 2, 3))}
    assert names == {".ended", "config.yaml", "metrics.csv", *saved, *pictures}
    assert load_config(whole.folder / "config.yaml").train.epochs == 3
    rows = list(csv.DictReader((whole.folder / "metrics.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert rows[-1]["loss/label_DiceScoreLoss"] and rows[-1]["val_loss"]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    assert same(whole.folder / "save" / "ckpt-3.pt", whole.folder / "save" / "last.pt")
    best = min(range(3), key=lambda i: whole.history[i]["val_loss"])
    if best == 2:
        assert same(whole.model, whole.folder / "save" / "last.pt")


class StopAt:
    """A progress that stops after so many steps, or reports of another kind."""

    def __init__(self, steps: int, kind: str = "training"):
        self.left, self.kind = steps, kind

    def __call__(self, fraction, text, values):
        if self.kind in text:
            self.left -= 1
            if self.left == 0:
                raise Cancelled


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_run_stopped_anywhere_and_resumed_has_the_weights_of_one_that_was_not(
    pairs, whole, tmp_path, steps
):
    config = configuration(pairs)
    with pytest.raises(Cancelled):
        train(config, log_dir=tmp_path, exp_name="run", progress=StopAt(steps))
    config = load_config(tmp_path / "run" / "config.yaml")
    resumed = train(config, log_dir=tmp_path, exp_name="run", resume=True)
    assert same(resumed.folder / "save" / "last.pt", whole.folder / "save" / "last.pt")
    assert resumed.history == whole.history


def test_a_run_stopped_between_two_epochs_keeps_the_one_that_is_done(pairs, whole, tmp_path):
    """Also where no checkpoint was due after that epoch."""
    config = configuration(pairs)
    with pytest.raises(Cancelled):
        train(config, log_dir=tmp_path, exp_name="run", progress=StopAt(1, "validated"))
    seen = []
    progress = lambda fraction, text, values: seen.append(text)  # noqa: E731
    resumed = train(config, log_dir=tmp_path, exp_name="run", resume=True, progress=progress)
    assert seen[0] == "epoch 2 of 3: training"
    assert same(resumed.folder / "save" / "last.pt", whole.folder / "save" / "last.pt")


KILLED = """
import sys
from RegCore.training.config import load_config
from RegCore.training import train
folder, resume = sys.argv[1:]
train(load_config(folder + "/wanted.yaml"), log_dir=folder, exp_name="run", resume=resume == "yes")
"""


def test_a_run_killed_without_warning_and_resumed_has_the_same_weights(pairs, whole, tmp_path):
    """SIGKILL as soon as the first checkpoint of the start, and again a little later."""
    (tmp_path / "wanted.yaml").write_text(yaml.safe_dump(configuration(pairs).to_dict()))
    last = tmp_path / "run" / "save" / "last.pt"
    for attempt, delay in enumerate((0.0, 0.15, None)):
        resume = "yes" if attempt else "no"
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), resume])
        if delay is None:
            assert process.wait() == 0
            continue
        while not last.is_file() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert same(last, whole.folder / "save" / "last.pt")
    assert not list((tmp_path / "run").rglob("*.part"))


def test_several_batches_can_be_one_step(pairs, tmp_path):
    """Two batches of one sample make the step of one batch of two, but for what batch normalisation sees."""
    made = []
    for batch, accumulate in ((2, 1), (1, 2)):
        preprocess = {"batch_size": batch, "shuffle_buffer_num_batch": 0, "data_augmentation": None}
        backbone = {"name": "unet", "num_channel_initial": 2, "depth": 2, "norm_name": "layer"}
        config = configuration(
            pairs, preprocess=preprocess, accumulate=accumulate, epochs=1, backbone=backbone, valid=False
        )
        run = train(config, log_dir=tmp_path, exp_name=f"{batch}", max_epochs=1)
        made.append(weights(run.folder / "save" / "ckpt-1.pt"))
    for key, value in made[0].items():
        torch.testing.assert_close(value, made[1][key], rtol=1e-3, atol=1e-3)


def test_an_earlier_run_of_the_name_is_moved_aside(pairs, tmp_path):
    config = configuration(pairs, epochs=1)
    first = train(config, log_dir=tmp_path, exp_name="run")
    kept = (first.folder / "save" / "last.pt").read_bytes()
    train(config, log_dir=tmp_path, exp_name="run")
    assert (tmp_path / "run-1" / "save" / "last.pt").read_bytes() == kept
    assert (tmp_path / "run" / "save" / "last.pt").is_file()


def test_a_folder_of_other_things_is_never_moved(pairs, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("dear")
    with pytest.raises(InputError, match="thesis: this folder holds other files than"):
        train(configuration(pairs), log_dir=tmp_path, exp_name="thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "dear"


def test_a_run_can_begin_with_a_checkpoint_of_another(pairs, whole, tmp_path):
    """As DeepReg's --ckpt_path: the epoch of the checkpoint is where it goes on."""
    config = configuration(pairs, optimizer={"name": "Adam", "learning_rate": 0.001})
    run = train(config, log_dir=tmp_path, exp_name="more", start_from=whole.folder / "save" / "ckpt-2")
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.history[:2] == whole.history[:2]
    assert run.history[2]["learning_rate"] == 0.001
    best = train(config, log_dir=tmp_path, exp_name="best", start_from=whole.model, max_epochs=1)
    assert len(best.history) == 1  # a model alone knows of no epochs


def test_training_ends_early_when_validation_stops_gaining(pairs, tmp_path):
    config = configuration(
        pairs, epochs=20, early_stopping={"patience": 1, "min_delta": 10.0}, optimizer={"name": "SGD"}
    )
    run = train(config, log_dir=tmp_path, exp_name="run")
    assert run.ended == "stopped early" and len(run.history) == 2
    assert (run.folder / "save" / "ckpt-2.pt").is_file()


def test_the_learning_rate_follows_its_schedule(pairs, tmp_path):
    schedule = {"name": "step", "every": 1, "factor": 0.5}
    run = train(
        configuration(pairs, learning_rate_schedule=schedule), log_dir=tmp_path, exp_name="run", max_epochs=3
    )
    assert [row["learning_rate"] for row in run.history] == [0.01, 0.005, 0.0025]


def test_a_trial_of_fewer_epochs_has_the_learning_rates_of_the_whole(pairs, whole, tmp_path):
    config = configuration(pairs, learning_rate_schedule={"name": "cosine"}, epochs=100)
    run = train(config, log_dir=tmp_path, exp_name="run", max_epochs=1)
    assert run.history[0]["learning_rate"] > 0.0099


@pytest.mark.parametrize("wish", ["auto", "bf16"])
def test_bfloat16_learns_too_and_is_kept_by_the_checkpoint(pairs, tmp_path, wish):
    run = train(configuration(pairs, mixed_precision=wish), log_dir=tmp_path, exp_name="run")
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]
    state = torch.load(run.folder / "save" / "last.pt", weights_only=True)["training"]["state"]
    assert state["bf16"] in ([True] if wish == "bf16" else [True, False])
    kept = [read_model(run.folder / "save" / f"{name}.pt").bf16 for name in ("last", "best")]
    assert kept == [state["bf16"]] * 2


def test_what_can_not_be_used_is_said_in_one_sentence(pairs, whole, tmp_path):
    config = configuration(pairs)
    with pytest.raises(InputError, match="no interrupted training here, last.pt is missing"):
        train(config, log_dir=tmp_path, exp_name="nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(InputError, match="ckpt-9: there is no such checkpoint, neither ckpt-9.pt nor"):
        train(config, log_dir=tmp_path, exp_name="run", start_from=tmp_path / "ckpt-9")
    other = configuration(pairs, backbone={"name": "unet", "num_channel_initial": 4, "depth": 2})
    with pytest.raises(InputError, match="weights do not fit the network of the configuration"):
        train(other, log_dir=tmp_path, exp_name="run", start_from=whole.model)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder for the training can't be made"):
        train(config, log_dir=tmp_path / "file", exp_name="run")
    assert checkpoint_at(whole.folder / "save" / "ckpt-2") == whole.folder / "save" / "ckpt-2.pt"


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_last_checkpoint(pairs, tmp_path):
    config = configuration(pairs, optimizer={"name": "SGD", "learning_rate": 1e30})
    with pytest.raises(InputError, match="the loss of epoch 1 is not finite.*smaller learning_rate"):
        train(config, log_dir=tmp_path, exp_name="run")
    assert read_model(tmp_path / "run" / "save" / "last.pt")


TWO = """
import sys, torch
torch.set_num_threads(1)
from RegCore.training.config import load_config
from RegCore.training import train
train(load_config(sys.argv[1]), log_dir=sys.argv[2], exp_name="run", device="cpu")
"""


def test_two_processes_do_what_one_does_with_the_whole_batch(pairs, tmp_path):
    """Started by torchrun; loss and weights after an epoch agree."""
    made = {}
    for size in (1, 2):
        preprocess = {"batch_size": 4 // size, "shuffle_buffer_num_batch": 0}
        preprocess["data_augmentation"] = {"name": "affine"}
        config = configuration(
            pairs, preprocess=preprocess, epochs=2, optimizer={"name": "SGD", "learning_rate": 0.05}
        )
        (tmp_path / f"{size}.yaml").write_text(yaml.safe_dump(config.to_dict()))
        (tmp_path / "two.py").write_text(TWO)
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(size), "--standalone"]
        command = [
            *start,
            str(tmp_path / "two.py"),
            str(tmp_path / f"{size}.yaml"),
            str(tmp_path / f"l{size}"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tmp_path / f"l{size}" / "run"
        made[size] = (
            list(csv.DictReader((folder / "metrics.csv").open())),
            weights(folder / "save" / "last.pt"),
        )
    (rows, one), (other_rows, two) = made[1], made[2]
    for row, other in zip(rows, other_rows, strict=True):
        for key in ("loss", "val_loss", "metric/TRE"):
            assert float(row[key]) == pytest.approx(float(other[key]), rel=1e-4, abs=1e-5)
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-3, atol=1e-4)
