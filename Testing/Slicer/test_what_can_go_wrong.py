"""Each row of Docs/what-can-go-wrong.md: what happens, and the sentence that the panel says then."""

import errno
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from Testing.paths import ROOT
from Testing.Slicer.test_panel import Panel

PAGE = ROOT / "Docs" / "what-can-go-wrong.md"


def sentences() -> dict[str, str]:
    """What the page says: what goes wrong -> the sentence."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1].strip("*") for row in rows[2:]}


@pytest.fixture
def panel(host, library, monkeypatch, stand_in):
    made = Panel(host, library, monkeypatch)
    made.fixed.SetName("CT")
    made.moving.SetName("MR")
    return made.choose()


def node_deleted(panel, *_):
    panel.start()
    panel.host.scene.RemoveNode(panel.moving)
    return panel.finish()


def scene_closed(panel, *_):
    panel.start()
    panel.host.close_scene()
    return panel.finish()


def same_twice(panel, *_):
    panel.ui.movingVolumeSelector.setCurrentNode(panel.fixed)
    assert not panel.ui.registerButton.enabled
    return panel.ui.statusLabel.text


def empty_segment(panel, *_):
    panel.moving_segmentation.GetSegmentation().RemoveAllSegments()
    panel.moving_segmentation.SetName("Organs")
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    return panel.register()


def no_common_segment(panel, *_):
    panel.fixed_segmentation.SetName("Organs of CT")
    panel.moving_segmentation.SetName("Organs of MR")
    for number, name in enumerate(("Lung", "Heart")):
        panel.moving_segmentation.GetSegmentation().GetNthSegment(number).SetName(name)
    panel.ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    panel.ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    return panel.register()


def disk_full(panel, library, monkeypatch):
    def refuse(path, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(library("process").messages, "write", refuse)
    return panel.register()


def child_killed(panel, library, monkeypatch):
    panel.start()
    for child in psutil.Process().children():
        if "stand_in_worker" in " ".join(child.cmdline()):
            child.send_signal(signal.SIGKILL)
    return panel.finish()


def _played(play):
    def act(panel, *_):
        panel.settings = {"play": play}
        panel.ui.registerButton.click()
        return panel.finish()

    return act


def torch_missing(panel, library, monkeypatch):
    monkeypatch.setattr(library("install"), "missing_packages", lambda: ["torch"])
    panel.module.widget.panel.look_for_packages()
    assert not panel.ui.missingBox.isHidden() and not panel.ui.registerButton.enabled
    return panel.ui.statusLabel.text


def offline(panel, library, monkeypatch):
    import slicer

    monkeypatch.setattr(library("install"), "missing_packages", lambda: ["nibabel"])
    panel.module.widget.panel.look_for_packages()

    def refuse(*given, **more):
        raise ConnectionError("no network")

    monkeypatch.setattr(library("install"), "_requirements", lambda: ["nibabel"])
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda *text: True)
    monkeypatch.setattr(slicer.util, "pip_install", refuse)
    monkeypatch.setattr(library("install").importlib, "import_module", refuse)
    panel.ui.installButton.click()
    assert panel.ui.installButton.enabled
    return panel.ui.statusLabel.text


def _real(panel, library, monkeypatch) -> str:
    """Register with RegCore's own worker."""
    process = library("process")
    worker = process.Worker([sys.executable, "-c", process.BOOT, "worker"])
    monkeypatch.setattr(process, "_shared", worker)
    panel.settings = {}
    panel.ui.registerButton.click()
    text = panel.finish(120)
    worker.stop()
    return text


def no_overlap(panel, library, monkeypatch):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    panel.moving.GetIJKToRASMatrix(matrix)
    matrix.SetElement(0, 3, 1000.0)
    panel.moving.SetIJKToRASMatrix(matrix)
    panel.parameters.method = type(panel.parameters.method).rigid
    return _real(panel, library, monkeypatch)


def torch_broken(panel, library, monkeypatch):
    package = Path(panel.host.app.temporaryPath) / "broken" / "torch"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise OSError('[WinError 126] The module could not be found')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    text = _real(panel, library, monkeypatch)
    assert panel.ui.installButton.text == "Repair PyTorch" and not panel.ui.missingBox.isHidden()
    return text


def wrong_model(panel, library, monkeypatch):
    panel.parameters.method = type(panel.parameters.method).trained
    panel.parameters.modelFile = "/tmp/notes.pt"
    return _real(panel, library, monkeypatch)


WAYS = {
    "a volume is deleted during a run": node_deleted,
    "the scene is closed during a run": scene_closed,
    "the same volume is chosen twice": same_twice,
    "the volumes do not overlap": no_overlap,
    "a segmentation is empty": empty_segment,
    "the segmentations share no segment": no_common_segment,
    "the disk is full": disk_full,
    "the computing process is ended from outside": child_killed,
    "PyTorch is missing": torch_missing,
    "PyTorch is broken": torch_broken,
    "the model file is none": wrong_model,
    "the graphics card's memory is full": _played("memory"),
    "an image is constant": _played("input"),
    "the computer is offline while packages are installed": offline,
}


def put_right(panel, library, monkeypatch) -> None:
    """What helps: the button of the packages, volumes that are there, no segmentation, no model."""
    if not panel.ui.missingBox.isHidden():
        for name in ("install_packages", "repair_torch"):
            monkeypatch.setattr(library("install"), name, lambda *given: None)
        panel.ui.installButton.click()
    for side in ("fixed", "moving"):
        getattr(panel.ui, f"{side}VolumeSelector").setCurrentNode(panel.make.volume(f"Another {side} one"))
        getattr(panel.ui, f"{side}SegmentationSelector").setCurrentNode(None)
    panel.parameters.method = type(panel.parameters.method).auto
    assert panel.ui.registerButton.enabled, panel.ui.statusLabel.text


def test_the_page_and_the_tests_have_the_same_rows():
    assert list(sentences()) == list(WAYS)


@pytest.mark.parametrize("what", WAYS)
def test_it_is_said_in_one_sentence_and_the_next_run_works(panel, library, monkeypatch, what):
    with monkeypatch.context() as patched:
        text = WAYS[what](panel, library, patched)
    wanted = sentences()[what]
    start, dots, end = wanted.partition(" … ")
    assert text.startswith(start) and end in text if dots else text == wanted, text
    assert panel.ui.progressBar.isHidden() and not panel.running()
    put_right(panel, library, monkeypatch)
    assert panel.register().startswith("Done in ")
