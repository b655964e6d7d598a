"""The host itself: opening a module, its panel, events, pictures, and the parts of the application."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULE = """
import slicer, vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.util import VTKObservationMixin


class Smoother(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Smoother")
        self.parent.categories = ["Filtering"]
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data():
    from SampleData import SampleDataLogic

    SampleDataLogic.registerCustomSampleDataSource(category="Smoother", sampleName="Noise", uris="https://x/n.nrrd")


@parameterNodeWrapper
class SmootherParameterNode:
    inputVolume: slicer.vtkMRMLScalarVolumeNode


class SmootherWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.calls, self.parameterNode = [], None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        top = slicer.util.loadUI(self.resourcePath("UI/Smoother.ui"))
        self.layout.addWidget(top)
        self.ui = slicer.util.childWidgetVariables(top)
        top.setMRMLScene(slicer.mrmlScene)
        self.logic = SmootherLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.leave)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.closed)
        self.ui.applyButton.connect("clicked(bool)", self.apply)
        self.calls.append("setup")

    def enter(self):
        self.calls.append("enter")
        self.parameterNode = self.logic.getParameterNode()
        self.tag = self.parameterNode.connectGui(self.ui)

    def leave(self, caller=None, event=None):
        if self.parameterNode:
            self.parameterNode.disconnectGui(self.tag)
        self.parameterNode = None

    def closed(self, caller, event):
        if self.parent.isEntered:
            self.enter()

    def exit(self):
        self.calls.append("exit")
        self.leave()

    def cleanup(self):
        self.calls.append("cleanup")
        self.removeObservers()

    def apply(self):
        if not self.parameterNode.inputVolume:
            raise RuntimeError("no volume")
        self.calls.append("apply " + self.parameterNode.inputVolume.GetName())


# Slicer 5.10 crashes where a wrapper is collected.
KEPT = slicer.__dict__.setdefault("smoother_parameters", [])


class SmootherLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        KEPT.append(SmootherParameterNode(super().getParameterNode()))
        return KEPT[-1]


class SmootherTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.delayDisplay("ran")
        slicer.modules.SmootherWidget.calls.append("self test")
