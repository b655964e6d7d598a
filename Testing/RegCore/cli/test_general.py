"""``regcore train-general``: pairs made at random, a model that trains on them, and going on after a stop."""

import errno
import os

import numpy as np
import pytest
import torch

import RegCore
from RegCore.cli import main
from RegCore.networks.model_file import read_content, write_content
from RegCore.training import presence

SMALL = ("--pairs", "3", "--epochs", "2", "--size", "16", "--channels", "2", "--device", "cpu", "--quiet")


@pytest.fixture
def few_held_out(monkeypatch):
    monkeypatch.setattr("RegCore.cli.general.VALIDATION", 2)


def test_pairs_and_a_model_that_registers_and_can_begin_a_training(few_held_out, tmp_path):
    assert main(["train-general", "--out", str(tmp_path), *SMALL]) == 0
    home = tmp_path / "pairs" / "3-of-16-seed-0"
    names = sorted(path.name for path in (home / "train" / "fixed_images").iterdir())
    assert names == [f"case00000{n}.nii.gz" for n in range(3)]
    held_out = {path.name for path in (home / "valid" / "moving_labels").iterdir()}
    assert held_out == {"case1000000.nii.gz", "case1000001.nii.gz"}
    assert presence.ended(tmp_path / "model") == "finished"
    model = tmp_path / "model" / "save" / "best.pt"
    handed = read_content(tmp_path / "general.pt")
    assert {tensor.dtype for tensor in handed["state"].values()} <= {torch.float16, torch.int64}
    assert str(tmp_path) not in str({name: value for name, value in handed.items() if name != "state"})
    assert handed["notes"].startswith("Trained by regcore train-general on 3 pairs")
    assert "training" not in handed and handed["figures"].startswith("epoch ")
    pair = [
        RegCore.load(home / "valid" / f"{side}_images" / "case1000000.nii.gz") for side in ("fixed", "moving")
    ]
    done = RegCore.register(*pair, RegCore.load_model(model))
    assert done.warped.geometry.shape == (16, 16, 16) and done.metrics["fold_percent"] == 0
    small = RegCore.register(*pair, RegCore.load_model(tmp_path / "general.pt"))
    np.testing.assert_allclose(small.transform.mm, done.transform.mm, atol=0.1)
    assert np.abs(done.transform.mm).max() > 0.5
    start = tmp_path / "general.pt"
    words = ["train", "--data", home / "valid", "--start-from", start, "--out", tmp_path / "fine", *SMALL[2:]]
    words = [str(word) for word in words]
    words[words.index("--size") + 1 : words.index("--size") + 2] = ["16", "16", "16"]
    assert main(words) == 0


def test_it_goes_on_where_it_was_stopped(few_held_out, tmp_path, monkeypatch):
    command = ["train-general", "--out", str(tmp_path), *SMALL]
    made = []

    def stop(*given):
        made.append(given)
        if len(made) == 3:
            raise KeyboardInterrupt
        return write(*given)

    from RegCore.samples import datasets

    write = datasets.write_dataset
    monkeypatch.setattr(datasets, "write_dataset", stop)
    assert main(command) == 130
    monkeypatch.setattr(datasets, "write_dataset", lambda *given: made.append(given) or write(*given))
    assert main(command) == 0
    assert len(made) == 3 + 1 + 2 and not (tmp_path / "model-1").exists()  # each pair once
    first = read_content(tmp_path / "model" / "save" / "last.pt")
    assert len(first["training"]["state"]["history"]) == 2
    assert main(command) == 0  # nothing is left to do
    again = read_content(tmp_path / "model" / "save" / "last.pt")
    assert all(np.array_equal(first["state"][name], again["state"][name]) for name in first["state"])


def test_what_can_not_be_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train-general", "--out", str(tmp_path / "file"), *SMALL]) == 2
    assert "file" in capsys.readouterr().err
    assert main(["train-general", "--out", str(tmp_path), "--pairs", "0"]) == 2
    assert main(["train-general", "--out", str(tmp_path), "--size", "15"]) == 2
    assert "--size: a whole number of at least 16" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("--pairs", "4"), ("--seed", "7"), ("--size", "20"), ("--channels", "3")])
def test_a_model_of_other_pairs_or_channels_is_not_gone_on_with(few_held_out, tmp_path, capsys, other):
    assert main(["train-general", "--out", str(tmp_path), *SMALL]) == 0
    kept = (tmp_path / "model" / "save" / "last.pt").read_bytes()
    assert main(["train-general", "--out", str(tmp_path), *SMALL, *other]) == 2
    said = capsys.readouterr().err
    assert "2 channels and learns from the pairs 3-of-16-seed-0" in said and "another --out" in said
    assert len(list((tmp_path / "pairs").iterdir())) == 1  # told before any are made
    assert (tmp_path / "model" / "save" / "last.pt").read_bytes() == kept
    assert presence.ended(tmp_path / "model") == "finished"
    moved = tmp_path.with_name(f"{tmp_path.name} elsewhere")
    tmp_path.rename(moved)
    assert main(["train-general", "--out", str(moved), *SMALL, "--epochs", "3"]) == 0


def test_a_disk_that_is_full_when_the_model_is_handed_over_is_said(
    few_held_out, tmp_path, capsys, monkeypatch
):
    save = torch.save

    def full(content, file):
        if "notes" in content:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:  # as PyTorch does
                raise RuntimeError("[enforce fail at inline_container.cc:672]")
        save(content, file)

    monkeypatch.setattr(torch, "save", full)
    command = ["train-general", "--out", str(tmp_path), *SMALL]
    assert main(command) == 2
    assert "general.pt: can't be written (No space left on device)" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "pairs"]
    monkeypatch.undo()
    monkeypatch.setattr("RegCore.cli.general.VALIDATION", 2)
    assert main(command) == 0 and (tmp_path / "general.pt").is_file()


def test_a_training_that_is_stopped_says_that_the_same_command_goes_on(
    few_held_out, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("RegCore.training.presence.Presence.asked_to_stop", lambda self: True)
    command = ["train-general", "--out", str(tmp_path), *SMALL]
    assert main(command) == 130
    assert "stopped after a checkpoint; go on with: the same command" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr("RegCore.cli.general.VALIDATION", 2)
    assert main(command) == 0 and (tmp_path / "general.pt").is_file()


def test_what_is_too_large_for_half_precision_is_handed_over_as_it_is(few_held_out, tmp_path):
    """Variances of batch normalisation, say, which know no bound."""
    command = ["train-general", "--out", str(tmp_path), *SMALL]
    assert main(command) == 0
    best = tmp_path / "model" / "save" / "best.pt"
    content = read_content(best)
    name = next(name for name in content["state"] if name.endswith("running_var"))
    content["state"][name][:] = 1e6
    write_content(best, content)
    assert main(command) == 0
    state = read_content(tmp_path / "general.pt")["state"]
    assert state[name].dtype == torch.float32 and (state[name] == 1e6).all()
    assert {x.dtype for key, x in state.items() if x.is_floating_point() and key != name} == {torch.float16}
