"""Prediction of data sets: what is written, where it lies, how good it is, what can't be used."""

import csv
import io
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from RegCore.io import load
from RegCore.networks.model_file import Model, build, save_model
from RegCore.progress import Cancelled
from RegCore.space.geometry import InputError
from RegCore.space.transforms import AffineTransform, DisplacementField
from RegCore.training.config import Config
from RegCore.training.predict import predict
from Testing.RegCore.grids import map_by_itk
from Testing.RegCore.itk import itk_image
from Testing.RegCore.known_networks import FIXED_SIZE, MOVING_SIZE, THETA, Known, field, known
from Testing.RegCore.registration.test_learned import box_index, box_world, expected
from Testing.RegCore.training.sets import FIXED, MOVING, blob, configuration, figures, write_blobs

__all__ = ["known"]
TABLES = {"metrics.csv", "metrics_stats_per_label.csv", "metrics_stats_overall.csv", "metrics_mm.csv"}


@pytest.fixture
def pairs(tmp_path):
    write_blobs(tmp_path / "data")
    return tmp_path / "data"


def model_of(config, labeled: bool = True) -> Model:
    """The network that the configuration describes, with the weights that it begins with."""
    sizes = config.dataset.fixed_image_shape, config.dataset.moving_image_shape
    sizes = sizes if sizes[0] else [config.dataset.image_shape] * 2
    made = build(config.to_dict(), *sizes, labeled)
    made.network.eval()
    return made


def run(config, tmp_path, split="test", **options):
    options = {"log_dir": tmp_path / "logs", "exp_name": "run", "device": "cpu"} | options
    return predict(model_of(config), config, split=split, **options)


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- what is written ---------------------------------------------------------------------------------------


def test_files_of_labelled_pairs(known, pairs, tmp_path):
    done = run(configuration(pairs), tmp_path)
    assert done.folder == tmp_path / "logs" / "run" / "test"
    images = {
        f"{name}.nii.gz" for name in ("fixed_image", "moving_image", "pred_fixed_image", "ddf", "warped")
    }
    labels = {
        f"{name}.nii.gz" for name in ("fixed_label", "moving_label", "pred_fixed_label", "warped_label")
    }
    wanted = {f"label_{k}/{name}" for k in (0, 1) for name in labels} | images | {"transform.h5"}
    assert names(done.folder) == TABLES | {f"pair_{n}/{name}" for n in (0, 1) for name in wanted}
    assert [path.name for path in (tmp_path / "logs" / "run").iterdir()] == ["test"]


def test_files_of_unlabelled_pairs_of_a_velocity_as_slices(known, pairs, tmp_path):
    done = run(configuration(pairs, labeled=False, method="dvf"), tmp_path, save_nifti=False, save_png=True)
    slices = {"fixed_image": 8, "moving_image": 7, "pred_fixed_image": 8, "ddf": 8, "dvf": 8}
    wanted = {f"pair_0/{name}/depth{k}_{name}.png" for name, count in slices.items() for k in range(count)}
    assert {name for name in names(done.folder) if name.startswith("pair_0")} == wanted
    assert figures(done.folder / "metrics.csv")[0]["label_index"] == "-1"
    assert np.array(Image.open(done.folder / "pair_0/dvf/depth3_dvf.png")).shape == (9, 7, 4)
    array = field(FIXED_SIZE)
    shades = (array[:, :, 3] - array.min()) / np.ptp(array) * 255
    picture = np.array(Image.open(done.folder / "pair_0/dvf/depth3_dvf.png"))
    np.testing.assert_allclose(picture[..., :3], np.floor(shades), atol=1)


@pytest.mark.parametrize(
    ("kind", "pair"), [("unpaired", "pair_1_0"), ("grouped", "pair_0_0_0_1"), ("paired", "pair_0")]
)
def test_pairs_are_named_as_deepreg_names_them(known, tmp_path, kind, pair):
    write_blobs(tmp_path / "data", kind)
    config = configuration(tmp_path / "data", kind)
    done = run(config, tmp_path, save_nifti=False)
    indices = {tuple(json.loads(line["pair_index"])) for line in figures(done.folder / "metrics.csv")}
    found = {path.name for path in done.folder.iterdir() if path.is_dir()}
    assert found == {"_".join(["pair", *map(str, index)]) for index in indices}
    assert pair in found or kind == "unpaired" and "pair_0_1" in found


