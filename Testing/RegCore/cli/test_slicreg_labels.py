"""``regcore slicreg transfer`` and ``evaluate``: labels to many scans, and what is believed or checked."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import RegCore
from RegCore.cli import main
from RegCore.space.volume import Volume
from Testing.RegCore.cli.slicreg_work import SEGMENTS, SHIFT, image, segmentation
from Testing.RegCore.slicreg import synthetic


def transfer(work, out, scans, *more) -> list[str]:
    command = ["slicreg", "transfer", "--model", work / "run/save/last.pt", "--template-seg"]
    command += [segmentation(work, 0, ".seg.nrrd"), "--scans", *scans, "--out", out, "--device", "cpu"]
    return [str(part) for part in [*command, "--quiet", *more]]


def rows(out) -> list[dict]:
    return list(csv.DictReader((out / "volumes.csv").open(encoding="utf-8")))


@pytest.mark.parametrize("more", [(), ("--no-refine", "--set", "passes=2", "matches=1")])
def test_every_scan_gets_the_labels_with_their_names(work, tmp_path, more):
    out, numbers = tmp_path / "out", (1, 2, 3)
    given = more or ("--template", image(work, 0))
    assert main(transfer(work, out, [image(work, n) for n in numbers], *given)) == 0
    found = rows(out)
    assert [row["scan"] for row in found] == ["scan1", "scan2", "scan3"]
    for row, n in zip(found, numbers, strict=True):
        labels = RegCore.load(out / "segmentations" / f"scan{n}.seg.nrrd", "labels")
        assert [(s.label, s.name, s.colour) for s in labels.segments] == [
            (s.label, s.name, s.colour) for s in SEGMENTS
        ]
        scan, true = RegCore.load(image(work, n)), RegCore.load(segmentation(work, n), "labels")
        assert labels.geometry.is_close(scan.geometry)
        overlap = [
            2
            * np.sum((labels.array == v) & (true.array == v))
            / (np.sum(labels.array == v) + np.sum(true.array == v))
            for v in (1, 2)
        ]
        assert min(overlap) > (0.8 if more else 0.9)
        voxel = np.prod(scan.geometry.spacing) / 1000
        for name, value in (("Back", 1), ("Front", 2)):
            assert float(row[f"{name} (ml)"]) == pytest.approx(
                np.sum(labels.array == value) * voxel, rel=1e-4
            )
        with Image.open(out / "pictures" / f"scan{n}.png") as picture:
            assert picture.width > 600 and np.ptp(np.asarray(picture.convert("RGB")), axis=-1).max() > 60


def test_it_goes_on_where_it_was_and_makes_again_what_changed(work, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    for n in (1, 2):
        shutil.copy(image(work, n), scans)
    (scans / "bad.nii.gz").write_bytes(b"no image")
    out, quick = tmp_path / "out", ("--no-refine", "--set", "passes=1")
    assert main(transfer(work, out, [scans], *quick)) == 2
    assert "1 of 3 scans can't be used" in (text := capsys.readouterr().err) and "bad.nii.gz" in text
    assert [row["scan"] for row in rows(out)] == ["scan1", "scan2"]  # it stopped no other
    assert {p.name for p in out.rglob("*bad*")} == set()
    first, second = (out / "segmentations" / f"scan{n}.seg.nrrd" for n in (1, 2))
    before = first.stat().st_mtime_ns
    second.unlink()
    (scans / "bad.nii.gz").unlink()
    shutil.copy(image(work, 3), scans)
    assert main(transfer(work, out, [scans], *quick)) == 0
    assert first.stat().st_mtime_ns == before and second.exists() and len(rows(out)) == 3
    assert main(transfer(work, out, [scans], "--no-refine")) == 2
    assert "was made with another settings; choose a new one" in capsys.readouterr().err
    assert main(transfer(work, scans, [image(work, 1)])) == 2
    assert "holds other things" in capsys.readouterr().err


def test_another_scan_of_the_same_name_and_size_gets_labels_of_its_own(work, tmp_path):
    scan, out = tmp_path / "scan.nii", tmp_path / "out"
    RegCore.save(RegCore.load(image(work, 1)), scan)
    command = transfer(work, out, [scan], "--no-refine", "--set", "passes=1")
    assert main(command) == 0
    segmentation_file, size = out / "segmentations" / "scan.seg.nrrd", scan.stat().st_size
    first = RegCore.load(segmentation_file, "labels")
    RegCore.save(RegCore.load(image(work, 3)), scan)
    assert scan.stat().st_size == size and main(command) == 0
    second = RegCore.load(segmentation_file, "labels")
    centres = [v.geometry.to_world(np.argwhere(v.array == 2)).mean(0) for v in (first, second)]
    np.testing.assert_allclose(centres[1] - centres[0], 2 * SHIFT, atol=0.5 * synthetic.SPACING)
    figures = out / "figures" / "scan.json"
    row = json.loads(figures.read_text())
    del row["sha256"]  # as earlier versions wrote it
    figures.write_text(json.dumps(row))
    before = segmentation_file.stat().st_mtime_ns
    assert main(command) == 0 and segmentation_file.stat().st_mtime_ns == before


def test_a_segmentation_or_template_of_something_else_is_refused(work, tmp_path, capsys):
    away = synthetic.ball((900.0, 0.0, 0.0))
    RegCore.save(
        Volume((away.array > -300).astype(np.uint8), away.geometry, "labels"), tmp_path / "seg.nii.gz"
    )
    command = transfer(work, tmp_path / "out", [image(work, 1)])
    command[command.index("--template-seg") + 1] = str(tmp_path / "seg.nii.gz")
    assert main(command) == 2
    assert "seg.nii.gz: what it marks does not lie in the template of the model" in capsys.readouterr().err
    other = tmp_path / "other.nii.gz"
    RegCore.save(synthetic.ball(noise=5), other)
    assert main(transfer(work, tmp_path / "out", [image(work, 1)], "--template", str(other))) == 2
    assert "other.nii.gz: this is not the template of the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- evaluate ----------------------------------------------------------------------------------------------


def evaluate(work, scans, segs, template: str, *more) -> list[str]:
    command = ["slicreg", "evaluate", "--model", work / "run/save/last.pt", "--template", template]
    command += ["--template-seg", segmentation(work, 0), "--scans", *scans, "--segs", *segs]
    return [str(part) for part in [*command, "--device", "cpu", "--quiet", *more]]


def test_another_template_than_that_of_the_model_is_refused(work, tmp_path, capsys):
    other = tmp_path / "other.nii.gz"
    RegCore.save(synthetic.ball(noise=5), other)
    assert main(evaluate(work, [image(work, 1)], [segmentation(work, 1)], str(other))) == 2
    found = capsys.readouterr()
    assert "other.nii.gz: this is not the template of the model" in found.err and found.out == ""


def test_scans_and_segmentations_meet_by_their_names(work, tmp_path, capsys):
    given = [image(work, n) for n in (1, 2)], [segmentation(work, n) for n in (2, 1)]
    tables = []
    for segs in (given[1], given[1][::-1]):
        out = tmp_path / "table.json"
        quick = ("--set", "passes=1", "matches=1", "iterations=20", "keypoints=300", "--out", str(out))
        assert main(evaluate(work, given[0], segs, image(work, 0), *quick)) == 0
        tables.append(json.loads(out.read_text()))
    assert tables[0] == tables[1]
    starts = [row["label 1"] for row in tables[0] if row["method"] == "Initial"]
    assert min(starts) > 0.9  # the bodies are equal but for their place: each met its own
    capsys.readouterr()
    assert main(evaluate(work, given[0], [segmentation(work, n) for n in (1, 3)], image(work, 0))) == 2
    assert "scan2: there is no segmentation of this name" in capsys.readouterr().err


def test_a_cropped_template_registers_as_the_template(work, tmp_path):
    """And one that was saved with another origin: both are known again, and the field is about the same."""
    whole = synthetic.ball()
    corner, end = (3, 2, 4), (32, 32, 30)
    cropped = Volume(whole.array[3:32, 2:32, 4:30], whole.geometry.cropped(corner, end))
    away = np.eye(4)
    away[:3, 3] = 40, -30, 20
    moved = Volume(whole.array, whole.geometry.moved(away))
    model = RegCore.load_model(work / "run/save/last.pt", device="cpu")
    scan = synthetic.ball(2 * SHIFT, 2)
    points = 30 * np.eye(3)
    first = RegCore.register(whole, scan, model, device="cpu").transform.map(points)
    for fixed, shift in ((cropped, np.zeros(3)), (moved, away[:3, 3])):
        found = RegCore.register(fixed, scan, model, device="cpu").transform.map(points + shift)
        np.testing.assert_allclose(found, first, atol=1.0)


def test_scans_that_end_worse_than_they_began_are_named(work, capsys, caplog):
    """The template itself, which lies right from the start: nothing can be gained there."""
    quick = ("--set", "passes=1", "matches=1", "iterations=20", "keypoints=300")
    assert main(evaluate(work, [image(work, 0)], [segmentation(work, 0)], image(work, 0), *quick)) == 0
    name = Path(image(work, 0)).name.split(".")[0]
    said = [record.getMessage() for record in caplog.records if "worse" in record.getMessage()]
    assert f"Slic-Reg leaves scans worse than they began: {name}" in said
