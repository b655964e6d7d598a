"""The shipped module with its shipped .ui file, used as a user does: choose, click, watch, cancel, go on."""

import os
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest

MODULE = Path(__file__).resolve().parents[2] / "DeepRegSlicer" / "DeepRegSlicer.py"
SLOW = {"steps": 3000}


class Panel:
    """The open module, two volumes with segmentations, and a way to say how the stand-in worker plays."""

    def __init__(self, host, library, monkeypatch):
        from Testing.Slicer import scenes

        self.host, self.make, self.settings = host, scenes, {}
        self.process = library("process")
        register = library("panels.register")
        real = library("logic").register_volumes

        def with_settings(*arguments, settings, **more):
            return real(*arguments, settings={**self.settings, **(settings or {})}, **more)

        monkeypatch.setattr(register, "register_volumes", with_settings)
        self.module = host.load_module(MODULE)
        self.ui = self.module.ui
        self.fixed = scenes.volume("F")
        self.moving = scenes.volume("M", (11, 9, 13), scenes.MOVING)
        f, m = scenes.boxes((14, 16, 12)), scenes.boxes((11, 9, 13))
        self.fixed_segmentation = scenes.segmentation("FS", self.fixed, {"Liver": f == 1, "Gut": f == 2})
        self.moving_segmentation = scenes.segmentation("MS", self.moving, {"Liver": m == 1, "Gut": m == 2})

    @property
    def parameters(self):
        return self.module.widget.panel.parameters

    def choose(self):
        self.ui.fixedVolumeSelector.setCurrentNode(self.fixed)
        self.ui.movingVolumeSelector.setCurrentNode(self.moving)
        return self

    def start(self):
        """Click Register with a slow worker and wait until it is under way."""
        self.settings = SLOW
        self.ui.registerButton.click()
        assert self.host.spin(10, until=lambda: "iteration" in self.ui.statusLabel.text)
        return self

    def running(self) -> bool:
        return self.module.widget.panel.run is not None

    def finish(self, seconds=10):
        assert self.host.spin(seconds, until=lambda: not self.running())
        return self.ui.statusLabel.text

    def register(self):
        """Click Register with a quick worker and wait for the end; the status line."""
        self.settings = {}
        self.ui.registerButton.click()
        return self.finish()

    def table(self) -> list[list[str]]:
        rows = range(self.ui.resultTable.rowCount)
        return [[self.ui.resultTable.item(row, column).text() for column in range(3)] for row in rows]


@pytest.fixture
def panel(host, library, stand_in, monkeypatch):
    return Panel(host, library, monkeypatch)


def test_register_says_what_it_waits_for(panel):
    ui = panel.ui
    assert not ui.registerButton.enabled
    assert ui.registerButton.toolTip == "Choose a fixed and a moving volume" == ui.statusLabel.text
    ui.fixedVolumeSelector.setCurrentNode(panel.fixed)
    assert not ui.registerButton.enabled
    ui.movingVolumeSelector.setCurrentNode(panel.fixed)
    assert ui.registerButton.toolTip == "Choose two different volumes"
    ui.movingVolumeSelector.setCurrentNode(panel.moving)
    assert ui.registerButton.enabled and not ui.cancelButton.enabled
    ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    assert ui.registerButton.toolTip == "Choose a moving segmentation too, or no fixed one"
    ui.fixedSegmentationSelector.setCurrentNode(None)
    import slicer

    ui.fixedLandmarksSelector.setCurrentNode(
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "L")
    )
    assert ui.registerButton.toolTip == "Choose landmarks for both volumes, or for none"


def test_every_control_explains_itself():
    silent = {"QWidget", "QLabel", "QFrame", "QTabWidget", "qMRMLWidget"}  # which nobody clicks
    for file in sorted((MODULE.parents[1] / "Resources" / "UI").glob("*.ui")):
        widgets = ElementTree.parse(file).iter("widget")
        controls = [widget for widget in widgets if widget.get("class") not in silent]
        assert len(controls) > 5
        for widget in controls:
            tip = widget.find("property[@name='toolTip']/string")
            assert tip is not None and tip.text, f"{widget.get('name')} has no tooltip"