def test_an_affine_network_also_leaves_its_map(known, pairs, tmp_path):
    done = run(configuration(pairs, backbone={"name": "known-affine"}), tmp_path)
    text = (done.folder / "pair_1" / "affine.txt").read_text()
    np.testing.assert_allclose(np.loadtxt(io.StringIO(text), delimiter=","), THETA, atol=1e-7)
    assert len(text.splitlines()[0].split(",")[0].partition("e")[0]) >= 20  # %.18e, as NumPy writes
    transform = load(done.folder / "pair_1" / "transform.h5")
    assert isinstance(transform, AffineTransform)
    points = FIXED.world_grid().reshape(-1, 3)
    index = np.c_[box_index(FIXED, FIXED_SIZE, points), np.ones(len(points))]
    np.testing.assert_allclose(
        transform.map(points), box_world(MOVING, MOVING_SIZE, index @ THETA), atol=1e-4
    )


def test_a_conditional_model_predicts_labels_without_a_field(pairs, tmp_path):
    backbone = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    done = run(configuration(pairs, method="conditional", backbone=backbone), tmp_path)
    labels = {f"{name}.nii.gz" for name in ("fixed_label", "moving_label", "pred_fixed_label")}
    pair = {f"label_{k}/{name}" for k in (0, 1) for name in labels} | {
        "fixed_image.nii.gz",
        "moving_image.nii.gz",
    }
    assert names(done.folder) == (TABLES - {"metrics_mm.csv"}) | {
        f"pair_{n}/{name}" for n in (0, 1) for name in pair
    }
    lines = figures(done.folder / "metrics.csv")
    assert len(lines) == 4 and all(line["image_ssd"] == "" for line in lines)
    assert [line["label_binary_dice"] == "" for line in lines] == [False, True, False, False]  # never drawn
    said = [
        nibabel.load(done.folder / f"pair_0/label_{k}/pred_fixed_label.nii.gz").get_fdata() for k in (0, 1)
    ]
    assert not np.allclose(*said)  # each label has a prediction of its own
    assert "image_ssd" not in (done.folder / "metrics_stats_overall.csv").read_text()


# ---- where it lies -----------------------------------------------------------------------------------------


def test_the_networks_tensors_lie_where_its_grid_lies(known, pairs, tmp_path):
    folder = run(configuration(pairs), tmp_path).folder / "pair_1"
    files = {
        "fixed_image": (FIXED, FIXED_SIZE),
        "moving_image": (MOVING, MOVING_SIZE),
        "ddf": (FIXED, FIXED_SIZE),
    }
    files |= {"label_0/moving_label": (MOVING, MOVING_SIZE), "label_0/pred_fixed_label": (FIXED, FIXED_SIZE)}
    for name, (grid, size) in files.items():
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert image.shape[:3] == size and image.get_data_dtype() == np.float32
        corner = np.array(size) - 1.0
        np.testing.assert_allclose(
            image.affine @ [*corner, 1], [*box_world(grid, size, corner), 1], atol=1e-3, err_msg=name
        )
    np.testing.assert_allclose(nibabel.load(folder / "ddf.nii.gz").get_fdata(), field(FIXED_SIZE), atol=1e-6)


