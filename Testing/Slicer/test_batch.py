"""The Batch panel: a folder, volumes of the scene and a sequence, registered one after the other."""

import re
import sys

import numpy as np
import pytest

from Testing.Slicer.test_check import layers
from Testing.Slicer.test_panel import Panel

SHAPES = {"fixed_shape": (16, 14, 12), "moving_shape": (14, 15, 13)}


@pytest.fixture
def panel(host, library, monkeypatch, stand_in, tmp_path):
    import qt
    import slicer

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    qt.QSettings().setValue("DeepRegSlicer/Batch", "{}")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    batch = library("panels.batch")
    real = library("logic").register_volumes
    made = Panel(host, library, monkeypatch)

    def with_settings(*arguments, settings, **more):
        return real(*arguments, settings={**made.settings, **(settings or {})}, **more)

    monkeypatch.setattr(batch, "register_volumes", with_settings)
    made.choose()
    made.ui.tabs.currentIndex = 3
    made.batch = made.module.widget.tabs.batch
    return made


def choose(panel, source: str):
    ui = panel.batch.ui
    ui.sourceSelector.currentIndex = ui.sourceSelector.findData(source)
    return ui


def run(panel) -> str:
    panel.batch.ui.startButton.click()
    assert panel.host.spin(240, until=lambda: panel.batch.run is None)
    return panel.batch.ui.batchStatusLabel.text


def rows(panel) -> list[list[str]]:
    table = panel.batch.ui.batchTable
    return [[table.item(r, c).text() for c in range(4)] for r in range(table.rowCount)]


def tick(panel, *names) -> None:
    import qt

    volumes = panel.batch.ui.volumesList
    for row in range(volumes.count):
        if volumes.item(row).text() in names:
            volumes.item(row).setCheckState(qt.Qt.Checked)


def test_volumes_of_the_scene_are_registered_to_the_fixed_one(panel, monkeypatch):
    import slicer

    others = [panel.make.volume(f"T{n}", (11, 9, 13), panel.make.MOVING) for n in range(3)]
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
    panel.batch.refresh()
    ui = choose(panel, "volumes")
    assert {ui.volumesList.item(n).text() for n in range(ui.volumesList.count)} == {
        "M",
        "T0",
        "T1",
        "T2",
        "Empty",
    }
    assert run(panel) == "Tick the volumes that are to be registered."
    tick(panel, "T0", "Empty", "T2")
    text = run(panel)
    assert text.startswith(
        "2 of 3 are registered. The first that failed: Empty: The volume 'Empty' holds no image"
    )
    table = {row[0].split(":")[0]: row[1:] for row in rows(panel)}
    assert table["T0"] == table["T2"] == ["0.905", "0.970", "0.00"] and table["Empty"] == ["–"] * 3
    for name in ("T0", "T2"):
        transform = slicer.util.getNode(f"{name} to F")
        assert transform.GetNodeReference("spatialRegistrationMoving").GetName() == name
    assert slicer.util.getFirstNodeByClassByName("vtkMRMLTransformNode", "T1 to F") is None
    assert empty.GetImageData() is None and all(node.GetTransformNodeID() is None for node in others)
    light = ui.batchTable.item(0, 1).foreground().color().name()
    monkeypatch.setattr(sys.modules["DeepRegSlicerLib.panels.panel"], "LIGHT", {})  # another theme
    panel.batch.refresh()
    assert ui.batchTable.item(0, 1).foreground().color().name() != light
    places = [n for n, row in enumerate(rows(panel)) if row[0] == "T2"]
    ui.batchTable.selectRow(places[0])
    assert layers()[:2] == ("F", "T2 registered")


