"""The Batch panel's manifest: volumes of the scene as files, with a table that register-all runs as it is."""

import csv
from pathlib import Path

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.samples.phantom import LABELS
from Testing.Slicer import test_batch
from Testing.Slicer.test_batch import SHAPES, choose, heart, tick

panel = test_batch.panel  # the fixture
NAMES = list(LABELS.values())[:3]
FILES = ["CT_1_2.nii.gz", "CT_1_2.seg.nrrd", "Fixed_scan.nii.gz", "Fixed_scan.seg.nrrd", "ct_1_2_2.nii.gz"]


def write(panel) -> str:
    """Click the button and wait for the end; the status line."""
    ui = panel.batch.ui
    ui.manifestButton.click()
    assert not ui.manifestButton.enabled and not ui.startButton.enabled
    assert panel.host.spin(240, until=lambda: panel.batch.run is None)
    return ui.batchStatusLabel.text


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def torsos(panel):
    """A phantom as nodes with segmentations; its moving volume once more without one; an empty volume."""
    import slicer

    case = RegCore.make_phantom(0, **SHAPES)
    parts = {"Fixed: scan": (case.fixed, case.fixed_labels), "CT 1/2": (case.moving, case.moving_labels)}
    parts["ct 1 2"] = (case.moving, None)
    for name, (image, labels) in parts.items():
        node = panel.make.volume(name, image.array.shape, image.geometry.affine, array=image.array)
        if labels is not None:
            masks = {title: labels.array == label for label, title in list(LABELS.items())[:3]}
            panel.make.segmentation(f"{name} drawn", node, masks)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    panel.parameters.fixedVolume = slicer.util.getNode("Fixed: scan")
    panel.parameters.method = type(panel.parameters.method).rigid
    panel.batch.refresh()
    return case


def test_register_all_runs_the_manifest_as_it_is(panel, tmp_path):
    case = torsos(panel)
    ui = choose(panel, "volumes")
    assert not ui.manifestButton.isHidden() and ui.outPathLabel.text == "Manifest folder:"
    ui.outPath.currentPath = str(tmp_path / "out")
    ui.manifestButton.click()
    assert ui.batchStatusLabel.text == "Tick the volumes that are to be registered."
    tick(panel, "CT 1/2", "ct 1 2", "Empty")
    for name in ("manifest", "manifest-2"):
        folder = tmp_path / "out" / name
        text = write(panel)
        assert text.startswith(f"2 pairs are in {folder / 'manifest.csv'}, for regcore register-all.")
        assert "Empty: The volume 'Empty' holds no image" in text
        assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.csv"])
    for name, volume in (("Fixed_scan", case.fixed), ("CT_1_2", case.moving)):
        read = RegCore.load(folder / f"{name}.nii.gz")
        assert np.array_equal(read.array, volume.array) and read.geometry.is_close(volume.geometry)
    words = ["register-all", str(folder / "manifest.csv"), "--out", str(tmp_path / "results")]
    assert main([*words, "--workers=1", "--device=cpu", "--quiet"]) == 0
    rows = {row["id"]: row for row in table(tmp_path / "results" / "results.csv")}
    assert {name: row["method"] for name, row in rows.items()} == {"CT_1_2": "rigid", "ct_1_2_2": "rigid"}
    assert float(rows["CT_1_2"]["dice_mean_after"]) > 0.5 and rows["ct_1_2_2"]["dice_mean_after"] == ""


def test_segments_keep_names_colours_and_terminology(panel, tmp_path):
    case = torsos(panel)
    choose(panel, "volumes").outPath.currentPath = str(tmp_path)
    tick(panel, "CT 1/2")
    write(panel)
    read = RegCore.load(tmp_path / "manifest" / "CT_1_2.seg.nrrd", "labels")
    assert [segment.name for segment in read.segments] == NAMES
    assert read.segments[0].colour == pytest.approx((0.8, 0.1, 0.2), abs=1e-3)
    assert all(panel.make.TERMINOLOGY in segment.tags for segment in read.segments)
    for segment, label in zip(read.segments, LABELS, strict=False):
        assert np.array_equal(read.array == segment.label, case.moving_labels.array == label)
    assert read.geometry.is_close(case.moving_labels.geometry)


def test_a_manifest_of_a_sequence_names_its_items_and_stop_leaves_nothing(panel, tmp_path):
    import slicer

    sequence, arrays = heart(panel)
    ui = choose(panel, "sequence")
    ui.sequenceSelector.setCurrentNode(sequence)
    ui.outPath.currentPath = str(tmp_path / "out")
    before = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    assert write(panel).startswith("3 pairs are in ")
    folder = tmp_path / "out" / "manifest"
    rows = table(folder / "manifest.csv")
    assert [(row["id"], row["fixed"]) for row in rows] == [(f"time_{100 * n}", "F.nii.gz") for n in range(3)]
    for row, array in zip(rows, arrays, strict=True):
        assert np.array_equal(RegCore.load(folder / row["moving"]).array, array)
    assert {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLNode")} == before
    ui.manifestButton.click()
    ui.stopButton.click()
    assert panel.host.spin(60, until=lambda: panel.batch.run is None)
    assert ui.batchStatusLabel.text == "Cancelled." and ui.startButton.enabled
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest"]
    choose(panel, "files")
    assert ui.manifestButton.isHidden() and ui.outPathLabel.text == "Results folder:"


def test_what_can_not_be_written_is_one_sentence_and_leaves_nothing(panel, tmp_path):
    import slicer

    (tmp_path / "file").touch()
    ui = choose(panel, "volumes")
    ui.outPath.currentPath = str(tmp_path / "file")
    tick(panel, "M")
    ui.manifestButton.click()
    assert "this folder can't be made (Not a directory)" in ui.batchStatusLabel.text
    assert panel.batch.run is None and ui.manifestButton.enabled
    ui.outPath.currentPath = str(tmp_path)
    panel.parameters.fixedVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "None")
    panel.batch.refresh()
    tick(panel, "M")
    assert "'None' holds no image" in write(panel)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_of_files_differ_and_settings_are_read_back(library, tmp_path):
    from RegCore.studies.manifest import read_manifest
    from RegCore.studies.rows import Row

    manifest, batch = library("manifest"), library("batch")
    names = manifest.file_names(["a b", "A/B", "…", "a_b_2", "ä"])
    assert names == ["a_b", "A_B_2", "volume", "a_b_2_2", "ä"]
    for name in ("f.nii", "m.nii"):
        (tmp_path / name).touch()
    fixed, moving = (
        batch.Item(name, None, dict.fromkeys(("labels", "mask", "initial"), "") | {"volume": f"{name}.nii"})
        for name in "fm"
    )
    settings = {"quality": "fast", "smoothness": 1.5, "levels": [1, 2], "refine": True}
    path = manifest.write_manifest(tmp_path, fixed, [moving], "auto", settings)
    (row,) = read_manifest(path, Row("", {}), ["auto"])
    assert dict(row.settings) == settings and row.files["moving"] == tmp_path / "m.nii"
