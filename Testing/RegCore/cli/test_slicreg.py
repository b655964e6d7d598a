"""``regcore slicreg``: from raw volumes to transforms and the table by the commands; what they refuse."""

import json
import shutil

import numpy as np
import pytest
import yaml

import RegCore
from RegCore.cli import main
from RegCore.registration.learned import load_model
from RegCore.training.config import load_config
from Testing.RegCore.cli.slicreg_work import SHIFT, image, prepare, segmentation
from Testing.RegCore.slicreg import synthetic


def test_prepared_scans_are_those_named_and_the_template(work):
    found = {
        part: [p.stem for p in sorted((work / "prepared" / part).glob("*"))] for part in ("train", "valid")
    }
    assert found == {"train": ["scan0", "scan1", "scan2"], "valid": ["scan3"]}


def test_a_replaced_scan_is_prepared_anew(work, tmp_path, monkeypatch):
    shutil.copytree(work / "scans", tmp_path / "scans")
    scan = tmp_path / "scans" / "scan2.nii"
    scan.with_name("scan2.nii.gz").unlink()
    monkeypatch.setattr("RegCore.slicreg.folder_making.oversegment", synthetic.octants)
    monkeypatch.setattr(
        "RegCore.slicreg.label_propagation.image_propagator", lambda device: synthetic.PROPAGATOR
    )
    found = []
    for noise in (2, 2, 7):
        RegCore.save(synthetic.ball(2 * SHIFT, noise), scan)
        assert main(prepare(tmp_path)) == 0
        found.append([(tmp_path / f"prepared/train/scan{n}.npz").stat().st_mtime_ns for n in (1, 2)])
    assert found[0] == found[1] and found[2][0] == found[0][0] and found[2][1] > found[0][1]


def test_a_training_leaves_what_every_training_leaves(work):
    for name in ("config.yaml", "metrics.csv", "save/best.pt", "save/last.pt"):
        assert (work / "run" / name).is_file(), name
    assert load_config(work / "run" / "config.yaml").train.method == "slicreg"
    assert (
        synthetic.share_right(load_model(work / "run/save/last.pt").network, synthetic.ball(5 * SHIFT, 5))
        > 0.7
    )


def test_the_configuration_can_be_written_and_changed(work, tmp_path):
    path = tmp_path / "own.yaml"
    command = ["slicreg", "train", str(work / "prepared"), "--write", str(path), "--network", "unet"]
    assert main(command) == 0
    assert yaml.safe_load(path.read_text())["train"]["backbone"]["name"] == "unet"
    assert load_config(path).train.backbone.options["classes"] == 9


@pytest.mark.parametrize("fixed", [0, 3], ids=["template", "any scan"])
def test_two_scans_are_registered_and_six_files_written(work, tmp_path, fixed):
    command = ["slicreg", "register", "--model", work / "run/save/last.pt", "--fixed", image(work, fixed)]
    command += ["--moving", image(work, 2), "--fixed-seg", segmentation(work, fixed)]
    command += ["--moving-seg", segmentation(work, 2), "--out", tmp_path, "--device", "cpu", "--quiet"]
    assert main([str(part) for part in command]) == 0
    names = (
        "transform.h5",
        "inverse.h5",
        "warped.nii.gz",
        "warped_seg.nii.gz",
        "metrics.json",
        "overview.png",
    )
    assert all((tmp_path / name).is_file() for name in names)
    transform = RegCore.load(tmp_path / "transform.h5")
    points = fixed * SHIFT + 30 * np.eye(3)
    error = np.linalg.norm(transform.map(points) - points - (2 - fixed) * SHIFT, axis=1)
    assert error.max() < 2 * synthetic.SPACING


def test_the_table_has_a_column_for_each_method(work, tmp_path, capsys):
    scans, model = [1, 2], str(work / "run/save/last.pt")
    truth = tmp_path / "truth"
    truth.mkdir()
    for n in scans:
        matrix = np.eye(4)
        matrix[:3, 3] = n * SHIFT
        RegCore.save(RegCore.AffineTransform(matrix), truth / f"scan{n}.h5")
    command = ["slicreg", "evaluate", "--model", model, "--unet", model, "--template", image(work, 0)]
    command += ["--template-seg", segmentation(work, 0), "--scans", *(image(work, n) for n in scans)]
    command += [
        "--segs",
        *(segmentation(work, n) for n in scans),
        "--structures",
        "1=Back",
        "2=Front",
        "9=None",
    ]
    command += ["--average", "1", "2", "--truth", str(truth), "--out", str(tmp_path / "all.json")]
    assert main([*command, "--device", "cpu", "--quiet"]) == 0
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    assert lines[0] == ["Dice", "Initial", "Oracle affine", "Slic-UNet", "Slic-Reg", "refined"]
    table = {line[0]: line[1:] for line in lines[2:]}
    assert float(table["Front (2)"][1].removesuffix(" %")) > 99  # the bodies are equal but for their place
    assert table["None (9)"] == ["–"] * 5 and table["Avg. 2 (1,2)"] == table["Avg. 3"]
    rows = json.loads((tmp_path / "all.json").read_text())
    assert len(rows) == 5 * len(scans) and {row["scan"] for row in rows} == {"scan1", "scan2"}


def test_each_mistake_has_its_sentence(work, tmp_path, capsys):
    text = tmp_path / "text.pt"
    text.write_text("no model")
    common = ["--fixed", image(work, 0), "--moving", image(work, 1), "--out", str(tmp_path / "out")]
    model = str(work / "run/save/last.pt")
    cases = {
        "was expected, but settings.json is missing": ["slicreg", "train", str(tmp_path)],
        "text.pt: this is not a model file": ["slicreg", "register", "--model", str(text), *common],
        "another propagator: centres instead of images": prepare(work),
        "--deeds and --model do not go together": [*prepare(work), "--deeds", "x", "--model", model],
        "a folder of what deeds found was expected": [*prepare(work), "--deeds", str(tmp_path / "no")],
        "N=NAME was expected, not 'Liver'": [
            *["slicreg", "evaluate", "--model", model, "--template", image(work, 0)],
            *["--template-seg", segmentation(work, 0), "--scans", image(work, 1)],
            *["--segs", segmentation(work, 1), "--structures", "Liver"],
        ],
    }
    for sentence, command in cases.items():
        assert main(command) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
