"""Training in the child process: what it tells, how it stops and goes on, what it says of bad requests."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from RegCore.cli import failures, worker
from RegCore.io import messages
from RegCore.networks.model_file import read_content
from RegCore.space.geometry import InputError
from RegCore.training import presence
from RegCore.training.config import load_config
from Testing.RegCore.cli.test_worker import Child
from Testing.RegCore.training.runs import configuration, write_pairs

REAL = "from RegCore.cli import worker; raise SystemExit(worker.main())"
LONG = {"epochs": 1000, "save_period": 1000}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


@pytest.fixture(scope="module")
def child():
    """One worker for the tests of this file that leave it alive."""
    started = Child(REAL)
    yield started
    started.process.kill()
    started.process.wait()
    for pipe in (started.process.stdin, started.process.stdout, started.process.stderr):
        pipe.close()


def ask(child: Child, number: int, folder: Path, **arguments) -> None:
    arguments = {"folder": str(folder / "run"), "device": "cpu"} | arguments
    child.events.clear()
    child.ask(number, "train", folder / f"request{number}", arguments)


def closings(child: Child) -> list[dict]:
    """The figures of the events that close an epoch."""
    progress = [event for event in child.events if event["event"] == "progress"]
    return [event["values"] for event in progress if event["stage"].endswith(("validated", "epoch done"))]


def stopped(child: Child, number: int, folder: Path, config: dict) -> None:
    """A training that was cancelled after its second epoch."""
    ask(child, number, folder, config=config)
    while len(closings(child)) < 2:
        child.until("progress")
    child.send({"cancel": number})
    assert child.until("cancelled", "result", "error") == {"event": "cancelled", "id": number}


def test_every_epoch_is_told_with_its_figures_however_fast(child, pairs, tmp_path):
    config = configuration(pairs, epochs=6).to_dict()
    ask(child, 1, tmp_path, config=config)
    event = child.until("result", "error")
    assert event == {"event": "result", "id": 1}, event
    told = closings(child)
    result = messages.read(tmp_path / "request1" / "result.npz")
    assert [row["epoch"] for row in told] == [1, 2, 3, 4, 5, 6]
    for row, kept in zip(told, result["history"], strict=True):
        assert {**row, "epochs": 6} == {**kept, "epochs": 6, "seconds_left": row["seconds_left"]}
        assert row["val_loss"] and row["seconds_left"] >= 0
    steps = [e for e in child.events if e["event"] == "progress" and e["stage"].endswith("training")]
    assert all({"epoch", "epochs", "loss", "seconds_left"} <= set(event["values"]) for event in steps)
    assert result["folder"] == str(tmp_path / "run") and result["method"] == "ddf"
    assert result["model"] == str(tmp_path / "run" / "save" / "best.pt")
    assert result["ended"] == "finished"
    assert load_config(tmp_path / "run" / "config.yaml").to_dict() == config


def test_stopping_keeps_a_checkpoint_from_which_the_next_request_goes_on(child, pairs, tmp_path):
    stopped(child, 1, tmp_path, configuration(pairs, **LONG).to_dict())
    state = read_content(tmp_path / "run" / "save" / "last.pt")["training"]["state"]
    assert state["position"]["epoch"] >= 2
    before = [row["epoch"] for row in state["history"]]
    ask(
        child,
        2,
        tmp_path,
        config=[str(tmp_path / "run" / "config.yaml")],
        resume=True,
        max_epochs=len(before) + 2,
    )
    assert child.until("result", "error")["event"] == "result"
    history = messages.read(tmp_path / "request2" / "result.npz")["history"]
    assert history[: len(before)] == state["history"]
    assert [row["epoch"] for row in closings(child)] == [len(before) + 1, len(before) + 2]


def test_a_training_that_stays_goes_on_when_its_parent_is_gone(pairs, tmp_path):
    """It prints all the while, as a library may: nobody reads it, and that is no error."""
    (tmp_path / "chatty.py").write_text(
        "import RegCore.training.loop as loop\n"
        "step = loop._step\n"
        "loop._step = lambda *given: print('chatter' * 10_000, flush=True) or step(*given)\n"
    )
    child = Child(REAL)
    plugins = [str(tmp_path / "chatty.py")]
    arguments = {"folder": str(tmp_path / "run"), "device": "cpu", "plugins": plugins, "max_epochs": 40}
    arguments["config"] = configuration(pairs, **LONG).to_dict()
    folder = tmp_path / "request"
    folder.mkdir()
    messages.write(folder / "request.npz", arguments)
    child.send({"id": 1, "command": "train", "folder": str(folder), "stays": True})
    listener = subprocess.Popen(["cat"], stdin=child.process.stderr, stdout=subprocess.DEVNULL)
    while not closings(child):
        child.until("progress")
    for pipe in (child.process.stdout, child.process.stderr, child.process.stdin):
        pipe.close()
    listener.kill()
    listener.wait()
    shutil.rmtree(folder)  # as whoever asked, or the next Slicer, does
    assert presence.seen(tmp_path / "run") is not None
    child.process.wait(timeout=100)
    assert presence.ended(tmp_path / "run") == "finished"
    state = read_content(tmp_path / "run" / "save" / "last.pt")["training"]["state"]
    assert state["position"]["epoch"] == 40


def test_a_training_whose_parent_is_gone_ends_by_itself_with_a_checkpoint(pairs, tmp_path):
    child = Child(REAL)
    ask(child, 1, tmp_path, config=configuration(pairs, **LONG).to_dict())
    while not closings(child):
        child.until("progress")
    started = time.monotonic()
    for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
        pipe.close()
    child.process.wait(timeout=20)
    assert time.monotonic() - started < worker.GRACES["train"]
    assert read_content(tmp_path / "run" / "save" / "last.pt")["training"]["state"]["position"]["epoch"] >= 1


def test_folders_are_looked_for_near_the_file(child, pairs, tmp_path):
    """As DeepReg's demos have it: paths from the top of a repository, the YAML file deep in it."""
    values = configuration(pairs, epochs=1).to_dict()
    values["dataset"]["train"]["dir"] = [pairs.name]
    values["dataset"]["valid"]["dir"] = pairs.name
    deep = pairs.parent / "config" / "test"
    deep.mkdir(parents=True)
    (deep / "data.yaml").write_text(yaml.safe_dump({"dataset": values["dataset"]}))
    (tmp_path / "rest.yaml").write_text(yaml.safe_dump({"train": values["train"]}))
    ask(child, 1, tmp_path, config=[str(deep / "data.yaml"), str(tmp_path / "rest.yaml")])
    event = child.until("result", "error")
    assert event["event"] == "result", event
    used = load_config(tmp_path / "run" / "config.yaml").dataset
    assert (used.train.dir, used.valid.dir) == ((str(pairs),), str(pairs))