def test_the_transform_and_what_it_warps_are_those_of_itk(known, pairs, tmp_path):
    """Original voxels of the moving image and its labels on the original grid of the fixed ones."""
    folder = run(configuration(pairs), tmp_path).folder / "pair_1"
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    points = FIXED.world_grid().reshape(-1, 3)
    np.testing.assert_allclose(map_by_itk(transform, points), expected(FIXED, MOVING, points), atol=1e-3)
    reference = itk_image(np.zeros(FIXED.shape, np.uint8), FIXED)
    source = nibabel.load(tmp_path / "data" / "moving_images" / "obs1.nii.gz").get_fdata()
    label = nibabel.load(tmp_path / "data" / "moving_labels" / "obs1.nii.gz").get_fdata()[..., 1]
    for name, array, how in (
        ("warped", source, sitk.sitkLinear),
        ("label_1/warped_label", label, sitk.sitkNearestNeighbor),
    ):
        image = itk_image(array.astype(np.float64), MOVING)
        wanted = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, how, float(array.min())))
        found = nibabel.load(folder / f"{name}.nii.gz")
        np.testing.assert_allclose(found.affine, FIXED.affine, atol=1e-4)
        if name == "warped":
            np.testing.assert_allclose(found.get_fdata(), wanted.transpose(2, 1, 0), atol=0.05)
        else:
            place = MOVING.to_index(expected(FIXED, MOVING, points)).reshape(*FIXED.shape, 3)
            clear = (np.abs(place % 1 - 0.5) > 1e-3).all(-1)  # not half-way between two voxels
            np.testing.assert_array_equal(found.get_fdata()[clear], wanted.transpose(2, 1, 0)[clear])
            assert clear.mean() > 0.95
    assert 0 < found.get_fdata().mean() < 1


# ---- how good it is ----------------------------------------------------------------------------------------


def test_figures_are_those_of_the_files(known, pairs, tmp_path):
    """Taken from the tensors that were written, by their definitions."""
    done = run(configuration(pairs), tmp_path)
    lines = figures(done.folder / "metrics.csv")
    assert [(line["pair_index"], line["label_index"]) for line in lines] == [
        ("[0]", "0"), ("[0]", "1"), ("[1]", "0"), ("[1]", "1"),
    ]  # fmt: skip
    for line in lines:
        folder = done.folder / f"pair_{line['pair_index'][1]}"

        def array(name, folder=folder):
            return nibabel.load(folder / f"{name}.nii.gz").get_fdata()

        difference = array("fixed_image") - array("pred_fixed_image")
        assert float(line["image_ssd"]) == pytest.approx(np.mean(difference**2), rel=1e-5)
        label = f"label_{line['label_index']}"
        a, b = (array(f"{label}/{name}") >= 0.5 for name in ("fixed_label", "pred_fixed_label"))
        overlap = 2 * np.sum(a & b) / max(np.sum(a.astype(int) + b), 1)
        if not a.any():  # a structure that was never drawn
            assert line["label_binary_dice"] == line["label_tre"] == ""
            continue
        assert float(line["label_binary_dice"]) == pytest.approx(overlap, abs=1e-5)
        centres = [np.argwhere(x).mean(0) for x in (a, b)]
        assert float(line["label_tre"]) == pytest.approx(np.linalg.norm(centres[0] - centres[1]), rel=1e-5)
    assert [line["label_tre"] == "" for line in lines] == [False, True, False, False]


def test_figures_in_mm_are_those_of_the_warped_labels(known, pairs, tmp_path):
    done = run(configuration(pairs), tmp_path)
    lines = figures(done.folder / "metrics_mm.csv")
    warped = nibabel.load(done.folder / "pair_1/label_0/warped_label.nii.gz").get_fdata() > 0
    there = blob(FIXED, 1)[..., 0] > 0
    line = lines[2]
    assert float(line["label_dice"]) == pytest.approx(
        2 * (warped & there).sum() / (warped.sum() + there.sum())
    )
    centres = [FIXED.to_world(np.argwhere(x)).mean(0) for x in (warped, there)]
    assert float(line["label_tre_mm"]) == pytest.approx(np.linalg.norm(centres[0] - centres[1]), rel=1e-5)
    transform = load(done.folder / "pair_1/transform.h5")
    assert isinstance(transform, DisplacementField)
    inner = (slice(1, -1),) * 3  # the network's own voxels; what lies around them only continues them
    folded = 100 * np.mean(transform.jacobian_determinant()[inner] <= 0)
    assert float(line["fold_percent"]) == pytest.approx(folded, abs=1e-4)
    assert lines[1]["label_tre_mm"] == lines[1]["label_dice"] == ""  # a structure that was never drawn