def test_start_and_outputs_are_those_of_the_register_tab(panel, stand_in, monkeypatch, status_bar):
    import slicer

    asked, request = [], type(stand_in).request
    monkeypatch.setattr(
        type(stand_in),
        "request",
        lambda self, what, given, *more: asked.append(given) or request(self, what, given, *more),
    )
    ui, p = choose(panel, "volumes"), panel.parameters
    p.start = type(p.start).landmarks
    panel.batch.refresh()  # as when the tab is opened
    assert ui.batchStatusLabel.text == "Choose another start than landmarks in the Register tab"
    p.start = type(p.start).centres
    p.createImages, p.createInverse, p.createDisplacement = False, True, True
    panel.batch.refresh()
    assert "Start: Centres of the volumes." in ui.methodLabel.text
    tick(panel, "M")
    assert run(panel) == "1 of 1 are registered."
    assert asked[0]["initial"] == "centres" and asked[0]["wanted"]["displacement"] is True
    transform = slicer.util.getNode("M to F")
    points = np.array([[1.0, 2.0, 3.0], [-9.0, 4.0, 7.0]])
    there = panel.make.mapped_by(transform, points)
    assert np.allclose(panel.make.mapped_by(slicer.util.getNode("F to M"), there), points)
    lengths = panel.make.array(slicer.util.getNode("M to F displacement"))
    assert lengths.shape == (14, 16, 12) and lengths.max() > 1
    assert slicer.util.getFirstNodeByClassByName("vtkMRMLScalarVolumeNode", "M registered") is None
    assert panel.moving.GetParentTransformNode() is transform
    ui.batchTable.selectRow(0)
    assert layers()[:2] == ("F", "M")
    shown = [re.fullmatch(r"DeepRegSlicer: (\d+) %, (\d) of 1 are done", text) for text in status_bar]
    assert [int(match[2]) for match in shown if match][-1] == 1
    assert status_bar[-1] == "DeepRegSlicer: 1 of 1 are registered."
    p.outside = "much"
    panel.batch.refresh()
    assert ui.startButton.toolTip == "The outside value is 'much'; a number is expected"


def test_stop_begins_no_other(panel):
    import slicer

    for n in range(4):
        panel.make.volume(f"T{n}", (11, 9, 13), panel.make.MOVING)
    panel.batch.refresh()
    choose(panel, "volumes")
    tick(panel, "T0", "T1", "T2", "T3")
    panel.settings = {"steps": 10, "seconds": 0.01}
    ui = panel.batch.ui
    ui.startButton.click()
    assert not ui.startButton.enabled and ui.startButton.toolTip == "Registrations are running"
    assert panel.host.spin(60, until=lambda: any(item.result for item in panel.batch._items))
    panel.settings = {"steps": 3000}
    ui.stopButton.click()
    assert panel.host.spin(60, until=lambda: panel.batch.run is None)
    done = len(slicer.util.getNodesByClass("vtkMRMLLinearTransformNode"))
    assert 1 <= done < 4 and ui.batchStatusLabel.text.startswith(f"{done} of 4 are registered.")
    assert ui.startButton.enabled and ui.batchProgressBar.isHidden()


def heart(panel) -> tuple:
    """A sequence of three volumes, and their voxels."""
    import slicer

    sequence, arrays = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart"), []
    sequence.SetIndexName("time")
    for n in range(3):
        arrays.append(panel.make.blobs((11, 9, 13), seed=n))
        stored = panel.make.volume("phase", (11, 9, 13), panel.make.MOVING, array=arrays[-1])
        sequence.SetDataNodeAtValue(stored, str(100 * n))
        slicer.mrmlScene.RemoveNode(stored)
    return sequence, arrays


def test_every_volume_of_a_sequence_is_registered_and_can_be_browsed(panel):
    import slicer

    sequence, arrays = heart(panel)
    ui = choose(panel, "sequence")
    assert ui.startButton.toolTip == "Choose a sequence"
    ui.sequenceSelector.setCurrentNode(sequence)
    panel.parameters.createInverse = panel.parameters.createDisplacement = True
    before = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")}
    assert run(panel) == "3 of 3 are registered."
    assert [row[0] for row in rows(panel)] == ["time 0", "time 100", "time 200"]
    sequences = {node.GetName(): node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode")}
    transforms, warped = sequences["Heart to F"], sequences["Heart registered"]
    back, lengths = sequences["F to Heart"], sequences["Heart to F displacement"]
    assert back.GetNumberOfDataNodes() == lengths.GetNumberOfDataNodes() == 3
    assert transforms.GetNumberOfDataNodes() == warped.GetNumberOfDataNodes() == 3
    from scipy.ndimage import map_coordinates

    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (14, 16, 12)), indexing="ij"), -1).reshape(-1, 3)
    world = grid @ panel.make.FIXED[:3, :3].T + panel.make.FIXED[:3, 3]
    for n in range(3):
        assert warped.GetNthIndexValue(n) == str(100 * n)
        moved = panel.make.mapped_by(transforms.GetNthDataNode(n), world)
        inverse = np.linalg.inv(panel.make.MOVING)
        index = moved @ inverse[:3, :3].T + inverse[:3, 3]
        assert np.allclose(panel.make.mapped_by(back.GetNthDataNode(n), moved), world)
        inside = ((index >= 0) & (index <= np.array((11, 9, 13)) - 1)).all(-1)
        expected = map_coordinates(arrays[n], index.T, order=1)
        got = panel.make.array(warped.GetNthDataNode(n))[tuple(grid.T)]
        assert inside.sum() > 20 and np.allclose(got[inside], expected[inside], atol=1e-2)
    browser = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")[0]
    assert browser.GetMasterSequenceNode() is sequence
    every = (sequence, transforms, warped, back, lengths)
    assert all(browser.IsSynchronizedSequenceNode(node, False) for node in every[1:])
    ui.batchTable.selectRow(2)
    assert browser.GetSelectedItemNumber() == 2
    proxies = {browser.GetProxyNode(node).GetName() for node in every}
    after = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLTransformableNode")}
    assert after - before <= proxies