def test_the_panel_offers_what_regcore_has(library):
    import RegCore
    from RegCore.cli import DEVICES
    from RegCore.registration.auto import AutoSettings
    from RegCore.registration.deformable import Settings

    parameters = library("parameters")
    assert {method.value for method in parameters.Method} == {*RegCore.METHODS, "trained"}
    assert {device.value for device in parameters.Device} == set(DEVICES)
    for choices, labels in (
        (parameters.Method, parameters.METHOD_LABELS),
        (parameters.Device, parameters.DEVICE_LABELS),
    ):
        assert {choice.value for choice in choices} == set(labels)
        assert [choice.label() for choice in choices] == [labels[choice.value] for choice in choices]
    assert AutoSettings().smoothness == Settings().smoothness == parameters.SMOOTHNESS


def test_one_click_from_two_volumes_to_a_transform(panel):
    ui = panel.choose().ui
    ui.fixedSegmentationSelector.setCurrentNode(panel.fixed_segmentation)
    ui.movingSegmentationSelector.setCurrentNode(panel.moving_segmentation)
    panel.settings = {"play": "bend", "steps": 40, "seconds": 0.02}
    ui.registerButton.click()
    assert not ui.registerButton.enabled and ui.registerButton.toolTip == "A registration is running"
    assert ui.cancelButton.enabled
    seen, stages = set(), set()
    while panel.running():
        panel.host.spin(0.02)
        seen.add(ui.progressBar.value)
        stages.add(ui.statusLabel.text.split(" · ")[0])
    assert {"Stage one", "Stage two"} <= stages
    assert len(seen) > 3 and max(seen) == 100
    assert "Done in" in ui.statusLabel.text and "'M to F'" in ui.statusLabel.text
    transform = panel.parameters.outputTransform
    assert transform.GetClassName() == "vtkMRMLGridTransformNode"
    assert ui.outputTransformSelector.currentNode() is transform
    assert ui.warpedVolumeSelector.currentNode().GetName() == "M registered"
    names = ui.warpedSegmentationSelector.currentNode().GetSegmentation()
    assert [names.GetNthSegment(n).GetName() for n in range(2)] == ["Liver", "Gut"]
    assert panel.table() == [
        ["Dice, Liver", "0.410", "0.930"],
        ["Dice, Gut", "0.350", "0.880"],
        ["Dice, mean", "0.380", "0.905"],
        ["Correlation (NCC)", "0.610", "0.970"],
        ["Folded voxels", "", "0.00 %"],
        ["Time", "", "1.2 s"],
    ]
    assert ui.registerButton.enabled and not ui.cancelButton.enabled


def test_the_next_run_overwrites_the_result_and_follows_the_method(panel):
    panel.choose()
    panel.settings = {"play": "bend"}
    panel.ui.registerButton.click()
    panel.finish()
    first = panel.parameters.outputTransform
    warped = panel.parameters.warpedVolume
    panel.ui.methodSelector.currentIndex = panel.ui.methodSelector.findText("Rigid", _contains(panel.host))
    assert not panel.ui.smoothnessSlider.enabled
    panel.register()
    again = panel.parameters.outputTransform
    assert again.GetClassName() == "vtkMRMLLinearTransformNode" and again.GetName() == first.GetName()
    assert not panel.host.scene.IsNodePresent(first)
    assert panel.parameters.warpedVolume is warped


def _contains(host):
    return host.qt.Qt.MatchContains