def test_bad_configurations_are_one_sentence_and_leave_no_folder(child, pairs, tmp_path):
    wrong = configuration(pairs).to_dict()
    wrong["train"]["epoch"] = wrong["train"].pop("epochs")
    ask(child, 1, tmp_path, config=wrong)
    event = child.until("error")
    assert event["kind"] == "input"
    assert event["message"] == "the form: train.epoch is 3, but there is no such key, did you mean epochs?"
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(wrong))
    ask(child, 2, tmp_path, config=[str(file)])
    assert child.until("error")["message"].startswith(f"{file}, line ")
    wrong = configuration(pairs).to_dict()
    wrong["dataset"]["train"]["dir"] = "nowhere/at/all"
    ask(child, 3, tmp_path, config=wrong)
    assert "there is no folder 'nowhere/at/all'" in child.until("error")["message"]
    ask(child, 4, tmp_path, config=[str(tmp_path / "run" / "config.yaml")], resume=True)
    assert "can't be read" in child.until("error")["message"]
    assert not (tmp_path / "run").exists()


def test_plugins_are_loaded_before_the_configuration(child, pairs, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("raise ValueError('from the plugin')")
    ask(child, 1, tmp_path, config=configuration(pairs).to_dict(), plugins=[str(plugin)])
    assert "from the plugin" in child.until("error")["message"]


def test_advice_about_memory_depends_on_what_was_asked_for():
    full = RuntimeError("CUDA out of memory")
    assert "a smaller image size, batch or network" in failures.describe(full, "train")["message"]
    assert "crop or resample" in failures.describe(full)["message"]
    assert failures.describe(InputError("x"), "train")["message"] == "x"