def test_a_sequence_of_other_things_is_refused(panel):
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Beds")
    bed, _ = panel.make.linear_parent("Bed")
    sequence.SetDataNodeAtValue(bed, "0")
    choose(panel, "sequence").sequenceSelector.setCurrentNode(sequence)
    assert run(panel) == "The sequence 'Beds' holds no scalar volumes."
    assert panel.batch.ui.startButton.enabled


def write_pairs(folder, names, labels=True) -> None:
    import RegCore

    for seed, name in enumerate(names):
        case = RegCore.make_phantom(seed, **SHAPES)
        parts = {"fixed_images": case.fixed, "moving_images": case.moving}
        if labels:
            parts |= {"fixed_labels": case.fixed_labels, "moving_labels": case.moving_labels}
        for kind, volume in parts.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            RegCore.save(volume, folder / kind / f"{name}.nii.gz")


def test_the_pairs_of_a_folder_are_registered_and_opened_by_a_click(panel, tmp_path):
    import json

    import slicer

    write_pairs(tmp_path / "pairs", ("a", "b"))
    (tmp_path / "pairs" / "moving_images" / "b.nii.gz").write_bytes(b"damaged")
    ui = choose(panel, "files")
    p = panel.parameters
    p.method, p.start, p.createJacobian = type(p.method).rigid, type(p.start).moments, True
    ui.folderPath.currentPath = str(tmp_path / "pairs")
    ui.outPath.currentPath = str(tmp_path / "out")
    text = run(panel)
    assert text.startswith("1 of 2 are registered. The first that failed: b: ") and "b.nii.gz" in text
    metrics = json.loads((tmp_path / "out" / "a" / "metrics.json").read_text())
    table = rows(panel)
    assert table[0] == ["a", f"{metrics['dice_mean']['after']:.3f}", f"{metrics['ncc']['after']:.3f}", "0.00"]
    assert not (tmp_path / "out" / "b").exists()
    jacobian = slicer.util.loadVolume(str(tmp_path / "out" / "a" / "jacobian.nii.gz"))
    assert np.allclose(panel.make.array(jacobian), 1, atol=1e-4)  # a rigid motion
    ui.batchTable.selectRow(0)
    assert layers()[:2] == ("a fixed", "a registered")
    count = len(slicer.util.getNodesByClass("vtkMRMLVolumeNode"))
    ui.batchTable.clearSelection()
    ui.batchTable.selectRow(0)
    assert len(slicer.util.getNodesByClass("vtkMRMLVolumeNode")) == count


def test_what_a_folder_stands_for(library, tmp_path):
    batch = library("batch")
    with pytest.raises(batch.InputError, match="holds neither images nor"):
        batch.pairs_in(tmp_path, tmp_path / "out")
    for name in ("b.nii.gz", "a.nrrd", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(batch.InputError, match="choose a fixed image that these 2 are registered to"):
        batch.pairs_in(tmp_path, tmp_path / "out")
    items = batch.pairs_in(tmp_path, tmp_path / "out", "f.nii")
    assert [item.name for item in items] == ["a", "b"]
    moving, out = str(tmp_path / "a.nrrd"), str(tmp_path / "out" / "a")
    assert items[0].what == {"fixed": "f.nii", "moving": moving, "out": out}
    write_pairs(tmp_path / "p", ("x",), labels=False)
    (tmp_path / "p" / "moving_images" / "y.nii.gz").touch()
    assert [item.name for item in batch.pairs_in(tmp_path / "p", tmp_path)] == ["x"]
    (tmp_path / "p" / "moving_images" / "x.nii.gz").unlink()
    with pytest.raises(batch.InputError, match="no file of moving_images is called like one of fixed_images"):
        batch.pairs_in(tmp_path / "p", tmp_path)