def test_what_the_panel_is_set_to_is_what_is_asked_for(panel, stand_in, monkeypatch):
    seen = {}
    request = type(stand_in).request

    def record(self, command, arguments, *rest):
        seen.update(arguments)
        return request(self, command, arguments, *rest)

    monkeypatch.setattr(type(stand_in), "request", record)
    ui = panel.choose().ui
    ui.seedSpinBox.value = 7
    ui.smoothnessSlider.value = 2.5
    ui.deviceSelector.currentIndex = 1
    panel.register()
    assert (seen["method"], seen["device"], seen["seed"]) == ("auto", "cpu", 7)
    assert seen["settings"] == {"smoothness": 2.5}
    ui.createImagesCheckBox.checked = False
    panel.parameters.warpedVolume = None
    panel.register()
    assert panel.parameters.warpedVolume is None


def test_cancel_keeps_the_scene_and_the_next_click_works(panel):
    panel.choose().start()
    before = panel.make.inventory()
    panel.ui.cancelButton.click()
    assert panel.ui.statusLabel.text == "Cancelling …" and not panel.ui.cancelButton.enabled
    assert panel.finish(2) == "Cancelled. The scene is as it was."
    assert panel.make.inventory() == before
    assert not panel.ui.progressBar.visible
    assert panel.register().startswith("Done")


@pytest.mark.parametrize("launched", [False, True], ids=["direct", "launched"])
def test_a_killed_process_keeps_the_scene_and_the_next_click_works(panel, stand_in, launched):
    if launched:
        stand_in.command = [*panel.process.worker_command(), "--launcher"]
    panel.choose().register()
    earlier = panel.parameters.outputTransform
    before = panel.make.inventory()
    panel.start()
    processes = [psutil.Process(stand_in.process_id)]
    processes += processes[0].children(recursive=True)
    os.kill(processes[-1].pid, signal.SIGKILL)
    text = panel.finish(5)
    assert text.startswith("The computing process ended unexpectedly")
    assert panel.make.inventory() == before
    assert psutil.wait_procs(processes, timeout=3)[1] == []
    assert panel.register().startswith("Done")
    assert panel.parameters.outputTransform is earlier


@pytest.mark.parametrize("play", ["input", "memory", "crash", "spoilt"])
def test_a_failure_is_one_sentence_with_the_details_in_the_log(panel, play):
    panel.choose().settings = {"play": play}
    before = panel.make.inventory()
    panel.ui.registerButton.click()
    text = panel.finish()
    assert text.endswith((".", ")", "align", "grid")) and "Traceback" not in text
    assert text in panel.ui.logText.plainText
    assert panel.make.inventory() == before
    assert panel.register().startswith("Done")


def test_nodes_that_can_not_be_used_are_named(panel):
    import slicer

    panel.choose()
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Blank")
    panel.ui.movingVolumeSelector.setCurrentNode(empty)
    panel.ui.registerButton.click()
    assert panel.ui.statusLabel.text == "The volume 'Blank' holds no image."
    assert panel.ui.registerButton.enabled and not panel.running()


def test_closing_the_scene_during_a_run_stops_it(panel):
    panel.choose().start()
    panel.host.close_scene()
    assert "the scene was closed" in panel.finish(2)
    assert panel.ui.fixedVolumeSelector.currentNode() is None
    assert not panel.ui.registerButton.enabled
    panel.fixed, panel.moving = panel.make.volume("F2"), panel.make.volume("M2")
    assert panel.choose().register().startswith("Done")


def test_closing_the_module_during_a_run_leaves_no_process(panel, stand_in):
    panel.choose().start()
    child = psutil.Process(stand_in.process_id)
    panel.host.close_module(panel.module)
    child.wait(timeout=3)
    assert stand_in.job is None


def test_the_settings_live_in_the_scene(panel):
    panel.choose()
    panel.ui.seedSpinBox.value = 12
    panel.host.close_module(panel.module)
    again = panel.host.load_module(MODULE)
    assert again.ui.seedSpinBox.value == 12
    assert again.ui.movingVolumeSelector.currentNode() is panel.moving


def test_an_output_that_is_an_input_is_refused(panel):
    panel.choose()
    panel.ui.warpedVolumeSelector.setCurrentNode(panel.fixed)
    panel.ui.registerButton.click()
    assert panel.ui.statusLabel.text == "'F' can't be input and output at the same time."