def test_what_comes_out_depends_on_neither_batch_nor_workers(known, pairs, tmp_path):
    write_blobs(pairs, count=5)
    done = [
        run(configuration(pairs), tmp_path, exp_name=str(n), batch_size=size, workers=workers)
        for n, (size, workers) in enumerate([(1, 0), (3, 0), (2, 2)])
    ]
    assert sum(len(seen) for seen in Known.seen[:5]) == 5  # a pair is predicted once for all its labels
    for name in (*TABLES, "pair_4/label_1/warped_label.nii.gz", "pair_2/transform.h5"):
        if name.endswith("h5"):
            first, *others = [load(d.folder / name).mm for d in done]
            for other in others:
                np.testing.assert_array_equal(first, other)
        else:
            assert len({(d.folder / name).read_bytes() for d in done}) == 1


def test_training_data_are_predicted_with_all_labels_in_a_fixed_order(known, tmp_path):
    write_blobs(tmp_path / "data", "unpaired", 6)
    config = configuration(tmp_path / "data", "unpaired")
    texts = {
        run(config, tmp_path, split, exp_name=f"{split}{n}", save_nifti=False)
        .folder.joinpath("metrics.csv")
        .read_text()
        for split in ("train", "valid", "test")
        for n in range(2)
    }
    assert len(texts) == 1
    assert len(list(csv.DictReader(io.StringIO(texts.pop())))) == 3 * 2


# ---- where the configuration comes from --------------------------------------------------------------------


def test_the_configuration_beside_the_checkpoint_counts_before_that_of_the_model(known, pairs, tmp_path):
    elsewhere = configuration(tmp_path / "gone")
    (tmp_path / "exp" / "save").mkdir(parents=True)
    checkpoint = tmp_path / "exp" / "save" / "ckpt-2"
    save_model(checkpoint.with_name("ckpt-2.pt"), model_of(elsewhere))
    options = {"split": "test", "log_dir": tmp_path, "exp_name": "run", "save_nifti": False}
    with pytest.raises(InputError, match=r"dataset\.test\.dir: there is no folder .*gone"):
        predict(checkpoint, **options)
    configuration(pairs).dump(tmp_path / "exp" / "config.yaml")
    assert len(predict(checkpoint, **options).metrics) == 4
    given = tmp_path / "given.yaml"
    configuration(pairs, labeled=False).dump(given)
    assert len(predict(checkpoint, given, **options).metrics) == 2
    assert len(predict(checkpoint, [given], **options).metrics) == 2
    assert len(predict(checkpoint, configuration(pairs).to_dict(), **options).metrics) == 4


def test_a_file_without_a_network_is_laid_over_the_configuration_of_the_training(known, pairs, tmp_path):
    """As test.yaml in the manual of DeepReg, whether the configuration is a file or kept by the model."""
    config = configuration(pairs)
    test = tmp_path / "test.yaml"
    test.write_text(f"dataset:\n    dir:\n        train: ''\n        valid: ''\n        test: '{pairs}'\n")
    elsewhere = configuration(pairs, labeled=False).to_dict()
    elsewhere["dataset"]["test"]["dir"] = "gone"
    save_model(tmp_path / "model.pt", model_of(Config.from_dict(elsewhere)))
    options = {"split": "test", "log_dir": tmp_path, "exp_name": "run", "save_nifti": False}
    assert len(predict(tmp_path / "model.pt", test, **options).metrics) == 2
    (tmp_path / "save").mkdir()
    save_model(tmp_path / "save" / "ckpt-2.pt", model_of(config))
    config.dump(tmp_path / "config.yaml")
    assert len(predict(tmp_path / "save" / "ckpt-2", [test], **options).metrics) == 4
    values = {"dataset": {"test": {"labeled": False}}}
    assert len(predict(tmp_path / "save" / "ckpt-2", values, **options).metrics) == 2
    assert len(predict(model_of(config), values, **options).metrics) == 2


def test_a_model_file_alone_knows_its_data(known, pairs, tmp_path):
    save_model(tmp_path / "model.pt", model_of(configuration(pairs)))
    configuration(tmp_path / "gone").dump(tmp_path.parent / "config.yaml")  # not that of this model
    try:
        done = predict(tmp_path / "model.pt", split="valid", log_dir=tmp_path, save_nifti=False)
    finally:
        (tmp_path.parent / "config.yaml").unlink()
    assert len(done.metrics) == 4 and done.folder.parent.name[:2] == "20"


