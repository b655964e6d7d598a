"""The commands of the worker beside registering and training, against SimpleITK and what they wrote."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import RegCore
from RegCore.cli import tasks, worker
from RegCore.progress import Cancelled, silent
from RegCore.space.geometry import Geometry, InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Volume

SHAPES = {"fixed_shape": (24, 20, 18), "moving_shape": (22, 21, 20)}


@pytest.fixture(scope="module")
def pair():
    return RegCore.make_phantom(**SHAPES)


@pytest.mark.parametrize("shift", [0.0, 5.0, 100.0])
def test_the_share_that_maps_outside(shift):
    fixed = Volume(np.zeros((10, 8, 6), np.float32), Geometry((10, 8, 6), np.eye(4)), "image")
    matrix = np.eye(4)
    matrix[0, 3] = shift
    share = tasks.outside(AffineTransform(matrix), fixed.geometry, fixed)
    assert share == pytest.approx(min(shift * 10, 100))


def test_a_registration_tells_of_structures_and_landmarks(pair):
    request = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "fixed_labels": pair.fixed_labels,
        "moving_labels": pair.moving_labels,
        "landmarks": pair.landmarks,
        "method": "rigid",
        "device": "cpu",
    }
    found = worker.register_command(request, silent)
    for label, figures in found["structures"].items():
        for when in ("before", "after"):
            assert figures["dice"][when] == pytest.approx(found["metrics"]["dice"][when][label], nan_ok=True)
    errors = found["landmark_errors"]
    assert np.mean(errors["after"]) == pytest.approx(found["metrics"]["tre_mm"]["after"])
    distances = np.linalg.norm(pair.landmarks[:, :3] - pair.landmarks[:, 3:], axis=1)
    assert np.allclose(errors["before"], distances)
    assert 0 <= found["outside"] < 60
    alone = worker.register_command({k: request[k] for k in ("fixed", "moving", "method", "device")}, silent)
    assert alone["structures"] is None and alone["landmark_errors"] is None


def test_a_report_is_a_page_as_png_and_pdf(pair, tmp_path):
    request = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "fixed_labels": pair.fixed_labels,
        "moving_labels": pair.moving_labels,
        "transform": AffineTransform.identity(),
        "title": "M to F",
        "tables": [["Figures", [["", "before", "after"], ["NCC", "0.1", "0.9"]]]],
        "notes": ["No figure improved."],
        "path": str(tmp_path / "M to F"),
        "metrics": {"ncc": {"before": 0.1, "after": 0.9}},
        "method": "rigid",
        "seconds": 1.0,
    }
    files = tasks.report_command(request, silent)["files"]
    assert files == [str(tmp_path / "M to F.png"), str(tmp_path / "M to F.pdf")]
    page = np.asarray(Image.open(files[0]))
    assert page.shape == (2339, 1654, 3) and page[200:900].std() > 20
    assert (tmp_path / "M to F.pdf").read_bytes().startswith(b"%PDF")


def test_pairs_become_a_data_set_that_a_training_reads(pair, tmp_path):
    volumes = {
        "fixed": pair.fixed,
        "moving": pair.moving,
        "fixed_labels": pair.fixed_labels,
        "moving_labels": pair.moving_labels,
    }
    for name in ("a", "b"):
        tasks.pair_command({"folder": str(tmp_path), "name": name, **volumes}, silent)
    from RegCore.training.presets import TrainingPreset, inspect_dataset

    found = inspect_dataset(tmp_path)
    assert (found.kind, found.labeled, found.count) == ("paired", True, 2)
    back = RegCore.load(tmp_path / "moving_images" / "b.nii.gz", "image")
    assert back.geometry.is_close(pair.moving.geometry) and np.array_equal(back.array, pair.moving.array)
    config = RegCore.Config.from_dict(TrainingPreset.for_folder(str(tmp_path)).configuration(), "x")
    loader = RegCore.make_loader(config.to_dict()["dataset"], "train")
    assert len(loader) == 2
    labels = RegCore.load(tmp_path / "fixed_labels" / "a.nii.gz", "labels").array
    assert labels.shape == (24, 20, 18, 9)
    assert all(np.array_equal(labels[..., n] == 1, pair.fixed_labels.array == n + 1) for n in range(9))
    with pytest.raises(InputError, match="a pair of this name is in the data set already"):
        tasks.pair_command({"folder": str(tmp_path), "name": "a", **volumes}, silent)
    bare = {name: volumes[name] for name in ("fixed", "moving")}
    with pytest.raises(InputError, match="come with segmentations, this one without them"):
        tasks.pair_command({"folder": str(tmp_path), "name": "c", **bare}, silent)
    assert inspect_dataset(tmp_path).count == 2


def test_a_pair_that_is_cancelled_leaves_nothing(pair, tmp_path):
    def stop(fraction, stage, values):
        if fraction > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        tasks.pair_command(
            {"folder": str(tmp_path), "name": "a", "fixed": pair.fixed, "moving": pair.moving}, stop
        )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_are_registered_into_a_folder(pair, tmp_path):
    paths = {}
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        paths[name] = str(tmp_path / f"{name}.nii.gz")
        RegCore.save(getattr(pair, name), paths[name])
    options = {"method": "rigid", "settings": None, "device": "cpu", "seed": 0}
    found = tasks.files_command({**paths, **options, "out": str(tmp_path / "out")}, silent)
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"transform.h5", "warped.nii.gz", "warped_seg.nii.gz", "metrics.json"} <= there
    same = worker.register_command(
        {name: RegCore.load(paths[name], "image") for name in ("fixed", "moving")}
        | {name: RegCore.load(paths[name], "labels") for name in ("fixed_labels", "moving_labels")}
        | {"method": "rigid", "device": "cpu"},
        silent,
    )
    assert found["metrics"]["dice_mean"] == same["metrics"]["dice_mean"]
    wanted = {"displacement": True, "inverse": True, "interpolation": "nearest", "fill": -7.0}
    more = {"initial": "moments", "wanted": wanted, "out": str(tmp_path / "more")}
    found = tasks.files_command({**paths, **options, **more}, silent)
    assert sorted(Path(file).name for file in found["files"]) == sorted({*there, "displacement.nii.gz"})
    transform, grid = RegCore.load(tmp_path / "more" / "transform.h5"), pair.fixed.geometry
    lengths = np.linalg.norm(transform.map(grid.world_grid()) - grid.world_grid(), axis=-1)
    written = RegCore.load(tmp_path / "more" / "displacement.nii.gz", "image")
    np.testing.assert_allclose(written.array, lengths, atol=1e-3)
    nearest = RegCore.warp(pair.moving, transform, grid, interpolation="nearest", fill=-7.0)
    warped = RegCore.load(tmp_path / "more" / "warped.nii.gz", "image")
    np.testing.assert_array_equal(warped.array, nearest.array)
    with pytest.raises(InputError, match="nothing.nii.gz"):
        paths["moving"] = str(tmp_path / "nothing.nii.gz")
        tasks.files_command({**paths, **options, "out": str(tmp_path / "bad")}, silent)
    assert not (tmp_path / "bad").exists()


def test_a_model_tells_what_it_is_and_a_copy_keeps_its_notes(tmp_path):
    from RegCore.networks.model_file import build
    from RegCore.training.presets import TrainingPreset

    config = TrainingPreset(train="data", network="unet", size=(8, 8, 8), channels=2).configuration()
    RegCore.save_model(tmp_path / "a.pt", build(config, (8, 8, 8), (8, 8, 8), labeled=True))
    card = tasks.model_command({"path": str(tmp_path / "a.pt")}, silent)
    model = RegCore.load_model(tmp_path / "a.pt")
    assert (card["network"], card["method"], card["fixed_size"]) == ("unet", "dvf", [8, 8, 8])
    assert card["labeled"] and card["data"] == "data" and card["notes"] == "" and card["spacing"] == {}
    assert card["weights"] >= sum(p.numel() for p in model.network.parameters()) > 100
    copy = {"path": str(tmp_path / "a.pt"), "to": str(tmp_path / "new" / "b.pt"), "notes": "CC BY 4.0"}
    tasks.model_command(copy, silent)
    assert tasks.model_command({"path": copy["to"]}, silent) == {**card, "notes": "CC BY 4.0"}
    known = {"spacing": {"fixed": [1.0, 1.5, 2.0], "moving": [1.0, 1.5, 2.5]}, "structures": ["liver", "ö"]}
    RegCore.save_model(tmp_path / "known.pt", replace(model, **known))
    assert tasks.model_command({"path": str(tmp_path / "known.pt")}, silent).items() >= known.items()
    assert RegCore.load_model(tmp_path / "known.pt").structures == known["structures"]
    theirs, ours = (RegCore.load_model(path).network.state_dict() for path in (copy["path"], copy["to"]))
    assert all(bool((theirs[name] == ours[name]).all()) for name in theirs)
    assert card["figures"] == ""
    table = "epoch,learning_rate,loss,val_loss,val_dice\n1,0.1,0.5,0.25,0.5\n2,0.1,0.125,0.75,\n"
    for text, expected in (
        (table, "epoch 1 of 2: loss 0.5, val_loss 0.25"),
        ("epoch,loss\n1,0.5\n2,0.25\n", "epoch 2 of 2: loss 0.25"),
        ("epoch,loss\n1,damaged\n", ""),
        ("epoch,loss\n", ""),
    ):
        (tmp_path / "run" / "save").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "metrics.csv").write_text(text)
        best = shutil.copy(copy["path"], tmp_path / "run" / "save" / "best.pt")
        assert tasks.model_command({"path": str(best)}, silent)["figures"] == expected
        tasks.model_command({"path": str(best), "to": str(tmp_path / "d.pt")}, silent)
        assert tasks.model_command({"path": str(tmp_path / "d.pt")}, silent)["figures"] == expected
    (tmp_path / "c.pt").write_text("no model")
    with pytest.raises(InputError, match=r"c\.pt: this is not a model file"):
        tasks.model_command({"path": str(tmp_path / "c.pt")}, silent)


def test_a_copy_of_a_model_that_can_not_be_written_is_said_with_its_path(tmp_path, monkeypatch):
    """PyTorch raises a RuntimeError of its own on a full disk."""
    from RegCore.networks import model_file

    backbone = {"name": "unet", "num_channel_initial": 2, "depth": 1}
    config = {"train": {"method": "ddf", "backbone": backbone}}
    model_file.save_model(tmp_path / "a.pt", model_file.build(config, (8, 8, 8), (8, 8, 8), labeled=False))
    (tmp_path / "file").write_text("")
    copy = {"path": str(tmp_path / "a.pt"), "to": str(tmp_path / "file" / "b.pt")}
    with pytest.raises(InputError, match="file: the folder can't be made"):
        tasks.model_command(copy, silent)

    def full(content, file):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672]")

    monkeypatch.setattr(model_file.torch, "save", full)
    with pytest.raises(InputError, match=r"b\.pt: can't be written \(No space left on device\)"):
        tasks.model_command({**copy, "to": str(tmp_path / "b.pt")}, silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "file"]