"""
UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Smoother</class><widget class="qMRMLWidget" name="Smoother">
 <layout class="QVBoxLayout" name="column">
  <item><widget class="ctkCollapsibleButton" name="inputs">
   <property name="text"><string>Inputs</string></property>
   <layout class="QFormLayout" name="form"><item row="0" column="1">
    <widget class="qMRMLNodeComboBox" name="inputSelector">
     <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
     <property name="noneEnabled"><bool>true</bool></property>
     <property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property>
    </widget></item></layout></widget></item>
  <item><widget class="QPushButton" name="applyButton">
   <property name="text"><string>Apply</string></property></widget></item>
 </layout></widget>
 <customwidgets>
  <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>h</header><container>1</container></customwidget>
  <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends><header>h</header></customwidget>
  <customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends><header>h</header><container>1</container></customwidget>
 </customwidgets>
 <connections><connection><sender>Smoother</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
  <receiver>inputSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def module_file(tmp_path):
    (tmp_path / "Resources" / "UI").mkdir(parents=True)
    (tmp_path / "Resources" / "UI" / "Smoother.ui").write_text(UI)
    (tmp_path / "Smoother.py").write_text(MODULE)
    return tmp_path / "Smoother.py"


@pytest.fixture
def smoother(host, module_file):
    return host.load_module(module_file)


def add_volume(host, name="CT"):
    return host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_module_is_set_up_and_entered(host, smoother, module_file):
    assert smoother.widget.calls == ["setup", "enter"]
    assert smoother.module.parent.title == "Smoother"
    assert smoother.module.resourcePath("UI/Smoother.ui") == str(
        module_file.parent / "Resources/UI/Smoother.ui"
    )
    assert host.slicer.modules.smoother.path == str(module_file)
    assert host.slicer.util.modulePath("Smoother") == str(module_file)
    assert smoother.ui.inputSelector.mrmlScene() is host.scene


def test_module_can_be_asked_for_as_from_the_console(host, smoother):
    assert host.slicer.util.getModuleWidget("Smoother") is smoother.widget
    assert host.slicer.util.getModuleLogic("Smoother") is smoother.logic
    assert host.slicer.util.getModuleLogic("Volumes") is host.slicer.modules.volumes.logic()


def test_panel_that_fails_to_set_up_is_not_left_open(host, module_file):
    module_file.write_text(MODULE.replace("self.logic = SmootherLogic()", "raise RuntimeError('no logic')"))
    with pytest.raises(RuntimeError, match="no logic"):
        host.load_module(module_file)
    host.close_all()
    assert host.errors == []


def test_click_runs_the_panel(host, smoother):
    smoother.ui.inputSelector.setCurrentNode(add_volume(host))
    smoother.ui.applyButton.click()
    assert smoother.widget.calls[-1] == "apply CT"


def test_error_in_a_slot_is_noted(host, smoother):
    smoother.ui.applyButton.click()
    error = host.errors.pop()
    assert isinstance(error, RuntimeError) and str(error) == "no volume"


def test_error_in_an_observer_is_noted(host):
    def fail(caller, event):
        raise RuntimeError("observed")

    tag = host.scene.AddObserver(host.scene.EndCloseEvent, fail)
    host.close_scene()
    host.scene.RemoveObserver(tag)
    assert str(host.errors.pop()) == "observed"


def test_closing_the_scene_gives_a_new_parameter_node(host, smoother):
    smoother.ui.inputSelector.setCurrentNode(add_volume(host))
    host.close_scene()
    assert smoother.widget.parameterNode.inputVolume is None
    assert smoother.ui.inputSelector.currentNode() is None
    assert smoother.widget.calls == ["setup", "enter", "enter"]


def test_closed_module_cleans_up_and_its_widgets_are_gone(host, smoother):
    calls, gone = smoother.widget.calls, []
    smoother.panel.destroyed.connect(lambda: gone.append(True))
    host.close_module(smoother)
    assert calls == ["setup", "enter", "exit", "cleanup"] and gone == [True]
    host.close_scene()


def test_self_test_runs(host, smoother):
    host.slicer.selfTests["Smoother"]()
    assert smoother.widget.calls[-1] == "self test"


def test_module_can_be_opened_again(host, smoother, module_file):
    host.close_module(smoother)
    again = host.load_module(module_file)
    again.ui.inputSelector.setCurrentNode(add_volume(host))
    again.ui.applyButton.click()
    assert again.widget.calls[-1] == "apply CT"


def test_ui_file_with_an_unknown_widget_is_refused(host, module_file):
    ui = module_file.parent / "Resources" / "UI" / "Smoother.ui"
    ui.write_text(UI.replace("ctkCollapsibleButton", "ctkThumbnail"))
    with pytest.raises(RuntimeError, match="ctkThumbnail"):
        host.slicer.util.loadUI(str(ui))


def test_ui_file_with_a_broken_connection_is_refused(host, module_file):
    ui = module_file.parent / "Resources" / "UI" / "Smoother.ui"
    for right, wrong in (("setMRMLScene(", "setScene("), ("mrmlSceneChanged(", "sceneChanged(")):
        ui.write_text(UI.replace(right, wrong))
        with pytest.raises((RuntimeError, ValueError), match=wrong[:-1]):
            host.slicer.util.loadUI(str(ui))


def test_screenshot_shows_the_panel(host, smoother, tmp_path):
    path = tmp_path / "pictures" / "panel.png"
    host.screenshot(smoother.panel, path, size=(300, 200))
    picture = host.qt.QImage(str(path))
    assert (picture.width(), picture.height()) == (300, 200)
    colours = {picture.pixel(x, y) for x in range(0, 300, 5) for y in range(0, 200, 5)}
    assert len(colours) > 5


def test_spin_waits_for_a_condition_and_says_whether_it_held(host):
    ticks = []
    host.qt.QTimer.singleShot(20, lambda: ticks.append(1))
    assert host.spin(5, until=lambda: ticks)
    assert not host.spin(0.02, until=lambda: len(ticks) > 1)


def test_installations_are_recorded_and_not_made(host):
    if host.uses_slicer_source:
        pytest.skip("Slicer's own slicer.packaging records nothing")
    from slicer import packaging

    wanted = packaging.load_requirements(
        _requirements(host, "numpy>=1.20\n# why\n-r other.txt\nno-such-thing==1.0\n")
    )
    assert [str(entry) for entry in wanted] == ["numpy>=1.20", "no-such-thing==1.0"]
    packaging.pip_ensure(wanted, constraints=_requirements(host, "numpy==2.0\n"), requester="test")
    assert host.packaging.record.installed == ["no-such-thing==1.0"]
    assert host.packaging.record.constraints == ["numpy==2.0"]
    host.packaging.record.failure = subprocess.CalledProcessError(1, "pip")
    with pytest.raises(subprocess.CalledProcessError):
        host.slicer.util.pip_install("no-such-thing")
    host.slicer.util.pip_install("other --index-url https://x/simple --upgrade")
    assert host.packaging.record.installed == ["no-such-thing==1.0", "other"]
    host.packaging.record.missing.add("numpy")
    assert not packaging.pip_check("numpy")


def _requirements(host, text):
    path = Path(host.app.temporaryPath) / "requirements.txt"
    path.write_text(text)
    return path


def test_sample_data_is_registered_when_slicer_has_started(host, smoother):
    import SampleData

    assert SampleData.SampleDataLogic.sampleDataSourcesByCategory() == {}
    for _ in range(2):  # a second registration is none
        host.app.emit("startupCompleted()")
    sources = host.slicer.modules.sampleDataSources
    assert [(name, [s.sampleName for s in found]) for name, found in sources.items()] == [
        ("Smoother", ["Noise"])
    ]


EMPTY = {name: [] for name in ("uris", "fileNames", "nodeNames", "loadFiles", "loadFileTypes", "checksums")}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, TypeError),  # nothing is downloaded, yet Slicer takes the length of each list
        (EMPTY, None),
        (EMPTY | {"checksums": None}, None),  # made as long as the addresses
        (EMPTY | {"fileNames": None}, TypeError),
        (EMPTY | {"fileNames": ["a.nrrd"]}, ValueError),
        ({"uris": "https://x/a.nrrd"}, None),
        ({"uris": ["https://x/a.nrrd"], "fileNames": ["a.nrrd"], "loadFileTypes": "VolumeFile"}, None),
        ({"uris": ["https://x/a.nrrd", "https://x/b.nrrd"], "fileNames": ["a.nrrd"]}, ValueError),
    ],
)
def test_sample_data_are_taken_or_refused_as_in_slicer(host, fields, error):
    import SampleData

    logic = SampleData.SampleDataLogic
    if error is not None:
        with pytest.raises(error):
            logic.registerCustomSampleDataSource(category="C", sampleName="S", **fields)
    else:
        logic.registerCustomSampleDataSource(category="C", sampleName="S", **fields)
    assert len(host.slicer.modules.sampleDataSources.get("C", [])) == (error is None)


def test_settings_are_the_runs_own(host):
    host.qt.QSettings().setValue("Smoother/level", "3")
    assert host.app.userSettings().value("Smoother/level") == "3"
    assert host.app.slicerUserSettingsFilePath.startswith(host.app.temporaryPath)
    host.reset()
    assert host.app.userSettings().value("Smoother/level") is None


def test_scene_has_slicers_singletons(host):
    host.close_scene()
    logic = host.app.applicationLogic()
    assert logic.GetSelectionNode().GetScene() is host.scene
    assert logic.GetInteractionNode().GetScene() is host.scene
    assert host.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(host.scene) is not None
    assert host.scene.GetNodeByID("vtkMRMLColorTableNodeGrey") is not None


@pytest.mark.parametrize("name", ["volumes", "segmentations", "transforms", "colors"])
def test_module_logics_know_the_scene(host, name):
    assert getattr(host.slicer.modules, name).logic().GetMRMLScene() is host.scene


def test_message_boxes_are_logged_and_do_not_wait(host, caplog):
    host.slicer.util.errorDisplay("The network has no weights")
    assert "The network has no weights" in caplog.text


def test_missing_packages_are_named(monkeypatch):
    from SlicerHost import host as host_file

    assert host_file.missing_reason() == ""
    monkeypatch.setattr(
        host_file.importlib.util, "find_spec", lambda name: None if name == "PySide6" else True
    )
    assert "PySide6-Essentials" in host_file.missing_reason()
    assert "slicer-core" not in host_file.missing_reason()


def test_importing_the_package_imports_neither_qt_nor_slicer():
    code = (
        "import sys, SlicerHost; print([name for name in ('slicer', 'PySide6', 'qt') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_slicers_own_base_classes_are_used(host):
    if not os.environ.get("SLICER_SOURCE"):
        pytest.skip("SLICER_SOURCE names no source tree of Slicer")
    import SampleData
    from slicer import ScriptedLoadableModule, i18n, parameterNodeWrapper, util

    source = Path(os.environ["SLICER_SOURCE"]).resolve()
    modules = [SampleData, ScriptedLoadableModule, i18n, parameterNodeWrapper, util]
    modules += [host.packaging] if host.packaging else []
    assert bool(host.packaging) == (source / "Base" / "Python" / "slicer" / "packaging.py").exists()
    for module in modules:
        assert source in Path(module.__file__).resolve().parents