def test_the_made_up_patient_is_among_the_sample_data(panel, host, monkeypatch):
    import RegCore

    small = RegCore.make_phantom(fixed_shape=(20, 18, 16), moving_shape=(18, 20, 16), landmarks=5)
    monkeypatch.setitem(vars(RegCore), "make_phantom", lambda: small)
    host.app.emit("startupCompleted()")
    import slicer

    source = slicer.modules.sampleDataSources["DeepRegSlicer"][0]
    assert source.sampleName == "DeepRegPhantom" and source.uris == []
    fixed, moving = source.customDownloader(source)
    np.testing.assert_array_equal(panel.make.array(fixed), small.fixed.array)
    np.testing.assert_allclose(panel.make.world_matrix(moving), small.moving.geometry.affine, atol=1e-6)
    node = host.scene.GetFirstNodeByName("Phantom fixed organs")
    label = small.fixed_labels.labels()[2]
    segment_id = node.GetSegmentation().GetNthSegmentID(2)
    found = panel.make.segment_mask(node, segment_id, fixed)
    np.testing.assert_array_equal(found, small.fixed_labels.array == label)


def test_opening_the_module_imports_nothing_heavy():
    # PyYAML is imported where it is there, for the presets; test_presets.py opens the panel without it
    code = (
        f"import sys; sys.path[:0] = [{str(MODULE.parents[1] / 'Testing')!r}, {str(MODULE.parents[1])!r}]\n"
        f"import SlicerHost; SlicerHost.start().load_module({str(MODULE)!r})\n"
        "print(sorted({'torch', 'nibabel', 'h5py'} & set(sys.modules)))"
    )
    import subprocess

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().splitlines()[-1] == "[]", run.stderr


def luminance(colour) -> float:
    """Relative luminance of a colour (WCAG 2.1)."""
    channels = [value / 255 for value in (colour.red(), colour.green(), colour.blue())]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


THEMES = {"light": ("#efefef", "#ffffff", "#000000"), "dark": ("#353535", "#2d2d2d", "#ffffff")}


@pytest.mark.parametrize("theme", THEMES)
def test_sentences_and_figures_can_be_read_on_light_and_dark(panel, host, library, theme):
    """WCAG 2, level AA: a contrast of at least 4.5 to 1 for text, on windows and on tables."""
    qt = host.qt
    window, base, text = (qt.QColor(name) for name in THEMES[theme])
    palette = qt.QPalette()
    for role, colour in ((qt.QPalette.Window, window), (qt.QPalette.Base, base), (qt.QPalette.Text, text)):
        palette.setColor(role, colour)
    before = qt.QApplication.palette()
    panel.module.panel.show()
    qt.QApplication.setPalette(palette)
    host.spin(0.05)
    try:
        _hold_to_contrast(host, panel, library, window, base)
    finally:
        qt.QApplication.setPalette(before)


def _hold_to_contrast(host, panel, library, window, base) -> None:
    qt, ui = host.qt, panel.ui
    voice = library("panels.panel")
    for tone in (voice.Tone.hint, voice.Tone.good, voice.Tone.bad):
        panel.module.widget.panel.set_status("x", tone)
        shown = qt.QColor(ui.statusLabel.styleSheet.split("color: ")[1].split(";")[0])
        assert contrast(shown, window) >= 4.5 and contrast(shown, base) >= 4.5
    rows = [("better", "1", "2", 1), ("worse", "2", "1", -1)]
    library("panels.results").fill(ui.resultTable, rows)
    for row in range(2):
        assert contrast(ui.resultTable.item(row, 2).foreground().color(), base) >= 4.5


@pytest.mark.parametrize(("after", "verdict"), [(0.9294, 0), (0.9296, 1), (0.9284, -1)])
def test_a_figure_is_better_where_it_reads_better(library, after, verdict):
    rows = library("panels.results").rows({"dice_mean": {"before": 0.9291, "after": after}}, 1.0)
    assert rows[0][3] == verdict
