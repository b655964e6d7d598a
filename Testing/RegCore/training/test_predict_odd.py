"""Prediction of what is odd: labels that were never drawn, intensities unlike those of the training."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from RegCore.cli import main
from RegCore.io import load, save
from RegCore.loaders.images import resized
from RegCore.networks.model_file import save_model
from RegCore.networks.models import MODELS
from RegCore.registration.learned import predicted_transform
from RegCore.registration.register import register
from RegCore.resampler import warp
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform
from RegCore.space.volume import Segment, Volume
from RegCore.training import train
from RegCore.training.config import Config
from RegCore.training.predict import predict
from Testing.RegCore.known_networks import MOVING_SIZE, known
from Testing.RegCore.training.sets import FIXED, MOVING, configuration, figures
from Testing.RegCore.training.test_predict import model_of, pairs, run

__all__ = ["known", "pairs"]


def test_an_empty_label_counts_nowhere_and_is_said(known, pairs, tmp_path, caplog):
    """The second structure of the first fixed image was never drawn: no figures, and not in the means."""
    done = run(configuration(pairs), tmp_path)
    for table, columns in (
        ("metrics", ("label_binary_dice", "label_tre")),
        ("metrics_mm", ("label_dice", "label_tre_mm")),
    ):
        rows = {(row["pair_index"], row["label_index"]): row for row in figures(done.folder / f"{table}.csv")}
        for key, row in rows.items():
            assert [bool(row[column]) for column in columns] == [key != ("[0]", "1")] * 2
    means = {row["label_index"]: row for row in figures(done.folder / "metrics_stats_per_label.csv")}
    (drawn,) = (row for row in done.metrics if row["pair_index"] == [1] and row["label_index"] == 1)
    assert float(means["1"]["label_binary_dice_mean"]) == pytest.approx(drawn["label_binary_dice"], rel=1e-6)
    assert (
        "labels that are empty in the fixed or the moving image count nowhere: 1 (pair_0, label 1)"
        in caplog.text
    )


def test_with_deepreg_an_empty_label_counts_as_there(known, pairs, tmp_path):
    config = configuration(pairs)
    values = config.to_dict()
    values["train"]["deepreg"] = True
    done = run(Config.from_dict(values), tmp_path)
    rows = {(tuple(row["pair_index"]), row["label_index"]): row for row in done.metrics}
    assert rows[(0,), 1]["label_binary_dice"] < 1e-3 and rows[(0,), 1]["label_tre"] >= 0


def test_the_model_keeps_intensities_and_says_what_is_unlike_them(pairs, tmp_path, caplog):
    """A model trained by percentiles: prediction uses them whatever its configuration says."""
    backbone = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    config = configuration(pairs, backbone=backbone, intensity={"name": "percentiles", "low": 10, "high": 90})
    trained = train(config, log_dir=tmp_path, exp_name="trained", max_epochs=1, device="cpu").model
    other = configuration(pairs, backbone=backbone)
    done = predict(trained, other, split="test", log_dir=tmp_path, exp_name="run", device="cpu")
    found = nibabel.load(done.folder / "pair_0" / "moving_image.nii.gz").get_fdata()
    image = nibabel.load(sorted((pairs / "moving_images").iterdir())[0]).get_fdata()
    low, high = np.percentile(image, [10, 90])
    wanted = resized(np.clip((image - low) / (high - low), 0, 1), MOVING_SIZE)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert "other intensities" not in caplog.text
    for path in (pairs / "moving_images").iterdir():
        image = nibabel.load(path)
        bright = image.get_fdata() > np.percentile(image.get_fdata(), 97)
        nibabel.save(nibabel.Nifti1Image(bright.astype(np.float32), image.affine), path)
    predict(trained, other, split="test", log_dir=tmp_path, exp_name="few", device="cpu")
    assert "pair_0: the moving image has other intensities than those of the training" in caplog.text


def untrained(config: Config):
    """A network of small random displacements, trained on axes like those of `write_blobs`."""
    model = replace(model_of(config), axes=(FIXED.axis_codes, MOVING.axis_codes))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def with_unknown(folder, value: float = np.nan) -> None:
    """A corner of every image, and a voxel within, have no value."""
    for path in folder.glob("*_images/*"):
        volume = load(path, "image")
        array = volume.array.copy()
        array[:3, :2], array[4, 4, 3] = value, value
        save(replace(volume, array=array), path)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dataset", [{}, {"space": "header"}, {"spacing": [2.0, 2.0, 2.0]}])
def test_voxels_without_a_value_are_background_as_in_a_registration(pairs, tmp_path, caplog, value, dataset):
    backbone = {"name": "unet", "num_channel_initial": 2, "depth": 1}
    config = configuration(pairs, backbone=backbone, skip_bad_files=True, **dataset)
    model = untrained(config)
    with_unknown(pairs, value)
    done = predict(model, config, split="test", log_dir=tmp_path, device="cpu")
    assert caplog.text.count("voxels that are NaN or infinite count as background") == 4  # one each
    fixed, moving = (load(pairs / f"{side}_images" / "obs0.nii.gz", "image") for side in ("fixed", "moving"))
    found = load(done.folder / "pair_0" / "transform.h5", "transform")
    points = fixed.geometry.world_grid()[2:-2, 2:-2, 2:-2]
    whole = register(fixed, moving, model, device="cpu")
    said = {"fixed": fixed, "moving": moving}
    text = "the {} volume: voxels that are NaN or infinite count as background: {}"
    counts = {side: np.count_nonzero(~np.isfinite(volume.array)) for side, volume in said.items()}
    assert whole.metrics["notes"] == [text.format(*item) for item in counts.items()]
    within = 0.2 if "space" in dataset else 1e-3  # there it is interpolated once more on the way
    np.testing.assert_allclose(found.map(points), whole.transform.map(points), atol=within)
    assert np.abs(found.map(points) - points).std() > 0.05
    if "space" not in dataset:  # where little of the moving image is seen
        warped = load(done.folder / "pair_0" / "warped.nii.gz", "image").array
        known = np.isfinite(warped) & np.isfinite(whole.warped.array)
        np.testing.assert_allclose(warped[known], whole.warped.array[known], atol=0.01)
        assert 0.2 < known.mean() < 1
    assert all(np.isfinite(row["image_ssd"]) for row in done.metrics)


def test_the_command_takes_them_and_a_training_does_not(pairs, tmp_path, capsys):
    backbone = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    config, path = configuration(pairs, backbone=backbone), tmp_path / "model.pt"
    save_model(path, model_of(config))
    config.dump(tmp_path / "config.yaml")
    with_unknown(pairs)
    command = ["predict", str(path), str(tmp_path / "config.yaml"), "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "obs1.nii.gz: voxels that are NaN or infinite count as background" in captured.err
    with pytest.raises(InputError, match=r"obs\d\.nii\.gz: all voxels must be finite"):
        train(config, log_dir=tmp_path, exp_name="run", max_epochs=1, device="cpu")
    moving = pairs / "moving_images" / "obs1.nii.gz"
    volume = load(moving, "image")
    save(replace(volume, array=np.full_like(volume.array, np.nan)), moving)
    assert main([*command, "--device", "cpu"]) == 2
    assert "obs1.nii.gz: all voxels are NaN or infinite" in capsys.readouterr().err


def test_a_network_that_saw_pairs_in_space_registers_them_so(known, pairs):
    """As if told to start from the identity in space; images that do not overlap lie box on box as before."""
    config = configuration(pairs)
    plain = model_of(config)
    in_space = replace(plain, config={**plain.config, "dataset": {"space": "header"}})
    rng = np.random.default_rng(0)
    fixed, moving = (Volume(rng.random(g.shape), g) for g in (FIXED, FIXED.cropped((2, 1, 0), FIXED.shape)))
    away = Volume(moving.array, moving.geometry.moved(np.eye(4) + 500 * np.eye(4, k=3)))
    points = FIXED.world_grid()[2:-2, 2:-2, 2:-2]
    found = predicted_transform(in_space, fixed, moving).map(points)
    start = AffineTransform(np.eye(4))
    np.testing.assert_allclose(found, predicted_transform(plain, fixed, moving, initial=start).map(points))
    assert np.abs(found - predicted_transform(plain, fixed, moving).map(points)).max() > 0.5
    laid = (predicted_transform(model, fixed, away).map(points) for model in (in_space, plain))
    np.testing.assert_array_equal(*laid)


@pytest.mark.parametrize("spacing", [None, [2.0, 2.0, 2.0]])
def test_a_network_that_saw_pairs_in_space_registers_two_files_as_it_predicts_them(pairs, tmp_path, spacing):
    """The moving images, whose axes run otherwise, were seen along those of the fixed ones."""
    backbone = {"name": "unet", "num_channel_initial": 2, "depth": 1}
    config = configuration(pairs, backbone=backbone, space="header", spacing=spacing)
    model = untrained(config)
    done = predict(model, config, split="test", log_dir=tmp_path, device="cpu")
    points = FIXED.world_grid()[2:-2, 2:-2, 2:-2]
    for number in (0, 1):
        images = (load(pairs / f"{side}_images" / f"obs{number}.nii.gz") for side in ("fixed", "moving"))
        found = register(*images, model, device="cpu").transform.map(points)
        wanted = load(done.folder / f"pair_{number}" / "transform.h5", "transform").map(points)
        np.testing.assert_allclose(found, wanted, atol=0.2)  # it is interpolated once more on the way


def test_label_maps_come_out_as_label_maps_with_names(known, pairs, tmp_path):
    """Structures by name in the tables; the whole moving map, its values and names, on the fixed grid."""
    for side in ("fixed", "moving"):
        for path in (pairs / f"{side}_labels").iterdir():
            volume = load(path, "labels")
            array = (volume.array * np.array([3, 5], np.uint8)).max(-1)
            segments = (Segment(3, "gland"), Segment(5, "lesion"))
            labels = Volume(array, volume.geometry, "labels", segments)
            save(labels, path.with_name(path.name.replace(".nii.gz", ".seg.nrrd")))
            path.unlink()
    done = run(configuration(pairs), tmp_path)
    figures = (done.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert figures[0].endswith("pair_index,label_index,label_name")
    assert {line.rsplit(",", 1)[1] for line in figures[1:]} == {"gland", "lesion"}
    means = (done.folder / "metrics_stats_per_label.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:2] for line in means[1:]] == [["0", "gland"], ["1", "lesion"]]
    found = load(done.folder / "pair_1" / "warped_labels.seg.nrrd", "labels")
    moving = load(sorted((pairs / "moving_labels").iterdir())[1], "labels")
    transform = load(done.folder / "pair_1" / "transform.h5", "transform")
    fixed = load(sorted((pairs / "fixed_images").iterdir())[1], "image")
    wanted = warp(moving, transform, fixed.geometry).array
    assert np.count_nonzero(found.array != wanted) <= 2  # the file of the transform rounds
    assert np.count_nonzero(found.array) > 20
    assert [segment.name for segment in found.segments] == ["gland", "lesion"]
    assert set(np.unique(found.array)) == {0, 3, 5}


@pytest.mark.parametrize(("number", "name"), [(0, "pair_1"), (-1, "pair_0")])  # in the order of seed 0
@pytest.mark.parametrize("method", ["conditional", "ddf"])
def test_of_a_batch_the_pair_is_named_that_has_no_numbers(pairs, tmp_path, monkeypatch, method, number, name):
    backbone = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    config = configuration(pairs, method=method, backbone=backbone)
    model, whole = model_of(config), MODELS[method].forward

    def forward(self, fixed, moving, label=None):
        answer = whole(self, fixed, moving, label)
        (answer.label if answer.ddf is None else answer.ddf)[number, 0, 0, 0, 0] = np.nan
        return answer

    monkeypatch.setattr(MODELS[method], "forward", forward)
    with pytest.raises(InputError, match=f"{name}: what the network says about this pair holds values that"):
        predict(model, config, split="test", log_dir=tmp_path / "logs", batch_size=4, device="cpu")
    assert not (tmp_path / "logs").exists()
