"""What users do while a batch runs, and with sequences that they look at: its sentence, or its result."""

import numpy as np
import pytest

from Testing.Slicer import test_batch
from Testing.Slicer.test_batch import choose, heart, rows, run, tick
from Testing.Slicer.test_check import layers

panel = test_batch.panel  # the fixture


def several(panel, count: int = 3):
    """Volumes that are ticked."""
    made = [panel.make.volume(f"T{n}", (11, 9, 13), panel.make.MOVING) for n in range(count)]
    panel.batch.refresh()
    choose(panel, "volumes")
    tick(panel, *(node.GetName() for node in made))
    return made


def begin(panel) -> None:
    """Start, and wait until the first item is under way."""
    panel.settings = {"steps": 40, "seconds": 0.02}
    panel.batch.ui.startButton.click()
    assert panel.host.spin(30, until=lambda: panel.batch.ui.batchProgressBar.value > 0)


def end(panel) -> str:
    assert panel.host.spin(240, until=lambda: panel.batch.run is None)
    return panel.batch.ui.batchStatusLabel.text


def test_a_volume_that_is_deleted_before_its_turn_is_said(panel):
    import slicer

    made = several(panel)
    begin(panel)
    slicer.mrmlScene.RemoveNode(made[1])
    panel.settings = {}
    assert end(panel) == "2 of 3 are registered. The first that failed: T1: 'T1' is not in the scene."
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLLinearTransformNode")}
    assert names == {"T0 to F", "T2 to F"}


@pytest.mark.parametrize("how", ["removed", "closed"])
def test_without_its_fixed_volume_a_batch_leaves_nothing(panel, how):
    import slicer

    several(panel)
    begin(panel)
    if how == "removed":
        slicer.mrmlScene.RemoveNode(panel.fixed)
    else:
        panel.host.close_scene()
    text = end(panel)
    assert text.startswith("0 of 3 are registered. The first that failed: T0: The registration was stopped")
    assert [row[0].partition(": ")[2] for row in rows(panel)[1:]] == ["'F' is not in the scene."] * 2
    assert slicer.util.getNodesByClass("vtkMRMLTransformNode") == []


@pytest.mark.parametrize("button", ["startButton", "manifestButton"])
def test_a_registration_that_runs_is_waited_for(panel, tmp_path, button):
    several(panel)
    panel.batch.ui.outPath.currentPath = str(tmp_path / "out")
    panel.start()
    getattr(panel.batch.ui, button).click()
    text = "A computation is already running: wait for its end or cancel it."
    assert panel.batch.ui.batchStatusLabel.text == text and panel.batch.run is None and rows(panel) == []
    assert panel.running() and panel.batch.ui.batchProgressBar.isHidden() and not (tmp_path / "out").exists()
    panel.ui.cancelButton.click()
    panel.finish()
    panel.settings = {}
    assert run(panel) == "3 of 3 are registered."


def browsed(panel):
    """A sequence with a browser, the node that shows its present frame, and the voxels of all frames."""
    import slicer

    sequence, arrays = heart(panel)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Player")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    choose(panel, "sequence").sequenceSelector.setCurrentNode(sequence)
    return sequence, browser, browser.GetProxyNode(sequence), arrays


def test_frames_are_registered_where_the_sequence_is_seen(panel, requests):
    shown = browsed(panel)[2]
    bed, matrix = panel.make.linear_parent("Bed")
    panel.make.under(shown, bed)
    assert run(panel) == "3 of 3 are registered."
    for given in requests:
        np.testing.assert_allclose(given["moving"].geometry.affine, matrix @ panel.make.MOVING, atol=1e-9)
    assert shown.GetParentTransformNode() is bed


def test_a_frame_as_the_fixed_volume_stays_what_it_was(panel, requests):
    import slicer

    _sequence, browser, shown, arrays = browsed(panel)
    browser.SetSelectedItemNumber(1)
    name = shown.GetName()
    panel.ui.fixedVolumeSelector.setCurrentNode(shown)
    panel.batch.refresh()
    panel.settings = {"steps": 20, "seconds": 0.02}
    panel.batch.ui.startButton.click()
    assert panel.host.spin(30, until=lambda: panel.batch.ui.batchProgressBar.value > 0)
    browser.SetSelectedItemNumber(2)  # the user looks at another frame meanwhile
    assert end(panel) == "3 of 3 are registered."
    for given, moving in zip(requests, arrays, strict=True):
        assert np.array_equal(given["fixed"].array, arrays[1])
        assert np.array_equal(given["moving"].array, moving)
    panel.batch.ui.batchTable.selectRow(0)
    fixed = slicer.util.getNode(f"{name} fixed")
    assert browser.GetSelectedItemNumber() == 0 and np.array_equal(panel.make.array(fixed), arrays[1])
    assert layers()[0] == f"{name} fixed" and layers()[1].startswith("Heart registered")


@pytest.mark.parametrize("count", [0, 1])
def test_a_sequence_of_one_frame_or_none(panel, count):
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Short")
    if count:
        sequence.SetDataNodeAtValue(panel.moving, "end <b>diastole</b> %s {0}")
    choose(panel, "sequence").sequenceSelector.setCurrentNode(sequence)
    text = run(panel)
    if not count:
        assert text == "The sequence 'Short' holds no scalar volumes."
        return
    assert text == "1 of 1 are registered." and rows(panel)[0][0].endswith("end <b>diastole</b> %s {0}")
    made = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode")}
    assert made == {"Short", "Short to F", "Short registered"}


def test_names_of_any_length_and_letters_become_files(panel, tmp_path):
    from Testing.Slicer.test_manifest import table, write

    names = ["x" * 300, "x" * 300, "心" * 200, "..", "a/b\\c:d*e?", "%s {name} <b>", " "]
    made = several(panel, len(names))
    for node, name in zip(made, names, strict=True):
        node.SetName(name)
    panel.batch.refresh()
    panel.batch.ui.outPath.currentPath = str(tmp_path)
    panel.fixed.SetName("y" * 400)
    assert write(panel).startswith(f"{len(names)} pairs are in ")
    written = table(tmp_path / "manifest" / "manifest.csv")
    assert len({row["moving"].casefold() for row in written}) == len(names)
    assert all((tmp_path / "manifest" / row["moving"]).is_file() for row in written)
    from RegCore.studies.manifest import read_manifest
    from RegCore.studies.rows import Row

    assert len(read_manifest(tmp_path / "manifest" / "manifest.csv", Row("", {}), ["auto"])) == len(names)
    panel.settings = {}
    assert run(panel) == f"{len(names)} of {len(names)} are registered."
