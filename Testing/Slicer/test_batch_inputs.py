"""What the Batch panel takes besides the volumes: segmentations, masks and a start; the same of files."""

import csv

import numpy as np
import pytest

import RegCore
from RegCore.cli import main
from RegCore.cli.extras import named_start
from RegCore.space.transforms import AffineTransform, DisplacementField
from Testing.Slicer import test_batch
from Testing.Slicer.test_batch import SHAPES, choose, run, tick, write_pairs
from Testing.Slicer.test_manifest import NAMES, table, torsos, write

panel = test_batch.panel  # the fixture


def label_map(panel, name: str, array, matrix):
    """A label map volume."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.transpose(2, 1, 0).astype(np.uint8)))
    node.SetIJKToRASMatrix(panel.make.vtk_matrix(matrix))
    return node


def patients(panel) -> dict[str, np.ndarray]:
    """Three volumes: with a mask and a segmentation, with a mask alone, with neither; the masks."""
    shape, matrix = (11, 9, 13), panel.make.MOVING
    nodes = {name: panel.make.volume(name, shape, matrix) for name in ("T0", "t 1", "T2")}
    masks = {"T0": panel.make.boxes(shape) == 1, "t 1": panel.make.boxes(shape) == 2}
    label_map(panel, "T0_mask", masks["T0"], matrix)
    panel.make.segmentation("T 1 Mask", nodes["t 1"], {"Where": masks["t 1"]})  # drawn on the volume, too
    boxes = panel.make.boxes(shape)
    panel.make.segmentation("Organs", nodes["T0"], {"liver": boxes == 1, "Spleen": boxes == 2})
    panel.batch.refresh()
    return masks


def test_masks_and_segmentations_of_each_volume_take_part(panel, requests):
    import slicer

    ui, masks = choose(panel, "volumes"), patients(panel)
    panel.ui.fixedMaskSelector.setCurrentNode(panel.fixed_segmentation)
    tick(panel, "T0", "t 1", "T2", "M")
    assert run(panel) == "4 of 4 are registered."
    assert "Fixed mask: FS." in ui.methodLabel.text
    asked = {item.name: given for item, given in zip(panel.batch._items, requests, strict=True)}
    fixed = panel.make.boxes((14, 16, 12)) > 0
    assert all(np.array_equal(given["fixed_mask"].array > 0, fixed) for given in asked.values())
    for name, mask in masks.items():
        assert np.array_equal(asked[name]["moving_mask"].array > 0, mask)
    assert asked["T2"]["moving_mask"] is asked["M"]["moving_mask"] is None
    guided = {name for name, given in asked.items() if given["fixed_labels"] is not None}
    assert guided == {"T0", "M"}  # drawn on them, with a segment of a name that the fixed one knows
    assert asked["t 1"]["moving_labels"] is asked["T2"]["moving_labels"] is None
    boxes = panel.make.boxes((11, 9, 13))
    labels = asked["T0"]["moving_labels"].array
    assert np.array_equal(labels > 0, boxes > 0) and len(np.unique(labels)) == 3
    warped = slicer.util.getNode("Organs registered").GetSegmentation()
    assert [warped.GetNthSegment(n).GetName() for n in range(2)] == ["liver", "Spleen"]
    assert "T0: FS, Organs, FS, T0_mask" in ui.batchLogText.plainText


def test_the_register_tab_goes_before_what_lies_beside(panel, requests):
    choose(panel, "volumes")
    shape, matrix = (11, 9, 13), panel.make.MOVING
    mine = label_map(panel, "Chosen", panel.make.boxes(shape) == 2, matrix)
    label_map(panel, "M mask", panel.make.boxes(shape) == 1, matrix)
    other = panel.make.segmentation("Others", panel.moving, {"Gut": panel.make.boxes(shape) == 1})
    panel.ui.movingMaskSelector.setCurrentNode(mine)
    panel.ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    panel.ui.movingSegmentationSelector.setCurrentNode(other)
    panel.batch.refresh()
    tick(panel, "M")
    assert run(panel) == "1 of 1 are registered."
    assert np.array_equal(requests[0]["moving_mask"].array > 0, panel.make.boxes(shape) == 2)
    assert np.array_equal(requests[0]["moving_labels"].array > 0, panel.make.boxes(shape) == 1)
    panel.parameters.leave_out(["Gut"])  # all that there is
    assert run(panel) == "1 of 1 are registered."
    assert requests[1]["moving_labels"] is requests[1]["fixed_labels"] is None


def test_a_fixed_segmentation_of_other_names_that_was_chosen_is_said(panel):
    choose(panel, "volumes")
    boxes = panel.make.boxes((14, 16, 12))
    others = panel.make.segmentation("Bones", panel.fixed, {"Hip": boxes == 1, "Rib": boxes == 2})
    panel.ui.fixedSegmentationSelector.setCurrentNode(others)
    tick(panel, "M")
    assert "Segments are paired by their names, but the two segmentations share none" in run(panel)


@pytest.mark.parametrize("source", ["volumes", "sequence"])
def test_an_initial_transform_is_where_all_start(panel, requests, source):
    ui = choose(panel, source)
    node, matrix = panel.make.linear_parent("First guess")
    panel.ui.initialTransformSelector.setCurrentNode(node)
    panel.ui.startSelector.currentIndex = panel.ui.startSelector.findText("Landmarks")
    mask = label_map(panel, "Body", np.ones((14, 16, 12)), panel.make.FIXED)
    panel.ui.fixedMaskSelector.setCurrentNode(mask)
    count = 3
    if source == "volumes":
        patients(panel)
        tick(panel, "T0", "t 1", "T2")
    else:
        ui.sequenceSelector.setCurrentNode(test_batch.heart(panel)[0])
    panel.batch.refresh()
    assert "Start: First guess." in ui.methodLabel.text and ui.startButton.enabled
    assert run(panel) == f"{count} of {count} are registered."
    for given in requests:
        np.testing.assert_allclose(given["initial"].matrix, np.linalg.inv(matrix), atol=1e-9)
        assert given["fixed_mask"].array.all()
    choose(panel, "files")
    assert "Start: Landmarks." in ui.methodLabel.text and "Fixed mask" not in ui.methodLabel.text
    assert ui.startButton.toolTip == "Choose another start than landmarks in the Register tab"


def test_nothing_to_be_made_is_said_but_files_are_always_written(panel):
    p = panel.parameters
    p.createTransform = p.createImages = p.createSegmentation = False
    ui = choose(panel, "volumes")
    panel.batch.refresh()
    assert ui.startButton.toolTip == "Nothing is to be made: tick something under More outputs"
    p.createSegmentation = True  # which each volume may have
    panel.batch.refresh()
    assert ui.startButton.enabled
    p.createSegmentation = False
    choose(panel, "files").folderPath.currentPath = "/anywhere"
    panel.batch.refresh()
    assert ui.startButton.enabled


# ---- the manifest ------------------------------------------------------------------------------------------


def give(panel, start: str) -> object:
    """Choose a start by the widgets, or one of two transforms; the node, if it is one."""
    if start in ("linear", "bent"):
        made = panel.make.linear_parent("Bed") if start == "linear" else (panel.make.bent_parent(), None)
        panel.ui.initialTransformSelector.setCurrentNode(made[0])
        return made[0]
    panel.ui.startSelector.currentIndex = panel.ui.startSelector.findText(start)
    return None


@pytest.mark.parametrize(
    ("start", "cell"),
    [
        ("Automatic", ""),
        ("Centres of the volumes", "centres"),
        ("As they lie", "Fixed_scan.start.tfm"),
        ("Centres of the bodies", "CT_1_2.start.tfm"),
        ("linear", "Fixed_scan.start.tfm"),
        ("bent", "Fixed_scan.start.h5"),
    ],
)
def test_a_manifest_says_the_start(panel, tmp_path, start, cell):
    case = torsos(panel)
    choose(panel, "volumes").outPath.currentPath = str(tmp_path)
    node = give(panel, start)
    tick(panel, "CT 1/2")
    assert write(panel).startswith("1 pairs are in ")
    (row,) = table(tmp_path / "manifest" / "manifest.csv")
    assert row["initial"] == cell
    if "." not in cell:
        return
    found = RegCore.load(tmp_path / "manifest" / cell)
    assert isinstance(found, DisplacementField if start == "bent" else AffineTransform)
    points = case.fixed.geometry.world_grid().reshape(-1, 3)[::97]
    if node is not None:
        expected = panel.make.mapped_by(node, points)
    else:
        word = "header" if start == "As they lie" else "moments"
        expected = named_start(word, case.fixed, case.moving).map(points)
    np.testing.assert_allclose(found.map(points), expected, atol=0.02)


def test_register_all_takes_the_masks_and_the_start_of_a_manifest(panel, tmp_path):
    case = torsos(panel)
    choose(panel, "volumes").outPath.currentPath = str(tmp_path)
    body = np.zeros(case.moving.array.shape)
    body[2:-2, 2:-2, 2:-2] = 1
    label_map(panel, "CT 1/2 mask", body, case.moving.geometry.affine)
    whole = label_map(panel, "Whole", np.ones(case.fixed.array.shape), case.fixed.geometry.affine)
    panel.ui.fixedMaskSelector.setCurrentNode(whole)
    panel.ui.startSelector.currentIndex = panel.ui.startSelector.findText("Centres of the bodies")
    panel.parameters.leave_out([NAMES[0]])
    tick(panel, "CT 1/2", "ct 1 2")
    assert write(panel).startswith("2 pairs are in ")
    folder = tmp_path / "manifest"
    rows = {row["id"]: row for row in table(folder / "manifest.csv")}
    assert {row["fixed_mask"] for row in rows.values()} == {"Fixed_scan.mask.nii.gz"}
    assert [rows[name]["moving_mask"] for name in ("CT_1_2", "ct_1_2_2")] == ["CT_1_2.mask.nii.gz", ""]
    assert np.array_equal(RegCore.load(folder / "CT_1_2.mask.nii.gz").array, body)
    words = ["register-all", str(folder / "manifest.csv"), "--out", str(tmp_path / "results")]
    assert main([*words, "--workers=1", "--device=cpu", "--quiet"]) == 0
    names = {segment.name for segment in RegCore.load(folder / "Fixed_scan.seg.nrrd", "labels").segments}
    assert NAMES[0] not in names and len(names) == 2
    with open(tmp_path / "results" / "results.csv", encoding="utf-8") as file:
        assert {row["status"] for row in csv.DictReader(file)} == {"done"}


# ---- files -------------------------------------------------------------------------------------------------


def test_masks_beside_the_pairs_of_a_folder_take_part(panel, requests, tmp_path):
    write_pairs(tmp_path / "pairs", ("a",))
    case = RegCore.make_phantom(0, **SHAPES)
    for side in ("fixed", "moving"):
        folder = tmp_path / "pairs" / f"{side}_masks"
        folder.mkdir()
        RegCore.save(getattr(case, f"{side}_labels"), folder / "a.nii.gz")
    ui, p = choose(panel, "files"), panel.parameters
    p.method = type(p.method).rigid
    ui.folderPath.currentPath, ui.outPath.currentPath = str(tmp_path / "pairs"), str(tmp_path / "out")
    assert run(panel) == "1 of 1 are registered."
    for side in ("fixed", "moving"):
        assert requests[0][f"{side}_mask"] == str(tmp_path / "pairs" / f"{side}_masks" / "a.nii.gz")
        assert requests[0][f"{side}_labels"].endswith(f"{side}_labels/a.nii.gz")


def test_what_lies_beside_a_file_belongs_to_it_and_is_no_image(library, tmp_path):
    files = (
        "b.nii.gz",
        "b_mask.nrrd",
        "b.seg.nrrd",
        "c.nii",
        "c_label.nii",
        "f.nii",
        "f_seg.nii",
        "x_mask.nii",
    )
    for name in files:
        (tmp_path / name).touch()
    items = library("batch").pairs_in(tmp_path, tmp_path / "out", str(tmp_path / "f.nii"))
    assert [item.name for item in items] == ["b", "c", "x_mask"]
    fixed = {"fixed": str(tmp_path / "f.nii")}
    b = {"moving": "b.nii.gz", "moving_labels": "b.seg.nrrd", "moving_mask": "b_mask.nrrd"}
    c = {"moving": "c.nii", "moving_labels": "c_label.nii", "fixed_labels": "f_seg.nii"}
    for item, mine in zip(
        items, (b | {"fixed_labels": "f_seg.nii"}, c, {"moving": "x_mask.nii"}), strict=True
    ):
        expected = fixed | {role: str(tmp_path / name) for role, name in mine.items()}
        assert item.what == expected | {"out": str(tmp_path / "out" / item.name)}