# ---- all or nothing ----------------------------------------------------------------------------------------


def test_an_earlier_prediction_is_moved_aside(known, pairs, tmp_path, caplog):
    config = configuration(pairs)
    for _ in range(3):
        done = run(config, tmp_path, save_nifti=False)
    parent = done.folder.parent
    assert sorted(path.name for path in parent.iterdir()) == ["test", "test-1", "test-2"]
    assert names(parent / "test-1") == names(done.folder)
    assert "an earlier prediction, which is now" in caplog.text


def test_stopped_or_failed_it_leaves_nothing_and_what_was_there_stays(known, pairs, tmp_path):
    def stop(fraction, text, values):
        if fraction > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(configuration(pairs), tmp_path, progress=stop)
    assert not (tmp_path / "logs").exists()
    done = run(configuration(pairs), tmp_path, save_nifti=False)
    before = names(done.folder.parent)
    (pairs / "moving_images" / "obs1.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"obs1\.nii\.gz"):
        run(configuration(pairs), tmp_path)
    assert names(done.folder.parent) == before


def test_progress_ends_at_one(known, pairs, tmp_path):
    told = []
    run(configuration(pairs), tmp_path, save_nifti=False, progress=lambda *event: told.append(event[0]))
    assert told == [0.0, 0.25, 0.5, 0.75, 1.0]


# ---- what can't be used ------------------------------------------------------------------------------------


def test_data_that_the_network_was_not_trained_for(known, pairs, tmp_path):
    unet = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    cases = {
        "train.method is dvf, but the model was trained with ddf": configuration(pairs, method="dvf"),
        "train.backbone.name is unet, but the model was trained with known": configuration(
            pairs, backbone=unet
        ),
    }
    model = model_of(configuration(pairs))
    for sentence, config in cases.items():
        with pytest.raises(InputError, match=sentence):
            predict(model, config, split="test", log_dir=tmp_path / "logs")
    smaller = replace(model, moving_size=(6, 6, 6))
    with pytest.raises(
        InputError, match=r"moving images are resized to \(6, 10, 7\), but the network .* \(6, 6, 6\)"
    ):
        predict(smaller, configuration(pairs), split="test", log_dir=tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_splits_without_data(known, pairs, tmp_path):
    model = model_of(configuration(pairs))
    with pytest.raises(InputError, match="the split is 'tset', expected one of train, valid, test"):
        predict(model, configuration(pairs), split="tset")
    with pytest.raises(InputError, match=r"dataset\.test\.dir is missing, so there are no data to use"):
        predict(model, configuration(pairs, test=None), split="test")


def test_a_conditional_model_without_labels_is_refused_in_one_sentence(pairs, tmp_path):
    backbone = {"name": "unet", "num_channel_initial": 1, "depth": 1}
    config = configuration(pairs, method="conditional", backbone=backbone)
    model = model_of(config)
    for labeled in ({"labeled": False}, {"test": {"dir": str(pairs), "format": "nifti", "labeled": False}}):
        with pytest.raises(InputError) as caught:
            given = configuration(pairs, method="conditional", backbone=backbone, **labeled)
            predict(model, given, split="test", log_dir=tmp_path / "logs")
        assert "conditional predicts labels" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_an_answer_that_is_no_number_names_its_pair(known, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("Testing.RegCore.known_networks.field", lambda shape: np.full((*shape, 3), np.nan))
    with pytest.raises(InputError, match="pair_0: .*NaN or infinite"):
        run(configuration(pairs), tmp_path)


def test_data_of_other_orientation_than_the_training_are_told_of(known, pairs, tmp_path, caplog):
    """Where the configuration says that voxels are to be taken in the order of their files."""
    config = configuration(pairs, space="file")
    model = replace(model_of(config), axes=("RAS", "RAS"))
    predict(model, config, split="test", log_dir=tmp_path, save_nifti=False)
    axes = f"{FIXED.axis_codes} and {MOVING.axis_codes}"
    assert f"images run along {axes}, but in the training along RAS and RAS" in caplog.text
